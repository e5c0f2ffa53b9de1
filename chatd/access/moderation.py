"""Moderation: bans and mutes that are in force, in memory.

The message store keeps them. A moderator acts in one room, the operator also in all rooms.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatd.model import ALL_ROOMS, Sanction


class Moderation:
    """The sanctions in force; `is_empty` is True without any."""

    def __init__(self) -> None:
        self.is_empty = True
        self._ends: dict[tuple[str, str, str], float | None] = {}  # by author, room and action

    def load(self, sanctions: Sequence[Sanction]) -> None:
        """Replace all sanctions."""
        self.is_empty = not sanctions
        self._ends = {(each.author, each.room, each.action): each.until for each in sanctions}

    def is_under(self, action: str, author: str, room: str, now: float) -> bool:
        """Return True while a person is banned or muted in a room.

        Args:
            action: "ban" or "mute".
            author: Public id of the person.
            room: Name of the room.
            now: Current Unix time in seconds.
        """
        for place in (room, ALL_ROOMS):
            key = (author, place, action)
            if key in self._ends:
                end = self._ends[key]
                if end is None or now < end:
                    return True
        return False
