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

    If several nodes share the store, `is_elsewhere` is True while other nodes have peers of the
    member, and `version` is the one of the roster with the claim of this node.
    """

    room: Room
    name: str
    author: str
    moderates: bool = False
    peers: dict[Peer, None] = field(default_factory=dict)
    reserved_until: float = 0.0
    is_elsewhere: bool = False
    version: int = 0

    @property
    def is_present(self) -> bool:
        """True unless the name is only reserved."""
        return bool(self.peers) or self.is_elsewhere


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

    `count` is the number of members that are present. `claims` is the number of claims of names
    that the shared store has yet to decide. `last_broadcast_at` is the time of
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
        "_only_elsewhere",
        "_reported_count",
        "_seen_changes",
        "broadcast_scheduled",
        "chat_peers",
        "claims",
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
        self.claims = 0
        self._only_elsewhere = 0  # number of members that have peers on other nodes only
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
        self,
        name: str,
        author: str,
        peer: Peer,
        now: float,
        *,
        proven: bool = False,
        is_granted: bool = False,
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
            is_granted: True if the shared store has decided. Then only a member with peers of
                this node blocks the name.

        Raises:
            NameTaken: The name belongs to another author.
        """
        key, look = name_key(name), skeleton(name)
        for holder in (self._members.get(key), self._by_look.get(look)):
            if holder is None or holder.author == author:
                continue
            is_reserved = holder.is_elsewhere or (holder.reserved_until > now and not proven)
            if holder.peers or (is_reserved and not is_granted):
                raise NameTaken(holder.name)
        member, former_name = self._give_name(name, author, key, look)
        if not member.is_present:
            self.count += 1
            self._record_change(member, self._joined, self._left)
        if member.is_elsewhere and not member.peers:
            self._only_elsewhere -= 1
        replaced = None
        if peer not in member.peers and len(member.peers) == MAX_CONNECTIONS:
            replaced = next(iter(member.peers))
            del member.peers[replaced]
        member.peers[peer] = None
        return Joined(member, replaced, former_name)

    def _give_name(self, name: str, author: str, key: str, look: str) -> tuple[Member, str | None]:
        """Give a name to an author; return the member, and its former name if others saw it.

        Removes other holders of the name, which have no peers.
        """
        member = self._by_author.get(author)
        for holder in (self._members.get(key), self._by_look.get(look)):
            if holder is not None and holder is not member:
                if holder.is_elsewhere:
                    self._set_elsewhere(holder, is_elsewhere=False)
                self._remove(holder)
        former_name = None
        if member is None:
            member = Member(self, name, author)
        elif member.name != name:
            self._remove(member)
            if member.is_present:
                former_name = member.name
                self._record_change(member, self._left, self._joined)
        member.name = name
        self._members[key] = self._by_look[look] = self._by_author[author] = member
        if former_name is not None:
            self._record_change(member, self._joined, self._left)
        return member, former_name

    def update_elsewhere(
        self, name: str, author: str, *, moderates: bool, is_elsewhere: bool
    ) -> str | None:
        """Apply a change of a member by another node.

        Args:
            name: Name of the member; another one than before renames it.
            author: Its public id.
            moderates: True if it is a moderator.
            is_elsewhere: True if other nodes have peers of it.

        Returns:
            The former name, None if it has not changed.
        """
        member = self._by_author.get(author)
        if not is_elsewhere:
            if member is not None and member.is_elsewhere:
                self._set_elsewhere(member, is_elsewhere=False)
                if not member.peers:
                    self._remove(member)
            return None
        key, look = name_key(name), skeleton(name)
        for holder in (self._members.get(key), self._by_look.get(look)):
            if holder is not None and holder.author != author and holder.peers:
                return None  # this node's member leaves first; another change follows
        member, former_name = self._give_name(name, author, key, look)
        member.moderates |= moderates
        if not member.is_elsewhere:
            self._set_elsewhere(member, is_elsewhere=True)
        return former_name

    def _set_elsewhere(self, member: Member, *, is_elsewhere: bool) -> None:
        was_present = member.is_present
        member.is_elsewhere = is_elsewhere
        if not member.peers:
            self._only_elsewhere += 1 if is_elsewhere else -1
        if member.is_present and not was_present:
            self.count += 1
            self._record_change(member, self._joined, self._left)
        elif was_present and not member.is_present:
            self.count -= 1
            self._record_change(member, self._left, self._joined)

    def authors_elsewhere(self) -> list[str]:
        """Return the authors with peers on other nodes."""
        return [each.author for each in self._by_author.values() if each.is_elsewhere]

    def local_members(self) -> list[Member]:
        """Return the members with peers of this node."""
        return [each for each in self._by_author.values() if each.peers]

    def join_as_guest(self, peer: Peer, now: float) -> Member:
        """Give a peer the next free guest name, for example "guest-1"."""
        author = session_author(token_urlsafe(16))
        while True:
            try:
                return self.join(f"guest-{self.next_guest()}", author, peer, now).member
            except NameTaken:
                continue

    def next_guest(self) -> int:
        """Return the number of the next guest name, which may be taken."""
        self._guests += 1
        return self._guests

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
        if member.is_elsewhere:
            self._only_elsewhere += 1
            return
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
            if not member.is_present and member.reserved_until <= now:
                self._remove(member)
        return len(self._members) - self.count

    @property
    def is_empty(self) -> bool:
        """True if the room has no peers, reservations or claims of this node."""
        if self.plain_peers or self.claims:
            return False
        return len(self._members) == self._only_elsewhere

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
        return [(each.name, each.author) for each in self._members.values() if each.is_present]

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
