"""A connection without a socket (RFC 6455, sections 5 to 7), from both sides."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.reference import reference_decode
from wsproto_min import rules
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.testing import strategies
from wsproto_min.testing.raw_frame import parse_frame_notation, patterned
from wsproto_min.testing.strategies import (
    Compression,
    Control,
    Traffic,
    chunkings,
    nearly_valid,
    single_bytes,
    traffic,
)
from wsproto_min.testing.violations import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
    Violation,
)

BOTH_ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
SERVER, CLIENT = Role.SERVER, Role.CLIENT


def to(role: Role, notation: str) -> bytes:
    """Return the frames of `parse_frame_notation` as `role` receives them."""
    return parse_frame_notation(notation, masked=role is SERVER)


def sent_frames(connection: Connection) -> list[tuple[Opcode, bytes]]:
    """Return opcode and payload of all frames that the connection has queued."""
    data = connection.data_to_send()
    decoded = reference_decode(data, masked=connection.role is CLIENT)
    assert decoded.violated_section is None, f"{data.hex(' ')} violates {decoded.violated_section}"
    assert all(frame.fin for frame in decoded.frames)
    assert all(len(frame.payload) == frame.length for frame in decoded.frames)
    return [(Opcode(frame.opcode), frame.payload) for frame in decoded.frames]


def receive(connection: Connection, *chunks: bytes) -> list[Event]:
    """Return all events of the chunks."""
    events: list[Event] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        events += iter(connection.next_event, None)
    return events


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def limited(role: Role, compression: DeflateParameters | None = None) -> Connection:
    """Return a connection with the limits that VIOLATIONS assume."""
    return Connection(
        role,
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        compression=compression,
    )


def as_event(event: strategies.Event) -> Event:
    if not isinstance(event, Control):
        return event
    if event.opcode == Opcode.PING:
        return Ping(event.payload)
    if event.opcode == Opcode.PONG:
        return Pong(event.payload)
    if not event.payload:
        return Close(1005)
    return Close(int.from_bytes(event.payload[:2], "big"), event.payload[2:].decode())


@dataclass(frozen=True)
class Outcome:
    """The visible state of a connection after it received data."""

    events: list[Event]
    sent: list[tuple[Opcode, bytes]]
    error: tuple[int, str] | None
    state: State
    close_sent: Close | None
    close_received: Close | None


def outcome(
    role: Role, chunks: Iterable[bytes], compression: DeflateParameters | None = None
) -> Outcome:
    connection = limited(role, compression)
    events = receive(connection, *chunks)
    error = connection.error
    return Outcome(
        events,
        sent_frames(connection),
        None if error is None else (error.code, error.reason),
        connection.state,
        connection.close_sent,
        connection.close_received,
    )


# Received frames


@BOTH_ROLES
@pytest.mark.parametrize(
    ("data", "event"),
    [
        ("81 05 . 48656c6c6f", "Hello"),
        ("81 00 .", ""),
        ("01 03 . 48656c | 80 02 . 6c6f", "Hello"),
        ("82 05 . 48656c6c6f", b"Hello"),
        ("82 00 .", b""),
        ("89 05 . 48656c6c6f", Ping(b"Hello")),
        ("8a 05 . 48656c6c6f", Pong(b"Hello")),
        ("88 00 .", Close(1005)),
        ("88 02 . 03e8", Close(1000)),
        ("88 0c . 03e9 676f6f64206e69676874", Close(1001, "good night")),
    ],
)
def test_event_for_each_kind_of_frame(role: Role, data: str, event: Event) -> None:
    assert receive(Connection(role), to(role, data)) == [event]


def test_server_receives_masked_hello_of_section_5_7() -> None:
    assert receive(Connection(SERVER), bytes.fromhex("8185 37fa213d 7f9f4d5158")) == ["Hello"]


def test_server_sends_single_unmasked_frames() -> None:
    server = Connection(SERVER)
    server.send("Hello")
    server.send(b"Hello")
    server.ping(b"Hello")
    server.pong(b"Hello")
    frames = "81 05 48656c6c6f  82 05 48656c6c6f  89 05 48656c6c6f  8a 05 48656c6c6f"
    assert server.data_to_send().hex() == bytes.fromhex(frames).hex()


def test_client_masks_each_frame_with_its_own_key() -> None:
    client = Connection(CLIENT)
    for _ in range(50):
        client.send("Hello")
        client.ping()
    frames = reference_decode(client.data_to_send(), masked=True).frames
    keys = [frame.masking_key for frame in frames]
    assert len(set(keys)) == len(keys) == 100, keys


def test_client_takes_masking_keys_from_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.urandom", lambda size: bytes(range(1, size + 1)))
    client = Connection(CLIENT)
    client.send("Hello")
    # 81: text, FIN; 85: masked, 5 bytes; the key 01020304; "Hello" XOR it.
    assert client.data_to_send().hex(" ") == "81 85 01 02 03 04 49 67 6f 68 6e"


def test_data_to_send_returns_all_bytes_once_in_order() -> None:
    server = Connection(SERVER)
    assert server.data_to_send() == b""
    server.send("a")
    server.send("b")
    assert server.data_to_send() == bytes.fromhex("81 01 61  81 01 62")
    assert server.data_to_send() == b""


@BOTH_ROLES
def test_ping_between_fragments_is_answered_at_once(role: Role) -> None:
    connection = Connection(role)
    # Text "Hel" without FIN, Ping "p"
    assert receive(connection, to(role, "01 03 . 48656c | 89 01 . 70")) == [Ping(b"p")]
    assert sent_frames(connection) == [(Opcode.PONG, b"p")]
    # Continuation "lo" with FIN
    assert receive(connection, to(role, "80 02 . 6c6f")) == ["Hello"]
    assert sent_frames(connection) == []


@BOTH_ROLES
def test_pong_gets_no_reply(role: Role) -> None:
    connection = Connection(role)
    events = receive(connection, to(role, "8a 00 . | 8a 01 . 70 | 8a 01 . 70"))
    assert events == [Pong(b""), Pong(b"p"), Pong(b"p")]
    assert sent_frames(connection) == []
    assert connection.state is State.OPEN


@BOTH_ROLES
def test_pings_20000_in_one_read_are_answered_in_order(role: Role) -> None:
    connection = Connection(role)
    payloads = [index.to_bytes(2, "big") for index in range(20_000)]
    data = b"".join(to(role, f"89 02 . {payload.hex()}") for payload in payloads)
    assert receive(connection, data) == [Ping(payload) for payload in payloads]
    sent = connection.data_to_send()
    size = 2 + 2 + (4 if role is CLIENT else 0)
    assert len(sent) == 20_000 * size
    # The reference decoder is slow: some frames at the beginning and at the end do.
    frames = reference_decode(sent[: 100 * size] + sent[-size:]).frames
    assert [frame.payload for frame in frames] == [*payloads[:100], payloads[-1]]


def test_reply_on_an_event_precedes_the_pong_to_a_later_ping() -> None:
    data = to(SERVER, "81 01 . 61 | 89 01 . 70 | 81 01 . 62 | c1")  # "a", Ping "p", "b", RSV1
    for chunks in ([data], single_bytes(data)):
        server = Connection(SERVER)
        for chunk in chunks:
            server.receive_data(chunk)
            while (event := server.next_event()) is not None:
                if isinstance(event, str):
                    server.send(event.upper())
        *before, (opcode, _) = sent_frames(server)
        assert before == [(Opcode.TEXT, b"A"), (Opcode.PONG, b"p"), (Opcode.TEXT, b"B")]
        assert opcode is Opcode.CLOSE


def test_fail_on_an_event_makes_it_the_last_message() -> None:
    server = Connection(SERVER)
    events = []
    server.receive_data(to(SERVER, "81 01 . 61 | 81 01 . 62 | 89 00 ."))
    while (event := server.next_event()) is not None:
        events.append(event)
        server.fail(CloseCode.POLICY_VIOLATION, "no such words here")
    assert events == ["a"]
    assert sent_frames(server) == [(Opcode.CLOSE, close_payload(1008, "no such words here"))]
    assert server.error is None, "the peer broke no rule of the protocol"


def test_events_not_requested_come_with_the_next_read() -> None:
    server = Connection(SERVER)
    server.receive_data(to(SERVER, "81 01 . 61 | 81 01 . 62"))
    assert server.next_event() == "a"
    assert receive(server, to(SERVER, "81 01 . 63")) == ["b", "c"]


@given(st.data(), st.sampled_from(Role))
def test_traffic_any_chunking_gives_its_events_and_pongs(data: st.DataObject, role: Role) -> None:
    sent: Traffic = data.draw(traffic(role is SERVER, closes=None))
    connection = Connection(role)
    chunks = data.draw(chunkings(sent.data))
    expected = [as_event(event) for event in sent.events]
    assert receive(connection, *chunks) == expected
    assert connection.error is None
    replies = [(Opcode.PONG, event.payload) for event in expected if isinstance(event, Ping)]
    *_, last = [None, *expected]
    if isinstance(last, Close):
        code = b"" if last.code == 1005 else last.code.to_bytes(2, "big")
        replies.append((Opcode.CLOSE, code))
    assert sent_frames(connection) == replies


@given(st.data(), st.sampled_from(Role))
def test_damaged_traffic_any_chunking_same_outcome(data: st.DataObject, role: Role) -> None:
    damaged = data.draw(nearly_valid(role is SERVER))
    chunks = data.draw(chunkings(damaged))
    assert outcome(role, chunks) == outcome(role, [damaged])


def test_failed_connection_releases_an_incomplete_message() -> None:
    server = Connection(Role.SERVER)
    tracemalloc.start()
    try:
        begin = encode_frame(Opcode.BINARY, bytes(500_000), fin=False, mask=bytes(4))
        receive(server, begin)
        del begin
        assert tracemalloc.get_traced_memory()[0] > 500_000
        receive(server, b"\x8f")  # a reserved opcode
        assert server.error is not None
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from(Role))
def test_arbitrary_bytes_never_raise_and_close_once(data: bytes, role: Role) -> None:
    result = outcome(role, single_bytes(data))
    closes = [payload for opcode, payload in result.sent if opcode is Opcode.CLOSE]
    assert len(closes) == (result.state is State.FLUSHING)
    assert (result.error is not None) == (
        result.state is State.FLUSHING and result.close_received is None
    )


# Violations (section 7.1.7)


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_violation_fails_at_its_last_byte_with_its_code(
    violation: Violation,
) -> None:
    role = Role(violation.role)
    early = outcome(role, [violation.data[:-1]])
    assert (early.state, early.error) == (State.OPEN, None), "it failed before the last byte"
    assert all(opcode is not Opcode.CLOSE for opcode, _ in early.sent)

    connection = limited(role)
    *_, last = receive(connection, violation.data)
    assert connection.error is not None, f"{violation.data.hex(' ')} was accepted"
    code, reason = connection.error.code, connection.error.reason
    assert connection.error.rule is violation.rule, reason
    assert code == violation.close_code, reason
    assert last == Close(code, reason)
    assert sent_frames(connection) == [(Opcode.CLOSE, close_payload(code, reason))]
    assert connection.state is State.FLUSHING
    assert connection.eof_to_send
    assert connection.close_sent == Close(code, reason)
    assert connection.close_received is None


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_frames_before_a_violation_take_effect(violation: Violation) -> None:
    role = Role(violation.role)
    # Ping "1", text "hi", Ping "2", binary in two fragments, Pong "3"
    before = "89 01 . 31 | 81 02 . 6869 | 89 01 . 32 | 02 01 . 61 | 80 01 . 62 | 8a 01 . 33"
    data = to(role, before) + violation.data
    for chunks in ([data], single_bytes(data)):
        result = outcome(role, chunks)
        events = [Ping(b"1"), "hi", Ping(b"2"), b"ab", Pong(b"3")]
        assert result.events[:5] == events
        assert result.sent[:2] == [(Opcode.PONG, b"1"), (Opcode.PONG, b"2")]
        opcode, payload = result.sent[-1]
        assert opcode is Opcode.CLOSE
        assert int.from_bytes(payload[:2], "big") == violation.close_code


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_input_after_a_violation_is_discarded(violation: Violation) -> None:
    role = Role(violation.role)
    after = to(role, "81 02 . 6869 | 89 01 . 70 | 88 00 .")  # "hi", Ping "p", Close
    alone = outcome(role, [violation.data])
    assert outcome(role, [violation.data, after]) == alone


def test_violation_after_a_close_is_discarded() -> None:
    server = Connection(SERVER)
    # Close 1000, then RSV1
    assert receive(server, to(SERVER, "88 02 . 03e8 | c1")) == [Close(1000)]
    assert sent_frames(server) == [(Opcode.CLOSE, close_payload(1000))]
    assert server.error is None


@BOTH_ROLES
def test_violation_while_closing_sends_no_second_close(role: Role) -> None:
    connection = Connection(role)
    connection.close(1001)
    assert sent_frames(connection) == [(Opcode.CLOSE, close_payload(1001))]
    close = Close(1002, "a reserved bit is set (RFC 6455, 5.2)")
    assert receive(connection, to(role, "81 02 . 6869 | c1")) == ["hi", close]  # "hi", RSV1
    assert sent_frames(connection) == []
    assert connection.error is not None
    assert connection.state is State.FLUSHING


@BOTH_ROLES
def test_violation_forbids_sending_except_its_close(
    role: Role,
) -> None:
    connection = Connection(role)
    receive(connection, to(role, "81 01 . ff"))
    with pytest.raises(ConnectionClosed, match="1007 a text message is not UTF-8"):
        connection.send("hi")
    assert [opcode for opcode, _ in sent_frames(connection)] == [Opcode.CLOSE]


@BOTH_ROLES
@pytest.mark.parametrize(
    ("limits", "data", "code"),
    [
        ({"max_message_size": 3}, "81 04 .", 1009),
        ({"max_message_size": 3}, "01 02 . 6162 | 80 02 .", 1009),
        ({"max_fragments": 2}, "01 00 . | 00 00 . | 80 00 .", 1008),
        ({}, "82 7f 0000000000100001 .", 1009),  # 1 MiB and a byte
        ({}, "01 00 . " + "| 00 00 . " * 16384, 1008),  # 16384 fragments and one more
    ],
)
def test_message_over_a_limit_is_refused_at_its_header(
    role: Role, limits: dict[str, Any], data: str, code: int
) -> None:
    connection = Connection(role, **limits)
    (event,) = receive(connection, to(role, data))
    assert connection.error is not None
    assert connection.error.code == code
    assert event == Close(code, connection.error.reason)


@BOTH_ROLES
def test_message_at_its_limits_arrives(role: Role) -> None:
    connection = Connection(role, max_message_size=3, max_fragments=2)
    events = receive(connection, to(role, "81 03 . 616263 | 01 02 . 6162 | 80 01 . 63"))
    assert events == ["abc", "abc"]


# Compressed messages (RFC 7692)

NEGOTIATED: dict[Compression | None, DeflateParameters | None] = {
    None: None,
    "alone": DeflateParameters.NO_CONTEXT_TAKEOVER,
    "taken over": DeflateParameters.DEFAULT,
}
COMPRESSIONS = st.sampled_from(["alone", "taken over"])


@pytest.mark.parametrize("violation", DEFLATE_VIOLATIONS, ids=str)
def test_compressed_violation_fails_at_its_last_byte(
    violation: Violation,
) -> None:
    role = Role(violation.role)
    early = outcome(role, [violation.data[:-1]], DeflateParameters.NO_CONTEXT_TAKEOVER)
    assert (early.state, early.error) == (State.OPEN, None), "it failed before the last byte"

    whole = outcome(role, [violation.data], DeflateParameters.NO_CONTEXT_TAKEOVER)
    assert whole.error is not None, f"{violation.data.hex(' ')} was accepted"
    code, reason = whole.error
    assert code == violation.close_code, reason
    assert whole.sent == [(Opcode.CLOSE, close_payload(code, reason))]
    assert (
        outcome(role, single_bytes(violation.data), DeflateParameters.NO_CONTEXT_TAKEOVER) == whole
    )


@BOTH_ROLES
@pytest.mark.parametrize("data", ["c1", "41", "c2", "c0", "c9"])
def test_compressed_message_not_negotiated_is_1002(role: Role, data: str) -> None:
    result = outcome(role, [to(role, data)])
    assert result.error == (1002, "a reserved bit is set (RFC 6455, 5.2)")


@BOTH_ROLES
def test_compressed_message_within_limit_arrives_at_any_ratio(
    role: Role,
) -> None:
    noise = bytes((i * i * 7 + i // 3) % 251 for i in range(MAX_MESSAGE_SIZE))
    for level in range(10):
        compressor = zlib.compressobj(level, wbits=-15, memLevel=1, strategy=zlib.Z_FIXED)
        payload = compressor.compress(noise) + compressor.flush(zlib.Z_SYNC_FLUSH)
        mask = bytes(4) if role is SERVER else None
        frame = encode_frame(Opcode.BINARY, payload[:-4], rsv1=True, mask=mask)
        connection = limited(role, DeflateParameters.DEFAULT)
        assert receive(connection, frame) == [noise], f"level {level}: {connection.error}"


@BOTH_ROLES
@pytest.mark.parametrize("message", ["x" * 100, b"x" * 100], ids=["text", "binary"])
def test_messages_from_the_threshold_on_are_compressed(role: Role, message: str | bytes) -> None:
    for size, rsv in ((99, 1), (100, 1), (101, 0)):
        connection = Connection(
            role, compression=DeflateParameters.NO_CONTEXT_TAKEOVER, compression_threshold=size
        )
        connection.send(message)
        connection.ping(b"x" * 125)
        # The reference decoder knows no extension, so the test checks RSV1 itself.
        data = connection.data_to_send()
        assert data[0] >> 6 & 1 == rsv, f"threshold {size}"
        peer = Connection(
            SERVER if role is CLIENT else CLIENT, compression=DeflateParameters.NO_CONTEXT_TAKEOVER
        )
        assert receive(peer, data) == [message, Ping(b"x" * 125)]


def test_compression_threshold_default_is_256_bytes() -> None:
    for compression, size, first in (
        (DeflateParameters.DEFAULT, 255, 0x81),
        (DeflateParameters.DEFAULT, 256, 0xC1),
        (None, 256, 0x81),
    ):
        server = Connection(SERVER, compression=compression)
        server.send("x" * size)
        assert server.data_to_send()[0] == first, (compression, size)


@pytest.mark.parametrize(
    ("compression", "server", "client"),
    [
        (None, False, False),
        (DeflateParameters.DEFAULT, False, False),
        (DeflateParameters.NO_CONTEXT_TAKEOVER, True, True),
        (DeflateParameters(server_no_context_takeover=True), True, False),
        (DeflateParameters(client_no_context_takeover=True), False, True),
        (DeflateParameters(True, True, 14, 15), False, True),
        (DeflateParameters(True, True, 15, 14), True, False),
    ],
    ids=str,
)
def test_shared_compression_needs_no_context_and_full_window(
    compression: DeflateParameters | None, server: bool, client: bool
) -> None:
    assert Connection(SERVER, compression=compression).accepts_shared_compression is server
    assert Connection(CLIENT, compression=compression).accepts_shared_compression is client


def test_context_takeover_holds_for_each_direction() -> None:
    # The client's messages may refer to earlier ones, the server's may not.
    agreed = DeflateParameters(server_no_context_takeover=True, server_max_window_bits=9)
    server, client = (
        Connection(role, compression=agreed, compression_threshold=0) for role in (SERVER, CLIENT)
    )
    for connection in (server, client):
        connection.send("Hello")
        connection.send("Hello")
    alone = bytes.fromhex("c1 07 f248cdc9c90700")
    assert server.data_to_send() == alone * 2
    # A masked frame of 7 bytes and one of 5: the RFC's reference to the first.
    assert len(client.data_to_send()) == (2 + 4 + 7) + (2 + 4 + 5)


@BOTH_ROLES
@pytest.mark.parametrize("peer_remembers", [True, False])
def test_context_takeover_of_the_peer_decides_for_its_messages(
    role: Role, peer_remembers: bool
) -> None:
    peer_is_server = role is CLIENT
    agreed = DeflateParameters(
        server_no_context_takeover=peer_is_server is not peer_remembers,
        client_no_context_takeover=peer_is_server is peer_remembers,
    )
    connection = Connection(role, compression=agreed)
    # "Hello", and "Hello" as a reference to it (RFC 7692, 7.2.3.2)
    sent = to(role, "c1 07 . f248cdc9c90700 | c1 05 . f200110000")
    events = receive(connection, sent)
    if peer_remembers:
        assert events == ["Hello", "Hello"]
    else:
        close = Close(1007, "a compressed message is not DEFLATE data (RFC 7692, 7.2.2)")
        assert events == ["Hello", close]


@given(st.data(), st.sampled_from(Role), COMPRESSIONS)
def test_compressed_traffic_any_chunking_gives_its_events(
    data: st.DataObject, role: Role, compression: Compression
) -> None:
    sent: Traffic = data.draw(traffic(role is SERVER, closes=None, compression=compression))
    connection = Connection(role, compression=NEGOTIATED[compression])
    chunks = data.draw(chunkings(sent.data))
    assert receive(connection, *chunks) == [as_event(event) for event in sent.events]
    assert connection.error is None


@given(st.data(), st.sampled_from(Role), COMPRESSIONS)
def test_compressed_damage_any_chunking_same_outcome(
    data: st.DataObject, role: Role, compression: Compression
) -> None:
    damaged = data.draw(nearly_valid(role is SERVER, compression=compression))
    chunks = data.draw(chunkings(damaged))
    assert_equal_outcomes(
        outcome(role, chunks, NEGOTIATED[compression]),
        outcome(role, [damaged], NEGOTIATED[compression]),
    )


def assert_equal_outcomes(first: Outcome, second: Outcome) -> None:
    """Compare outcomes of the same bytes, split in different ways.

    zlib withholds the output of a chunk that turns out to be invalid. If that output is an error
    of its own, the split decides which of the two errors is found first.
    """
    not_deflate = (rules.NOT_DEFLATE.close_code, f"{rules.NOT_DEFLATE.problem} (RFC 7692, 7.2.2)")
    if not_deflate in (first.error, second.error):
        assert first.error is not None
        assert second.error is not None
        assert first.events[:-1] == second.events[:-1]
        assert first.sent[:-1] == second.sent[:-1]
    else:
        assert first == second


@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from(Role), COMPRESSIONS)
def test_compressed_arbitrary_bytes_never_raise(
    payloads: list[bytes], role: Role, compression: Compression
) -> None:
    # As payloads of compressed messages, because random bytes are rarely one.
    mask = bytes(4) if role is SERVER else None
    data = b"".join(encode_frame(Opcode.TEXT, item, rsv1=True, mask=mask) for item in payloads)
    for received in (data, b"".join(payloads)):
        result = outcome(role, single_bytes(received), NEGOTIATED[compression])
        assert_equal_outcomes(result, outcome(role, [received], NEGOTIATED[compression]))
        closes = [payload for opcode, payload in result.sent if opcode is Opcode.CLOSE]
        assert len(closes) == (result.state is State.FLUSHING)


# The closing handshake (sections 5.5.1 and 7.1)


@BOTH_ROLES
@pytest.mark.parametrize(
    ("data", "close", "reply"),
    [
        ("88 00 .", Close(1005), ""),
        ("88 02 . 03e8", Close(1000), "03e8"),
        ("88 05 . 0fa0 627965", Close(4000, "bye"), "0fa0"),
    ],
)
def test_close_received_is_answered_with_its_code(
    role: Role, data: str, close: Close, reply: str
) -> None:
    connection = Connection(role)
    assert receive(connection, to(role, data)) == [close]
    assert sent_frames(connection) == [(Opcode.CLOSE, bytes.fromhex(reply))]
    assert connection.state is State.FLUSHING
    assert connection.eof_to_send is (role is SERVER), "a client waits for the server's end"
    assert connection.close_received == close
    assert connection.close_sent == Close(close.code)


@BOTH_ROLES
def test_close_between_fragments_ends_the_connection(role: Role) -> None:
    connection = Connection(role)
    # Text "Hel" without FIN, Close 1000, continuation "lo"
    events = receive(connection, to(role, "01 03 . 48656c | 88 02 . 03e8 | 80 02 . 6c6f"))
    assert events == [Close(1000)]


@BOTH_ROLES
def test_messages_arrive_until_the_peer_closes(role: Role) -> None:
    connection = Connection(role)
    connection.close(1001, "good night")
    states = [connection.state]
    assert sent_frames(connection) == [(Opcode.CLOSE, close_payload(1001, "good night"))]
    assert receive(connection, to(role, "81 02 . 6869")) == ["hi"]
    states.append(connection.state)
    assert receive(connection, to(role, "88 02 . 03e9")) == [Close(1001)]
    assert sent_frames(connection) == []
    states.append(connection.state)
    assert states == [State.CLOSING, State.CLOSING, State.FLUSHING]


@BOTH_ROLES
def test_ping_after_own_close_is_answered(role: Role) -> None:
    connection = Connection(role)
    connection.close()
    sent_frames(connection)
    assert receive(connection, to(role, "89 01 . 70")) == [Ping(b"p")]
    assert sent_frames(connection) == [(Opcode.PONG, b"p")]


@BOTH_ROLES
def test_ping_after_received_close_is_not_answered(role: Role) -> None:
    connection = Connection(role)
    assert receive(connection, to(role, "88 00 . | 89 01 . 70")) == [Close(1005)]
    assert sent_frames(connection) == [(Opcode.CLOSE, b"")]


@pytest.mark.parametrize("starter", list(Role), ids=lambda role: role.value)
def test_closing_handshake_takes_a_close_each_way(starter: Role) -> None:
    sides = {role: Connection(role) for role in Role}
    first = sides.pop(starter)
    (second,) = sides.values()
    first.close(1001, "good night")
    assert receive(second, first.data_to_send()) == [Close(1001, "good night")]
    assert receive(first, second.data_to_send()) == [Close(1001)]
    assert (first.state, second.state) == (State.FLUSHING, State.FLUSHING)
    assert first.data_to_send() + second.data_to_send() == b""


def test_both_sides_may_close_at_once() -> None:
    server, client = Connection(SERVER), Connection(CLIENT)
    server.close(1001)
    client.close(1000)
    to_client, to_server = server.data_to_send(), client.data_to_send()
    assert receive(server, to_server) == [Close(1000)]
    assert receive(client, to_client) == [Close(1001)]
    assert (server.state, client.state) == (State.FLUSHING, State.FLUSHING)
    assert server.data_to_send() + client.data_to_send() == b""


@BOTH_ROLES
@pytest.mark.parametrize("reason", ["", "bye"])
def test_first_close_is_the_frame_that_began_the_closing(role: Role, reason: str) -> None:
    ours, theirs = Connection(role), Connection(CLIENT if role is SERVER else SERVER)
    assert ours.first_close is None
    ours.close(4000)
    receive(theirs, ours.data_to_send())
    assert theirs.first_close is theirs.close_received
    assert theirs.first_close is not theirs.close_sent
    receive(ours, encode_close_frame(role, 4000, reason))
    assert ours.close_received == Close(4000, reason)
    assert ours.first_close is ours.close_sent


def encode_close_frame(receiver: Role, code: int, reason: str) -> bytes:
    """Return a Close frame that `receiver` accepts."""
    mask = bytes(4) if receiver is SERVER else None
    return encode_frame(Opcode.CLOSE, encode_close(code, reason), mask=mask)


@BOTH_ROLES
def test_first_close_after_a_violation_is_the_sent_frame(role: Role) -> None:
    connection = Connection(role)
    connection.receive_data(b"\xff\xff")
    assert isinstance(connection.next_event(), Close)
    assert connection.first_close is connection.close_sent
    assert connection.first_close is not None


@BOTH_ROLES
def test_first_close_without_any_close_frame_is_none(role: Role) -> None:
    connection = Connection(role)
    connection.receive_eof()
    assert connection.next_event() == Close(1006)
    assert connection.first_close is None


@BOTH_ROLES
def test_close_twice_sends_one_close(role: Role) -> None:
    connection = Connection(role)
    connection.close(1000)
    connection.close(1001)
    connection.fail(1011)
    assert sent_frames(connection) == [(Opcode.CLOSE, close_payload(1000))]
    assert connection.close_sent == Close(1000)
    assert connection.state is State.FLUSHING


@BOTH_ROLES
def test_optional_payloads_default_to_empty(role: Role) -> None:
    connection = Connection(role)
    connection.ping()
    connection.pong()
    connection.fail(1011)
    assert sent_frames(connection) == [
        (Opcode.PING, b""),
        (Opcode.PONG, b""),
        (Opcode.CLOSE, close_payload(1011)),
    ]


@BOTH_ROLES
def test_close_with_1005_sends_no_payload(role: Role) -> None:
    connection = Connection(role)
    connection.close(CloseCode.NO_STATUS_RCVD)
    assert sent_frames(connection) == [(Opcode.CLOSE, b"")]
    assert connection.close_sent == Close(1005)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1005, "lost"), (1000, "x" * 124), (1000, "x" * 122 + "\u20ac"), (1000, "\u20ac" * 60)],
)
def test_close_sent_equals_the_close_that_the_peer_receives(code: int, reason: str) -> None:
    server, client = Connection(SERVER), Connection(CLIENT)
    server.close(code, reason)
    assert receive(client, server.data_to_send()) == [server.close_sent]


@BOTH_ROLES
def test_close_reason_too_long_is_shortened(role: Role) -> None:
    connection = Connection(role)
    connection.close(1000, "x" * 122 + "\u00e9")
    assert sent_frames(connection) == [(Opcode.CLOSE, close_payload(1000, "x" * 122))]


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2999, 5000, 65536])
def test_close_with_invalid_code_changes_nothing(code: int) -> None:
    connection = Connection(SERVER)
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        connection.close(code)
    assert connection.state is State.OPEN
    assert connection.close_sent is None
    assert connection.data_to_send() == b""


SENDING: list[Callable[[Connection], None]] = [
    lambda connection: connection.send("hi"),
    lambda connection: connection.send(b"hi"),
    lambda connection: connection.ping(),
    lambda connection: connection.pong(),
]


@BOTH_ROLES
@pytest.mark.parametrize("send", SENDING, ids=["text", "binary", "ping", "pong"])
@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("closing", 1001, "good night"),
        ("closed by the peer", 4000, "bye"),
        ("failed", 1011, "oops"),
        ("stream ended", 1006, ""),
    ],
)
def test_send_on_a_closed_connection_raises(
    role: Role, send: Callable[[Connection], None], name: str, code: int, reason: str
) -> None:
    connection = Connection(role)
    if name == "closing":
        connection.close(code, reason)
    elif name == "closed by the peer":
        receive(connection, to(role, "88 05 . 0fa0 627965"))
    elif name == "failed":
        connection.fail(code, reason)
    else:
        connection.receive_eof()
    connection.data_to_send()
    with pytest.raises(ConnectionClosed) as raised:
        send(connection)
    assert (raised.value.code, raised.value.reason) == (code, reason)
    assert connection.data_to_send() == b""


@BOTH_ROLES
def test_input_after_fail_is_discarded(role: Role) -> None:
    connection = Connection(role)
    connection.fail(1011)
    connection.data_to_send()
    assert receive(connection, to(role, "81 02 . 6869 | 89 00 . | c1")) == []
    assert connection.data_to_send() == b""
    assert connection.error is None


@BOTH_ROLES
def test_eof_without_a_close_is_the_event_1006_once(role: Role) -> None:
    connection = Connection(role)
    connection.receive_data(to(role, "81 02 . 6869 | 81 05 . 68"))  # "hi" and part of a frame
    connection.receive_eof()
    assert connection.eof_to_send
    assert list(iter(connection.next_event, None)) == ["hi", Close(1006)]
    assert connection.next_event() is None
    assert connection.state is State.CLOSED


@BOTH_ROLES
def test_eof_behind_a_close_keeps_the_close_event(role: Role) -> None:
    connection = Connection(role)
    connection.receive_data(to(role, "88 02 . 03e8"))
    connection.receive_eof()
    assert list(iter(connection.next_event, None)) == [Close(1000)]
    assert connection.state is State.CLOSED


@BOTH_ROLES
def test_eof_after_the_program_failed_is_the_event_1006(role: Role) -> None:
    connection = Connection(role)
    connection.fail(1011)
    assert connection.next_event() is None
    connection.receive_eof()
    assert list(iter(connection.next_event, None)) == [Close(1006)]


@BOTH_ROLES
@pytest.mark.parametrize("ending", ["88 02 . 03e8", "c1"], ids=["Close", "violation"])
def test_eof_after_a_close_event_is_no_event(role: Role, ending: str) -> None:
    connection = Connection(role)
    assert len(receive(connection, to(role, ending))) == 1
    connection.receive_eof()
    assert connection.next_event() is None
    assert connection.state is State.CLOSED
    assert connection.eof_to_send


@BOTH_ROLES
def test_eof_is_to_be_sent_only_after_the_last_frame(role: Role) -> None:
    connection = Connection(role)
    assert not connection.eof_to_send
    connection.close()
    assert not connection.eof_to_send, "the peer's Close is awaited"
    connection.fail(1011)
    assert connection.eof_to_send


@BOTH_ROLES
def test_repr_names_role_state_and_close_codes(role: Role) -> None:
    connection = Connection(role)
    assert repr(connection) == f"<Connection {role.value} OPEN>"
    connection.close(1001)
    receive(connection, to(role, "88 02 . 03e8"))
    assert repr(connection) == f"<Connection {role.value} FLUSHING sent=1001 received=1000>"


@BOTH_ROLES
def test_eof_forbids_sending_a_close(role: Role) -> None:
    connection = Connection(role)
    connection.receive_eof()
    connection.close()
    connection.fail(1011)
    assert connection.state is State.CLOSED
    assert connection.data_to_send() == b""
    assert connection.close_sent is None


@BOTH_ROLES
@pytest.mark.parametrize("send", [Connection.ping, Connection.pong])
def test_control_frame_holds_at_most_125_bytes(
    role: Role, send: Callable[[Connection, bytes], None]
) -> None:
    connection = Connection(role)
    with pytest.raises(ValueError, match="payload of 126 bytes; at most 125 are allowed"):
        send(connection, b"x" * 126)
    assert connection.data_to_send() == b""
    send(connection, b"x" * 125)
    assert [payload for _, payload in sent_frames(connection)] == [b"x" * 125]


@BOTH_ROLES
@pytest.mark.parametrize(
    ("message", "kind"),
    [([104, 105], "list"), (123, "int"), (None, "NoneType"), (bytearray(b"hi"), "bytearray")],
)
def test_send_of_a_wrong_type_raises_type_error(role: Role, message: Any, kind: str) -> None:
    connection = Connection(role)
    with pytest.raises(TypeError, match=f"a message is str or bytes, not {kind}$"):
        connection.send(message)
    for send in (connection.ping, connection.pong):
        with pytest.raises(TypeError, match=f"payload is bytes, not {kind}$"):
            send(message)
    assert connection.data_to_send() == b""


@BOTH_ROLES
def test_send_bytes_as_text_arrives_as_text(role: Role) -> None:
    sender, receiver = Connection(role), Connection(SERVER if role is CLIENT else CLIENT)
    sender.send("Hé".encode(), text=True)
    sender.send("text anyway", text=True)
    receiver.receive_data(sender.data_to_send())
    assert [receiver.next_event(), receiver.next_event()] == ["Hé", "text anyway"]


def test_send_bytes_as_text_not_utf_8_sends_nothing() -> None:
    server = Connection(SERVER)
    with pytest.raises(ValueError, match="text: not UTF-8 at byte 1; send it as binary"):
        server.send(b"a\xff", text=True)
    assert server.data_to_send() == b""


def test_send_uncompressed_has_no_rsv1() -> None:
    server = Connection(
        SERVER, compression=DeflateParameters.NO_CONTEXT_TAKEOVER, compression_threshold=0
    )
    server.send("x" * 100, compress=False)
    assert server.data_to_send() == b"\x81\x64" + b"x" * 100
    server.send("x" * 100)
    assert server.data_to_send()[0] == 0xC1


# A client and a server that exchange anything

MESSAGES = (
    st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([patterned(126), "\u00e9" * 62 + "x", patterned(65536)])
)
CODES = st.sampled_from((1000, 1001, 1005, 1011, 3000, 4999))
REASONS = st.just("") | st.text(max_size=130)


class ClientAndServer(RuleBasedStateMachine):
    """A client and a server, joined by an ordered pipe each way.

    Each side receives exactly the events that the other side sent, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sides = {role: Connection(role) for role in Role}
        self.pipes = dict.fromkeys(Role, b"")  # bytes on the way to that side
        self.expected: dict[Role, list[Event]] = {role: [] for role in Role}
        self.received: dict[Role, list[Event]] = {role: [] for role in Role}

    def send_event(self, role: Role, event: Event, send: Callable[[Connection], None]) -> None:
        """Send on one side and record the event that the other side must receive."""
        connection = self.sides[role]
        if connection.state is State.OPEN:
            send(connection)
            self.expected[other(role)].append(event)
        else:
            with pytest.raises(ConnectionClosed):
                send(connection)

    @rule(role=st.sampled_from(Role), message=MESSAGES)
    def send(self, role: Role, message: str | bytes) -> None:
        self.send_event(role, message, lambda connection: connection.send(message))

    @rule(role=st.sampled_from(Role), payload=st.binary(max_size=125))
    def ping(self, role: Role, payload: bytes) -> None:
        self.send_event(role, Ping(payload), lambda connection: connection.ping(payload))

    @rule(role=st.sampled_from(Role), payload=st.binary(max_size=125))
    def pong(self, role: Role, payload: bytes) -> None:
        self.send_event(role, Pong(payload), lambda connection: connection.pong(payload))

    @rule(role=st.sampled_from(Role), code=CODES, reason=REASONS)
    def close(self, role: Role, code: int, reason: str) -> None:
        connection = self.sides[role]
        was_open = connection.state is State.OPEN
        connection.close(code, reason)
        if was_open:
            sent = reason.encode()[:123].decode(errors="ignore")
            self.expected[other(role)].append(Close(code, "" if code == 1005 else sent))

    @rule(role=st.sampled_from(Role))
    def write(self, role: Role) -> None:
        """Put the bytes that a side has queued into the pipe."""
        self.pipes[other(role)] += self.sides[role].data_to_send()

    @precondition(lambda self: any(self.pipes.values()))
    @rule(role=st.sampled_from(Role), size=st.integers(1, 20) | st.integers(1, 100_000))
    def read(self, role: Role, size: int) -> None:
        """Deliver some bytes of a pipe."""
        chunk, self.pipes[role] = self.pipes[role][:size], self.pipes[role][size:]
        connection = self.sides[role]
        may_reply = connection.state is State.OPEN
        connection.receive_data(chunk)
        while (event := connection.next_event()) is not None:
            self.received[role].append(event)
            if may_reply and isinstance(event, Ping):
                self.expected[other(role)].append(Pong(event.payload))
            elif may_reply and isinstance(event, Close):
                self.expected[other(role)].append(Close(event.code))

    @invariant()
    def each_side_has_received_a_prefix(self) -> None:
        for role in Role:
            received = self.received[role]
            assert received == self.expected[role][: len(received)], role
            assert self.sides[role].error is None, role

    def teardown(self) -> None:
        """Deliver all bytes; then both sides agree."""
        for role in (*Role, *Role):  # twice, because reads cause replies
            self.write(other(role))
            self.read(role, len(self.pipes[role]))
        for role in Role:
            assert self.received[role] == self.expected[role], role
        server, client = self.sides[SERVER], self.sides[CLIENT]
        assert server.state is client.state
        assert server.state in (State.OPEN, State.FLUSHING)
        assert server.close_received == client.close_sent
        assert client.close_received == server.close_sent


def other(role: Role) -> Role:
    return CLIENT if role is SERVER else SERVER


TestClientAndServer = ClientAndServer.TestCase

DEFLATES = st.builds(
    DeflateParameters, st.booleans(), st.booleans(), st.integers(8, 15), st.integers(8, 15)
)


class CompressingClientAndServer(ClientAndServer):
    """A client and a server that negotiated any parameters of compression."""

    @initialize(compression=DEFLATES, compression_threshold=st.sampled_from((0, 10, 200)))
    def agree(self, compression: DeflateParameters, compression_threshold: int) -> None:
        self.sides = {
            role: Connection(
                role, compression=compression, compression_threshold=compression_threshold
            )
            for role in Role
        }


TestCompressingClientAndServer = CompressingClientAndServer.TestCase
