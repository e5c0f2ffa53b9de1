"""Capture files of packets: pcap and pcapng, the link layers, and the reassembly of TCP."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.explain import packets
from tests.explain.packets import (
    ACK,
    CLIENT,
    CLIENT_6,
    FIN,
    LINK_TYPES,
    RAW,
    RST,
    SERVER,
    SERVER_6,
    SYN,
    Endpoint,
    block,
    framed,
    interface,
    pcap,
    pcapng,
    section,
    tcp_packet,
)
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.captures.conversation import Conversation
from wsproto_min.explain.captures.packets import parse_packet
from wsproto_min.explain.captures.pcap import read_segments
from wsproto_min.explain.captures.reader import is_capture, read_capture
from wsproto_min.explain.conversation_dissector import ConversationDissector
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.verdict import Verdict
from wsproto_min.handshake import accept_key
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.testing.raw_frame import parse_frame_notation
from wsproto_min.testing.strategies import chunkings

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = upgrade_request("a", "/", KEY)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_key(KEY).encode() + b"\r\n\r\n"
)
HELLO = parse_frame_notation("81 05 . 48656c6c6f", masked=True)
ANSWER = parse_frame_notation("81 02 . 6869 | 88 02 . 03e8", masked=False)
CLIENT_ISN, SERVER_ISN = 1000, (1 << 32) - 20  # the server's numbers wrap around


def from_client(position: int, payload: bytes = b"", **options: Any) -> bytes:
    """Return a packet of the client; `position` counts its bytes from 0."""
    return tcp_packet(CLIENT, SERVER, CLIENT_ISN + 1 + position, payload, **options)


def from_server(position: int, payload: bytes = b"", **options: Any) -> bytes:
    return tcp_packet(SERVER, CLIENT, SERVER_ISN + 1 + position, payload, **options)


OPENING = [
    from_client(-1, flags=SYN),
    from_server(-1, flags=SYN | ACK, acknowledged=CLIENT_ISN + 1),
    from_client(0, REQUEST),
    from_server(0, RESPONSE),
]
FRAMES = [from_client(len(REQUEST), HELLO), from_server(len(RESPONSE), ANSWER)]
CLOSING = [
    from_server(len(RESPONSE + ANSWER), flags=FIN | ACK),
    from_client(
        len(REQUEST + HELLO), flags=ACK, acknowledged=SERVER_ISN + 2 + len(RESPONSE + ANSWER)
    ),
]
WHOLE = [*OPENING, *FRAMES, *CLOSING]
UDP = WHOLE[2][:9] + b"\x11" + WHOLE[2][10:]
FRAGMENT = WHOLE[2][:6] + b"\x20\x00" + WHOLE[2][8:]
SHORT_HEADER = WHOLE[2][:32] + b"\x40" + WHOLE[2][33:]  # data offset 4


def explain(data: bytes) -> list[tuple[list[Any], Verdict]]:
    """Return events and verdict of each connection."""
    found, _ = read_capture(data)
    results = []
    for each in found:
        assert isinstance(each, Conversation)
        dissector = ConversationDissector(
            each, max_message_size=DEFAULT_MAX_MESSAGE_SIZE, max_fragments=None
        )
        results.append((list(dissector.events()), dissector.verdict))
    return results


def verdict_of(*sent: bytes) -> tuple[str, str]:
    ((_, verdict),) = explain(pcap(sent))
    return verdict.result, verdict.reason


@pytest.mark.parametrize("link_type", LINK_TYPES)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", ["us", "ns", "ng", "ng old", "ng simple"])
def test_capture_of_each_form_gives_heads_and_frames(
    link_type: int, order: packets.Order, form: str
) -> None:
    if form in ("us", "ns"):
        data = pcap(WHOLE, link_type, order=order, nanoseconds=form == "ns")
    else:
        kind = {"ng": 6, "ng old": 2, "ng simple": 3}[form]
        data = pcapng(WHOLE, link_type, order=order, kind=kind)
    assert is_capture(data)
    ((events, verdict),) = explain(data)
    assert [type(event).__name__ for event in events] == ["HandshakeLines"] * 2 + [
        "FrameReport"
    ] * 3
    assert [event.event for event in events[2:4]] == ["Hello", "hi"]
    assert [event.number for event in events[2:]] == [1, 2, 3]
    assert verdict.reason == "2 heads, 3 frames, 2 messages"


def test_capture_of_ipv6_is_read_with_extension_headers() -> None:
    def packet(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
        plain = tcp_packet(source, destination, 1, payload)
        size = int.from_bytes(plain[4:6], "big") + 8
        options = b"\x06\x00" + bytes(6)  # the next header is TCP
        return plain[:4] + size.to_bytes(2, "big") + b"\x00" + plain[7:40] + options + plain[40:]

    data = pcap([packet(CLIENT_6, SERVER_6, REQUEST), packet(SERVER_6, CLIENT_6, RESPONSE)])
    found, _ = read_capture(data)
    assert [each.name for each in found] == ["[::1]:50000 to [::1]:8765"]
    assert explain(data)[0][1].reason == "2 heads, 0 frames, 0 messages"


def test_packet_with_vlan_tags_is_read() -> None:
    frame = framed(WHOLE[2], packets.ETHERNET)
    tagged = frame[:12] + b"\x88\xa8\x00\x01\x81\x00\x00\x02" + frame[12:]
    segment = parse_packet(packets.ETHERNET, tagged)
    assert segment is not None
    assert segment.payload == REQUEST


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", UDP, FRAGMENT, SHORT_HEADER, WHOLE[2][:30], b"\x60", b"\x60" + bytes(39)],
)
def test_packet_without_a_whole_tcp_header_is_skipped(packet: bytes) -> None:
    assert parse_packet(RAW, packet) is None


def test_packet_of_another_ethernet_protocol_is_skipped() -> None:
    assert parse_packet(packets.ETHERNET, bytes(12) + b"\x08\x06" + bytes(28)) is None


def test_packet_with_size_0_has_the_captured_size() -> None:
    whole = WHOLE[2]
    segment = parse_packet(RAW, whole[:2] + bytes(2) + whole[4:])
    assert segment is not None
    assert segment.payload == REQUEST
    v6 = tcp_packet(CLIENT_6, SERVER_6, 1, REQUEST)
    segment = parse_packet(RAW, v6[:4] + bytes(2) + v6[6:])
    assert segment is not None
    assert segment.payload == REQUEST


# Streams with gaps


def test_stream_with_a_missing_segment_ends_there() -> None:
    size = len(REQUEST)
    lost = [*OPENING, from_client(size, HELLO), from_client(size + len(HELLO) + 3, HELLO)]
    lost += [from_client(size + len(HELLO) + 50, HELLO), UDP]
    ((events, verdict),) = explain(pcap(lost))
    assert sum(isinstance(event, FrameReport) for event in events) == 1
    end = size + len(HELLO)
    assert (verdict.result, verdict.stream, verdict.needs) == ("incomplete", "client", 3)
    assert verdict.reason == f"bytes from {end} on are missing from the capture"


def test_stream_with_a_truncated_packet_ends_there() -> None:
    kept = len(OPENING[2])
    long = parse_frame_notation("82 7e 0200 ." + "00" * 512, masked=False)
    sent = [*OPENING, from_server(len(RESPONSE), long)]
    ((events, verdict),) = explain(pcap(sent, kept=kept))
    assert (
        verdict.reason == f"bytes from {kept - 40 + len(RESPONSE)} on are missing from the capture"
    )
    assert verdict.needs == len(long) - (kept - 40)
    assert events[-1].verdict.result == "incomplete"


def test_stream_acknowledged_beyond_its_end_is_incomplete() -> None:
    number = SERVER_ISN + 1 + len(RESPONSE)
    late = from_client(len(REQUEST), acknowledged=number + 100)
    early = from_client(len(REQUEST), acknowledged=number)
    assert verdict_of(*OPENING, late, early)[0] == "incomplete"
    assert verdict_of(*OPENING, early)[0] == "valid"
    invalid = from_client(len(REQUEST), acknowledged=number + (1 << 30) + 2)
    assert verdict_of(*OPENING, invalid)[0] == "valid"
    reset = from_client(len(REQUEST), acknowledged=number + 100, flags=RST | ACK)
    assert verdict_of(*OPENING, reset)[0] == "valid"


def test_stream_with_contradicting_segments_ends_before_them() -> None:
    size = len(RESPONSE)
    other = ANSWER[:3] + b"X" + ANSWER[4:]
    result, reason = verdict_of(*OPENING, from_server(size, ANSWER), from_server(size, other))
    assert (result, reason) == (
        "incomplete",
        f"bytes from {size + 3} on are sent twice with different values",
    )


def test_stream_ignores_the_byte_of_a_keepalive_probe() -> None:
    probe = from_client(len(REQUEST) - 1, b"\x00")
    assert verdict_of(*OPENING, probe, *FRAMES)[0] == "valid"


def test_stream_ignores_segments_before_its_begin() -> None:
    assert verdict_of(*OPENING, from_client(-9, b"\x01" * 9), *FRAMES)[0] == "valid"


def test_stream_after_a_frame_that_is_impossible_is_broken() -> None:
    sent = [*OPENING, from_client(len(REQUEST), b"\x83\x80" + bytes(4) + HELLO)]
    ((events, verdict),) = explain(pcap(sent))
    assert (verdict.result, verdict.offset) == ("broken", len(REQUEST))
    assert len(events) == 3


def test_stream_that_is_broken_before_its_gap_is_broken() -> None:
    size = len(REQUEST)
    sent = [*OPENING, from_client(size, b"\x83"), from_client(size + 10, HELLO)]
    ((_, verdict),) = explain(pcap(sent))
    assert (verdict.result, verdict.stream, verdict.offset) == ("broken", "client", size)


def test_stream_with_a_malformed_head_is_refused() -> None:
    ((_, verdict),) = explain(pcap([*OPENING[:3], from_server(0, b"HTTP/1.1 abc\r\n\r\n")]))
    assert (verdict.result, verdict.stream) == ("refused", "server")


def test_capture_of_the_client_alone_assumes_its_offer() -> None:
    offer = REQUEST[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    frame = parse_frame_notation("c1 07 . f248cdc9c90700", masked=True)
    sent = [from_client(-1, flags=SYN), from_client(0, offer), from_client(len(offer), frame)]
    result, reason = verdict_of(*sent)
    assert result == "valid"
    assert reason.endswith("compression as offered, because the response is missing")


# Several connections


def test_connections_between_the_same_ports_begin_with_their_syn() -> None:
    again = [
        tcp_packet(CLIENT, SERVER, 70_000, flags=SYN),
        tcp_packet(SERVER, CLIENT, 80_000, flags=SYN | ACK),
        tcp_packet(CLIENT, SERVER, 70_001, REQUEST),
        tcp_packet(SERVER, CLIENT, 80_001, RESPONSE),
    ]
    repeated = [*again[:1], *again]  # the SYN is sent twice
    results = explain(pcap([*WHOLE, *repeated]))
    assert [verdict.reason for _, verdict in results] == [
        "2 heads, 3 frames, 2 messages",
        "2 heads, 0 frames, 0 messages",
    ]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([OPENING[0]], "no data"),
        ([*OPENING[:2], from_client(0, b"\x16\x03\x01\x00")], "encrypted with TLS"),
        ([*OPENING[:2], from_client(0, b"SSH-2.0-x\r\n")], "not HTTP"),
        ([from_client(9, HELLO), from_server(9, ANSWER)], "its beginning is missing"),
        (
            [from_client(0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")],
            "the first request is not for a WebSocket",
        ),
        ([from_client(0, REQUEST), from_server(9, ANSWER)], "the response's beginning is missing"),
        ([*OPENING[:3], from_server(0, ANSWER)], "the response is not HTTP"),
    ],
)
def test_connection_without_a_websocket_is_skipped(sent: list[bytes], reason: str) -> None:
    with pytest.raises(ValueError, match="there is no WebSocket connection in it") as raised:
        read_capture(pcap(sent))
    assert reason in str(raised.value)
    found, skipped = read_capture(
        pcap([*sent, *(each[:20] + b"\x00\x01\x00\x02" + each[24:] for each in WHOLE[2:3])])
    )
    assert len(found) == 1
    assert [each.reason.startswith(reason) for each in skipped] == [True]


def test_capture_without_connections_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no WebSocket connection in it; record from before"):
        read_capture(pcap([]))


# Corrupt files


PCAP, NG = pcap(WHOLE), pcapng(WHOLE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PCAP[:20], "ends at byte 20, in its header"),
        (PCAP[:30], "the packet at byte 24 ends at byte"),
        (PCAP[:-1], f"but the file has {len(PCAP) - 1} bytes"),
        (pcap([], 127), r"link type 127 \(byte 20\) is not supported"),
        (b"\xa1\xb2\xcd\x34" + bytes(20), "has modified records"),
        (NG[:-1], "has size .*, which its end does not confirm"),
        (section() + b"\x06\x00\x00\x00\x08\x00\x00\x00", "the block at byte 28 has size 8"),
        (section() + block(6, bytes(20)), "at byte 28 names interface 0, of 0"),
        (section() + interface(127) + block(6, bytes(20)), r"link type 127 \(byte 36\)"),
        (section() + interface() + block(6, b"\x00" * 12 + b"\xff" * 8), "larger than its block"),
    ],
)
def test_capture_that_is_corrupt_is_refused_with_the_place(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(read_segments(data))


def test_pcapng_simple_packet_is_truncated_to_the_kept_size() -> None:
    packet = WHOLE[2]
    kept = 60
    simple = block(3, len(packet).to_bytes(4, "little") + packet[:kept])
    (segment,) = read_segments(section() + interface(kept=kept) + simple)
    assert segment.payload == REQUEST[: kept - 40]
    assert segment.size == len(REQUEST)


@given(st.data())
def test_capture_with_any_changes_raises_only_value_error(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([PCAP, NG])))
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[position] = data.draw(st.integers(0, 255))
    changed = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert problem(changed).startswith(("pcap", "capture: ", "none"))


def problem(data: bytes) -> str:
    try:
        if is_capture(data):
            explain(data)
    except ValueError as error:
        return str(error)
    return "none"


@pytest.mark.parametrize(
    "start",
    [b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"RTSS", b"GMBU"],
)
def test_capture_of_another_format_is_refused(start: bytes) -> None:
    with pytest.raises(ValueError, match=r"input is (compressed|a ZIP|a capture)"):
        is_capture(start + bytes(20))


# Any order of segments


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return the streams of both ends, possibly with a wrong byte."""
    compression = draw(st.sampled_from([None, DeflateParameters.DEFAULT]))
    extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    streams = {Role.CLIENT: bytearray(REQUEST), Role.SERVER: bytearray(RESPONSE)}
    ends = {role: Connection(role, compression=compression) for role in Role}
    if compression is not None:
        for stream in streams.values():
            stream[-2:] = extension
    for role in draw(st.lists(st.sampled_from(Role), max_size=8)):
        end = ends[role]
        end.send(draw(st.one_of(st.text(max_size=20), st.binary(max_size=20))))
        streams[role] += end.data_to_send()
    wrong = draw(st.sampled_from([None, *Role]))
    if wrong is not None:
        begin = len(REQUEST if wrong is Role.CLIENT else RESPONSE) + 80
        if begin < len(streams[wrong]):
            position = draw(st.integers(begin, len(streams[wrong]) - 1))
            streams[wrong][position] ^= 1 << draw(st.integers(0, 7))
    return bytes(streams[Role.CLIENT]), bytes(streams[Role.SERVER])


def plain_reports(client: bytes, server: bytes) -> dict[Role, tuple[list[Any], Verdict]]:
    """Return the reports on the bytes of both ends without TCP."""
    context = HandshakeContext()
    dissectors = {role: Dissector(role, context=context) for role in Role}
    for role, data in ((Role.CLIENT, client), (Role.SERVER, server)):
        dissectors[role].receive_data(data[: data.index(b"\r\n\r\n") + 4])
    heads = {role: list(dissectors[role].events()) for role in Role}
    for role, data in ((Role.CLIENT, client), (Role.SERVER, server)):
        dissectors[role].receive_data(data[data.index(b"\r\n\r\n") + 4 :])
        dissectors[role].receive_eof()
    return {
        role: (heads[role] + list(dissector.events()), dissector.verdict)
        for role, dissector in dissectors.items()
    }


@given(st.data(), conversations())
def test_capture_with_segments_in_any_order_equals_plain_bytes(
    data: st.DataObject, streams: tuple[bytes, bytes]
) -> None:
    client, server = streams
    v6 = data.draw(st.booleans())
    ends = (CLIENT_6, SERVER_6) if v6 else (CLIENT, SERVER)
    sent = []
    # One draw for all segments: hundreds of draws make the test slow.
    random = Random(data.draw(st.integers(0, 1 << 32)))
    for (source, destination), stream in ((ends, client), (ends[::-1], server)):
        start = data.draw(st.sampled_from([1, (1 << 32) - 1, (1 << 32) - 100, 1 << 31]))
        sent.append(tcp_packet(source, destination, start - 1, flags=SYN))
        position = 0
        for chunk in data.draw(chunkings(stream)):
            before = random.randint(0, min(9, position))  # bytes sent again
            after = random.randint(0, 9)
            begin, end = position - before, position + len(chunk) + after
            packet = tcp_packet(source, destination, start + begin, stream[begin:end])
            sent += [packet] * random.randint(1, 2)
            position += len(chunk)
    random.shuffle(sent)
    order: packets.Order = data.draw(st.sampled_from(["little", "big"]))
    link_type = data.draw(st.sampled_from(LINK_TYPES))
    is_pcap = data.draw(st.booleans())
    capture = (pcap if is_pcap else pcapng)(sent, link_type, order=order)
    with patch("os.urandom", bytes):  # one masking key for the replies of both readings
        ((events, verdict),) = explain(capture)
        expected = plain_reports(client, server)
    numbers = [event.number for event in events if isinstance(event, FrameReport)]
    assert numbers == list(range(1, len(numbers) + 1))
    for role, (reports, plain) in expected.items():
        own: list[Any] = []
        for event in events:
            if isinstance(event, FrameReport):
                if event.sender is role:
                    own.append(replace(event, number=len(own)))
            elif (event.kind == "request") is (role is Role.CLIENT):
                own.append(event)
        assert own == [
            replace(each, number=index) if isinstance(each, FrameReport) else each
            for index, each in enumerate(reports)
        ]
        if plain.result != "valid" and verdict.stream == role.value:
            assert verdict == replace(plain, stream=role.value)
    results = {plain.result for _, plain in expected.values()}
    assert verdict.result == next(
        each for each in ("broken", "refused", "incomplete", "valid") if each in results
    )
