"""Live entries of a shared store: delivers own entries and those of other nodes in one order.

The ids of a room are dense. The feed delivers the entry after the last one that it has
delivered, the room's position; a gap means that it must read entries. So notifications may be
lost, repeated or late, and an own entry waits for the earlier ones of other nodes. Each sender
gets its acknowledgement at its entry's place in the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from chatd.delivery import Delivery
from chatd.model import Kind, Message
from chatd.storage.room_reads import RoomRead, RoomReads
from chatd.storage.shared import NewEntries, SharedStore
from chatd.storage.store import (
    Appended,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)
from chatd.storage.write_batcher import Batch
from wsproto_min import Peer

# Entries of one read.
READ_LIMIT = 500
# Seconds until a failed read is repeated.
RETRY_PAUSE = 1.0
# Seconds for a notification that is slower than the poll.
NOTIFICATION_DELAY = 0.25

_Own = tuple[Peer, NewMessage, StoredMessage]
"""An entry of this node: its sender, the request and the result."""


class _RoomFeed:
    """The state of one room.

    `position` is the id up to which all entries are delivered; None until the store returns it.
    `known` is the last id that is known to exist. `waiting` has entries after the position by id:
    one of another node, or one of this node with the senders that it must acknowledge.
    `joins` has the pages of joins that are ahead of the position.
    """

    __slots__ = ("is_reading", "joins", "known", "position", "waiting")

    def __init__(self) -> None:
        self.position: int | None = None
        self.known = 0
        self.waiting: dict[int, Message | list[_Own]] = {}
        self.is_reading = False
        self.joins: list[tuple[RoomRead, Page]] = []


class Feed:
    """Feed of all rooms that have local peers.

    Args:
        store: The shared store.
        delivery: Sends the entries to the local peers.
        call_later: Calls a function after some seconds, like `Server.call_later`.
    """

    def __init__(
        self,
        store: SharedStore,
        delivery: Delivery,
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._call_later = call_later
        self._rooms: dict[str, _RoomFeed] = {}
        self._reads = RoomReads()

    def follow(self, room: str) -> None:
        """Deliver the entries of a room from now on."""
        self._rooms[room] = _RoomFeed()
        self._read_position(room)

    def unfollow(self, room: str) -> None:
        """Deliver the entries of a room no longer."""
        feed = self._rooms.pop(room)
        self._fail_joins(feed, StoreError(f"room {room}: nobody is in it"))

    def position(self, room: str) -> int | None:
        """Return the last id that is delivered, None if it is not known yet."""
        feed = self._rooms.get(room)
        return None if feed is None else feed.position

    def _read_position(self, room: str) -> None:
        feed = self._rooms.get(room)
        if feed is not None and feed.position is None:
            self._store.read_last(room, partial(self._on_position, room, feed))

    def _on_position(self, room: str, feed: _RoomFeed, last: int | StoreError) -> None:
        if self._rooms.get(room) is not feed or feed.position is not None:
            return
        if isinstance(last, StoreError):
            self._call_later(RETRY_PAUSE, partial(self._read_position, room))
            return
        feed.position = last
        self._advance(room, feed)

    # Entries.

    def deliver(self, batch: Batch, result: Sequence[Appended] | StoreError) -> None:
        """Deliver a batch of this node, each entry after the earlier ones of its room."""
        if isinstance(result, StoreError):
            self._delivery.deliver(batch, result)
            return
        changed: dict[str, _RoomFeed] = {}
        for (peer, new), stored in zip(batch, result, strict=True):
            feed = self._rooms.get(new.room)
            if feed is None or not isinstance(stored, StoredMessage):
                self._delivery.deliver([(peer, new)], [stored])
                continue
            number = stored.message.id
            if feed.position is None and not stored.repeated:
                feed.position = number - 1  # earlier entries are older than the local peers
            if feed.position is None or number <= feed.position:
                self._delivery.deliver([(peer, new)], [stored._replace(repeated=True)])
            else:
                earlier = feed.waiting.get(number)
                if isinstance(earlier, list):  # a repetition before the delivery
                    earlier.append((peer, new, stored._replace(repeated=True)))
                else:
                    feed.waiting[number] = [(peer, new, stored._replace(repeated=False))]
                changed[new.room] = feed
        for room, feed in changed.items():
            self._advance(room, feed)

    def on_entries(self, room: str, last: int, entries: Sequence[Message] | None) -> None:
        """Receive new entries of another node up to the id `last`; None if only the id."""
        if room[0] == "@":
            for each in entries or ():
                if each.kind is Kind.MESSAGE:
                    self._delivery.notify_direct(room, each.name, each.author)
        feed = self._rooms.get(room)
        if feed is None:
            return
        for each in entries or ():
            feed.waiting.setdefault(each.id, each)
        feed.known = max(feed.known, last)
        self._advance(room, feed)

    def on_last(self, room: str, last: int) -> None:
        """Receive the last id of a room; read the entries if no notification follows soon."""
        feed = self._rooms.get(room)
        if feed is not None and feed.position is not None and last > feed.position:
            self._call_later(NOTIFICATION_DELAY, partial(self._repair, room, feed, last))

    def _repair(self, room: str, feed: _RoomFeed, last: int) -> None:
        if self._rooms.get(room) is not feed or feed.position is None or last <= feed.position:
            return
        if last > feed.known:
            self._store.on_repair()
            feed.known = last
        self._advance(room, feed)

    def _advance(self, room: str, feed: _RoomFeed) -> None:
        """Deliver the entries that follow the position; read the ones that are missing."""
        if feed.position is None:
            return
        while (item := feed.waiting.pop(feed.position + 1, None)) is not None:
            feed.position += 1
            self._deliver_one(room, item)
        stale = [number for number in feed.waiting if number <= feed.position]
        for number in stale:  # a repeated notification
            del feed.waiting[number]
        self._complete_joins(feed)
        if (feed.waiting or feed.known > feed.position) and not feed.is_reading:
            feed.is_reading = True
            highest = max(feed.known, max(feed.waiting, default=0))
            self._store.read_entries(
                room, feed.position, READ_LIMIT, partial(self._on_read, room, feed, highest)
            )

    def _on_read(
        self, room: str, feed: _RoomFeed, highest: int, result: NewEntries | StoreError
    ) -> None:
        """Deliver the entries of a read, and those that wait between them.

        Retention may have removed some. So all that exist up to the end of the read are there.
        """
        if self._rooms.get(room) is not feed:
            return
        feed.is_reading = False
        if isinstance(result, StoreError):
            self._fail_joins(feed, result)
            self._call_later(RETRY_PAUSE, partial(self._advance_later, room, feed))
            return
        assert feed.position is not None
        for each in result.entries:
            if each.id > feed.position:
                feed.waiting.setdefault(each.id, each)
        end = result.entries[-1].id if result.entries else feed.position
        if result.is_complete:
            end = max(end, highest)
        for number in sorted(each for each in feed.waiting if each <= end):
            item = feed.waiting.pop(number)
            if number > feed.position:
                feed.position = number
                self._deliver_one(room, item)
        feed.position = max(feed.position, end)
        if result.entries or result.is_complete:
            self._advance(room, feed)
        else:  # an own append is in progress, and its answer continues
            self._complete_joins(feed)

    def _advance_later(self, room: str, feed: _RoomFeed) -> None:
        if self._rooms.get(room) is feed:
            self._advance(room, feed)

    def _deliver_one(self, room: str, item: Message | list[_Own]) -> None:
        if isinstance(item, Message):
            message = item
            self._delivery.deliver_foreign(room, message)
        else:
            message = item[0][2].message
            for peer, new, stored in item:
                self._delivery.deliver([(peer, new)], [stored])
        if self._reads:
            self._reads.record(room, message)

    # Joins.

    def read_newest(
        self,
        room: str,
        limit: int,
        read: Callable[[ReadCallback], None],
        callback: ReadCallback,
    ) -> None:
        """Read the newest messages of a room; see `NewestReader`.

        The client may have seen entries on another node that this one has not delivered yet. So
        the join waits until the position is that of the page.
        """
        room_read = self._reads.begin(room, limit, callback)

        def finish(result: Page | StoreError) -> None:
            feed = self._rooms.get(room)
            if isinstance(result, StoreError):
                self._reads.complete(room_read, result)
            elif feed is None or feed.position is None:
                error = StoreError(f"room {room}: its last id is not known yet; try again")
                self._reads.complete(room_read, error)
            else:
                assert result.last is not None
                feed.joins.append((room_read, result))
                feed.known = max(feed.known, result.last)
                self._advance(room, feed)

        read(finish)

    def _complete_joins(self, feed: _RoomFeed) -> None:
        """Complete the joins up to the position."""
        if not feed.joins:
            return
        assert feed.position is not None
        joins, feed.joins = feed.joins, []
        for room_read, page in joins:
            if page.last is not None and page.last <= feed.position:
                self._reads.complete(room_read, page)
            else:
                feed.joins.append((room_read, page))

    def _fail_joins(self, feed: _RoomFeed, error: StoreError) -> None:
        joins, feed.joins = feed.joins, []
        for room_read, _ in joins:
            self._reads.complete(room_read, error)
