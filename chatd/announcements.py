"""Announcements to rooms: presence, and members that are typing.

A room gets the changes of an iteration together, and in large rooms those of a second.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from chatd import protocol
from chatd.model import NAMED_MEMBERS
from chatd.rooms import Member, Room
from wsproto_min import Peer, Server

# Seconds between two presence messages in a room with over NAMED_MEMBERS.
PRESENCE_INTERVAL = 1.0
# Seconds between two announcements of typing in a room, and the names that one announces.
TYPING_INTERVAL = 1.0
MAX_TYPING = 5
# Receivers of the presence messages of one event loop iteration. A larger room still gets its
# message, because all members receive it together. The work for a room counts as two receivers.
PRESENCE_RECEIVERS = 1000


class Announcer:
    """Announces changes to the members of rooms.

    Args:
        server: Server with the loop.
        announce: Sends a message to the members of a room on other nodes; None without any.
    """

    def __init__(self, server: Server, announce: Callable[[str, str], None] | None = None) -> None:
        self._server = server
        self._announce = announce
        self._changed: OrderedDict[Room, None] = OrderedDict()  # rooms with unreported changes
        self._typing: dict[Room, None] = {}  # rooms with members in `Room.typing`

    def on_change(self, room: Room) -> None:
        """Announce the changes of a room's members soon."""
        self._changed[room] = None

    def forget(self, room: Room) -> None:
        """Drop the changes of an empty room."""
        self._changed.pop(room, None)

    def end_iteration(self) -> bool:
        """Broadcast the changes of this iteration.

        Returns:
            True if rooms wait for the next iteration.
        """
        if self._changed:
            self._broadcast_presence()
        if self._typing:
            self._broadcast_typing()
        return bool(self._changed)

    def _broadcast_presence(self) -> None:
        """Send changed rooms one presence message each, to PRESENCE_RECEIVERS in total.

        A room that waits for the next iteration gets the changes until then together.
        """
        now = time.monotonic()
        receivers = 0
        while self._changed and receivers < PRESENCE_RECEIVERS:
            room, _ = self._changed.popitem(last=False)
            receivers += 2
            wait = room.last_broadcast_at + PRESENCE_INTERVAL - now
            if room.count > NAMED_MEMBERS and wait > 0:
                if not room.broadcast_scheduled:
                    room.broadcast_scheduled = True
                    self._server.call_later(wait, partial(self._broadcast_later, room))
                continue
            changes = room.take_changes()
            if changes is not None:
                room.last_broadcast_at = now
                joined, left = changes
                room.chat_peers.send(protocol.presence(room.name, joined, left, room.count))
                receivers += len(room.chat_peers)

    def _broadcast_later(self, room: Room) -> None:
        room.broadcast_scheduled = False
        self._changed[room] = None

    def announce_typing(self, member: Member, peer: Peer) -> None:
        """Announce a peer's typing within TYPING_INTERVAL, unless MAX_TYPING others wait.

        A room has many readers, so it gets the announcements of an interval together.
        """
        room = member.room
        if len(room.typing) < MAX_TYPING:
            room.typing[member] = peer
            self._typing[room] = None

    def _broadcast_typing(self) -> None:
        """Announce typing in the rooms that have waited for TYPING_INTERVAL."""
        rooms, self._typing = self._typing, {}
        now = time.monotonic()
        for room in rooms:
            wait = room.last_typing_at + TYPING_INTERVAL - now
            if wait > 0:
                if not room.typing_scheduled:
                    room.typing_scheduled = True
                    self._server.call_later(wait, partial(self._broadcast_typing_later, room))
                continue
            members, room.typing = room.typing, {}
            for member, peer in members.items():
                if member.peers:
                    room.last_typing_at = now
                    announcement = protocol.typing(room.name, member.name)
                    room.chat_peers.send(announcement, sender=peer)
                    if self._announce is not None:
                        self._announce(room.name, announcement)

    def _broadcast_typing_later(self, room: Room) -> None:
        room.typing_scheduled = False
        self._typing[room] = None
