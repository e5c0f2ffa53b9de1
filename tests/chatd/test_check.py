"""The commands `check` and `export`, with and without a running chatd on the same store."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from chatd.__main__ import main
from chatd.commands import MAX_PROBLEMS
from chatd.model import Kind
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage
from tests.chat import ChatClient
from tests.support import PATIENCE, ROOT, command, daemon

README = (ROOT / "chatd" / "README.md").read_text()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a store with four messages in two rooms; retention has removed a fifth."""
    path = str(tmp_path / "chat store?.db")  # needs quoting in a URI
    monkeypatch.setattr("chatd.storage.ids.first_id", lambda: 0)
    store = SQLiteStore(path, keep_messages=3)
    messages = [NewMessage("tea", "Ann", f"text {number}", f"key {number}") for number in range(4)]
    messages.append(NewMessage("x", "Jürgen", "Grüße\n😀\x1b", None))
    store.append(messages, lambda result: None)
    while store.apply_retention():
        pass
    store.close()
    return path


def damage(path: str, *statements: str) -> None:
    """Execute SQL statements that make a store inconsistent."""
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_check_accepts_an_intact_store_and_creates_no_file(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir(os.path.dirname(path)))
    assert main(["check", "--db", path]) == 0
    assert capsys.readouterr() == (f"{path} is sound: 4 messages in 2 rooms\n", "")
    assert main(["export", "--db", path]) == 0
    assert sorted(os.listdir(os.path.dirname(path))) == before


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE messages SET room = 'a b' WHERE id = 5",
            "message 5 in room 'a b': invalid room name",
        ),
        (
            "UPDATE messages SET id = 0 WHERE id = 5",
            "message 0 in room 'x': the id is below 1",
        ),
        ("UPDATE messages SET id = 3 WHERE id = 5", "message 3: 2 messages have this id"),
        ("UPDATE messages SET id = 1 WHERE id = 2", "message 1 in room 'tea': recorded as removed"),
        (
            "UPDATE messages SET time = 'noon' WHERE id = 5",
            "the time is 'noon', not RFC 3339 in UTC with milliseconds",
        ),
        (
            "UPDATE messages SET name = '' WHERE id = 5",
            "the name has 0 characters, not 1 to 32",
        ),
        (
            "UPDATE messages SET name = printf('%33s', '') WHERE id = 5",
            "the name has 33 characters, not 1 to 32",
        ),
        (
            "UPDATE messages SET text = printf('%4001s', '') WHERE id = 5",
            "the text has 4001 characters, not up to 4000",
        ),
        (
            "UPDATE messages SET key = printf('%65s', '') WHERE id = 4",
            "message 4 in room 'tea': the key has 65 characters, not up to 64",
        ),
        ("UPDATE messages SET name = CAST(x'ff' AS TEXT) WHERE id = 5", "the name is not UTF-8"),
        ("UPDATE messages SET text = CAST(x'ff' AS TEXT) WHERE id = 5", "the text is not UTF-8"),
        (
            "UPDATE messages SET key = CAST(x'ff' AS TEXT) WHERE id = 4",
            "message 4 in room 'tea': the key is not UTF-8",
        ),
        ("UPDATE messages SET author = 'Ann' WHERE id = 5", "the author is 'Ann'"),
        ("UPDATE messages SET kind = 9 WHERE id = 5", "the kind is 9, not 0 to 4"),
        ("UPDATE messages SET kind = 1 WHERE id = 5", "the change refers to no message"),
        ("UPDATE messages SET kind = 3 WHERE id = 5", "the change refers to no message"),
        *(
            (
                f"UPDATE messages SET reactions = '{reactions}' WHERE id = 5",
                "the reactions are not a JSON object with lists of authors",
            )
            for reactions in ("{", "[]", '{"x": "saaaaaaaaaaa"}', '{"x": {}}', '{"x": ["Ann"]}')
        ),
        (
            "INSERT INTO trimmed VALUES ('b', 0)",
            "room 'b': invalid record of removed messages, up to id 0",
        ),
    ],
)
def test_check_reports_an_invalid_message_with_id_and_advice(
    path: str, statement: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(path, statement)
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    if not problem.startswith(("message ", "room ")):
        problem = f"message 5 in room 'x': {problem}"
    assert output == f"{problem}\n"
    assert "problems found: 1;" in errors
    assert "backup" in errors


def test_check_accepts_the_largest_and_the_smallest_fields(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(
        path,
        "UPDATE messages SET name = printf('%32s', 'x'), text = printf('%4000s', 'x')",
        "UPDATE messages SET key = printf('%64s', 'x') WHERE id = 4",
        "UPDATE messages SET name = 'x', text = '' WHERE id = 5",
        "UPDATE messages SET kind = 2, ref = 4 WHERE id = 3",
    )
    assert main(["check", "--db", path]) == 0
    assert capsys.readouterr() == (f"{path} is sound: 3 messages in 2 rooms\n", "")


@pytest.mark.parametrize("name", ["check", "export"])
def test_changed_schema_is_reported_and_not_called_sound(
    path: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(path, "DROP INDEX messages_by_key")
    assert main([name, "--db", path]) == (1 if name == "check" else 2)
    output, errors = capsys.readouterr()
    assert output == ""
    assert "'messages_by_key' differs from schema version 3" in errors


@pytest.mark.parametrize("name", ["check", "export"])
def test_store_of_schema_version_1_is_read_and_unchanged(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (ROOT / "tests/chatd/data/schema-1.db").read_bytes()
    (tmp_path / "chat.db").write_bytes(content)
    assert main([name, "--db", str(tmp_path / "chat.db")]) == 0
    assert capsys.readouterr().out.count("\n") == (1 if name == "check" else 4)
    assert (tmp_path / "chat.db").read_bytes() == content


def test_check_limits_the_number_of_problems_in_its_report(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ", ".join(f"('x', {number}, 'noon', '', 'x', NULL)" for number in range(10, 100))
    damage(path, f"INSERT INTO messages (room, id, time, name, text, key) VALUES {rows}")
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    assert output.count("\n") == MAX_PROBLEMS
    assert f"problems found: at least {MAX_PROBLEMS};" in errors


def test_check_reports_damaged_pages(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(path).read_bytes())
    place = data.index(b"text 2")
    data[place - 40 : place + 40] = b"\xff" * 80
    Path(path).write_bytes(data)
    assert main(["check", "--db", path]) == 1
    output, errors = capsys.readouterr()
    assert "SQLite integrity check: " in output + errors or "malformed" in errors
    assert errors.startswith("chatd: ")


@pytest.mark.parametrize("content", [None, b"", b"Dear Ann, " * 1000])
@pytest.mark.parametrize("name", ["check", "export"])
def test_file_without_message_store_is_reported_in_one_line(
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
def test_memory_store_is_refused_as_an_argument(
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


def test_export_writes_messages_in_order_without_keys(path: str) -> None:
    messages = list(exported(path))
    assert [(each["room"], each["id"]) for each in messages] == [
        ("tea", 2),
        ("tea", 3),
        ("tea", 4),
        ("x", 5),
    ]
    time = messages[-1].pop("time")
    assert isinstance(time, str)
    assert time.endswith("Z")
    assert messages[-1] == {"room": "x", "id": 5, "name": "Jürgen", "text": "Grüße\n😀\x1b"}
    assert [each["id"] for each in exported(path, "--room", "x")] == [5]
    assert list(exported(path, "--room", "empty.room")) == []


def test_export_has_the_kind_and_state_of_each_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "chat.db")
    store = SQLiteStore(path)
    results: list[Any] = []

    def add(text: str, author: str = "", kind: Kind = Kind.MESSAGE, ref: int | None = None) -> int:
        key = f"key {text} {kind}"
        store.append([NewMessage("tea", "Ann", text, key, author, kind, ref)], results.append)
        number = results.pop()[0].message.id
        assert isinstance(number, int)
        return number

    ann, ben = "s" + "a" * 11, "s" + "b" * 11
    old = add("from an earlier version")
    first = add("frist", ann)
    deleted = add("rude", ben)
    edit = add("first", ann, Kind.EDIT, first)
    react = add("+👍", ben, Kind.REACT, first)
    delete = add("", ben, Kind.DELETE, deleted)
    topic = add("hot drinks", ann, Kind.TOPIC)
    reply = add("indeed", ben, ref=first)
    store.close()
    assert main(["check", "--db", path]) == 0
    capsys.readouterr()

    def export(*options: str) -> list[dict[str, object]]:
        assert main(["export", "--db", path, *options]) == 0
        entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for entry in entries:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
            assert (entry.pop("room"), entry.pop("name")) == ("tea", "Ann")
        return entries

    expected: list[dict[str, object]] = [
        {"id": old, "text": "from an earlier version"},
        {
            **{"id": first, "text": "first", "author": ann},
            **{"edited": edit, "reactions": {"👍": [ben]}},
        },
        {"id": deleted, "text": "", "author": ben, "deleted": True},
        {"id": edit, "text": "", "author": ann, "type": "edit", "ref": first},
        {"id": react, "text": "+👍", "author": ben, "type": "react", "ref": first},
        {"id": delete, "text": "", "author": ben, "type": "delete", "ref": deleted},
        {"id": topic, "text": "hot drinks", "author": ann, "type": "topic"},
        {"id": reply, "text": "indeed", "author": ben, "ref": first},
    ]
    assert export() == export("--room", "tea") == expected
    assert export("--room", "te") == []


def test_export_to_a_closed_pipe_ends_with_status_1(path: str) -> None:
    rows = ", ".join(f"('x', {number}, 'noon', 'Ann', 'Hello', NULL)" for number in range(10, 9000))
    damage(path, f"INSERT INTO messages (room, id, time, name, text, key) VALUES {rows}")
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


def test_check_export_and_backup_work_beside_a_running_chatd(tmp_path: Path) -> None:
    path, backup = str(tmp_path / "chat.db"), tmp_path / "backup.db"
    found = re.search(r"^    (\(umask 077; python3 -c .*VACUUM INTO.*)$", README, re.MULTILINE)
    assert found, "chatd/README.md does not document the backup command"
    backup_command = found[1].replace("chat.db", path).replace("backup.db", str(backup))
    options = ("--port", "0", "--drain-timeout", "0.1")
    with daemon("chatd", *options, "--db", path) as running, ChatClient(running.address) as ann:
        ann.join("tea", "Ann")
        ann.say("tea", "before")
        assert main(["check", "--db", path]) == 0
        assert [each["text"] for each in exported(path)] == ["before"]
        result = subprocess.run(["sh", "-c", backup_command], capture_output=True, timeout=PATIENCE)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        ann.say("tea", "after")
        assert [each["text"] for each in exported(path)] == ["before", "after"]
        assert running.stop() == (0, "")
    assert backup.stat().st_mode & 0o077 == 0
    assert main(["check", "--db", str(backup)]) == 0
    assert [each["text"] for each in exported(str(backup))] == ["before"]
    with daemon("chatd", "--port", "0", "--db", str(backup)) as running:
        with ChatClient(running.address) as ann:
            assert [each["text"] for each in ann.join("tea", "Ann")["messages"]] == ["before"]
        assert running.stop() == (0, "")


def test_export_to_a_closed_pipe_exits_without_flush_error(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    replaced: list[int] = []
    monkeypatch.setattr("builtins.print", closed)
    monkeypatch.setattr("os.dup2", lambda new, old: replaced.append(old))
    with open(os.devnull, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["export", "--db", path]) == 1
    assert len(replaced) == 1


def run_chatd(stdout: IO[str], *arguments: str) -> tuple[int, str]:
    """Run chatd with this standard output; return the exit status and standard error."""
    result = subprocess.run(
        command("chatd", *arguments),
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    return result.returncode, result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("words", [["export"], ["check"], ["--port", "0"]], ids=" ".join)
def test_full_standard_output_is_reported_in_one_line(path: str, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        status, errors = run_chatd(full, *words, "--db", path)
    expected = "chatd: standard output: cannot write: No space left on device\n"
    assert (status, errors) == (2, expected)


def test_server_with_closed_standard_output_reports_it_and_exits(path: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        status, errors = run_chatd(closed, "--port", "0", "--db", path)
    assert (status, errors) == (2, "chatd: standard output: cannot write: Broken pipe\n")


def test_error_is_escaped_for_an_ascii_terminal(tmp_path: Path) -> None:
    result = subprocess.run(
        command("chatd", "check", "--db", str(tmp_path / "é.db")),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 1
    assert "\\xe9.db: cannot read: No such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1
