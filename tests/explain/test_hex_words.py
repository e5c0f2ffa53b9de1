"""Dumps of words, columns of numbers, and text in other encodings: no wrong bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsproto_min.explain.hex_input import parse_input, parse_text
from wsproto_min.testing.strategies import nearly_valid

HELLO = b"\x81\x05Hello"


@pytest.mark.parametrize(
    "text",
    [
        "8105 4865 6c6c 6f",
        "8105\n4865\n6c6c\n6f",
        "810548656c6c6f",
        "81 0548 65 6c6c6f",
        "81 05 48 65  6c 6c 6f",
        "  81 05 48 65 6c 6c\n  6f",
    ],
)
def test_words_with_one_reading_are_hex(text: str) -> None:
    assert parse_text(text) == HELLO


def test_words_of_one_size_are_hex_without_another_reading() -> None:
    data = bytes.fromhex("8104 4865 6c6c")
    assert parse_text("8104 4865 6c6c") == data
    assert parse_text("81044865 6c6c8900") == data + b"\x89\x00"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(" 0581 6548 6c6c 006f", "words of 4 digits", id="od -A n -t x2"),
        pytest.param("0581 6548 6c6c 006f", "words of 4 digits", id="the same, stripped"),
        pytest.param("    0581    6548", "words of 4 digits", id="hexdump -x without offset"),
        pytest.param(" 0081", "words of 4 digits", id="one word"),
        pytest.param("65480581 006f6c6c", "words of 8 digits", id="od -t x4"),
        pytest.param("002601 062510 066154 000157", "words of 6 digits", id="od -t o2"),
        pytest.param("1699218817 0007302252", "words of 10 digits", id="od -t u4"),
        pytest.param("8102 6869", "words of 4 digits", id="two readings"),
        pytest.param("8305 4865", "words of 4 digits", id="both readings broken"),
        pytest.param("0101\n0000", "words of 4 digits", id="a reading with RSV1"),
        pytest.param("  72  84  84  80", "decimal numbers", id="od -t u1"),
        pytest.param("  10", "decimal numbers", id="od -t u1 of a byte"),
        pytest.param("   16777216 1006632960", "decimal numbers", id="od -t u4 of two widths"),
        pytest.param(" 129   5  72", "odd number|decimal", id="od -t u1 from 100 on"),
        pytest.param(" 201 005 110", "odd number", id="od -b"),
        pytest.param("-127    5   72", "characters other", id="od -t d1"),
        pytest.param("0000000 201 005", "odd number", id="hexdump -b"),
    ],
)
def test_words_with_several_readings_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_text(text)


def dump(data: bytes, size: int, base: int, order: str, address: str) -> str:
    """Return `data` as `od` prints it, with words of `size` bytes."""
    padded = data + bytes(-len(data) % size)
    bits = 8 * size
    width = {16: bits // 4, 8: -(-bits // 3), 10: len(str(256**size - 1))}[base]
    style = {16: f"0{width}x", 8: f"0{width}o", 10: f"{width}d"}[base]
    lines = []
    for begin in range(0, len(padded), 16):
        row = padded[begin : begin + 16]
        words = [
            int.from_bytes(row[at : at + size], "little" if order == "little" else "big")
            for at in range(0, len(row), size)
        ]
        offset = {"n": "", "o": f"{begin:07o}", "d": f"{begin:07d}", "x": f"{begin:06x}"}[address]
        lines.append(offset + "".join(f" {word:{style}}" for word in words))
    return "\n".join(lines) + "\n"


@given(
    st.one_of(nearly_valid(True), nearly_valid(False), st.binary(max_size=60)),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([16, 8, 10]),
    st.sampled_from(["little", "big"]),
    st.sampled_from("nodx"),
)
@example(b"\n", 1, 10, "little", "n")
@example(b"\n\x0b", 1, 10, "little", "n")
@example(b"\n\x0b", 1, 10, "little", "o")
@example(b"\n", 1, 10, "little", "x")
@example(b"\x05", 1, 10, "little", "n")
@example(b"\x01\0\0\0<", 4, 10, "big", "n")
def test_dump_of_any_words_is_read_right_or_refused(
    data: bytes, size: int, base: int, order: str, address: str
) -> None:
    text = dump(data, size, base, order, address)
    try:
        found = parse_text(text)
    except ValueError:
        found = data
    assert found == data, text


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff81 05 48 65 6c 6c 6f",
        "\x1b[1;32m81 05\x1b[0m 48 65 6c 6c 6f",
        "81 05\r48 65 6c 6c 6f\r",
        "# a comment\r81 05 48 65 6c 6c 6f\r",
        "81 05 48 65\r\n6c 6c 6f\r\n",
        "00000000: 8105 4865  ..He\r\n00000004: 6c6c 6f  llo\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text_of_other_editors_is_read(text: str, encoding: str) -> None:
    if encoding == "utf-16":  # with a byte order mark
        assert parse_input(text.removeprefix("\ufeff").encode(encoding)) == HELLO
        big_endian = b"\xfe\xff" + text.removeprefix("\ufeff").encode("utf-16-be")
        assert parse_input(big_endian) == HELLO
    else:
        assert parse_input(text.encode()) == HELLO


def test_text_with_a_latin_1_comment_is_read() -> None:
    assert parse_input(b"81 05 48 65 6c 6c 6f  # Gr\xfc\xdfe\n") == HELLO
    with pytest.raises(ValueError, match="words of 4 digits"):
        parse_input(b"0581 6548 # Gr\xfc\xdfe\n")
    for raw in (b"A#\xff", b"#\xff\n", b"\x81\x01#"):
        assert parse_input(raw) == raw


def test_text_whose_byte_order_mark_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="byte 5 is not utf-8, the encoding of its mark"):
        parse_input(b"\xef\xbb\xbf81\xff")
    with pytest.raises(ValueError, match="byte 2 is not utf-16-le"):
        parse_input(b"\xff\xfe8")
