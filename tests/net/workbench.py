"""A server without a listener: sessions on socket pairs, single iterations, and a fake clock."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.support import PATIENCE, handshake
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.net.context import ServerContext
from wsproto_min.net.peer import Peer
from wsproto_min.net.session import Session
from wsproto_min.server_handshake import accept

MASK = bytes.fromhex("37fa213d")
MAX_ITERATIONS = 200_000


def text(message: str) -> bytes:
    """Return a client's text frame."""
    return encode_frame(Opcode.TEXT, message.encode(), mask=MASK)


def close(code: int = 1000, reason: str = "") -> bytes:
    """Return a client's Close frame."""
    return encode_frame(Opcode.CLOSE, encode_close(code, reason), mask=MASK)


PING = encode_frame(Opcode.PING, b"still there?", mask=MASK)
UNMASKED = encode_frame(Opcode.TEXT, b"not masked")


class Workbench:
    """A server's context; the test runs each iteration of its loop.

    `messages` are the received messages with their peers, unless `on_message` is replaced.
    """

    def __init__(self, clock: list[float], **options: Any) -> None:
        self.clock = clock
        self.messages: list[tuple[Peer, str | bytes]] = []
        defaults: dict[str, Any] = {
            "on_request": lambda peer, request: accept(request),
            "on_open": lambda peer: None,
            "on_message": lambda peer, message: self.messages.append((peer, message)),
            "max_message_size": 1 << 24,
            "max_fragments": None,
            "write_buffer_limit": 1 << 30,
            "open_timeout": 10.0,
            "close_timeout": 10.0,
            "control_rate_limit": 1e9,
        }
        self.context = ServerContext(**{**defaults, **options})
        self._remotes: list[socket.socket] = []

    def accept(
        self, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> tuple[Peer, socket.socket]:
        """Return a new peer and the client's socket. `wrap` changes the server's socket."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.settimeout(PATIENCE)
        self._remotes.append(theirs)
        return Session(self.context, wrap(ours), "192.0.2.1:1").peer, theirs

    def open(
        self, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> tuple[Peer, Remote]:
        """Return an open peer and its client."""
        peer, theirs = self.accept(wrap)
        theirs.sendall(handshake())
        remote = Remote(theirs)
        while b"\r\n\r\n" not in remote.head:
            self.iterate()
            remote.read()
        assert remote.head.startswith(b"HTTP/1.1 101 "), remote.head
        return peer, remote

    def iterate(self, *, ahead: float = 0.0) -> None:
        """Run one iteration that does not wait, `ahead` seconds later."""
        self.clock[0] += ahead
        self.context.loop.call_soon_threadsafe(lambda: None)
        self.context.loop.run_once()
        self.context.write_coalescer.flush()

    def iterate_until(self, condition: Callable[[], object], expectation: str) -> None:
        for _ in range(MAX_ITERATIONS):
            if condition():
                return
            self.iterate()
        raise AssertionError(f"not within {MAX_ITERATIONS} iterations: {expectation}")

    def iterate_and_receive(self, sock: socket.socket) -> bytes:
        """Run iterations until `sock` has data or the end of the stream, and return it."""
        sock.settimeout(0)
        for _ in range(1000):
            self.iterate()
            with suppress(BlockingIOError):
                return sock.recv(1 << 16)
        raise AssertionError("neither data nor the end of the stream within 1000 iterations")

    def stop(self) -> None:
        for peer in list(self.context.peers):
            peer.abort()
        self.context.loop.close()
        for sock in self._remotes:
            sock.close()


class Remote:
    """The client's end of a socket pair, read without blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self.events: list[Event] = []
        self.ended = False
        self._last_bytes = b""
        self._connection = Connection(Role.CLIENT, max_message_size=1 << 30)

    def read(self) -> None:
        """Read everything that has arrived."""
        self.sock.setblocking(False)
        try:
            while not self.ended:
                data = self.sock.recv(1 << 16)
                self.ended = not data
                self._last_bytes = (self._last_bytes + data)[-200:]
                if b"\r\n\r\n" not in self.head:
                    head, end, data = (self.head + data).partition(b"\r\n\r\n")
                    self.head = head + end
                self._connection.receive_data(data)
                self.events += iter(self._connection.next_event, None)
        except (BlockingIOError, ConnectionResetError):
            pass
        finally:
            self.sock.settimeout(PATIENCE)
        error = self._connection.error
        assert error is None, f"the server broke a rule: {error}"

    def answer_ping(self) -> None:
        """Send a Pong for the last Ping that `read` has received."""
        *_, ping = [event for event in self.events if isinstance(event, Ping)]
        self.sock.sendall(encode_frame(Opcode.PONG, ping.payload, mask=MASK))

    def count_pings(self) -> int:
        """Read; return the number of Pings so far."""
        self.read()
        return sum(isinstance(event, Ping) for event in self.events)

    def has(self, number: int) -> bool:
        """Read; return True if `number` events have come."""
        self.read()
        return len(self.events) >= number

    def has_ended(self) -> bool:
        """Read; return True at the end of the stream, which must follow a Close frame at once."""
        self.read()
        if self.ended and isinstance(close := self.events[-1], Close):
            last = encode_frame(Opcode.CLOSE, encode_close(close.code, close.reason))
            received = self._last_bytes
            assert received.endswith(last), f"bytes after the Close frame: {received!r}"
        return self.ended
