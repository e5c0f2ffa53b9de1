"""Rows of the table of messages, and the entries that they hold."""

from __future__ import annotations

from typing import Any

from chatd.model import Kind, Message

_COLUMNS = "id, time, name, text, author, kind, ref, edited, reactions"
SELECT_ENTRY = f"SELECT {_COLUMNS} FROM messages"
# The row of an edit has no text, because the message has the current one. An edit of a message
# that is removed or deleted since has none at all.
SELECT_WITH_EDITS = (
    "SELECT id, time, name, CASE kind WHEN 1 THEN coalesce((SELECT text FROM messages AS edited"
    " WHERE edited.room = messages.room AND edited.id = messages.ref), '') ELSE text END,"
    " author, kind, ref, edited, reactions FROM messages"
)


def to_message(row: tuple[Any, ...]) -> Message:
    """Return the entry of a row of SELECT_ENTRY."""
    number, time, name, text, author, kind, *state = row
    return Message(number, time, name, text, author, Kind(kind), *state)
