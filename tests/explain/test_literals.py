"""Bytes as Python, JavaScript and C print them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.explain.hex_input import parse_input, parse_text
from wsproto_min.explain.literals import parse_literals

HELLO = b"\x81\x05Hello"
DECIMAL = "129, 5, 72, 101, 108, 108, 111"
HEX = "0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f"


@pytest.mark.parametrize(
    "text",
    [
        "<Buffer 81 05 48 65 6c 6c 6f>",
        "[ <Buffer 81 05>, <Buffer 48 65 6c 6c 6f> ]",
        r"b'\x81\x05Hello'",
        r'B"\x81\x05Hello"',
        "b'\\x81\\x05' +\n b'Hello'",
        r"[b'\x81\x05', b'Hello']",
        r"bytearray(b'\x81\x05Hello')",
        f"[{DECIMAL}]",
        f"Uint8Array(7) [\n  {DECIMAL}\n]",
        f"new Uint8Array([{DECIMAL}]);",
        f"bytes([{DECIMAL}])",
        f'{{"type":"Buffer","data":[{DECIMAL}]}}',
        f"{{ {HEX} }};",
        f"const uint8_t data[7] = {{ {HEX}, }};",
        f"unsigned char f_bin[] = {{\n  {HEX}\n}};\nunsigned int f_bin_len = 7;\n",
        "char peer0_0[] = { /* Packet 4 */\n0x81, 0x05 };\n// more\nchar peer0_1[] = {\n"
        "0x48, 0x65, 0x6c, 0x6c, 0x6f };\n",
    ],
)
def test_literals_are_read(text: str) -> None:
    assert parse_text(text) == HELLO
    assert parse_input(text.encode()) == HELLO
    assert parse_input(text.replace("\n", "\r\n").encode()) == HELLO


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<Buffer 81 05 ... 12 more bytes>", "bytes are left out"),
        ("<Buffer 81 05> and <Buffer 81 05>", "there is other text beside the bytes"),
        ("<Buffer 81 0", "there is other text beside the bytes"),
        (r"b'\x81' and b'\x05'", "there is other text beside the bytes"),
        (r"b'\x8'", "an escape or a character is invalid"),
        (r"b'\z'", "an escape or a character is invalid"),
        ("b'é'", "an escape or a character is invalid"),
        ("Uint8Array(200) [ 129, 5,\n ... 100 more items ]", "items are left out"),
        ("[129, 256]", "'256' is not a byte"),
        ("[129, 05, 100]", "'05' is not a byte"),
        ("{ 0x81 0x05 }", "'0x81 0x05' is not a byte"),
        ("[81, 85, 37]", "elements may be hex or decimal"),
        ("unsigned char f[] = { 0x81 };\nunsigned int f_len = 7;", "its length is 7"),
        ("{ 0x81 } 05", "there is other text beside it, '05'"),
        ("x = [129, 5]", "there is other text beside it"),
    ],
)
def test_literals_that_are_unclear_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_text(text)


@pytest.mark.parametrize("text", ["81 05", "", "8105 4865", "[81 05", "b'"])
def test_literals_of_another_form_are_none(text: str) -> None:
    assert parse_literals(text) is None


@given(st.binary())
def test_literals_of_python_are_reversed(data: bytes) -> None:
    assert parse_literals(repr(data)) == data
    assert parse_literals(repr(bytearray(data))) == data


@given(st.binary(min_size=1).filter(lambda data: any(byte > 99 or byte < 10 for byte in data)))
def test_literals_of_numbers_are_reversed(data: bytes) -> None:
    assert parse_literals(json.dumps(list(data))) == data
    assert parse_literals(f"{{{', '.join(map(hex, data))}}}") == data
