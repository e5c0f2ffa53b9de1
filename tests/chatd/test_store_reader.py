"""The reader thread of the message store: slow reads, their order, and their end."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chatd.storage import write_ahead_log
from chatd.storage.database import Database
from chatd.storage.pages import read_before
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage, Page, StoreError
from tests.chat import ChatClient, open_store, serve_chat
from tests.support import PATIENCE
from wsproto_min import Peer, Server


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


def connection_of(store: SQLiteStore) -> sqlite3.Connection:
    """Return the connection of the store's reader."""
    assert store._reader is not None
    return store._reader._database


@contextmanager
def blocked_reads(store: SQLiteStore) -> Iterator[threading.Event]:
    """Let each read in the block wait for the end of the block, as for a slow disk.

    The event is set once a read waits.
    """
    waiting, gate = threading.Event(), threading.Event()

    def wait() -> int:
        waiting.set()
        return not gate.wait(PATIENCE)

    # The handler stays: SQLite waits for the end of a read before it removes a handler.
    connection_of(store).set_progress_handler(wait, 1)
    try:
        yield waiting
    finally:
        gate.set()


class Calls:
    """The calls that a store asks an event loop for."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def start(self, store: SQLiteStore) -> None:
        store.start(lambda seconds, callback: None, self.calls.put)

    def run_one(self) -> None:
        """Wait for the next call, and make it."""
        self.calls.get(timeout=PATIENCE)()


def peers_without_room(server: Server) -> list[Peer]:
    """Return the peers that receive no live messages."""
    return [each for each in server.peers if not each._groups]


def append(store: SQLiteStore, text: str, number: int = 1) -> None:
    results: list[object] = []
    store.append([NewMessage("x", "Ann", text, None)] * number, results.append)
    assert isinstance(results[0], list), results


def test_slow_read_delays_no_other_message(path: str) -> None:
    store = open_store(path)
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("x", "Ann")
        ben.join("x", "Ben")
        first = ann.say("x", "a")
        assert ben.receive_type("message")["text"] == "a"
        with blocked_reads(store) as waiting:
            ben.send(type="history", room="x")
            assert waiting.wait(PATIENCE)
            ann.say("x", "b")
            assert ben.receive_type("message")["text"] == "b"
        messages = ben.receive_type("history")["messages"]
        assert messages[0]["id"] == first["id"]


@pytest.mark.parametrize("after", [False, True])
def test_join_with_a_slow_read_misses_and_repeats_nothing(path: str, after: bool) -> None:
    store = open_store(path)
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("x", "Ann")
        ids = [ann.say("x", text)["id"] for text in "abc"]
        fields = {"after": ids[0]} if after else {}
        with blocked_reads(store) as waiting:
            ben.send(type="join", room="x", name="Ben", **fields)
            assert waiting.wait(PATIENCE)
            ids += [ann.say("x", text)["id"] for text in "def"]
        joined = ben.receive_type("joined")
        ids += [ann.say("x", text)["id"] for text in "ghi"]
        received = [each["id"] for each in [*joined["messages"], *ben.messages()]]
        assert received == (ids[1:] if after else ids)
        assert not joined["gap"]


def test_read_for_a_closed_peer_is_dropped(path: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(path)
    with serve_chat(store) as chat, ChatClient(chat.address) as ann:
        ann.join("x", "Ann")
        with ChatClient(chat.address) as ben, blocked_reads(store) as waiting:
            ben.send(type="join", room="x", name="Ben")
            assert waiting.wait(PATIENCE)
            chat.ask(lambda: peers_without_room(chat.server)[0].close(1000, "closed"))
            assert ben.receive_close() == (1000, "closed")
            chat.wait_for_peers(1)
        ann.send(type="history", room="x")
        assert ann.receive_type("history")["messages"] == []
    assert caplog.records == []


def test_reads_are_answered_in_their_order(path: str) -> None:
    calls = Calls()
    pages: list[Page | StoreError] = []
    with closing(SQLiteStore(path)) as store:
        append(store, "a", 3)
        calls.start(store)
        for limit in (3, 1, 2):
            store.read_before("x", None, limit, pages.append)
        assert pages == []
        for _ in range(3):
            calls.run_one()
    assert [len(page.messages) for page in pages if isinstance(page, Page)] == [3, 1, 2]


def test_threads_of_the_store_have_names_and_stop_no_exit(path: str) -> None:
    with closing(SQLiteStore(path)) as store:
        Calls().start(store)
        threads = {each.name: each.daemon for each in threading.enumerate()}
    assert (threads["reader"], threads["checkpoint"]) == (True, True)


@pytest.mark.parametrize("path", [":memory:", "file"])
def test_read_before_the_start_reports_its_error(path: str, tmp_path: Path) -> None:
    path = path if path == ":memory:" else str(tmp_path / "chat.db")
    results: list[Page | StoreError] = []
    with closing(SQLiteStore(path)) as store:
        store._database.execute("DROP TABLE messages")
        store.read_before("x", None, 1, results.append)
    assert str(results[0]) == (
        f"message store {path}: cannot read: no such table: messages; run `chatd check`"
    )


def test_store_closes_during_an_endless_read(path: str) -> None:
    calls, running = Calls(), threading.Event()
    results: list[Page | StoreError] = []
    store = SQLiteStore(path)
    calls.start(store)

    def read(database: Database) -> Page:
        database.execute(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
            " SELECT count(*) FROM n"
        ).fetchone()
        raise AssertionError("the read ended")

    connection_of(store).set_progress_handler(running.set, 1000)  # returns None: go on
    assert store._reader is not None
    store._reader.submit(read, results.append)
    store.read_before("x", None, 1, results.append)
    assert running.wait(PATIENCE)
    store.close()
    calls.run_one()
    assert results == []


def test_exception_in_a_read_is_an_error_of_this_read(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    results: list[Page | StoreError] = []
    with closing(SQLiteStore(path)) as store:
        append(store, "a")
        calls.start(store)
        assert store._reader is not None
        store._reader.submit(lambda database: [][1], results.append)
        store.read_before("x", None, 1, results.append)
        calls.run_one()
        calls.run_one()
    assert isinstance(results[0], StoreError)
    assert str(results[0]) == (
        f"message store {path}: cannot read: unexpected exception; see the traceback in the log;"
        " run `chatd check`"
    )
    assert caplog.messages == [
        f"message store {path}: unexpected exception in a read; report this bug"
    ]
    assert "IndexError" in caplog.text
    assert isinstance(results[1], Page)


def test_log_restarts_between_two_reads(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead_log, "CHECKPOINT_SIZE", 1 << 16)
    calls, has_snapshot, gate = Calls(), threading.Event(), threading.Event()
    pages: list[Page | StoreError] = []

    def read(database: Database) -> Page:
        page = read_before("x", None, 1, database)
        has_snapshot.set()
        gate.wait(PATIENCE)
        return page

    with closing(SQLiteStore(path)) as store:
        calls.start(store)
        assert store._reader is not None
        assert store._log is not None
        store._reader.submit(read, pages.append)
        store._reader.submit(read, pages.append)  # waits behind the first
        assert has_snapshot.wait(PATIENCE)
        end = time.monotonic() + PATIENCE
        while not store._log._reader_delays_truncation and time.monotonic() < end:
            # An append may wait for the checkpoint.
            store.append([NewMessage("x", "Ann", "x" * 1000, None)], lambda result: None)
        assert store.log_size >= 1 << 16
        gate.set()
        calls.run_one()
        assert store.log_size == 0
        calls.run_one()
        assert len(pages) == 2
