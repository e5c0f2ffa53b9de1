"""The state of one connection: `Peer.user_data` is an instance of a class of this module.

A connection starts as `Handshaking`. The opening handshake turns it into `ChatMode`
(the subprotocol `chat.v1`, any number of rooms) or `PlainMode` (no subprotocol, bare
text in the room of its path). A POST request turns it into `PostMode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatd.access.costs import Budget
from chatd.ops.access_log import ConnectionRecord
from chatd.protocol import ChatError
from chatd.rooms import Member, Room

_NO_ROOMS: frozenset[str] = frozenset()  # shared, because most peers moderate no room


@dataclass(slots=True)
class Handshaking:
    """A connection with an incomplete or refused opening handshake."""

    record: ConnectionRecord


class ChatMode:
    """A connection in chat mode.

    `members` and `tokens` have room names as keys: the connection's members, and the
    invitation tokens that they joined with. `moderated` has the rooms that the connection may
    moderate, by its own invitation there. `has_joined` is True after the first join,
    also once the peer has left all rooms. `session` is the secret of the client, for joins
    without one. `proxy_name` is the name that a trusted proxy has given. `waiting` is the
    number of its requests in the work queue.
    """

    __slots__ = (
        "budget",
        "has_joined",
        "members",
        "moderated",
        "proxy_name",
        "record",
        "session",
        "tokens",
        "waiting",
    )

    def __init__(self, record: ConnectionRecord, proxy_name: str | None = None) -> None:
        self.proxy_name = proxy_name
        self.session: str | None = None
        self.record = record
        self.budget: Budget | None = None  # until the first message
        self.waiting = 0
        self.has_joined = False
        self.members: dict[str, Member] = {}
        self.moderated = _NO_ROOMS
        self.tokens: dict[str, str | None] = {}

    def member(self, room: str, *, key: str | None = None) -> Member:
        """Return the connection's member of a room.

        Raises:
            ChatError: `not_joined`, with the `key` of a `say`.
        """
        member = self.members.get(room)
        if member is None:
            raise ChatError(
                "not_joined", f"you are not in the room {room}; join it first", key=key, room=room
            )
        return member

    def forget(self, room: str) -> None:
        """Remove the member and the token of a room."""
        del self.members[room]
        self.tokens.pop(room, None)
        if room in self.moderated:
            self.moderated -= {room}


class PlainMode:
    """A connection in plain mode; it becomes a member with its first message.

    `name` and `token` come from its invitation, if it has one. `held` has the messages that wait
    until it is a member.
    """

    __slots__ = ("budget", "held", "member", "name", "record", "room", "token")

    def __init__(
        self, record: ConnectionRecord, room: Room, name: str | None, token: str | None
    ) -> None:
        self.record = record
        self.budget: Budget | None = None  # until the first message
        self.room = room
        self.name = name
        self.member: Member | None = None
        self.held: list[str] = []
        self.token = token


class PostMode:
    """A connection with a POST request, whose response waits for the store."""

    __slots__ = ("record", "room")

    def __init__(self, record: ConnectionRecord, room: str) -> None:
        self.record = record
        self.room = room


OpenMode = ChatMode | PlainMode
Mode = Handshaking | OpenMode | PostMode
