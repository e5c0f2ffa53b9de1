"""Hex dumps of other programs: read, or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.explain.hex_dump import parse_dump
from wsproto_min.explain.hex_input import parse_input, parse_text

HELLO = b"\x81\x05Hello"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("00000000: 8105 4865 6c6c 6f                        ..Hello", id="xxd"),
        pytest.param("00000000: 81 05 48 65 6c 6c 6f                 ..Hello", id="xxd -g 1"),
        pytest.param("00000000: 8105 4865 6c6c 6f", id="xxd without text"),
        pytest.param("00000000: 8105 4865 6c6c 6f ..Hello", id="xxd as words"),
        pytest.param("00000000: 8105 48\n00000003: 656c 6c6f", id="xxd, two lines"),
        pytest.param(
            "00000000  81 05 48 65 6c 6c 6f      |..Hello|\n00000007", id="hexdump -C with its end"
        ),
        pytest.param("00000000  81 05 48 65  6c 6c 6f  |..Hello|", id="hexdump -C, two halves"),
        pytest.param("0000000 81 05 48 65 6c 6c 6f\n0000007", id="od -t x1"),
        pytest.param("000000 81 05 48 65 6c 6c 6f  >..Hello<\n000007", id="od -A x -t x1z"),
        pytest.param("0000   81 05 48 65 6c 6c 6f         ..Hello", id="Wireshark"),
        pytest.param("0000   81 05 48 65 6c 6c 6f", id="offset and bytes"),
        pytest.param("    00000010  81 05 48 65 6c 6c 6f   |..Hello|", id="from the middle"),
        pytest.param("<Buffer 81 05 48 65 6c 6c 6f>", id="Node.js"),
        pytest.param("<Buffer 81 05>\n<Buffer 48 65 6c 6c 6f>\n", id="Node.js, two buffers"),
        pytest.param(
            " 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F\n"
            "00000000   81 05 48 65 6C 6C 6F        ..Hello",
            id="Format-Hex",
        ),
    ],
)
def test_parse_text_of_a_dump_returns_its_bytes(text: str) -> None:
    assert parse_text(text) == HELLO
    assert parse_input(text.encode()) == HELLO
    assert parse_input(REQUEST + text.encode()) == REQUEST + HELLO


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("00000000: 65480581 006f6c6c  ..Hello.", "reversed words", id="xxd -e"),
        pytest.param("00000000:     0082           ..", "reversed words", id="xxd -e, short"),
        pytest.param("00000000: 10000001 00000101  ..", "reversed words", id="xxd -b"),
        pytest.param("0000000 0581 6548 6c6c 006f", "machine's byte order", id="hexdump"),
        pytest.param("000000 0581 6548", "machine's byte order", id="od -A x -x"),
        pytest.param("0000   8105 4865", "machine's byte order", id="words after an offset"),
        pytest.param("00000010  6c 6f", "may begin with an offset", id="offset, no text"),
        pytest.param("\t0x0000:  4500 003c  E..<", "IP and TCP headers", id="tcpdump -X"),
        pytest.param("00000000  81 05  |..|\n*\n00000020", "leaves out", id="hexdump without -v"),
        pytest.param("00000000: 8105  .x", "the text column", id="another text"),
        pytest.param("00000000: 8z05 48", "the text column", id="neither hex nor text"),
        pytest.param("0000  81 05\n0003  48 65", "do not agree", id="line missing"),
        pytest.param("0000  81 05\n0008  48 65", "do not agree", id="no octal offset"),
        pytest.param("0000  81 05\nend", "has no offset", id="line without offset"),
        pytest.param("<Buffer 81 05 ... 12 more bytes>", "left out", id="Node.js, shortened"),
    ],
)
def test_parse_text_of_an_unclear_dump_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_text(text)


@pytest.mark.parametrize("text", ["8105 48 65", "0103 48 65 6c", "0000 8100", "0000", "", "81 05"])
def test_parse_dump_of_plain_hex_returns_none(text: str) -> None:
    assert parse_dump(text) is None


@given(st.binary(min_size=1, max_size=200), st.sampled_from([8, 16]))
def test_parse_dump_reverses_hexdump(data: bytes, width: int) -> None:
    lines = []
    for start in range(0, len(data), width):
        row = data[start : start + width]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):{width * 3}} |{text}|")
    assert parse_dump("\n".join(lines)) == data


def test_parse_input_reads_hex_after_the_heads_of_a_handshake() -> None:
    response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    heads = REQUEST + response
    assert parse_input(heads + b"81 05 48 65 6c 6c 6f\n") == heads + HELLO
    assert parse_input(heads.replace(b"\r\n", b"\n") + b"81 00\n") == heads + b"\x81\x00"
    assert parse_input(heads + b"\n") == heads
    assert parse_input(heads + HELLO) == heads + HELLO
    with pytest.raises(ValueError, match="has characters other than"):
        parse_input(heads + b"Hello")
    assert parse_input(b"GET / HTTP/1.1\r\n") == b"GET / HTTP/1.1\r\n"
    refusal = b"HTTP/1.1 400 Bad Request\r\n\r\nno key"
    assert parse_input(refusal) == refusal
