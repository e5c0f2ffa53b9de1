"""Changes of stored messages: edits, deletions, reactions and topics.

A change is an entry of its own, with an id in the order of the room. `apply_change` checks it
against the message that it refers to, and keeps the current state in the row of this message.
"""

from __future__ import annotations

import json

from chatd.model import MAX_REACTION_KINDS, MAX_REACTIONS, Kind, Message
from chatd.storage.database import Database
from chatd.storage.moderation import add_to_audit
from chatd.storage.rows import SELECT_ENTRY, to_message
from chatd.storage.store import Act, NewMessage, Refused

_NOT_FOUND = Refused("not_found", "this room has no message with the id in ref; it may be removed")


def apply_change(database: Database, new: NewMessage, number: int) -> Refused | None:
    """Apply an entry, other than a plain message, to the state that it changes.

    Args:
        database: Connection with a transaction for writing.
        new: The entry; also a reply, which changes nothing.
        number: Id of the entry.

    Returns:
        The reason why the entry is invalid, or None.
    """
    if new.kind is Kind.TOPIC:
        database.execute(
            "INSERT INTO topics VALUES (?, ?)"
            " ON CONFLICT (room) DO UPDATE SET text = excluded.text",
            (new.room, new.text),
        )
        return None
    row = database.execute(
        f"{SELECT_ENTRY} WHERE room = ? AND id = ? AND kind = 0", (new.room, new.ref)
    ).fetchone()
    if row is None:
        return _NOT_FOUND
    target = to_message(row)
    if new.kind is Kind.MESSAGE:
        return None  # a reply, which a deleted message may have too
    if not target.text:
        return Refused("not_found", "the message is deleted")
    if new.kind is Kind.REACT:
        return _react(database, new, target)
    is_own = bool(new.author) and target.author == new.author
    if not is_own and not (new.kind is Kind.DELETE and new.moderates):
        return Refused("forbidden", "this is the message of another person")
    if new.kind is Kind.EDIT:
        values = (new.text, number, new.room, new.ref)
        database.execute(
            "UPDATE messages SET text = ?, edited = ? WHERE room = ? AND id = ?", values
        )
    else:
        # The row remains as a mark.
        database.execute(
            "UPDATE messages SET text = '', reactions = '' WHERE room = ? AND id = ?",
            (new.room, new.ref),
        )
        if not is_own:
            act = Act("delete", new.room, target.name, target.author, new.name)
            add_to_audit(database, act, f"message {target.id}")
    return None


def _react(database: Database, new: NewMessage, target: Message) -> Refused | None:
    """Add the author to the reactions of a message, or remove the author."""
    reactions: dict[str, list[str]] = json.loads(target.reactions or "{}")
    sign, emoji = new.text[0], new.text[1:]
    authors = reactions.setdefault(emoji, [])
    if sign == "-" and new.author in authors:
        authors.remove(new.author)
    elif sign == "+" and new.author not in authors:
        authors.append(new.author)
    reactions = {each: people for each, people in reactions.items() if people}
    if len(reactions) > MAX_REACTION_KINDS or sum(map(len, reactions.values())) > MAX_REACTIONS:
        return Refused("forbidden", "the message has its limit of reactions")
    encoded = json.dumps(reactions, ensure_ascii=False) if reactions else ""
    values = (encoded, new.room, new.ref)
    database.execute("UPDATE messages SET reactions = ? WHERE room = ? AND id = ?", values)
    return None
