"""Tests of the programs in `wsproto_min/examples`: each runs against real clients."""

from __future__ import annotations

import io
import json
import logging
import random
import re
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.in_process import run_until_signal
from tests.net.tunnels import tunnels
from tests.support import PATIENCE, exchange, reset, serving
from tests.support import connect as connect_tcp
from wsproto_min import (
    Client,
    ConnectionClosed,
    HandshakeError,
    Peer,
    Request,
    Response,
    Server,
    accept,
    connect,
)
from wsproto_min.server_handshake import Acceptance

Address = tuple[str, int]
ECHO_SERVERS = pytest.mark.parametrize("name", ["asyncio_echo", "threads_echo"])
PACKAGE = Path(__file__).parent.parent / "wsproto_min"


def run_example(name: str) -> None:
    runpy.run_module(f"wsproto_min.examples.{name}", run_name="__main__")


def run_server(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    client: Callable[[Address], None],
    *arguments: str,
) -> None:
    """Run an example server on a free port until `client` has returned."""
    monkeypatch.setattr(sys, "argv", [name, *arguments, "0"])
    run_until_signal(monkeypatch, lambda: run_example(name), signal.SIGINT, client)


def url(address: Address) -> str:
    return f"ws://{address[0]}:{address[1]}/"


# Broadcast


def test_broadcast_sends_messages_to_all_other_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(address: Address) -> None:
        with connect(url(address)) as ann, connect(url(address)) as bob:
            with connect(url(address)) as eve:
                eve.ping()
            ann.send("text")
            assert bob.recv(PATIENCE) == "text"
            bob.send(b"binary")
            assert ann.recv(PATIENCE) == b"binary"
            bob.ping(PATIENCE)
            with pytest.raises(TimeoutError):
                bob.recv(timeout=0)  # the sender gets no copy

    run_server(monkeypatch, "broadcast", use)


# JSON-RPC

REQUESTS: list[tuple[str | bytes, object, object]] = [
    ('{"jsonrpc": "2.0", "id": 1, "method": "divide", "params": [6, 2]}', 1, 3.0),
    ('{"jsonrpc": "2.0", "id": "a", "method": "add", "params": [2, 3]}', "a", 5),
    (b'{"jsonrpc": "2.0", "id": null, "method": "add", "params": [2, 3]}', None, 5),
    ('{"jsonrpc": "2.0", "id": 1, "method": "run", "params": []}', 1, {"code": -32601}),
    ('{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1]}', 1, {"code": -32602}),
    ('{"jsonrpc": "2.0", "id": 1, "method": "divide", "params": [1, 0]}', 1, {"code": -32603}),
    ('{"jsonrpc": "2.0", "id": 1, "method": 5, "params": []}', None, {"code": -32600}),
    ('{"jsonrpc": "1.0", "id": 1, "method": "add", "params": [1, 2]}', None, {"code": -32600}),
    ("[]", None, {"code": -32600}),
    ("{", None, {"code": -32700}),
    (b"\xff", None, {"code": -32700}),
    ("[" * 100_000, None, {"code": -32700}),
]


def test_json_rpc_answers_requests_but_not_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPC_TOKEN", "secret")

    def use(address: Address) -> None:
        with connect(url(address), headers=[("Authorization", "Bearer secret")]) as client:
            client.send('{"jsonrpc": "2.0", "method": "add", "params": [1, 2]}')
            for request, identifier, expected in REQUESTS:
                client.send(request)
                response = json.loads(client.recv(PATIENCE))
                assert (response["jsonrpc"], response["id"]) == ("2.0", identifier), request
                if isinstance(expected, dict):
                    assert response["error"]["code"] == expected["code"], request
                else:
                    assert response["result"] == expected, request

    run_server(monkeypatch, "json_rpc", use)


@pytest.mark.parametrize("value", [None, "secret", "Bearer", "Bearer wrong", "Basic secret"])
def test_json_rpc_refuses_clients_without_the_token(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPC_TOKEN", "secret")

    def use(address: Address) -> None:
        with pytest.raises(HandshakeError) as raised:
            connect(url(address), headers=[] if value is None else [("Authorization", value)])
        assert raised.value.status == 401
        assert ("www-authenticate", "Bearer") in raised.value.headers

    run_server(monkeypatch, "json_rpc", use)


# Reconnecting client


class FlakyServer:
    """Server that closes some connections without a Close frame and refuses some."""

    def __init__(self, aborts: set[str], refusals: list[int]) -> None:
        self.received: list[str | bytes] = []
        self._aborts = aborts  # texts; the first arrival of each ends the connection
        self._refusals = refusals  # statuses of the next handshakes
        self.server = Server(on_message=self._on_message, on_request=self._on_request)

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        self.received.append(message)
        if message in self._aborts:
            self._aborts.discard(str(message))
            peer.abort()
        else:
            peer.send(f"echo of {message!r}")

    def _on_request(self, peer: Peer, request: Request) -> Response | Acceptance:
        return Response(self._refusals.pop()) if self._refusals else accept(request)


def deliver(
    monkeypatch: pytest.MonkeyPatch, address: Address, lines: list[str], limits: list[float]
) -> None:
    """Run the reconnecting client without delays; append their upper limits to `limits`."""

    def uniform(low: float, high: float) -> float:
        limits.append(high)
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setattr(sys, "argv", ["reconnecting_client", url(address)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    run_example("reconnecting_client")


def test_reconnecting_client_delivers_all_lines_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"line {number}" for number in range(8)]
    flaky = FlakyServer({"line 0", "line 4", "line 5"}, [])
    limits: list[float] = []
    with serving(server=flaky.server) as running:
        deliver(monkeypatch, running.address, lines, limits)
        running.wait_for_peers(0)
    repeated = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 7]
    assert flaky.received == [f"line {number}" for number in repeated]
    assert limits == [0.1, 0.2, 0.4]
    assert capsys.readouterr().out == "".join(f"echo of {line!r}\n" for line in lines)


def test_reconnecting_client_retries_with_growing_delays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flaky = FlakyServer(set(), [503] * 10)
    limits: list[float] = []
    with serving(server=flaky.server) as running:
        deliver(monkeypatch, running.address, ["line"], limits)
    assert flaky.received == ["line"]
    assert limits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    line = f"{url(running.address)}: the server answered 503; connecting again in 0.0 s"
    assert caplog.messages == [line] * 10


def test_reconnecting_client_retries_if_no_server_listens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but not listening

        def stop_at_third(low: float, high: float) -> float:
            if high > 0.3:
                raise KeyboardInterrupt
            return low

        monkeypatch.setattr(random, "uniform", stop_at_third)
        monkeypatch.setattr(sys, "argv", ["reconnecting_client", url(unused.getsockname())])
        monkeypatch.setattr(sys, "stdin", io.StringIO("line\n"))
        with pytest.raises(KeyboardInterrupt):
            run_example("reconnecting_client")
    assert caplog.text.count("Connection refused; connecting again") == 2


def test_reconnecting_client_gives_up_at_a_refusal_with_4xx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flaky = FlakyServer(set(), [403])
    with serving(server=flaky.server) as running, pytest.raises(HandshakeError, match="403"):
        deliver(monkeypatch, running.address, ["line"], [])


# Download

CONTENT = random.Random(1).randbytes(300_000)


def build_download_server(path: Path) -> Server:
    example = runpy.run_module("wsproto_min.examples.resuming_download", run_name="example")
    server: Server = example["build_server"](path)
    return server


def download(monkeypatch: pytest.MonkeyPatch, address: Address, copy: Path) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low)  # no delays
    monkeypatch.setattr(sys, "argv", ["resuming_download", url(address), str(copy)])
    run_example("resuming_download")


def test_download_copies_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(CONTENT)

    def use(address: Address) -> None:
        download(monkeypatch, address, copy)
        assert copy.read_bytes() == CONTENT

    run_server(monkeypatch, "resuming_download", use, "serve", str(original))


@pytest.mark.parametrize("present", [0, 100_001])
def test_download_continues_after_each_lost_connection(
    present: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(CONTENT)
    copy.write_bytes(CONTENT[:present])
    opened: list[Address] = []
    with serving(server=build_download_server(original)) as running:

        def begin(sock: socket.socket) -> Address:
            opened.append(running.address)
            return running.address

        with tunnels(begin, limit=100_000) as address:
            download(monkeypatch, address, copy)
    assert copy.read_bytes() == CONTENT
    assert len(opened) >= 3


def test_download_from_another_server_ends_with_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving() as running, pytest.raises(SystemExit, match="sent text; is this a server"):
        download(monkeypatch, running.address, tmp_path / "copy")


@pytest.mark.parametrize("message", [b"0", "", "-1", "1" * 16, "0x1"])
def test_download_server_refuses_other_messages(message: str | bytes, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    with (
        serving(server=build_download_server(original)) as running,
        connect(url(running.address)) as client,
    ):
        client.send(message)
        with pytest.raises(ConnectionClosed, match="1008 send an offset in decimal"):
            client.recv(PATIENCE)


# File echo


@pytest.mark.parametrize("size", [3, 1_000_000])
def test_file_echo_sends_files_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"

    def use(address: Address) -> None:
        source.write_bytes(random.Random(size).randbytes(size))
        arguments = ["file_echo", url(address), str(source), str(copy)]
        monkeypatch.setattr(sys, "argv", arguments)
        run_example("file_echo")
        assert copy.read_bytes() == source.read_bytes()
        with connect(url(address)) as client:
            for text in ("text", "again"):  # comes back as the content of a file
                client.send(text)
                assert client.recv(PATIENCE) == text.encode()

    run_server(monkeypatch, "file_echo", use)


# Servers without `wsproto_min.net`


@ECHO_SERVERS
def test_echo_example_sends_messages_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(address: Address) -> None:
        with connect(url(address)) as client, connect(url(address)) as other:
            other.send("from another client")
            for message in ("text", b"binary", "x" * 300_000, ""):
                client.send(message)
                assert client.recv(PATIENCE) == message
            assert other.recv(PATIENCE) == "from another client"
            client.ping(PATIENCE)
            client.close(1001, "done")
            assert (client.close_code, client.close_reason) == (1001, "")

    run_server(monkeypatch, name, use)


@ECHO_SERVERS
def test_echo_example_answers_invalid_requests_with_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(address: Address) -> None:
        response = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 400 ")
        with connect_tcp(address) as sock:
            sock.sendall(b"GET / HT")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 400 ")

    run_server(monkeypatch, name, use)


@ECHO_SERVERS
def test_echo_example_closes_after_a_violation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(address: Address) -> None:
        with connect(url(address)) as client:
            send_raw(client, bytes.fromhex("83 80 00000000"))
            with pytest.raises(ConnectionClosed) as raised:
                client.recv(PATIENCE)
            assert raised.value.code == 1002

    run_server(monkeypatch, name, use)


@ECHO_SERVERS
def test_echo_example_survives_clients_that_disconnect(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(address: Address) -> None:
        for end in (reset, socket.socket.close):
            client = connect(url(address))
            client.send("x" * 100)
            end(client._socket)
        with connect(url(address)) as client:
            client.send("still here")
            assert client.recv(PATIENCE) == "still here"

    run_server(monkeypatch, name, use)


def send_raw(client: Client, data: bytes) -> None:
    client._socket.sendall(data)


# Documentation


def test_readme_shows_the_asyncio_example_unchanged() -> None:
    example = (PACKAGE / "examples" / "asyncio_echo.py").read_text()
    readme = (PACKAGE / "README.md").read_text() if (PACKAGE / "README.md").exists() else ""
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for block in blocks:
        if "asyncio" in block:
            assert block.strip() in example


def test_asyncio_is_imported_by_one_example_only() -> None:
    pattern = re.compile(r"^\s*(?:import|from) asyncio\b", re.MULTILINE)
    importing = [path.name for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())]
    assert importing == ["asyncio_echo.py"]
