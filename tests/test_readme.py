"""What README shows is run as it stands there, and what it names exists."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest

import chatd
import wsproto_min
from tests.support import PATIENCE, daemon
from wsproto_min import connect

README = (Path(__file__).parent.parent / "README.md").read_text()
ALONE = ("--port", "0", "--db", ":memory:")


def example(name: str) -> str:
    """Return the Python code behind the comment `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no example {name!r}"
    return found[1]


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_plain_client_is_heard_and_hears_the_others() -> None:
    code = example("plain client")
    assert len(code.strip().splitlines()) <= 10
    with daemon("chatd", *ALONE) as running:
        host, port = running.address
        url = f"ws://{host}:{port}/r/tea"
        with connect(url) as other, run(code, url) as client:
            try:
                assert other.recv(PATIENCE) == "Hello from Python"
                other.send("Hello, Python")
                assert first_line(client) == "Hello, Python\n"
            finally:
                client.terminate()


def test_the_chat_client_says_its_text_once_and_shows_what_is_said() -> None:
    code = example("chat client")
    with daemon("chatd", *ALONE) as running:
        host, port = running.address
        url = f"ws://{host}:{port}/"
        with (
            connect(url, subprotocols=["chat.v1"]) as other,
            run(code, url, "Ann", "Hello") as client,
        ):
            try:
                assert first_line(client) == "Ann: Hello\n"
                other.send(json.dumps({"type": "join", "room": "tea", "name": "Bob"}))
                joined = json.loads(other.recv(PATIENCE))
                assert [message["text"] for message in joined["messages"]] == ["Hello"]
                other.send(json.dumps({"type": "say", "room": "tea", "text": "Hi", "key": "1"}))
                assert first_line(client) == "Bob: Hi\n"
            finally:
                client.terminate()


def test_the_chat_client_misses_nothing_while_the_server_is_away(tmp_path: Path) -> None:
    code = example("chat client")
    texts = [f"number {number}" for number in range(60)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}/"
    options = ("--port", str(port), "--db", str(tmp_path / "chat.db"), "--rate-limit", "0")
    with ExitStack() as stack:
        with daemon("chatd", *options) as running:
            client = stack.enter_context(run(code, url, "Ann", "Hello"))
            stack.callback(client.terminate)
            timer = Timer(2 * PATIENCE, client.kill)  # a line that never comes ends then
            timer.start()
            stack.callback(timer.cancel)
            assert first_line(client) == "Ann: Hello\n"
            running.stop()
        with daemon("chatd", *options), connect(url, subprotocols=["chat.v1"]) as other:
            other.send(json.dumps({"type": "join", "room": "tea", "name": "Bob"}))
            for text in texts:
                other.send(json.dumps({"type": "say", "room": "tea", "text": text, "key": text}))
            assert [first_line(client) for _ in texts] == [f"Bob: {text}\n" for text in texts]


def test_the_server_sends_every_message_back() -> None:
    code = (
        example("server")
        .replace("9001", "0")
        .replace("server.listen(", "print(*server.listen(")
        .replace(", 0)", ", 0), flush=True)")
    )
    with run(code) as process:
        try:
            host, port = first_line(process).split()
            with connect(f"ws://{host}:{port}/") as client:
                client.send("there and back")
                assert client.recv(PATIENCE) == "there and back"
        finally:
            process.terminate()


def names_in(section: str) -> list[str]:
    """Return the functions and methods that a section of README names."""
    body = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"`([A-Z]\w+\.\w+|[a-z]+_[a-z_]+)`", body)


@pytest.mark.parametrize("name", names_in("The path of one message"))
def test_what_the_path_of_a_message_passes_exists(name: str) -> None:
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (wsproto_min, chatd)
        for module in pkgutil.iter_modules(package.__path__)
        if module.name != "__main__"
    ]
    owner, _, attribute = name.rpartition(".")
    holders = [getattr(module, owner) for module in modules if hasattr(module, owner)]
    assert any(hasattr(holder, attribute) for holder in (holders if owner else modules)), name


def test_every_test_that_is_named_exists() -> None:
    tests = Path(__file__).parent
    sources = "".join(path.read_text() for path in tests.rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", README):
        assert f"def {name}(" in sources, name
    for name in re.findall(r"`(test_\w+\.py)`", README):
        assert (tests / name).exists(), name


def test_the_two_commands_to_set_up_are_there() -> None:
    commands = re.findall(r"^    (python3 -m (?:chatd|venv .*))$", README, re.MULTILINE)
    assert [command.split()[2] for command in commands] == ["chatd", "venv"]
