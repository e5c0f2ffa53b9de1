"""The command line `python -m wsproto_min`, in this process and in one of its own."""

from __future__ import annotations

import os
import re
import runpy
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import pytest

from tests.support import PATIENCE, ROOT, Client, command, daemon, make_certificate, serving
from wsproto_min.__main__ import main
from wsproto_min.connection import Close
from wsproto_min.errors import ConnectionClosed
from wsproto_min.handshake import accept
from wsproto_min.http import Request, Response
from wsproto_min.net.client import connect
from wsproto_min.net.peer import Peer

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)


class Lines:
    """A standard output whose lines another thread may wait for."""

    def __init__(self) -> None:
        self.lines: Queue[str] = Queue()
        self.line = ""

    def write(self, text: str) -> int:
        *whole, self.line = (self.line + text).split("\n")
        for line in whole:
            self.lines.put(line)
        return len(text)

    def flush(self) -> None:
        pass


@contextmanager
def handlers_restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def run_main(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    number: signal.Signals,
    client: Callable[[tuple[str, int]], None],
) -> int:
    """Call `main`, let `client` have its address, then signal; return the exit status.

    `main` runs in this thread, since only the main one may handle signals.
    """
    output = Lines()
    errors: list[BaseException] = []

    def use_and_stop() -> None:
        try:
            line = output.lines.get(timeout=PATIENCE)
        except Empty:
            return  # and signal nobody: `main` has not got that far
        try:
            host, _, port = line.partition("://")[2].strip("/").rpartition(":")
            client((host.strip("[]"), int(port)))
        except BaseException as error:
            errors.append(error)
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(sys, "stdout", output)
    thread = threading.Thread(target=use_and_stop, daemon=True)
    with handlers_restored():
        thread.start()
        status = main(arguments)
    thread.join(PATIENCE)
    for error in errors:
        raise error
    return status


@SIGNALS
def test_echo_prints_its_address_sends_everything_back_and_ends_at_a_signal(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def use(address: tuple[str, int]) -> None:
        with Client(address) as client:
            for message in ("text", b"binary", "x" * 100_000):
                client.send(message)
                assert client.receive() == message

    assert run_main(monkeypatch, ["echo", "--port", "0"], number, use) == 0


def test_echo_takes_messages_up_to_the_size_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(address: tuple[str, int]) -> None:
        with Client(address) as client:
            client.send("x" * 1000)
            assert client.receive() == "x" * 1000
            client.send("x" * 1001)
            close = client.receive()
            assert isinstance(close, Close)
            assert close.code == 1009
            with pytest.raises(ConnectionClosed):
                client.send("one more")

    arguments = ["echo", "--port", "0", "--max-message-size", "1000"]
    assert run_main(monkeypatch, arguments, signal.SIGTERM, use) == 0


def test_a_taken_port_is_told_in_one_line_and_by_exit_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving() as running:
        port = running.address[1]
        status = main(["echo", "--port", str(port)])
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert errors.startswith(f"wsproto_min: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["echo", "--host", "256.1.1.1"],
        ["echo", "--host", "a..b"],
        ["echo", "--port", "65536"],
        ["echo", "--port", "-1"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_listened_on_is_told_in_one_line(arguments: list[str]) -> None:
    result = subprocess.run(
        command("wsproto_min", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("wsproto_min: cannot listen on "), result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["sing"], "sing"),
        (["echo", "--port", "http"], "http"),
        (["echo", "--loudly"], "--loudly"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_status_2_and_names_what_is_wrong(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_the_module_can_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wsproto_min", "echo", "--help"])
    monkeypatch.delitem(sys.modules, "wsproto_min.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("wsproto_min", run_name="__main__")
    assert caught.value.code == 0
    assert "--max-message-size" in capsys.readouterr().out


@SIGNALS
def test_as_a_process_it_serves_until_a_signal_and_leaves_nothing_on_standard_error(
    number: signal.Signals,
) -> None:
    with daemon("wsproto_min", "echo", "--port", "0") as echo:
        assert echo.line == f"echo server at ws://127.0.0.1:{echo.address[1]}/\n"
        with Client(echo.address) as client:
            client.send("hello")
            assert client.receive() == "hello"
            echo.process.send_signal(number)
            assert client.receive_all() == [Close(1001, "the server is stopping")]
            output, errors = echo.process.communicate(timeout=PATIENCE)
    assert (echo.process.returncode, output, errors) == (0, b"", b"")


def test_help_tells_of_the_commands() -> None:
    result = subprocess.run(
        command("wsproto_min", "--help"), cwd=ROOT, capture_output=True, timeout=PATIENCE
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"echo" in result.stdout


# echo over TLS


def test_echo_speaks_tls_with_the_certificate_it_is_told(tmp_path: Path) -> None:
    certificate = str(make_certificate(tmp_path))
    with daemon("wsproto_min", "echo", "--port", "0", "--tls-cert", certificate) as echo:
        url = f"wss://127.0.0.1:{echo.address[1]}/"
        assert echo.line == f"echo server at {url}\n"
        trusting = talk(url, "--ca", certificate, typed="Hello\n")
        assert (trusting.returncode, trusting.stdout) == (0, "Hello\n"), trusting.stderr
        wary = talk(url, typed="Hello\n")
        assert (wary.returncode, wary.stdout) == (1, "")
        assert wary.stderr.startswith(f"wsproto_min: cannot connect to {url}: ")
        assert "certificate verify failed" in wary.stderr
        assert wary.stderr.count("\n") == 1
        assert echo.stop() == (0, "")


def test_echo_in_this_process_takes_a_certificate_and_its_key_from_two_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)

    def use(address: tuple[str, int]) -> None:
        trust = ssl.create_default_context(cafile=certificate)
        with connect(f"wss://127.0.0.1:{address[1]}/", ssl_context=trust) as client:
            client.send("x")
            assert client.recv(timeout=PATIENCE) == "x"

    files = [
        "--tls-cert",
        str(tmp_path / "certificate.pem"),
        "--tls-key",
        str(tmp_path / "key.pem"),
    ]
    assert run_main(monkeypatch, ["echo", "--port", "0", *files], signal.SIGTERM, use) == 0


@pytest.mark.parametrize("exists", [False, True])
def test_a_certificate_that_is_missing_or_none_is_told_in_one_line(
    exists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.pem"
    if exists:
        path.write_text("no certificate")
    assert main(["echo", "--port", "0", "--tls-cert", str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"wsproto_min: cannot use {path}: ")
    assert errors.count("\n") == 1


# connect


def talk(url: str, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the interactive client as a process, with all input typed ahead."""
    return subprocess.run(
        command("wsproto_min", "connect", url, *options),
        cwd=ROOT,
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with daemon("wsproto_min", "echo", "--port", "0") as running:
        yield f"ws://127.0.0.1:{running.address[1]}/"


@pytest.mark.parametrize("options", [[], ["--no-compression"], ["--origin", "http://a"]], ids=str)
def test_lines_go_out_and_come_back_and_the_end_of_input_ends_it(
    echo: str, options: list[str]
) -> None:
    typed = "one\n" + "x" * 100_000 + "\nthe last, without an end"
    result = talk(echo, *options, typed=typed)
    assert result.stdout == f"{typed}\n"
    assert (result.returncode, result.stderr) == (0, "closed: 1000\n")


def test_a_conversation_goes_line_by_line_while_the_input_is_open(echo: str) -> None:
    process = subprocess.Popen(
        command("wsproto_min", "connect", echo),
        cwd=ROOT,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in (b"one\n", b"two\n"):
                process.stdin.write(line)
                assert select.select([process.stdout], [], [], PATIENCE)[0], "no answer"
                assert process.stdout.readline() == line
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, b"", b"closed: 1000\n")


def test_the_trace_explains_every_frame_both_ways(echo: str) -> None:
    result = talk(echo, "--trace", typed="Hello\n")
    assert (result.returncode, result.stderr) == (0, "closed: 1000\n")
    # echo compresses from the first byte, the client only what is worth it. The
    # end of input may be seen before or after the answer.
    heads = re.findall("^([<>] [A-Z]+, .*):", result.stdout, re.MULTILINE)
    assert [head for head in heads if head[0] == ">"] == [
        "> TEXT, 11 bytes",
        "> CLOSE, 8 bytes",
    ]
    assert [head for head in heads if head[0] == "<"] == [
        "< TEXT, 9 bytes",
        "< CLOSE, 4 bytes",
    ]
    assert result.stdout.startswith("> handshake request, ")
    assert "\n< handshake response, " in result.stdout
    assert "\n>     'Hello'\n" in result.stdout
    assert ", inflated from 7 (RFC 7692, 7.2.2)\n<     'Hello'\n" in result.stdout
    assert "\nHello\n" in result.stdout


def test_a_server_that_cannot_be_reached_is_told_in_one_line_and_by_exit_status_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        result = talk(url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"wsproto_min: cannot connect to {url}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://a/", "is not ws://HOST/PATH"), ("ws://h/#x", "fragment"), ("ws+unix:/", "")],
)
def test_a_url_that_leads_nowhere_is_told_in_one_line_and_by_exit_status_1(
    url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connect", url]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"wsproto_min: cannot connect to {url}: ")
    assert reason in errors
    assert errors.count("\n") == 1


def test_a_refusal_is_told_without_what_could_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        return Response(403, body=b"go \x1b[31maway\nat once\n")

    with serving(on_request=on_request) as running:
        host, port = running.address
        assert main(["connect", f"ws://{host}:{port}/"]) == 1
    assert capsys.readouterr().err == (
        f"wsproto_min: cannot connect to ws://{host}:{port}/: "
        "the server answered 403: go \\x1b[31maway\n"
    )


def test_connect_in_this_process_offers_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests: list[Request] = []

    def on_request(peer: Peer, request: Request) -> Response:
        requests.append(request)
        return accept(request, subprotocols=["b"])

    options = ["--subprotocol", "a", "--subprotocol", "b", "--origin", "http://x", "--trace"]
    with serving(on_request=on_request) as running, open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        url = f"ws://{running.address[0]}:{running.address[1]}/"
        assert main(["connect", url, "--no-compression", *options]) == 0
    headers = requests[0].headers
    assert headers.tokens("Sec-WebSocket-Protocol") == ["a", "b"]
    assert headers.get("Origin") == "http://x"
    assert headers.get("Sec-WebSocket-Extensions") is None
    assert "> CLOSE, 8 bytes" in capsys.readouterr().out


def test_an_interrupt_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsproto_min.__main__.connect", interrupted)
    assert main(["connect", "ws://127.0.0.1:1/"]) == 128 + signal.SIGINT
