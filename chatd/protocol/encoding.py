"""Encoding of the server's messages: one function a type, each returns the encoded message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

from chatd.model import Kind, Message
from chatd.protocol.requests import ChatError

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _fields(stored: Message) -> dict[str, Any]:
    """Return the fields of an entry; a field without a value is absent."""
    fields: dict[str, Any] = {
        "id": stored.id,
        "time": stored.time,
        "name": stored.name,
        "text": stored.text,
    }
    if stored.author:
        fields["author"] = stored.author
    if stored.ref is not None:
        fields["ref"] = stored.ref
    if stored.kind is Kind.REACT:
        fields["emoji"], fields["on"] = stored.text[1:], stored.text[0] == "+"
        del fields["text"]
    elif stored.kind is Kind.DELETE:
        del fields["text"]
    if stored.kind is Kind.MESSAGE and not stored.text:
        fields["deleted"] = True
    elif stored.edited is not None:
        fields["edited"] = stored.edited
    if stored.reactions:
        fields["reactions"] = json.loads(stored.reactions)
    return fields


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [_fields(each) for each in messages]


def joined(
    room: str,
    name: str,
    author: str,
    session: str,
    members: Sequence[tuple[str, str]],
    count: int,
    messages: Sequence[Message],
    changes: Sequence[Message],
    *,
    topic: str,
    moderator: bool,
    gap: bool,
) -> str:
    """Encode `joined`, the reply to a `join`.

    Args:
        room: Name of the room.
        name: Name of the new member.
        author: Public id of the new member.
        session: Session that reserves the name after a lost connection.
        members: Names and authors of the members; empty in a room with over NAMED_MEMBERS.
        count: Number of members.
        messages: Messages in ascending order.
        changes: Entries of other kinds in ascending order.
        topic: Topic of the room, "" for none.
        moderator: True if the member may moderate the room.
        gap: True if messages between the client's last one and `messages` are missing.
    """
    return _encode(
        {
            "type": "joined",
            "room": room,
            "name": name,
            "author": author,
            "session": session,
            "members": [name for name, _ in members],
            "authors": [author for _, author in members],
            "count": count,
            "topic": topic,
            "moderator": moderator,
            "messages": _messages(messages),
            "changes": [_typed_fields(each) for each in changes],
            "gap": gap,
        }
    )


def _typed_fields(stored: Message) -> dict[str, Any]:
    return {"type": stored.kind.name.lower(), **_fields(stored)}


def message(room: str, stored: Message) -> str:
    """Encode a stored entry, in the type of its kind.

    Formats the JSON of a message by hand because this is the most frequent one of the server.
    """
    if stored.kind is not Kind.MESSAGE or not stored.text or stored.edited or stored.reactions:
        fields = _typed_fields(stored)
        return _encode({"type": fields.pop("type"), "room": room, **fields})
    quote = encode_basestring
    ref = "" if stored.ref is None else f',"ref":{stored.ref}'
    return (
        f'{{"type":"message","room":{quote(room)},"id":{stored.id},"time":{quote(stored.time)}'
        f',"name":{quote(stored.name)},"author":"{stored.author}"{ref}'
        f',"text":{quote(stored.text)}}}'
    )


def acknowledgement(encoded: str, key: str | None) -> str:
    """Return an encoded message with the sender's `key` added, as its acknowledgement."""
    return encoded if key is None else f'{encoded[:-1]},"key":{encode_basestring(key)}}}'


def history(room: str, messages: Sequence[Message], *, more: bool, more_after: bool) -> str:
    """Encode the reply to a `history`.

    `more` is True if older messages exist, and `more_after` if newer ones exist.
    """
    fields = {"more": more, "more_after": more_after}
    return _encode({"type": "history", "room": room, "messages": _messages(messages), **fields})


def results(text: str, found: Sequence[tuple[str, Message]], *, before: int | None) -> str:
    """Encode the reply to a `search`: messages with their rooms, the newest first.

    `before` is the id below which a next search can find more, or None.
    """
    messages = [{"room": room, **_fields(each)} for room, each in found]
    return _encode({"type": "results", "text": text, "messages": messages, "before": before})


def rooms(listed: Sequence[Mapping[str, Any]]) -> str:
    """Encode the reply to `rooms`, the directory."""
    return _encode({"type": "rooms", "rooms": list(listed)})


def direct(room: str, name: str, author: str) -> str:
    """Encode the notice of a message in a direct room that the client has not joined."""
    return _encode({"type": "direct", "room": room, "name": name, "author": author})


def presence(
    room: str,
    joined: Sequence[tuple[str, str]] | None,
    left: Sequence[str] | None,
    count: int,
) -> str:
    """Encode a change of the members; both lists are None in a large room.

    Args:
        room: Name of the room.
        joined: Names and authors of the members that joined.
        left: Names of the members that left.
        count: Number of members.
    """
    fields: dict[str, Any] = {"type": "presence", "room": room, "count": count}
    if joined is not None and left is not None:
        names, authors = [name for name, _ in joined], [author for _, author in joined]
        fields |= {"joined": names, "authors": authors, "left": list(left)}
    return _encode(fields)


def renamed(room: str, former: str, name: str, author: str) -> str:
    """Encode the change of a member's name."""
    fields = {"type": "renamed", "room": room, "from": former, "name": name, "author": author}
    return _encode(fields)


def moderated(room: str, action: str, name: str, by: str, seconds: int | None) -> str:
    """Encode the notice that the moderator `by` has acted on the member `name`."""
    fields = {"room": room, "action": action, "name": name, "by": by, "seconds": seconds}
    return _encode({"type": "moderated", **fields})


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
