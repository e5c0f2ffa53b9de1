"""The dissector: bytes in hex, and what it says of them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import VIOLATIONS, Violation, chunkings, nearly_valid, wire
from wsproto_min.explain import Dissector, printable


def explained(data: bytes, *, masked: bool | None = None, ends: bool = True) -> list[str]:
    dissector = Dissector(masked=masked)
    lines = list(dissector.receive_data(data))
    return lines + (list(dissector.receive_eof()) if ends else [])


def columns(byte: str, meaning: str) -> str:
    return f"  {byte:24}{meaning}"


BITS = "RSV1=0 RSV2=0 RSV3=0"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        pytest.param(
            "81 05 48656c6c6f",
            [
                "TEXT frame, 7 bytes",
                columns("81", f"FIN=1 {BITS} opcode=0x1 (TEXT)"),
                columns("05", "MASK=0 length=5"),
                "  48 65 6c 6c 6f",
                columns("", "the payload: 'Hello'"),
            ],
            id="a text",
        ),
        pytest.param(
            "81 85 37fa213d 7f9f4d5158",
            [
                "TEXT frame, 11 bytes",
                columns("81", f"FIN=1 {BITS} opcode=0x1 (TEXT)"),
                columns("85", "MASK=1 length=5"),
                columns("37 fa 21 3d", "the masking key"),
                "  7f 9f 4d 51 58",
                columns("", "the payload, unmasked: 'Hello'"),
            ],
            id="the masked text of section 5.7",
        ),
        pytest.param(
            "01 03 48656c  80 02 6c6f",
            [
                "TEXT frame, 5 bytes",
                columns("01", f"FIN=0 {BITS} opcode=0x1 (TEXT)"),
                columns("03", "MASK=0 length=3"),
                "  48 65 6c",
                columns("", "the payload: 'Hel'"),
                "CONTINUATION frame, 4 bytes",
                columns("80", f"FIN=1 {BITS} opcode=0x0 (CONTINUATION)"),
                columns("02", "MASK=0 length=2"),
                "  6c 6f",
                columns("", "the payload: 'lo'"),
            ],
            id="two fragments",
        ),
        pytest.param(
            "82 7e 0080" + "00" * 128,
            [
                "BINARY frame, 132 bytes",
                columns("82", f"FIN=1 {BITS} opcode=0x2 (BINARY)"),
                columns("7e", "MASK=0 length=126"),
                columns("00 80", "the length: 128"),
                "  " + "00 " * 48 + "... (128 bytes)",
                columns("", "the payload: " + " ".join(["00"] * 48)),
            ],
            id="a length in 16 bits, of which the beginning is shown",
        ),
        pytest.param(
            "82 ff 0000000000010000 00000000" + "61" * 65536,
            [
                "BINARY frame, 65550 bytes",
                columns("82", f"FIN=1 {BITS} opcode=0x2 (BINARY)"),
                columns("ff", "MASK=1 length=127"),
                columns("00 00 00 00 00 01 00 00", "the length: 65536"),
                columns("00 00 00 00", "the masking key"),
                "  " + "61 " * 48 + "... (65536 bytes)",
                columns("", "the payload, unmasked: " + " ".join(["61"] * 48)),
            ],
            id="a length in 64 bits, and a key of zeros",
        ),
        pytest.param(
            "c1 07 f248cdc9c90700",
            [
                "TEXT frame, 9 bytes",
                columns("c1", "FIN=1 RSV1=1 RSV2=0 RSV3=0 opcode=0x1 (TEXT)"),
                columns("07", "MASK=0 length=7"),
                "  f2 48 cd c9 c9 07 00",
                columns("", "the payload: compressed, 7 bytes"),
            ],
            id="a compressed text",
        ),
        pytest.param(
            "88 09 03e9 676f6f646279 65",
            [
                "CLOSE frame, 11 bytes",
                columns("88", f"FIN=1 {BITS} opcode=0x8 (CLOSE)"),
                columns("09", "MASK=0 length=9"),
                "  03 e9 67 6f 6f 64 62 79 65",
                columns("", "the payload: 1001 GOING_AWAY 'goodbye'"),
            ],
            id="a Close",
        ),
        pytest.param(
            "88 02 0fa0",
            [
                "CLOSE frame, 4 bytes",
                columns("88", f"FIN=1 {BITS} opcode=0x8 (CLOSE)"),
                columns("02", "MASK=0 length=2"),
                "  0f a0",
                columns("", "the payload: 4000 ''"),
            ],
            id="a Close with an application's code",
        ),
        pytest.param(
            "89 00  8a 02 00ff",
            [
                "PING frame, 2 bytes",
                columns("89", f"FIN=1 {BITS} opcode=0x9 (PING)"),
                columns("00", "MASK=0 length=0"),
                "PONG frame, 4 bytes",
                columns("8a", f"FIN=1 {BITS} opcode=0xa (PONG)"),
                columns("02", "MASK=0 length=2"),
                "  00 ff",
                columns("", r"the payload: '\x00\xff'"),
            ],
            id="a Ping without payload and a Pong with one",
        ),
        pytest.param("", [], id="nothing"),
    ],
)
def test_each_field_of_a_frame_has_its_line_however_the_bytes_come(
    data: str, lines: list[str]
) -> None:
    received = bytes.fromhex(data)
    assert explained(received) == lines
    dissector = Dissector()
    single = [line for byte in received for line in dissector.receive_data(bytes([byte]))]
    assert single + list(dissector.receive_eof()) == lines


@pytest.mark.parametrize(
    ("data", "masked", "line"),
    [
        ("83", None, "BROKEN: opcode 0x3 is reserved (RFC 6455, 5.2); the receiver closes with"),
        ("81 05", True, "BROKEN: a client's frame is not masked (RFC 6455, 5.1); the receiver"),
        ("81 85", False, "BROKEN: a server's frame is masked (RFC 6455, 5.1); the receiver closes"),
        ("c9", None, "BROKEN: a control frame is marked as compressed (RFC 7692, 6.1); the"),
    ],
)
def test_a_broken_rule_is_named_and_nothing_after_it_is_explained(
    data: str, masked: bool | None, line: str
) -> None:
    dissector = Dissector(masked=masked)
    (told,) = dissector.receive_data(bytes.fromhex(data))
    assert told.startswith(line)
    assert told.endswith("closes with 1002 PROTOCOL_ERROR")
    assert dissector.failed
    assert list(dissector.receive_data(bytes.fromhex("81 00"))) == []
    assert list(dissector.receive_eof()) == []


@pytest.mark.parametrize(
    ("data", "last"),
    [
        ("88 01 03", "1002 PROTOCOL_ERROR"),  # half a code
        ("88 02 03ed", "1002 PROTOCOL_ERROR"),  # 1005
        ("88 03 03e8 ff", "1007 INVALID_FRAME_PAYLOAD_DATA"),
    ],
)
def test_a_close_that_breaks_a_rule_is_shown_with_the_rule(data: str, last: str) -> None:
    lines = explained(bytes.fromhex(data))
    assert lines[0].startswith("CLOSE frame")
    assert lines[-1].startswith("BROKEN: ")
    assert lines[-1].endswith(last)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("81", "INCOMPLETE: more bytes of the header or control frame are needed"),
        ("81 7e 00", "INCOMPLETE: more bytes of the header or control frame are needed"),
        ("89 05 70", "INCOMPLETE: more bytes of the header or control frame are needed"),
        ("81 05", "INCOMPLETE: 5 more bytes of payload are needed"),
        ("81 05 4865", "INCOMPLETE: 3 more bytes of payload are needed"),
    ],
)
def test_a_frame_that_is_cut_off_is_told_at_the_end_only(data: str, line: str) -> None:
    assert explained(bytes.fromhex(data), ends=False) == []
    assert explained(bytes.fromhex(data)) == [line]


ONE_FRAME = [
    violation
    for violation in VIOLATIONS
    if violation.section in ("5.1", "5.2", "5.5", "5.5.1") and "RSV1" not in violation.name
]


@pytest.mark.parametrize("violation", ONE_FRAME, ids=str)
def test_it_says_of_a_frame_what_the_codec_would(violation: Violation) -> None:
    *_, last = explained(violation.data, masked=violation.role == "server")
    assert last.startswith("BROKEN: ")
    assert f"closes with {violation.close_code} " in last


@given(st.data(), st.binary(max_size=100) | nearly_valid(False) | nearly_valid(True))
def test_any_bytes_in_any_pieces_are_explained_alike_and_safely(
    data: st.DataObject, received: bytes
) -> None:
    dissector = Dissector()
    lines = [
        line for chunk in data.draw(chunkings(received)) for line in dissector.receive_data(chunk)
    ]
    lines += dissector.receive_eof()
    assert lines == explained(received)
    assert all(line.isprintable() for line in lines), lines


# What could steer a terminal

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
def test_what_could_steer_a_terminal_is_written_as_an_escape(character: str) -> None:
    assert printable(f"a{character}b") == f"a{DANGEROUS[character]}b"
    payload = f"a{character}b".encode()
    (*_, meaning) = explained(wire(f"81 {len(payload):02x} . {payload.hex()}", masked=True))
    assert character not in meaning
    reason = b"\x03\xe8" + payload
    (*_, meaning) = explained(wire(f"88 {len(reason):02x} . {reason.hex()}", masked=False))
    assert character not in meaning


def test_what_people_write_is_left_as_it_is() -> None:
    text = "Gr\u00fc\u00dfe, \u4f60\u597d, \u05e9\u05dc\u05d5\u05dd \U0001f600 'quoted' \\"
    assert printable(text) == text


@given(st.text())
def test_nothing_printable_is_a_control_or_format_character(text: str) -> None:
    assert all(unicodedata.category(c)[0] != "C" for c in printable(text))


def test_text_that_is_cut_or_not_utf_8_is_shown_with_a_mark_in_its_place() -> None:
    lines = explained(bytes.fromhex("81 02 61ff"))
    assert lines[-1] == columns("", "the payload: 'a\ufffd'")
