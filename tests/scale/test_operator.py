"""The operator's view: commands with --store, migration, and the ten commands of the README."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from chatd.__main__ import main
from chatd.model import Kind
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import Act, NewMessage
from tests.chat import ChatClient
from tests.documents import block
from tests.needs import need
from tests.scale.conftest import running_nodes
from tests.scale.engine import Engine
from tests.scale.test_two_nodes import wait_for
from tests.support import PATIENCE, ROOT, command, poll

ANN, BEN = "s12345678901", "s12345678902"
ROOMS = ("tea", "coffee", "lobby")


def fill(path: Path, number: int) -> None:
    """Make a store with all that a migration must keep."""
    store = SQLiteStore(str(path), keep_messages=number // 4)

    def append(*messages: NewMessage) -> None:
        store.append(messages, lambda result: None)

    for start in range(0, number, 500):
        append(
            *(
                NewMessage(ROOMS[each % 3], "Ann", f"text {each} \0 \uf8f0 é", f"k{each}", ANN)
                for each in range(start, start + 500)
            )
        )
    append(
        NewMessage("tea", "Ann", "a topic", None, ANN, Kind.TOPIC),
        NewMessage(f"@{ANN}{BEN}", "Ben", "psst", None, BEN),
    )
    store.moderate(Act("ban", "", "Cem", "s12345678903", "operator", None), lambda _: None)
    while store.apply_retention():
        pass
    store.close()


def run(*arguments: str, status: int = 0) -> str:
    process = subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE * 6
    )
    assert process.returncode == status, process.stderr + process.stdout
    return process.stdout + process.stderr


def test_killed_migration_continues_and_keeps_everything(
    server: Engine, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    fill(path, 60_000)
    serving = subprocess.Popen(
        command("chatd", "--db", str(path), "--port", "0"), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert serving.stdout is not None
    serving.stdout.readline()
    assert "in use" in run("migrate", "--db", str(path), "--store", url, status=2)
    serving.terminate()
    serving.communicate(timeout=PATIENCE)
    link = run("invite", "Dan", "--db", str(path)).partition("#invite=")[2].split()[0]
    run("revoke", "Eve", "--db", str(path))

    copying = subprocess.Popen(
        command("chatd", "migrate", "--db", str(path), "--store", url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert copying.stdout is not None
    while b"messages: 10,000" not in copying.stdout.readline():
        assert copying.poll() is None
    copying.kill()
    copying.communicate(timeout=PATIENCE)
    assert "not complete" in run("--store", url, "--port", "0", status=2)
    assert "not complete" in run("check", "--store", url, status=1)

    assert "equal to" in run("migrate", "--db", str(path), "--store", url)
    assert "is sound" in run("check", "--store", url)
    assert "messages already" in run("migrate", "--db", str(path), "--store", url, status=2)
    for options in ((), ("--room", "tea"), ("--audit",)):
        assert run("export", "--store", url, *options) == run("export", "--db", str(path), *options)
    assert run("bans", "--store", url) == "ban Cem in all rooms\n"
    name = url.rpartition("/")[2]
    (last,) = server.execute("SELECT last FROM chatd.rooms WHERE room = 'tea'", database=name)[0]
    with running_nodes(url, 1) as (node,), ChatClient(node.address) as ann:
        joined = ann.join("tea", "Ann")
        assert joined["topic"] == "a topic"
        assert ann.say("tea", "after the migration")["id"] == last + 1
    rows = server.execute("SELECT name FROM chatd.revocations", database=name)
    assert rows == [("eve",)]
    from chatd.access.invitations import Invitations
    from chatd.storage.postgres.invitations import StoredInvitations

    assert Invitations(StoredInvitations(url)).check(link, time.time()).name == "Dan"


def test_migration_that_differs_is_refused(server: Engine, url: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    fill(path, 1000)
    run("migrate", "--db", str(path), "--store", url)
    name = url.rpartition("/")[2]
    server.execute(
        "UPDATE chatd.messages SET text = 'x' WHERE id = (SELECT min(id) FROM chatd.messages)",
        database=name,
    )
    server.execute("UPDATE chatd.meta SET importing = %s", str(path.resolve()), database=name)
    assert "messages differs" in run("migrate", "--db", str(path), "--store", url, status=2)


def test_check_finds_an_id_above_the_last_one(server: Engine, url: str) -> None:
    with running_nodes(url, 1) as (node,), ChatClient(node.address) as ann:
        ann.join("tea", "Ann")
        ann.say("tea", "hello")
    assert "is sound: 1 messages in 1 rooms" in run("check", "--store", url)
    server.execute("UPDATE chatd.rooms SET last = 0", database=url.rpartition("/")[2])
    assert "the last id is 0, but there is a message 1" in run("check", "--store", url, status=1)


def test_erase_removes_the_texts_in_the_shared_store(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_nodes(url, 1) as (node,), ChatClient(node.address) as ann:
        ann.join("tea", "Ann")
        ann.say("tea", "secret")
        assert main(["erase", "Ann", "--store", url]) == 0
        ann.send(type="history", room="tea")
        assert wait_for(ann, "history")["messages"][0]["deleted"]
    capsys.readouterr()
    assert main(["export", "--store", url]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["text"] == ""


def test_retention_deletes_on_one_node_at_a_time(url: str) -> None:
    from chatd.storage.postgres.store import PostgresStore

    stores = [PostgresStore(url, keep_messages=10) for _ in range(2)]
    messages = [NewMessage("tea", "Ann", f"{each}", f"k{each}", ANN) for each in range(1000)]
    results: list[object] = []
    stores[0].append(messages, results.append)
    for store in stores:
        store.apply_retention()
    stores[1].read_after("tea", 0, 1000, results.append)
    assert [each.text for each in results[1].messages] == [  # type: ignore[attr-defined]
        f"{each}" for each in range(990, 1000)
    ]
    assert results[1].gap  # type: ignore[attr-defined]
    stores[0].append(messages[:1], results.append)
    assert results[2][0].repeated, "the key of a removed message is remembered"  # type: ignore[index]
    for store in stores:
        store.close()


@contextmanager
def checkout(tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the checkout for a user other than root."""
    directory = Path("/tmp") / f"chatd-readme-{os.getpid()}"
    shutil.copytree(
        ROOT,
        directory,
        ignore=shutil.ignore_patterns(".git", ".venv", ".nodes", "__pycache__", ".*_cache"),
    )
    for path in (directory, *directory.rglob("*")):
        if os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_ten_commands_of_the_readme_start_two_nodes(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    need(nginx, "nginx", "apt-get install nginx-light")
    need(
        Path("/usr/lib/postgresql/15/bin/initdb").exists(),
        "PostgreSQL 15",
        "apt-get install postgresql",
    )
    commands = block("many nodes", "sh")
    assert len(commands.splitlines()) == 10
    with checkout(tmp_path) as directory:
        script = f"set -e\n{commands}\necho all commands ran\nsleep 600\n"
        words = ["bash", "-c", script]
        if os.geteuid() == 0:
            words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *words]
        log = (tmp_path / "log").open("w+b")
        process = subprocess.Popen(
            words,
            cwd=directory,
            env={**os.environ, "HOME": str(directory), "PATH": _path_of_python()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            poll(
                lambda: b"all commands ran" in _log(tmp_path), "all commands", within=20 * PATIENCE
            )
            poll(
                lambda: _log(tmp_path).count(b"chatd is ready") == 2,
                "both nodes are ready",
                within=6 * PATIENCE,
            )
            assert b"may lose the last moments" in _log(tmp_path)
            with urlopen("http://127.0.0.1:8770/readyz", timeout=PATIENCE) as response:
                assert response.read() == b"ready\n"
            clients = [ChatClient(("127.0.0.1", port)) for port in (8770, 8771, 8772)]
            for number, client in enumerate(clients):
                client.join("tea", f"client {number}")
            clients[0].say("tea", "through the balancer")
            for client in clients[1:]:
                assert wait_for(client, "message")["text"] == "through the balancer"
            for client in clients:
                client.client.close()
        finally:
            os.killpg(process.pid, 15)
            for stop in (  # these two have left the process group
                [str(nginx), "-p", ".", "-c", "nginx.conf", "-s", "stop"],
                ["/usr/lib/postgresql/15/bin/pg_ctl", "-D", "pg", "-m", "immediate", "stop"],
            ):
                subprocess.run(stop, cwd=directory, preexec_fn=_become_nobody, capture_output=True)
            process.wait(PATIENCE)
            log.close()
            print(_log(tmp_path).decode(errors="replace"))


def _log(directory: Path) -> bytes:
    return (directory / "log").read_bytes()


def _path_of_python() -> str:
    """Return a search path with a python3 that another user can run."""
    return f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"


def _become_nobody() -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
