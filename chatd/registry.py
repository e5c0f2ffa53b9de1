"""The rooms in use: their groups of peers, and who is told that people come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from chatd import protocol
from chatd.model import NAMED_MEMBERS, RESERVED_FOR
from chatd.rooms import Member, Room
from wsproto_min import Group, Server

# In a large room presence is told at most every so many seconds.
PRESENCE_INTERVAL = 1.0


class LiveRoom:
    """A room in use: who is in it, and the groups that get its messages."""

    __slots__ = ("chat", "plain", "room", "to_be_told", "told_at")

    def __init__(self, name: str, server: Server) -> None:
        self.room = Room(name)
        self.chat = server.group()
        self.plain: Group = server.group()
        self.told_at = 0.0  # when presence was last told
        self.to_be_told = False  # a deadline is set for it

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here and no seat is kept for anyone."""
        return not self.plain and self.room.is_empty


class RoomRegistry:
    """All rooms in use, by name; one that nobody is in any more is forgotten."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._registry: dict[str, LiveRoom] = {}
        self._changed: dict[LiveRoom, None] = {}  # those whose presence is to be told
        self._sweeping = False

    def __iter__(self) -> Iterator[LiveRoom]:
        """Iterate over the rooms in use."""
        return iter(self._registry.values())

    def find(self, name: str) -> LiveRoom | None:
        """Return a room, if it is in use."""
        return self._registry.get(name)

    def open(self, name: str) -> LiveRoom:
        """Return a room, in use from now on."""
        live_room = self._registry.get(name)
        if live_room is None:
            live_room = self._registry[name] = LiveRoom(name, self._server)
        return live_room

    def note_change(self, live_room: LiveRoom) -> None:
        """Have the members told, when the turn ends, who came and who went."""
        self._changed[live_room] = None

    def give_up(self, live_room: LiveRoom, seat: Member, *, reserve: bool = False) -> None:
        """Free a member's seat, or keep it for a while for its session."""
        live_room.room.give_up(seat, reserve_at=time.monotonic() if reserve else None)
        self.note_change(live_room)
        self.forget_if_empty(live_room)
        if reserve and not self._sweeping:
            self._sweeping = True
            self._server.call_later(RESERVED_FOR, self._sweep)

    def forget_if_empty(self, live_room: LiveRoom) -> None:
        """Let go of a room that nobody is in any more."""
        if live_room.is_empty:
            self._changed.pop(live_room, None)
            if self.find(live_room.room.name) is live_room:  # another may have been opened since
                del self._registry[live_room.room.name]

    def _sweep(self) -> None:
        """Free the seats that nobody has come back to."""
        self._sweeping = False
        now = time.monotonic()
        kept = 0
        for live_room in list(self):
            kept += live_room.room.forget_reserved(now)
            self.forget_if_empty(live_room)
        if kept:
            self._sweeping = True
            self._server.call_later(RESERVED_FOR, self._sweep)

    def tell_presence(self) -> None:
        """Tell each room's members who came and went, in one message for the turn."""
        rooms_in_use, self._changed = self._changed, {}
        now = time.monotonic()
        for live_room in rooms_in_use:
            room = live_room.room
            named = room.count <= NAMED_MEMBERS
            wait = live_room.told_at + PRESENCE_INTERVAL - now
            if not named and wait > 0:
                if not live_room.to_be_told:
                    live_room.to_be_told = True
                    self._server.call_later(wait, partial(self._tell_later, live_room))
                continue
            changes = room.take_changes()
            if changes is not None:
                live_room.told_at = now
                came, went = changes if named else (None, None)
                live_room.chat.send(protocol.presence(room.name, came, went, room.count))

    def _tell_later(self, live_room: LiveRoom) -> None:
        live_room.to_be_told = False
        self.note_change(live_room)
