"""Text for a terminal: nothing in it can steer the terminal, and it fits the line."""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import east_asian_width

COLUMNS = 80

Paint = Callable[[str, str], str]
"""Gives a text (the second argument) the look that the first one names."""

_LOOKS = {
    "title": "1",
    "note": "2",
    "header": "33",
    "length": "36",
    "key": "35",
    "payload": "32",
    "good": "1;32",
    "bad": "1;31",
}


def plain(look: str, text: str) -> str:
    """Return the text as it is: a `Paint` for files and pipes."""
    return text


def coloured(look: str, text: str) -> str:
    """Return the text in colour: a `Paint` for terminals."""
    return f"\x1b[{_LOOKS[look]}m{text}\x1b[0m"


def printable(text: str) -> str:
    r"""Return `text` with all that could steer a terminal written as an escape.

    >>> printable("red: \x1b[31m, right to left: \u202e")
    'red: \\x1b[31m, right to left: \\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, columns: int) -> str:
    """Return as much of `text` as takes up to `columns` columns, marked if cut.

    >>> shortened("abcdef", 6), shortened("abcdefg", 6)
    ('abcdef', 'abc...')
    """
    used = 0
    cut = 0  # characters that leave room for the mark
    for index, character in enumerate(text):
        used += 2 if east_asian_width(character) in "WF" else 1
        if used > columns:
            return text[:cut] + "..."
        if used <= columns - 3:
            cut = index + 1
    return text


def quoted(text: str | bytes, columns: int) -> str:
    r"""Return text, or bytes read as ASCII, in quotes, each character escaped once.

    >>> quoted("a\tb\\", 20), quoted(b"hi\xff", 20)
    ("'a\\tb\\\\'", "'hi\\xff'")
    """
    # Each of them takes a column or more.
    start = text[: columns + 1]
    return shortened(repr(start).removeprefix("b"), columns)


def hexadecimal(data: bytes, columns: int) -> str:
    """Return bytes in hex, marked if they are cut.

    >>> hexadecimal(b"Hello", 14), hexadecimal(b"Hello!", 14)
    ('48 65 6c 6c 6f', '48 65 6c 6c ..')
    """
    fitting = (columns + 1) // 3
    if len(data) <= fitting:
        return data.hex(" ")
    return data[: fitting - 1].hex(" ") + " .."
