"""The shared store: the interface of an engine that several processes use.

Each process is a node. The store coordinates the members of rooms, so that a name belongs to one
person on all nodes, and it tells a node of the entries and announcements of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from chatd.model import Message
from chatd.storage.store import MessageStore, StoreError


class Claim(NamedTuple):
    """Request for a name in a room, for a member with connections to this node.

    `key` and `look` are `model.name_key` and `lookalikes.skeleton` of the name; no other member
    may have an equal one. `is_proven` is True if an invitation proves the name, which then wins
    against a reservation.
    """

    room: str
    author: str
    name: str
    key: str
    look: str
    is_proven: bool
    moderates: bool


class Release(NamedTuple):
    """Report that a member has no more connections to this node.

    `reserve` is the number of seconds for which the name stays reserved if no other node has
    connections; 0 frees it. `everywhere` removes the member from all nodes.
    """

    room: str
    author: str
    reserve: float = 0.0
    everywhere: bool = False


class RosterEntry(NamedTuple):
    """A member of a room on all nodes; `nodes` are those with its connections."""

    author: str
    name: str
    nodes: Sequence[str]
    moderates: bool


class Changed(NamedTuple):
    """Result of a claim or release: the new version of the room's roster, and the member."""

    version: int
    entry: RosterEntry


class NameHeld(NamedTuple):
    """Result of a refused claim: the name of the member that has the name or a similar one."""

    holder: str


class Roster(NamedTuple):
    """The members of a room; `version` increases by one with each change."""

    version: int
    entries: Sequence[RosterEntry]


class NewEntries(NamedTuple):
    """Entries in ascending order.

    `is_complete` is False if others follow, which need another read or are in an append of this
    node that has no result yet.
    """

    entries: Sequence[Message]
    is_complete: bool


ChangeCallback = Callable[[Changed | NameHeld | StoreError], None]
RosterCallback = Callable[[Roster | StoreError], None]
EntriesCallback = Callable[[NewEntries | StoreError], None]
LastCallback = Callable[[int | StoreError], None]
MetricValue = float | Mapping[tuple[str, ...], float]
"""A number, or numbers by label values."""
Position = tuple[str, int, int]
"""Name of a room, the last id that the node has delivered, and the version of its roster."""


class Subscriber(Protocol):
    """Receiver of the events of other nodes, in the thread of the event loop."""

    def positions(self) -> Sequence[Position]:
        """Return the state of each room in use."""

    def on_entries(self, room: str, last: int, entries: Sequence[Message] | None) -> None:
        """Receive new entries up to the id `last`; None if they were too large."""

    def on_last(self, room: str, last: int) -> None:
        """Receive the last id of a room, from a poll."""

    def on_member(self, room: str, changed: Changed) -> None:
        """Receive a change of a room's roster."""

    def on_roster_version(self, room: str, version: int) -> None:
        """Receive the version of a roster, from a poll."""

    def on_announcement(self, room: str, text: str) -> None:
        """Receive a message of another node for all members of a room."""

    def on_lost(self, reason: str) -> None:
        """Close all connections, because the node has lost its members' names."""


class SharedStore(MessageStore, Protocol):
    """A message store that several nodes share.

    The results come as those of `MessageStore`: by callback, in the thread of the event loop.
    """

    @property
    def node(self) -> str:
        """Name of this node, which no other node has or had."""

    def subscribe(self, subscriber: Subscriber) -> None:
        """Set the receiver of events, before `start`."""

    def read_last(self, room: str, callback: LastCallback, /) -> None:
        """Read the last id of a room, 0 without entries."""

    def read_entries(self, room: str, after: int, limit: int, callback: EntriesCallback, /) -> None:
        """Read the oldest `limit` entries of all kinds after an id."""

    def change_member(self, change: Claim | Release, callback: ChangeCallback, /) -> None:
        """Claim or release a name."""

    def read_roster(self, room: str, callback: RosterCallback, /) -> None:
        """Read the members of a room."""

    def announce(self, room: str, text: str, /) -> None:
        """Send a message to the members of a room on the other nodes, at most once."""

    def on_repair(self) -> None:
        """Record a change that a poll has found before any notification."""

    def readiness(self) -> str | None:
        """Return the reason why the node is not ready, None if it is."""

    def metrics(self) -> Mapping[tuple[str, ...], tuple[str, MetricValue]]:
        """Return the store's metrics, as `ops.metrics.format_exposition` takes them."""
