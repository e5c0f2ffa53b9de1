"""The write batcher: batches per flush, and the order of appends and reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

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
from tests.chat import StoreWithoutFiles
from wsproto_min import Peer

PEER = Peer.__new__(Peer)  # the batcher only passes peers on
PAGE = Page([], more=False, gap=False)


class ManualStore(StoreWithoutFiles):
    """Store that answers when the test calls `finish_append` or `finish_read`."""

    is_broken = False

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
    def __init__(self, store: ManualStore | None = None) -> None:
        self.store = store or ManualStore()
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


class BrokenStore(ManualStore):
    """Store with methods that raise an exception while `is_broken` is True."""

    is_broken = True

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        if self.is_broken:
            raise RuntimeError("append")
        super().append(messages, callback)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        if self.is_broken:
            raise RuntimeError("read")
        super().read_before(room, before, limit, callback)


def test_exception_in_append_fails_the_batch_and_not_the_next() -> None:
    fixture = Fixture(BrokenStore())
    fixture.add("a")
    assert fixture.batcher.flush() == 1
    assert fixture.delivered == [(["a"], False)]
    fixture.store.is_broken = False
    fixture.add("b")
    assert fixture.batcher.flush() == 1
    fixture.store.finish_append()
    assert fixture.delivered[1:] == [(["b"], True)]


def test_exception_in_read_spares_the_next_append() -> None:
    fixture = Fixture(BrokenStore())
    fixture.read()
    assert [type(page) for page in fixture.pages] == [StoreError]
    fixture.store.is_broken = False
    fixture.add("a")
    assert fixture.batcher.flush() == 1


class ImmediateStore(ManualStore):
    """Store that answers before each method returns."""

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        super().append(messages, callback)
        self.finish_append()

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        super().read_before(room, before, limit, callback)
        self.finish_read()


def fail(*_: object) -> None:
    raise RuntimeError("callback")


def test_exception_in_deliver_leaves_waiting_reads_and_appends() -> None:
    fixture = Fixture()
    batcher = WriteBatcher(fixture.store, fail, fixture.durations.append)
    fixture.batcher = batcher
    fixture.add("a")
    batcher.flush()
    fixture.read()
    with pytest.raises(RuntimeError, match="callback"):
        fixture.store.finish_append()
    fixture.store.finish_read()
    assert fixture.pages == [PAGE]
    fixture.add("b")
    assert batcher.flush() == 1


def test_exception_in_immediate_callback_is_raised_once() -> None:
    fixture = Fixture(ImmediateStore())
    batcher = WriteBatcher(fixture.store, fail, fixture.durations.append)
    batcher.add(PEER, NewMessage("x", "Ann", "a", None))
    with pytest.raises(RuntimeError, match="callback"):
        batcher.flush()
    with pytest.raises(RuntimeError, match="callback"):
        batcher.read(partial(fixture.store.read_before, "x", None, 50), fail)
    batcher.add(PEER, NewMessage("x", "Ann", "b", None))
    with pytest.raises(RuntimeError, match="callback"):
        batcher.flush()
    assert fixture.store.batches == [["a"], ["b"]]


def test_exception_in_a_waiting_read_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    store = ImmediateStore()
    fixture = Fixture(store)
    started = ManualStore()
    batcher = WriteBatcher(started, fixture.deliver, fixture.durations.append)
    batcher.add(PEER, NewMessage("x", "Ann", "a", None))
    batcher.flush()
    read = partial(store.read_before, "x", None, 50)
    batcher.read(read, fail)
    batcher.read(read, fixture.pages.append)
    started.finish_append()
    assert fixture.pages == [PAGE]
    assert len(caplog.records) == 1
