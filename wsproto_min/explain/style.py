"""Text for a terminal: escaped so that it cannot control the terminal, and truncated to a width."""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import east_asian_width

COLUMNS = 80
"""Width of a line of output, in terminal columns."""

Style = Callable[[str, str], str]
"""Function of a role, which is a key of the table below, and a text; returns the styled text."""

# Parameters of the escape sequence "select graphic rendition" (ECMA-48, 8.3.117).
_SGR = {
    "title": "1",
    "note": "2",
    "header": "33",
    "length": "36",
    "key": "35",
    "payload": "32",
    "good": "1;32",
    "bad": "1;31",
}


def plain(role: str, text: str) -> str:
    """Return `text` unchanged: the `Style` for files and pipes."""
    return text


def coloured(role: str, text: str) -> str:
    """Return `text` in the colour of `role`: the `Style` for terminals."""
    return f"\x1b[{_SGR[role]}m{text}\x1b[0m"


def printable(text: str) -> str:
    r"""Return `text` with control and format characters written as escapes.

    >>> printable("red: \x1b[31m, right to left: \u202e")
    'red: \\x1b[31m, right to left: \\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, columns: int) -> str:
    """Return `text` truncated to `columns` terminal columns; "..." marks the truncation.

    >>> shortened("abcdef", 6), shortened("abcdefg", 6)
    ('abcdef', 'abc...')
    """
    used = 0
    kept = 0  # characters that leave room for the dots
    for index, character in enumerate(text):
        used += 2 if east_asian_width(character) in "WF" else 1
        if used > columns:
            return text[:kept] + "..."
        if used <= columns - 3:
            kept = index + 1
    return text


def quoted(text: str | bytes, columns: int) -> str:
    r"""Return `text` in quotes, escaped, and truncated to `columns` terminal columns.

    Args:
        text: Text, or bytes to show as ASCII.
        columns: Width of the result, quotes included.

    >>> quoted("a\tb\\", 20), quoted(b"hi\xff", 20)
    ("'a\\tb\\\\'", "'hi\\xff'")
    """
    # A character takes at least one column, so no more of them can fit.
    start = text[: columns + 1]
    return shortened(repr(start).removeprefix("b"), columns)


def hexadecimal(data: bytes, columns: int) -> str:
    """Return `data` in hex, truncated to `columns` terminal columns; ".." marks the truncation.

    >>> hexadecimal(b"Hello", 14), hexadecimal(b"Hello!", 14)
    ('48 65 6c 6c 6f', '48 65 6c 6c ..')
    """
    fitting = (columns + 1) // 3
    if len(data) <= fitting:
        return data.hex(" ")
    return data[: fitting - 1].hex(" ") + " .."
