"""Parsing of the clients' messages: checks every field of a type, and ignores unknown fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from chatd.model import (
    MAX_EMOJI,
    MAX_ID,
    MAX_KEY,
    MAX_NAME,
    MAX_ROOM_NAME,
    MAX_TEXT,
    MAX_TOPIC,
    InvalidName,
    Kind,
    direct_authors,
    format_time,
    is_author,
    is_emoji,
    is_room_name,
    normalize_name,
)
from chatd.protocol.requests import (
    MAX_BAN,
    MAX_HISTORY,
    MAX_SEARCH,
    Change,
    ChatError,
    ClientMessage,
    History,
    Join,
    Leave,
    Moderate,
    Ping,
    Rooms,
    Say,
    Search,
    Typing,
)

MAX_TOKEN = 4096  # characters
# Bytes of the largest valid message: an `edit` with every character as a JSON escape. An escape
# takes 6 bytes, or 12 above U+FFFF. The 22 letters are those of the field names and of `edit`.
# The 57 bytes are the digits of `ref`, and the punctuation with a space after each colon and
# comma.
MAX_MESSAGE_SIZE = 12 * (MAX_TEXT + MAX_KEY) + 6 * (MAX_ROOM_NAME + 22) + 57

_decode = json.JSONDecoder().decode  # json.loads() without the checks of its options
_SURROGATE = re.compile("[\ud800-\udfff]")


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
        room, key = fields.get("room"), fields.get("key")
        if isinstance(room, str) and is_room_name(room):
            error.room = room
        if kind in _ENTRIES and isinstance(key, str) and 1 <= len(key) <= MAX_KEY:
            error.key = key if _SURROGATE.search(key) is None else None
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
    return Say(_room(fields), _text(fields), _key(fields), _id(fields, "ref"))


def _parse_edit(fields: Mapping[str, Any]) -> Change:
    return Change(Kind.EDIT, _room(fields), _text(fields), _key(fields), _ref(fields))


def _parse_delete(fields: Mapping[str, Any]) -> Change:
    return Change(Kind.DELETE, _room(fields), "", _key(fields), _ref(fields))


def _parse_react(fields: Mapping[str, Any]) -> Change:
    emoji, on = _string(fields, "emoji", MAX_EMOJI), fields.get("on", True)
    if not is_emoji(emoji):
        raise ChatError("bad_message", "emoji must be one emoji")
    if not isinstance(on, bool):
        raise ChatError("bad_message", "on must be true or false")
    text = f"{'+' if on else '-'}{emoji}"
    return Change(Kind.REACT, _room(fields), text, _key(fields), _ref(fields))


def _parse_topic(fields: Mapping[str, Any]) -> Change:
    text = " ".join(_string(fields, "text", MAX_TOPIC).split())
    return Change(Kind.TOPIC, _room(fields), text, _key(fields), None)


def _parse_history(fields: Mapping[str, Any]) -> History:
    limit = fields.get("limit", MAX_HISTORY)
    if type(limit) is not int or not 1 <= limit <= MAX_HISTORY:
        raise ChatError("bad_message", f"limit must be a number from 1 to {MAX_HISTORY}")
    places = [
        name for name in ("before", "after", "around", "date") if fields.get(name) is not None
    ]
    if len(places) > 1:
        raise ChatError("bad_message", f"{places[1]} must not come with {places[0]}")
    date = _optional_string(fields, "date", MAX_KEY)
    if date is not None:
        try:
            moment = datetime.fromisoformat(date)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ChatError("bad_message", "date must be a time as in RFC 3339, with a time zone")
        date = format_time(moment.astimezone(UTC))
    before, after = _id(fields, "before"), _id(fields, "after")
    return History(_room(fields), limit, before, after, _id(fields, "around"), date)


def _parse_search(fields: Mapping[str, Any]) -> Search:
    text = " ".join(_string(fields, "text", MAX_SEARCH).split())
    if not text:
        raise ChatError("bad_message", "text must not be empty")
    room = None if fields.get("room") is None else _room(fields)
    return Search(room, text, _id(fields, "before"))


def _parse_rooms(fields: Mapping[str, Any]) -> Rooms:
    return Rooms()


def _parse_moderate(fields: Mapping[str, Any]) -> Moderate:
    seconds = fields.get("seconds")
    if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= MAX_BAN):
        raise ChatError("bad_message", f"seconds must be a number from 1 to {MAX_BAN}, or null")
    author = _string(fields, "author", MAX_KEY)
    if not is_author(author):
        raise ChatError("bad_message", "author must be the public id of a member")
    return Moderate(fields["type"], _room(fields), author, seconds)


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
    "edit": _parse_edit,
    "delete": _parse_delete,
    "react": _parse_react,
    "topic": _parse_topic,
    "history": _parse_history,
    "search": _parse_search,
    "rooms": _parse_rooms,
    "leave": _parse_leave,
    "typing": _parse_typing,
    "ping": _parse_ping,
    **dict.fromkeys(("kick", "ban", "unban", "mute", "unmute"), _parse_moderate),
}
# Types whose error has the key of the request.
_ENTRIES = {"say", "edit", "delete", "react", "topic"}


def _room(fields: Mapping[str, Any]) -> str:
    room = fields.get("room")
    if not isinstance(room, str) or not (is_room_name(room) or direct_authors(room)):
        raise ChatError(
            "bad_message",
            "room must be 1 to 64 letters, digits, dots, underscores or dashes",
        )
    return room


def _text(fields: Mapping[str, Any]) -> str:
    text = _string(fields, "text", None)
    if not text:
        raise ChatError("bad_message", "text must not be empty")
    if len(text) > MAX_TEXT:
        raise ChatError(
            "too_long",
            f"a message has at most {MAX_TEXT:,} characters, this one {len(text):,}",
        )
    return text


def _key(fields: Mapping[str, Any]) -> str | None:
    key = _optional_string(fields, "key", MAX_KEY)
    if key == "":
        raise ChatError("bad_message", f"key must be 1 to {MAX_KEY} characters")
    return key


def _ref(fields: Mapping[str, Any]) -> int:
    ref = _id(fields, "ref")
    if ref is None:
        raise ChatError("bad_message", "ref must be the id of a message")
    return ref


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
