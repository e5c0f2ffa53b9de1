"""A WebSocket server on one thread: its callbacks, its loop, and its orderly end.

    from wsproto_min import Server

    server = Server(on_message=lambda peer, message: peer.send(message))
    server.listen("127.0.0.1", 8080)
    server.run()

An iteration of `run` waits until sockets are ready, reads each of them once, and calls the
application. It then writes everything that was sent, in one write for each peer. Only the
responses to handshakes go out earlier. Callbacks run in the thread of `run`, one at a time, and
must not block. Other threads call `Server.call_soon_threadsafe` and `Server.stop` only: peers,
groups and timers raise `RuntimeError` there.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.extensions import Extension
from wsproto_min.http import Request, Response
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE, MessageChunk
from wsproto_min.net.broadcast import Group
from wsproto_min.net.context import ServerContext
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.listener import Listener, open_tcp_listeners, open_unix_listener
from wsproto_min.net.peer import Peer
from wsproto_min.net.write_buffer import DEFAULT_HIGH_MARK, DEFAULT_LOW_MARK
from wsproto_min.server_handshake import Acceptance, Deferred, accept

if TYPE_CHECKING:
    import ssl

# Seconds for HTTP clients to receive their responses after the last WebSocket peer has gone.
FINAL_RESPONSE_TIMEOUT = 1.0

_COMPRESSION = DeflateParameters.NO_CONTEXT_TAKEOVER

logger: logging.Logger = logging.getLogger("wsproto_min")


def _ignore(*arguments: object) -> None:
    pass


class Server:
    """A WebSocket server on non-blocking sockets and one selector.

    The server logs each exception in a callback. An exception in `on_accept` closes the socket.
    An exception in `on_request` refuses the handshake with 500. An exception in `on_open` or
    `on_message` closes the peer with 1011.

    Args:
        on_message: `on_message(peer, message)` receives a text (`str`) or binary (`bytes`)
            message.
        on_request: `on_request(peer, request)` returns an `Acceptance` (from `accept`) to open
            the connection, a `Response` to answer and close, or a `Deferred` to call
            `Peer.respond` later. It may raise `HandshakeError`. The default accepts every valid
            handshake with the arguments `subprotocols`, `origins` and `compression`.
        subprotocols: Subprotocols of the server, the preferred one first.
        origins: Sites whose pages may connect, such as "https://example.org"; None for all.
            A client without an Origin header, which is no browser, may always connect.
        compression: Configuration of permessage-deflate; None declines all offers.
        extensions: Further extensions of the server, beside permessage-deflate.
        on_chunk: `on_chunk(peer, chunk)` receives a `MessageChunk` from a peer that was told
            `receive_chunks`.
        on_drained: `on_drained(peer)` comes when a write buffer has come down to its low mark
            after it was above its high mark, or after `OutgoingStream.send` has returned False.
            It comes in the next iteration, so that a quick peer does not keep others waiting.
        on_open: `on_open(peer)` comes once the handshake is complete.
        on_close: `on_close(peer)` comes once for each opened peer, when closing has begun.
        on_accept: `on_accept(peer)` comes before anything is read. `peer.abort()` refuses
            the connection.
        on_disconnect: `on_disconnect(peer)` comes when a socket is closed, for each accepted
            peer, after `on_close`.
        on_before_flush: `on_before_flush()` comes after all ready sockets were read and before
            the iteration's messages go out. Act here on several messages together.
        on_iteration_end: `on_iteration_end(seconds)` receives the time that the iteration took
            after its wait. Messages sent here go out at once, outside this time.
        max_message_size: Largest message in bytes that a peer may send.
        max_fragments: Maximum number of fragments of a message; see `MessageAssembler` for
            the default.
        write_buffer_limit: Bytes that may wait for a slow reader. A peer beyond the limit is
            closed with 1008.
        write_high_mark: Bytes in a peer's write buffer above which `OutgoingStream.send` returns
            False; at most `write_buffer_limit`. `Peer.set_write_marks` changes both marks.
        write_low_mark: Bytes in a peer's write buffer at which `on_drained` comes.
        total_write_buffer_limit: Bytes of memory for the write buffers of all peers. Beyond the
            limit the server closes the sockets of the slowest peers first: the peers whose
            write buffer was empty the longest time ago.
        write_timeout: Seconds for which a peer may take none of its waiting bytes. The server
            then closes its socket, even if the peer sends.
        total_unfinished_limit: Bytes of memory for the unfinished messages of all peers. Beyond
            the limit the server closes the peers with the oldest messages with 1013.
        max_pending_handshakes: Number of connections with an incomplete handshake. Beyond the
            limit the server closes the socket of the oldest one.
        max_body_size: Largest body in bytes of a plain HTTP request, `Request.body`. A larger one
            is refused with 413, a POST, PUT or PATCH without Content-Length with 411. 0 reads no
            bodies and checks none of their headers. Bodies count as unfinished messages for
            `total_unfinished_limit`.
        open_timeout: Seconds for the whole opening handshake, TLS included. A deferred response
            has as many seconds from its request on.
        close_timeout: Seconds from the first Close frame, or from a refusal, to the closed
            socket. The limit includes the write buffer, the peer's reply and the end of its
            stream.
        compression_threshold: Smallest message in bytes that is compressed, for peers that
            negotiated compression.
        ping_interval: Seconds from one Ping to the next. A longer `ping_timeout` delays the
            next Ping to the end of the timeout. None disables Pings.
        ping_timeout: Seconds that the server waits after a Ping for received bytes or write
            progress.
        max_connection_age: Seconds after which the server closes a connection with 1001, so that
            clients reconnect, for example to a newer server. Each connection ends at 90% to
            100% of this age, so not all end at once. None for no limit.
        control_rate_limit: Pings and unsolicited Pongs that a peer may send per second, and
            twice as many at once. The server reads nothing for 1 s from a peer beyond the limit.
            `math.inf` disables the limit.
        trace: Log each head and frame of each connection at DEBUG, for debugging: True for the
            logger "wsproto_min", or another logger. The lines show the start of each payload.
            A connection that is accepted while the logger is not at DEBUG is not traced.

    Raises:
        ValueError: `control_rate_limit` or `max_connection_age` is not above 0, the write marks
            are not 0 <= low <= high, or `on_request` comes with options that belong to `accept`.

    """

    def __init__(
        self,
        *,
        on_message: Callable[[Peer, str | bytes], None],
        on_request: Callable[[Peer, Request], Response | Acceptance | Deferred] | None = None,
        subprotocols: Sequence[str] = (),
        origins: Collection[str] | None = None,
        compression: DeflateParameters | None = _COMPRESSION,
        extensions: Sequence[Extension] = (),
        on_chunk: Callable[[Peer, MessageChunk], None] | None = None,
        on_drained: Callable[[Peer], None] | None = None,
        on_open: Callable[[Peer], None] = _ignore,
        on_close: Callable[[Peer], None] = _ignore,
        on_accept: Callable[[Peer], None] = _ignore,
        on_disconnect: Callable[[Peer], None] = _ignore,
        on_before_flush: Callable[[], None] = _ignore,
        on_iteration_end: Callable[[float], None] | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        write_buffer_limit: int = 4 << 20,
        write_high_mark: int = DEFAULT_HIGH_MARK,
        write_low_mark: int = DEFAULT_LOW_MARK,
        open_timeout: float = 10.0,
        close_timeout: float = 10.0,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        control_rate_limit: float = 100.0,
        total_write_buffer_limit: int = 256 << 20,
        write_timeout: float = 60.0,
        total_unfinished_limit: int = 128 << 20,
        max_pending_handshakes: int = 1024,
        max_body_size: int = 0,
        max_connection_age: float | None = None,
        trace: bool | logging.Logger = False,
    ) -> None:
        if on_request is None:

            def on_request(peer: Peer, request: Request) -> Acceptance:
                return accept(
                    request,
                    subprotocols=subprotocols,
                    origins=origins,
                    compression=compression,
                    extensions=extensions,
                )

        elif subprotocols or extensions or origins is not None or compression != _COMPRESSION:
            raise ValueError(
                "on_request: decides about subprotocols, origins, compression and extensions;"
                " pass these arguments to accept() instead"
            )
        if not control_rate_limit > 0:
            raise ValueError("control_rate_limit: must be above 0; use math.inf for no limit")
        if max_connection_age is not None and not 0 < max_connection_age < math.inf:
            raise ValueError("max_connection_age: must be above 0; use None for no limit")
        self._context = ServerContext(
            on_request=on_request,
            on_open=on_open,
            on_accept=on_accept,
            on_message=on_message,
            on_chunk=on_chunk,
            on_drained=on_drained,
            max_message_size=max_message_size,
            max_fragments=max_fragments,
            write_buffer_limit=write_buffer_limit,
            write_high_mark=write_high_mark,
            write_low_mark=write_low_mark,
            open_timeout=open_timeout,
            close_timeout=close_timeout,
            compression_threshold=compression_threshold,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            control_rate_limit=control_rate_limit,
            total_write_buffer_limit=total_write_buffer_limit,
            write_timeout=write_timeout,
            total_unfinished_limit=total_unfinished_limit,
            max_pending_handshakes=max_pending_handshakes,
            max_body_size=max_body_size,
            max_connection_age=max_connection_age,
            trace=(logger if trace else None) if isinstance(trace, bool) else trace,
        )
        self._loop = self._context.loop
        self._on_close = on_close
        self._on_disconnect = on_disconnect
        self._on_before_flush = on_before_flush
        self._on_iteration_end = on_iteration_end
        self._listeners: list[Listener] = []
        self._stopping = False

    @property
    def peers(self) -> frozenset[Peer]:
        """All peers that have a socket, including peers in their handshake."""
        return frozenset(self._context.peers)

    @property
    def loop(self) -> EventLoop:
        """The event loop. `run` calls the handlers of further sockets in it, too."""
        return self._loop

    @property
    def bytes_received(self) -> int:
        """Number of bytes received from all peers, after TLS decryption."""
        return self._context.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Number of bytes passed to open sockets, before TLS encryption.

        Includes bytes in write buffers, and bytes that a failing socket did not take.
        """
        return self._context.write_coalescer.bytes_sent

    def group(self) -> Group:
        """Return a new empty group for peers of this server."""
        return Group(self._context.write_coalescer, self._context.compression_threshold)

    def listen(
        self,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        *,
        reuse_port: bool = False,
    ) -> tuple[str, int]:
        """Listen on every address of a host; call this again for further hosts and ports.

        Args:
            host: Name or address of a local interface. "::" accepts IPv6 and IPv4, "" listens
                on all interfaces. Of a name the addresses are used that this machine has.
            port: Port from 0 to 65535; 0 picks a free one, the same for all addresses.
            ssl_context: TLS configuration, which makes the server's URL `wss`. Changes of the
                context, such as `load_cert_chain`, hold for later connections.
            reuse_port: Share the port with other processes of the same user that use this
                option (SO_REUSEPORT). The kernel distributes new connections among them.

        Returns:
            First address, and the port.

        Raises:
            OSError: An address is invalid or in use, or none is an address of this machine.
            ValueError: The system does not have SO_REUSEPORT.

        """
        self._context.write_coalescer.check_thread()
        sockets = open_tcp_listeners(host, port, reuse_port=reuse_port)
        for sock in sockets:
            self.listen_on(sock, ssl_context)
        address: tuple[str, int] = sockets[0].getsockname()[:2]
        return address

    def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket for its owner and group (mode 0660).

        Replaces a stale socket file, on which no server listens.

        Raises:
            OSError: The path is unusable. With EADDRINUSE: a server answers there, or the
                file is not a socket.

        """
        self._context.write_coalescer.check_thread()
        self.listen_on(open_unix_listener(path))

    def listen_on(self, sock: socket.socket, ssl_context: ssl.SSLContext | None = None) -> None:
        """Accept connections from a listening socket; the server closes it."""
        self._context.write_coalescer.check_thread()
        self._listeners.append(Listener(self._context, sock, ssl_context))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, in the server's thread, `seconds` from now."""
        self._context.write_coalescer.check_thread()
        self._loop.call_later(seconds, partial(self._call, "call_later", callback))

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the server's thread; any thread or signal handler may call this."""
        self._loop.call_soon_threadsafe(partial(self._call, "call_soon_threadsafe", callback))

    def run(self) -> None:
        """Serve until `stop`, then close every socket. A server runs once."""
        self._context.write_coalescer.thread = get_ident()
        try:
            with self._loop.woken_by_signals():
                self._run_loop()
        finally:
            self._abort_all()
            self._loop.close()
            self._context.write_coalescer.thread = 0

    def _run_loop(self) -> None:
        while not (self._stopping and not self._context.peers):
            self._loop.run_once()
            self._end_iteration()
            if self._on_iteration_end is not None:
                seconds = time.monotonic() - self._loop.woke_at
                self._call("on_iteration_end", self._on_iteration_end, seconds)
                if self._has_pending():  # the next wait has no limit
                    self._end_iteration()
            if self._stopping and self._listeners and not self._has_connections():
                self._begin_stop(FINAL_RESPONSE_TIMEOUT, accepting=False)
        self._end_iteration()  # callbacks for the last peers

    def _end_iteration(self) -> None:
        """Call callbacks and write frames until neither is pending."""
        context = self._context
        while True:
            # Take both lists first: on_close may abort other peers, and their on_close must
            # come before their on_disconnect.
            disconnected, context.disconnected = context.disconnected, []
            closed, context.closed = context.closed, []
            for peer in closed:
                context.pings.close(peer)
                self._call("on_close", self._on_close, peer)
            self._call("on_before_flush", self._on_before_flush)
            context.write_coalescer.flush()
            for peer in disconnected:  # after the writes, which are urgent
                self._call("on_disconnect", self._on_disconnect, peer)
            if not self._has_pending():
                return

    def _has_pending(self) -> bool:
        """Return True if callbacks or frames are pending."""
        context = self._context
        return bool(context.closed or context.disconnected or context.write_coalescer)

    def _call(self, name: str, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("%s: raised an exception; fix the callback", name)

    def stop(self, grace: float = 1.0, *, accepting: bool = False) -> None:
        """Make `run` return; any thread or signal handler may call this.

        The server first reads once from each peer and processes these bytes. Then it closes
        its listeners and sends every peer Close 1001, after everything that the peer was sent
        before. A second call can only make the end come earlier.

        Args:
            grace: Seconds for peers to answer; then the server closes their sockets.
            accepting: Keep accepting until the last peer has gone, so that `on_request` can
                refuse new clients with a reason.

        """
        begin = partial(self._begin_stop, grace, accepting)
        # Two hops, so that one iteration reads the data that has arrived by now.
        self._loop.call_soon_threadsafe(partial(self._loop.call_soon_threadsafe, begin))

    def _begin_stop(self, grace: float, accepting: bool) -> None:
        self._end_iteration()  # replies to the data just read precede the Close frames
        if not self._stopping:
            self._stopping = True
            self._context.close_timeout = grace  # slow readers may use all of it
        if not accepting:
            self._close_listeners()
        for peer in self.peers:
            if peer.connection is not None or not accepting:
                peer.go_away("the server is stopping")
        self._end_iteration()  # with a grace of 0 s, the last chance to write
        self._loop.call_later(grace, self._abort_all)

    def _has_connections(self) -> bool:
        return any(peer.connection is not None for peer in self._context.peers)

    def _abort_all(self) -> None:
        self._close_listeners()
        for peer in self.peers:
            peer.abort()

    def _close_listeners(self) -> None:
        while self._listeners:
            self._listeners.pop().close()
