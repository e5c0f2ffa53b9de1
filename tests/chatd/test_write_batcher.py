"""The write batcher: batches per flush, and the order of appends and reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatd.model import Kind, Message
from chatd.storage import write_batcher
from chatd.storage.room_reads import RoomReads
from chatd.storage.store import (
    AppendCallback,
    Appended,
    NewMessage,
    Page,
    ReadCallback,
    Refused,
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
        first = 1 + sum(map(len, self.batches[:-1]))
        stored = [
            StoredMessage(Message(number, "", "Ann", text), repeated=False)
            for number, text in enumerate(self.batches[-1], first)
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

    def deliver(self, batch: Batch, result: Sequence[Appended] | StoreError) -> None:
        texts = [message.text for _, message in batch]
        self.delivered.append((texts, not isinstance(result, StoreError)))

    def add(self, *texts: str) -> None:
        for text in texts:
            self.batcher.add(PEER, NewMessage("x", "Ann", text, None))

    def read(self, limit: int = 50) -> None:
        read = partial(self.store.read_before, "x", None, limit)
        self.batcher.read_newest("x", limit, read, self.pages.append)

    def texts(self) -> list[list[str]]:
        """Return the texts of each page."""
        return [
            [each.text for each in page.messages] for page in self.pages if isinstance(page, Page)
        ]


def test_store_that_answers_for_fewer_messages_is_a_bug() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.add("a", "b")
    fixture.batcher.flush()
    with pytest.raises(ValueError, match="shorter"):
        fixture.store.appends.pop()([StoredMessage(Message(1, "", "Ann", "a"), repeated=False)])


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


def test_bounded_append_takes_messages_up_to_both_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_batcher, "MAX_BATCH", 3)
    monkeypatch.setattr(write_batcher, "MAX_BATCH_SIZE", 10)
    fixture = Fixture()
    fixture.batcher = WriteBatcher(
        fixture.store, fixture.deliver, fixture.durations.append, is_bounded=True
    )
    fixture.add("a", "b", "c", "d" * 5, "e" * 5, "f", "g" * 11, "h")
    while fixture.batcher.flush():
        fixture.store.finish_append()
    assert fixture.store.batches == [["a", "b", "c"], ["ddddd", "eeeee"], ["f"], ["g" * 11], ["h"]]


def test_bounded_queue_is_full_at_either_limit_until_it_shrinks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_batcher, "MAX_BATCH", 2)
    monkeypatch.setattr(write_batcher, "MAX_PENDING", 4)
    monkeypatch.setattr(write_batcher, "MAX_PENDING_SIZE", 100)
    fixture = Fixture()
    batcher = fixture.batcher = WriteBatcher(
        fixture.store, fixture.deliver, fixture.durations.append, is_bounded=True
    )
    fixture.add("a", "b", "c", "d")
    assert batcher.is_full
    batcher.drain()
    fixture.store.finish_append()
    waiting: list[Peer] = []
    batcher.on_full = waiting.append
    fixture.add("a", "b", "c")
    assert (batcher.is_full, waiting) == (False, [])
    fixture.add("d")
    assert (batcher.is_full, waiting) == (True, [PEER])
    batcher.flush()
    assert not batcher.is_full
    fixture.store.finish_append()
    batcher.flush()
    fixture.store.finish_append()
    fixture.add("x" * 60, "y" * 39)
    assert not batcher.is_full
    fixture.add("z")
    assert (batcher.is_full, waiting) == (True, [PEER, PEER])
    batcher.flush()
    assert not batcher.is_full


def test_drain_appends_all_pending_messages_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_batcher, "MAX_BATCH", 2)
    fixture = Fixture()
    fixture.batcher = WriteBatcher(
        fixture.store, fixture.deliver, fixture.durations.append, is_bounded=True
    )
    fixture.add("a")
    fixture.batcher.flush()
    fixture.add("b", "c", "d")
    fixture.batcher.drain()
    assert fixture.store.batches == [["a"], ["b", "c"], ["d"]]


def test_read_result_during_an_append_waits_for_the_delivery() -> None:
    fixture = Fixture()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.read()
    fixture.store.finish_read()
    assert (fixture.pages, fixture.delivered) == ([], [])
    fixture.store.finish_append()
    assert len(fixture.delivered) == 1
    assert fixture.texts() == [["a"]]


def test_read_result_has_the_messages_delivered_meanwhile() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.read()
    for text in "ab":
        fixture.add(text)
        assert fixture.batcher.flush() == 1
        fixture.store.finish_append()
        fixture.store.finish_read()
    assert fixture.texts() == [["a"], ["a", "b"]]


def test_read_result_keeps_its_limit_and_reports_more() -> None:
    for number, more in ((2, False), (3, True), (9, True)):
        fixture = Fixture()
        fixture.read(limit=2)
        fixture.add(*map(str, range(number)))
        fixture.batcher.flush()
        fixture.store.finish_append()
        fixture.store.finish_read()
        assert fixture.texts() == [[str(number - 2), str(number - 1)]]
        assert [page.more for page in fixture.pages if isinstance(page, Page)] == [more]


def stored(number: int, kind: Kind = Kind.MESSAGE, *, repeated: bool = False) -> StoredMessage:
    return StoredMessage(Message(number, "", "Ann", "text", kind=kind), repeated)


def completed(delivered: Sequence[Appended], page: Page, limit: int = 50) -> Page | StoreError:
    """Return the page of a read during which an append was delivered."""
    fixture = Fixture()
    fixture.read(limit)
    fixture.add(*("text" for _ in delivered))
    fixture.batcher.flush()
    fixture.store.appends.pop()(delivered)
    fixture.store.reads.pop()(page)
    return fixture.pages[0]


def numbers(page: Page | StoreError) -> list[int]:
    assert isinstance(page, Page)
    return [each.id for each in page.messages]


def test_read_result_has_no_refused_and_no_repeated_messages() -> None:
    delivered: list[Appended] = [Refused("forbidden", "no"), stored(3, repeated=True), stored(9)]
    assert numbers(completed(delivered, PAGE)) == [9]


def test_read_result_with_the_last_id_gets_only_later_messages() -> None:
    page = Page([stored(4).message], more=False, gap=False, last=5)
    delivered = [stored(4), stored(5, Kind.EDIT), stored(6, Kind.EDIT), stored(7)]
    assert numbers(completed(delivered, page)) == [4, 6, 7]


def test_read_result_gets_each_change_that_it_lacks() -> None:
    page = Page([stored(3, Kind.EDIT).message, stored(5).message], more=False, gap=False)
    delivered = [stored(3, Kind.EDIT), stored(4, Kind.REACT), stored(5), stored(6)]
    assert numbers(completed(delivered, page)) == [3, 5, 4, 6]


def test_failed_read_is_reported_after_a_delivery() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.store.finish_append()
    error = StoreError("failed")
    fixture.store.reads.pop()(error)
    assert fixture.pages == [error]


def test_read_in_progress_keeps_a_bounded_number_of_messages() -> None:
    reads = RoomReads()
    assert not reads
    read = reads.begin("x", 2, lambda page: None)
    for number in range(9):
        reads.record("x", stored(number).message)
        reads.record("y", stored(number).message)
    assert [each.id for each in read.delivered] == [6, 7, 8]
    reads.complete(read, PAGE)
    assert not reads


def test_append_is_measured_from_its_flush_to_its_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([1000.0, 1000.25])
    monkeypatch.setattr("chatd.storage.write_batcher.time.monotonic", lambda: next(times))
    fixture = Fixture()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.store.finish_append()
    assert fixture.durations == [0.25]


def test_batch_without_a_bound_has_all_pending_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_batcher, "MAX_BATCH", 2)
    monkeypatch.setattr(write_batcher, "MAX_PENDING_SIZE", 2)
    fixture = Fixture()
    full: list[Peer] = []
    fixture.batcher.on_full = full.append
    fixture.add("a", "b", "c", "d")
    assert (fixture.batcher.flush(), full, fixture.batcher.is_full) == (4, [], False)


def test_failed_append_adds_nothing_to_a_read() -> None:
    fixture = Fixture()
    fixture.read()
    fixture.add("a")
    fixture.batcher.flush()
    fixture.store.finish_append(StoreError("failed"))
    fixture.store.finish_read()
    assert fixture.pages == [PAGE]


class LateStore(ManualStore):
    """Store in which an append or a read takes effect some time before its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, list[Message]] = {"x": [], "y": []}
        self.stored: list[StoredMessage] | None = None  # by the append in progress
        self.batch: Sequence[NewMessage] = ()
        self.waiting: list[tuple[str, int, ReadCallback]] = []  # reads without effect
        self.answers: list[tuple[ReadCallback, Page]] = []

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        super().append(messages, callback)
        self.batch, self.stored = messages, None

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        self.waiting.append((room, limit, callback))

    def act(self, action: str) -> None:
        """Let an operation in progress take effect, or answer it."""
        if action == "store" and self.appends and self.stored is None:
            self.stored = []
            for new in self.batch:
                number = 1 + sum(map(len, self.messages.values()))
                message = Message(number, "", new.name, new.text)
                self.messages[new.room].append(message)
                self.stored.append(StoredMessage(message, repeated=False))
        elif action == "answer append" and self.appends and self.stored is not None:
            self.appends.pop()(self.stored)
        elif action == "read" and self.waiting:
            room, limit, callback = self.waiting.pop(0)
            found = self.messages[room]
            page = Page(found[-limit:], more=len(found) > limit, gap=False)
            self.answers.append((callback, page))
        elif action == "answer read" and self.answers:
            callback, page = self.answers.pop(0)
            callback(page)


# The page of the join has the message of the append in progress.
OVERLAP = ["say x", "flush", "join", "store", "read", "answer read", "answer append"]
STORE_ACTIONS = ("store", "answer append", "read", "answer read")


@example(OVERLAP, 4)
@given(
    st.lists(st.sampled_from((*STORE_ACTIONS, "say x", "say y", "flush", "join"))),
    st.integers(1, 4),
)
def test_each_member_receives_each_message_once_in_order(actions: list[str], limit: int) -> None:
    store = LateStore()
    members: list[list[Message]] = []
    complete: list[bool] = []  # whether the page of a member had all messages

    def deliver(batch: Batch, result: Sequence[Appended] | StoreError) -> None:
        assert not isinstance(result, StoreError)
        for (_, new), stored in zip(batch, result, strict=True):
            assert isinstance(stored, StoredMessage)
            for member in members if new.room == "x" else []:
                member.append(stored.message)

    def join(page: Page | StoreError) -> None:
        assert isinstance(page, Page)
        assert len(page.messages) == limit or not page.more
        members.append(list(page.messages))
        complete.append(not page.more)

    batcher = WriteBatcher(store, deliver, lambda _: None)
    joins = 0
    end = ["flush", *STORE_ACTIONS, "flush", *STORE_ACTIONS]
    for action in [*actions, *end, *["read", "answer read"] * len(actions)]:
        if action == "flush":
            batcher.flush()
        elif action == "join":
            joins += 1
            batcher.read_newest("x", limit, partial(store.read_before, "x", None, limit), join)
        elif action.startswith("say"):
            batcher.add(PEER, NewMessage(action[-1], "Ann", "text", None))
        else:
            store.act(action)
    assert len(members) == joins
    for messages, has_all in zip(members, complete, strict=True):
        start = 0 if has_all else len(store.messages["x"]) - len(messages)
        assert messages == store.messages["x"][start:]


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


def test_exception_in_append_fails_the_batch_and_not_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fixture = Fixture(BrokenStore())
    fixture.add("a")
    assert fixture.batcher.flush() == 1
    assert fixture.delivered == [(["a"], False)]
    problem = "message store: cannot append: unexpected exception"
    assert caplog.messages == [f"{problem}; report this bug"]
    assert "RuntimeError: append" in caplog.text
    fixture.store.is_broken = False
    fixture.add("b")
    assert fixture.batcher.flush() == 1
    fixture.store.finish_append()
    assert fixture.delivered[1:] == [(["b"], True)]


def test_exception_in_read_spares_the_next_append() -> None:
    fixture = Fixture(BrokenStore())
    fixture.read()
    problem = "message store: cannot read: unexpected exception; see the traceback in the log"
    assert [str(page) for page in fixture.pages] == [problem]
    assert isinstance(fixture.pages[0], StoreError)
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
    assert fixture.texts() == [["a"]]
    fixture.add("b")
    assert batcher.flush() == 1


def test_exception_in_immediate_callback_is_raised_once() -> None:
    fixture = Fixture(ImmediateStore())
    batcher = WriteBatcher(fixture.store, fail, fixture.durations.append)
    batcher.add(PEER, NewMessage("x", "Ann", "a", None))
    with pytest.raises(RuntimeError, match="callback"):
        batcher.flush()
    with pytest.raises(RuntimeError, match="callback"):
        batcher.read_newest("x", 50, partial(fixture.store.read_before, "x", None, 50), fail)
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
    batcher.read_newest("x", 50, read, fail)
    batcher.read_newest("x", 50, read, fixture.pages.append)
    assert fixture.pages == []
    started.finish_append()
    assert fixture.texts() == [["a"]]
    assert caplog.messages == ["message store: the callback of a read raised an exception"]
    assert "RuntimeError: callback" in caplog.text
