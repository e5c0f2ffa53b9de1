"""The command `tap`, in this process and as a process."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.in_process import Lines, handlers_restored, run_until_signal
from tests.support import (
    PATIENCE,
    Client,
    Daemon,
    daemon,
    exchange,
    make_certificate,
    poll,
    serving,
)
from tests.tap.tapping import url_of
from tests.tap.test_recording import explained
from wsproto_min.__main__ import main
from wsproto_min.explain.style import plain
from wsproto_min.net.client import connect
from wsproto_min.tap import cli, recording
from wsproto_min.tap.options import UsageError, create, listening
from wsproto_min.tap.recording import Recording

Output = pytest.CaptureFixture[str]
SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def run_tap(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    use: Callable[[tuple[str, int]], None],
    number: signal.Signals = signal.SIGTERM,
) -> int:
    """Call `main`, call `use` with the tap's address, then send a signal; return the status."""
    # The standard output of `run_until_signal` is no terminal and has no isatty().
    monkeypatch.setattr(cli, "output_style", lambda: plain)
    port = free_port()
    full = ["tap", *arguments, "--listen", f"{port}"]
    return run_until_signal(
        monkeypatch, lambda: main(full), number, lambda _: use(("127.0.0.1", port))
    )


def printed() -> str:
    """Return the lines that the program has printed, after its first one."""
    assert isinstance(sys.stdout, Lines)
    lines = sys.stdout.lines
    found = ""
    while not lines.empty():
        found += lines.get() + "\n"
    return found


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def echo(address: tuple[str, int]) -> None:
    """Send a message through the tap, and close."""
    with Client(address) as client:
        client.send("Hello")
        assert client.receive() == "Hello"
        client.close()
        client.receive_all()


@SIGNALS
def test_signal_ends_the_tap_with_status_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "tap.pcap"
    with serving() as server:

        def use(address: tuple[str, int]) -> None:
            with Client(address) as client:
                client.send("open until the signal")
                assert client.receive() == "open until the signal"

        arguments = [url_of(server.address), "--save", str(path)]
        assert run_tap(monkeypatch, arguments, use, number) == 0
        assert "Frame 2: TEXT, server to client" in printed()
    (verdict,) = explained(path.read_bytes())
    assert verdict.reason == "2 heads, 2 frames, 2 messages"


def test_web_option_serves_the_page_and_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    web_port = free_port()

    def use(address: tuple[str, int]) -> None:
        assert f"page at http://127.0.0.1:{web_port}/\n" in printed()
        page = exchange(("127.0.0.1", web_port), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"<!doctype html>" in page
        with connect(f"ws://127.0.0.1:{web_port}/events") as events:
            assert f'"address": "http://127.0.0.1:{address[1]}/"' in str(events.recv(PATIENCE))
            exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert '"type": "http"' in str(events.recv(PATIENCE))

    with serving() as server:
        arguments = [url_of(server.address), "--web", f"{web_port}"]
        assert run_tap(monkeypatch, arguments, use) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["http://h/"], "URL: 'http://h/' is not ws://HOST/PATH or wss://HOST/PATH\n"),
        (["ws:///x"], "URL: 'ws:///x' is not ws://HOST/PATH or wss://HOST/PATH\n"),
        (["ws://[h/"], "URL: Invalid IPv6 URL"),
        (["ws://ada:secret@h/"], "URL: has a user name or password; remove both, because the tap"),
        (["ws://h/", "--insecure"], "--insecure: needs a wss:// URL"),
        (["ws://h/", "--ca", "x.pem"], "--ca: needs a wss:// URL"),
        (["ws+unix:/tmp/s:/"], "URL: 'ws+unix:/tmp/s:/' is not ws://HOST/PATH or wss://HOST/PATH"),
        (["ws://h/#x"], "URL: 'ws://h/#x' has a fragment; "),
        (["wss://h/", "--ca", "/missing.pem"], "cannot use /missing.pem: No such file"),
        (["ws://h/", "--listen", "0", "--save", "/missing/x"], "cannot write /missing/x: No such"),
    ],
)
def test_unusable_option_is_a_usage_error(
    arguments: list[str], reason: str, capsys: Output
) -> None:
    assert main(["tap", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"wsproto_min: {reason}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ws://h/", "--listen", "65536"], "'65536' is not a port from 0 to 65535"),
        (["--web", "ws://h/"], "'ws://h/' is not a port; write the URL before --web"),
        (["wss://h/", "--ca", "x", "--insecure"], "not allowed with argument --ca"),
        ([], "URL"),
    ],
)
def test_invalid_option_is_refused_by_argparse(
    arguments: list[str], reason: str, capsys: Output
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tap", *arguments])
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--listen", "--web"])
def test_port_in_use_is_a_usage_error(option: str, capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert main(["tap", "ws://h/", "--listen", "0", option, f"{port}"]) == 2
    errors = capsys.readouterr().err
    assert errors == (
        f"wsproto_min: cannot listen on 127.0.0.1:{port}: Address already in use;"
        f" select another port with {option}\n"
    )


def test_listen_error_without_a_number_keeps_its_text() -> None:
    def listen(port: int) -> int:
        raise OSError("no network")

    with pytest.raises(
        UsageError, match=r"127\.0\.0\.1:1: no network; select another port with --web"
    ):
        listening(listen, 1, "--web")


def test_save_overwrites_a_recording_but_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "tap.pcap"
    for _ in range(2):  # the second one overwrites the first one
        with create(str(path)) as file:
            assert path.stat().st_size == 0
            Recording(file, lambda error: None)
    path.write_bytes(b"notes")
    with pytest.raises(
        UsageError, match=r"tap\.pcap exists and is not a recording of the tap; use"
    ):
        create(str(path))
    assert path.read_bytes() == b"notes"


def test_large_recording_has_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    monkeypatch.setattr(recording, "MAX_CAPTURE_SIZE", 100)
    path = tmp_path / "tap.pcap"
    with serving() as server:
        assert run_tap(monkeypatch, [url_of(server.address), "--save", str(path)], echo) == 0
    assert capsys.readouterr().err == (
        f"wsproto_min: warning: {path} is larger than 32 MiB, so explain --file refuses it;"
        " start a new recording for explain\n"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tap_in_front_of_itself_is_a_usage_error(host: str, capsys: Output) -> None:
    port = free_port()
    assert main(["tap", f"ws://{host}:{port}/", "--listen", f"{port}"]) == 2
    assert "the tap has this address" in capsys.readouterr().err


def test_insecure_option_accepts_any_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(make_certificate(tmp_path))
    with serving(ssl_context=context) as server:
        url = url_of(server.address, "wss")
        assert run_tap(monkeypatch, [url, "--insecure", "--brief"], echo) == 0
        assert "1 >     'Hello'\n" in printed()
    assert "warning: --insecure accepts any certificate" in capsys.readouterr().err


def test_ca_option_trusts_the_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(ssl_context=context) as server:
        url = url_of(server.address, "wss")
        assert run_tap(monkeypatch, [url, "--ca", str(certificate)], echo) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_ends_the_recording_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with serving() as server:
        arguments = [url_of(server.address), "--save", "/dev/full"]
        assert run_tap(monkeypatch, arguments, echo) == 1
    assert capsys.readouterr().err == (
        "wsproto_min: cannot write /dev/full: No space left on device; the recording ends here\n"
    )


class FailingOutput:
    """A standard output that takes the addresses of the tap and then fails."""

    def __init__(self, descriptor: int, error: OSError) -> None:
        self._descriptor = descriptor
        self._error = error

    def write(self, text: str) -> int:
        if text.startswith("connection"):
            raise self._error
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._descriptor


@pytest.mark.parametrize(
    ("error", "status"),
    [(BrokenPipeError(32, "Broken pipe"), 141), (OSError(28, "No space left on device"), 2)],
    ids=["broken pipe", "full"],
)
def test_failing_output_ends_the_tap(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, error: OSError, status: int
) -> None:
    port = free_port()

    def use() -> None:
        poll(lambda: is_listening(port), "the tap listens")
        exchange(("127.0.0.1", port), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    thread = threading.Thread(target=use, daemon=True)
    with serving() as server, handlers_restored(), open(os.devnull, "w") as null:
        monkeypatch.setattr(sys, "stdout", FailingOutput(null.fileno(), error))
        thread.start()
        assert main(["tap", url_of(server.address), "--listen", f"{port}"]) == status
    thread.join(PATIENCE)
    assert ("standard output: No space left" in capsys.readouterr().err) == (status == 2)


# As a process


def read_until(tap: Daemon, text: str) -> str:
    """Return the output of the tap up to `text`."""
    assert tap.process.stdout is not None
    output = ""
    while text not in output:
        ready, _, _ = select.select([tap.process.stdout], [], [], PATIENCE)
        data = os.read(tap.process.stdout.fileno(), 1 << 16) if ready else b""
        assert data, f"{text!r} is not in the output:\n{output}"
        output += data.decode()
    return output


def test_process_prints_the_conversation_without_colours() -> None:
    with (
        serving() as server,
        daemon("wsproto_min", "tap", url_of(server.address), "--listen", "0") as tap,
    ):
        host, port = tap.address
        assert tap.line == f"tap at http://{host}:{port}/ for {url_of(server.address)}\n"
        echo(tap.address)
        output = read_until(tap, "connection 1 ended\nVALID: 2 heads, 4 frames, 2 messages.\n")
        assert "\x1b" not in output
        assert tap.end(signal.SIGINT) == (0, "")


def test_unreachable_upstream_has_a_line_on_standard_error() -> None:
    url = f"ws://127.0.0.1:{free_port()}/"
    with daemon("wsproto_min", "tap", url, "--listen", "0") as tap:
        response = exchange(tap.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 502 ")
        status, errors = tap.end()
    assert status == 0
    assert errors.startswith(f"wsproto_min: connection 1: cannot connect to {url}: ")
    assert errors.count("\n") == 1


def test_closed_pipe_ends_the_process_with_status_141() -> None:
    with (
        serving() as server,
        daemon("wsproto_min", "tap", url_of(server.address), "--listen", "0") as tap,
    ):
        assert tap.process.stdout is not None
        tap.process.stdout.close()
        exchange(tap.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert tap.process.wait(PATIENCE) == 141
        assert tap.process.stderr is not None
        assert tap.process.stderr.read() == b""


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs F_SETPIPE_SZ")
@SIGNALS
def test_unread_output_stops_neither_traffic_nor_a_signal(number: signal.Signals) -> None:
    with (
        serving() as server,
        daemon("wsproto_min", "tap", url_of(server.address), "--listen", "0") as tap,
    ):
        assert tap.process.stdout is not None
        fcntl.fcntl(tap.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        with Client(tap.address) as client:
            for _ in range(1200):
                client.send("x" * 500)
                assert client.receive() == "x" * 500
            client.close()
            client.receive_all()
        tap.process.send_signal(number)
        assert tap.process.wait(PATIENCE) == 0
        assert tap.process.stderr is not None
        assert tap.process.stderr.read() == b""


def test_output_that_is_read_late_counts_the_missing_events() -> None:
    with (
        serving() as server,
        daemon("wsproto_min", "tap", url_of(server.address), "--listen", "0", "--brief") as tap,
    ):
        with Client(tap.address) as client:
            for _ in range(1200):
                client.send("x" * 500)
                assert client.receive() == "x" * 500
        read_until(tap, " not shown, because the output is read too slowly\n")
        echo(tap.address)
        read_until(tap, "connection 2 ended\n")
        assert tap.end() == (0, "")


class StuckOutput:
    """A standard output whose reader stops reading after the first lines."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def write(self, text: str) -> int:
        if text.startswith("connection"):
            self.released.wait(PATIENCE)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_stuck_output_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "OUTPUT_GRACE", 0.05)
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    output = StuckOutput()

    def stick(address: tuple[str, int]) -> None:
        monkeypatch.setattr(sys, "stdout", output)
        echo(address)

    with serving() as server:
        assert run_tap(monkeypatch, [url_of(server.address)], stick) == 0
        output.released.set()
        for thread in threading.enumerate():
            if thread.name == "tap output":
                thread.join(PATIENCE)
    assert statuses == [0]


def test_chat_page_and_its_websocket_pass() -> None:
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:") as chat,
        daemon("wsproto_min", "tap", url_of(chat.address), "--listen", "0", "--brief") as tap,
    ):
        host, port = tap.address
        page = exchange(tap.address, f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert page.startswith(b"HTTP/1.1 200 OK\r\n")
        assert page.endswith(b"</html>\n")
        origin = f"http://{host}:{port}"
        with connect(f"ws://{host}:{port}/", origin=origin, subprotocols=["chat.v1"]) as client:
            client.send('{"type": "join", "room": "lobby", "name": "Ada"}')
            assert "Ada" in str(client.recv(PATIENCE))
        output = read_until(tap, "connection 2 ended\n")
        assert output.startswith("connection 1: GET /: 200\nconnection 2: 127.0.0.1:")
        assert tap.stop() == (0, "")


def test_tap_that_is_killed_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "tap.pcap"
    with serving() as server:
        options = ("--listen", "0", "--brief", "--save", str(path))
        with (
            daemon("wsproto_min", "tap", url_of(server.address), *options) as tap,
            Client(tap.address) as client,
        ):
            client.send("one")
            assert client.receive() == "one"
            read_until(tap, "1 < TEXT")
            tap.process.kill()
            tap.process.wait(PATIENCE)
    (verdict,) = explained(path.read_bytes())
    assert verdict.reason == "2 heads, 2 frames, 2 messages"


def test_large_message_costs_the_process_little_memory() -> None:
    """Memory holds one message of 32 MiB, while it is explained, in a few copies."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    with serving(max_message_size=1 << 26, write_buffer_limit=1 << 26) as server:
        options = ("--listen", "0", "--brief")
        with daemon("wsproto_min", "tap", url_of(server.address), *options) as tap:
            with Client(tap.address) as client:
                client.send(bytes(32 << 20))
                message = client.receive()
                assert isinstance(message, bytes)
                assert len(message) == 32 << 20
            read_until(tap, "connection 1 ended\n")
            status = Path(f"/proc/{tap.process.pid}/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    assert peak < 320, f"{peak} MiB"


def test_help_names_all_options(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["tap", "--help"])
    text = capsys.readouterr().out
    for option in ("--listen", "--brief", "--web", "--save", "--ca", "--insecure"):
        assert option in text
