"""Messages, rooms and names: the values of the chat, their rules and limits.

`protocol` and `storage` build on this module. It imports nothing of chatd.
"""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

MAX_TEXT = 4000  # characters
MAX_NAME = 32  # characters, after normalisation
MAX_KEY = 64  # characters
MAX_ROOM_NAME = 64  # characters
MAX_TOPIC = 200  # characters
MAX_EMOJI = 16  # characters; a family emoji has 7, a flag of a region 7
# Different reactions to one message, and members that one message names for them.
MAX_REACTION_KINDS = 20
MAX_REACTIONS = 200
MAX_ID = (1 << 63) - 1  # the largest integer in SQLite

ALL_ROOMS = ""  # place of a sanction in every room

# Rooms in use at the same time. A room takes about 2 KiB.
DEFAULT_MAX_ROOMS = 20_000
# Seconds for which a name stays reserved for its session after a lost connection.
RESERVED_FOR = 30.0
# Presence lists the names of up to this many members, and only counts larger rooms.
NAMED_MEMBERS = 200

_ROOM_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ROOM_NAME}}}")
# Authors have a fixed length, so the name of a direct room can join two of them.
_AUTHOR = "[sn][A-Za-z0-9_-]{11}"
_DIRECT_ROOM = re.compile(f"@({_AUTHOR})({_AUTHOR})")
# Characters that an emoji consists of: symbols, and the marks that join and modify them. Digits,
# "#" and "*" begin keycaps.
_EMOJI_PARTS = re.compile(
    "(?:[#*0-9]\ufe0f?\u20e3|[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
    "[\ufe0f\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*)+"
)

# Invisible characters that Unicode classifies as letters, marks or symbols.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]")
# Variation selectors choose between two glyphs of the character before them.
_VARIATION = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")

_ZERO_WIDTH_NON_JOINER = "\u200c"
_JOINER = re.compile("[\u200c\u200d]")
_VIRAMA = 9  # canonical combining class
# Joining_Type of letters (DerivedJoiningType.txt of Unicode 17), which unicodedata does not have.
# The table has the scripts in use: Arabic, Syriac, N'Ko, Mandaic, Mongolian, Phags-pa,
# Hanifi Rohingya and Adlam. In other scripts a joiner follows a virama or is invalid.
_DUAL_JOINING = (
    "\u0620\u0626\u0628\u062a-\u062e\u0633-\u063f\u0641-\u0647\u0649\u064a\u066e\u066f"
    "\u0678-\u0687\u069a-\u06bf\u06c1\u06c2\u06cc\u06ce\u06d0\u06d1\u06fa-\u06fc\u06ff"
    "\u0712-\u0714\u071a-\u071d\u071f-\u0727\u0729\u072b\u072d\u072e\u074e-\u0758"
    "\u075c-\u076a\u076d-\u0770\u0772\u0775-\u0777\u077a-\u077f\u07ca-\u07ea\u0841-\u0845"
    "\u0848\u084a-\u0853\u0855\u0860\u0862-\u0865\u0868\u0886\u0889-\u088d\u088f\u08a0-\u08a9"
    "\u08af\u08b0\u08b3-\u08b8\u08ba-\u08c8\u1807\u1820-\u1878\u1887-\u18a8\u18aa"
    "\ua840-\ua871\U00010d01-\U00010d21\U00010d23\U0001e900-\U0001e943"
)
_LEFT_JOINING = "\ua872\U00010d00"
_RIGHT_JOINING = (
    "\u0622-\u0625\u0627\u0629\u062f-\u0632\u0648\u0671-\u0673\u0675-\u0677\u0688-\u0699"
    "\u06c0\u06c3-\u06cb\u06cd\u06cf\u06d2\u06d3\u06d5\u06ee\u06ef\u0710\u0715-\u0719\u071e"
    "\u0728\u072a\u072c\u072f\u074d\u0759-\u075b\u076b\u076c\u0771\u0773\u0774\u0778\u0779"
    "\u0840\u0846\u0847\u0849\u0854\u0856-\u0858\u0867\u0869\u086a\u0870-\u0882\u088e"
    "\u08aa-\u08ac\u08ae\u08b1\u08b2\u08b9\U00010d22"
)
_JOINS_NEXT = re.compile(f"[{_DUAL_JOINING}{_LEFT_JOINING}]")
_JOINS_PREVIOUS = re.compile(f"[{_DUAL_JOINING}{_RIGHT_JOINING}]")


class Kind(IntEnum):
    """Kind of an entry in a room. All kinds except MESSAGE and TOPIC refer to a message."""

    MESSAGE = 0
    EDIT = 1
    DELETE = 2
    REACT = 3
    TOPIC = 4


class Message(NamedTuple):
    """A stored entry of a room: a message, or a change that refers to a message.

    `time` is RFC 3339 in UTC, `author` the public id of the sender (empty in a message that an
    earlier version has stored). `ref` is the id of the message that this entry changes, or to
    which this message replies.

    `text` is the current text of a message, and empty once the message is deleted. In a change
    it is the new text, the topic, or the reaction after "+" or "-". `edited` is the id of the
    last edit, and `reactions` a JSON object with the authors of each emoji, or "".
    """

    id: int
    time: str
    name: str
    text: str
    author: str = ""
    kind: Kind = Kind.MESSAGE
    ref: int | None = None
    edited: int | None = None
    reactions: str = ""


class Sanction(NamedTuple):
    """A ban or a mute of a person.

    `room` is ALL_ROOMS for all rooms, `action` "ban" or "mute", `name` the person's name at
    that time, and `until` a Unix time in seconds, or None for no end.
    """

    author: str
    room: str
    action: str
    name: str
    until: float | None


class InvalidName(ValueError):
    """A name breaks a rule of `normalize_name`."""


def format_time(moment: datetime) -> str:
    """Return a UTC time as RFC 3339 with milliseconds and "Z"."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def session_author(session: str) -> str:
    """Return the public id of a session: "s" and 66 bits of its hash."""
    return "s" + _digest("session", session)


def name_author(name: str) -> str:
    """Return the public id of a name that an invitation or a proxy proves."""
    return "n" + _digest("name", name_key(name))


def _digest(kind: str, value: str) -> str:
    digest = hashlib.sha256(f"chatd author {kind}\0{value}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:9]).decode()[:11]


def is_room_name(name: str) -> bool:
    """Return True for 1 to 64 ASCII letters, digits, dots, underscores and dashes."""
    return _ROOM_NAME.fullmatch(name) is not None


def is_author(text: str) -> bool:
    """Return True for the form of a public id."""
    return re.fullmatch(_AUTHOR, text) is not None


def direct_authors(room: str) -> tuple[str, str] | None:
    """Return the authors of a direct room, None for another name.

    The name of a direct room is "@" and both authors in ascending order. So nobody else can
    join the room, and two members always find the same one.
    """
    match = _DIRECT_ROOM.fullmatch(room)
    return (match[1], match[2]) if match and match[1] < match[2] else None


def is_emoji(text: str) -> bool:
    """Return True for one emoji, or a short sequence of emoji."""
    return len(text) <= MAX_EMOJI and _EMOJI_PARTS.fullmatch(text) is not None


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

    Zero-width joiners and non-joiners are valid where they change the shape of the name
    (RFC 5892, A.1 and A.2).

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
    visible = _JOINER.sub(_remove_valid_joiner, normalized)
    only_marks = all(unicodedata.category(character)[0] == "M" for character in visible)
    if not visible.isprintable() or _BLANK.search(visible) or only_marks:
        raise InvalidName("name must not contain invisible or control characters")
    return normalized


def name_key(name: str) -> str:
    """Return the key of a normalized name: names with equal keys are one name in a room.

    The key has no joiners, because some fonts show no difference.
    """
    return _JOINER.sub("", name).casefold()


def _remove_valid_joiner(match: re.Match[str]) -> str:
    """Return "" for a joiner that RFC 5892, A.1 or A.2, allows at its place, else the joiner."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    if before and unicodedata.combining(before[-1]) == _VIRAMA:
        return ""
    if (
        match[0] == _ZERO_WIDTH_NON_JOINER
        and _JOINS_NEXT.match(_first_letter(reversed(before)))
        and _JOINS_PREVIOUS.match(_first_letter(after))
    ):
        return ""
    return match[0]


def _first_letter(characters: Iterable[str]) -> str:
    """Return the first character that is not a mark (Joining_Type T), "" if there is none."""
    return next((each for each in characters if unicodedata.category(each)[0] != "M"), "")
