"""Shared parts of the tests with sockets: clients, servers in threads, processes.

Every server and process stops at the end of its `with` block. Nothing waits longer than
`PATIENCE` seconds, so a broken test fails instead of hanging.
"""

from __future__ import annotations

import base64
import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.needs import need
from wsproto_min.client_handshake import ClientHandshake, upgrade_request
from wsproto_min.connection import Connection, Event
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server

PATIENCE = 10.0
ROOT = Path(__file__).parent.parent

Address = tuple[str, int]
T = TypeVar("T")


def poll(condition: Callable[[], object], expectation: str, *, within: float | None = None) -> None:
    """Wait until `condition` holds; fail with `expectation` if it never does."""
    seconds = PATIENCE if within is None else within
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {expectation}"
        select.select([], [], [], 0.002)


def connect(address: Address, *, receive_buffer: int | None = None) -> socket.socket:
    """Return a TCP connection; `receive_buffer` limits the kernel's buffer, in bytes."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.settimeout(PATIENCE)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reset(sock: socket.socket) -> None:
    """End a TCP connection with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock: socket.socket) -> bytes:
    """Return all bytes up to the end of the stream."""
    data = bytearray()
    while received := sock.recv(1 << 16):
        data += received
    return bytes(data)


def exchange(address: Address, request: bytes) -> bytes:
    """Send a plain HTTP request; return the whole response."""
    with connect(address) as sock:
        sock.sendall(request)
        return read_to_end(sock)


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def handshake(target: str = "/") -> bytes:
    """Return a valid opening handshake."""
    return upgrade_request("127.0.0.1", target, new_key())


class Client:
    """A blocking WebSocket client: a socket and the parts of `wsproto_min` without I/O.

    `early` goes out in the same segment as the opening handshake.
    """

    def __init__(
        self,
        address: Address,
        target: str = "/",
        *,
        early: bytes = b"",
        receive_buffer: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = connect(address, receive_buffer=receive_buffer)
        try:
            if ssl_context is not None:
                self.sock = ssl_context.wrap_socket(self.sock, server_hostname="localhost")
            self.connection = self._shake_hands(target, early)
        except BaseException:
            self.sock.close()
            raise

    def _shake_hands(self, target: str, early: bytes) -> Connection:
        handshake = ClientHandshake("127.0.0.1", target, compression=None, max_message_size=1 << 30)
        self.sock.sendall(handshake.data_to_send() + early)
        while (result := handshake.next_result()) is None:
            data = self.sock.recv(1 << 16)
            assert data, "the server ended the stream within its response to the handshake"
            handshake.receive_data(data)
        if result.connection is None:
            assert result.error is not None
            raise result.error
        result.connection.receive_data(result.trailing_data)
        return result.connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def send(self, message: str | bytes) -> None:
        self.connection.send(message)
        self.flush()

    def close(self, code: int = 1000) -> None:
        """Send a Close frame; the socket stays open."""
        self.connection.close(code)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.connection.data_to_send())

    def receive(self) -> Event | None:
        """Return the next event, or None at the end of the stream.

        Answers a Ping or Close frame when it is read, even if the server is gone by then.
        """
        while (event := self.connection.next_event()) is None:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionResetError:
                # The server may reset the connection after both Close frames.
                if self.connection.close_received is None:
                    raise
                return None
            if not data:
                return None
            self.connection.receive_data(data)
        error = self.connection.error
        assert error is None, f"the server broke a rule: {error}"
        with suppress(BrokenPipeError, ConnectionResetError):
            self.flush()
        return event

    def receive_all(self) -> list[Event]:
        """Return every event up to the end of the stream."""
        return list(iter(self.receive, None))


def is_served(address: Address) -> bool:
    """Return True if a new client receives its echo."""
    with Client(address) as client:
        client.send("is it served?")
        return client.receive() == "is it served?"


class RunningServer:
    """A `Server` in a thread; `error` is the exception that ended its `run`, if any."""

    def __init__(self, server: Server, address: Address) -> None:
        self.server = server
        self.address = address
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="server", daemon=True)

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self.error = error

    def ask(self, question: Callable[[], T]) -> T:
        """Call `question` in the server's thread; return its result."""
        results: Queue[T] = Queue()
        self.server.call_soon_threadsafe(lambda: results.put(question()))
        try:
            return results.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"the server's loop is dead or stuck: {self.error!r}") from None

    def wait_for_peers(self, number: int) -> None:
        """Wait until `number` peers have a socket."""
        poll(
            lambda: len(self.ask(lambda: self.server.peers)) == number,
            f"{number} peers have a socket",
        )


def send_back(peer: Peer, message: str | bytes) -> None:
    peer.send(message)


@contextmanager
def serving(
    on_message: Callable[[Peer, str | bytes], None] = send_back,
    *,
    listener: socket.socket | None = None,
    ssl_context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    server: Server | None = None,
    **options: Any,
) -> Iterator[RunningServer]:
    """Run a server in a thread, by default one that echoes."""
    if server is None:
        server = Server(on_message=on_message, **options)
    if listener is None:
        address = server.listen(host, 0, ssl_context)
    else:
        address = listener.getsockname()
        server.listen_on(listener, ssl_context)
    running = RunningServer(server, address)
    running.thread.start()
    try:
        yield running
    finally:
        server.stop(0.1)
        running.thread.join(PATIENCE)
    assert not running.thread.is_alive(), f"the server did not stop within {PATIENCE:g} s"
    if running.error is not None:
        raise running.error


def tight_listener(size: int = 4096) -> socket.socket:
    """Return a listening socket; its accepted sockets have send buffers of `size` bytes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def need_ipv6() -> None:
    """Skip the test on a machine without IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        available = True
    except OSError:
        available = False
    need(available, "IPv6 on the loopback interface", "enable it in the kernel")


class Daemon:
    """A server process; `line` is its ready line, `address` the address in it."""

    def __init__(self, process: subprocess.Popen[bytes], line: str) -> None:
        self.process = process
        self.line = line
        host, _, port = line.partition("://")[2].partition("/")[0].rpartition(":")
        self.address: Address = (host.strip("[]"), int(port))

    def stop(self, number: int = signal.SIGTERM, *, within: float = PATIENCE) -> tuple[int, str]:
        """Send a signal; return the exit status and the troubles on standard error."""
        status, errors = self.end(number, within=within)
        return status, troubles(errors)

    def end(self, number: int = signal.SIGTERM, *, within: float = PATIENCE) -> tuple[int, str]:
        """Send a signal; return the exit status and everything on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=within)
        return self.process.returncode, errors.decode()


def troubles(errors: str) -> str:
    """Return a daemon's log without its usual lines on connections and joins."""
    usual = (" info connection ", " info join ")
    return "".join(
        line for line in errors.splitlines(True) if not any(each in line for each in usual)
    )


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def daemon(module: str, *arguments: str) -> Iterator[Daemon]:
    """Start `python -m module` and wait for its ready line."""
    process = subprocess.Popen(
        command(module, *arguments),
        cwd=ROOT,
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process:
        try:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline().decode() if ready else ""
            if not line:
                process.kill()
                raise AssertionError(f"no ready line: {process.communicate()[1].decode()}")
            yield Daemon(process, line)
        finally:
            if process.poll() is None:
                process.kill()


def make_certificate(directory: Path, name: str = "localhost") -> Path:
    """Return a file with a certificate and key for this machine; skip without openssl."""
    need(shutil.which("openssl"), "openssl", "apt-get install openssl")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    request = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    subprocess.run(
        [*request.split(), *names, "-out", certificate, "-keyout", key],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    both = directory / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both
