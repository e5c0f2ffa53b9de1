"""What `explain` is given: hex as people write it, raw bytes, a handshake as text."""

from __future__ import annotations

import re

from wsproto_min.http import MAX_HEAD_SIZE

# What stands between bytes, and what begins a comment.
_WORD = re.compile(r"[^\s,;:]+")
_COMMENT = "#"
_HEAD = re.compile(rb"(?:(?:GET|HEAD|POST|PUT|DELETE|OPTIONS) |HTTP/)")


def parse_hex(text: str) -> bytes:
    r"""Return the bytes that `text` has in hex.

    Spaces, commas, semicolons, colons, `0x` and `\x` may stand between the bytes,
    and what follows `#` in a line is a comment:

        >>> parse_hex("8105, 0x48 \\x65\\x6c  # the beginning\n 6c:6f")
        b'\x81\x05Hello'

    Raises `ValueError` that says what is not hex, and where.
    """
    data = b""
    for number, line in enumerate(text.split("\n"), 1):
        for word in _WORD.finditer(line.partition(_COMMENT)[0]):
            digits = re.sub(r"0x|\\x", "", word[0], flags=re.IGNORECASE)
            where = f"{word[0]!a} (line {number}, column {word.start() + 1})"
            if not re.fullmatch(r"[0-9a-fA-F]*", digits):
                raise ValueError(f"{where} has characters other than 0-9 and a-f")
            if digits == word[0][2:] and len(digits) == 1:
                digits = f"0{digits}"  # 0x5
            if len(digits) % 2:
                raise ValueError(f"{where} has half a byte; a byte is two digits")
            data += bytes.fromhex(digits)
    return data


def parse_input(data: bytes) -> bytes:
    r"""Return the bytes of a capture that came through a pipe.

    Readable text is hex, unless it begins as a handshake does; all else is raw
    bytes. No frame of either end can be mistaken for text.

        >>> parse_input(b"81 00\n"), parse_input(b"\x81\x00"), parse_input(b"GET / HTTP/1.1\n\n")
        (b'\x81\x00', b'\x81\x00', b'GET / HTTP/1.1\r\n\r\n')

    Raises `ValueError` as `parse_hex` does.
    """
    if not _HEAD.match(data):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data
        if all(character.isprintable() or character in "\t\r\n\f" for character in text):
            return parse_hex(text)
    return end_lines(data)


def end_lines(data: bytes) -> bytes:
    r"""Return a capture whose heads, if it has any, end their lines in CR LF.

    An editor, or a clipboard, will have made LF of it.
    """
    heads = b""
    while _HEAD.match(data):
        end = data.find(b"\n\n", 0, MAX_HEAD_SIZE)
        if end < 0 or b"\r" in data[:end]:
            break
        heads += data[: end + 2].replace(b"\n", b"\r\n")
        data = data[end + 2 :]
    return heads + data
