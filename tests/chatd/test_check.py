"""`check` and `export`: a log read from outside, beside a running chat or without one."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from chatd.__main__ import MAX_TOLD, main
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage
from tests.chat import Talker
from tests.support import PATIENCE, ROOT, command, daemon

README = (ROOT / "README.md").read_text()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a log with five messages in two rooms, of which one was trimmed."""
    path = str(tmp_path / "chat log?.db")  # a name that a URI must quote
    log = SQLiteStore(path, keep_messages=3)
    entries = [NewMessage("tea", "Ann", f"text {number}", f"key {number}") for number in range(4)]
    log.append([*entries, NewMessage("x", "Jürgen", "Grüße\n😀\x1b", None)], lambda done: None)
    log.apply_retention()
    log.close()
    return path


def spoil(path: str, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_a_sound_log_is_said_to_be_so_and_nothing_is_left_beside_it(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir(os.path.dirname(path)))
    assert main(["check", "--db", path]) == 0
    assert capsys.readouterr() == (f"{path} is sound: 4 messages in 2 rooms\n", "")
    assert main(["export", "--db", path]) == 0
    assert sorted(os.listdir(os.path.dirname(path))) == before


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE messages SET room = 'a b' WHERE id = 5", "no room of that name"),
        ("UPDATE messages SET id = 0 WHERE id = 5", "ids begin at 1"),
        ("UPDATE messages SET id = 3 WHERE id = 5", "the id was given 2 times"),
        ("UPDATE messages SET id = 1 WHERE id = 2", "it is noted as removed"),
        ("UPDATE messages SET time = 'noon' WHERE id = 5", "the time is 'noon'"),
        ("UPDATE messages SET name = '' WHERE id = 5", "the name has 0 characters"),
        ("UPDATE messages SET name = printf('%33s', '') WHERE id = 5", "the name has 33"),
        ("UPDATE messages SET text = printf('%4001s', '') WHERE id = 5", "the text has 4001"),
        ("UPDATE messages SET key = printf('%65s', '') WHERE id = 4", "the key has 65"),
        ("UPDATE messages SET text = CAST(x'ff' AS TEXT) WHERE id = 5", "the text is not UTF-8"),
        ("UPDATE messages SET key = CAST(x'ff' AS TEXT) WHERE id = 4", "the key is not UTF-8"),
        ("INSERT INTO trimmed VALUES ('b', 0)", "removed from room 'b' makes no sense"),
    ],
)
def test_what_is_wrong_in_a_message_is_named_with_its_place_and_what_to_do(
    path: str, statement: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(path, statement)
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    assert words in output
    assert output.count("\n") == 1, output
    assert "not sound, in 1 places" in errors
    assert "backup" in errors


def test_no_more_than_a_page_is_told_of_what_is_wrong(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ", ".join(f"('x', {number}, 'noon', 'Ann', '', NULL)" for number in range(10, 100))
    spoil(path, f"INSERT INTO messages VALUES {rows}")
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    assert output.count("\n") == MAX_TOLD
    assert f"in at least {MAX_TOLD} places" in errors


def test_damaged_pages_are_found(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(path).read_bytes())
    place = data.index(b"text 2")
    data[place - 40 : place + 40] = b"\xff" * 80
    Path(path).write_bytes(data)
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    assert "SQLite says: " in output + errors or "malformed" in errors
    assert errors.startswith("chatd: ")


@pytest.mark.parametrize("content", [None, b"", b"Dear Ann, " * 1000])
@pytest.mark.parametrize("name", ["check", "export"])
def test_what_is_no_log_is_told_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a\x1b[31m"
    if content is not None:
        path.write_bytes(content)
    assert main([name, "--db", str(path)]) == (1 if name == "check" else 2)
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("chatd: ")
    assert r"a\x1b[31m" in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == ([] if content is None else [path])


@pytest.mark.parametrize("name", ["check", "export"])
def test_what_is_only_in_memory_cannot_be_read_from_outside(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--db", ":memory:"])
    assert caught.value.code == 2
    assert "needs a file" in capsys.readouterr().err


def exported(path: str, *arguments: str) -> Iterator[dict[str, object]]:
    result = subprocess.run(
        command("chatd", "export", "--db", path, *arguments),
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()
    return map(json.loads, result.stdout.decode().splitlines())


def test_messages_are_exported_in_their_order_without_the_senders_key(path: str) -> None:
    told = list(exported(path))
    assert [(each["room"], each["id"]) for each in told] == [
        ("tea", 2),
        ("tea", 3),
        ("tea", 4),
        ("x", 5),
    ]
    time = told[-1].pop("time")
    assert isinstance(time, str)
    assert time.endswith("Z")
    assert told[-1] == {"room": "x", "id": 5, "name": "Jürgen", "text": "Grüße\n😀\x1b"}
    assert [each["id"] for each in exported(path, "--room", "x")] == [5]
    assert list(exported(path, "--room", "nobody.was.here")) == []


def test_who_has_read_enough_may_close_the_pipe(path: str) -> None:
    rows = ", ".join(f"('x', {number}, 'noon', 'Ann', 'Hello', NULL)" for number in range(10, 9000))
    spoil(path, f"INSERT INTO messages VALUES {rows}")
    with subprocess.Popen(
        command("chatd", "export", "--db", path),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == 2
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 1


def test_beside_a_running_chat_a_log_is_checked_exported_and_saved(tmp_path: Path) -> None:
    path, saved = str(tmp_path / "chat.db"), tmp_path / "backup.db"
    found = re.search(r"^    (\(umask 077; python3 -c .*VACUUM INTO.*)$", README, re.MULTILINE)
    assert found, "README does not say how to save a log"
    backup = found[1].replace("chat.db", path).replace("backup.db", str(saved))
    options = ("--port", "0", "--drain-timeout", "0.1")
    with daemon("chatd", *options, "--db", path) as running, Talker(running.address) as ann:
        ann.join("tea", "Ann")
        ann.say("tea", "before")
        assert main(["check", "--db", path]) == 0
        assert [each["text"] for each in exported(path)] == ["before"]
        result = subprocess.run(["sh", "-c", backup], capture_output=True, timeout=PATIENCE)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        ann.say("tea", "after")
        assert [each["text"] for each in exported(path)] == ["before", "after"]
        assert running.stop() == (0, "")
    assert saved.stat().st_mode & 0o077 == 0
    assert main(["check", "--db", str(saved)]) == 0
    assert [each["text"] for each in exported(str(saved))] == ["before"]
    with daemon("chatd", "--port", "0", "--db", str(saved)) as running:
        with Talker(running.address) as ann:
            assert [each["text"] for each in ann.join("tea", "Ann")["messages"]] == ["before"]
        assert running.stop() == (0, "")


def test_a_pipe_that_was_closed_is_no_trouble_at_the_exit_either(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    replaced: list[int] = []
    monkeypatch.setattr("builtins.print", closed)
    monkeypatch.setattr("sys.stdout", open(os.devnull, "w"))  # noqa: SIM115 closed by its end
    monkeypatch.setattr("os.dup2", lambda new, old: replaced.append(old))
    assert main(["export", "--db", path]) == 1
    assert len(replaced) == 1


def said_to(stream: IO[str], *words: str) -> tuple[int, str]:
    """Run chatd with a standard output; return the status and what it says of that."""
    result = subprocess.run(
        command("chatd", *words),
        cwd=ROOT,
        stdout=stream,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    return result.returncode, result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("words", [["export"], ["check"], ["--port", "0"]], ids=" ".join)
def test_an_output_that_is_full_is_told_in_one_line(path: str, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        status, errors = said_to(full, *words, "--db", path)
    told = "chatd: cannot write to standard output: No space left on device\n"
    assert (status, errors) == (2, told)


def test_a_server_whose_ready_line_nobody_can_read_says_so_and_ends(path: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        status, errors = said_to(closed, "--port", "0", "--db", path)
    assert (status, errors) == (2, "chatd: cannot write to standard output: Broken pipe\n")


def test_what_the_terminal_has_no_letters_for_is_written_all_the_same(tmp_path: Path) -> None:
    result = subprocess.run(
        command("chatd", "check", "--db", str(tmp_path / "é.db")),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 1
    assert "\\xe9.db cannot be read: No such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1
