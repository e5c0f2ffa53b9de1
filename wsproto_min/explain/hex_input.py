"""Input of `explain`: hex digits, raw bytes, or a handshake as text."""

from __future__ import annotations

import re

from wsproto_min.explain.hex_dump import parse_dump, unwrap_buffers
from wsproto_min.http_reader import MAX_HEAD_SIZE

_WORD = re.compile(r"\S+")
_COMMENT = "#"
_ACCEPTED = b"HTTP/1.1 101"
_HEAD = re.compile(rb"(?:(?:GET|HEAD|POST|PUT|DELETE|OPTIONS) |HTTP/)")


def parse_hex(text: str) -> bytes:
    r"""Return the bytes that `text` has in hex.

    Two digits are one byte. White space may stand between bytes. A `#` begins a comment that
    ends with the line:

        >>> parse_hex("8105 48 65 6c  # a comment\n 6c6f")
        b'\x81\x05Hello'

    Raises:
        ValueError: A word is not hex; the message has its line and column.

    """
    data = b""
    for number, line in enumerate(text.split("\n"), 1):
        for word in _WORD.finditer(line.partition(_COMMENT)[0]):
            where = f"{word[0]!a} (line {number}, column {word.start() + 1})"
            if not re.fullmatch(r"[0-9a-fA-F]*", word[0]):
                raise ValueError(f"{where} has characters other than 0-9 and a-f")
            if len(word[0]) % 2:
                raise ValueError(f"{where} has an odd number of digits; a byte is two digits")
            data += bytes.fromhex(word[0])
    return data


def parse_text(text: str) -> bytes:
    r"""Return the bytes of hex or of a hex dump.

        >>> parse_text("<Buffer 81 00>"), parse_text("00000000  81 00  |..|\n00000002")
        (b'\x81\x00', b'\x81\x00')

    Raises:
        ValueError: The text is not hex, see `parse_hex`, or no clear dump, see `parse_dump`.

    """
    text = unwrap_buffers(text)
    dump = parse_dump(text)
    return parse_hex(text) if dump is None else dump


def parse_input(data: bytes) -> bytes:
    r"""Return the bytes of a capture that was read from a file or a pipe.

    Printable text is hex or a hex dump, also after the heads of a handshake. Any other input is
    raw bytes. No valid frame consists of printable text only.

        >>> parse_input(b"81 00\n"), parse_input(b"\x81\x00"), parse_input(b"GET / HTTP/1.1\n\n")
        (b'\x81\x00', b'\x81\x00', b'GET / HTTP/1.1\r\n\r\n')

    Raises:
        ValueError: Printable text is not hex; see `parse_text`.

    """
    data = restore_line_ends(data)
    end, start = 0, b""
    while _HEAD.match(data, end):
        start = data[end : end + len(_ACCEPTED)]
        length = data[end:].find(b"\r\n\r\n")
        if length < 0:
            return data
        end += length + 4
    text = _printable(data[end:])
    # Frames follow a request and the status 101. Other responses have a body.
    if text is None or (start.startswith(b"HTTP/") and start != _ACCEPTED):
        return data
    return data[:end] + parse_text(text)


def _printable(data: bytes) -> str | None:
    """Return `data` as text, or None if it has characters that text does not have."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    is_text = all(character.isprintable() or character in "\t\r\n\f" for character in text)
    return text if is_text else None


def restore_line_ends(data: bytes) -> bytes:
    r"""Return a capture in which CR LF ends the lines of each head.

    Editors and the clipboard turn CR LF into LF. Frames after the heads stay unchanged.

    >>> restore_line_ends(b"GET / HTTP/1.1\nHost: a\n\n\x82\x01\n")
    b'GET / HTTP/1.1\r\nHost: a\r\n\r\n\x82\x01\n'
    """
    heads = b""
    while _HEAD.match(data):
        end = data.find(b"\n\n", 0, MAX_HEAD_SIZE)
        if end < 0 or b"\r" in data[:end]:
            break
        heads += data[: end + 2].replace(b"\n", b"\r\n")
        data = data[end + 2 :]
    return heads + data
