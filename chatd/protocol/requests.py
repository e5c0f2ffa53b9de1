"""Requests of the clients: one value for each type of message, and the error that answers one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from chatd.model import Kind

MAX_HISTORY = 200  # messages in one `history`
MAX_SEARCH = 200  # characters of a search
MAX_BAN = 366 * 86_400  # seconds


class ChatError(Exception):
    """An error that the server reports to a client in a message of type `error`.

    Args:
        code: Error code for programs, for example "bad_message".
        message: Sentence for people.
        key: Key of the entry that failed.
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

    `after` is the id of the last entry that the client has. `session` proves that
    the client owns `name`; `token` is its invitation.
    """

    room: str
    name: str
    after: int | None
    session: str | None
    token: str | None


class Say(NamedTuple):
    """Message for a room; `key` is the client's own id for it, `ref` the id that it answers."""

    room: str
    text: str
    key: str | None
    ref: int | None = None


class Change(NamedTuple):
    """Change of the message `ref`: EDIT, DELETE or REACT; or the new TOPIC of a room.

    `text` is as in `model.Message`, for example "+👍" for a reaction.
    """

    kind: Kind
    room: str
    text: str
    key: str | None
    ref: int | None


@dataclass(frozen=True, slots=True)
class History:
    """Request for stored messages, at most one of four places.

    Messages older than the id `before`, newer than `after`, on both sides of `around`, or from
    the time `date` on. Without a place, the newest messages.
    """

    room: str
    limit: int
    before: int | None = None
    after: int | None = None
    around: int | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """Request for the messages with a text, newest first; `room` None stands for all rooms."""

    room: str | None
    text: str
    before: int | None


@dataclass(frozen=True, slots=True)
class Rooms:
    """Request for the directory of rooms."""


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


@dataclass(frozen=True, slots=True)
class Moderate:
    """Request of a moderator: `action` is kick, ban, unban, mute or unmute.

    `author` is the public id of the person. `seconds` limits a ban or a mute; None has no limit.
    """

    action: str
    room: str
    author: str
    seconds: int | None


ClientMessage = Join | Say | Change | History | Search | Rooms | Leave | Typing | Ping | Moderate
