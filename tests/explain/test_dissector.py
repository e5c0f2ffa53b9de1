"""The dissector: what it makes of bytes is what a connection makes of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ProtocolError
from wsproto_min.explain.dissector import Dissector, FrameReport, Part
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext, Head
from wsproto_min.explain.render_json import record
from wsproto_min.explain.verdict import Verdict, find_rule, judge
from wsproto_min.frames import parse_header
from wsproto_min.handshake import accept, upgrade_request
from wsproto_min.http import parse_request
from wsproto_min.testing.strategies import (
    DEFLATE_VIOLATIONS,
    VIOLATIONS,
    Violation,
    chunkings,
    nearly_valid,
    single_bytes,
    wire,
)
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE

CLIENT, SERVER = Role.CLIENT, Role.SERVER
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3

# Text "H", Ping "p", the rest of "Hello", Close 1000 "bye"
MESSAGE = "01 01 . 48 | 89 01 . 70 | 80 04 . 656c6c6f | 88 05 . 03e8 627965"


def explain(
    *chunks: bytes, sender: Role | None = None, compression: DeflateParameters | None = None
) -> tuple[list[Head | FrameReport], Verdict]:
    dissector = Dissector(sender, opening=HandshakeContext(compression))
    seen = [each for chunk in chunks for each in dissector.receive_data(chunk)]
    seen += dissector.receive_eof()
    return seen, dissector.verdict


def frames_of(*chunks: bytes, sender: Role | None = None) -> list[FrameReport]:
    return [seen for seen in explain(*chunks, sender=sender)[0] if isinstance(seen, FrameReport)]


@pytest.mark.parametrize("sender", [CLIENT, SERVER, None])
def test_fragments_are_put_together_and_control_frames_between_them_are_answered(
    sender: Role | None,
) -> None:
    data = wire(MESSAGE, masked=sender is CLIENT)
    seen = frames_of(data, sender=sender)
    assert [frame.sender for frame in seen] == [sender or SERVER] * 4
    assert [frame.layout.opcode_name for frame in seen] == ["TEXT", "PING", "CONTINUATION", "CLOSE"]
    assert [frame.event for frame in seen] == [None, Ping(b"p"), "Hello", Close(1000, "bye")]
    assert [frame.part for frame in seen] == [
        Part(Opcode.TEXT, False, 1, 1, False),
        None,
        Part(Opcode.TEXT, False, 2, 5, True),
        None,
    ]
    answers = [[(answer.opcode, answer.payload) for answer in frame.answers] for frame in seen]
    assert answers == [[], [(Opcode.PONG, b"p")], [], [(Opcode.CLOSE, b"\x03\xe8")]]
    assert b"".join(frame.layout.data for frame in seen) == data


def test_a_capture_of_both_ends_is_told_apart_by_the_mask() -> None:
    client, server = wire("01 01 . 61", masked=True), wire("01 01 . 62", masked=False)
    client_end, server_end = wire("80 01 . 63", masked=True), wire("80 01 . 64", masked=False)
    seen = frames_of(client + server + client_end + server_end)
    assert [frame.sender for frame in seen] == [CLIENT, SERVER] * 2
    assert [frame.event for frame in seen] == [None, None, "ac", "bd"]


def test_what_follows_a_close_is_shown_and_ignored() -> None:
    seen, verdict = explain(wire("88 00 . | 81 02 . 6869 | c1 00 .", masked=False))
    assert [each.ignored for each in seen if isinstance(each, FrameReport)] == [False, True, True]
    assert verdict == Verdict("valid", "3 frames, 0 messages; 2 frames after a Close")


def test_a_compressed_message_is_inflated_as_was_agreed() -> None:
    hello = wire("c1 07 . f248cdc9c90700", masked=True)  # RFC 7692, section 7.2.3.1
    again = wire("c1 05 . f200110000", masked=True)  # section 7.2.3.2: refers to the first
    seen, verdict = explain(hello, again, compression=DeflateParameters.DEFAULT)
    assert [each.event for each in seen if isinstance(each, FrameReport)] == ["Hello", "Hello"]
    assert verdict.result == "valid"
    _, verdict = explain(hello, again, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    assert (verdict.result, verdict.close_code, verdict.offset) == ("broken", 1007, 21)
    _, verdict = explain(hello)
    assert (verdict.result, verdict.section, verdict.offset) == ("broken", "RFC 6455, 5.2", 0)


@pytest.mark.parametrize(
    ("data", "needs", "at_least", "reason"),
    [
        ("81", 1, True, "the TEXT frame at byte 0 is cut off"),
        ("81 7e 00", 1, True, "the TEXT frame at byte 0 is cut off"),
        ("81 85", 9, False, "the TEXT frame at byte 0 is cut off"),
        ("81 fe", 6, True, "the TEXT frame at byte 0 is cut off"),
        ("81 85 37fa", 7, False, "the TEXT frame at byte 0 is cut off"),
        ("82 7f 00", 7, True, "the BINARY frame at byte 0 is cut off"),
        ("89 00 81 05 4865", 3, False, "the TEXT frame at byte 2 is cut off"),
        ("89 05 70", 4, False, "the PING frame at byte 0 is cut off"),
        ("01 01 61", 2, True, "the server's message waits for its last fragment"),
        ("01 81 00000000 61", 6, True, "the client's message waits for its last fragment"),
        ("474554", 0, False, ""),  # GET: one byte of a frame of a reserved opcode
        (b"GET / HTTP/1.1\r\n".hex(), 2, True, "the head has no empty line at its end"),
    ],
)
def test_how_many_bytes_are_missing_is_told_at_the_end(
    data: str, needs: int, at_least: bool, reason: str
) -> None:
    _, verdict = explain(bytes.fromhex(data))
    if needs:
        assert verdict == Verdict("incomplete", reason, needs=needs, at_least=at_least)
    else:
        assert (verdict.result, verdict.offset) == ("broken", 0)


def test_a_frame_that_is_cut_off_is_shown_as_far_as_it_came() -> None:
    (seen,) = frames_of(bytes.fromhex("8105 4865"))
    assert (seen.layout.payload, seen.layout.remaining) == (b"He", 3)
    assert (seen.event, seen.part) == (None, Part(Opcode.TEXT, False, 1, 2, False))


# The verdict


@pytest.mark.parametrize("violation", [*VIOLATIONS, *DEFLATE_VIOLATIONS], ids=str)
def test_a_violation_is_told_at_its_last_byte_with_its_rule(violation: Violation) -> None:
    dissector = Dissector(
        Role(violation.sender),
        opening=HandshakeContext(
            DeflateParameters.NO_CONTEXT_TAKEOVER if violation.rule.compression else None
        ),
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
    )
    seen = [*dissector.receive_data(violation.data), *dissector.receive_eof()]
    verdict = dissector.verdict
    assert seen[-1].verdict == verdict
    assert (verdict.result, verdict.close_code) == ("broken", violation.close_code)
    assert verdict.offset == len(violation.data) - 1
    assert list(dissector.receive_data(b"\x81\x00")) == []
    if not violation.rule.compression:  # some of those break a rule of RFC 6455 just as well
        assert verdict.rule == violation.rule.sentence
        assert verdict.section is not None
        assert f"RFC 6455, {violation.section}".startswith(verdict.section)


def test_a_rule_is_found_for_every_error_that_the_table_knows_and_for_no_other() -> None:
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        error = judge(violation).error
        assert error is not None
        assert find_rule(error) is not None, error.reason
    sentence = find_rule(ProtocolError("close code 1017 may not be sent (RFC 6455, 7.4)"))
    assert sentence is not None
    assert sentence.section == "7.4.2"
    assert find_rule(ProtocolError("the moon is full")) is None


def test_an_error_without_a_rule_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_min.explain.verdict.find_rule", lambda _: None)
    _, verdict = explain(b"\x83")
    assert (verdict.section, verdict.rule, verdict.close_code) == ("RFC 6455, 5.2", None, 1002)


def bytes_of_a_direction(role: Role) -> st.SearchStrategy[bytes]:
    data = st.binary(max_size=60) | nearly_valid(masked=role is CLIENT, compression="taken over")
    # What begins like a head is one, or a frame that is refused at its first byte.
    return data.filter(lambda data: data[:1] not in (b"G", b"P", b"H", b"D", b"O"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(Role), st.sampled_from([None, DeflateParameters.DEFAULT]))
def test_it_says_what_a_connection_does_however_the_bytes_come(
    data: st.DataObject, sender: Role, compression: DeflateParameters | None
) -> None:
    received = data.draw(bytes_of_a_direction(sender))
    receiver = SERVER if sender is CLIENT else CLIENT
    connection = Connection(receiver, compression=compression)
    events: list[Event] = list(connection.receive_data(received))
    seen, verdict = explain(received, sender=sender, compression=compression)
    told = [each.event for each in seen if isinstance(each, FrameReport)]
    assert [event for event in told if event is not None] == events
    if connection.error is None:
        assert verdict.result in ("valid", "incomplete")
    else:
        assert (verdict.result, verdict.close_code) == ("broken", connection.error.code)
        assert verdict.reason in connection.error.reason
        assert verdict.offset is not None
        again = Connection(receiver, compression=compression)
        list(again.receive_data(received[: verdict.offset]))
        assert again.state is State.OPEN, "it could be told at an earlier byte"
    pieces = data.draw(chunkings(received))
    seen_in_pieces, verdict_in_pieces = explain(*pieces, sender=sender, compression=compression)
    assert [record(each) for each in seen_in_pieces] == [record(each) for each in seen]
    assert verdict_in_pieces == verdict


# Where the fields lie


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=12, max_size=12),
)
def test_the_fields_are_where_the_codec_has_them(first: int, second: int, rest: bytes) -> None:
    data = bytes((first, second)) + rest
    try:
        header = parse_header(data, rsv1_allowed=True)
    except ProtocolError:
        return
    assert header is not None
    frame = FrameFields(data)
    assert (frame.fin, frame.rsv) == (header.fin, (header.rsv1, header.rsv2, header.rsv3))
    assert (frame.opcode, frame.opcode_name) == (header.opcode, header.opcode.name)
    assert frame.is_control is header.opcode.is_control
    assert (frame.mask, frame.length) == (header.mask, header.length)
    assert (frame.header_size, frame.size) == (header.size, header.size + header.length)


# The handshake

REQUEST = upgrade_request(
    "a", "/chat", KEY, subprotocols=["x", "y"], compression=DeflateParameters.DEFAULT
)
RESPONSE = accept(
    parse_request(REQUEST.removesuffix(b"\r\n\r\n")),
    subprotocols=["y"],
    compression=DeflateParameters.NO_CONTEXT_TAKEOVER,
).encode()
HELLO = wire("c1 07 . f248cdc9c90700", masked=False)


@pytest.mark.parametrize("cut", [single_bytes, lambda data: [data]], ids=["bytes", "whole"])
def test_a_capture_may_begin_with_the_handshake(cut: object) -> None:
    assert callable(cut)
    seen, verdict = explain(*cut(REQUEST + RESPONSE + HELLO))
    request, response, frame = seen
    assert isinstance(request, Head)
    assert isinstance(response, Head)
    assert isinstance(frame, FrameReport)
    assert [text for text, _ in request.lines] == REQUEST.decode().split("\r\n")[:-2]
    assert request.accept_key is not None
    assert request.accept_key.accept == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    # RFC 6455, section 1.3, gives these steps.
    assert request.accept_key.digest.hex() == "b37a4f2cc0624f1690f64606cf385945b2bec4ea"
    assert response.offset == len(REQUEST)
    assert response.notes == (f"compression: {DeflateParameters.NO_CONTEXT_TAKEOVER.encode()}",)
    assert (frame.offset, frame.event) == (len(REQUEST + RESPONSE), "Hello")
    assert verdict == Verdict("valid", "2 heads, 1 frame, 1 message")


def test_a_response_alone_is_judged_but_for_its_accept_key() -> None:
    response = RESPONSE.replace(b"s3pPLM", b"xxxxxx")
    (head, frame), verdict = explain(response + HELLO, sender=SERVER)
    assert isinstance(head, Head)
    assert head.notes[0] == "whether the accept key fits, only the request could tell"
    assert isinstance(frame, FrameReport)
    assert frame.event == "Hello"
    assert verdict.result == "valid"


def test_a_request_may_be_followed_by_the_clients_frames() -> None:
    (head, frame), verdict = explain(REQUEST + wire("81 02 . 6869", masked=True), sender=CLIENT)
    assert isinstance(head, Head)
    assert isinstance(frame, FrameReport)
    assert (frame.event, verdict.reason) == ("hi", "1 head, 1 frame, 1 message")


def without(head: bytes, name: str) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(name.encode() + b":"))


@pytest.mark.parametrize(
    ("request_head", "status", "reason"),
    [
        (without(REQUEST, "Host"), 400, "header Host is missing"),
        (without(REQUEST, "Upgrade"), 400, "header Upgrade must include 'websocket'"),
        (without(REQUEST, "Sec-WebSocket-Key"), 400, "header Sec-WebSocket-Key is missing"),
        (
            without(REQUEST, "Sec-WebSocket-Version"),
            426,
            "header Sec-WebSocket-Version must be 13",
        ),
        (b"POST" + REQUEST[3:], 405, "a WebSocket handshake must use the method GET"),
        (REQUEST.replace(b"Host: a", b"Host : a"), 400, "a header line is not 'Name: value'"),
        (b"GET /" + b"a" * 17000, 431, "the request's head is longer than 16384 bytes"),
    ],
)
def test_a_request_that_is_refused_says_why_and_with_which_status(
    request_head: bytes, status: int, reason: str
) -> None:
    seen, verdict = explain(request_head + HELLO)
    assert verdict == Verdict("refused", reason, "RFC 6455, 4.2.1", offset=0, status=status)
    assert len(seen) == (status != 431), "nothing after it is explained"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            RESPONSE.replace(b"s3pPLM", b"xxxxxx"),
            "the answer's Sec-WebSocket-Accept does not fit the key",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the server answered 403"),
        (
            RESPONSE.replace(b"Protocol: y", b"Protocol: z"),
            "the server chose a subprotocol that was not offered",
        ),
    ],
)
def test_an_answer_that_opens_nothing_says_why(answer: bytes, reason: str) -> None:
    _, verdict = explain(REQUEST + answer + HELLO)
    assert verdict == Verdict("refused", reason, "RFC 6455, 4.1", offset=len(REQUEST))


def test_compression_that_was_not_offered_is_refused() -> None:
    request = upgrade_request("a", "/", KEY)
    response = without(RESPONSE, "Sec-WebSocket-Protocol")
    _, verdict = explain(request + response)
    reason = "the server uses an extension that was not offered: permessage-deflate"
    assert (verdict.result, verdict.reason) == ("refused", reason)


def test_an_answer_without_an_accept_key_is_refused_without_the_request_too() -> None:
    _, verdict = explain(without(RESPONSE, "Sec-WebSocket-Accept"))
    assert verdict.reason == "the answer's Sec-WebSocket-Accept does not fit the key"
