"""The chat subprotocol `chat.v1`: one JSON object in a text message, `type` decides.

`parse` reads what a client says into a value, judging every field that it
knows and ignoring the rest; the functions below it write what the server says.
Nothing here knows of rooms, peers or sockets.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from chatd.rooms import is_room_name

SUBPROTOCOL = "chat.v1"

MAX_TEXT = 4000  # characters
MAX_NAME = 32  # characters, after normalisation
MAX_KEY = 64  # characters
MAX_TOKEN = 4096  # characters
MAX_HISTORY = 200  # messages in one answer
MAX_ID = (1 << 63) - 1  # as the log can count

# What shows nothing, though Unicode takes it for a letter, a mark or a symbol, and what
# only chooses between two looks of the character before it.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]")
_VARIATION = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class ChatError(Exception):
    """What a client is told in an `error`: a code for programs, a sentence for people.

    `key` is that of the `say` that it answers, `room` the room concerned.
    """

    def __init__(
        self, code: str, message: str, *, key: str | None = None, room: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.key = key
        self.room = room


@dataclass(frozen=True, slots=True)
class Join:
    """Enter a room; `after` is the last id seen, `session` and `token` prove who asks."""

    room: str
    name: str
    after: int | None
    session: str | None
    token: str | None


class Say(NamedTuple):
    """Send a message; `key` is the client's own id for it."""

    room: str
    text: str
    key: str | None


@dataclass(frozen=True, slots=True)
class History:
    """Ask for messages before an id, the newest if it is None."""

    room: str
    before: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave a room."""

    room: str


@dataclass(frozen=True, slots=True)
class Typing:
    """Tell the others that one is typing."""

    room: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a `pong` with the same `t`."""

    t: str | int | float | None


Said = Join | Say | History | Leave | Typing | Ping


class Message(NamedTuple):
    """A message as the log has it; `time` is RFC 3339 in UTC."""

    id: int
    time: str
    name: str
    text: str


def clean_name(name: str) -> str:
    """Return a name as it is shown: without variation selectors, NFKC, trimmed.

    Raises `ChatError` for one of no or over 32 characters, or with characters
    that are invisible or turn the text around them, or of nothing but marks.
    """
    # In this order, for a selector can stand between a letter and its accent.
    cleaned = unicodedata.normalize("NFKC", _VARIATION.sub("", name)).strip()
    if not 1 <= len(cleaned) <= MAX_NAME:
        raise ChatError("bad_message", f"name must be 1 to {MAX_NAME} characters")
    # Not so: control, format (bidirectional overrides among them), surrogate, private
    # use, unassigned, and separators other than the space.
    only_marks = all(unicodedata.category(character)[0] == "M" for character in cleaned)
    if not cleaned.isprintable() or _BLANK.search(cleaned) or only_marks:
        raise ChatError("bad_message", "name must not contain invisible or control characters")
    return cleaned


def parse(text: str) -> Said:
    """Read one message of a client.

    Raises `ChatError`, with the room that is meant if one is: `bad_message` with the
    field that is wrong, `too_long` for a text of over 4,000 characters.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ChatError("bad_message", "a message must be one JSON object") from None
    if not isinstance(fields, dict):
        raise ChatError("bad_message", "a message must be one JSON object")
    kind = fields.get("type")
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        raise ChatError("bad_message", f"type must be one of {', '.join(_PARSERS)}")
    try:
        return parser(fields)
    except ChatError as error:
        room = fields.get("room")
        if isinstance(room, str) and is_room_name(room):
            error.room = room
        raise


def _parse_join(fields: Mapping[str, Any]) -> Join:
    name = _string(fields, "name", 4 * MAX_NAME)
    return Join(
        _room(fields),
        clean_name(name),
        _id(fields, "after"),
        _optional_string(fields, "session", MAX_KEY),
        _optional_string(fields, "token", MAX_TOKEN),
    )


def _parse_say(fields: Mapping[str, Any]) -> Say:
    key = _optional_string(fields, "key", MAX_KEY)
    if key == "":  # what many would share is nobody's own id
        raise ChatError("bad_message", f"key must be 1 to {MAX_KEY} characters")
    try:
        room, text = _room(fields), _string(fields, "text", None)
        if not text:
            raise ChatError("bad_message", "text must not be empty")
        if len(text) > MAX_TEXT:
            raise ChatError(
                "too_long",
                f"a message has at most {MAX_TEXT:,} characters, this one {len(text):,}",
            )
    except ChatError as error:
        error.key = key
        raise
    return Say(room, text, key)


def _parse_history(fields: Mapping[str, Any]) -> History:
    limit = fields.get("limit", MAX_HISTORY)
    if type(limit) is not int or not 1 <= limit <= MAX_HISTORY:
        raise ChatError("bad_message", f"limit must be a number from 1 to {MAX_HISTORY}")
    return History(_room(fields), _id(fields, "before"), limit)


def _parse_leave(fields: Mapping[str, Any]) -> Leave:
    return Leave(_room(fields))


def _parse_typing(fields: Mapping[str, Any]) -> Typing:
    return Typing(_room(fields))


def _parse_ping(fields: Mapping[str, Any]) -> Ping:
    t = fields.get("t")
    if isinstance(t, str):
        _string(fields, "t", MAX_KEY)
    elif t is not None and type(t) not in (int, float):
        raise ChatError("bad_message", "t must be a number or a string")
    elif t in (float("inf"), float("-inf")) or t != t:
        raise ChatError("bad_message", "t must be a number that JSON knows")
    return Ping(t)


_PARSERS: dict[str, Callable[[Mapping[str, Any]], Said]] = {
    "join": _parse_join,
    "say": _parse_say,
    "history": _parse_history,
    "leave": _parse_leave,
    "typing": _parse_typing,
    "ping": _parse_ping,
}


def _room(fields: Mapping[str, Any]) -> str:
    room = fields.get("room")
    if not isinstance(room, str) or not is_room_name(room):
        raise ChatError(
            "bad_message",
            "room must be 1 to 64 letters, digits, dots, underscores or dashes",
        )
    return room


def _string(fields: Mapping[str, Any], name: str, limit: int | None) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ChatError("bad_message", f"{name} must be a string")
    if limit is not None and len(value) > limit:
        raise ChatError("bad_message", f"{name} has at most {limit} characters")
    # JSON can spell half a surrogate pair, which no UTF-8 can carry on.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ChatError("bad_message", f"{name} contains half a surrogate pair")
    return value


def _optional_string(fields: Mapping[str, Any], name: str, limit: int) -> str | None:
    return None if fields.get(name) is None else _string(fields, name, limit)


def _id(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_ID):
        raise ChatError("bad_message", f"{name} must be the id of a message, or null")
    return value


# What the server says.

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "time": each.time, "name": each.name, "text": each.text}
        for each in messages
    ]


def joined(
    room: str,
    name: str,
    session: str,
    members: Sequence[str],
    count: int,
    messages: Sequence[Message],
    *,
    gap: bool,
) -> str:
    """Answer a `join`; `count` is the number of members, also where not all are listed."""
    return _encode(
        {
            "type": "joined",
            "room": room,
            "name": name,
            "session": session,
            "members": list(members),
            "count": count,
            "messages": _messages(messages),
            "gap": gap,
        }
    )


def message(room: str, stored: Message) -> str:
    """Tell a room's members of a message.

    Put together here, for it is by far the most of what is said: 0.6 us instead of 2.3.
    """
    quote = encode_basestring
    return (
        f'{{"type":"message","room":{quote(room)},"id":{stored.id},"time":{quote(stored.time)}'
        f',"name":{quote(stored.name)},"text":{quote(stored.text)}}}'
    )


def acknowledgement(encoded: str, key: str | None) -> str:
    """Return `message`'s result as its sender gets it: with the key, if it gave one."""
    return encoded if key is None else f'{encoded[:-1]},"key":{encode_basestring(key)}}}'


def history(room: str, messages: Sequence[Message], *, more: bool) -> str:
    """Answer a `history`; `more` says whether there are still older ones."""
    return _encode({"type": "history", "room": room, "messages": _messages(messages), "more": more})


def presence(
    room: str, joined: Sequence[str] | None, left: Sequence[str] | None, count: int
) -> str:
    """Tell who came and went; without names in a large room."""
    fields: dict[str, Any] = {"type": "presence", "room": room, "count": count}
    if joined is not None and left is not None:
        fields |= {"joined": list(joined), "left": list(left)}
    return _encode(fields)


def typing(room: str, name: str) -> str:
    """Tell that somebody is typing."""
    return _encode({"type": "typing", "room": room, "name": name})


def pong(t: str | int | float | None) -> str:
    """Answer a `ping`."""
    return _encode({"type": "pong", "t": t})


def error(wrong: ChatError) -> str:
    """Tell a client what was wrong and what to do."""
    fields = {"type": "error", "code": wrong.code, "message": wrong.message}
    if wrong.key is not None:
        fields["key"] = wrong.key
    if wrong.room is not None:
        fields["room"] = wrong.room
    return _encode(fields)
