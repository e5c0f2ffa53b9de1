"""Examples, commands, names and links of the READMEs and of .github."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread, Timer

import pytest

from tests.documents import (
    ALL,
    DOCUMENTS,
    LEARN,
    PATHS,
    PROSE,
    RUN,
    TEST,
    block,
    code_in,
    exists,
    section,
    table,
)
from tests.support import PATIENCE, ROOT, daemon, exchange, make_certificate, poll, serving
from wsproto_min import HandshakeError, Opcode, Peer, Role, accept, connect
from wsproto_min.__main__ import main
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.frames import encode_frame
from wsproto_min.http_reader import parse_request
from wsproto_min.net.frame_trace import FrameTrace
from wsproto_min.net.proxy import find_proxy
from wsproto_min.net.url import parse_url

COMMANDS = [
    (path, command)
    for path, text in PROSE.items()
    for command in re.findall(r"^ {4,7}(\S*python3? -m .*|\(.*|.*/bin/.*)$", text, re.MULTILINE)
]
ALONE = ("--port", "0", "--db", ":memory:")


# Examples


def run(code: str, *arguments: str, errors: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if errors else None,
        text=True,
        cwd=ROOT,
    )


def first_line(process: subprocess.Popen[str], *, errors: bool = False) -> str:
    """Return the next line of the process; end the process if no line comes."""
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    timer = Timer(2 * PATIENCE, process.kill)
    timer.start()
    try:
        return stream.readline()
    finally:
        timer.cancel()


@contextmanager
def running_server(name: str) -> Iterator[str]:
    """Run a server example on a free port; yield its URL."""
    code = (
        block(name)
        .replace("9001", "0")
        .replace("server.listen(", "print(*server.listen(")
        .replace(", 0)", ", 0), flush=True)")
    )
    with run(code) as process:
        try:
            host, port = first_line(process).split()
            yield f"ws://{host}:{port}/"
        finally:
            process.terminate()


def test_plain_client_sends_and_receives_messages() -> None:
    code = block("plain client")
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


def test_chat_client_sends_its_text_once_and_shows_messages() -> None:
    code = block("chat client")
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


def test_chat_client_has_at_most_25_lines() -> None:
    assert len(block("chat client").strip().splitlines()) <= 25


def test_chat_client_ends_quietly_at_ctrl_c() -> None:
    with daemon("chatd", *ALONE) as running:
        host, port = running.address
        with run(
            block("chat client"), f"ws://{host}:{port}/", "Ann", "Hello", errors=True
        ) as client:
            try:
                assert first_line(client) == "Ann: Hello\n"
                client.send_signal(signal.SIGINT)
                assert client.communicate(timeout=PATIENCE) == ("", "")
                assert client.returncode == 0
            finally:
                client.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_chat_client_waits_for_a_name_of_an_earlier_run(end: signal.Signals) -> None:
    code = block("chat client")
    with daemon("tests.chatd.short_reservation", *ALONE) as running:
        host, port = running.address
        url = f"ws://{host}:{port}/"
        with ExitStack() as stack:
            earlier = stack.enter_context(run(code, url, "Ann", "Hello"))
            stack.callback(earlier.kill)
            assert first_line(earlier) == "Ann: Hello\n"
            client = stack.enter_context(run(code, url, "Ann", "again", errors=True))
            stack.callback(client.kill)
            # The server reserves the name for a second, in which a slow client may not start.
            refusal = first_line(client, errors=True)
            assert refusal.startswith("the name Ann is taken in the room tea")
            earlier.send_signal(end)
            assert first_line(client) == "Ann: Hello\n"
            assert first_line(client) == "Ann: again\n"


def test_chat_client_refused_message_ends_it() -> None:
    with daemon("chatd", *ALONE) as running:
        host, port = running.address
        url = f"ws://{host}:{port}/"
        with run(block("chat client"), url, "Ann", "x" * 4001, errors=True) as client:
            try:
                _, errors = client.communicate(timeout=PATIENCE)
            finally:
                client.kill()
    assert client.returncode == 1
    assert len(errors.splitlines()) == 1


def test_chat_client_reconnects_from_a_silent_network() -> None:
    """A relay stops forwarding on the first connection, without closing it."""
    code = block("chat client").replace("max_delay=5", "ping_interval=0.3, ping_timeout=0.3")
    assert "ping_interval" in code
    with ExitStack() as stack:
        running = stack.enter_context(daemon("chatd", *ALONE))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent = Event()

        def relay() -> None:
            for number in range(2):
                ours = stack.enter_context(listener.accept()[0])
                theirs = stack.enter_context(socket.create_connection(running.address))
                for source, target in ((ours, theirs), (theirs, ours)):
                    Thread(target=forward, args=[source, target, number], daemon=True).start()

        def forward(source: socket.socket, target: socket.socket, number: int) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    if number or not silent.is_set():
                        target.sendall(data)

        Thread(target=relay, daemon=True).start()
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        client = stack.enter_context(run(code, url, "Ann", "Hello"))
        stack.callback(client.kill)
        assert first_line(client) == "Ann: Hello\n"
        silent.set()
        other = stack.enter_context(connect(f"ws://127.0.0.1:{running.address[1]}/r/tea"))
        other.send("after the silence")
        assert first_line(client) == "guest-1: after the silence\n"


def test_chat_client_misses_nothing_across_a_restart(tmp_path: Path) -> None:
    code = block("chat client")
    texts = [f"number {number}" for number in range(60)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}/"
    options = ("--port", str(port), "--db", str(tmp_path / "chat.db"), "--rate-limit", "0")
    with ExitStack() as stack:
        with daemon("chatd", *options) as running:
            client = stack.enter_context(run(code, url, "Ann", "Hello"))
            stack.callback(client.terminate)
            assert first_line(client) == "Ann: Hello\n"
            running.stop()
        with daemon("chatd", *options), connect(url, subprotocols=["chat.v1"]) as other:
            other.send(json.dumps({"type": "join", "room": "tea", "name": "Bob"}))
            for text in texts:
                other.send(json.dumps({"type": "say", "room": "tea", "text": text, "key": text}))
            assert [first_line(client) for _ in texts] == [f"Bob: {text}\n" for text in texts]


def test_reconnecting_client_receives_from_each_connection() -> None:
    connections = count()

    def on_open(peer: Peer) -> None:
        peer.send(f"connection {next(connections)}")
        peer.close()

    with serving(on_open=on_open) as running:
        url = f"ws://127.0.0.1:{running.address[1]}/"
        with run(block("reconnecting client"), url) as client:
            try:
                for number in range(3):
                    assert first_line(client) == f"connection {number}\n"
            finally:
                client.terminate()


def test_echo_server_has_three_lines_and_echoes() -> None:
    assert len([line for line in block("server").splitlines() if "server" in line]) == 3
    with running_server("server") as url, connect(url) as client:
        client.send("there and back")
        assert client.recv(PATIENCE) == "there and back"


def test_echo_server_prints_only_a_traceback_at_ctrl_c() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with run(block("server").replace("9001", str(port)), errors=True) as process:
        try:
            poll(lambda: accepts(port), "the server listens")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert output == ""
    assert errors.startswith("Traceback")
    assert errors.endswith("\nKeyboardInterrupt\n")


def accepts(port: int) -> bool:
    """Return True if a server accepts connections."""
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_broadcast_server_sends_to_all_clients() -> None:
    with running_server("broadcast server") as url, connect(url) as ann, connect(url) as bob:
        ann.send("Hello")
        assert (ann.recv(PATIENCE), bob.recv(PATIENCE)) == ("Hello", "Hello")


def test_server_with_a_page_requires_its_subprotocol() -> None:
    with running_server("server with a page") as url:
        host, port = url[5:-1].split(":")
        page = exchange((host, int(port)), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert page.endswith(b"\r\n\r\nConnect with a WebSocket.\n")
        with pytest.raises(HandshakeError, match="the subprotocol 'echo' is required"):
            connect(url)
        with connect(url, subprotocols=["echo"]) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"


def test_server_with_later_responses_answers_a_post() -> None:
    with running_server("server with later responses") as url:
        host, port = url[5:-1].split(":")
        for request, status, body in (
            (b"POST /notes HTTP/1.1\r\nContent-Length: 8\r\n\r\nbuy milk", 201, '{"id": 1}'),
            (b"POST /note HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "Use POST /notes.\n"),
            (b"POST /notes HTTP/1.1\r\n\r\n", 411, "header Content-Length is missing\n"),
        ):
            response = exchange((host, int(port)), request).decode()
            assert response.startswith(f"HTTP/1.1 {status} ")
            assert response.endswith(f"\r\n\r\n{body}")


def test_server_with_tls_reads_its_certificate_again(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for directory in (first, second):
        directory.mkdir()
        make_certificate(directory)
    used = tmp_path / "both.pem"
    used.write_bytes((first / "both.pem").read_bytes())
    code = block("server with TLS").replace("9001", "0")
    code = code.replace("server.listen(", "print(*server.listen(")
    code = code.replace(", context)", ", context), flush=True)")

    def trusts(directory: Path) -> bool:
        context = ssl.create_default_context(cafile=directory / "both.pem")
        with suppress(ssl.SSLError), connect(f"wss://localhost:{port}/", ssl_context=context):
            return True
        return False

    with run(code, str(used), errors=True) as process:
        try:
            port = first_line(process).split()[1]
            assert trusts(first)
            used.write_text("no certificate")
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("call_soon_threadsafe: raised")
            assert trusts(first)
            used.write_bytes((second / "both.pem").read_bytes())
            process.send_signal(signal.SIGHUP)
            poll(lambda: trusts(second), "the server presents the second certificate")
        finally:
            process.terminate()


def test_asyncio_server_echoes() -> None:
    with run(block("asyncio echo"), "0") as process:
        try:
            url = first_line(process).split()[-1]
            with connect(url) as client:
                client.send("Hello")
                assert client.recv(PATIENCE) == "Hello"
        finally:
            process.terminate()


def test_python_session_prints_its_results() -> None:
    blocks = re.findall(r"```python\n(>>> .*?)```", ALL, re.DOTALL)
    assert len(blocks) > 10
    report: list[str] = []
    with serving() as running:
        timer = Timer(3 * PATIENCE, running.server.stop)  # ends a wait for a missing message
        timer.start()
        session = "\n".join(blocks).replace("9001", str(running.address[1]))
        test = doctest.DocTestParser().get_doctest(session, {}, LEARN, LEARN, 0)
        result = doctest.DocTestRunner().run(test, out=report.append)
        timer.cancel()
    assert not result.failed, "".join(report)


def test_python_blocks_all_have_a_test() -> None:
    source = "".join(
        (ROOT / path).read_text()
        for path in ("tests/test_readme.py", "tests/explain/test_lessons.py")
    )
    for before, code in re.findall(r"([^\n]*)\n```python\n(.*?)```", ALL, re.DOTALL):
        name = re.search(r"<!-- ([\w ]+) -->$", before)
        if not code.startswith(">>> "):
            assert name, f"no name before:\n{code}"
            assert f'"{name[1]}"' in source or f"<!-- {name[1]} -->" in source, name[1]


# Output of explain


@pytest.mark.parametrize("name", ["figure", "explained frame"])
def test_figure_is_the_output_of_explain(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (path for path, text in DOCUMENTS.items() if f"<!-- {name} -->" in text)
    before = DOCUMENTS[path].partition(f"<!-- {name} -->")[0]
    arguments = before.rpartition("python3 -m wsproto_min ")[2].split()
    assert main(arguments) == 0
    assert block(name, "") in capsys.readouterr().out


def test_trace_lines_are_those_of_the_frame_trace(caplog: pytest.LogCaptureFixture) -> None:
    found = section(LEARN, "## Debugging")
    shown = re.findall(r"^    (\S+ (?:client|server): .*)$", found, re.MULTILINE)
    request = upgrade_request("server.example.com", "/chat", "dGhlIHNhbXBsZSBub25jZQ==")
    response = accept(parse_request(request.removesuffix(b"\r\n\r\n"))).response.encode()
    hello = encode_frame(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d"))
    trace = FrameTrace("192.0.2.1:5000")
    with caplog.at_level("DEBUG", "wsproto_min"):
        for sender, data in (
            (Role.CLIENT, request),
            (Role.SERVER, response),
            (Role.CLIENT, hello),
        ):
            trace(sender, data)
    assert caplog.messages == shown


@pytest.mark.parametrize(
    ("scheme", "sentence"), [("wss", "For `wss` these variables"), ("ws", "For `ws` they are")]
)
def test_proxy_variables_count_in_the_order_of_the_text(
    scheme: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    text = PROSE[LEARN].partition(sentence)[2].partition(".\n")[0].partition(". ")[0]
    names = [name for name in code_in(text) if name.endswith("_proxy")]
    assert len(names) == len(set(names)) >= 4
    for name in names:
        monkeypatch.setenv(
            name, f"{'socks5' if name[:5] == 'socks' else 'http'}://{name[:3]}.example"
        )
    url = parse_url(f"{scheme}://a.example/")
    for name in names:
        proxy = find_proxy(url, True)
        assert proxy, name
        assert proxy.host == f"{name[:3]}.example", name
        monkeypatch.delenv(name)
    assert find_proxy(url, True) is None


# Commands


def test_readme_has_at_most_150_lines() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 150


def test_readme_has_the_two_setup_commands() -> None:
    commands = re.findall(
        r"^    (python3 -m (?:chatd|venv .*))$", DOCUMENTS["README.md"], re.MULTILINE
    )
    assert [command.split()[2] for command in commands] == ["chatd", "venv"]
    # `.ci/run` takes the first line with this beginning.
    (first, *_) = re.findall(r"python3 -m venv .*", DOCUMENTS["README.md"])
    assert first == commands[1]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_command_names_existing_modules(path: str, command: str) -> None:
    for module in re.findall(r"(?:python3?|python) -m (\S+)", command):
        if module not in ("venv", "pytest", "wsproto_min.examples.NAME"):
            assert importlib.util.find_spec(module), command


@pytest.mark.parametrize(
    "command", [command for _, command in COMMANDS if "wsproto_min explain" in command]
)
def test_explain_command_runs(command: str) -> None:
    done = subprocess.run(
        command.replace("python3", shlex.quote(sys.executable)),
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_suite_commands_name_modules_and_paths() -> None:
    for name, command, *_ in table(TEST, "suites"):
        (text,) = code_in(command)
        for word in shlex.split(text):
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), name
            elif word.startswith("tests."):
                assert importlib.util.find_spec(word), name


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = re.findall(r"'\.\[([a-z,]+)\]'", ALL)
    named += [
        name for row in table(TEST, "suites") for name in re.findall(r"extras? `(.*?)`", row[2])
    ]
    for names in named:
        assert set(names.split(",")) <= set(extras), names


# Names


def test_tests_that_are_named_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", ALL):
        assert f"def {name}(" in sources, name
    deselected = (ROOT / "pyproject.toml").read_text()
    for path, name in re.findall(r"--deselect=(\S+)::(\w+)", deselected):
        assert f"def {name}(" in (ROOT / path).read_text(), name


def test_paths_that_are_named_exist() -> None:
    for path, text in PROSE.items():
        for name in re.findall(r"`((?:tests|chatd|wsproto_min|\.ci|\.github)/[\w./*-]*)`", text):
            if name != "chatd/chat.db":  # in the user's state directory
                assert any(ROOT.glob(name.rstrip("/"))), f"{path}: {name}"
        for name in re.findall(r"`(test_\w+\.py)`", text):
            assert any((ROOT / "tests").rglob(name)), f"{path}: {name}"


def slugs(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", PATHS)
def test_links_lead_to_files_and_headings(path: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[path]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / path).parent / file).resolve() if file else ROOT / path
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(
                re.sub(r"^```.*?^```", "", target.read_text(), flags=re.S | re.M)
            )


@pytest.mark.parametrize(
    ("path", "title"),
    [(LEARN, "### The path of a received byte"), (RUN, "## The path of one message")],
)
def test_functions_on_the_path_exist(path: str, title: str) -> None:
    names = re.findall(r"`([A-Za-z]\w+\.\w+|[a-z]+_[a-z_]+)`", section(path, title))
    assert len(names) > 5
    for name in set(names) - {"on_message"}:
        assert exists(name), name


def test_path_of_a_received_byte_has_six_sentences() -> None:
    text = section(LEARN, "### The path of a received byte")
    steps = re.findall(r"^\d\. (.*?)(?=^\d\. |\n\n)", text, re.MULTILINE | re.DOTALL)
    assert len(steps) == 6
    assert all(step.count(". ") == 0 for step in steps)


# Claims


def pythons_of_ci() -> list[str]:
    """Return the versions that `.ci/run` tests on: the workflow's, then those of `.ci/pythons`."""
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    script = (ROOT / ".ci/run").read_text()
    others = re.search(r"^.*\.ci/pythons((?: \w+:3\.\d+)+)", script, re.MULTILINE)
    assert others is not None
    return re.findall(r"image: python:(3\.\d+)", workflow) + re.findall(r":(\S+)", others[1])


def test_facts_line_is_true() -> None:
    *versions, newest = pythons_of_ci()
    facts = "517 of 517 Autobahn cases in both roles · no dependencies · typed"
    tested = f"tested on Python {', '.join(versions)} and {newest}"
    assert f"\n{facts} · {tested}\n" in DOCUMENTS["README.md"]
    expected = json.loads((ROOT / "tests/conformance/expected.json").read_text())
    assert len(expected) == 517
    assert list(expected.values()).count("INFORMATIONAL") == 3
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    assert project["requires-python"] == f">={versions[0]}"
    assert (ROOT / "wsproto_min/py.typed").exists()


def test_workflow_calls_the_ci_script() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "run: bash .ci/run\n" in workflow
    assert "options: --privileged " in workflow  # for the mounts of .ci/pythons
