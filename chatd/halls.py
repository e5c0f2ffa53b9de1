"""The rooms in use: their groups of peers, and who is told that people come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from chatd import wire
from chatd.rooms import NAMED_MEMBERS, RESERVED_FOR, Room, Seat
from wsproto_min import Group, Server

# In a large room presence is told at most every so many seconds.
PRESENCE_INTERVAL = 1.0


class Hall:
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


class Halls:
    """All rooms in use, by name; one that nobody is in any more is forgotten."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._halls: dict[str, Hall] = {}
        self._changed: dict[Hall, None] = {}  # those whose presence is to be told
        self._sweeping = False

    def __iter__(self) -> Iterator[Hall]:
        """Iterate over the rooms in use."""
        return iter(self._halls.values())

    def find(self, name: str) -> Hall | None:
        """Return a room, if it is in use."""
        return self._halls.get(name)

    def open(self, name: str) -> Hall:
        """Return a room, in use from now on."""
        hall = self._halls.get(name)
        if hall is None:
            hall = self._halls[name] = Hall(name, self._server)
        return hall

    def note_change(self, hall: Hall) -> None:
        """Have the members told, when the turn ends, who came and who went."""
        self._changed[hall] = None

    def give_up(self, hall: Hall, seat: Seat, *, reserve: bool = False) -> None:
        """Free a member's seat, or keep it for a while for its session."""
        hall.room.give_up(seat, reserve_at=time.monotonic() if reserve else None)
        self.note_change(hall)
        self.forget_if_empty(hall)
        if reserve and not self._sweeping:
            self._sweeping = True
            self._server.call_later(RESERVED_FOR, self._sweep)

    def forget_if_empty(self, hall: Hall) -> None:
        """Let go of a room that nobody is in any more."""
        if hall.is_empty:
            self._changed.pop(hall, None)
            if self.find(hall.room.name) is hall:  # another may have been opened since
                del self._halls[hall.room.name]

    def _sweep(self) -> None:
        """Free the seats that nobody has come back to."""
        self._sweeping = False
        now = time.monotonic()
        kept = 0
        for hall in list(self):
            kept += hall.room.forget_reserved(now)
            self.forget_if_empty(hall)
        if kept:
            self._sweeping = True
            self._server.call_later(RESERVED_FOR, self._sweep)

    def tell_presence(self) -> None:
        """Tell each room's members who came and went, in one message for the turn."""
        halls, self._changed = self._changed, {}
        now = time.monotonic()
        for hall in halls:
            room = hall.room
            named = room.count <= NAMED_MEMBERS
            wait = hall.told_at + PRESENCE_INTERVAL - now
            if not named and wait > 0:
                if not hall.to_be_told:
                    hall.to_be_told = True
                    self._server.call_later(wait, partial(self._tell_later, hall))
                continue
            changes = room.take_changes()
            if changes is not None:
                hall.told_at = now
                came, went = changes if named else (None, None)
                hall.chat.send(wire.presence(room.name, came, went, room.count))

    def _tell_later(self, hall: Hall) -> None:
        hall.to_be_told = False
        self.note_change(hall)
