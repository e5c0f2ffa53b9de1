"""Text renderer: frames, handshakes, verdicts, and safe output on a terminal."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.connection import Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext, HandshakeLines
from wsproto_min.explain.render_text import render, render_brief, render_verdict
from wsproto_min.explain.style import coloured, hexadecimal, plain, printable, quoted, shortened
from wsproto_min.explain.verdict import Verdict, status_name
from wsproto_min.testing.raw_frame import RawFrame, parse_frame_notation

HELLO = bytes.fromhex("8185 37fa213d 7f9f4d5158")  # RFC 6455, section 5.7


def rendered(data: bytes, *, sender: Role | None = None, brief: bool = False) -> list[str]:
    dissector = Dissector(sender, context=HandshakeContext(DeflateParameters.DEFAULT))
    dissector.receive_data(data)
    dissector.receive_eof()
    events: list[HandshakeLines | FrameReport] = list(iter(dissector.next_event, None))
    if brief:
        return [line for event in events for line in render_brief(event)]
    lines = [line for event in events for line in render(event, plain)]
    return lines + list(render_verdict(dissector.verdict))


def test_render_masked_hello_shows_the_bits_of_the_rfc_example() -> None:
    assert (
        "\n".join(rendered(HELLO))
        == """\
Frame 1: TEXT, client to server

          0                   1                   2                   3
          0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
         +-+-+-+-+-------+-+-------------+-------------------------------+
       0 |1|0|0|0|0 0 0 1|1|0 0 0 0 1 0 1|0 0 1 1 0 1 1 1 1 1 1 1 1 0 1 0|
         |F|R|R|R|opcode |M| payload len |          masking key          |
         |I|S|S|S|  0x1  |A|      5      |          37 fa 21 3d          |
         |N|V|V|V|       |S|             |                               |
         | |1|2|3|       |K|             |                               |
         +-+-+-+-+-------+-+-------------+-------------------------------+
       4 |0 0 1 0 0 0 0 1 0 0 1 1 1 1 0 1|0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 1|
         |      masking key (cont.)      |        payload, masked        |
         +-------------------------------+---------------+---------------+
       8 |0 1 0 0 1 1 0 1 0 1 0 1 0 0 0 1 0 1 0 1 1 0 0 0|
         |            payload, masked (cont.)            |
         +-----------------------------------------------+

  0           81                       FIN 1, RSV 000, TEXT                  5.2
  1           85                       MASK 1, 7-bit length 5                5.2
  2-5         37 fa 21 3d              masking key                           5.3
  6-10        7f 9f 4d 51 58           payload, masked: 5 bytes              5.6

  Unmasking: byte i XOR byte i modulo 4 of the key (5.3)
    i           0    1    2    3    4
    masked     7f   9f   4d   51   58
    key        37   fa   21   3d   37
    XOR        48   65   6c   6c   6f
    ASCII       H    e    l    l    o

  Message: text, 5 bytes
    'Hello'

VALID: 1 frame, 1 message."""
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("82 7e 0100" + "00" * 256, "|        extended length        |"),
        ("82 7e 0100" + "00" * 256, "|              256              |"),
        ("82 7e 0100" + "00" * 256, "length in 16 bits: 256                5.2"),
        ("82 ff 0000000000010000 01020304", "length in 64 bits: 65536              5.2"),
        ("82 ff 00000000", "length in 64 bits: incomplete         5.2"),
        ("82 82 0102", "masking key, incomplete               5.3"),
        ("82 05 0102", "payload: 2 of 5 bytes                 5.6"),
        ("82 02 0102", "  Message: binary, 2 bytes"),
        ("82 02 0102", "    01 02"),
        ("82 8d 00000000 " + "61" * 13, "of the key (5.3); 1 more follow"),
        ("01 02 c3a9", "  Fragment 1 of a text message, more to come (5.4)"),
        ("01 02 c3a9", "    'é'"),
        ("01 02 48c3", r"    'H\xc3'"),
        ("01 02 48c3 80 01 a9", r"    '\xa9'"),
        ("01 02 48c3 80 01 a9", "    'Hé'"),
        ("01 00 80 00", "  Fragment 2 of a text message, the last one (5.4)"),
        ("41 03 f248cd", "  Fragment 1 of a compressed text message, more to come (5.4)"),
        ("c1 07 f248cdc9c90700", "compressed text, 5 bytes, 7 on the wire (RFC 7692, 7.2.2)"),
        ("89 02 6869", "  Ping 'hi'"),
        ("89 02 6869", "  The receiver answers with a Pong of the same payload (5.5.3)."),
        ("89 00", "  Ping"),
        ("8a 02 00ff", r"  Pong '\x00\xff'"),
        ("88 00", "  Close 1005 NO_STATUS_RCVD"),
        ("88 04 03e9 6869", "  Close 1001 GOING_AWAY 'hi'"),
        ("88 00", "  The receiver answers with an empty Close (5.5.1)."),
        ("88 02 0fa0", "  Close 4000"),
        ("88 02 0fa0", "  The receiver answers with Close 4000 (5.5.1)."),
        ("88 00 81 00", "  Ignored: a Close frame is the last frame of its sender (5.5.1)."),
        (
            "88 01 03",
            "BROKEN at byte 2: a Close frame has a payload of one byte (RFC 6455, 5.5.1).",
        ),
        ("88 83 00000000 03e8ff", "close code, masked: 1000            5.5.1"),
        (
            "88 83 00000000 03e8ff",
            "ff                       reason, masked: 1 byte              5.5.1",
        ),
        ("88 04 03e8 68", "reason: 1 of 2 bytes                5.5.1"),
        ("83", "Frame 1: opcode 0x3"),
        ("83 80", "Frame 1: opcode 0x3, client to server"),
        ("83 00", "Frame 1: opcode 0x3, server to client"),
        ("83", "  The receiver sends a Close with 1002 PROTOCOL_ERROR (7.1.7)."),
        ("81", "  Missing: at least 1 byte."),
        ("81 02", "  Missing: 2 bytes."),
    ],
)
def test_render_frame_has_expected_line(data: str, expected: str) -> None:
    lines = rendered(bytes.fromhex(data))
    assert any(line == expected or expected in line for line in lines), "\n".join(lines)


def test_render_request_explains_lines_and_accept_key() -> None:
    lines = rendered(upgrade_request("a", "/", "dGhlIHNhbXBsZSBub25jZQ==", headers=[("X-Y", "\t")]))
    text = "\n".join(lines)
    assert "  Host: a\n      the server's name (4.1, item 4)" in text
    assert "  X-Y: \\t\n      not part of the handshake" in text
    assert "SHA-1       b3 7a 4f 2c c0 62 4f 16 90 f6 46 06 cf 38 59 45 b2 be c4 ea" in text
    assert "that in base64  s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in text
    assert lines[-1] == "VALID: 1 head, 0 frames, 0 messages."


def test_render_verdict_on_refusal_shows_the_status() -> None:
    *_, last = rendered(b"GET / HTTP/1.1\r\n\r\n")
    assert last == "  The server answers 400 Bad Request and closes the connection."
    lines = rendered(b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\n\r\n")
    assert lines[-1].startswith("  The client closes the connection, without a Close frame")
    assert status_name(299) == "299"


def test_render_response_notes_compression_in_both_forms() -> None:
    head = (
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\n\r\n"
    )
    assert "  compression: no" in rendered(head)
    assert rendered(head, brief=True)[-1] == "  (compression: no)"


def test_render_brief_shows_a_frame_in_a_few_lines() -> None:
    assert rendered(HELLO, brief=True) == [
        "TEXT, 11 bytes: FIN=1 RSV=000 MASK=1 key=37fa213d length=5",
        "  81 85 37 fa 21 3d 7f 9f 4d 51 58",
        "  Message: text, 5 bytes",
        "    'Hello'",
    ]
    assert rendered(b"\x83", brief=True) == [
        "opcode 0x3, 1 byte: FIN=1 RSV=000",
        "  83",
        "BROKEN at byte 0: opcode 0x3 is reserved (RFC 6455, 5.2).",
        "  The rule: Opcodes 3 to 7 and B to F are reserved and must not be sent.",
        "  The receiver sends a Close with 1002 PROTOCOL_ERROR (7.1.7).",
    ]


def columns(line: str) -> int:
    """Return the width on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


FRAMES = st.builds(
    RawFrame,
    st.sampled_from([0, 1, 2, 1, 2, 8, 9, 3]),
    st.binary(max_size=20) | st.text(min_size=10).map(str.encode) | st.just(bytes(300)),
    st.booleans(),
    st.none() | st.binary(min_size=4, max_size=4),
    st.sampled_from([0, 0, 0, 4, 1]),
)
HEADS = st.sampled_from([b"GET / HTTP/1.1\r\n", b"HTTP/1.1 101 OK\r\nUpgrade: "])


@given(
    st.binary(max_size=80)
    | st.lists(FRAMES, max_size=4).map(lambda sent: b"".join(frame.data for frame in sent))
    | st.builds(lambda head, rest: head + rest + b"\r\n\r\n", HEADS, st.binary(max_size=200)),
)
def test_render_any_bytes_fits_80_columns_and_is_printable(data: bytes) -> None:
    for line in rendered(data) + [f"> {line}" for line in rendered(data, brief=True)]:
        assert line.isprintable(), line
        assert columns(line) <= 80, line


def test_render_in_colour_adds_only_escape_sequences() -> None:
    data = (
        HELLO
        + upgrade_request("a", "/", "x" * 24)
        + parse_frame_notation("82 7e 0400 .", masked=False)
    )
    for part in (HELLO, data[len(HELLO) :], data[-4:], b"\x83"):
        dissector = Dissector()
        dissector.receive_data(part)
        dissector.receive_eof()
        events: list[HandshakeLines | FrameReport] = list(iter(dissector.next_event, None))
        bare = [line for event in events for line in render(event, plain)]
        painted = [line for event in events for line in render(event, coloured)]
        bare += render_verdict(dissector.verdict, plain)
        painted += render_verdict(dissector.verdict, coloured)
        assert painted != bare
        assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in painted] == bare


def test_render_verdict_escapes_the_reason() -> None:
    (line,) = render_verdict(Verdict("incomplete", "so \x1b[2J it goes"))
    assert line == r"INCOMPLETE: so \x1b[2J it goes."


# Characters that control a terminal

DANGEROUS = {
    "\x1b[2J": r"\x1b[2J",  # ESC: clear the screen
    "\x07": r"\x07",
    "\r": r"\r",
    "\n": r"\n",
    "\x00": r"\x00",
    "\x7f": r"\x7f",
    "\x9b31m": r"\x9b31m",  # CSI in one character
    "\u202e": r"\u202e",  # right-to-left override
    "\u2066": r"\u2066",
    "\u200b": r"\u200b",
    "\u2028": r"\u2028",
    "\ufeff": r"\ufeff",
    "\U000e0041": r"\U000e0041",  # a tag character
}


@pytest.mark.parametrize("character", DANGEROUS, ids=ascii)
def test_render_escapes_terminal_control_characters_once(character: str) -> None:
    assert printable(f"a{character}b") == f"a{DANGEROUS[character]}b"
    payload = f"a{character}b".encode()
    shown = f"'a{DANGEROUS[character]}b'"
    text = rendered(parse_frame_notation(f"81 {len(payload):02x} . {payload.hex()}", masked=True))
    assert f"    {shown}" in text
    reason = b"\x03\xe8" + payload
    close = rendered(parse_frame_notation(f"88 {len(reason):02x} . {reason.hex()}", masked=False))
    assert f"  Close 1000 NORMAL_CLOSURE {shown}" in close


def test_printable_leaves_ordinary_text_unchanged() -> None:
    text = "Gr\u00fc\u00dfe, \u4f60\u597d, \u05e9\u05dc\u05d5\u05dd \U0001f600 'quoted' \\"
    assert printable(text) == text


@given(st.text())
def test_printable_has_no_control_or_format_characters(text: str) -> None:
    assert all(unicodedata.category(c)[0] != "C" for c in printable(text))


def test_render_fragment_within_a_character_shows_its_bytes() -> None:
    assert r"    'a\xc3'" in rendered(bytes.fromhex("01 02 61c3"))


def test_quoted_long_text_is_truncated_by_its_width() -> None:
    assert quoted("x" * 30, 20) == "'" + "x" * 16 + "..."
    assert quoted("\u4f60" * 30, 20) == "'" + "\u4f60" * 8 + "..."
    assert shortened("\u4f60" * 10, 20) == "\u4f60" * 10
    assert quoted(b"\x00" * 30, 20) == r"'\x00\x00\x00\x00..."
    assert hexadecimal(bytes(9), 23) == "00 00 00 00 00 00 00 .."
