"""The message log: order, ids, keys, retention, and what can be wrong with its file."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.protocol import Message
from chatd.storage import sqlite as log_module
from chatd.storage.sqlite import MEMORY, SQLiteStore, default_path
from chatd.storage.store import NewMessage, Page, StoredMessage, StoreError
from tests.support import PATIENCE, ROOT, poll


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


@contextmanager
def opened(path: str = MEMORY, **options: float | None) -> Iterator[SQLiteStore]:
    log = SQLiteStore(path, **options)  # type: ignore[arg-type]
    try:
        yield log
    finally:
        log.close()


def entry(text: str, key: str | None = None, room: str = "x", name: str = "Ann") -> NewMessage:
    return NewMessage(room, name, text, key)


def append(log: SQLiteStore, *entries: NewMessage) -> list[StoredMessage]:
    """Append a batch, which must go well."""
    answers: list[Sequence[StoredMessage] | StoreError] = []
    log.append(entries, answers.append)
    (answer,) = answers
    assert not isinstance(answer, StoreError), answer
    return list(answer)


def failure(ask: Callable[[Callable[[object], None]], None]) -> StoreError:
    """Return the error that must be answered."""
    answers: list[object] = []
    ask(answers.append)
    (answer,) = answers
    assert isinstance(answer, StoreError), answer
    return answer


def read(ask: Callable[[Callable[[Page | StoreError], None]], None]) -> Page:
    answers: list[Page | StoreError] = []
    ask(answers.append)
    (answer,) = answers
    assert isinstance(answer, Page), answer
    return answer


def after(log: SQLiteStore, seen: int = 0, limit: int = 1000, room: str = "x") -> Page:
    return read(lambda done: log.read_after(room, seen, limit, done))


def before(log: SQLiteStore, end: int | None = None, limit: int = 1000, room: str = "x") -> Page:
    return read(lambda done: log.read_before(room, end, limit, done))


def texts(found: Page) -> list[str]:
    return [message.text for message in found.messages]


def ids(stored: Sequence[StoredMessage]) -> list[int]:
    return [each.message.id for each in stored]


# Order and ids.


def test_messages_are_read_as_they_were_stored_in_their_order() -> None:
    with opened() as log:
        stored = append(log, entry("one", "k"), entry("tw\0o é😀"), entry("three", name="Ben"))
        assert [each.repeated for each in stored] == [False] * 3
        assert [(m.name, m.text) for m in after(log).messages] == [
            ("Ann", "one"),
            ("Ann", "tw\0o é😀"),
            ("Ben", "three"),
        ]
        assert after(log).messages == [each.message for each in stored]
        assert before(log).messages == after(log).messages


def test_the_time_is_utc_as_rfc_3339_has_it() -> None:
    with opened() as log:
        earliest = datetime.now(UTC) - timedelta(milliseconds=1)
        (stored,) = append(log, entry("now"))
        assert stored.message.time.endswith("Z")
        assert earliest <= datetime.fromisoformat(stored.message.time) <= datetime.now(UTC)


def test_rooms_are_apart_and_ids_increase_in_each() -> None:
    with opened() as log:
        append(log, entry("a", room="x"), entry("b", room="y"), entry("c", room="x"))
        append(log, entry("d", room="y"))
        assert texts(after(log, room="x")) == ["a", "c"]
        assert texts(after(log, room="y")) == ["b", "d"]
        assert texts(after(log, room="z")) == []
        numbers = [m.id for room in "xy" for m in after(log, room=room).messages]
        assert sorted(numbers) == sorted(set(numbers))


def test_a_slice_has_what_lies_on_its_side_of_the_id_the_newest_first_to_stay() -> None:
    with opened() as log:
        one, two, three, four = ids(append(log, *map(entry, ("1", "2", "3", "4"))))
        assert texts(after(log, two)) == ["3", "4"]
        assert texts(after(log, four)) == []
        assert texts(before(log, three)) == ["1", "2"]
        assert texts(before(log, one)) == []
        assert texts(before(log, 2**63 - 1)) == ["1", "2", "3", "4"]
        for limit, more in ((1, True), (3, True), (4, False), (5, False)):
            expected = ["1", "2", "3", "4"][-limit:]
            for found in (after(log, 0, limit), before(log, None, limit)):
                assert (texts(found), found.more, found.gap) == (expected, more, False)


# Keys.


def test_a_key_is_stored_once_within_a_batch_across_batches_and_across_restarts(path: str) -> None:
    with opened(path) as log:
        first, again, other = append(log, entry("a", "k"), entry("b", "k"), entry("c", "l"))
        assert (first.repeated, again.repeated, other.repeated) == (False, True, False)
        assert again.message == first.message
        third, new = append(log, entry("a", "k"), entry("d"))
        assert (third.repeated, third.message) == (True, first.message)
        assert not new.repeated
    with opened(path) as log:
        (late,) = append(log, entry("a", "k"))
        assert (late.repeated, late.message) == (True, first.message)
        assert texts(after(log)) == ["a", "c", "d"]


def test_a_key_counts_in_its_room_only_and_none_is_no_key() -> None:
    with opened() as log:
        for room in "xy":
            append(log, entry("a", "k", room=room), entry("b", room=room), entry("b", room=room))
            assert texts(after(log, room=room)) == ["a", "b", "b"]


batches = st.lists(
    st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from([None, "k", "l", "m"]), st.text("ab")),
        max_size=6,
    ),
    max_size=8,
)


@settings(deadline=None)
@given(batches, st.data())
def test_the_log_equals_a_list_of_what_came_first(
    said: list[list[tuple[str, str | None, str]]], data: st.DataObject
) -> None:
    model: list[tuple[str, str | None, Message]] = []
    with TemporaryDirectory() as directory, ExitStack() as stack:
        path = f"{directory}/chat.db"
        log = stack.enter_context(opened(path))
        for batch in said:
            if data.draw(st.booleans(), label="restart"):
                stack.close()
                log = stack.enter_context(opened(path))
            stored = append(log, *(NewMessage(room, "Ann", text, key) for room, key, text in batch))
            assert len(stored) == len(batch)
            for (room, key, text), answer in zip(batch, stored, strict=True):
                known = [m for r, k, m in model if (r, k) == (room, key) and key is not None]
                if known:
                    assert answer == StoredMessage(known[0], repeated=True)
                else:
                    assert not answer.repeated
                    assert answer.message.text == text
                    assert answer.message.id > max((m.id for _, _, m in model), default=0)
                    model.append((room, key, answer.message))
        for room in "xy":
            assert list(after(log, room=room).messages) == [m for r, _, m in model if r == room]


# Retention.


def test_the_newest_are_kept_in_each_room_and_who_missed_some_is_told_of_the_gap(
    path: str,
) -> None:
    with opened(path, keep_messages=2) as log:
        append(log, *(entry(text, room="y") for text in "pq"))
        one, two, three, four = ids(append(log, *map(entry, "abcd")))
        log.apply_retention()
        assert texts(after(log)) == ["c", "d"]
        assert texts(after(log, room="y")) == ["p", "q"]
        assert not after(log, room="y").gap
        gaps = {seen: after(log, seen).gap for seen in (0, one, two, three, four)}
        assert gaps == {0: True, one: True, two: False, three: False, four: False}
        append(log, entry("e"))
        log.apply_retention()
        assert texts(after(log)) == ["d", "e"]
        assert after(log, two).gap
    with opened(path) as log:
        assert after(log, two).gap, "a restart forgot what was removed"
        assert not after(log, three).gap


def test_an_id_is_never_given_again_even_if_its_message_is_gone(path: str) -> None:
    last = 0
    for _ in range(3):
        with opened(path, keep_days=1e-9) as log:
            (stored,) = append(log, entry("gone at once"))
            assert stored.message.id > last
            last = stored.message.id
            wait_until_it_is_of_the_past(stored)
            log.apply_retention()
            assert texts(after(log)) == []


def wait_until_it_is_of_the_past(stored: StoredMessage) -> None:
    stored_at = datetime.fromisoformat(stored.message.time)
    while datetime.now(UTC) - stored_at < timedelta(milliseconds=2):
        pass


def test_messages_are_kept_for_days_in_rooms_that_are_quiet_too(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2024, 3, 1, 12, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(log_module, "datetime", Clock)
    with opened(path, keep_days=2) as log:
        (first,) = append(log, entry("a", "k"))
        append(log, entry("p", room="y"))
        log.apply_retention()
        now += timedelta(days=1)
        append(log, entry("b"))
        log.apply_retention()
        assert texts(after(log)) == ["a", "b"]
        now += timedelta(days=1, seconds=1)
        log.apply_retention()
        assert (texts(after(log)), after(log).gap) == (["b"], True)
        assert (texts(after(log, room="y")), after(log, room="y").gap) == ([], True)
        assert not after(log, first.message.id).gap
        now += timedelta(days=10)
        log.apply_retention()
        assert (texts(after(log)), after(log, first.message.id).gap) == ([], True)


@pytest.mark.parametrize("options", [{"keep_messages": 3}, {"keep_days": 1.0}])
def test_much_is_removed_in_parts_the_oldest_first(
    options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "TRIM_AT_ONCE", 4)
    with opened(path, **options) as log:
        with monkeypatch.context() as patch:
            patch.setattr(log_module, "_timestamp", lambda _: "2024-03-01T12:00:00.000Z")
            append(log, *map(entry, "abcdefghi"), entry("p", room="y"))
        append(log, *map(entry, "jkl"))
        assert log.apply_retention() is True
        assert texts(after(log)) == list("efghijkl")
        assert after(log).gap
        assert log.apply_retention() is True
        assert texts(after(log)) == list("ijkl")
        assert log.apply_retention() is False
        assert texts(after(log)) == list("jkl")
        assert texts(after(log, room="y")) == ([] if "keep_days" in options else ["p"])
        assert log.apply_retention() is False


def test_what_a_former_run_left_is_trimmed_too(path: str) -> None:
    with opened(path) as log:
        append(log, *map(entry, "abc"))
        log.apply_retention()
        assert texts(after(log)) == ["a", "b", "c"], "nothing was to be removed"
    with opened(path, keep_messages=1) as log:
        log.apply_retention()
        assert texts(after(log)) == ["c"]


def test_after_an_id_that_this_log_never_gave_all_comes_with_a_gap() -> None:
    with opened() as log:
        append(log, *map(entry, "abc"))
        found = after(log, 1000)
        assert (texts(found), found.gap) == (["a", "b", "c"], True)


# The file.


def test_the_default_file_lies_in_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert str(default_path()) == "/home/ann/.local/state/chatd/chat.db"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert str(default_path()) == "/home/ann/.local/state/chatd/chat.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert str(default_path()) == "/state/chatd/chat.db"


def cannot_open(path: str) -> str:
    """Return why a log cannot be opened; nothing may stay open or locked behind it."""
    before_it = os.listdir("/proc/self/fd")
    with pytest.raises(StoreError) as caught:
        SQLiteStore(path)
    assert len(os.listdir("/proc/self/fd")) == len(before_it)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_one_on_the_same_file_is_refused_under_whatever_name(path: str) -> None:
    os.symlink(path, f"{path}.link")
    with opened(path) as log:
        append(log, entry("a"))
        for name in (path, f"{path}.link", os.path.relpath(path)):
            assert "in use by another chatd" in cannot_open(name)
            assert "--db" in cannot_open(name)
        append(log, entry("b"))
        with sqlite3.connect(path) as reader:
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (2,)
        reader.close()
    with opened(path) as log:
        assert texts(after(log)) == ["a", "b"]


def test_a_killed_process_leaves_no_lock_and_no_half_batch(path: str) -> None:
    script = (
        "import os, signal, sys; from chatd.storage.store import *; from chatd.storage.sqlite import *\n"
        "log = SQLiteStore(sys.argv[1])\n"
        "log.append([NewMessage('x', 'Ann', 'kept', 'k')], print)\n"
        "def die(*arguments): os.kill(os.getpid(), signal.SIGKILL)\n"
        "log._database.create_function('die', 0, die)\n"
        "log._database.execute('CREATE TEMP TRIGGER t AFTER INSERT ON messages'\n"
        "    \" WHEN new.text = 'last' BEGIN SELECT die(); END\")\n"
        "log.append([NewMessage('x', 'Ann', text, None) for text in ('lost', 'last')], print)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, path], cwd=ROOT, capture_output=True, timeout=PATIENCE
    )
    assert result.returncode == -signal.SIGKILL, result
    with opened(path) as log:
        assert texts(after(log)) == ["kept"]
        assert [each.repeated for each in append(log, entry("kept", "k"))] == [True]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a letter to somebody " * 100, "not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "cannot be used"),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    path: str, content: bytes, reason: str
) -> None:
    Path(path).write_bytes(content)
    assert reason in cannot_open(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_database_of_something_else_is_refused_and_left_alone(path: str, version: int) -> None:
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE recipes (name); PRAGMA user_version = {version}")
    database.close()
    content = Path(path).read_bytes()
    assert "of something else" in cannot_open(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_of_the_log_is_refused_and_left_alone(path: str, version: int) -> None:
    SQLiteStore(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    content = Path(path).read_bytes()
    assert f"is of version {version}, not 1" in cannot_open(path)
    assert Path(path).read_bytes() == content


def test_a_log_whose_pages_are_damaged_is_refused(path: str) -> None:
    with opened(path) as log:
        append(log, *(entry("x" * 1000) for _ in range(50)))
    damaged = bytearray(Path(path).read_bytes())
    damaged[4096:] = b"\xa5" * (len(damaged) - 4096)
    Path(path).write_bytes(damaged)
    assert "malformed" in cannot_open(path)


def test_a_directory_and_a_path_to_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.db").mkdir()
    assert "Is a directory" in cannot_open(str(tmp_path / "chat.db"))
    assert "No such file" in cannot_open(str(tmp_path / "missing" / "chat.db"))


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Have no special rights: root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["directory", "file", "lock"])
def test_what_cannot_be_written_is_refused(what: str) -> None:
    with TemporaryDirectory() as directory:
        path = f"{directory}/chat.db"
        SQLiteStore(path).close()
        if os.geteuid() == 0:
            for each in (directory, path, f"{path}.lock"):
                os.chown(each, 65534, 65534)
        locked = {"directory": directory, "file": path, "lock": f"{path}.lock"}[what]
        if what == "directory":
            os.unlink(f"{path}.lock")
        os.chmod(locked, 0o500 if what == "directory" else 0o400)
        with as_somebody_else():
            assert "readonly" in cannot_open(path) or "Permission denied" in cannot_open(path)
        os.chmod(locked, 0o700)


def test_only_the_owner_can_read_what_is_said(path: str) -> None:
    with opened(path) as log:
        append(log, entry("a secret"))
        for name in os.listdir(os.path.dirname(path)):
            mode = stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode)
            assert mode & 0o077 == 0, f"{name} has mode {mode:o}"


# Faults while it is in use.


def fill(log: SQLiteStore) -> None:
    """Leave the database no page more than it has."""
    (pages,) = log._database.execute("PRAGMA page_count").fetchone()
    log._database.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_fails_the_whole_batch_and_the_next_that_fits_is_stored(path: str) -> None:
    with opened(path) as log:
        (first,) = append(log, entry("a", "k"))
        fill(log)
        big = [entry("x" * 4000, f"k{number}") for number in range(50)]
        for batch in (big, [*big, entry("a", "k")]):
            error = failure(lambda done, batch=batch: log.append(batch, done))  # type: ignore[misc]
            assert "full" in str(error)
            assert texts(after(log)) == ["a"], "half a batch was stored"
        log._database.execute("PRAGMA max_page_count = 100000")
        stored = append(log, *big)
        assert [each.repeated for each in stored] == [False] * 50
        assert ids(stored)[0] > first.message.id
        assert ids(stored) == sorted(set(ids(stored)))


def test_a_file_that_may_not_grow_fails_the_batch_and_what_was_stored_stays(path: str) -> None:
    script = (
        "import resource, signal, sys; from chatd.storage.store import *; from chatd.storage.sqlite import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = SQLiteStore(sys.argv[1])\n"
        "answers = []\n"
        "log.append([NewMessage('x', 'Ann', 'kept', None)], answers.append)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))\n"
        "big = [NewMessage('x', 'Ann', 'x' * 4000, None)] * 100\n"
        "log.append(big, answers.append)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "log.append([NewMessage('x', 'Ann', 'later', None)], answers.append)\n"
        "for each in answers: print(type(each).__name__, str(each)[:40])\n"
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
    assert "the log failed" in result.stdout
    with opened(path) as log:
        assert texts(after(log)) == ["kept", "later"]


def test_reading_and_trimming_tell_what_is_wrong_too() -> None:
    with opened(keep_messages=1, keep_days=1) as log:
        append(log, *map(entry, "abc"))
        log._database.execute("ALTER TABLE messages RENAME TO elsewhere")
        for ask in (
            lambda done: log.read_after("x", 0, 5, done),
            lambda done: log.read_before("x", None, 5, done),
            lambda done: log.append([entry("d")], done),
        ):
            assert "the log failed: no such table" in str(failure(ask))
        with pytest.raises(StoreError, match="cannot be trimmed: no such table"):
            log.apply_retention()
        log._database.execute("ALTER TABLE elsewhere RENAME TO messages")
        log.apply_retention()
        assert texts(after(log)) == ["c"], "the room that was to be trimmed is forgotten"


def test_the_write_ahead_log_is_moved_into_the_file_while_messages_come(path: str) -> None:
    with opened(path) as log:
        size = os.path.getsize(path)
        for _ in range(3):
            append(log, *(entry("x" * 500) for _ in range(log_module.CHECKPOINT_AFTER)))
            poll(lambda size=size: os.path.getsize(path) > size + 400_000, "the file has grown")  # type: ignore[misc]
            size = os.path.getsize(path)
        assert len(after(log, limit=10_000).messages) == 3000


def test_a_move_that_fails_is_logged_and_tried_again(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise sqlite3.OperationalError("no descriptor is left")

    with opened(path) as log:
        monkeypatch.setattr("chatd.storage.sqlite.sqlite3.connect", refuse)
        append(log, *(entry("x" * 500) for _ in range(log_module.CHECKPOINT_AFTER)))
        poll(lambda: "no descriptor is left" in caplog.text, "the failure is logged")
        monkeypatch.undo()
        append(log, *(entry("x" * 500) for _ in range(log_module.CHECKPOINT_AFTER)))
        poll(lambda: os.path.getsize(path) > 1_000_000, "all is in the file")


def test_a_file_system_without_locks_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("chatd.storage.sqlite.fcntl.flock", refuse)
    assert "No locks available" in cannot_open(path)
