"""A blocking WebSocket client (RFC 6455, section 4.1).

    with connect("ws://127.0.0.1:9001/") as client:
        client.send("Hello")
        print(client.recv())

A client reads from its socket only inside a call of `recv`, `ping`, `close` or an iteration, and
answers the server's Pings there. A program that makes no such call for longer than the server's
ping_timeout loses the connection, unless `background_reads` starts a thread that reads.

One lock guards a client, so all methods can be called from any thread. The socket does not block.
A thread waits for it without the lock, and at most one thread at a time waits for input. Other
threads that need input wait until this thread has read.
"""

from __future__ import annotations

import logging
import math
import os
import select
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from types import TracebackType
from typing import Self

from wsproto_min.client_handshake import ClientHandshake
from wsproto_min.codes import CloseCode
from wsproto_min.connection import Close, Connection, Event, Pong, Role, State
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import ConnectionClosed, WebSocketError
from wsproto_min.extensions import Extension
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE, MessageChunk
from wsproto_min.net.client_streams import ReceiveStream, SendStream
from wsproto_min.net.connector import Trace, open_connection
from wsproto_min.net.frame_trace import as_trace
from wsproto_min.net.inbox import Inbox
from wsproto_min.net.keepalive import Keepalive
from wsproto_min.net.redirects import DEFAULT_MAX_REDIRECTS
from wsproto_min.net.tcp import RECEIVE_SIZE
from wsproto_min.net.url import WebSocketURL, parse_url

_LOST = "the server is gone"
_NO_DATA = "no data arrived within the time limit"
_NOT_READ = "the server did not read within the time limit"
_NO_PONG = "the server did not answer a Ping within ping_timeout"
_UNREAD = "received messages fill read_buffer_limit; call recv() before ping()"

# Iterable, but not as fragments of a message.
_NOT_FRAGMENTS = (str, bytes, bytearray, memoryview, Mapping)

_MAX_WAIT = 3600.0  # seconds; poll() fails above 24 days


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    compression: DeflateParameters | None = DeflateParameters.DEFAULT,
    compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
    extensions: Sequence[Extension] = (),
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | bool | None = True,
    max_redirects: int = DEFAULT_MAX_REDIRECTS,
    open_timeout: float = 10.0,
    close_timeout: float = 10.0,
    max_message_size: int | None = DEFAULT_MAX_MESSAGE_SIZE,
    max_fragments: int | None = None,
    ping_interval: float | None = 20.0,
    ping_timeout: float = 20.0,
    read_buffer_limit: int = 4 << 20,
    background_reads: bool = False,
    trace: Trace | bool | logging.Logger | None = None,
) -> Client:
    """Open a connection to a WebSocket server.

    Args:
        url: `ws://HOST[:PORT]/PATH`, `wss://HOST[:PORT]/PATH` or `ws+unix:FILE:/PATH`.
        subprotocols: Subprotocols to offer, the preferred one first.
        headers: Further headers of the request as (name, value), such as Authorization or
            Cookie. The client keeps no cookies.
        origin: Value of the Origin header.
        compression: Parameters of permessage-deflate to offer; None offers no compression.
        compression_threshold: Minimum size of a message that is compressed, in bytes.
        extensions: Further extensions to offer, beside permessage-deflate.
        ssl_context: TLS configuration for `wss`. By default, the client verifies the
            certificate by the system's CAs.
        proxy: URL of a proxy: `http://[USER:PASSWORD@]HOST:PORT` (CONNECT), or the same with
            `socks5` or, if the proxy resolves names, `socks5h`. True uses the proxy of the
            environment, such as `https_proxy`, except for loopback addresses and `no_proxy`.
            None uses no proxy.
        max_redirects: Number of redirects to follow; 0 for none. Authorization and Cookie do not
            go to another origin (scheme, host, port). A redirect from `wss` to `ws` is an error.
        open_timeout: Time limit for everything until the connection is open, in seconds.
        close_timeout: Time limit for the closing handshake, in seconds. After both Close frames it
            is the time that the server has to close TCP, as section 7.1.1 asks; until then
            `recv` does not raise `ConnectionClosed`.
        max_message_size: Maximum size of a received message, in bytes; None for no limit, if
            all large messages are read by `recv_streaming`.
        max_fragments: Maximum number of fragments of a received message.
        ping_interval: Seconds from one Ping of the client to the next; None sends no Pings.
        ping_timeout: Seconds after a Ping without received bytes, until the connection is lost.
        read_buffer_limit: Size of messages that wait for `recv`, in bytes, from which the
            client reads no more. One message can exceed the limit.
        background_reads: Start a daemon thread that reads and answers Pings at any time, until
            `read_buffer_limit` is reached. Then do not wait for `Client.fileno`.
        trace: True or a logger to log each head and frame at DEBUG, as for `Server`. Or a function
            to call with the sender of bytes and the bytes, for each read and write. Each head of
            the handshake comes in a call of its own.

    Raises:
        ValueError: The URL or an argument is invalid.
        HandshakeError: The server refused the handshake or broke a rule of section 4.1, or a
            proxy refused. Then the reason begins with "proxy".
        OSError: The server or the proxy cannot be reached; `TimeoutError` after `open_timeout`.
    """
    address = parse_url(url)
    trace = as_trace(trace, address.host_header)

    def begin(address: WebSocketURL, fields: Sequence[tuple[str, str]]) -> ClientHandshake:
        return ClientHandshake(
            address.host_header,
            address.target,
            subprotocols=subprotocols,
            compression=compression,
            headers=fields,
            max_message_size=max_message_size,
            max_fragments=max_fragments,
            compression_threshold=compression_threshold,
            extensions=extensions,
        )

    sock, result = open_connection(
        address,
        begin,
        [*([] if origin is None else [("Origin", origin)]), *headers],
        deadline=time.monotonic() + open_timeout,
        ssl_context=ssl_context,
        proxy=proxy,
        max_redirects=max_redirects,
        trace=trace,
    )
    try:
        assert result.connection is not None
        return Client(
            sock,
            result.connection,
            subprotocol=result.subprotocol,
            received=result.trailing_data,
            close_timeout=close_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            read_buffer_limit=read_buffer_limit,
            background_reads=background_reads,
            trace=trace,
        )
    except BaseException:
        sock.close()
        raise


class Client:
    """An open connection to a server; `connect` creates it.

    Args:
        sock: Connected socket, which the client owns from now on.
        connection: State of the protocol, after the opening handshake.
        subprotocol: Negotiated subprotocol.
        received: Bytes received after the head of the server's response.
        close_timeout: Time limit for the closing handshake, in seconds.
        ping_interval: As for `connect`.
        ping_timeout: As for `connect`.
        read_buffer_limit: As for `connect`.
        background_reads: As for `connect`.
        trace: As for `connect`.

    Attributes:
        connection: State of the protocol.
        subprotocol: Subprotocol that the server chose, or None.
    """

    connection: Connection
    subprotocol: str | None

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        *,
        subprotocol: str | None = None,
        received: bytes = b"",
        close_timeout: float = 10.0,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        read_buffer_limit: int = 4 << 20,
        background_reads: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.connection = connection
        self.subprotocol = subprotocol
        self._socket = sock
        self._close_timeout = close_timeout
        self._trace = trace
        self._inbox = Inbox(connection, read_buffer_limit)
        self._stream: SendStream | None = None  # the fragmented message under way
        self._stream_thread = 0  # its thread
        self._write_buffer = b""
        self._awaited_pongs: set[bytes] = set()
        self._close: Close | None = None
        self._end_deadline: float | None = None  # for the end of TCP after both Close frames
        self._loss = _LOST
        self._keepalive = Keepalive()
        self._ping_interval = math.inf if ping_interval is None else ping_interval
        self._ping_timeout = ping_timeout
        self._ping_timer = time.monotonic() + self._ping_interval
        self._changed = threading.Condition()  # its lock guards all attributes
        self._reader: int | None = None  # thread that waits for input
        self._waiting: list[int] = []  # threads that wait for the socket
        sock.setblocking(False)
        self._receive_data(received)
        if background_reads:
            threading.Thread(target=self._read_in_background, daemon=True).start()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000, or with 1011 after an exception in the block."""
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over messages until the server closes with 1000 or 1001.

        Raises:
            ConnectionClosed: The connection ended with another code.
            ProtocolError: The server broke a rule.
        """
        try:
            while True:
                yield self.recv()
        except ConnectionClosed as closed:
            if closed.code not in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY):
                raise

    @property
    def close_code(self) -> int | None:
        """Close code that ended the connection (section 7.1.5); None while it is open.

        The code of the server's Close frame, or 1005 if the frame had none. Without a Close
        frame: 1006, or the code of the rule that the server broke.
        """
        return None if self._close is None else self._close.code

    @property
    def close_reason(self) -> str:
        """Reason that belongs to `close_code`; empty while the connection is open."""
        return "" if self._close is None else self._close.reason

    def fileno(self) -> int:
        """Return the socket's file descriptor for a selector, or -1 if it is closed.

        Before each wait, call `recv(timeout=0)` until it raises `TimeoutError`: received
        messages may be in the client already. A wait should not be longer than
        `ping_interval`, because `recv` sends the Pings.
        """
        return self._socket.fileno()

    def send(
        self,
        message: str | bytes | Iterable[str] | Iterable[bytes],
        *,
        text: bool = False,
        compress: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Send a text (`str`) or binary (`bytes`) message; wait while the server does not read.

        Waits too while another thread sends a stream.

        Args:
            message: The message, or an iterable of its fragments, which are all `str` or all
                `bytes`. An exception of the iterable closes the connection as in `send_stream`.
            text: Send `bytes` as text, after a check that they are UTF-8.
            compress: False sends this message uncompressed.
            timeout: Time limit in seconds for the message or for each fragment; None for no
                limit. After a `TimeoutError` the message leaves with the next calls.

        Raises:
            ConnectionClosed: The connection is closing, closed or lost.
            RuntimeError: A stream of the same thread is open.
            TimeoutError: The server did not read in time.
            TypeError: The message is neither `str` nor `bytes`.
            ValueError: With `text`, the bytes are not UTF-8.
        """
        if isinstance(message, Iterable) and not isinstance(message, _NOT_FRAGMENTS):
            with self.send_stream(compress=compress) as stream:
                for fragment in message:
                    stream.send(fragment, timeout=timeout)
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._await_stream(deadline)
            # The connection checks the type of a message that is no iterable of fragments.
            self.connection.send(message, text=text, compress=compress)  # type: ignore[arg-type]
            self._flush_or_raise(deadline)

    def send_stream(self, *, compress: bool = True) -> SendStream:
        """Begin a message in fragments; see `SendStream`.

            with client.send_stream() as stream:
                stream.send("part 1, ")
                stream.send("part 2")

        The first fragment waits while another thread sends a stream.

        Args:
            compress: False sends the message uncompressed.
        """
        return SendStream(self, compress=compress)

    def _send_fragment(
        self, stream: SendStream, data: str | bytes, timeout: float | None, *, last: bool
    ) -> None:
        """See `SendStream`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            if self._stream is not stream:
                self._await_stream(deadline)
            self.connection.send_fragment(data, last=last, compress=stream.compress)
            self._stream = None if last else stream
            self._stream_thread = threading.get_ident()
            self._changed.notify_all()
            self._flush_or_raise(deadline)

    def _await_stream(self, deadline: float | None) -> None:
        """Wait until no other stream is open, unless the connection is not open either."""
        while self._stream is not None and self.connection.state is State.OPEN:
            if self._stream_thread == threading.get_ident():
                raise RuntimeError("send: a stream of this thread is open; finish it first")
            if not self._changed.wait(
                None if deadline is None else max(0.0, deadline - time.monotonic())
            ):
                raise TimeoutError("another thread did not finish its stream in time")

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message.

        Args:
            timeout: Time limit in seconds; None for no limit, 0 to read without waiting.

        Raises:
            TimeoutError: No message arrived within `timeout` seconds.
            ConnectionClosed: The connection is closed, with 1006 if it was lost.
            ProtocolError: The server broke a rule.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        has_read = False
        with self._changed:
            while (message := self._inbox.next_message()) is None:
                has_read = self._advance(deadline, has_read=has_read)
            self._changed.notify_all()  # a background thread may wait for free space
            return message

    def recv_streaming(self, timeout: float | None = None) -> ReceiveStream:
        """Iterate over the chunks of the next message while it arrives; see `ReceiveStream`.

            for chunk in client.recv_streaming():
                file.write(chunk)

        The chunks are not kept, so pass `max_message_size=None` to `connect` for a message of
        any size. If the program leaves the iteration, the next `recv` or `recv_streaming` skips
        the rest of the message.

        Args:
            timeout: Time limit for each chunk in seconds; None for no limit.
        """
        stream = ReceiveStream(self, timeout)
        with self._changed:
            self._inbox.begin(stream)
        return stream

    def _next_chunk(self, stream: ReceiveStream, timeout: float | None) -> MessageChunk:
        """See `ReceiveStream`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        has_read = False
        with self._changed:
            while (chunk := self._inbox.next_chunk(stream)) is None:
                has_read = self._advance(deadline, has_read=has_read)
            self._changed.notify_all()
            return chunk

    def ping(self, timeout: float | None = 10.0) -> float:
        """Send a Ping; return the round-trip time in seconds once its Pong has arrived.

        Keeps the messages that arrive before the Pong for `recv`. Raises as `recv` does, and
        `TimeoutError` when these messages reach `read_buffer_limit`.
        """
        payload = os.urandom(8)
        sent_at = time.monotonic()
        deadline = None if timeout is None else sent_at + timeout
        has_read = False
        with self._changed:
            self._awaited_pongs.add(payload)
            try:
                self.connection.ping(payload)
                self._flush_or_raise(deadline)
                while payload in self._awaited_pongs:
                    if self._inbox.is_full:
                        raise TimeoutError(_UNREAD)
                    has_read = self._advance(deadline, has_read=has_read)
            finally:
                self._awaited_pongs.discard(payload)
        return time.monotonic() - sent_at

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Perform the closing handshake within `close_timeout`, then close the socket.

        Keeps the messages that arrive before the server's Close frame for `recv`. When they
        reach `read_buffer_limit`, closes the socket without the server's Close frame. Does
        nothing if the connection is closed. A `recv` in another thread then raises
        `ConnectionClosed`.

        Raises:
            ValueError: A Close frame must not carry `code` (section 7.4).
        """
        deadline = time.monotonic() + self._close_timeout
        with self._changed:
            self.connection.close(code, reason)
            try:
                with suppress(OSError):
                    self._flush(deadline)
                    self._handle_received(deadline)
                    # Section 7.1.1: wait, because the server closes TCP first. Check the clock
                    # too: bytes of a server that sends without a pause arrive after the
                    # deadline as well.
                    while (
                        not self._inbox.is_full
                        and time.monotonic() < deadline
                        and self._read(deadline)
                    ):
                        self._handle_received(deadline)
            finally:
                self._disconnect()

    def _read_in_background(self) -> None:
        """Read and handle events until the connection ends."""
        with self._changed, suppress(WebSocketError):
            while True:
                if self._inbox.is_full and self.connection.state is not State.CLOSED:
                    self._changed.wait()
                else:
                    self._advance(None, has_read=False)

    def _advance(self, deadline: float | None, *, has_read: bool) -> bool:
        """Handle the next event or, without one, read once. Return True after a read.

        Args:
            deadline: Time limit, or None.
            has_read: True if the caller's loop has read before. The first read is always tried.
                Later ones check the clock, because a server that sends without a pause always
                has bytes ready.

        Raises:
            TimeoutError: The deadline has passed.
            ConnectionClosed: There are no more events.
            ProtocolError: There are no more events, because the server broke a rule.
        """
        event = self.connection.next_event()
        if event is not None:
            self._handle_event(event)
            self._flush(deadline)
            return has_read
        self._flush(deadline)
        if self.connection.state >= State.FLUSHING:
            self._await_end(deadline)
            self._disconnect()
            if self.connection.error is not None:
                raise self.connection.error
            close = self.connection.close_received
            if close is None:
                raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, self._loss)
            raise ConnectionClosed(close.code, close.reason)
        if has_read and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(_NO_DATA)
        self._read(deadline)
        return True

    def _await_end(self, deadline: float | None) -> None:
        """Wait after both Close frames, because the server closes TCP first (section 7.1.1).

        A client that closes first may reset the connection, for example when the server ends TLS.
        Then the server can lose the client's Close frame. Waits at most `close_timeout`.

        Raises:
            TimeoutError: The server did not close TCP until `deadline`.
        """
        if self.connection.error is not None or self.connection.close_received is None:
            return
        if self._end_deadline is None:
            self._end_deadline = time.monotonic() + self._close_timeout
        limit = self._end_deadline
        if deadline is not None:
            limit = min(limit, deadline)
        while self.connection.state is State.FLUSHING:
            with suppress(TimeoutError):
                self._read(limit)
            if self.connection.state is State.FLUSHING and time.monotonic() >= limit:
                if limit == self._end_deadline:
                    return
                raise TimeoutError(_NO_DATA)

    def _handle_received(self, deadline: float) -> None:
        """Handle the events that have arrived, up to the limit, and send the replies."""
        while not self._inbox.is_full and (event := self.connection.next_event()) is not None:
            self._handle_event(event)
            self._flush(deadline)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, (str, bytes, MessageChunk)):
            self._inbox.add(event)
        elif isinstance(event, Close):
            self._close = event
        elif isinstance(event, Pong):
            self._awaited_pongs.discard(event.payload)

    def _disconnect(self) -> None:
        """Close the socket, then handle the events of the data received before."""
        # A new socket could get the number of a descriptor that another thread still waits for.
        # So wake that thread first.
        while any(thread != threading.get_ident() for thread in self._waiting):
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not that of TLS
            self._changed.wait()
        self._socket.close()
        self.connection.receive_eof()
        while (event := self.connection.next_event()) is not None:
            self._handle_event(event)
        self._changed.notify_all()

    def _read(self, deadline: float | None) -> bool:
        """Read once, or wait until another thread has; send due Pings.

        Returns:
            False at the end of the stream.

        Raises:
            TimeoutError: No data arrived until `deadline`.
        """
        thread = threading.get_ident()
        if self._reader not in (None, thread):
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._changed.wait(timeout):
                raise TimeoutError(_NO_DATA)
            return True
        before, self._reader = self._reader, thread  # `before`: a signal handler may come here
        data = b""
        try:
            while True:
                try:
                    data = self._socket.recv(RECEIVE_SIZE)
                    break
                except (BlockingIOError, ssl.SSLWantReadError):
                    waits_for = EVENT_READ
                except ssl.SSLWantWriteError:
                    waits_for = EVENT_WRITE
                except OSError:
                    break
                # Judge the last Ping only after a read: a busy program reads late.
                if not self._keep_alive():
                    break
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(_NO_DATA)
                self._wait(waits_for, deadline, self._ping_timer)
        finally:
            self._reader = before
            self._changed.notify_all()
        if data:
            self._receive_data(data)
        else:
            self.connection.receive_eof()
        return bool(data)

    def _keep_alive(self) -> bool:
        """Send a Ping if one is due; return False if the last one shows that the server is gone."""
        now = time.monotonic()
        if now < self._ping_timer or self.connection.state is not State.OPEN:
            return True
        delay = self._keepalive.on_timer(
            self.connection, now, interval=self._ping_interval, timeout=self._ping_timeout
        )
        if delay is None:
            self._loss = _NO_PONG
            return False
        self._ping_timer = now + delay
        with suppress(TimeoutError):
            self._flush(now)
        return True

    def _wait(self, event: int, *deadlines: float | None) -> None:
        """Wait for the socket without the lock, at most until the first deadline."""
        times = [deadline for deadline in deadlines if deadline is not None]
        timeout = min(max(0.0, min(times) - time.monotonic()), _MAX_WAIT)
        descriptor, thread = self._socket.fileno(), threading.get_ident()
        self._waiting.append(thread)
        self._changed.release()
        try:
            _wait_for(descriptor, event, timeout)
        finally:
            self._changed.acquire()
            self._waiting.remove(thread)
            self._changed.notify_all()

    def _receive_data(self, data: bytes) -> None:
        if data:
            self._keepalive.alive_since_ping = True
            if self._trace is not None:
                self._trace(Role.SERVER, data)
        self.connection.receive_data(data)

    def _flush_or_raise(self, deadline: float | None) -> None:
        """Send the connection's bytes. Raises `ConnectionClosed` or `TimeoutError`."""
        if not self._flush(deadline):
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, self._loss)

    def _flush(self, deadline: float | None) -> bool:
        """Send the connection's bytes.

        After a timeout, the unsent rest stays first in the write buffer, because the stream
        must not end within a frame.

        Returns:
            False if the connection is lost. Data received before can still be read.

        Raises:
            TimeoutError: The server did not read until `deadline`.
        """
        data = self.connection.data_to_send()
        if data and self._trace is not None:
            self._trace(Role.CLIENT, data)
        self._write_buffer += data
        while self._write_buffer:
            try:
                sent = self._socket.send(self._write_buffer)
            except (BlockingIOError, ssl.SSLWantWriteError):
                waits_for = EVENT_WRITE
            except ssl.SSLWantReadError:
                waits_for = EVENT_READ
            except OSError:
                self._write_buffer = b""
                return False
            else:
                self._write_buffer = self._write_buffer[sent:]
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(_NOT_READ)
            # A server that takes no bytes for so long would not answer a Ping either.
            limit = time.monotonic() + self._ping_interval + self._ping_timeout
            self._wait(waits_for, deadline, limit)
            if time.monotonic() >= limit:
                self._loss = _NO_PONG
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        return True


def _wait_for(descriptor: int, event: int, seconds: float) -> None:
    """Wait for EVENT_READ or EVENT_WRITE of a socket.

    `poll` costs a third of a selector that is created for each wait. Windows has only `select`.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN if event == EVENT_READ else select.POLLOUT)
        poll.poll(math.ceil(1000 * seconds))
    else:
        with selectors.SelectSelector() as selector:
            selector.register(descriptor, event)
            selector.select(seconds)
