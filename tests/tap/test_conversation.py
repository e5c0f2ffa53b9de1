"""Explanation of both directions, apart from sockets."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import handshake
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import encode_frame
from wsproto_min.handshake import accept_key
from wsproto_min.tap import conversation
from wsproto_min.tap.conversation import Conversation
from wsproto_min.tap.events import Seen, Stopped

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
MASK = bytes.fromhex("37fa213d")
CLIENT, SERVER = Role.CLIENT, Role.SERVER


def request(more: str = "") -> bytes:
    return (
        "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    ).encode()


def response(more: str = "") -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n{more}\r\n"
    ).encode()


def opened() -> Conversation:
    """Return a conversation after its handshake."""
    found = Conversation(1)
    found.receive_data(CLIENT, request())
    found.receive_data(SERVER, response())
    return found


def names(events: list[Seen | Stopped]) -> list[str]:
    """Return the kinds of heads, the messages of frames, and "stopped"."""
    shown = []
    for event in events:
        if isinstance(event, Stopped):
            shown.append("stopped")
        else:
            shown.append(str(getattr(event.event, "kind", None) or event.event.event))  # type: ignore[union-attr]
    return shown


def test_frames_of_both_ends_share_their_numbers() -> None:
    pair = opened()
    pair.receive_data(CLIENT, encode_frame(Opcode.TEXT, b"one", mask=MASK))
    (event,) = pair.receive_data(SERVER, encode_frame(Opcode.TEXT, b"two"))
    assert isinstance(event, Seen)
    assert (event.connection, event.sender) == (1, SERVER)
    assert event.event.number == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("offer", ["", DEFLATE])
def test_early_frame_waits_for_the_response(offer: str) -> None:
    pair = Conversation(1)
    assert names(pair.receive_data(CLIENT, request(offer))) == ["request"]
    assert pair.receive_data(CLIENT, encode_frame(Opcode.TEXT, b"early", mask=MASK)) == []
    assert names(pair.receive_data(SERVER, b"HTTP/1.1 103 Early Hints\r\n\r\n")) == [
        "interim response"
    ]
    assert names(pair.receive_data(SERVER, response())) == ["response", "early"]
    assert pair.end() == []
    assert pair.verdict.reason == "3 heads, 1 frame, 1 message"


def test_early_frame_without_a_response_is_explained_at_the_end() -> None:
    pair = Conversation(1)
    pair.receive_data(CLIENT, request(DEFLATE))
    pair.receive_data(CLIENT, encode_frame(Opcode.TEXT, b"early", mask=MASK))
    assert names(pair.end()) == ["early"]


def test_many_early_bytes_do_not_wait() -> None:
    pair = Conversation(1)
    pair.receive_data(CLIENT, request())
    frame = encode_frame(Opcode.BINARY, bytes(1 << 16), mask=MASK)
    waited = 0
    while not (events := pair.receive_data(CLIENT, frame)):
        waited += 1
    assert len(events) == waited + 1 == 16
    assert len(pair.receive_data(CLIENT, frame)) == 1


def test_server_that_speaks_no_http_stops_the_handshake() -> None:
    pair = Conversation(1)
    pair.receive_data(CLIENT, request())
    assert names(pair.receive_data(SERVER, b"HTTP/1.1 oops\r\n\r\n")) == ["response", "stopped"]
    assert names(pair.receive_data(CLIENT, encode_frame(Opcode.TEXT, b"x", mask=MASK))) == ["x"]
    assert pair.verdict.result == "refused"
    assert pair.verdict.stream == "server"


def test_head_over_the_limit_stops_its_direction() -> None:
    pair = Conversation(1)
    pair.receive_data(CLIENT, request())
    (event,) = pair.receive_data(SERVER, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 17000)
    assert isinstance(event, Stopped)
    assert "longer than" in event.verdict.reason


def test_violation_stops_its_direction_only() -> None:
    pair = opened()
    events = pair.receive_data(CLIENT, bytes.fromhex("83"))
    frame, stopped = events
    assert isinstance(frame, Seen)
    assert isinstance(stopped, Stopped)
    assert stopped.verdict.rule == frame.event.verdict.rule  # type: ignore[union-attr]
    assert pair.receive_data(CLIENT, bytes(100)) == []
    assert names(pair.receive_data(SERVER, encode_frame(Opcode.TEXT, b"on"))) == ["on"]
    assert pair.end() == []
    assert (pair.verdict.result, pair.verdict.close_code) == ("broken", 1002)


def test_incomplete_frame_is_explained_at_the_end() -> None:
    pair = opened()
    assert pair.receive_data(SERVER, bytes.fromhex("8105 4865")) == []
    (event,) = pair.end()
    assert isinstance(event, Seen)
    assert event.event.fields.remaining == 3  # type: ignore[union-attr]
    assert (pair.verdict.result, pair.verdict.needs) == ("incomplete", 3)


def test_message_over_the_limit_is_no_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_EXPLAINED_SIZE", 1 << 20)
    pair = opened()
    frame, stopped = pair.receive_data(SERVER, encode_frame(Opcode.BINARY, bytes(2 << 20)))
    assert isinstance(frame, Seen)
    assert frame.event.verdict is not None
    for verdict in (frame.event.verdict, stopped.verdict, pair.verdict):  # type: ignore[union-attr]
        assert (verdict.result, verdict.rule, verdict.close_code) == ("incomplete", None, None)
        assert verdict.reason == "a message is larger than 1 MiB, the limit of the tap"
    assert pair.receive_data(SERVER, bytes(100)) == []


def test_large_frame_needs_few_reads_and_is_then_forgotten() -> None:
    pair = opened()
    size = 8 << 20
    frame = encode_frame(Opcode.BINARY, bytes(size))
    events: list[Seen | Stopped] = []
    tracemalloc.start()
    for begin in range(0, len(frame), 1 << 16):
        assert events == []
        events = pair.receive_data(SERVER, frame[begin : begin + (1 << 16)])
    assert len(events) == 1
    del events
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1 << 20


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=300)), max_size=6), st.data())
def test_any_split_of_the_bytes_gives_the_same_events(
    sent: list[tuple[bool, str]], data: st.DataObject
) -> None:
    deflate = DeflateParameters.DEFAULT
    ends = {role: Connection(role, compression=deflate, compression_threshold=0) for role in Role}
    pair = Conversation(1)
    pair.receive_data(CLIENT, request(DEFLATE))
    assert len(pair.receive_data(SERVER, response(DEFLATE))) == 1
    for from_client, text in sent:
        sender = CLIENT if from_client else SERVER
        ends[sender].send(text)
        rest = ends[sender].data_to_send()
        found: list[Seen | Stopped] = []
        while rest:
            assert found == []
            size = data.draw(st.integers(1, len(rest)))
            found = pair.receive_data(sender, rest[:size])
            rest = rest[size:]
        (event,) = found
        assert isinstance(event, Seen)
        assert event.event.event == text  # type: ignore[union-attr]
    assert pair.end() == []
    assert pair.verdict.result == "valid"


def test_request_that_is_broken_stops_the_client() -> None:
    pair = Conversation(1)
    head = handshake().replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12")
    assert names(pair.receive_data(CLIENT, head)) == ["request", "stopped"]
    assert pair.verdict.status == 426
