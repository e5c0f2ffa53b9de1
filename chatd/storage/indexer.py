"""The upkeep of the search index, in the thread of the event loop: when it grows, and for what.

The index itself belongs to the thread of the reader, which does the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from chatd.model import Kind
from chatd.storage.pages import Read
from chatd.storage.search import SearchIndex
from chatd.storage.store import CallLater, NewMessage, SearchCallback

# Seconds between two steps of indexing.
INDEX_PAUSE = 0.05
_ERASING = (Kind.EDIT, Kind.DELETE)  # kinds that remove a text


class Indexer:
    """Searches, and lets the index grow in steps after them.

    Args:
        index: The index.
        read: Reads in the reader's thread, and calls back in the thread of the event loop.
    """

    def __init__(
        self, index: SearchIndex, read: Callable[[Read, Callable[[Any], None]], None]
    ) -> None:
        self.index = index
        self._read = read
        self._call_later: CallLater | None = None
        self._is_indexing = False
        self._stale_rooms: set[str] = set()  # rooms with texts in the index that are removed

    def start(self, call_later: CallLater) -> None:
        """Allow steps between searches."""
        self._call_later = call_later

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, callback: SearchCallback
    ) -> None:
        """Find messages, then index the messages that the index does not have yet."""
        self._read(partial(self.index.search, rooms, text, before), callback)
        self._continue()

    def after_append(self, entries: Sequence[NewMessage]) -> None:
        """Remove the texts that new entries have replaced or deleted."""
        if self.index.is_in_use:
            self._stale_rooms.update(each.room for each in entries if each.kind in _ERASING)
            if self._stale_rooms:
                self._continue()

    def after_retention(self) -> None:
        """Remove the texts of messages that retention has deleted, in any room."""
        if self.index.is_in_use:
            self.index.visit_all_rooms()
            self._continue()

    def _continue(self) -> None:
        """Begin a step, unless one is in progress or the index is complete."""
        if self._is_indexing or self._call_later is None or not self.index.is_enabled:
            return
        self._is_indexing = True
        rooms, self._stale_rooms = list(self._stale_rooms), set()

        def finish(is_complete: object) -> None:
            self._is_indexing = False
            if is_complete is False and self._call_later is not None:  # no error either
                self._stale_rooms.update(rooms)
                self._call_later(INDEX_PAUSE, self._continue)

        self._read(partial(self.index.grow, rooms or None), finish)
