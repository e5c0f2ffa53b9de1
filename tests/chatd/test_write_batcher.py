"""The write batcher: batches per flush, and the order of appends and reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from chatd.model import Message
from chatd.storage.store import (
    AppendCallback,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)
from chatd.storage.write_batcher import Batch, WriteBatcher
from wsproto_min import Peer

PEER = Peer.__new__(Peer)  # the batcher only passes peers on
PAGE = Page([], more=False, gap=False)


class ManualStore:
    """Store that answers when the test calls `finish_append` or `finish_read`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.appends: list[AppendCallback] = []
        self.reads: list[ReadCallback] = []

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        self.batches.append([each.text for each in messages])
        self.appends.append(callback)

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        self.reads.append(callback)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        self.reads.append(callback)

    def apply_retention(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def finish_append(self, error: StoreError | None = None) -> None:
        stored = [
            StoredMessage(Message(1, "", "Ann", text), repeated=False) for text in self.batches[-1]
        ]
        self.appends.pop()(error or stored)

    def finish_read(self) -> None:
        self.reads.pop(0)(PAGE)


class Fixture:
    def __init__(self) -> None:
        self.store = ManualStore()
        self.delivered: list[tuple[list[str], bool]] = []  # texts of a batch, and success
        self.durations: list[float] = []
        self.pages: list[Page | StoreError] = []
        self.batcher = WriteBatcher(self.store, self.deliver, self.durations.append)

    def deliver(self, batch: Batch, result: Sequence[StoredMessage] | StoreError) -> None:
        texts = [message.text for _, message in batch]
        self.delivered.append((texts, not isinstance(result, StoreError)))

    def add(self, *texts: str) -> None:
        for text in texts:
            self.batcher.add(PEER, NewMessage("x", "Ann", text, None))

    def read(self) -> None:
        self.batcher.read(partial(self.store.read_before, "x", None, 50), self.pages.append)


def test_flush_appends_pending_messages_as_one_batch() -> None:
    fixture = Fixture()
    assert fixture.batcher.flush() == 0
    fixture.add("a", "b")
    assert fixture.batcher.flush() == 2
    assert fixture.store.batches == [["a", "b"]]
    assert fixture.delivered == []
    fixture.store.finish_append()
    assert fixture.delivered == [(["a", "b"], True)]
    assert len(fixture.durations) == 1


def test_failed_append_is_delivered_without_a_duration() -> None:
    fixture = Fixture()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.store.finish_append(StoreError("failed"))
    assert fixture.delivered == [(["a"], False)]
    assert fixture.durations == []


def test_flush_waits_for_the_append_in_progress() -> None:
    fixture = Fixture()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.add("b", "c")
    assert fixture.batcher.flush() == 0
    fixture.store.finish_append()
    assert fixture.batcher.flush() == 2
    assert fixture.store.batches == [["a"], ["b", "c"]]


def test_read_during_an_append_starts_after_its_delivery() -> None:
    fixture = Fixture()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.read()
    assert fixture.store.reads == []
    fixture.store.finish_append()
    assert len(fixture.delivered) == len(fixture.store.reads) == 1
    fixture.store.finish_read()
    assert fixture.pages == [PAGE]


def test_flush_waits_for_every_read_in_progress() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.read()
    fixture.add("a")
    fixture.store.finish_read()
    assert fixture.batcher.flush() == 0
    fixture.store.finish_read()
    assert fixture.batcher.flush() == 1


def test_later_reads_do_not_overtake_pending_messages() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.add("a")
    fixture.read()
    assert len(fixture.store.reads) == 1
    fixture.store.finish_read()
    assert fixture.batcher.flush() == 1
    fixture.store.finish_append()
    assert len(fixture.store.reads) == 1
