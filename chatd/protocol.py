"""The chat subprotocol `chat.v1`: each text message is one JSON object with a `type`.

`parse` turns a client's message into a value: it checks every field of that type and
ignores unknown fields. The functions after it encode the server's messages.
Rooms, peers and sockets belong to other modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from chatd.model import (
    MAX_ID,
    MAX_KEY,
    MAX_NAME,
    MAX_ROOM_NAME,
    MAX_TEXT,
    InvalidName,
    Message,
    is_room_name,
    normalize_name,
)

SUBPROTOCOL = "chat.v1"

MAX_TOKEN = 4096  # characters
MAX_HISTORY = 200  # messages in one `history`
# Bytes of the largest valid message: a `say` with every character as a JSON escape. An escape
# takes 6 bytes, or 12 above U+FFFF. The 18 letters are those of the field names and of `say`.
# The 32 bytes are the punctuation, with a space after each colon and comma.
MAX_MESSAGE_SIZE = 12 * (MAX_TEXT + MAX_KEY) + 6 * (MAX_ROOM_NAME + 18) + 32

_decode = json.JSONDecoder().decode  # json.loads() without the checks of its options
_SURROGATE = re.compile("[\ud800-\udfff]")


class ChatError(Exception):
    """An error that the server reports to a client in a message of type `error`.

    Args:
        code: Error code for programs, for example "bad_message".
        message: Sentence for people.
        key: Key of the `say` that failed.
        room: Name of the room concerned.
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
    """Request to enter a room.

    `after` is the id of the last message that the client has. `session` proves that
    the client owns `name`; `token` is its invitation.
    """

    room: str
    name: str
    after: int | None
    session: str | None
    token: str | None


class Say(NamedTuple):
    """Message for a room; `key` is the client's own id for it."""

    room: str
    text: str
    key: str | None


@dataclass(frozen=True, slots=True)
class History:
    """Request for messages older than the id `before`; None requests the newest."""

    room: str
    before: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Request to leave a room."""

    room: str


@dataclass(frozen=True, slots=True)
class Typing:
    """Notice that the client is typing."""

    room: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Request for a `pong` with the same `t`."""

    t: str | int | float | None


ClientMessage = Join | Say | History | Leave | Typing | Ping


def parse(text: str) -> ClientMessage:
    """Parse one message of a client.

    Raises:
        ChatError: `too_long` if the text of a `say` exceeds MAX_TEXT characters, else
            `bad_message` with a sentence that begins with the invalid field. The
            error carries the message's room if that is valid.
    """
    try:
        fields = _decode(text)
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
    name = _string(fields, "name", 4 * MAX_NAME)  # normalisation can shorten a name
    room = _room(fields)
    try:
        name = normalize_name(name)
    except InvalidName as error:
        raise ChatError("bad_message", str(error)) from None
    return Join(
        room,
        name,
        _id(fields, "after"),
        _optional_string(fields, "session", MAX_KEY),
        _optional_string(fields, "token", MAX_TOKEN),
    )


def _parse_say(fields: Mapping[str, Any]) -> Say:
    key = _optional_string(fields, "key", MAX_KEY)
    if key == "":
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
        raise ChatError("bad_message", "t must be a finite number")
    return Ping(t)


_PARSERS: dict[str, Callable[[Mapping[str, Any]], ClientMessage]] = {
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
    # A JSON escape can denote half a surrogate pair, but UTF-8 cannot encode it.
    if not value.isascii() and _SURROGATE.search(value):
        raise ChatError("bad_message", f"{name} contains half a surrogate pair")
    return value


def _optional_string(fields: Mapping[str, Any], name: str, limit: int) -> str | None:
    return None if fields.get(name) is None else _string(fields, name, limit)


def _id(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_ID):
        raise ChatError("bad_message", f"{name} must be the id of a message, or null")
    return value


# Messages of the server: one function a type, each returns the encoded message.

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
    """Encode `joined`, the reply to a `join`.

    Args:
        room: Name of the room.
        name: Name of the new member.
        session: Session that reserves the name after a lost connection.
        members: Names of the members; empty in a room with over NAMED_MEMBERS.
        count: Number of members.
        messages: Messages in ascending order.
        gap: True if messages between the client's last one and `messages` are missing.
    """
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
    """Encode a stored message.

    Formats the JSON by hand because this is the most frequent message of the server.
    """
    quote = encode_basestring
    return (
        f'{{"type":"message","room":{quote(room)},"id":{stored.id},"time":{quote(stored.time)}'
        f',"name":{quote(stored.name)},"text":{quote(stored.text)}}}'
    )


def acknowledgement(encoded: str, key: str | None) -> str:
    """Return an encoded message with the sender's `key` added, as its acknowledgement."""
    return encoded if key is None else f'{encoded[:-1]},"key":{encode_basestring(key)}}}'


def history(room: str, messages: Sequence[Message], *, more: bool) -> str:
    """Encode the reply to a `history`; `more` is True if older messages exist."""
    return _encode({"type": "history", "room": room, "messages": _messages(messages), "more": more})


def presence(
    room: str, joined: Sequence[str] | None, left: Sequence[str] | None, count: int
) -> str:
    """Encode a change of the members; the names are None in a large room."""
    fields: dict[str, Any] = {"type": "presence", "room": room, "count": count}
    if joined is not None and left is not None:
        fields |= {"joined": list(joined), "left": list(left)}
    return _encode(fields)


def typing(room: str, name: str) -> str:
    """Encode the notice that a member is typing."""
    return _encode({"type": "typing", "room": room, "name": name})


def pong(t: str | int | float | None) -> str:
    """Encode the reply to a `ping`."""
    return _encode({"type": "pong", "t": t})


def error(chat_error: ChatError) -> str:
    """Encode an error."""
    fields = {"type": "error", "code": chat_error.code, "message": chat_error.message}
    if chat_error.key is not None:
        fields["key"] = chat_error.key
    if chat_error.room is not None:
        fields["room"] = chat_error.room
    return _encode(fields)
