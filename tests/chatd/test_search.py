"""Search: the index of trigrams, the scan without it, and the search of a client."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chatd.model import Kind
from chatd.storage import search
from chatd.storage.indexer import INDEX_PAUSE, Indexer
from chatd.storage.search import MAX_FOUND, SearchIndex
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.sqlite_file import connect
from chatd.storage.store import Found, NewMessage, StoreError
from tests.chat import ChatClient, open_store, serve_chat
from tests.support import PATIENCE

ANN = "s" + "a" * 11


@pytest.fixture(autouse=True)
def _enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # A page ends when its time is over, so a busy machine would shorten the pages.
    monkeypatch.setattr(search, "SEARCH_STEP", PATIENCE)
    monkeypatch.setattr(search, "INDEX_STEP", PATIENCE)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


@pytest.fixture
def store(path: str) -> Iterator[SQLiteStore]:
    with closing(open_store(path)) as opened:
        yield opened


def say(store: SQLiteStore, *texts: str, room: str = "x") -> list[int]:
    results: list[Any] = []
    store.append([NewMessage(room, "Ann", text, None, ANN) for text in texts], results.append)
    return [each.message.id for each in results[0]]


def change(store: SQLiteStore, kind: Kind, ref: int | None, text: str = "") -> None:
    results: list[Any] = []
    store.append([NewMessage("x", "Ann", text, None, ANN, kind, ref)], results.append)


def find(store: SQLiteStore, text: str, *rooms: str, before: int | None = None) -> Found:
    results: list[Any] = []
    store.search(rooms or ("x",), text, before, results.append)
    assert isinstance(results[0], Found), results
    return results[0]


def texts(found: Found) -> list[str]:
    return [message.text for _, message in found.messages]


@pytest.mark.parametrize("kind", ["index", "scan"])
@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("Straße nach Norden", "STRASSE", True),
        ("Straße nach Norden", "norden strasse", True),
        ("Straße nach Norden", "süden", False),
        ("ab cd", "b", True),
        ("ab cd", "ab cd", True),
        ("before\0after", "after", True),
        ("before\0after", "beforex", False),
        ('100 % "sure" -- OR NOT * ( x', '"sure" -- or * (', True),
        ("日本語のテキスト", "本語の", True),
        ("日本語のテキスト", "本", True),
        ("Ελλάς", "ΕΛΛΆΣ", True),
        ("abcxyz", "abc yz bcx", True),
        ("abc xbcd", "abcd", False),
    ],
)
def test_message_is_found_by_its_words_in_any_case(
    store: SQLiteStore, kind: str, text: str, query: str, is_found: bool
) -> None:
    if kind == "scan":
        store._indexer.index = SearchIndex(None)
    say(store, "another", text)
    assert texts(find(store, query)) == [text] * is_found


@pytest.mark.parametrize("query", ["needle", "ne"])  # in the index, and by a scan
def test_results_are_newest_first_in_pages_over_all_rooms(store: SQLiteStore, query: str) -> None:
    expected: list[str] = []
    for number in range(MAX_FOUND + 20):
        room = f"room-{number % 3}"
        say(store, f"needle {number}", "hay", room=room)
        expected.insert(0, f"needle {number}")
    say(store, "needle elsewhere", room="secret")
    rooms = ("room-0", "room-1", "room-2")
    first = find(store, query, *rooms)
    assert texts(first) == expected[:MAX_FOUND]
    second = find(store, query, *rooms, before=first.before)
    assert texts(second) == expected[MAX_FOUND:]
    assert second.before is None
    for page in (first, second):
        assert page.cursors == [message.id for _, message in page.messages]
        assert [room for room, _ in page.messages] == [
            f"room-{int(message.text.split()[1]) % 3}" for _, message in page.messages
        ]


def test_scan_with_one_page_of_results_has_no_next_page(store: SQLiteStore) -> None:
    say(store, *(f"needle {number}" for number in range(MAX_FOUND)))
    found = find(store, "ne")
    assert (len(found.messages), found.before) == (MAX_FOUND, None)


def test_scan_finds_only_messages_that_are_shown(store: SQLiteStore) -> None:
    first, second, third = say(store, "ab", "ab cd", "ab")
    change(store, Kind.TOPIC, None, "ab")
    change(store, Kind.REACT, first, "+ab")
    change(store, Kind.DELETE, third)
    found = find(store, "ab")
    assert [message.id for _, message in found.messages] == [second, first]
    results: list[Any] = []
    store.search((), "ab", None, results.append)
    assert results == [Found([], None, [])]


class Clock:
    """A clock that advances by a second with each reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("units", [1, 2, 7])
def test_scan_out_of_time_continues_with_the_next_unit(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, units: int
) -> None:
    numbers = []
    for number in range(30):
        numbers += say(store, "hay", "hay", f"ne {number}", room=f"room-{number % 3}")[2:]
    rooms = [f"room-{number}" for number in range(3)]
    monkeypatch.setattr(search, "time", Clock())
    monkeypatch.setattr(search, "INDEX_UNIT", 4)
    monkeypatch.setattr(store._indexer.index, "_step", units + 0.5)
    found: list[int] = []
    before, pages = None, 0
    while pages == 0 or before is not None:
        page = find(store, "ne", *rooms, before=before)
        found += [message.id for _, message in page.messages]
        assert before is None or page.before is None or page.before < before
        before, pages = page.before, pages + 1
    assert found == numbers[::-1]
    assert pages > 90 // 4 // units / 2


@pytest.mark.parametrize("query", ["needle", "ne"])
def test_search_out_of_time_continues_where_it_stopped(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    for number in range(30):
        say(store, *(["hay"] * 10), f"needle {number}", room=f"room-{number % 5}")
    rooms = [f"room-{number}" for number in range(5)]
    find(store, "hay", *rooms)  # fills the index
    monkeypatch.setattr(search, "SEARCH_STEP", 0.0)
    monkeypatch.setattr(search, "INDEX_UNIT", 7)
    found: list[str] = []
    before = None
    for _ in range(1000):
        page = find(store, query, *rooms, before=before)
        found += texts(page)
        before = page.before
        if before is None:
            break
    monkeypatch.undo()
    assert found == [f"needle {number}" for number in reversed(range(30))] or (
        query == "ne" and not found
    ), "a page without time must still make progress"


def test_edited_and_deleted_messages_leave_the_index(store: SQLiteStore, path: str) -> None:
    first, second = say(store, "first needle", "second needle")
    assert len(find(store, "needle").messages) == 2
    change(store, Kind.EDIT, first, "first thread")
    change(store, Kind.DELETE, second)
    assert texts(find(store, "needle")) == []
    assert texts(find(store, "thread")) == ["first thread"]
    store.close()
    assert b"second needle" not in Path(f"{path}-search").read_bytes()


def test_messages_removed_by_retention_leave_the_index(path: str) -> None:
    with closing(open_store(path, keep_messages=1)) as store:
        say(store, "old needle", "new needle")
        assert len(find(store, "needle").messages) == 2
        while store.apply_retention():
            pass
        assert texts(find(store, "needle")) == ["new needle"]
        with closing(connect(f"{path}-search")) as index:
            assert index.execute("SELECT count(*) FROM entries").fetchone() == (1,)


@pytest.fixture
def database(store: SQLiteStore, path: str) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        yield connection


def indexed(path: str) -> dict[str, int]:
    """Return the number of indexed messages by room."""
    with closing(connect(f"{path}-search")) as index:
        return dict(index.execute("SELECT room, count(*) FROM entries GROUP BY room"))


def test_index_grows_room_by_room_in_steps(
    store: SQLiteStore, path: str, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"a": 3, "b": 7, "c": 1, "d": 8}
    for room, size in sizes.items():
        say(store, *(["needle"] * size), room=room)
    monkeypatch.setattr(search, "time", Clock())
    monkeypatch.setattr(search, "INDEX_UNIT", 4)
    monkeypatch.setattr(search, "INDEX_STEP", 1.5)  # two units
    index = SearchIndex(f"{path}-search")
    with closing(index):
        assert not index.is_in_use
        states = []
        while not index.grow(None, database):
            states.append(sum(indexed(path).values()))
            assert len(states) < 10
        assert indexed(path) == sizes
        assert index.is_in_use
        assert all(0 < new - old <= 8 for old, new in pairwise([0, *states]))
        assert len(states) >= 2
        # A complete pass visits no room again, except after `visit_all_rooms`.
        say(store, "needle", room="a")
        assert index.grow(None, database)
        assert indexed(path) == sizes
        index.visit_all_rooms()
        while not index.grow(None, database):
            pass
        assert indexed(path) == sizes | {"a": 4}
        say(store, "needle", room="a")
        assert index.grow(None, database)
        assert indexed(path) == sizes | {"a": 4}, "one call starts one pass"


def test_index_pass_that_ends_early_continues_with_its_room(
    store: SQLiteStore, path: str, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = ["a", "b", "c", "d", "e"]
    for room in rooms:
        say(store, *(["needle"] * 2), room=room)
    monkeypatch.setattr(search, "INDEX_UNIT", 2)
    monkeypatch.setattr(search, "INDEX_STEP", -1.0)
    with closing(SearchIndex(f"{path}-search")) as index:
        totals = []
        while not index.grow(None, database):
            totals.append(sum(indexed(path).values()))
            assert len(totals) < 20
        assert totals == [2, 4, 6, 8, 10]


def test_index_of_a_removed_room_is_emptied_by_a_pass(path: str) -> None:
    with closing(open_store(path, keep_messages=1)) as store, closing(connect(path)) as database:
        say(store, "needle", "needle", "needle")
        say(store, "needle", room="y")
        with closing(SearchIndex(f"{path}-search")) as index:
            while not index.grow(None, database):
                pass
            assert indexed(path) == {"x": 3, "y": 1}
            while store.apply_retention():
                pass
            index.visit_all_rooms()
            while not index.grow(None, database):
                pass
            assert indexed(path) == {"x": 1, "y": 1}


def test_index_stays_open_between_searches(store: SQLiteStore) -> None:
    say(store, "needle")
    find(store, "needle")
    first = store._indexer.index._index
    assert first is not None
    find(store, "needle")
    assert store._indexer.index._index is first


class Upkeep:
    """An indexer whose reads and timers run when the test says so."""

    def __init__(self, index: SearchIndex) -> None:
        self.reads: list[tuple[Any, Callable[[Any], None]]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.indexer = Indexer(index, lambda read, callback: self.reads.append((read, callback)))

    def start(self) -> None:
        self.indexer.start(lambda seconds, callback: self.timers.append((seconds, callback)))

    def finish(self, result: object) -> tuple[object, ...]:
        """Answer the only read in progress with `result`; return its arguments."""
        ((read, callback),) = self.reads
        self.reads.clear()
        callback(result)
        assert read.func == self.indexer.index.grow
        return tuple(read.args)

    def run_timer(self) -> None:
        ((seconds, callback),) = self.timers
        assert seconds == INDEX_PAUSE
        self.timers.clear()
        callback()


class IndexInUse(SearchIndex):
    """An index that is open."""

    is_in_use = True


def erase(room: str) -> list[NewMessage]:
    return [NewMessage(room, "Ann", "", None, ANN, Kind.DELETE, 1)]


def test_indexer_repeats_a_step_until_it_is_complete() -> None:
    upkeep = Upkeep(IndexInUse("index"))
    upkeep.indexer.after_append(erase("x"))
    assert upkeep.reads == [], "there are no steps before the start"
    upkeep.start()
    upkeep.indexer.after_append([NewMessage("y", "Ann", "text", None)])
    assert upkeep.finish(False) == (["x"],)
    upkeep.indexer.after_append(erase("z"))
    args = upkeep.finish(True)
    assert sorted(args[0]) == ["x", "z"]  # type: ignore[call-overload]
    upkeep.run_timer()
    assert upkeep.finish(False) == (None,)
    upkeep.run_timer()
    assert upkeep.finish(True) == (None,)
    assert (upkeep.reads, upkeep.timers) == ([], [])
    upkeep.indexer.after_append([NewMessage("y", "Ann", "text", None)])
    assert upkeep.reads == [], "only erasing needs a step at once"


def test_indexer_takes_a_step_at_a_time_and_ends_after_an_error() -> None:
    upkeep = Upkeep(IndexInUse("index"))
    upkeep.start()
    upkeep.indexer.after_retention()
    upkeep.indexer.after_append(erase("x"))
    upkeep.indexer.after_retention()
    assert upkeep.finish(StoreError("failed")) == (None,)
    assert (upkeep.reads, upkeep.timers) == ([], [])
    upkeep.indexer.after_retention()
    assert upkeep.finish(True) == (["x"],)


def test_indexer_without_an_index_takes_no_steps() -> None:
    for index in (SearchIndex(None), SearchIndex("index")):
        upkeep = Upkeep(index)
        upkeep.start()
        upkeep.indexer.after_append(erase("x"))
        upkeep.indexer.after_retention()
        assert upkeep.reads == []
    upkeep = Upkeep(SearchIndex(None))
    upkeep.start()
    upkeep.indexer.search(["x"], "text", None, lambda found: None)
    assert len(upkeep.reads) == 1, "the search only"
    upkeep = Upkeep(SearchIndex("index"))
    upkeep.start()
    upkeep.indexer.search(["x"], "text", None, lambda found: None)
    assert len(upkeep.reads) == 2, "the search and the next step"


def test_removed_or_damaged_index_is_made_again(
    store: SQLiteStore, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    say(store, "needle")
    assert texts(find(store, "needle")) == ["needle"]
    os.unlink(f"{path}-search")
    assert texts(find(store, "needle")) == ["needle"]
    assert Path(f"{path}-search").exists()
    store._indexer.index.close()
    Path(f"{path}-search").write_bytes(b"no database" * 1000)
    assert texts(find(store, "needle")) == ["needle"], "the scan answers"
    assert caplog.messages == [
        f"search index {path}-search: file is not a database; chatd makes another"
    ]
    assert texts(find(store, "needle")) == ["needle"]
    with closing(connect(f"{path}-search")) as index:
        assert index.execute("SELECT count(*) FROM entries").fetchone() == (1,)


def test_sqlite_without_fts5_searches_by_scan(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search, "_SCHEMA", "CREATE VIRTUAL TABLE entries USING fts99(text)")
    say(store, "needle")
    assert texts(find(store, "needle")) == ["needle"]
    assert texts(find(store, "needle")) == ["needle"]
    (message,) = caplog.messages
    assert message.startswith("search index ")
    assert message.endswith("-search: cannot use: no such module: fts99; searches scan")


def test_index_file_belongs_to_its_owner_only(store: SQLiteStore, path: str) -> None:
    say(store, "needle")
    find(store, "needle")
    assert os.stat(f"{path}-search").st_mode & 0o777 == 0o600


def test_client_searches_only_the_rooms_that_it_is_in() -> None:
    with serve_chat() as chat, ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("one", "Ann")
        ann.join("two", "Ann")
        ben.join("three", "Ben")
        for client, room in ((ann, "one"), (ann, "two"), (ben, "three")):
            client.say(room, f"needle in {room}")
        ann.send(type="search", room=None, text=" Needle ")
        results = ann.receive_type("results")
        assert [(each["room"], each["text"]) for each in results["messages"]] == [
            ("two", "needle in two"),
            ("one", "needle in one"),
        ]
        ann.send(type="search", room="one", text="needle")
        assert len(ann.receive_type("results")["messages"]) == 1
        assert ann.error_for(type="search", room="three", text="x")["code"] == "not_joined"
        assert ann.error_for(type="search", room="one", text=" ")["code"] == "bad_message"


def test_search_of_a_damaged_store_reports_an_error(path: str) -> None:
    with closing(open_store(path)) as store:
        say(store, "needle")
        results: list[Any] = []
        with closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE messages")
        store.search(("x",), "needle", None, results.append)
        assert "cannot read" in str(results[0])
