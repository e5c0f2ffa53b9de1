"""Rooms, names and presence; a room knows members, never sockets.

A name is unique in its room without regard to case. It belongs to a session,
which is told to its owner alone: after a cut the name stays reserved for it, so
that a reconnect gets it back.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from dataclasses import dataclass

from chatd.model import NAMED_MEMBERS, RESERVED_FOR


class NameTaken(Exception):
    """Somebody else in the room has the name."""


@dataclass(slots=True)
class Member:
    """A member's place in a room, or the place kept for one who was cut off.

    `member` is None while the seat is only reserved, until `reserved_until`.
    """

    name: str
    session: str
    member: Hashable | None
    reserved_until: float = 0.0


class Room:
    """Who is in a room, and who came and went since that was last told."""

    __slots__ = ("_came", "_guests", "_listed", "_seats", "_went", "count", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0  # of members, reserved seats not included
        self._seats: dict[str, Member] = {}
        self._guests = 0
        self._came: dict[str, None] = {}
        self._went: dict[str, None] = {}
        self._listed = False  # somebody was given the names since changes were told

    def join(
        self,
        name: str,
        session: str | None,
        member: Hashable,
        now: float,
        *,
        proven: bool = False,
    ) -> tuple[Member, Hashable | None]:
        """Give `member` a seat; return it, and the member that had it until now.

        The `session` that goes with a name takes it over, also from a
        connection that nobody has noticed to be dead; one who has `proven` to
        own the name, a seat that is only reserved. Raises `NameTaken`.
        """
        key = name.casefold()
        seat = self._seats.get(key)
        free = seat is None or (seat.member is None and (proven or seat.reserved_until <= now))
        if seat is None or free:
            seat = self._seats[key] = Member(name, secrets.token_urlsafe(16), None)
        # As bytes, for what a client calls a session may be any text.
        elif session is None or not secrets.compare_digest(seat.session.encode(), session.encode()):
            raise NameTaken(name)
        former, seat.member = seat.member, member
        if former is None:
            self.count += 1
            self._note(name, self._came, self._went)
        elif name != seat.name:  # the same name, written otherwise
            self._note(seat.name, self._went, self._came)
            self._note(name, self._came, self._went)
        seat.name = name
        return seat, former

    def join_as_guest(self, member: Hashable, now: float) -> Member:
        """Give `member` a seat under the next free name of a guest."""
        while True:
            self._guests += 1
            try:
                return self.join(f"guest-{self._guests}", None, member, now)[0]
            except NameTaken:
                continue

    def give_up(self, seat: Member, *, reserve_at: float | None = None) -> None:
        """Free a member's seat, or reserve it from a moment on for its session."""
        seat.member = None
        if reserve_at is None:
            self._seats.pop(seat.name.casefold(), None)
        else:
            seat.reserved_until = reserve_at + RESERVED_FOR
        self.count -= 1
        self._note(seat.name, self._went, self._came)

    def forget_reserved(self, now: float) -> int:
        """Free the reserved seats whose time has run out; return how many are left."""
        self._seats = {
            key: seat
            for key, seat in self._seats.items()
            if seat.member is not None or seat.reserved_until > now
        }
        return len(self._seats) - self.count

    @property
    def is_empty(self) -> bool:
        """Whether it has no members and keeps no seat for anyone."""
        return not self._seats

    def names(self) -> list[str]:
        """Return the members' names, none if there are too many to list."""
        self._listed = True
        if self.count > NAMED_MEMBERS:
            return []
        return [seat.name for seat in self._seats.values() if seat.member is not None]

    def take_changes(self) -> tuple[list[str], list[str]] | None:
        """Return who came and who went since the last call, None if nobody did."""
        if not self._came and not self._went:
            return None
        changes = list(self._came), list(self._went)
        self._came, self._went, self._listed = {}, {}, False
        return changes

    def _note(self, name: str, now: dict[str, None], before: dict[str, None]) -> None:
        """Note a change; one that undoes another since the last telling cancels it.

        Not so for one who was given the names in between: the last change is told.
        """
        undone = name in before
        if undone:
            del before[name]
        if not undone or self._listed:
            now[name] = None
