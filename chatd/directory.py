"""The directory of rooms: members, last activity and topics of the rooms that a client may join."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from chatd import protocol
from chatd.access import costs
from chatd.access.authorizer import Authorizer
from chatd.history import Done
from chatd.modes import ChatMode
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.storage.store import Activity, MessageStore, StoreError
from chatd.store_monitor import StoreMonitor
from wsproto_min import Peer

# Rooms in one response, and seconds for which the stored rooms are not read again.
MAX_DIRECTORY = 200
CACHE_TIME = 5.0
# Rooms in use that a response considers, so that it takes milliseconds.
MAX_COUNTED = 2000


class Directory:
    """Sends the directory of rooms.

    Args:
        rooms: The rooms in use.
        store: Message store with the rooms that are not in use.
        monitor: Receives the failures of the store.
        authorizer: Decides which rooms a client may see.
        is_public: False hides the rooms; the response then has direct rooms only.
    """

    def __init__(
        self,
        rooms: RoomRegistry,
        store: MessageStore,
        monitor: StoreMonitor,
        authorizer: Authorizer,
        *,
        is_public: bool,
    ) -> None:
        self._rooms = rooms
        self._store = store
        self._monitor = monitor
        self._authorizer = authorizer
        self._is_public = is_public
        self._activity: Activity = ()
        self._read_at = -CACHE_TIME

    def send(self, peer: Peer, mode: ChatMode, done: Done) -> None:
        """Send a peer the rooms, the most lively first, and its direct rooms."""
        # All rooms of a connection usually have the same author.
        authors = {member.author for member in mode.members.values()}
        if not authors:
            raise ChatError("not_joined", "join a room first, then list the others")
        author = next(iter(authors))

        def send_rooms(direct: Sequence[tuple[str, str, str]] | StoreError) -> None:
            if isinstance(direct, StoreError):
                self._fail(peer, direct, done)
                return
            listed = self._list(mode) if self._is_public else []
            own = [
                {"room": room, "name": name, "author": other, "direct": True}
                for room, name, other in direct
            ]
            response = protocol.rooms([*listed, *own])
            peer.send(response)
            done(costs.SEARCH_COST + costs.response_cost(len(listed) + len(own), len(response)))

        def read_direct(activity: Activity | StoreError) -> None:
            if isinstance(activity, StoreError):
                self._fail(peer, activity, done)
                return
            self._activity, self._read_at = activity, time.monotonic()
            self._store.read_direct_rooms(author, send_rooms)

        if not self._is_public or time.monotonic() < self._read_at + CACHE_TIME:
            self._store.read_direct_rooms(author, send_rooms)
        else:
            self._store.read_activity(read_direct)

    def _list(self, mode: ChatMode) -> list[dict[str, object]]:
        is_listed = self._authorizer.room_filter(mode.tokens.values())
        stored = {room: (last, topic) for room, last, topic, _ in self._activity}
        counts = {room: count for room, *_, count in self._activity if count}
        used = itertools.islice(self._rooms, MAX_COUNTED)
        counts |= {room.name: room.count for room in used if room.name[0] != "@"}
        names = [name for name in stored.keys() | counts.keys() if is_listed(name)]
        names.sort(
            key=lambda name: (counts.get(name, 0), stored.get(name, ("", ""))[0]), reverse=True
        )
        return [
            {
                "room": name,
                "count": counts.get(name, 0),
                "last": stored.get(name, ("", ""))[0] or None,
                "topic": stored.get(name, ("", ""))[1],
            }
            for name in names[:MAX_DIRECTORY]
        ]

    def _fail(self, peer: Peer, error: StoreError, done: Done) -> None:
        self._monitor.on_error(error)
        reason = "stored rooms cannot be read; try again later"
        peer.send(protocol.error(ChatError("log_failed", reason)))
        done(0.0)
