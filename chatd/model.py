"""Messages, rooms and names: the values of the chat, their rules and limits.

`protocol` and `storage` build on this module. It imports nothing of chatd.
"""

import re
import unicodedata
from datetime import datetime
from typing import NamedTuple

MAX_TEXT = 4000  # characters
MAX_NAME = 32  # characters, after normalisation
MAX_KEY = 64  # characters
MAX_ROOM_NAME = 64  # characters
MAX_ID = (1 << 63) - 1  # the largest integer in SQLite

# Rooms in use at the same time. A room takes about 2 KiB.
DEFAULT_MAX_ROOMS = 20_000
# Seconds for which a name stays reserved for its session after a lost connection.
RESERVED_FOR = 30.0
# Presence lists the names of up to this many members, and only counts larger rooms.
NAMED_MEMBERS = 200

_ROOM_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ROOM_NAME}}}")

# Invisible characters that Unicode classifies as letters, marks or symbols.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]")
# Variation selectors choose between two glyphs of the character before them.
_VARIATION = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class Message(NamedTuple):
    """A stored message; `time` is RFC 3339 in UTC."""

    id: int
    time: str
    name: str
    text: str


class InvalidName(ValueError):
    """A name breaks a rule of `normalize_name`."""


def format_time(moment: datetime) -> str:
    """Return a UTC time as RFC 3339 with milliseconds and "Z"."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_room_name(name: str) -> bool:
    """Return True for 1 to 64 ASCII letters, digits, dots, underscores and dashes."""
    return _ROOM_NAME.fullmatch(name) is not None


def _is_too_long(name: str) -> bool:
    """Return True if no composition makes the name MAX_NAME characters short.

    NFKC takes quadratic time for many combining marks, and NFKD does not. A composed
    character stands for at most four characters, a letter and three marks.
    """
    decomposed = unicodedata.normalize("NFKD", name).strip()
    if len(decomposed) > 4 * MAX_NAME:
        return True
    marks = longest = 0
    for character in decomposed:
        marks = marks + 1 if unicodedata.combining(character) else 0
        longest = max(longest, marks)
    return longest > MAX_NAME + 3


def normalize_name(name: str) -> str:
    """Return a name as the chat shows it: NFKC, trimmed, without variation selectors.

    Raises:
        InvalidName: The name has no or over 32 characters, consists of combining
            marks only, or contains a control, format or invisible character.
    """
    # Selectors go first, because one can stand between a letter and its accent.
    name = _VARIATION.sub("", name)
    if not name.isascii() and _is_too_long(name):
        raise InvalidName(f"name must be 1 to {MAX_NAME} characters")
    normalized = unicodedata.normalize("NFKC", name).strip()
    if not 1 <= len(normalized) <= MAX_NAME:
        raise InvalidName(f"name must be 1 to {MAX_NAME} characters")
    # isprintable() is False for control, format (including bidirectional overrides),
    # surrogate, private-use and unassigned characters, and for separators except space.
    only_marks = all(unicodedata.category(character)[0] == "M" for character in normalized)
    if not normalized.isprintable() or _BLANK.search(normalized) or only_marks:
        raise InvalidName("name must not contain invisible or control characters")
    return normalized
