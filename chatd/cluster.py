"""The node's part in a chat of several nodes: it receives the events of the shared store.

The cluster follows each room in use: its entries by the `Feed`, its members by `SharedMembers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from chatd.feed import Feed
from chatd.model import Message
from chatd.modes import ChatMode, PlainMode
from chatd.ops.metrics import Histogram, Value
from chatd.rooms import Room
from chatd.shared_members import SharedMembers
from chatd.storage.shared import Changed, Position, SharedStore
from wsproto_min import CloseCode, Peer, Server

# Peers that are closed together, and seconds until the next ones, once the node is lost.
CLOSE_UNIT = 100
CLOSE_PAUSE = 0.02


class Cluster:
    """Subscriber of the shared store.

    Args:
        store: The shared store.
        server: Server with the loop and the peers.
        feed: Delivers the entries of the rooms.
        members: Keeps the members of the rooms.
        find_room: Returns a room in use.
    """

    def __init__(
        self,
        store: SharedStore,
        server: Server,
        feed: Feed,
        members: SharedMembers,
        find_room: Callable[[str], Room | None],
    ) -> None:
        self._store = store
        self._server = server
        self._find_room = find_room
        self._followed: dict[str, None] = {}
        self._delay = Histogram()
        self.feed = feed
        self.members = members
        self.announce = store.announce
        self.is_lost = False  # True until all connections of a lost node are closed

    def follow(self, room: str) -> None:
        """Receive the entries and members of a room from now on."""
        self._followed[room] = None
        self.feed.follow(room)
        self.members.follow(room)

    def unfollow(self, room: str) -> None:
        """Receive nothing of a room any more."""
        del self._followed[room]
        self.feed.unfollow(room)
        self.members.unfollow(room)

    def metrics(self) -> Mapping[tuple[str, ...], tuple[str, Value]]:
        """Return the metrics of the nodes, as `format_exposition` takes them."""
        return {
            **self._store.metrics(),
            ("chatd_store_delay_seconds",): (
                "Seconds from the time of another node's message to its notification here.",
                self._delay,
            ),
        }

    # Events of the store; see `storage.shared.Subscriber`.

    def positions(self) -> Sequence[Position]:
        """Return the state of each room in use."""
        positions = []
        for room in self._followed:
            last = self.feed.position(room)
            if last is not None:
                positions.append((room, last, self.members.version(room)))
        return positions

    def on_entries(self, room: str, last: int, entries: Sequence[Message] | None) -> None:
        """Receive new entries of another node."""
        if entries:
            stored = datetime.fromisoformat(entries[-1].time).timestamp()
            self._delay.observe(max(0.0, time.time() - stored))
        self.feed.on_entries(room, last, entries)

    def on_last(self, room: str, last: int) -> None:
        """Receive the last id of a room, from a poll."""
        self.feed.on_last(room, last)

    def on_member(self, room: str, changed: Changed) -> None:
        """Receive a change of a room's members."""
        self.members.on_member(room, changed)

    def on_roster_version(self, room: str, version: int) -> None:
        """Receive the version of a roster, from a poll."""
        self.members.on_version(room, version)

    def on_announcement(self, name: str, text: str) -> None:
        """Send a message of another node to the members of a room."""
        room = self._find_room(name)
        if room is not None:
            room.chat_peers.send(text)

    def on_lost(self, reason: str) -> None:
        """Close all connections in small groups, so that the clients go to another node."""
        peers = [
            each
            for each in self._server.peers
            if each.is_open and isinstance(each.user_data, ChatMode | PlainMode)
        ]
        self.is_lost = True
        self._close(peers, reason)

    def _close(self, peers: list[Peer], reason: str) -> None:
        for peer in peers[:CLOSE_UNIT]:
            if peer.is_open:
                peer.close(CloseCode.SERVICE_RESTART, reason)
        if len(peers) > CLOSE_UNIT:
            later = partial(self._close, peers[CLOSE_UNIT:], reason)
            self._server.call_later(CLOSE_PAUSE, later)
        else:
            self.is_lost = False
