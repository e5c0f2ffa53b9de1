"""Hex dumps, as `xxd`, `hexdump -C`, `od -t x1` and Wireshark print them.

A line of a dump has an offset, bytes in hex, and perhaps the bytes as text. Each offset and each
text column must agree with the bytes. Input that may be a dump of another kind is refused,
because its offsets would be taken for bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE = re.compile(r"\s*([0-9a-fA-F]{4,})(:?)(?:\s+(.*))?$")
_PAIRS = re.compile(r"[0-9a-fA-F]{2}(?:\s+[0-9a-fA-F]{2})*\s*")
_GROUPS = re.compile(r"(?:[0-9a-fA-F]{2})+(?:\s(?:[0-9a-fA-F]{2})+)*\s*")
_TEXT_COLUMN = re.compile(r"(?:\|.*\||>.*<)$")
# A line that is either bytes in groups, or a dump that begins after offset 0.
_AMBIGUOUS = re.compile(r"\s*(?:0[0-9a-fA-F]{3,}\s{2,}|00[0-9a-fA-F]{4,}\s+)[0-9a-fA-F]{2}(?:\s|$)")
_WORDS = re.compile(r"\s*(?:0{4,}\s{2,}|0{6,}\s+)[0-9a-fA-F]{4,}(?:\s|$)")
_REVERSED = re.compile(r"\s*[0-9a-fA-F]{4,}:\s+(?:(?<=\s\s)[0-9a-fA-F]{4}|[0-9a-fA-F]{8}\b)")
# `od -t u1` prints an offset of 6 or 7 digits, and columns that are 4 characters wide.
_DECIMAL = re.compile(r"\s*[0-9a-fA-F]{6,7}(?:\s{2,}\d{1,3})+\s*")
_TCPDUMP = re.compile(r"\s*0x[0-9a-fA-F]{4}:")
_LONGEST_LINE = 4096  # characters
_COLUMN_NUMBERS = [f"{number:02x}" for number in range(16)]  # the head of PowerShell's Format-Hex


def parse_dump(text: str) -> bytes | None:
    r"""Return the bytes of a dump, or None if `text` is not a dump.

        >>> parse_dump("00000000: 8105 4865 6c6c 6f   ..Hello")
        b'\x81\x05Hello'
        >>> parse_dump("0000   81 05 48 65\n0004   6c 6c 6f")
        b'\x81\x05Hello'
        >>> parse_dump("8105 4865 6c6c 6f") is None
        True

    Raises:
        ValueError: The dump contradicts itself, or the input is ambiguous.

    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and lines[0][1].lower().split() == _COLUMN_NUMBERS:
        del lines[0]
    if not lines or not _is_dump(*lines[0]):
        return None
    parsed = list(_parse_lines(lines))
    for base in (16, 8, 10):  # `od` counts in octal, `od -A d` in decimal
        if _is_consistent(parsed, base):
            return b"".join(data for _, _, data in parsed)
    raise ValueError("offsets of the dump do not agree with its bytes; copy each line once, whole")


def _is_dump(number: int, line: str) -> bool:
    """Return True if a first line begins with an offset; raise `ValueError` if it may."""
    if _TCPDUMP.match(line):
        raise ValueError(f"line {number} has IP and TCP headers; copy the TCP payload only")
    if _WORDS.match(line):
        raise ValueError(
            f"line {number} may have an offset and words in this machine's byte order; "
            "use hexdump -C, xxd or od -t x1"
        )
    found = _LINE.match(line)
    if found is None or found[3] is None:
        return False
    if found[2] or _TEXT_COLUMN.search(found[3]):
        return True
    if not found[1].strip("0"):
        # Four zeros may be two bytes in one group, which single bytes do not follow.
        return bool(re.match(r"[0-9a-fA-F]{2}(?:\s|$)", found[3]))
    if _AMBIGUOUS.match(line):
        raise ValueError(
            f"line {number} may begin with an offset; remove the offset, or write bytes in pairs"
        )
    return False


def _parse_lines(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield number, offset and bytes of each line."""
    for number, line in lines:
        if line.strip() == "*":
            raise ValueError(f"line {number} leaves out repeated lines; use hexdump -v or od -v")
        found = _LINE.match(line)
        if found is None:
            raise ValueError(f"line {number} of the dump has no offset; copy each line whole")
        if _REVERSED.match(line):
            raise ValueError(f"line {number} may have reversed words, as of xxd -e; use plain xxd")
        if _DECIMAL.fullmatch(line):
            raise ValueError(f"line {number} may have decimal numbers; use od -t x1")
        data = b"" if found[3] is None else _parse_columns(found[3], grouped=bool(found[2]))
        if data is None:
            raise ValueError(f"line {number}: the text column is not that of the bytes")
        yield number, found[1], data


def _parse_columns(columns: str, *, grouped: bool) -> bytes | None:
    """Return the bytes of a line without its offset, or None if its text differs from them."""
    bytes_column = _GROUPS if grouped else _PAIRS
    # Each gap may be the one before the text. A longer line has none, or the search takes long.
    for gap in re.finditer(r"\s+", columns) if len(columns) <= _LONGEST_LINE else ():
        left, right = columns[: gap.start()], columns[gap.end() :].rstrip()
        if not (bytes_column.fullmatch(left) or _PAIRS.fullmatch(left)):
            break
        data = bytes.fromhex(left)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
        if right in (text.strip(), f"|{text}|", f">{text}<"):
            return data
    return bytes.fromhex(columns) if bytes_column.fullmatch(columns) else None


def _is_consistent(parsed: list[tuple[int, str, bytes]], base: int) -> bool:
    """Return True if each offset is the number of bytes before it, after the first offset."""
    try:
        offsets = [int(offset, base) for _, offset, _ in parsed]
    except ValueError:  # a digit that the base does not have
        return False
    expected = offsets[0]
    for offset, (_, _, data) in zip(offsets, parsed, strict=True):
        if offset != expected:
            return False
        expected += len(data)
    return True
