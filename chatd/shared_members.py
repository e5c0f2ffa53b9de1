"""Members of rooms on several nodes: claims of names, and the members of the other nodes.

The shared store decides who has a name. Each change of a room's members raises the version of
its roster by one. A node applies the changes in this order. If a notification is missing, it
reads the roster again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from chatd.lookalikes import skeleton
from chatd.model import RESERVED_FOR, name_key
from chatd.rooms import Member, Room
from chatd.storage.shared import (
    Changed,
    Claim,
    NameHeld,
    Release,
    Roster,
    RosterEntry,
    SharedStore,
)
from chatd.storage.store import StoreError

# Seconds for an earlier change to arrive before the roster is read again.
REORDER_DELAY = 0.25
# Seconds until a failed read or release is repeated.
RETRY_PAUSE = 1.0

ClaimCallback = Callable[[Changed | NameHeld | StoreError], None]


class _Roster:
    """The state of a room's roster: its version, and later changes by version."""

    __slots__ = ("is_reading", "pending", "version")

    def __init__(self) -> None:
        self.version: int | None = None  # until the first read
        self.pending: dict[int, RosterEntry] = {}
        self.is_reading = False


class SharedMembers:
    """Keeps the rooms of this node equal to the store.

    Args:
        store: The shared store.
        call_later: Calls a function after some seconds, like `Server.call_later`.
        find_room: Returns a room in use.
        on_change: Called after a change of a room's members.
        on_rename: Called with a member and its former name, after a change by another node.
        on_removed: Called with a member that has no longer its name, but has peers of this node.
    """

    def __init__(
        self,
        store: SharedStore,
        call_later: Callable[[float, Callable[[], None]], None],
        find_room: Callable[[str], Room | None],
        on_change: Callable[[Room], None],
        on_rename: Callable[[Member, str], None],
        on_removed: Callable[[Member], None],
    ) -> None:
        self._store = store
        self._call_later = call_later
        self._find_room = find_room
        self._on_change = on_change
        self._on_rename = on_rename
        self._on_removed = on_removed
        self._rosters: dict[str, _Roster] = {}
        self._claims: Counter[tuple[str, str]] = Counter()  # in progress, by room and author
        self.keeps_names = False  # True once the node ends; see `PostgresStore.close`

    def follow(self, room: str) -> None:
        """Keep the members of a room from now on."""
        self._rosters[room] = _Roster()
        self._read(room)

    def unfollow(self, room: str) -> None:
        """Keep the members of a room no longer."""
        self._rosters.pop(room, None)

    def version(self, room: str) -> int:
        """Return the version of the roster that the room has, 0 without one."""
        roster = self._rosters.get(room)
        return 0 if roster is None else roster.version or 0

    # Changes of this node.

    def claim(
        self,
        room: Room,
        name: str,
        author: str,
        callback: ClaimCallback,
        *,
        is_proven: bool,
        moderates: bool,
    ) -> None:
        """Claim a name; the callback decides whether a peer still joins with it."""
        place = (room.name, author)
        claim = Claim(room.name, author, name, name_key(name), skeleton(name), is_proven, moderates)
        room.claims += 1
        self._claims[place] += 1

        def finish(result: Changed | NameHeld | StoreError) -> None:
            room.claims -= 1
            self._claims[place] -= 1
            if not self._claims[place]:
                del self._claims[place]
            callback(result)
            if isinstance(result, NameHeld):
                return
            self.release(room, author, reserve=True)  # if the peer has gone meanwhile
            if isinstance(result, Changed):
                member = room.find_author(author)
                if member is not None and member.peers:
                    member.version = result.version
                self.on_member(room.name, result)

        self._store.change_member(claim, finish)

    def release(self, room: Room, author: str, *, reserve: bool) -> None:
        """Release the name of an author without peers and claims of this node."""
        member = room.find_author(author)
        has_peers = member is not None and member.peers
        if has_peers or self._claims[room.name, author] or self.keeps_names:
            return
        self._release(Release(room.name, author, RESERVED_FOR if reserve else 0.0))

    def expel(self, room: str, author: str) -> None:
        """Remove a member from all nodes."""
        self._release(Release(room, author, everywhere=True))

    def _release(self, release: Release) -> None:
        def finish(result: Changed | NameHeld | StoreError) -> None:
            if isinstance(result, Changed):
                self.on_member(release.room, result)
            elif isinstance(result, StoreError) and not self.keeps_names:
                self._call_later(RETRY_PAUSE, partial(self._release_again, release))

        self._store.change_member(release, finish)

    def _release_again(self, release: Release) -> None:
        room = self._find_room(release.room)
        member = None if room is None else room.find_author(release.author)
        is_back = self._claims[release.room, release.author] or (member and member.peers)
        if release.everywhere or not is_back:
            self._release(release)

    # Changes of all nodes, in the order of their versions.

    def on_member(self, room: str, changed: Changed) -> None:
        """Receive a change."""
        roster = self._rosters.get(room)
        if roster is None or (roster.version is not None and changed.version <= roster.version):
            return
        roster.pending[changed.version] = changed.entry
        self._apply_pending(room, roster)
        if roster.pending and not roster.is_reading:
            self._call_later(REORDER_DELAY, partial(self._read_if_behind, room, changed.version))

    def on_version(self, room: str, version: int) -> None:
        """Receive the version of a roster, from a poll."""
        if self.version(room) != version:
            self._call_later(REORDER_DELAY, partial(self._read_if_behind, room, version))

    def _read_if_behind(self, room: str, version: int) -> None:
        if self.version(room) < version:
            self._read(room)

    def _apply_pending(self, name: str, roster: _Roster) -> None:
        room = self._find_room(name)
        if roster.version is None or room is None:
            return
        while (entry := roster.pending.pop(roster.version + 1, None)) is not None:
            roster.version += 1
            self._apply(room, entry, roster.version)

    def _apply(self, room: Room, entry: RosterEntry, version: int) -> None:
        member = room.find_author(entry.author)
        is_here = self._store.node in entry.nodes
        if member is not None and member.peers and not is_here and version > member.version:
            self._on_removed(member)
        former_name = room.update_elsewhere(
            entry.name,
            entry.author,
            moderates=entry.moderates,
            is_elsewhere=any(node != self._store.node for node in entry.nodes),
        )
        member = room.find_author(entry.author)
        if former_name is not None and member is not None:
            self._on_rename(member, former_name)
        self._on_change(room)

    def _read(self, room: str) -> None:
        roster = self._rosters.get(room)
        if roster is not None and not roster.is_reading:
            roster.is_reading = True
            self._store.read_roster(room, partial(self._on_read, room, roster))

    def _on_read(self, name: str, roster: _Roster, result: Roster | StoreError) -> None:
        if self._rosters.get(name) is not roster:
            return
        roster.is_reading = False
        if isinstance(result, StoreError):
            self._call_later(RETRY_PAUSE, partial(self._read, name))
            return
        room = self._find_room(name)
        if room is None or (roster.version is not None and result.version <= roster.version):
            return
        present = {entry.author for entry in result.entries}
        absent = {each.author for each in room.local_members()} | {*room.authors_elsewhere()}
        roster.version = result.version
        for author in absent - present:
            self._apply(room, RosterEntry(author, "", (), False), result.version)
        for entry in result.entries:
            self._apply(room, entry, result.version)
        for version in [each for each in roster.pending if each <= result.version]:
            del roster.pending[version]
        self._apply_pending(name, roster)
        if roster.pending:
            self._call_later(
                REORDER_DELAY, partial(self._read_if_behind, name, max(roster.pending))
            )
