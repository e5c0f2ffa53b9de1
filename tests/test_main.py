"""The command line `python -m wsproto_min`, in this process and in one of its own."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue

import pytest

from tests.support import PATIENCE, ROOT, Client, command, daemon, serving
from wsproto_min.__main__ import main
from wsproto_min.connection import Close
from wsproto_min.errors import ConnectionClosed

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
            host, _, port = line.partition("ws://")[2].strip("/").rpartition(":")
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
