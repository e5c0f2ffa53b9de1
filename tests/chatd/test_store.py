"""The message store and its SQLite engine: order, ids, keys, retention, file, failures."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.model import Kind, Message
from chatd.storage import ids as ids_module
from chatd.storage import message_writer, pages, retention, write_ahead_log
from chatd.storage.sqlite import MEMORY, SQLiteStore, default_path
from chatd.storage.sqlite_file import connect
from chatd.storage.store import (
    Act,
    Appended,
    NewMessage,
    Page,
    ReadCallback,
    StoredMessage,
    StoreError,
)
from tests.chat import open_shared_store
from tests.support import PATIENCE, ROOT

LONG_AGO = int(datetime(2024, 3, 1, 12, tzinfo=UTC).timestamp()) * 10**9  # in nanoseconds


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


@pytest.fixture(autouse=True, scope="module")
def _long_steps() -> Iterator[None]:
    """Let a step of retention end by its number of messages only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "STEP_SECONDS", PATIENCE)
        yield


@contextmanager
def open_store(path: str = MEMORY, **options: Any) -> Iterator[SQLiteStore]:
    shared = open_shared_store(**options) if path == MEMORY else None
    store = shared or SQLiteStore(path, **options)
    try:
        yield store
    finally:
        store.close()


def message(text: str, key: str | None = None, room: str = "x", name: str = "Ann") -> NewMessage:
    return NewMessage(room, name, text, key)


def append(store: SQLiteStore, *messages: NewMessage) -> list[StoredMessage]:
    """Append a batch; fail if the store reports an error."""
    results: list[Sequence[Appended] | StoreError] = []
    store.append(messages, results.append)
    (result,) = results
    assert not isinstance(result, StoreError), result
    stored = [each for each in result if isinstance(each, StoredMessage)]
    assert len(stored) == len(messages), result
    return stored


def append_error(store: SQLiteStore, *messages: NewMessage) -> StoreError:
    """Append a batch; return the error that the store must report."""
    return error_of(lambda callback: store.append(messages, callback))


def error_of(call: Callable[[Callable[[object], None]], None]) -> StoreError:
    """Return the error that a call must pass to its callback."""
    results: list[object] = []
    call(results.append)
    (result,) = results
    assert isinstance(result, StoreError), result
    return result


def page_of(call: Callable[[ReadCallback], None]) -> Page:
    """Return the page that a call must pass to its callback."""
    results: list[Page | StoreError] = []
    call(results.append)
    (result,) = results
    assert isinstance(result, Page), result
    return result


def read_after(store: SQLiteStore, after: int = 0, limit: int = 1000, room: str = "x") -> Page:
    return page_of(lambda callback: store.read_after(room, after, limit, callback))


def read_before(
    store: SQLiteStore, before: int | None = None, limit: int = 1000, room: str = "x"
) -> Page:
    return page_of(lambda callback: store.read_before(room, before, limit, callback))


def texts(page: Page) -> list[str]:
    return [each.text for each in page.messages]


def ids(stored: Sequence[StoredMessage]) -> list[int]:
    return [each.message.id for each in stored]


# Order and ids.


def test_read_returns_messages_as_appended_in_order() -> None:
    with open_store() as store:
        stored = append(
            store, message("one", "k"), message("tw\0o é😀"), message("three", name="Ben")
        )
        assert [each.repeated for each in stored] == [False] * 3
        assert [(m.name, m.text) for m in read_after(store).messages] == [
            ("Ann", "one"),
            ("Ann", "tw\0o é😀"),
            ("Ben", "three"),
        ]
        assert read_after(store).messages == [each.message for each in stored]
        assert read_before(store).messages == read_after(store).messages


def test_message_time_is_rfc_3339_in_utc() -> None:
    with open_store() as store:
        earliest = datetime.now(UTC) - timedelta(milliseconds=1)
        (stored,) = append(store, message("now"))
        assert stored.message.time.endswith("Z")
        assert earliest <= datetime.fromisoformat(stored.message.time) <= datetime.now(UTC)


@pytest.mark.embedded
def test_rooms_are_separate_and_ids_increase_in_each() -> None:
    with open_store() as store:
        append(store, message("a", room="x"), message("b", room="y"), message("c", room="x"))
        append(store, message("d", room="y"))
        assert texts(read_after(store, room="x")) == ["a", "c"]
        assert texts(read_after(store, room="y")) == ["b", "d"]
        assert texts(read_after(store, room="z")) == []
        numbers = [m.id for room in "xy" for m in read_after(store, room=room).messages]
        assert sorted(numbers) == sorted(set(numbers))


def test_page_is_bounded_by_id_and_limit_keeps_the_newest() -> None:
    with open_store() as store:
        one, two, three, four = ids(append(store, *map(message, ("1", "2", "3", "4"))))
        assert texts(read_after(store, two)) == ["3", "4"]
        assert texts(read_after(store, four)) == []
        assert texts(read_before(store, three)) == ["1", "2"]
        assert texts(read_before(store, one)) == []
        assert texts(read_before(store, 2**63 - 1)) == ["1", "2", "3", "4"]
        for limit, more in ((1, True), (3, True), (4, False), (5, False)):
            expected = ["1", "2", "3", "4"][-limit:]
            for found in (read_after(store, 0, limit), read_before(store, None, limit)):
                assert (texts(found), found.more, found.gap) == (expected, more, False)


def test_page_before_an_id_has_topic_and_reports_newer_messages() -> None:
    with open_store() as store:
        one, two = ids(append(store, message("1"), message("2")))
        for before, more_after in ((two + 1, False), (two, True), (one, True), (None, False)):
            page = read_before(store, before)
            assert (page.more_after, page.topic) == (more_after, "")
        append(store, NewMessage("x", "Ann", "numbers", None, kind=Kind.TOPIC))
        assert (read_before(store).topic, read_after(store).topic) == ("numbers", "numbers")
        assert read_before(store, room="y").topic == ""


def test_page_of_long_messages_is_bounded_by_its_text() -> None:
    with open_store() as store:
        stored = append(store, *(message("x" * 4000) for _ in range(300)))
        for found in (read_after(store), read_before(store)):
            assert found.more
            assert [m.id for m in found.messages] == ids(stored)[-131:]
        older = read_before(store, found.messages[0].id)
        assert [m.id for m in older.messages] == ids(stored)[-262:-131]
        assert not read_before(store, older.messages[0].id).more


def test_pages_after_around_and_from_a_time_have_both_ends() -> None:
    with open_store() as store:
        one, two, three, four = (each.message for each in append(store, *map(message, "1234")))

        def after(number: int, limit: int) -> Page:
            return page_of(lambda callback: store.read_following("x", number, limit, callback))

        def around(number: int, limit: int) -> Page:
            return page_of(lambda callback: store.read_around("x", number, limit, callback))

        for page, found, more, more_after in (
            (after(0, 2), "12", False, True),
            (after(one.id, 2), "23", True, True),
            (after(two.id, 2), "34", True, False),
            (after(four.id, 2), "", True, False),
            (around(three.id, 3), "234", True, False),
            (around(two.id, 2), "12", False, True),
            (around(one.id, 9), "1234", False, False),
        ):
            assert texts(page) == list(found)
            assert (page.more, page.more_after, page.gap) == (more, more_after, False)


def test_page_from_a_time_begins_with_the_messages_of_that_time(path: str) -> None:
    with open_store(path) as store:
        rows = [(number, f"2026-01-0{1 + number // 3}T00:00:00.000Z") for number in range(1, 9)]
        insert(path, *(("x", number, time) for number, time in rows))
        for moment in ("2025-12-31", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"):
            start = f"{moment}T00:00:00.000Z"
            page = page_of(partial(store.read_from, "x", start, 100))
            assert [(m.id, m.time) for m in page.messages] == [
                (number, time) for number, time in rows if time >= start
            ]
            assert page.more == any(time < start for _, time in rows)


# Rooms.


def activity(store: SQLiteStore) -> list[str]:
    """Return the rooms of the directory."""
    results: list[Any] = []
    store.read_activity(results.append)
    return [room for room, *_ in results[0]]


ANN, BEN = "s" + "a" * 11, "s" + "b" * 11


def test_activity_has_rooms_of_any_name_except_direct_rooms() -> None:
    names = ["-", ".x", "42", "A", "Z", "_", "a", "z"]
    direct = [f"@{ANN}{BEN}", f"@{BEN}{'s' + 'c' * 11}"]
    with open_store() as store:
        append(store, *(message("hello", room=name) for name in (*names, *direct)))
        assert sorted(activity(store)) == sorted(names)


@pytest.mark.embedded
def test_activity_is_bounded_by_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        append(store, *(message("hello", room=name) for name in "abcd"))
        with monkeypatch.context() as patch:
            patch.setattr(pages, "MAX_LISTED_ROOMS", 3)
            assert activity(store) == ["a", "b", "c"]
        monkeypatch.setattr(pages, "LISTING_STEP", -1.0)
        assert activity(store) == []


def test_direct_rooms_have_the_name_of_the_other_member() -> None:
    room = f"@{ANN}{BEN}"
    with open_store() as store:
        append(store, NewMessage(room, "Ann", "hello", None, ANN))

        def direct(author: str) -> list[tuple[str, str, str]]:
            results: list[Any] = []
            store.read_direct_rooms(author, results.append)
            return list(results[0])

        assert direct(ANN) == [(room, "", BEN)], "the other member has said nothing"
        append(store, NewMessage(room, "Ben", "hi", None, BEN))
        append(store, NewMessage(room, "Benjamin", "me again", None, BEN))
        assert direct(ANN) == [(room, "Benjamin", BEN)]
        assert direct(BEN) == [(room, "Ann", ANN)]
        assert direct("s" + "c" * 11) == []


# Keys.


def test_key_is_stored_once_in_a_batch_and_after_restart(path: str) -> None:
    with open_store(path) as store:
        first, again, other = append(store, message("a", "k"), message("b", "k"), message("c", "l"))
        assert (first.repeated, again.repeated, other.repeated) == (False, True, False)
        assert again.message == first.message
        third, new = append(store, message("a", "k"), message("d"))
        assert (third.repeated, third.message) == (True, first.message)
        assert not new.repeated
    with open_store(path) as store:
        (late,) = append(store, message("a", "k"))
        assert (late.repeated, late.message) == (True, first.message)
        assert texts(read_after(store)) == ["a", "c", "d"]


def test_key_is_unique_per_room_and_none_is_never_repeated() -> None:
    with open_store() as store:
        for room in "xy":
            append(
                store,
                message("a", "k", room=room),
                message("b", room=room),
                message("b", room=room),
            )
            assert texts(read_after(store, room=room)) == ["a", "b", "b"]


def test_key_belongs_to_its_sender() -> None:
    with open_store() as store:
        (first,) = append(store, message("secret", "k"))
        other, again = append(
            store, message("mine", "k", name="Ben"), message("changed", "k", name="Ann")
        )
        assert (other.repeated, other.message.text) == (False, "mine")
        assert (again.repeated, again.message) == (True, first.message)
        assert texts(read_after(store)) == ["secret", "mine"]


def test_renamed_sender_is_recognized_by_a_random_key() -> None:
    key = "0123456789abcdef"
    with open_store() as store:
        (first,) = append(store, message("a", key))
        again, other, short, same = append(
            store,
            message("a", key, name="Ann 2"),
            message("b", key, name="Ben"),
            message("a", "k"),
            message("a", "k", name="Ben"),
        )
        assert (again.repeated, again.message) == (True, first.message)
        assert [other.repeated, short.repeated, same.repeated] == [False] * 3
        both = append(store, message("c", key * 2), message("c", key * 2, name="Ann 2"))
        assert [each.repeated for each in both] == [False, True]


def test_repeated_reply_that_was_removed_keeps_its_reference(path: str) -> None:
    with open_store(path, keep_messages=1) as store:
        (first,) = append(store, message("a"))
        reply = NewMessage("x", "Ann", "b", "k", ref=first.message.id)
        (stored,) = append(store, reply)
        append(store, message("c"))
        apply_all(store)
        assert append(store, reply) == [StoredMessage(stored.message, repeated=True)]


@pytest.mark.embedded
def test_message_time_has_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = LONG_AGO + 999_000_000
    monkeypatch.setattr(message_writer, "time_ns", lambda: now)
    with open_store() as store:
        (stored,) = append(store, message("a"))
        assert stored.message.time == "2024-03-01T12:00:00.999Z"
        now += 1_007_000_000
        assert append(store, message("b"))[0].message.time == "2024-03-01T12:00:02.006Z"


def test_key_in_a_large_batch_is_found() -> None:
    with open_store() as store:
        append(store, message("a", "k900"))
        stored = append(store, *(message("a", f"k{number}") for number in range(1200)))
        assert [n for n, each in enumerate(stored) if each.repeated] == [900]


def test_key_of_removed_message_is_remembered(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path, keep_messages=1) as store:
        (first, *_) = append(store, message("a", "k"), message("b", "l"), message("c", name="Ben"))
        store.apply_retention()
        again, other, new = append(
            store, message("a", "k"), message("d", "k", name="Ben"), message("e", "m")
        )
        assert (again.repeated, again.message) == (True, first.message)
        assert (other.repeated, new.repeated) == (False, False)
    with open_store(path, keep_messages=1) as store:
        assert [each.repeated for each in append(store, message("b", "l"))] == [True]
        monkeypatch.setattr(retention, "KEY_MEMORY", -1.0)
        apply_all(store)
        assert [each.repeated for each in append(store, message("a", "k"))] == [False]


batches = st.lists(
    st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from([None, "k", "l", "m"]), st.text("ab")),
        max_size=6,
    ),
    max_size=8,
)


@settings(deadline=None)
@given(batches, st.data())
def test_store_equals_a_list_of_the_first_messages(
    drawn: list[list[tuple[str, str | None, str]]], data: st.DataObject
) -> None:
    model: list[tuple[str, str | None, Message]] = []
    with TemporaryDirectory() as directory, ExitStack() as stack:
        path = f"{directory}/chat.db"
        store = stack.enter_context(open_store(path))
        for batch in drawn:
            if data.draw(st.booleans(), label="restart"):
                stack.close()
                store = stack.enter_context(open_store(path))
            stored = append(
                store, *(NewMessage(room, "Ann", text, key) for room, key, text in batch)
            )
            assert len(stored) == len(batch)
            for (room, key, text), result in zip(batch, stored, strict=True):
                known = [m for r, k, m in model if (r, k) == (room, key) and key is not None]
                if known:
                    assert result == StoredMessage(known[0], repeated=True)
                else:
                    assert not result.repeated
                    assert result.message.text == text
                    assert result.message.id > max((m.id for _, _, m in model), default=0)
                    model.append((room, key, result.message))
        for room in "xy":
            assert list(read_after(store, room=room).messages) == [
                m for r, _, m in model if r == room
            ]


# Retention.


def test_keep_messages_keeps_the_newest_and_reports_the_gap(
    path: str,
) -> None:
    with open_store(path, keep_messages=2) as store:
        append(store, *(message(text, room="y") for text in "pq"))
        one, two, three, four = ids(append(store, *map(message, "abcd")))
        store.apply_retention()
        assert texts(read_after(store)) == ["c", "d"]
        assert texts(read_after(store, room="y")) == ["p", "q"]
        assert not read_after(store, room="y").gap
        gaps = {seen: read_after(store, seen).gap for seen in (0, one, two, three, four)}
        assert gaps == {0: True, one: True, two: False, three: False, four: False}
        append(store, message("e"))
        store.apply_retention()
        assert texts(read_after(store)) == ["d", "e"]
        assert read_after(store, two).gap
    with open_store(path) as store:
        assert read_after(store, two).gap, "a restart lost the record of removed messages"
        assert not read_after(store, three).gap


def test_id_of_removed_message_is_never_assigned_again(path: str) -> None:
    last = 0
    for _ in range(3):
        with open_store(path, keep_days=1e-9) as store:
            (stored,) = append(store, message("removed at once"))
            assert stored.message.id > last
            last = stored.message.id
            wait_past_the_time_of(stored)
            store.apply_retention()
            assert texts(read_after(store)) == []


def wait_past_the_time_of(stored: StoredMessage) -> None:
    stored_at = datetime.fromisoformat(stored.message.time)
    while datetime.now(UTC) - stored_at < timedelta(milliseconds=2):
        pass


def test_keep_days_removes_old_messages_from_quiet_rooms_too(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2024, 3, 1, 12, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(message_writer, "time_ns", lambda: int(now.timestamp() * 1e9))
    monkeypatch.setattr(retention, "datetime", Clock)
    with open_store(path, keep_days=2) as store:
        (first,) = append(store, message("a", "k"))
        for room in ("0", "y"):
            append(store, message("p", room=room))
        store.apply_retention()
        now += timedelta(days=1)
        append(store, message("b"))
        store.apply_retention()
        assert texts(read_after(store)) == ["a", "b"]
        now += timedelta(days=1, seconds=1)
        store.apply_retention()
        assert (texts(read_after(store)), read_after(store).gap) == (["b"], True)
        for room in ("0", "y"):
            page = read_after(store, room=room)
            assert (texts(page), page.gap) == ([], True)
        assert not read_after(store, first.message.id).gap
        now += timedelta(days=10)
        store.apply_retention()
        assert (texts(read_after(store)), read_after(store, first.message.id).gap) == ([], True)


@pytest.mark.parametrize("options", [{"keep_messages": 3}, {"keep_days": 1.0}])
def test_retention_of_many_messages_removes_the_oldest_in_steps(
    options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DELETE_LIMIT", 4)
    with open_store(path, **options) as store:
        with monkeypatch.context() as patch:
            patch.setattr(message_writer, "time_ns", lambda: LONG_AGO)
            append(store, *map(message, "abcdefghi"), message("p", room="y"))
        append(store, *map(message, "jkl"))
        assert store.apply_retention() is True
        assert texts(read_after(store)) == list("efghijkl")
        assert read_after(store).gap
        assert store.apply_retention() is True
        assert texts(read_after(store)) == list("ijkl")
        assert store.apply_retention() is False
        assert texts(read_after(store)) == list("jkl")
        assert texts(read_after(store, room="y")) == ([] if "keep_days" in options else ["p"])
        assert store.apply_retention() is False


@pytest.mark.parametrize("options", [{"keep_messages": 1}, {"keep_days": 1.0}])
def test_retention_bounds_each_call_over_all_rooms(
    options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DELETE_LIMIT", 4)
    names = [f"room{number}" for number in range(7)]
    with open_store(path, **options) as store:
        with monkeypatch.context() as patch:
            patch.setattr(message_writer, "time_ns", lambda: LONG_AGO)
            for room in names:
                append(store, *(message(text, room=room) for text in "abc"))
        for room in names:
            append(store, message("d", room=room))

        def count() -> int:
            return sum(len(texts(read_after(store, room=room))) for room in names)

        counts = [count()]
        while store.apply_retention():
            counts.append(count())
        assert counts == [28, 24, 20, 16, 12, 8]
        assert count() == 7
        assert all(texts(read_after(store, room=room)) == ["d"] for room in names)
        assert all(read_after(store, room=room).gap for room in names)


def test_retention_ends_each_step_after_its_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_SECONDS", 0.0)
    with open_store(path, keep_messages=1) as store:
        for number in range(5):
            append(store, *(message(text, room=f"room{number}") for text in "ab"))
        for _ in range(5):
            assert store.apply_retention()
        apply_all(store)
        for number in range(5):
            assert texts(read_after(store, room=f"room{number}")) == ["b"]


def insert(path: str, *rows: tuple[str, int, str]) -> None:
    """Insert messages with a room, an id and a time."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO messages (room, id, time, name, text) VALUES (?, ?, ?, 'Ann', 'old')", rows
        )


def apply_all(store: SQLiteStore) -> None:
    while store.apply_retention():
        pass


NEW, OLD, FUTURE = "2026-06-01", "1970-01-01", "2099-01-01"
OLDEST, PRESENT = "2026-05-11", "2026-06-10"  # with 30 days to keep


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ([NEW, OLD, NEW], [1, 2, 3]),
        ([OLD, NEW, OLD, NEW], [2, 3, 4]),
        ([FUTURE, OLD, NEW], [3]),
        ([FUTURE, FUTURE, NEW], [1, 2, 3]),
        ([NEW, FUTURE], [1, 2]),
        ([OLD, FUTURE, OLD], []),
        ([FUTURE] * 500 + [OLD, NEW], [502]),
        ([OLD, OLDEST, OLD, NEW], [2, 3, 4]),
        ([OLDEST, OLD, NEW], [1, 2, 3]),
        ([OLD, PRESENT, OLD], [2, 3]),
        ([PRESENT, OLD], [1, 2]),
    ],
    ids=[
        "old after new",
        "old before and after new",
        "future before old",
        "future before new",
        "future last",
        "future between old",
        "many from the future",
        "the oldest time that is kept",
        "the oldest time first",
        "the present",
        "the present first",
    ],
)
def test_keep_days_deletes_only_old_messages_in_store_order(
    path: str, times: list[str], kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 6, 10, tzinfo=UTC)

    monkeypatch.setattr(retention, "datetime", Clock)
    SQLiteStore(path).close()
    insert(path, *(("x", n, f"{time}T00:00:00.000Z") for n, time in enumerate(times, 1)))
    with open_store(path, keep_days=30) as store:
        apply_all(store)
        assert [each.id for each in read_after(store).messages] == kept


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Etc/GMT-14"])
def test_retention_does_not_depend_on_the_time_zone(
    zone: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with open_store(path, keep_messages=1, keep_days=0.1) as store:
            first, *_ = append(store, message("a", "k"), message("b"))
            apply_all(store)
            assert texts(read_after(store)) == ["b"]
            apply_all(store)
            assert append(store, message("a", "k")) == [StoredMessage(first.message, True)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retention_by_age_and_number_counts_changed_rooms(path: str) -> None:
    with open_store(path, keep_messages=2, keep_days=1000.0) as store:
        for room in "xy":
            append(store, *(message(text, room=room) for text in "abc"))
        apply_all(store)
        append(store, message("d"), message("e"))
        apply_all(store)
        assert [texts(read_after(store, room=room)) for room in "xy"] == [["d", "e"], ["b", "c"]]


def test_retention_reports_whether_it_has_deleted(path: str) -> None:
    with open_store(path, keep_messages=1) as store:
        append(store, message("a"), message("b"))
        deleted = []
        for _ in range(2):
            store.apply_retention()
            deleted.append(store._retention.has_deleted)
        assert deleted == [True, False]


def steps_of(store: SQLiteStore, limit: int = 1000) -> list[int]:
    """Apply retention; return the cost of each step in thousands of SQLite's instructions."""
    steps: list[int] = []

    def count() -> None:
        steps[-1] += 1

    store._database.set_progress_handler(count, 1000)
    steps.append(0)
    while store.apply_retention():
        assert len(steps) < limit, "retention does not end"
        steps.append(0)
    store._database.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize("options", [{"keep_messages": 3}, {"keep_days": 1.0}])
def test_retention_visits_many_rooms_in_short_steps(
    options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SQLiteStore(path).close()
    now = datetime.now(UTC).isoformat()
    insert(path, *((f"room{n}", n, now) for n in range(1, 20_001)))
    monkeypatch.setattr(retention, "STEP_SECONDS", 0.0)
    with open_store(path, **options) as store:
        steps = steps_of(store, 100_000)
        assert len(steps) > 20_000 // retention.ROOM_UNIT
        assert max(steps) <= 50


def test_keep_messages_counts_a_large_room_in_short_steps(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SQLiteStore(path).close()
    insert(path, *(("x", n, NEW) for n in range(1, 50_001)))
    monkeypatch.setattr(retention, "STEP_SECONDS", 0.0)
    with open_store(path, keep_messages=49_000) as store:
        assert max(steps_of(store)) <= 50
        assert read_after(store, limit=1).messages[0].id == 50_000
        assert read_before(store, 1002, limit=5).messages[0].id == 1001
        assert read_before(store, 1001, limit=5).messages == []


def test_store_with_many_rooms_opens_at_once(path: str) -> None:
    SQLiteStore(path).close()
    insert(path, *((f"room{n}", n, NEW) for n in range(1, 50_001)))
    before = time.process_time()
    with open_store(path, keep_messages=3):
        assert time.process_time() - before < 0.1


def test_retention_applies_to_messages_of_an_earlier_run(path: str) -> None:
    with open_store(path) as store:
        append(store, *map(message, "abc"))
        store.apply_retention()
        assert texts(read_after(store)) == ["a", "b", "c"], (
            "a store without limits removed messages"
        )
    with open_store(path, keep_messages=1) as store:
        store.apply_retention()
        assert texts(read_after(store)) == ["c"]


def test_read_after_unknown_id_returns_all_with_gap() -> None:
    with open_store() as store:
        append(store, *map(message, "abc"))
        found = read_after(store, 1000)
        assert (texts(found), found.gap) == (["a", "b", "c"], True)


@pytest.mark.parametrize("clock_is_right", [True, False])
def test_read_after_id_of_a_lost_version_reports_a_gap(
    path: str, clock_is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(10_000_000, 5000) if clock_is_right else repeat(1)
    monkeypatch.setattr(ids_module, "first_id", lambda: next(clock))
    with open_store(path) as store:
        append(store, *(message(str(number)) for number in range(10)))
    backup = Path(path).read_bytes()
    with open_store(path) as store:
        lost = ids(append(store, *(message("lost") for _ in range(10))))
    Path(path).write_bytes(backup)
    with open_store(path) as store:
        kept = append(store, *(message("new") for _ in range(15)))
        for number in lost:
            page = read_after(store, number)
            assert (page.gap, len(page.messages)) == (True, 25)
        assert min(ids(kept)) > max(lost) or not clock_is_right
        assert not read_after(store, ids(kept)[3]).gap


@pytest.mark.embedded
def test_read_after_id_of_a_removed_store_reports_a_gap(path: str) -> None:
    for place in (path, MEMORY):
        with open_store(place) as store:
            lost = ids(append(store, *map(message, "abc")))
        if place == path:
            Path(path).unlink()
        time.sleep(0.01)  # a server that starts anew takes longer
        with open_store(place) as store:
            append(store, *map(message, "defghijkl"))
            for number in lost:
                page = read_after(store, number)
                assert (page.gap, texts(page)) == (True, list("defghijkl"))


def test_ids_increase_with_a_clock_that_was_set_back(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store:
        (last,) = ids(append(store, message("a")))
    monkeypatch.setattr(ids_module, "first_id", lambda: 0)
    with open_store(path) as store:
        assert ids(append(store, message("b")))[0] > last


def test_first_id_is_the_time_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_123_999_999)
    assert ids_module.first_id() == 1_700_000_000_123


def test_ids_beyond_the_reserved_ones_are_reserved_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_module, "RESERVED_IDS", 4)
    with open_store(path) as store:
        stored = [*append(store, *map(message, "abc")), *append(store, *map(message, "defghi"))]
        (reserved,) = store._database.execute("SELECT reserved FROM ids").fetchone()
        assert reserved >= ids(stored)[-1]
        assert ids(stored) == list(range(ids(stored)[0], ids(stored)[0] + 9))


# The file.


def test_default_path_is_in_the_xdg_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert str(default_path()) == "/home/ann/.local/state/chatd/chat.db"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert str(default_path()) == "/home/ann/.local/state/chatd/chat.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert str(default_path()) == "/state/chatd/chat.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification: ignore it
    assert str(default_path()) == "/home/ann/.local/state/chatd/chat.db"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/var/lib/chatd", "/var/lib/chatd/chat.db"),
        ("/var/lib/chatd:/var/lib/other", "/var/lib/chatd/chat.db"),
        ("/var/lib/private/chatd/", "/var/lib/private/chatd/chat.db"),
        ("", "/state/chatd/chat.db"),
        ("relative", "/state/chatd/chat.db"),
        (":/var/lib/other", "/state/chatd/chat.db"),
    ],
)
def test_default_path_is_in_the_service_managers_directory(
    value: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("STATE_DIRECTORY", value)
    assert str(default_path()) == path


def test_default_path_without_any_home_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)

    def find_no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", find_no_entry)
    with pytest.raises(StoreError) as caught:
        default_path()
    assert str(caught.value) == (
        "message store: this user has no home directory; choose a file with --db, or a"
        " directory with STATE_DIRECTORY"
    )


def open_error(path: str) -> str:
    """Return the error of opening a store, which must leave no descriptor open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreError) as caught:
        SQLiteStore(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_second_store_on_the_same_file_is_refused(path: str) -> None:
    os.symlink(path, f"{path}.link")
    with open_store(path) as store:
        append(store, message("a"))
        for name in (path, f"{path}.link", os.path.relpath(path)):
            assert open_error(name) == (
                f"message store {name}: in use by another chatd; stop that process or choose"
                " another file with --db"
            )
        append(store, message("b"))
        with sqlite3.connect(path) as reader:
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (2,)
        reader.close()
    with open_store(path) as store:
        assert texts(read_after(store)) == ["a", "b"]


def test_killed_process_leaves_no_lock_and_no_partial_batch(path: str) -> None:
    script = (
        "import os, signal, sys; from chatd.storage.store import NewMessage\n"
        "from chatd.storage.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1])\n"
        "store.append([NewMessage('x', 'Ann', 'kept', 'k')], print)\n"
        "def die(*arguments): os.kill(os.getpid(), signal.SIGKILL)\n"
        "store._database.create_function('die', 0, die)\n"
        "store._database.execute('CREATE TEMP TRIGGER t AFTER INSERT ON messages'\n"
        "    \" WHEN new.text = 'last' BEGIN SELECT die(); END\")\n"
        "store.append([NewMessage('x', 'Ann', text, None) for text in ('lost', 'last')], print)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, timeout=PATIENCE
    )
    assert result.returncode == -signal.SIGKILL, result
    with open_store(path) as store:
        assert texts(read_after(store)) == ["kept"]
        assert [each.repeated for each in append(store, message("kept", "k"))] == [True]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Dear Ann, this is a letter. " * 100, "not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "cannot open"),
    ],
)
def test_file_without_database_is_refused_and_unchanged(
    path: str, content: bytes, reason: str
) -> None:
    Path(path).write_bytes(content)
    assert reason in open_error(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 2])
def test_database_of_another_program_is_refused_and_unchanged(path: str, version: int) -> None:
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE recipes (name); PRAGMA user_version = {version}")
    database.close()
    content = Path(path).read_bytes()
    assert "database of another program" in open_error(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("version", [0, 4])
def test_other_schema_version_is_refused_and_unchanged(path: str, version: int) -> None:
    SQLiteStore(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    content = Path(path).read_bytes()
    assert f"schema version {version} instead of 3" in open_error(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("ALTER TABLE messages ADD COLUMN colour TEXT", "messages"),
        ("DROP INDEX messages_by_key", "messages_by_key"),
        ("CREATE UNIQUE INDEX other ON messages (room, text)", "other"),
        ("CREATE TRIGGER other AFTER INSERT ON messages BEGIN SELECT 1; END", "other"),
        ("DROP TABLE removed_keys", "removed_keys"),
        ("DROP TABLE ids", "ids"),
        ("ALTER TABLE trimmed RENAME COLUMN id TO last", "trimmed"),
    ],
)
def test_changed_schema_is_refused_and_unchanged(path: str, statement: str, name: str) -> None:
    SQLiteStore(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    content = Path(path).read_bytes()
    error = open_error(path)
    assert "differs from schema version 3" in error
    assert name in error
    assert Path(path).read_bytes() == content


def test_table_of_another_tool_beside_the_schema_is_ignored(path: str) -> None:
    SQLiteStore(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE _litestream_seq (id INTEGER); ANALYZE")
    SQLiteStore(path).close()


def test_schema_version_1_is_migrated_with_its_messages(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Path(path).write_bytes((ROOT / "tests/chatd/data/schema-1.db").read_bytes())
    with open_store(path) as store:
        page = read_after(store, 1, room="tea")
        assert ([each.id for each in page.messages], page.gap) == ([2, 3, 4], False)
        assert read_after(store, room="tea").gap
        again, other = append(
            store,
            message("text 3", "key 3", room="tea"),
            message("mine", "key 3", room="tea", name="Ben"),
        )
        assert (again.repeated, again.message.id) == (True, 3)
        assert not other.repeated
        assert other.message.id > 5
    with open_store(path), open_store(f"{path}.new"):
        pass
    migrations = [each.getMessage() for each in caplog.records if "migrat" in each.message]
    assert migrations == [
        f"message store {path}: migrated from schema version 1 to 3; an earlier chatd cannot open"
        " it now"
    ]
    with closing(connect(path)) as migrated, closing(connect(f"{path}.new")) as new:
        query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
        assert migrated.execute(query).fetchall() == new.execute(query).fetchall()


@pytest.mark.parametrize("statement", ["DROP INDEX messages_by_key", "DROP TABLE trimmed"])
def test_changed_schema_version_1_is_not_migrated(path: str, statement: str) -> None:
    Path(path).write_bytes((ROOT / "tests/chatd/data/schema-1.db").read_bytes())
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    content = Path(path).read_bytes()
    open_error(path)
    assert Path(path).read_bytes() == content


def test_database_with_damaged_pages_is_refused(path: str) -> None:
    with open_store(path) as store:
        append(store, *(message("x" * 1000) for _ in range(50)))
    damaged = bytearray(Path(path).read_bytes())
    damaged[4096:] = b"\xa5" * (len(damaged) - 4096)
    Path(path).write_bytes(damaged)
    assert open_error(path) == (
        f"message store {path}: cannot open: database disk image is malformed; run `chatd check`,"
        " restore a backup, or choose another file with --db"
    )


def test_directory_and_missing_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.db").mkdir()
    advice = "create its directory and make it writable, or choose another file with --db"
    for name, reason in (
        ("chat.db", "Is a directory"),
        ("missing/chat.db", "No such file or directory"),
    ):
        path = str(tmp_path / name)
        assert open_error(path) == f"message store {path}: cannot open: {reason}; {advice}"


def test_file_that_sqlite_cannot_open_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("chatd.storage.sqlite_file.sqlite3.connect", refuse)
    assert open_error(path) == (
        f"message store {path}: cannot open: unable to open database file; create its directory"
        " and make it writable, or choose another file with --db"
    )


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as the user nobody, because root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("target", ["directory", "file", "lock"])
def test_read_only_path_is_refused(target: str) -> None:
    with TemporaryDirectory() as directory:
        path = f"{directory}/chat.db"
        SQLiteStore(path).close()
        if os.geteuid() == 0:
            for each in (directory, path, f"{path}.lock"):
                os.chown(each, 65534, 65534)
        locked = {"directory": directory, "file": path, "lock": f"{path}.lock"}[target]
        if target == "directory":
            os.unlink(f"{path}.lock")
        os.chmod(locked, 0o500 if target == "directory" else 0o400)
        with unprivileged():
            assert "readonly" in open_error(path) or "Permission denied" in open_error(path)
        os.chmod(locked, 0o700)


def test_files_are_readable_by_their_owner_only(path: str) -> None:
    with open_store(path) as store:
        append(store, message("a secret"))
        for name in os.listdir(os.path.dirname(path)):
            mode = stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode)
            assert mode & 0o077 == 0, f"{name} has mode {mode:o}"


# Failures in use.


def fill(store: SQLiteStore) -> None:
    """Limit the database to its present number of pages."""
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")


def test_full_disk_fails_the_batch_and_a_later_one_is_stored(path: str) -> None:
    with open_store(path) as store:
        (first,) = append(store, message("a", "k"))
        fill(store)
        big = [message("x" * 4000, f"k{number}") for number in range(50)]
        for batch in (big, [*big, message("a", "k")]):
            assert "full" in str(append_error(store, *batch))
            assert texts(read_after(store)) == ["a"], "a part of the batch was stored"
        store._database.execute("PRAGMA max_page_count = 100000")
        stored = append(store, *big)
        assert [each.repeated for each in stored] == [False] * 50
        assert ids(stored)[0] > first.message.id
        assert ids(stored) == sorted(set(ids(stored)))


def test_file_size_limit_fails_the_batch_only(path: str) -> None:
    script = (
        "import resource, signal, sys; from chatd.storage.store import NewMessage\n"
        "from chatd.storage.sqlite import SQLiteStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = SQLiteStore(sys.argv[1])\n"
        "results = []\n"
        "store.append([NewMessage('x', 'Ann', 'kept', None)], results.append)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))\n"
        "big = [NewMessage('x', 'Ann', 'x' * 4000, None)] * 100\n"
        "store.append(big, results.append)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "store.append([NewMessage('x', 'Ann', 'later', None)], results.append)\n"
        "for each in results: print(type(each).__name__, str(each)[-140:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "list",
        "StoreError",
        "list",
    ], result
    assert "cannot append: " in result.stdout
    with open_store(path) as store:
        assert texts(read_after(store)) == ["kept", "later"]


@pytest.mark.embedded
def test_read_append_and_retention_report_database_errors() -> None:
    with open_store(keep_messages=1, keep_days=1) as store:
        append(store, *map(message, "abc"))
        store._database.execute("ALTER TABLE messages RENAME TO elsewhere")
        read_errors = [
            error_of(lambda callback: store.read_after("x", 0, 5, callback)),
            error_of(lambda callback: store.read_before("x", None, 5, callback)),
        ]
        for error in read_errors:
            assert "cannot read: no such table" in str(error)
        assert str(append_error(store, message("d"))) == (
            "message store :memory:: cannot append: no such table: messages; check the free disk"
            " space and run `chatd check`"
        )
        with pytest.raises(StoreError, match="cannot apply retention: no such table"):
            store.apply_retention()
        store._database.execute("ALTER TABLE elsewhere RENAME TO messages")
        store.apply_retention()
        assert texts(read_after(store)) == ["c"], "the failed step lost its room"


@pytest.mark.embedded
def test_moderate_reports_database_errors() -> None:
    with open_store() as store:
        store._database.execute("ALTER TABLE audit RENAME TO elsewhere")
        act = Act("ban", "x", "Ben", BEN, "Mia")
        error = error_of(lambda callback: store.moderate(act, callback))
        assert "cannot store an act of moderation: no such table: audit" in str(error)
        assert store.changed_sanctions() == [], "the ban is in force without a record of it"
        store._database.execute("ALTER TABLE sanctions RENAME TO others")
        store._sanctions_version = None
        with pytest.raises(StoreError, match="cannot read the sanctions: no such table"):
            store.changed_sanctions()


def test_moderate_reports_a_lost_file(path: str) -> None:
    with open_store(path) as store:
        os.rename(path, f"{path}.away")
        act = Act("ban", "x", "Ben", BEN, "Mia")
        error = error_of(lambda callback: store.moderate(act, callback))
        assert f"{path} was removed; chatd stores no messages until" in str(error)
        os.rename(f"{path}.away", path)
        done: list[StoreError | None] = []
        store.moderate(act, done.append)
        assert done == [None]


@pytest.mark.parametrize("size", [1, 40])
def test_store_log_stays_below_16_mib_at_full_speed(path: str, size: int) -> None:
    largest = 0
    with open_store(path) as store:
        for number in range(6000 // size):
            append(store, *(message("x" * 1000, f"{number} {n}") for n in range(size)))
            largest = max(largest, os.path.getsize(f"{path}-wal"))
        assert os.path.getsize(path) > 4 << 20
        assert largest < 16 << 20
        assert store.log_size == os.path.getsize(f"{path}-wal")


def test_store_log_restarts_after_a_long_reader(path: str) -> None:
    with open_store(path) as store, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        while store.log_size < 3 * write_ahead_log.CHECKPOINT_SIZE:
            append(store, *(message("x" * 4000) for _ in range(100)))
        reader.rollback()
        for _ in range(3000):
            append(store, *(message("x" * 4000) for _ in range(10)))
            if store.log_size < write_ahead_log.CHECKPOINT_SIZE:
                return
    raise AssertionError("the log did not restart")


def test_failed_checkpoint_is_logged_and_repeated(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class FailingOnce:
        def __init__(self, path: str) -> None:
            self.database = connect(path)
            self.failures = 1

        def execute(self, statement: str) -> sqlite3.Cursor:
            if "wal_checkpoint" in statement and self.failures:
                self.failures -= 1
                raise sqlite3.OperationalError("no descriptor is left")
            return self.database.execute(statement)

        def close(self) -> None:
            self.database.close()

    monkeypatch.setattr("chatd.storage.checkpointer.connect", FailingOnce)
    with open_store(path) as store:
        while f"{path}: checkpoint failed: no descriptor is left" not in caplog.text:
            append(store, *(message("x" * 500) for _ in range(100)))
        while os.path.getsize(path) < 8 << 20:
            append(store, *(message("x" * 500) for _ in range(100)))
        assert store.log_size < 16 << 20


def test_file_system_without_locks_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("chatd.storage.sqlite_file.fcntl.flock", refuse)
    assert "No locks available" in open_error(path)
