"""Files of the message store: full disk, foreign locks, files removed or replaced in use."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn, Self, cast

import pytest

from chatd.storage import file_watch, sqlite, write_ahead_log
from chatd.storage.checkpointer import Checkpointer
from chatd.storage.file_watch import FileWatch
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage, Page, StoreError
from chatd.storage.write_ahead_log import WriteAheadLog
from tests.chat import ChatClient, open_client, open_store, serve_chat
from tests.needs import need
from tests.support import Address, exchange, poll


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


def append(store: SQLiteStore, text: str, number: int = 1) -> str:
    """Append messages; return the error, or "" without one."""
    results: list[object] = []
    store.append([NewMessage("x", "Ann", text, None)] * number, results.append)
    (result,) = results
    return str(result) if isinstance(result, StoreError) else ""


def no_call(callback: Callable[[], None]) -> None:
    """Stand for the call of an event loop that does not run."""


def texts(path: str) -> list[str]:
    """Return the texts in the room x of a store that no process has open."""
    pages: list[Page | StoreError] = []
    with closing(SQLiteStore(path)) as store:
        store.read_before("x", None, 10_000, pages.append)
    assert isinstance(pages[0], Page)
    return [each.text for each in pages[0].messages]


# Full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    need(mounted, "the right to mount a tmpfs", "run as root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_small_disk_takes_messages_until_the_database_fills_it(small_disk: Path) -> None:
    path = str(small_disk / "chat.db")
    with closing(SQLiteStore(path)) as store:
        assert {append(store, "x" * 1000) for _ in range(400)} == {""}
    assert len(texts(path)) == 400


def test_full_disk_with_free_space_again_takes_messages(small_disk: Path) -> None:
    path, other = str(small_disk / "chat.db"), small_disk / "other"
    with closing(SQLiteStore(path)) as store:
        stored = sum(append(store, "x" * 1000) == "" for _ in range(100))
        with other.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        errors = [append(store, "x" * 1000) for _ in range(200)]
        stored += errors.count("")
        assert "check the free disk space" in errors[-1]
        other.unlink()
        assert append(store, "x" * 1000) == ""
    assert len(texts(path)) == stored + 1


# Locks of other programs.


def test_locked_store_appends_after_the_lock_without_waiting(path: str) -> None:
    timers: list[Callable[[], None]] = []
    results: list[object] = []
    with closing(SQLiteStore(path)) as store, closing(sqlite3.connect(path)) as other:
        store.start(lambda seconds, callback: timers.append(callback), no_call)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        store.append([NewMessage("x", "Ann", "a", None)], results.append)
        timers.pop()()
        assert not store.apply_retention()
        assert time.monotonic() - start < 0.5
        assert results == []
        other.rollback()
        timers.pop()()
        assert timers == []
        assert [type(each) for each in results] == [list]
    assert texts(path) == ["a"]


def test_locked_store_delays_retention_to_the_next_run(path: str) -> None:
    with (
        closing(SQLiteStore(path, keep_messages=1)) as store,
        closing(sqlite3.connect(path)) as other,
    ):
        assert append(store, "a", 3) == ""
        other.execute("BEGIN IMMEDIATE")
        assert store.apply_retention() is False
        other.rollback()
        while store.apply_retention():
            pass
    assert texts(path) == ["a"]


def test_locked_store_fails_the_batch_after_its_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Callable[[], None]] = []
    results: list[object] = []
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 0.01)
    with closing(SQLiteStore(path)) as store, closing(sqlite3.connect(path)) as other:
        store.start(lambda seconds, callback: timers.append(callback), no_call)
        other.execute("BEGIN IMMEDIATE")
        store.append([NewMessage("x", "Ann", "a", None)], results.append)
        while timers:
            timers.pop()()
        assert "locked" in str(results[0])


def test_locked_store_closes_at_once(path: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        store = SQLiteStore(path)
        timers: list[Callable[[], None]] = []
        store.start(lambda seconds, callback: timers.append(callback), no_call)
        other.execute("BEGIN IMMEDIATE")
        results: list[object] = []
        store.append([NewMessage("x", "Ann", "a", None)], results.append)
        start = time.monotonic()
        store.close()
        assert time.monotonic() - start < 0.5
        timers.pop()()
        assert results == []


def test_batch_that_waits_for_a_lock_is_stored_at_the_end(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(path)) as other:
        for locked in (True, False):
            store = SQLiteStore(path)
            store.start(lambda seconds, callback: None, no_call)
            other.execute("BEGIN IMMEDIATE")
            store.append([NewMessage("x", "Ann", f"locked: {locked}", None)], lambda _: None)
            if not locked:
                other.rollback()
            store.close()
            other.rollback()
    assert texts(path) == ["locked: False"]
    assert caplog.text.count("cannot append the last 1 messages: database is locked") == 1


def test_chat_answers_while_its_store_is_locked(path: str) -> None:
    with (
        serve_chat(open_store(path)) as chat,
        ChatClient(chat.address) as ann,
        closing(sqlite3.connect(path)) as other,
    ):
        ann.join("x", "Ann")
        other.execute("BEGIN IMMEDIATE")
        ann.send(type="say", room="x", text="a", key="k")
        start = time.monotonic()
        assert ann.messages() == []
        assert time.monotonic() - start < 1.0
        other.rollback()
        assert ann.receive_type("message")["text"] == "a"
        assert "chatd_log_failures_total 0" in metrics(chat.address)


# The checkpointer.


def test_checkpointer_copies_the_log_once_for_each_request(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(SQLiteStore(path)) as store:
        checkpointer = Checkpointer(path)
        names = [each.name for each in threading.enumerate() if each.daemon]
        assert names.count("checkpoint") == 2  # the store has one too
        assert (checkpointer.is_busy, checkpointer.take_finished()) == (False, False)
        for _ in range(2):
            size = os.path.getsize(path)
            assert append(store, "x" * 1000, 20) == ""
            checkpointer.request()
            checkpointer.wait()
            assert (checkpointer.is_busy, checkpointer.has_finished) == (False, True)
            assert [checkpointer.take_finished(), checkpointer.take_finished()] == [True, False]
            assert checkpointer.is_busy is False
            assert os.path.getsize(path) > size
        checkpointer.stop()
    assert not caplog.records


def test_checkpointer_raises_the_error_of_its_thread(path: str) -> None:
    Path(path).write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        Checkpointer(path)


# The write-ahead log, with a checkpointer that finishes when the test says so.


class FakeCheckpointer:
    def __init__(self, path: str) -> None:
        self.requests = 0
        self.is_busy = self.has_finished = False

    def request(self) -> None:
        self.requests += not self.is_busy
        self.is_busy = True

    def finish(self) -> None:
        self.is_busy, self.has_finished = False, True

    def take_finished(self) -> bool:
        finished, self.has_finished = self.has_finished, False
        return finished

    def wait(self) -> None:
        self.finish()

    def stop(self) -> None:
        pass


class FakeFiles:
    """A watch and a database whose log has the size that the test sets."""

    def __init__(self) -> None:
        self.log_size = 0
        self.truncations = 0
        self.error: Exception | None = None
        self.is_read = False

    def update(self) -> None:
        if isinstance(self.error, OSError):
            raise self.error

    update_after_checkpoint = update

    def execute(self, statement: str) -> Self:
        assert statement == "PRAGMA wal_checkpoint(TRUNCATE)"
        self.truncations += 1
        if self.error is not None:
            raise self.error
        self.log_size = self.log_size if self.is_read else 0
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return int(self.is_read), 0, 0


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
def log(path: str, files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> WriteAheadLog:
    monkeypatch.setattr(write_ahead_log, "CHECKPOINT_SIZE", 100)
    monkeypatch.setattr(write_ahead_log, "MIN_CHECKPOINT_SIZE", 100)
    monkeypatch.setattr(write_ahead_log, "Checkpointer", FakeCheckpointer)
    watch, database = cast(FileWatch, files), cast(sqlite3.Connection, files)
    return WriteAheadLog(path, database, watch)


def checkpointer_of(log: WriteAheadLog) -> FakeCheckpointer:
    return cast(FakeCheckpointer, log._checkpointer)


def test_log_is_checkpointed_from_its_size_on_then_truncated(
    log: WriteAheadLog, files: FakeFiles
) -> None:
    checkpointer = checkpointer_of(log)
    for size, requests in ((99, 0), (100, 1), (150, 1)):
        files.log_size = size
        log.after_write()
        assert (checkpointer.requests, files.truncations) == (requests, 0)
    checkpointer.finish()
    log.after_write()
    assert (files.log_size, files.truncations) == (0, 1)
    files.log_size = 99
    log.after_write()
    assert checkpointer.requests == 1


def test_log_behind_a_reader_is_truncated_after_the_read(
    log: WriteAheadLog, files: FakeFiles
) -> None:
    checkpointer = checkpointer_of(log)
    files.log_size, files.is_read = 150, True
    log.after_write()
    checkpointer.finish()
    log.after_write()
    assert (files.log_size, files.truncations) == (150, 1)
    for size, requests in ((249, 1), (250, 2)):  # as many bytes again, behind the old ones
        files.log_size = size
        log.after_write()
        assert checkpointer.requests == requests
    files.is_read = False
    log.after_read()
    assert (files.log_size, files.truncations) == (0, 2)
    log.after_read()
    assert files.truncations == 2, "only a delay needs another attempt"


def test_log_of_twice_its_size_has_no_room_during_a_checkpoint(
    log: WriteAheadLog, files: FakeFiles
) -> None:
    files.log_size = 199
    log.after_write()
    assert log.has_room(wait=False)
    files.log_size = 200
    assert not log.has_room(wait=False)
    assert log.has_room(wait=True)
    assert files.log_size == 0


@pytest.mark.parametrize("error", [OSError("removed"), sqlite3.OperationalError("locked")])
def test_log_that_cannot_be_truncated_stays(
    log: WriteAheadLog, files: FakeFiles, error: Exception
) -> None:
    files.log_size, files.error = 150, error
    log.after_write()
    assert log.truncate() is False
    assert files.truncations == 1


# Files that another program removes, replaces or truncates.


def remove(path: str) -> None:
    os.rename(path, f"{path}.away")


def replace(path: str) -> None:
    os.rename(path, f"{path}.away")
    Path(path).write_bytes(b"another file" * 10_000)


def put_back(path: str) -> None:
    os.rename(f"{path}.away", path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("change", [remove, replace])
def test_missing_file_fails_appends_until_it_is_back(
    path: str, suffix: str, change: Callable[[str], None]
) -> None:
    with closing(SQLiteStore(path)) as store:
        assert append(store, "a") == ""
        change(path + suffix)
        problem = "removed" if change is remove else "replaced by another file"
        for _ in range(2):
            assert f"{path}{suffix} was {problem}; " in append(store, "lost")
        with pytest.raises(StoreError, match=problem):
            store.check()
        with pytest.raises(StoreError, match=problem):
            store.apply_retention()
        put_back(path + suffix)
        assert append(store, "b") == ""
        store.check()
    assert texts(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("size", [0, 4096])
def test_truncated_file_fails_appends(path: str, suffix: str, size: int) -> None:
    with closing(SQLiteStore(path)) as store:
        for _ in range(3):
            assert append(store, "x" * 4000, 20) == ""
            assert store._log is not None
            assert store._log.truncate()
        assert append(store, "x" * 4000, 20) == ""
        os.truncate(path + suffix, size)
        assert f"{path}{suffix} was truncated; " in append(store, "lost")
        with pytest.raises(StoreError, match="truncated"):
            store.check()


def test_log_truncated_behind_a_reader_fails_appends(path: str) -> None:
    with closing(SQLiteStore(path)) as store, closing(sqlite3.connect(path)) as reader:
        assert append(store, "a") == ""
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        snapshot = os.path.getsize(f"{path}-wal")
        for _ in range(20):
            assert append(store, "b" * 1000) == ""
        os.truncate(f"{path}-wal", (snapshot + os.path.getsize(f"{path}-wal")) // 2)
        assert f"{path}-wal was truncated; " in append(store, "lost")
        reader.rollback()


def wait_for_fast_checks(store: SQLiteStore) -> None:
    """Wait until an append checks the names of the files by their directory alone."""
    assert store._watch is not None
    watch = store._watch

    def is_fast() -> bool:
        store.check()
        return watch._has_same_names()

    poll(is_fast, "a directory without a recent change")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("change", [remove, replace])
def test_missing_file_is_noticed_by_its_directory(
    path: str, suffix: str, change: Callable[[str], None]
) -> None:
    with closing(SQLiteStore(path)) as store:
        for _ in range(2):
            wait_for_fast_checks(store)
            assert append(store, "a") == ""
            change(path + suffix)
            problem = "removed" if change is remove else "replaced by another file"
            assert f"{path}{suffix} was {problem}; " in append(store, "lost")
            put_back(path + suffix)
            assert append(store, "b") == ""
    assert texts(path) == ["a", "b"] * 2


def test_unreadable_file_is_reported_with_the_reason(path: str) -> None:
    with closing(SQLiteStore(path)) as store:
        os.rename(path, f"{path}.away")
        os.symlink(path, path)
        error = append(store, "lost")
        assert f"message store {path}: {path}: Too many levels of symbolic links; " in error
        os.unlink(path)
        os.rename(f"{path}.away", path)
        assert append(store, "a") == ""


def test_clock_of_fine_times_needs_no_coarse_pause(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "COARSE_CLOCK", 10**18)
    with closing(SQLiteStore(path)) as store:
        wait_for_fast_checks(store)


@pytest.mark.parametrize("is_coarse", [False, True])
def test_recent_change_of_the_directory_is_not_trusted(
    path: str, is_coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "COARSE_CLOCK" if is_coarse else "FINE_CLOCK", 10**12)
    if is_coarse:
        monkeypatch.setattr(file_watch, "_SECOND", 1)  # each time counts as whole seconds
        monkeypatch.setattr(file_watch, "FINE_CLOCK", 0)
    with closing(SQLiteStore(path)) as store:  # has just created its files
        assert append(store, "a") == ""
        assert store._watch is not None
        assert not store._watch._has_same_names()


def test_renamed_directory_is_noticed_by_a_fast_check(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with closing(SQLiteStore(str(tmp_path / "state" / "chat.db"))) as store:
        wait_for_fast_checks(store)
        os.rename(tmp_path / "state", tmp_path / "away")
        assert "chat.db was removed; " in append(store, "lost")
        os.rename(tmp_path / "away", tmp_path / "state")


@pytest.mark.parametrize("is_log_empty", [False, True])
def test_truncated_database_stays_an_error(path: str, is_log_empty: bool) -> None:
    with closing(SQLiteStore(path)) as store:
        assert append(store, "x" * 4000, 20) == ""
        assert store._log is not None
        assert store._log.truncate()
        if not is_log_empty:
            assert append(store, "x" * 4000, 20) == ""
        os.truncate(path, 8192)
        assert "was truncated; " in append(store, "lost")
        store._log.truncate()  # writes pages beyond the lost ones
        with pytest.raises(StoreError, match=r"was truncated; .* restore a backup"):
            store.check()


def overwrite(path: str, content: bytes) -> None:
    """Write to a file in place, as `cp` does, at a time after its last checkpoint."""
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
    moment = time.time() + 1.0
    os.utime(path, (moment, moment))


def test_overwritten_database_fails_appends_until_the_end(path: str) -> None:
    with closing(SQLiteStore(f"{path}.other")) as store:
        append(store, "x" * 4000, 60)
    other = Path(f"{path}.other").read_bytes()
    for number in (40, 400):  # the other file is longer, or shorter
        with closing(SQLiteStore(path)) as store:
            assert append(store, "x" * 4000, number) == ""
            assert store._log is not None
            assert store._log.truncate()
            store.check()
            overwrite(path, other)
            with pytest.raises(StoreError) as caught:
                store.check()
            assert str(caught.value) == (
                f"message store {path}: {path} was overwritten by another program; chatd stores no"
                " messages in it: stop chatd, then restore a backup"
            )
            for _ in range(2):
                assert "overwritten by another program" in append(store, "lost")


def test_checkpoints_and_new_times_are_no_overwriting(path: str) -> None:
    with closing(SQLiteStore(path)) as store, closing(sqlite3.connect(path)) as other:
        assert store._log is not None
        for number in range(30):
            assert append(store, "x" * 1000, 5) == ""
            if number % 3 == 0:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            elif number % 3 == 1:
                store._log.truncate()
            elif number % 10 == 2:
                other.execute("VACUUM")
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            os.utime(path, (number, number))
            store.check()
    assert len(texts(path)) == 150


def test_log_truncated_by_a_foreign_checkpoint_is_accepted(path: str) -> None:
    with closing(SQLiteStore(path)) as store:
        assert append(store, "x" * 4000, 20) == ""
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        assert os.path.getsize(f"{path}-wal") == 0
        store.check()
        assert append(store, "b") == ""
        with closing(sqlite3.connect(path)) as other:
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert append(store, "c") == ""


def test_removed_log_loses_no_acknowledged_message(path: str) -> None:
    store = SQLiteStore(path)
    for number in range(50):
        assert append(store, str(number)) == ""
    os.unlink(f"{path}-wal")
    with pytest.raises(StoreError, match="removed"):
        store.check()
    content = Path(path).read_bytes()  # as after the end of the process
    store.close()
    Path(path).write_bytes(content)
    assert texts(path) == [str(number) for number in range(50)]


def test_removed_database_is_saved_at_the_end(path: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SQLiteStore(path)
    for number in range(50):
        assert append(store, str(number)) == ""
    os.unlink(path)
    assert "removed" in append(store, "lost")
    store.close()
    (saved,) = Path(path).parent.glob("chat.db.saved-*")
    assert caplog.messages == [
        f"message store {path}: saved the removed database as {saved}; move it to {path} to use it"
    ]
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert not Path(path).exists()
    assert texts(str(saved)) == [str(number) for number in range(50)]


def test_removed_database_that_cannot_be_saved_is_logged(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> NoReturn:
        raise OSError(errno.EACCES, "Permission denied", path)

    store = SQLiteStore(path)
    os.unlink(path)
    monkeypatch.setattr(sqlite, "create_file", refuse)
    monkeypatch.setattr(sqlite, "first_id", lambda: 7)
    store.close()
    assert caplog.messages == [
        f"message store {path}: cannot save the removed database: [Errno 13] Permission denied:"
        f" '{path}.saved-7'"
    ]


def test_backup_moved_over_the_database_gets_no_foreign_log(path: str) -> None:
    with closing(SQLiteStore(f"{path}.backup")) as store:
        append(store, "kept")
    store = SQLiteStore(path)
    for number in range(50):
        assert append(store, str(number)) == ""
    os.rename(f"{path}.backup", path)
    with pytest.raises(StoreError, match="replaced"):
        store.check()
    assert os.path.getsize(f"{path}-wal") == 0
    store.close()
    assert texts(path) == ["kept"]


def test_files_of_the_store_have_mode_0600_with_any_umask(path: str) -> None:
    before = os.umask(0)
    try:
        with closing(SQLiteStore(path)) as store:
            for suffix in ("", "-wal", "-shm"):
                append(store, "x" * 4000, 2000)
                assert stat.S_IMODE(os.stat(path + suffix).st_mode) == 0o600
            os.unlink(path)
            for _ in range(10):
                append(store, "x" * 4000, 500)
            assert not os.path.exists(path)
    finally:
        os.umask(before)


def metrics(address: Address) -> str:
    return get(address, "/metrics")


def get(address: Address, target: str) -> str:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return exchange(address, request.encode()).decode()


def test_chat_reports_a_removed_database_and_resumes(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_chat(open_store(path)) as chat, ChatClient(chat.address) as ann:
        ann.join("x", "Ann")
        ann.say("x", "a")
        assert get(chat.address, "/healthz").startswith("HTTP/1.1 200")
        assert f"chatd_store_wal_bytes {os.path.getsize(f'{path}-wal')}" in metrics(chat.address)
        remove(path)
        for number in range(3):
            error = ann.error_for(type="say", room="x", text="lost", key=f"l{number}")
            assert (error["code"], error["key"]) == ("log_failed", f"l{number}")
        start = time.monotonic()
        poll(lambda: get(chat.address, "/healthz").startswith("HTTP/1.1 503"), "503")
        assert time.monotonic() - start < 1.0
        assert "message store failed" in get(chat.address, "/healthz")
        assert caplog.text.count("was removed") == 1
        assert "chatd_log_failures_total 0" not in metrics(chat.address)
        put_back(path)
        poll(lambda: get(chat.address, "/healthz").startswith("HTTP/1.1 200"), "200")
        assert ann.say("x", "b")["text"] == "b"
        assert "chatd stores messages again" in caplog.text


def test_renamed_directory_is_noticed_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    path = str(tmp_path / "state" / "chat.db")
    with closing(SQLiteStore(path)) as store:
        assert append(store, "a") == ""
        os.rename(tmp_path / "state", tmp_path / "away")
        assert "chat.db was removed; " in append(store, "lost")
        os.rename(tmp_path / "away", tmp_path / "state")
        assert append(store, "b") == ""
    assert texts(path) == ["a", "b"]


def test_redirected_link_to_the_database_is_noticed(path: str) -> None:
    other, link = f"{path}.other", f"{path}.link"
    SQLiteStore(other).close()
    os.symlink(path, link)
    with closing(SQLiteStore(link)) as store:
        assert append(store, "a") == ""
        os.unlink(link)
        os.symlink(other, link)
        assert f"{link} was replaced by another file; " in append(store, "lost")


def test_join_after_a_restored_backup_reports_a_gap(path: str) -> None:
    def say(number: int) -> list[int]:
        with serve_chat(open_store(path)) as chat, ChatClient(chat.address) as ann:
            ann.join("x", "Ann")
            return [ann.say("x", f"text {n}")["id"] for n in range(number)]

    kept = say(10)
    backup = Path(path).read_bytes()
    lost = say(10)
    Path(path).write_bytes(backup)
    new = say(15)
    with serve_chat(open_store(path)) as chat, ChatClient(chat.address) as ben:
        joined = ben.join("x", "Ben", after=lost[-1])
        assert joined["gap"]
        assert [each["id"] for each in joined["messages"]] == kept + new
        joined = ben.join("x", "Ben", after=kept[-1])
        assert not joined["gap"]
        assert [each["id"] for each in joined["messages"]] == new


def test_quiet_chat_notices_a_removed_database_in_a_second(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_chat(open_store(path)) as chat, open_client(chat.address, "/r/x"):
        remove(path)
        start = time.monotonic()
        poll(lambda: "was removed" in caplog.text, "a line in the log")
        assert time.monotonic() - start < 1.0
