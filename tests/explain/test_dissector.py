"""Dissector: frames, verdicts, fields and handshakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsproto_min import rules
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ProtocolError
from wsproto_min.explain.direction import FragmentInfo
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext, HandshakeLines
from wsproto_min.explain.render_json import to_json
from wsproto_min.explain.verdict import Verdict, broken
from wsproto_min.frames import parse_header
from wsproto_min.http_reader import parse_request
from wsproto_min.server_handshake import accept
from wsproto_min.testing.raw_frame import parse_frame_notation
from wsproto_min.testing.strategies import chunkings, nearly_valid, single_bytes
from wsproto_min.testing.violations import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
    Violation,
)

Report = HandshakeLines | FrameReport

CLIENT, SERVER = Role.CLIENT, Role.SERVER
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3

# Text "H", Ping "p", the rest of "Hello", Close 1000 "bye"
MESSAGE = "01 01 . 48 | 89 01 . 70 | 80 04 . 656c6c6f | 88 05 . 03e8 627965"


def explain(
    *chunks: bytes, sender: Role | None = None, compression: DeflateParameters | None = None
) -> tuple[list[Report], Verdict]:
    dissector = Dissector(sender, context=HandshakeContext(compression))
    seen: list[Report] = []
    for chunk in chunks:
        dissector.receive_data(chunk)
        seen += iter(dissector.next_event, None)
    dissector.receive_eof()
    seen += iter(dissector.next_event, None)
    return seen, dissector.verdict


def frames_of(*chunks: bytes, sender: Role | None = None) -> list[FrameReport]:
    return [seen for seen in explain(*chunks, sender=sender)[0] if isinstance(seen, FrameReport)]


@pytest.mark.parametrize("sender", [CLIENT, SERVER, None])
def test_dissector_joins_fragments_and_answers_control_frames(sender: Role | None) -> None:
    data = parse_frame_notation(MESSAGE, masked=sender is CLIENT)
    seen = frames_of(data, sender=sender)
    assert [frame.sender for frame in seen] == [sender or SERVER] * 4
    assert [frame.fields.opcode_name for frame in seen] == ["TEXT", "PING", "CONTINUATION", "CLOSE"]
    assert [frame.event for frame in seen] == [None, Ping(b"p"), "Hello", Close(1000, "bye")]
    assert [frame.fragment for frame in seen] == [
        FragmentInfo(Opcode.TEXT, False, 1, 1, False),
        None,
        FragmentInfo(Opcode.TEXT, False, 2, 5, True),
        None,
    ]
    replies = [[(reply.opcode, reply.payload) for reply in frame.replies] for frame in seen]
    assert replies == [[], [(Opcode.PONG, b"p")], [], [(Opcode.CLOSE, b"\x03\xe8")]]
    assert b"".join(frame.fields.data for frame in seen) == data


def test_dissector_capture_of_both_ends_is_separated_by_mask() -> None:
    client = parse_frame_notation("01 01 . 61", masked=True)
    server = parse_frame_notation("01 01 . 62", masked=False)
    client_end = parse_frame_notation("80 01 . 63", masked=True)
    server_end = parse_frame_notation("80 01 . 64", masked=False)
    seen = frames_of(client + server + client_end + server_end)
    assert [frame.sender for frame in seen] == [CLIENT, SERVER] * 2
    assert [frame.event for frame in seen] == [None, None, "ac", "bd"]


def test_dissector_frame_after_close_is_ignored() -> None:
    seen, verdict = explain(parse_frame_notation("88 00 . | 81 02 . 6869 | c1 00 .", masked=False))
    assert [each.ignored for each in seen if isinstance(each, FrameReport)] == [False, True, True]
    assert verdict == Verdict("valid", "3 frames, 0 messages; 2 frames after a Close")


def test_dissector_decompresses_messages_as_negotiated() -> None:
    # RFC 7692, section 7.2.3.1, then 7.2.3.2: the second message refers to the first
    hello = parse_frame_notation("c1 07 . f248cdc9c90700", masked=True)
    again = parse_frame_notation("c1 05 . f200110000", masked=True)
    seen, verdict = explain(hello, again, compression=DeflateParameters.DEFAULT)
    assert [each.event for each in seen if isinstance(each, FrameReport)] == ["Hello", "Hello"]
    assert verdict.result == "valid"
    _, verdict = explain(hello, again, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    assert (verdict.result, verdict.close_code, verdict.offset) == ("broken", 1007, 21)
    large = parse_frame_notation(f"c2 7e 0405 . {'06' * 1029}", masked=True)
    _, verdict = explain(large, compression=DeflateParameters.DEFAULT)
    # A large compressed frame is checked as a whole, so the offset is its last byte.
    assert (verdict.close_code, verdict.offset) == (1007, len(large) - 1)
    _, verdict = explain(hello)
    assert (verdict.result, verdict.section, verdict.offset) == ("broken", "RFC 6455, 5.2", 0)


@pytest.mark.parametrize(
    ("data", "needs", "at_least", "reason"),
    [
        ("81", 1, True, "the TEXT frame at byte 0 is incomplete"),
        ("81 7e 00", 1, True, "the TEXT frame at byte 0 is incomplete"),
        ("81 85", 9, False, "the TEXT frame at byte 0 is incomplete"),
        ("81 fe", 6, True, "the TEXT frame at byte 0 is incomplete"),
        ("81 85 37fa", 7, False, "the TEXT frame at byte 0 is incomplete"),
        ("82 7f 00", 7, True, "the BINARY frame at byte 0 is incomplete"),
        ("89 00 81 05 4865", 3, False, "the TEXT frame at byte 2 is incomplete"),
        ("89 05 70", 4, False, "the PING frame at byte 0 is incomplete"),
        ("01 01 61", 2, True, "the server's message waits for its last fragment"),
        ("01 81 00000000 61", 6, True, "the client's message waits for its last fragment"),
        (b"GET / HTTP/1.1\r\n".hex(), 2, True, "the head has no empty line at its end"),
    ],
)
def test_verdict_on_incomplete_capture_counts_missing_bytes(
    data: str, needs: int, at_least: bool, reason: str
) -> None:
    _, verdict = explain(bytes.fromhex(data))
    assert verdict == Verdict("incomplete", reason, needs=needs, at_least=at_least)


def test_dissector_begin_of_a_method_at_the_end_is_a_frame() -> None:
    _, verdict = explain(b"GET")  # 0x47: a frame with RSV1 and opcode 7
    assert (verdict.result, verdict.offset) == ("broken", 0)


def test_dissector_incomplete_frame_shows_its_received_part() -> None:
    (seen,) = frames_of(bytes.fromhex("8105 4865"))
    assert (seen.fields.payload, seen.fields.remaining) == (b"He", 3)
    assert (seen.event, seen.fragment) == (None, FragmentInfo(Opcode.TEXT, False, 1, 2, False))


# Verdicts


@pytest.mark.parametrize("violation", [*VIOLATIONS, *DEFLATE_VIOLATIONS], ids=str)
def test_verdict_on_violation_has_its_last_byte_and_rule(violation: Violation) -> None:
    compressed = violation in DEFLATE_VIOLATIONS
    dissector = Dissector(
        Role(violation.sender),
        context=HandshakeContext(DeflateParameters.NO_CONTEXT_TAKEOVER if compressed else None),
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
    )
    dissector.receive_data(violation.data)
    seen: list[Report] = list(iter(dissector.next_event, None))
    verdict = dissector.verdict
    assert seen[-1].verdict == verdict
    rule = violation.rule
    assert verdict == Verdict(
        "broken",
        verdict.reason,
        rule.section,
        rule.sentence,
        offset=len(violation.data) - 1,
        close_code=rule.close_code,
    )
    dissector.receive_data(b"\x81\x00")
    assert dissector.next_event() is None, "an event after the violation"


def test_verdict_reason_is_the_problem_of_the_error() -> None:
    verdict = broken(ProtocolError(rules.MESSAGE_TOO_BIG, "4 bytes are too many"), 7)
    assert (verdict.reason, verdict.offset, verdict.close_code) == ("4 bytes are too many", 7, 1009)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("61 c3 28", 2),  # a lead byte before ASCII
        ("61 62 63 ff 64", 3),  # no lead byte
        ("e4 bd 61 61", 2),  # one byte of three is missing
        ("61 ed a0 80", 2),  # a surrogate
        ("61 62 c3", 2),  # the message ends within a character
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("masked", [True, False])
def test_verdict_on_text_has_first_invalid_byte(
    text: str, offset: int, size: int, masked: bool
) -> None:
    payload = bytes.fromhex(text)
    notation = f"81 {len(payload):02x} . {payload.hex()}"
    data = parse_frame_notation(notation, masked=masked)
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    _, verdict = explain(*chunks)
    header_size = len(data) - len(payload)
    assert (verdict.offset, verdict.close_code) == (header_size + offset, 1007)


def test_verdict_on_continued_text_has_first_invalid_byte() -> None:
    _, verdict = explain(bytes.fromhex("01 02 61c3 89 01 ff 80 03 616263"))
    assert (verdict.offset, verdict.close_code) == (9, 1007)


def frame_bytes(role: Role) -> st.SearchStrategy[bytes]:
    data = st.binary(max_size=60) | nearly_valid(masked=role is CLIENT, compression="taken over")
    # The first letters of a method and of "HTTP" begin a head, not a frame.
    return data.filter(lambda data: data[:1] not in (b"G", b"P", b"H", b"D", b"O"))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(Role), st.sampled_from([None, DeflateParameters.DEFAULT]))
def test_dissector_agrees_with_connection_for_any_chunking(
    data: st.DataObject, sender: Role, compression: DeflateParameters | None
) -> None:
    received = data.draw(frame_bytes(sender))
    receiver = SERVER if sender is CLIENT else CLIENT
    connection = Connection(receiver, compression=compression)
    connection.receive_data(received)
    events: list[Event] = list(iter(connection.next_event, None))
    seen, verdict = explain(received, sender=sender, compression=compression)
    shown = [each.event for each in seen if isinstance(each, FrameReport)]
    error = connection.error
    if error is None:
        assert verdict.result in ("valid", "incomplete")
    else:
        assert events.pop() == Close(error.code, error.reason)
        assert (verdict.result, verdict.close_code) == ("broken", error.code)
        rule = next(rule for rule in rules.RULES if rule.sentence == verdict.rule)
        if error.rule is not rule:  # zlib may withhold the invalid text before invalid data
            assert compression is not None
            assert (error.rule, rule) == (rules.NOT_DEFLATE, rules.TEXT_NOT_UTF8)
        else:
            assert verdict.reason == error.problem
        assert verdict.offset is not None
        again = Connection(receiver, compression=compression)
        again.receive_data(received[: verdict.offset])
        list(iter(again.next_event, None))
        if compression is None:
            assert again.state is State.OPEN, "the connection fails at an earlier byte"
            again.receive_data(received[verdict.offset : verdict.offset + 1])
            list(iter(again.next_event, None))
            assert again.error is not None, "the connection fails at a later byte"
    assert [event for event in shown if event is not None] == events
    chunks = data.draw(chunkings(received))
    seen_in_chunks, verdict_in_chunks = explain(*chunks, sender=sender, compression=compression)
    if compression is None or error is None:
        assert [to_json(each) for each in seen_in_chunks] == [to_json(each) for each in seen]
        assert verdict_in_chunks == verdict
    else:  # a violation in compressed data is reported at the end of a chunk
        assert verdict_in_chunks.result == "broken"
        assert [to_json(each) for each in seen_in_chunks[:-1]] == [
            to_json(each) for each in seen[:-1]
        ]


# Fields of a frame


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=12, max_size=12),
)
def test_frame_fields_of_valid_header_agree_with_the_codec(
    first: int, second: int, rest: bytes
) -> None:
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


# Handshakes

REQUEST = upgrade_request(
    "a", "/chat", KEY, subprotocols=["x", "y"], compression=DeflateParameters.DEFAULT
)
RESPONSE = accept(
    parse_request(REQUEST.removesuffix(b"\r\n\r\n")),
    subprotocols=["y"],
    compression=DeflateParameters.NO_CONTEXT_TAKEOVER,
).response.encode()
HELLO = parse_frame_notation("c1 07 . f248cdc9c90700", masked=False)


@pytest.mark.parametrize("split", [single_bytes, lambda data: [data]], ids=["bytes", "whole"])
def test_dissector_capture_with_handshake_is_explained(
    split: Callable[[bytes], list[bytes]],
) -> None:
    seen, verdict = explain(*split(REQUEST + RESPONSE + HELLO))
    request, response, frame = seen
    assert isinstance(request, HandshakeLines)
    assert isinstance(response, HandshakeLines)
    assert isinstance(frame, FrameReport)
    assert [text for text, _ in request.lines] == REQUEST.decode().split("\r\n")[:-2]
    assert request.accept_key is not None
    assert request.accept_key.accept == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    # The digest of the example in RFC 6455, section 1.3
    assert request.accept_key.digest.hex() == "b37a4f2cc0624f1690f64606cf385945b2bec4ea"
    assert response.offset == len(REQUEST)
    in_use = DeflateParameters.NO_CONTEXT_TAKEOVER.to_header()
    assert response.notes == (f"compression: {in_use}",)
    assert (frame.offset, frame.event) == (len(REQUEST + RESPONSE), "Hello")
    assert verdict == Verdict("valid", "2 heads, 1 frame, 1 message")


CHROME = upgrade_request(
    "a",
    "/",
    KEY,
    headers=[("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")],
)
COMPRESSED = parse_frame_notation("c1 07 . f248cdc9c90700", masked=True)


@pytest.mark.parametrize("sender", [CLIENT, None])
def test_dissector_client_alone_may_compress_as_it_offered(sender: Role | None) -> None:
    (_, frame), verdict = explain(CHROME, COMPRESSED, sender=sender)
    assert isinstance(frame, FrameReport)
    assert frame.event == "Hello"
    assumed = "compression as offered, because the response is missing"
    assert verdict == Verdict("valid", f"1 head, 1 frame, 1 message; {assumed}")


def test_dissector_response_decides_on_the_offered_compression() -> None:
    accepted = accept(parse_request(CHROME[:-4]), compression=DeflateParameters.DEFAULT)
    _, verdict = explain(CHROME, accepted.response.encode(), COMPRESSED)
    assert verdict == Verdict("valid", "2 heads, 1 frame, 1 message")
    declined = accept(parse_request(CHROME[:-4]), compression=None)
    _, verdict = explain(CHROME, declined.response.encode(), COMPRESSED)
    assert (verdict.result, verdict.reason) == ("broken", "a reserved bit is set")


def test_dissector_client_without_an_offer_must_not_compress() -> None:
    _, verdict = explain(upgrade_request("a", "/", KEY), COMPRESSED, sender=CLIENT)
    assert (verdict.result, verdict.reason) == ("broken", "a reserved bit is set")


def test_dissector_response_alone_is_checked_without_accept_key() -> None:
    response = RESPONSE.replace(b"s3pPLM", b"xxxxxx")
    (head, frame), verdict = explain(response + HELLO, sender=SERVER)
    assert isinstance(head, HandshakeLines)
    note = "accept key: not checked, because the request is not in the capture"
    assert head.notes[0] == note
    assert isinstance(frame, FrameReport)
    assert frame.event == "Hello"
    assert verdict.result == "valid"


def test_dissector_request_may_precede_client_frames() -> None:
    frames = parse_frame_notation("81 02 . 6869", masked=True)
    (head, frame), verdict = explain(REQUEST + frames, sender=CLIENT)
    assert isinstance(head, HandshakeLines)
    assert isinstance(frame, FrameReport)
    assert (frame.event, verdict.reason) == ("hi", "1 head, 1 frame, 1 message")


def without(head: bytes, name: str) -> bytes:
    """Return a head without the header `name`."""
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
def test_verdict_on_refused_request_has_reason_and_status(
    request_head: bytes, status: int, reason: str
) -> None:
    seen, verdict = explain(request_head + HELLO)
    assert verdict == Verdict("refused", reason, "RFC 6455, 4.2.1", offset=0, status=status)
    assert len(seen) == (status != 431), "nothing after it is explained"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (
            RESPONSE.replace(b"s3pPLM", b"xxxxxx"),
            "the response's Sec-WebSocket-Accept does not fit the key",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the server answered 403"),
        (
            RESPONSE.replace(b"Protocol: y", b"Protocol: z"),
            "the server chose a subprotocol that was not offered",
        ),
    ],
)
def test_verdict_on_refused_response_has_reason(response: bytes, reason: str) -> None:
    _, verdict = explain(REQUEST + response + HELLO)
    assert verdict == Verdict("refused", reason, "RFC 6455, 4.1", offset=len(REQUEST))


def test_verdict_on_compression_not_offered_is_refused() -> None:
    request = upgrade_request("a", "/", KEY)
    response = without(RESPONSE, "Sec-WebSocket-Protocol")
    _, verdict = explain(request + response)
    reason = "the server uses an extension that was not offered: permessage-deflate"
    assert (verdict.result, verdict.reason) == ("refused", reason)


def test_dissector_interim_responses_precede_the_final_one() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    seen, verdict = explain(REQUEST + interim * 2 + RESPONSE + HELLO)
    assert [each.kind for each in seen if isinstance(each, HandshakeLines)] == [
        "request",
        "interim response",
        "interim response",
        "response",
    ]
    assert isinstance(seen[1], HandshakeLines)
    meaning = "an interim response; the final one follows (RFC 9110, 15.2)"
    assert seen[1].lines[0] == ("HTTP/1.1 103 Early Hints", meaning)
    assert verdict == Verdict("valid", "4 heads, 1 frame, 1 message")


def test_verdict_on_response_without_accept_key_is_refused() -> None:
    _, verdict = explain(without(RESPONSE, "Sec-WebSocket-Accept"))
    assert verdict.reason == "the response's Sec-WebSocket-Accept does not fit the key"
