"""Connections between a peer's program and our client or server.

A `Link` is our end of a connection. A `Session` runs the program in one role and opens links. It
reuses a link for the next case, because some programs take seconds to start.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, Queue
from types import TracebackType
from typing import Self, TypeVar

from tests.interop.certificate import Certificate
from tests.interop.peer import Peer, PeerError, Side
from tests.support import PATIENCE
from wsproto_min import (
    Acceptance,
    Client,
    Close,
    ConnectionClosed,
    DeflateParameters,
    Request,
    Role,
    Server,
    accept,
    connect,
)
from wsproto_min import Peer as ServerPeer

SUBPROTOCOL = "coffee"
NO_TAKEOVER_PATH = "/no-context-takeover"
MAX_MESSAGE_SIZE = 8 << 20
CLOSE_TIMEOUT = 5.0  # seconds; our client waits for the server to end TCP
T = TypeVar("T")

_numbers = itertools.count()


class Trace(logging.Handler):
    """The frames of a connection as `wsproto_min` traces them; each is one line."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.logger = logging.getLogger(f"tests.interop.trace.{next(_numbers)}")
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)
        self.logger.addHandler(self)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().partition(" ")[2])

    def frames(self, sender: Role, pattern: str) -> list[str]:
        """Return the frames of a sender whose description begins with `pattern`."""
        expression = re.compile(f"{sender.value}: ({pattern}.*)")
        return [match[1] for line in self.lines if (match := expression.match(line))]


class Output:
    """The lines that a program prints, and its errors."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.errors: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._threads = [
            threading.Thread(target=self._read_lines, args=(process.stdout,), daemon=True),
            threading.Thread(target=self.errors.extend, args=(process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_lines(self, stream: Iterable[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def next_line(self, timeout: float = PATIENCE) -> str:
        """Return the next line; raise `PeerError` if the program ends or prints none."""
        try:
            line = self._lines.get(timeout=timeout)
        except Empty:
            raise PeerError(f"output: no line within {timeout:g} s; {self._log()}") from None
        if line is None:
            raise PeerError(f"output: the program ended; {self._log()}")
        return line

    def _log(self) -> str:
        return "standard error: " + ("".join(self.errors).strip()[-1500:] or "empty")

    def end(self) -> None:
        """Kill the program and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # `Peer.start` gave it a group of its own
        self.process.wait()
        for thread in self._threads:
            thread.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Link(ABC):
    """Our end of a connection to a peer.

    Attributes:
        role: Our role.
        trace: Frames of both ends.
        is_open: False once the closing handshake has begun.
        patience: Seconds to wait for the peer.
        output: Output of the program; the session sets it.

    """

    output: Output

    def __init__(self, role: Role, trace: Trace) -> None:
        self.role = role
        self.trace = trace
        self.is_open = True
        self.patience = PATIENCE

    @property
    def their_role(self) -> Role:
        return Role.CLIENT if self.role is Role.SERVER else Role.SERVER

    @property
    def side(self) -> Side:
        return Side(self.their_role.value)

    @property
    @abstractmethod
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol."""

    @abstractmethod
    def send(self, message: str | bytes) -> None:
        """Send a message in one frame."""

    @abstractmethod
    def send_fragments(
        self, *fragments: str | bytes, ping: bool = False, compress: bool = True
    ) -> None:
        """Send a message in one frame per fragment, and an empty last one.

        With `ping`, send a Ping after the first fragment.
        """

    @abstractmethod
    def receive(self) -> str | bytes:
        """Return the next message."""

    @abstractmethod
    def ping(self) -> None:
        """Send a Ping and wait for its Pong."""

    @abstractmethod
    def close(self, code: int, reason: str) -> Close:
        """Perform the closing handshake; return the peer's Close."""

    @abstractmethod
    def closed(self) -> Close:
        """Wait for the end of the connection; return the peer's Close."""

    def ask(self, message: str) -> str | bytes:
        """Send a message and return the reply."""
        self.send(message)
        return self.receive()

    def reported_close(self) -> tuple[int, str]:
        """Return the code and the reason that the program prints at the end."""
        self.is_open = False
        line = self.output.next_line(self.patience)
        match = re.fullmatch(r"closed (\d+) ?(.*)", line)
        if match is None:
            raise PeerError(f"output: expected 'closed CODE REASON', read {line!r}")
        return int(match[1]), match[2]


class ClientLink(Link):
    """Our client, connected to the peer's server."""

    def __init__(self, client: Client, trace: Trace) -> None:
        super().__init__(Role.CLIENT, trace)
        self._client = client

    @property
    def subprotocol(self) -> str | None:
        return self._client.subprotocol

    def send(self, message: str | bytes) -> None:
        self._client.send(message, timeout=self.patience)

    def send_fragments(
        self, *fragments: str | bytes, ping: bool = False, compress: bool = True
    ) -> None:
        with self._client.send_stream(compress=compress) as stream:
            for number, fragment in enumerate(fragments):
                stream.send(fragment, timeout=self.patience)
                if ping and number == 0:
                    self.ping()

    def receive(self) -> str | bytes:
        return self._client.recv(self.patience)

    def ping(self) -> None:
        self._client.ping(self.patience)

    def close(self, code: int, reason: str) -> Close:
        self.is_open = False
        before = time.monotonic()
        self._client.close(code, reason)
        close = self._received()
        if time.monotonic() - before >= CLOSE_TIMEOUT:
            raise AssertionError(f"the peer sent {close} and did not end TCP")
        return close

    def closed(self) -> Close:
        self.is_open = False
        with suppress(ConnectionClosed):
            message = self._client.recv(self.patience)
            raise AssertionError(f"received {message[:100]!r} instead of a Close frame")
        return self._received()

    def _received(self) -> Close:
        if self._client.connection.error is not None:
            raise self._client.connection.error
        return self._client.connection.close_received or Close(1006)


class ServerLink(Link):
    """Our server's end of the connection of the peer's client."""

    def __init__(self, server: Server, peer: ServerPeer, trace: Trace) -> None:
        super().__init__(Role.SERVER, trace)
        self._server = server
        self._peer = peer
        self._events: Queue[str | bytes | Close] = Queue()
        self._subprotocol = peer.subprotocol

    @property
    def subprotocol(self) -> str | None:
        return self._subprotocol

    def on_message(self, message: str | bytes) -> None:
        """Take a message in the server's thread."""
        self._events.put(message)

    def on_disconnect(self) -> None:
        """Take the end of the connection in the server's thread."""
        connection = self._peer.connection
        assert connection is not None
        if connection.error is not None:
            self._events.put(Close(1006, f"the peer broke a rule: {connection.error}"))
        else:
            self._events.put(connection.close_received or Close(1006))

    def _in_loop(self, action: Callable[[], T]) -> T:
        """Call `action` in the server's thread; return its result."""
        results: Queue[T] = Queue()
        self._server.call_soon_threadsafe(lambda: results.put(action()))
        return results.get(timeout=self.patience)

    def send(self, message: str | bytes) -> None:
        self._in_loop(lambda: self._peer.send(message))

    def send_fragments(
        self, *fragments: str | bytes, ping: bool = False, compress: bool = True
    ) -> None:
        stream = self._in_loop(lambda: self._peer.send_stream(compress=compress))
        for number, fragment in enumerate(fragments):
            self._in_loop(lambda fragment=fragment: stream.send(fragment))  # type: ignore[misc]
            if ping and number == 0:
                self.ping()
        self._in_loop(stream.finish)

    def receive(self) -> str | bytes:
        try:
            event = self._events.get(timeout=self.patience)
        except Empty:
            raise TimeoutError(f"no message arrived within {self.patience:g} s") from None
        if isinstance(event, Close):
            raise ConnectionClosed(event.code, event.reason)
        return event

    def ping(self) -> None:
        pongs: Queue[float | None] = Queue()
        self._in_loop(lambda: self._peer.ping(lambda _, seconds: pongs.put(seconds), PATIENCE))
        if pongs.get(timeout=self.patience + 1) is None:
            raise TimeoutError("the peer did not answer a Ping")

    def close(self, code: int, reason: str) -> Close:
        self.is_open = False
        self._in_loop(lambda: self._peer.close(code, reason))
        return self.closed()

    def closed(self) -> Close:
        self.is_open = False
        event = self._events.get(timeout=2 * self.patience)
        assert isinstance(event, Close), f"received {event[:100]!r} instead of a Close frame"
        return event


class Session(ABC):
    """A peer's program in one role, with or without TLS."""

    side: Side

    def __init__(self, peer: Peer, certificate: Certificate | None) -> None:
        self.peer = peer
        self.certificate = certificate
        self.scheme = "ws" if certificate is None else "wss"
        self._link: Link | None = None
        self._takeover = True

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the program."""

    @abstractmethod
    def _open(self, *, takeover: bool) -> Link:
        """Open a connection, with or without context takeover."""

    @abstractmethod
    def _reset(self) -> None:
        """Drop all connections after a failure, so that the next case begins from scratch."""

    def run(
        self, case: Callable[[Link], None], *, takeover: bool = True, patience: float = PATIENCE
    ) -> None:
        """Run a case on an open connection, or else on a new one."""
        try:
            if self._link is None or not self._link.is_open or self._takeover != takeover:
                self._leave()
                self._link = self._open(takeover=takeover)
                self._takeover = takeover
            self._link.trace.lines.clear()
            self._link.patience = patience
            case(self._link)
        except BaseException:
            self._link = None
            self._reset()
            raise

    def _leave(self) -> None:
        """Close the current connection."""
        link, self._link = self._link, None
        if link is not None and link.is_open:
            try:
                link.close(1000, "")
                link.reported_close()
            except (AssertionError, PeerError, OSError, Empty):
                self._reset()  # the cases of the closing handshake report the failure


class ServerSession(Session):
    """The peer's program as server, and our client."""

    side = Side.SERVER

    def __init__(self, peer: Peer, certificate: Certificate | None) -> None:
        super().__init__(peer, certificate)
        self._context = None if certificate is None else certificate.client_context()
        self._port = 0
        self._output: Output | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reset()

    def _open(self, *, takeover: bool) -> Link:
        if self._output is None:
            self._start()
        assert self._output is not None
        path = "/" if takeover else NO_TAKEOVER_PATH
        offer = DeflateParameters.DEFAULT if takeover else DeflateParameters.NO_CONTEXT_TAKEOVER
        trace = Trace()
        client = connect(
            f"{self.scheme}://127.0.0.1:{self._port}{path}",
            subprotocols=("tea", SUBPROTOCOL),
            compression=offer,
            compression_threshold=0,
            ssl_context=self._context,
            proxy=None,
            max_message_size=MAX_MESSAGE_SIZE,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT,
            trace=trace.logger,
        )
        link = ClientLink(client, trace)
        link.output = self._output
        return link

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        arguments = ["server", str(self._port)]
        if self.certificate is not None:
            arguments += [str(self.certificate.certificate), str(self.certificate.key)]
        self._output = Output(self.peer.start(*arguments))
        line = self._output.next_line(self.peer.start_timeout)
        if line != "ready":
            raise PeerError(f"output: expected 'ready', read {line!r}")

    def _reset(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            output.end()


class ClientSession(Session):
    """The peer's program as client, and our server."""

    side = Side.CLIENT

    def __init__(self, peer: Peer, certificate: Certificate | None) -> None:
        super().__init__(peer, certificate)
        self._trace = Trace()
        self._opened: Queue[ServerPeer] = Queue()
        self._output: Output | None = None
        self._server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=lambda peer, message: peer.user_data.on_message(message),
            on_disconnect=self._on_disconnect,
            compression_threshold=0,
            max_message_size=MAX_MESSAGE_SIZE,
            write_buffer_limit=MAX_MESSAGE_SIZE,
            ping_interval=None,
            close_timeout=PATIENCE,
            trace=self._trace.logger,
        )
        context = None if certificate is None else certificate.server_context()
        host, port = self._server.listen("127.0.0.1", 0, context)
        self._url = f"{self.scheme}://{host}:{port}"
        self._thread = threading.Thread(target=self._server.run, name="server", daemon=True)
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reset()
        self._server.stop(0.1)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"

    def _on_request(self, peer: ServerPeer, request: Request) -> Acceptance:
        without = request.path == NO_TAKEOVER_PATH
        parameters = DeflateParameters.NO_CONTEXT_TAKEOVER
        return accept(
            request,
            subprotocols=[SUBPROTOCOL],
            compression=parameters if without else DeflateParameters.DEFAULT,
        )

    def _on_open(self, peer: ServerPeer) -> None:
        peer.user_data = ServerLink(self._server, peer, self._trace)
        self._opened.put(peer)

    def _on_disconnect(self, peer: ServerPeer) -> None:
        if peer.user_data is not None:
            peer.user_data.on_disconnect()

    def _open(self, *, takeover: bool) -> Link:
        self._reset()
        url = self._url + ("/" if takeover else NO_TAKEOVER_PATH)
        authority = [] if self.certificate is None else [str(self.certificate.authority)]
        self._output = Output(self.peer.start("client", url, *authority))
        try:
            peer = self._opened.get(timeout=self.peer.start_timeout)
        except Empty:
            line = self._output.next_line(0.1)
            raise PeerError(f"output: printed {line!r} and did not connect") from None
        link: Link = peer.user_data
        link.output = self._output
        return link

    def _reset(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            output.end()


SessionType = type[ServerSession] | type[ClientSession]
SESSIONS: tuple[SessionType, ...] = (ServerSession, ClientSession)
