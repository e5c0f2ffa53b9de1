"""Room of the chat: its members by name, its reserved names and the peers that get its messages.

A name is unique in its room, regardless of case. It belongs to a session: a secret
that the server sends only to the owner of the name. After a lost connection the name
stays reserved for the session, so that the client gets it back. `registry` decides
when a peer joins and leaves.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from chatd.model import NAMED_MEMBERS, RESERVED_FOR, name_key
from wsproto_min import Group, Peer

Changes = tuple[list[str], list[str]] | tuple[None, None]
"""Names that joined and names that left; None in a room too large for names."""


class NameTaken(Exception):
    """The name belongs to another session."""


@dataclass(slots=True, eq=False)
class Member:
    """A name in a room, held by a peer or reserved for a session.

    `peer` is None while the name is only reserved. A reservation ends at
    `reserved_until`, in seconds of the monotonic clock.
    """

    room: Room
    name: str
    session: str
    peer: Peer | None
    reserved_until: float = 0.0


class Room:
    """Members of a room, and their changes since the last presence message.

    A presence message names the members that joined and left. In a large room, with more
    than NAMED_MEMBERS members, it has only the count, and the clients lose their lists
    of names. The first presence message after the room has shrunk has all names.

    `count` is the number of members with a peer. `last_broadcast_at` is the time of
    the last presence message; `broadcast_scheduled` is True while a timer for the
    next one is pending. `typing` has the members whose typing is not announced yet;
    `last_typing_at` and `typing_scheduled` are like those of the presence message.

    Args:
        name: Name of the room.
        chat_peers: Group for the members in chat mode that have caught up.
        plain_peers: Group for the peers in plain mode, which may have no name yet.
    """

    __slots__ = (
        "_guests",
        "_joined",
        "_left",
        "_members",
        "_names_withheld",
        "_reported_count",
        "_seen_changes",
        "broadcast_scheduled",
        "chat_peers",
        "count",
        "last_broadcast_at",
        "last_typing_at",
        "name",
        "plain_peers",
        "typing",
        "typing_scheduled",
    )

    def __init__(self, name: str, chat_peers: Group, plain_peers: Group) -> None:
        self.name = name
        self.chat_peers = chat_peers
        self.plain_peers = plain_peers
        self.count = 0
        self.last_broadcast_at = 0.0
        self.broadcast_scheduled = False
        self.typing: dict[Member, None] = {}
        self.last_typing_at = 0.0
        self.typing_scheduled = False
        self._members: dict[str, Member] = {}  # by `name_key`, reservations included
        self._guests = 0  # number of the last guest name
        # Changes since the last presence message with names. A dict is a set with an order.
        self._joined: dict[str, None] = {}
        self._left: dict[str, None] = {}
        self._seen_changes: set[str] = set()  # changed names in a list that a client received
        self._names_withheld = False  # a client received only a count since then
        self._reported_count = 0  # the count that all clients know; -1 if they differ

    def join(
        self, name: str, session: str | None, peer: Peer, now: float, *, proven: bool = False
    ) -> tuple[Member, Peer | None]:
        """Give a name to a peer.

        The right `session` takes the name over from another peer, because the server
        may not have noticed yet that the old connection is dead.

        Args:
            name: Normalized name.
            session: Session that the client presents for the name.
            peer: Peer that joins.
            now: Time in seconds of the monotonic clock.
            proven: True if an invitation proves that the client owns the name. Then
                a reservation does not block the name.

        Returns:
            The member, and the peer that held the name until now.

        Raises:
            NameTaken: The name belongs to another session.
        """
        key = name_key(name)
        member = self._members.get(key)
        if member is None or (member.peer is None and (proven or member.reserved_until <= now)):
            member = Member(self, name, secrets.token_urlsafe(16), None)
            self._members[key] = member
        # compare_digest() rejects str outside ASCII, so compare bytes.
        elif session is None or not secrets.compare_digest(
            member.session.encode(), session.encode()
        ):
            raise NameTaken(name)
        former, member.peer = member.peer, peer
        if former is None:
            self.count += 1
            self._record_change(name, self._joined, self._left)
        elif name != member.name:  # another spelling of the same name
            self._record_change(member.name, self._left, self._joined)
            self._record_change(name, self._joined, self._left)
        member.name = name
        return member, former

    def join_as_guest(self, peer: Peer, now: float) -> Member:
        """Give a peer the next free guest name, for example "guest-1"."""
        while True:
            self._guests += 1
            try:
                return self.join(f"guest-{self._guests}", None, peer, now)[0]
            except NameTaken:
                continue

    def holder(self, name: str) -> Peer | None:
        """Return the peer with a name, None if the name is free or only reserved."""
        member = self._members.get(name_key(name))
        return None if member is None else member.peer

    def leave(self, member: Member, *, reserve_at: float | None = None) -> None:
        """Take the peer from a member.

        Args:
            member: Member with a peer.
            reserve_at: Start of the name's reservation, in seconds of the monotonic
                clock; None frees the name.
        """
        member.peer = None
        if reserve_at is None:
            self._members.pop(name_key(member.name), None)
        else:
            member.reserved_until = reserve_at + RESERVED_FOR
        self.count -= 1
        self._record_change(member.name, self._left, self._joined)

    def expire_reservations(self, now: float) -> int:
        """Remove the reservations that end by `now`.

        Returns:
            Number of remaining reservations.
        """
        self._members = {
            key: member
            for key, member in self._members.items()
            if member.peer is not None or member.reserved_until > now
        }
        return len(self._members) - self.count

    @property
    def is_empty(self) -> bool:
        """True if the room has no peers, no members and no reservations."""
        return not self.plain_peers and not self._members

    def names_to_send(self) -> list[str]:
        """Return the names, or [] with more than NAMED_MEMBERS members.

        The room records that a client received them.
        """
        if self.count != self._reported_count:
            self._reported_count = -1
        if self.count > NAMED_MEMBERS:
            self._names_withheld = True
            return []
        self._seen_changes.update(self._joined, self._left)
        return self._names()

    def take_changes(self) -> Changes | None:
        """Return the changes for a presence message, None without changes.

        Returns:
            The names that joined and left since the last call, both None in a large room.
            Once a large room has shrunk, all names count as joined.
        """
        if self.count > NAMED_MEMBERS:
            if self.count == self._reported_count:
                return None
            self._names_withheld = True
            self._reported_count = self.count
            return None, None
        if not self._joined and not self._left and not self._names_withheld:
            return None
        changes = self._names() if self._names_withheld else list(self._joined), list(self._left)
        self._joined, self._left, self._names_withheld = {}, {}, False
        self._seen_changes.clear()
        self._reported_count = self.count
        return changes

    def _names(self) -> list[str]:
        return [member.name for member in self._members.values() if member.peer is not None]

    def _record_change(
        self, name: str, changes: dict[str, None], opposite: dict[str, None]
    ) -> None:
        """Record a change, unless it cancels the opposite change of the same name.

        A client that received the names between the two changes needs the second change too.
        """
        cancels = name in opposite
        if cancels:
            del opposite[name]
        if not cancels or name in self._seen_changes:
            changes[name] = None
