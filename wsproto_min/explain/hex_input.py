"""Input of `explain`: hex digits, raw bytes, or a handshake as text."""

from __future__ import annotations

import re

from wsproto_min.explain.hex_dump import parse_dump
from wsproto_min.explain.hex_words import check_words
from wsproto_min.explain.literals import parse_literals
from wsproto_min.http_reader import MAX_HEAD_SIZE

_WORD = re.compile(r"\S+")
_COMMENT = "#"
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # `xxd` and `hexdump` may colour their output
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
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
    data = bytearray()
    for number, line in enumerate(text.split("\n"), 1):
        for word in _WORD.finditer(line.partition(_COMMENT)[0]):
            where = f"{word[0]!a} (line {number}, column {word.start() + 1})"
            if not re.fullmatch(r"[0-9a-fA-F]*", word[0]):
                raise ValueError(f"{where} has characters other than 0-9 and a-f")
            if len(word[0]) % 2:
                raise ValueError(f"{where} has an odd number of digits; a byte is two digits")
            data += bytes.fromhex(word[0])
    return bytes(data)


def parse_text(text: str) -> bytes:
    r"""Return the bytes of hex, of a hex dump, or of literals.

        >>> parse_text("<Buffer 81 00>"), parse_text("00000000  81 00  |..|\n00000002")
        (b'\x81\x00', b'\x81\x00')

    Raises:
        ValueError: The text is neither hex, see `parse_hex`, nor a clear dump, see `parse_dump`,
            nor a literal, see `parse_literals`; or its words are ambiguous, see `check_words`.

    """
    text = _COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    for parse in (parse_literals, parse_dump):
        data = parse(text)
        if data is not None:
            return data
    check_words(re.sub(f"{_COMMENT}.*", "", text))
    return parse_hex(text)


def parse_input(data: bytes) -> bytes:
    r"""Return the bytes of a capture that was read from a file or a pipe.

    Printable text is hex or a hex dump, also after the heads of a handshake. Any other input is
    raw bytes. No valid frame consists of printable text only.

        >>> parse_input(b"81 00\n"), parse_input(b"\x81\x00"), parse_input(b"GET / HTTP/1.1\n\n")
        (b'\x81\x00', b'\x81\x00', b'GET / HTTP/1.1\r\n\r\n')

    Raises:
        ValueError: Printable text is not hex; see `parse_text`.

    """
    data = restore_line_ends(_decode_marked(data))
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
        return _legacy_text(data)
    visible = _COLOUR.sub("", text)
    is_text = all(character.isprintable() or character in "\t\r\n\f" for character in visible)
    return text if is_text else None


def _legacy_text(data: bytes) -> str | None:
    """Return hex with comments in an 8-bit character set, or None for other bytes."""
    rest = re.sub(rb"#[^\n]*", b"", data).strip()
    is_text = re.match(rb"[0-9a-fA-F]{2}", rest) and rest.isascii() and _printable(rest)
    return data.decode("latin-1") if is_text else None


def _decode_marked(data: bytes) -> bytes:
    """Return text with a byte order mark as UTF-8 without it. No frame begins with such a mark.

    Raises:
        ValueError: The text is invalid.

    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode()
            except UnicodeDecodeError as error:
                where = len(mark) + error.start
                raise ValueError(
                    f"byte {where} is not {encoding}, the encoding of its mark; save as UTF-8"
                ) from None
    return data


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
