"""Room of the chat: its members by name, its reserved names and the peers that get its messages.

A name is unique in its room, regardless of case, and no other name may look like it. It belongs
to an author: a session, which is a secret of its client, or the name of an invitation. Several
connections of one author share one member. After the last of them is lost, the name stays
reserved for the author, so that the client gets it back. `registry` decides when a peer joins
and leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import NamedTuple

from chatd.lookalikes import skeleton
from chatd.model import NAMED_MEMBERS, RESERVED_FOR, name_key, session_author
from wsproto_min import Group, Peer

# Connections of one member in a room; one more replaces the oldest.
MAX_CONNECTIONS = 16

Named = tuple[str, str]
"""Name and author of a member."""
Changes = tuple[list[Named], list[str]] | tuple[None, None]
"""Members that joined and names that left; None in a room too large for names."""


class NameTaken(Exception):
    """The name, or one that looks like it, belongs to another author."""


@dataclass(slots=True, eq=False)
class Member:
    """A name in a room, held by the peers of an author or reserved for the author.

    `moderates` is True once one of the peers had the invitation of a moderator.
    `peers` is empty while the name is only reserved. A reservation ends at
    `reserved_until`, in seconds of the monotonic clock.
    """

    room: Room
    name: str
    author: str
    moderates: bool = False
    peers: dict[Peer, None] = field(default_factory=dict)
    reserved_until: float = 0.0


class Joined(NamedTuple):
    """Result of a join: the member, the peer that it replaces, and the former name."""

    member: Member
    replaced: Peer | None
    former_name: str | None


class Room:
    """Members of a room, and their changes since the last presence message.

    A presence message names the members that joined and left. In a large room, with more
    than NAMED_MEMBERS members, it has only the count, and the clients lose their lists
    of names. The first presence message after the room has shrunk has all names.

    `count` is the number of members with peers. `last_broadcast_at` is the time of
    the last presence message; `broadcast_scheduled` is True while a timer for the
    next one is pending. `typing` has the members whose typing is not announced yet;
    `last_typing_at` and `typing_scheduled` are like those of the presence message.

    Args:
        name: Name of the room.
        chat_peers: Group for the members in chat mode that have caught up.
        plain_peers: Group for the peers in plain mode, which may have no name yet.
    """

    __slots__ = (
        "_by_author",
        "_by_look",
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
        self.typing: dict[Member, Peer] = {}
        self.last_typing_at = 0.0
        self.typing_scheduled = False
        # Members, reservations included, by `name_key`, by `skeleton` and by author.
        self._members: dict[str, Member] = {}
        self._by_look: dict[str, Member] = {}
        self._by_author: dict[str, Member] = {}
        self._guests = 0  # number of the last guest name
        # Changes since the last presence message with names: authors by name.
        self._joined: dict[str, str] = {}
        self._left: dict[str, str] = {}
        self._seen_changes: set[str] = set()  # changed names in a list that a client received
        self._names_withheld = False  # a client received only a count since then
        self._reported_count = 0  # the count that all clients know; -1 if they differ

    def join(
        self, name: str, author: str, peer: Peer, now: float, *, proven: bool = False
    ) -> Joined:
        """Give a name to a peer, beside the other peers of its author.

        A member has one name, so another name renames it for all of its peers.

        Args:
            name: Normalized name.
            author: Public id of the person.
            peer: Peer that joins.
            now: Time in seconds of the monotonic clock.
            proven: True if an invitation proves that the client owns the name. Then
                a reservation does not block the name.

        Raises:
            NameTaken: The name belongs to another author.
        """
        member = self._by_author.get(author)
        key, look = name_key(name), skeleton(name)
        holders = [
            each
            for each in (self._members.get(key), self._by_look.get(look))
            if each is not None and each is not member
        ]
        for holder in holders:
            if holder.peers or (holder.reserved_until > now and not proven):
                raise NameTaken(holder.name)
        for holder in holders:
            self._remove(holder)
        former_name = None
        if member is None:
            member = Member(self, name, author)
        elif member.name != name:
            self._remove(member)
            if member.peers:
                former_name = member.name
                self._record_change(member, self._left, self._joined)
        is_new = not member.peers or former_name is not None
        member.name = name
        self._members[key] = self._by_look[look] = self._by_author[author] = member
        if not member.peers:
            self.count += 1
        if is_new:
            self._record_change(member, self._joined, self._left)
        replaced = None
        if peer not in member.peers and len(member.peers) == MAX_CONNECTIONS:
            replaced = next(iter(member.peers))
            del member.peers[replaced]
        member.peers[peer] = None
        return Joined(member, replaced, former_name)

    def join_as_guest(self, peer: Peer, now: float) -> Member:
        """Give a peer the next free guest name, for example "guest-1"."""
        author = session_author(token_urlsafe(16))
        while True:
            self._guests += 1
            try:
                return self.join(f"guest-{self._guests}", author, peer, now).member
            except NameTaken:
                continue

    def holder(self, name: str) -> Member | None:
        """Return the member with a name, or with one that looks like it, also a reserved one."""
        return self._members.get(name_key(name)) or self._by_look.get(skeleton(name))

    def find_author(self, author: str) -> Member | None:
        """Return the member of an author, also a reserved one."""
        return self._by_author.get(author)

    def leave(self, member: Member, peer: Peer, *, reserve_at: float | None = None) -> None:
        """Take a peer from a member.

        Args:
            member: Member with the peer.
            peer: One of its peers.
            reserve_at: Start of the name's reservation after the last peer, in seconds of the
                monotonic clock; None frees the name.
        """
        if member.peers.pop(peer, peer) is peer or member.peers:
            return  # the peer has left already, or others remain
        if reserve_at is None:
            self._remove(member)
        else:
            member.reserved_until = reserve_at + RESERVED_FOR
        self.count -= 1
        self._record_change(member, self._left, self._joined)

    def _remove(self, member: Member) -> None:
        """Free the name of a member."""
        for index, key in (
            (self._members, name_key(member.name)),
            (self._by_look, skeleton(member.name)),
            (self._by_author, member.author),
        ):
            if index.get(key) is member:
                del index[key]

    def expire_reservations(self, now: float) -> int:
        """Remove the reservations that end by `now`.

        Returns:
            Number of remaining reservations.
        """
        for member in list(self._members.values()):
            if not member.peers and member.reserved_until <= now:
                self._remove(member)
        return len(self._members) - self.count

    @property
    def is_empty(self) -> bool:
        """True if the room has no peers, no members and no reservations."""
        return not self.plain_peers and not self._members

    def names_to_send(self) -> list[Named]:
        """Return the members, or [] with more than NAMED_MEMBERS members.

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
        joined = self._names() if self._names_withheld else list(self._joined.items())
        changes = joined, list(self._left)
        self._joined, self._left, self._names_withheld = {}, {}, False
        self._seen_changes.clear()
        self._reported_count = self.count
        return changes

    def _names(self) -> list[Named]:
        return [(each.name, each.author) for each in self._members.values() if each.peers]

    def _record_change(
        self, member: Member, changes: dict[str, str], opposite: dict[str, str]
    ) -> None:
        """Record a change, unless it cancels the opposite change of the same person and name.

        A client that received the names between the two changes needs the second change too.
        """
        name = member.name
        author = opposite.pop(name, None)
        # A later holder of a name is another person, so its joining cancels no leaving.
        if author is None or author != member.author or name in self._seen_changes:
            changes[name] = member.author
            if author is not None and author != member.author and changes is self._joined:
                opposite[name] = author
