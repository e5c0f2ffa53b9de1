"""A small blocking client on the same `Connection`: RFC 6455, section 4.1.

    with connect("ws://127.0.0.1:9001/") as websocket:
        websocket.send("Hello")
        print(websocket.recv())

A `Client` is for one thread. It reads only while it is called (`recv`, `ping`,
`close`, iteration), and answers Pings then.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Self

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Connection, Event, Pong, Role, State
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import ConnectionClosed, HandshakeError
from wsproto_min.handshake import upgrade_request, validate_response
from wsproto_min.http import Headers, HeadReader, parse_response
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.net.url import WebSocketURL, parse_url

RECEIVE_SIZE = 1 << 16
MAX_FIRST_LINE = 500  # bytes of a refusal's body that an error quotes
_LENGTH = re.compile("[0-9]{1,9}")

Trace = Callable[[Role, bytes], None]
"""Is shown the bytes as they go, with the end that sent them: each head of the handshake
alone, then the frames."""


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    compression: DeflateParameters | None = DeflateParameters.DEFAULT,
    compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
    ssl_context: ssl.SSLContext | None = None,
    open_timeout: float = 10.0,
    close_timeout: float = 10.0,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_fragments: int | None = None,
    trace: Trace | None = None,
) -> Client:
    """Open a connection to a URL that `parse_url` understands.

    `headers` are further pairs of name and value for the request, such as
    Authorization. `deflate` is what to offer of compression, None for nothing, and
    `compression_threshold` the bytes from which a message is compressed. `ssl_context`
    is for `wss`; by default the server's certificate is verified. All must be
    open within `open_timeout` seconds; `close_timeout` seconds are the
    server's for closing.

    Raises `ValueError` for a bad URL, `OSError` if the server cannot be reached
    or takes too long (`TimeoutError`), and `HandshakeError` if it declines (with
    its status and the first line of what it says) or breaks a rule.
    """
    address = parse_url(url)
    deadline = time.monotonic() + open_timeout
    sock = _open_socket(address, deadline, ssl_context)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        request = upgrade_request(
            address.host_header,
            address.target,
            key,
            subprotocols=subprotocols,
            compression=compression,
            headers=[*([] if origin is None else [("Origin", origin)]), *headers],
        )
        _set_timeout(sock, deadline)
        if trace is not None:
            trace(Role.CLIENT, request)
        sock.sendall(request)
        head, rest = _receive_head(sock, deadline)
        if trace is not None:
            trace(Role.SERVER, head + b"\r\n\r\n")
        status, fields = parse_response(head)
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            line = _first_line(sock, deadline, fields, rest)
            reason = f"the server answered {status}" + (f": {line}" if line else "")
            raise HandshakeError(status, reason, fields.fields)
        agreed = validate_response(
            status, fields, key, subprotocols=subprotocols, compression=compression
        )
        connection = Connection(
            Role.CLIENT,
            max_message_size=max_message_size,
            max_fragments=max_fragments,
            compression=agreed.compression,
            compression_threshold=compression_threshold,
        )
        client = Client(
            sock,
            connection,
            subprotocol=agreed.subprotocol,
            close_timeout=close_timeout,
            trace=trace,
        )
        client.receive_data(rest)  # the server may have spoken right after its answer
        return client
    except BaseException:
        sock.close()
        raise


class Client:
    """An open connection; `subprotocol` is the one that the server chose, if any."""

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        *,
        subprotocol: str | None = None,
        close_timeout: float = 10.0,
        trace: Trace | None = None,
    ) -> None:
        self.connection = connection
        self.subprotocol = subprotocol
        self._socket = sock
        self._close_timeout = close_timeout
        self._trace = trace
        self._kept: deque[str | bytes] = deque()
        self._unsent = b""
        self._events: Iterator[Event] = iter(())
        self._awaited_pong: bytes | None = None

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: with 1000, or with 1011 if the block failed."""
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over messages until the connection is closed normally (1000, 1001)."""
        try:
            while True:
                yield self.recv()
        except ConnectionClosed as closed:
            if closed.code not in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY):
                raise

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector of your own."""
        return self._socket.fileno()

    def send(self, message: str | bytes) -> None:
        """Send a text or binary message, however long the server takes to read it.

        Raises `ConnectionClosed`.
        """
        self.connection.send(message)
        self._send_or_raise()

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message.

        Raises `TimeoutError` if none comes within `timeout` seconds (None: no
        limit), `ConnectionClosed` when none can come any more, with 1006 if no
        Close frame came either, and `ProtocolError` if the server broke a rule.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        again = False
        while not self._kept:
            self._act(deadline, whole=False)
            if not self._kept:
                again = self._receive(deadline, again=again)
        return self._kept.popleft()

    def ping(self, timeout: float | None = 10.0) -> float:
        """Send a Ping; return the seconds until its Pong.

        Messages that arrive meanwhile are kept for `recv`. Raises as `recv` does.
        """
        self._awaited_pong = os.urandom(8)
        sent = time.monotonic()
        deadline = None if timeout is None else sent + timeout
        self.connection.ping(self._awaited_pong)
        self._send_or_raise(deadline)
        self._act(deadline)
        again = False
        while self._awaited_pong is not None:
            again = self._receive(deadline, again=again)
            self._act(deadline)
        return time.monotonic() - sent

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close, giving the server `close_timeout` seconds to do so too.

        Messages that still arrive are kept for `recv`. Does nothing if closed.
        """
        deadline = time.monotonic() + self._close_timeout
        self.connection.close(code, reason)
        with suppress(OSError), self._socket:
            self._flush(deadline)
            self._act(deadline)
            # Section 7.1.1: the server is the one to close the TCP connection.
            # One that talks without a pause leaves something to read after the deadline, too.
            while time.monotonic() < deadline and (data := self._read(deadline)):
                self.receive_data(data)
                self._act(deadline)
        self.connection.receive_eof()

    def _receive(self, deadline: float | None, *, again: bool) -> bool:
        """Wait for bytes and act on them; return True.

        Raises `TimeoutError` if none come; `again` also if only the deadline has passed,
        for a server that talks without a pause always has some.
        """
        if again and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("nothing came in time")
        if self.connection.state is not State.CLOSED:
            data = self._read(deadline)
            if data:
                self.receive_data(data)
                return True
            self.connection.receive_eof()
        self._socket.close()
        if self.connection.error is not None:
            raise self.connection.error
        close = self.connection.close_received
        if close is None:
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, "the server is gone")
        raise ConnectionClosed(close.code, close.reason)

    def _read(self, deadline: float | None) -> bytes:
        """Return the next bytes, none at the stream's end. Raises `TimeoutError`."""
        _set_timeout(self._socket, deadline)
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except OSError as error:
            if _is_deadline(error):
                raise TimeoutError("nothing came in time") from None
            return b""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server; they are acted on as messages are asked for."""
        if self._trace is not None and data:
            self._trace(Role.SERVER, data)
        self._events = self.connection.receive_data(data)

    def _act(self, deadline: float | None, *, whole: bool = True) -> None:
        """Act on all received frames, or up to the next message; messages are kept for `recv`."""
        for event in self._events:
            if isinstance(event, str | bytes):
                self._kept.append(event)
            elif isinstance(event, Pong) and event.payload == self._awaited_pong:
                self._awaited_pong = None
            self._flush(deadline)
            if self._kept and not whole:
                return
        self._flush(deadline)  # a violation ends the events and has its Close to send

    def _send_or_raise(self, deadline: float | None = None) -> None:
        """Send what the connection has to say; raise `ConnectionClosed` if nobody hears it."""
        if not self._flush(deadline):
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, "the server is gone")

    def _flush(self, deadline: float | None = None) -> bool:
        """Send what the connection has to say. Raises `TimeoutError`.

        Returns whether that went well. If the server is gone, what it said
        before is still to be read, and the stream's end after it. What a server that
        does not read has not taken in time goes first the next time: half a frame
        would be the end.
        """
        data = self.connection.data_to_send()
        if data and self._trace is not None:
            self._trace(Role.CLIENT, data)
        self._unsent += data
        while self._unsent:
            _set_timeout(self._socket, deadline)
            try:
                sent = self._socket.send(self._unsent)
            except OSError as error:
                if _is_deadline(error):
                    raise TimeoutError("the server did not read in time") from None
                self._unsent = b""
                return False
            self._unsent = self._unsent[sent:]
        return True


def _open_socket(
    address: WebSocketURL, deadline: float, ssl_context: ssl.SSLContext | None
) -> socket.socket:
    """Return a connected socket, TLS included for `wss`."""
    if address.scheme == "ws+unix":
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_remaining(deadline))
            sock.connect(address.host)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = _connect(address.host, address.port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.scheme == "wss":
            context = ssl_context or ssl.create_default_context()
            sock.settimeout(_remaining(deadline))
            sock = context.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Return a TCP connection to the first of a host's addresses that takes one."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # this machine may not have IPv6, say
            failure = error
            continue
        try:
            sock.settimeout(_remaining(deadline))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _remaining(deadline: float) -> float:
    """Return the seconds until a deadline. Raises `TimeoutError` if it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the connection was not open in time")
    return remaining


def _receive_head(sock: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    """Return the head of the server's answer and the bytes that came after it."""
    buffer = HeadReader()
    while True:
        _set_timeout(sock, deadline)
        data = sock.recv(RECEIVE_SIZE)
        if not data:
            raise HandshakeError(0, "the server closed the connection without an answer")
        try:
            whole = buffer.receive_data(data)
        except HandshakeError:
            raise HandshakeError(0, "the head of the server's answer is too long") from None
        if whole is not None:
            return whole


def _first_line(sock: socket.socket, deadline: float, headers: Headers, body: bytes) -> str:
    """Return the first line of a body, of which `body` is here already.

    Its end may be known only from the headers: servers keep connections open.
    """
    lengths = [text for text in headers.values("Content-Length") if _LENGTH.fullmatch(text)]
    size = min([MAX_FIRST_LINE, *map(int, lengths)])
    skipped = 1 if headers.values("Transfer-Encoding") else 0  # the size of a chunk
    with suppress(OSError):
        while body.count(b"\n") <= skipped and len(body) < size:
            _set_timeout(sock, deadline)
            data = sock.recv(RECEIVE_SIZE)
            if not data:
                break
            body += data
    line = b"".join(body[:size].split(b"\n")[skipped : skipped + 1])
    return line.decode("utf-8", "replace").strip()


def _is_deadline(error: OSError) -> bool:
    """Return whether the deadline of `_set_timeout` has passed, during a call or before it.

    The kernel's own time limit says ETIMEDOUT.
    """
    if isinstance(error, BlockingIOError | ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return True
    return isinstance(error, TimeoutError) and error.errno is None


def _set_timeout(sock: socket.socket, deadline: float | None) -> None:
    """Let the socket's next call last until `deadline`, None for ever."""
    sock.settimeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
