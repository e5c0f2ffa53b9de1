"""One room: its members by name, its reserved names and the peers that get its messages.

A name is unique in its room, regardless of case. It belongs to a session: a secret
that the server sends only to the owner of the name. After a lost connection the name
stays reserved for the session, so that the client gets it back. `registry` decides
when a peer joins and leaves.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from chatd.model import NAMED_MEMBERS, RESERVED_FOR
from wsproto_min import Group, Peer


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

    `count` is the number of members with a peer. `last_broadcast_at` is the time of
    the last presence message; `broadcast_scheduled` is True while a timer for the
    next one is pending.

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
        "_names_sent",
        "broadcast_scheduled",
        "chat_peers",
        "count",
        "last_broadcast_at",
        "name",
        "plain_peers",
    )

    def __init__(self, name: str, chat_peers: Group, plain_peers: Group) -> None:
        self.name = name
        self.chat_peers = chat_peers
        self.plain_peers = plain_peers
        self.count = 0
        self.last_broadcast_at = 0.0
        self.broadcast_scheduled = False
        self._members: dict[str, Member] = {}  # by name in lower case, reservations included
        self._guests = 0  # number of the last guest name
        self._joined: dict[str, None] = {}  # a dict is a set that keeps its order
        self._left: dict[str, None] = {}
        self._names_sent = False  # a client got the names since the last presence message

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
        key = name.casefold()
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

    def leave(self, member: Member, *, reserve_at: float | None = None) -> None:
        """Take the peer from a member.

        Args:
            member: Member with a peer.
            reserve_at: Start of the name's reservation, in seconds of the monotonic
                clock; None frees the name.
        """
        member.peer = None
        if reserve_at is None:
            self._members.pop(member.name.casefold(), None)
        else:
            member.reserved_until = reserve_at + RESERVED_FOR
        self.count -= 1
        self._record_change(member.name, self._left, self._joined)

    def expire_reservations(self, now: float) -> int:
        """Remove the reservations that end by `now`; return the number of the others."""
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

    def names(self) -> list[str]:
        """Return the members' names for a client, or none in a room with over NAMED_MEMBERS."""
        self._names_sent = True
        if self.count > NAMED_MEMBERS:
            return []
        return [member.name for member in self._members.values() if member.peer is not None]

    def take_changes(self) -> tuple[list[str], list[str]] | None:
        """Return the names that joined and left since the last call, None without changes."""
        if not self._joined and not self._left:
            return None
        changes = list(self._joined), list(self._left)
        self._joined, self._left, self._names_sent = {}, {}, False
        return changes

    def _record_change(
        self, name: str, changes: dict[str, None], opposite: dict[str, None]
    ) -> None:
        """Record a change, unless it cancels the opposite change of the same name.

        A client that got the names between the two changes knows only the first one.
        In that case the second one is recorded as well.
        """
        cancels = name in opposite
        if cancels:
            del opposite[name]
        if not cancels or self._names_sent:
            changes[name] = None
