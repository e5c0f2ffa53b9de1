"""Tests of the interactive client and its trace."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import PATIENCE, ROOT, poll, serving
from wsproto_min.connection import Role
from wsproto_min.explain.live_trace import Tracer, print_received, run_interactive
from wsproto_min.net.client import Client, connect
from wsproto_min.net.peer import Peer

Output = pytest.CaptureFixture[str]


class Pipe:
    """A pipe that serves as standard input."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def write(self, data: bytes) -> None:
        os.write(self.writer, data)

    def end(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


@contextmanager
def typed(*data: bytes) -> Iterator[Pipe]:
    """Yield an input that contains `data` and stays open until the block ends."""
    pipe = Pipe()
    for chunk in data:
        pipe.write(chunk)
    try:
        yield pipe
    finally:
        pipe.end()
        os.close(pipe.reader)


def url(address: tuple[str, int]) -> str:
    return f"ws://{address[0]}:{address[1]}/"


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"no end"], ["no end"]),
        ([b"one\n", b"no end"], ["one", "no end"]),
        ([b"\n"], [""]),
        ([], []),
        (["Gr\u00fc\u00dfe\n".encode()], ["Gr\u00fc\u00dfe"]),
        ([b"\xff\n"], ["\ufffd"]),
    ],
)
def test_each_line_is_sent_and_all_replies_are_printed(
    chunks: list[bytes], lines: list[str], capsys: Output
) -> None:
    received: list[str | bytes] = []

    def on_message(peer: Peer, message: str | bytes) -> None:
        received.append(message)
        peer.send(message)

    with serving(on_message) as running, typed(*chunks) as pipe:
        pipe.end()
        assert run_interactive(connect(url(running.address)), pipe.reader) == 0
    output, errors = capsys.readouterr()
    assert received == lines
    assert output == "".join(f"{line}\n" for line in lines)
    assert errors == "closed: 1000\n"


def test_line_read_in_chunks_is_one_message(
    capsys: Output,
) -> None:
    printed: list[str] = []

    def has_printed(lines: str) -> bool:
        printed.append(capsys.readouterr().out)
        return "".join(printed) == lines

    with serving() as running, typed() as pipe:
        client = connect(url(running.address))
        thread = threading.Thread(target=run_interactive, args=(client, pipe.reader), daemon=True)
        thread.start()
        pipe.write(b"on")
        pipe.write(b"e\ntw")
        poll(lambda: has_printed("one\n"), "the first reply is printed")
        pipe.write(b"o\n")
        poll(lambda: has_printed("one\ntwo\n"), "the second reply is printed")
        pipe.end()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_unsolicited_messages_are_printed_without_input(capsys: Output) -> None:
    def send_later(peer: Peer) -> None:
        running.server.call_later(0.02, lambda: peer.send("good morning"))
        running.server.call_later(0.04, peer.close)

    with serving(on_open=send_later) as running, typed() as pipe:
        assert run_interactive(connect(url(running.address)), pipe.reader) == 0
    assert capsys.readouterr().out == "good morning\n"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Gr\u00fc\u00dfe", "Gr\u00fc\u00dfe\n"),
        ("red: \x1b[31m", "red: \\x1b[31m\n"),
        ("two\nlines\r", "two\\nlines\\r\n"),
        ("\u202egnp.exe", "\\u202egnp.exe\n"),
        (b"\x00\xff", "(binary, 2 bytes) 00 ff\n"),
        (b"\x61" * 100, "(binary, 100 bytes) " + " ".join(["61"] * 64) + "\n"),
    ],
)
def test_message_is_printed_escaped_in_one_line(
    message: str | bytes, line: str, capsys: Output
) -> None:
    def on_open(peer: Peer) -> None:
        peer.send(message)
        peer.close(4000, "\x1b]0;bye\x07")

    with serving(on_open=on_open) as running, typed() as pipe:
        assert run_interactive(connect(url(running.address)), pipe.reader) == 0
    output, errors = capsys.readouterr()
    assert output == line
    assert errors == "closed: 4000 \\x1b]0;bye\\x07\n"


def test_violation_by_server_returns_status_1(capsys: Output) -> None:
    with serving(on_open=lambda peer: peer.send("x" * 1001)) as running, typed() as pipe:
        client = connect(url(running.address), max_message_size=1000)
        assert run_interactive(client, pipe.reader) == 1
    assert capsys.readouterr() == (
        "",
        "closed: a message is larger than 1000 bytes (RFC 6455, 7.4.1)\n",
    )


def test_lost_connection_returns_status_1(capsys: Output) -> None:
    with serving(on_message=lambda peer, _: peer.abort()) as running, typed(b"a\n") as pipe:
        assert run_interactive(connect(url(running.address)), pipe.reader) == 1
    assert capsys.readouterr() == ("", "closed: 1006 the server is gone\n")


def test_server_without_close_frame_returns_status_1(capsys: Output) -> None:
    with serving(on_message=lambda peer, _: peer.abort()) as running, typed(b"done\n") as pipe:
        pipe.end()
        assert run_interactive(connect(url(running.address)), pipe.reader) == 1
    assert capsys.readouterr() == ("", "closed: 1006 the server is gone\n")


def test_input_may_be_a_file_or_dev_null(
    capsys: Output, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("input") / "lines"
    path.write_bytes(b"from a file\n")
    for name, expected in ((str(path), "from a file\n"), (os.devnull, "")):
        with serving() as running, open(name, "rb") as file:
            assert run_interactive(connect(url(running.address)), file.fileno()) == 0
        assert capsys.readouterr() == (expected, "closed: 1000\n")


def test_input_that_select_refuses_is_read_by_a_thread(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(10038, "an operation was attempted on something that is not a socket")

    monkeypatch.setattr(select, "select", refuse)
    with serving() as running, typed(b"one\ntwo\nno end") as pipe:
        pipe.end()
        assert run_interactive(connect(url(running.address)), pipe.reader) == 0
    assert capsys.readouterr() == ("one\ntwo\nno end\n", "closed: 1000\n")


def test_interactive_client_works_without_unix() -> None:
    with serving() as running:
        done = subprocess.run(
            [sys.executable, "-m", "tests.without_unix", url(running.address)],
            input="one\ntwo\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=ROOT,
        )
    assert done.stdout.splitlines() == [
        "ws+unix: this system has no Unix sockets; use ws or wss",
        "Unix socket: this system has none; listen on a TCP port",
        "one",
        "two",
    ]
    assert (done.returncode, done.stderr) == (0, "closed: 1000\n")


def test_print_received_does_not_wait(capsys: Output) -> None:
    with serving() as running, connect(url(running.address)) as client:
        print_received(client)
        assert capsys.readouterr().out == ""
        _send_and_wait(client, "Hello")
        print_received(client)
        assert capsys.readouterr().out == "Hello\n"


def _send_and_wait(client: Client, message: str) -> None:
    client.send(message)
    client.ping(timeout=PATIENCE)  # the Pong follows the message


def test_tracer_explains_each_direction_separately(capsys: Output) -> None:
    tracer = Tracer()
    # A masked Text frame without its last byte; a Ping; the last byte; a masked frame from the
    # server.
    tracer(Role.CLIENT, bytes.fromhex("81 82 00000000 68"))
    tracer(Role.SERVER, bytes.fromhex("89 00"))
    tracer(Role.CLIENT, bytes.fromhex("69"))
    tracer(Role.SERVER, bytes.fromhex("81 80"))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "< PING, 2 bytes: FIN=1 RSV=000 MASK=0 length=0",
        "<   89 00",
        "<   Ping",
        "> TEXT, 8 bytes: FIN=1 RSV=000 MASK=1 key=00000000 length=2",
        ">   81 82 00 00 00 00 68 69",
        ">   Message: text, 2 bytes",
        ">     'hi'",
        "< TEXT, 2 bytes: FIN=1 RSV=000 MASK=1 length=0",
        "<   81 80",
        "< BROKEN at byte 3: a server's frame is masked (RFC 6455, 5.1).",
        "<   The rule: A server masks no frame that it sends.",
        "<   The receiver sends a Close with 1002 PROTOCOL_ERROR (7.1.7).",
    ]
