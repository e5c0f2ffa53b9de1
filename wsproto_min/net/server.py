"""The server: listening sockets, the turn, and an orderly end.

    from wsproto_min import Server

    server = Server(on_message=lambda peer, message: peer.send(message))
    server.listen("127.0.0.1", 8080)
    server.run()

A turn of `run` waits until sockets are ready, reads each once, and writes at its
end whatever was sent in it (see `group`), but for the answers to handshakes. The
callbacks run in the thread of `run`, one at a time; none of them may block.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ

from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.handshake import Acceptance, accept
from wsproto_min.http import Request, Response
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.net.broadcast import Group
from wsproto_min.net.peer import Peer, ServerContext
from wsproto_min.net.tls import TLSSocket

# What a listener's queue may hold; the kernel cuts it to net.core.somaxconn.
BACKLOG = 1024
# New connections that a turn accepts at the most, so that none starves the rest.
ACCEPTS_PER_TURN = 64
# To ask for another in vain takes a tenth of a handshake's time. So a turn accepts
# one alone, unless so many turns before it have found one.
SINGLE_ACCEPTS = 4
# Without descriptors or memory, accepting is retried after this many seconds.
ACCEPT_PAUSE = 0.5
# What an HTTP client has left, in seconds, to take its answer when all peers have gone.
LAST_ANSWERS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

logger = logging.getLogger("wsproto_min")


def _accept(peer: Peer, request: Request) -> Acceptance:
    return accept(request, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)


def _ignore(*arguments: object) -> None:
    pass


class Server:
    """A WebSocket server on non-blocking sockets and one selector.

    Callbacks, all optional but the first:

    - `on_message(peer, message)`: a text (`str`) or binary (`bytes`) message.
    - `on_request(peer, request)`: return the HTTP answer; status 101 (from
      `accept`, by default with `DeflateParameters.NO_CONTEXT_TAKEOVER`) opens the connection, any
      other is sent and the connection closed. May raise `HandshakeError`.
    - `on_open(peer)` and `on_close(peer)`: once each, in this order.
    - `on_accept(peer)` and `on_disconnect(peer)`: when its socket has been accepted,
      before anything is read (`peer.abort()` turns it away), and when it is
      closed; for every peer, one that never opens included.
    - `on_before_flush()`: after all that was ready has been read, before what was
      sent in the turn goes out (but the answer to a handshake, and what `on_open`
      sends, may be gone); the place to act on a turn's messages together.
    - `on_iteration_end(seconds)`: after all that, with the time that the turn took
      since it had something to do; what is sent here waits for the next turn.

    Limits: `max_message_size` bytes and `max_fragments` for what a peer sends
    in one message (see `MessageAssembler`); `write_buffer_limit` bytes that may wait for
    a peer that reads slowly, which beyond that is closed with 1008;
    `open_timeout` seconds for a whole handshake, TLS included, and
    `close_timeout` seconds for the peer's part of the closing one.

    `compression_threshold`: bytes from which a message is compressed, for those peers
    with whom that was agreed. A peer is sent a Ping every `ping_interval`
    seconds (None: never) and cut when nothing at all is heard of it within
    `ping_timeout` seconds after one.
    """

    def __init__(
        self,
        *,
        on_message: Callable[[Peer, str | bytes], None],
        on_request: Callable[[Peer, Request], Response | Acceptance] | None = None,
        on_open: Callable[[Peer], None] = _ignore,
        on_close: Callable[[Peer], None] = _ignore,
        on_accept: Callable[[Peer], None] = _ignore,
        on_disconnect: Callable[[Peer], None] = _ignore,
        on_before_flush: Callable[[], None] = _ignore,
        on_iteration_end: Callable[[float], None] | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        write_buffer_limit: int = 4 << 20,
        open_timeout: float = 10.0,
        close_timeout: float = 10.0,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
    ) -> None:
        self._context = ServerContext(
            on_request=on_request or _accept,
            on_open=on_open,
            on_accept=on_accept,
            on_message=on_message,
            max_message_size=max_message_size,
            max_fragments=max_fragments,
            write_buffer_limit=write_buffer_limit,
            open_timeout=open_timeout,
            close_timeout=close_timeout,
            compression_threshold=compression_threshold,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
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
        """Every peer with a socket, those in a handshake included."""
        return frozenset(self._context.peers)

    @property
    def bytes_received(self) -> int:
        """How many bytes have come from all peers so far, TLS taken off."""
        return self._context.bytes_received

    @property
    def bytes_sent(self) -> int:
        """How many have gone to all peers' sockets, or to the queues before them."""
        return self._context.write_coalescer.bytes_sent

    def group(self) -> Group:
        """Return a new, empty group of this server's peers."""
        return Group(self._context.write_coalescer, self._context.compression_threshold)

    def listen(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen on a TCP address; return it, with the port chosen if `port` is 0.

        `ssl_context` makes it `wss`. Raises `OSError` if the address is taken,
        not this machine's, or none.
        """
        # Left to itself, the look-up would take a larger one modulo 65536.
        if not 0 <= port < 1 << 16:
            raise OSError(errno.EINVAL, "a port is a number from 0 to 65535")
        flags = socket.AI_PASSIVE
        try:
            info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)[0]
        except UnicodeError:  # from the codec that names pass through
            raise OSError(errno.EINVAL, "this cannot be a host's name") from None
        sock = socket.create_server(info[4], family=info[0], backlog=BACKLOG)
        # Accepted sockets inherit it: a turn's bytes go out in one write, and
        # waiting for more of them (Nagle) would only add delay.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.listen_on(sock, ssl_context)
        address: tuple[str, int] = sock.getsockname()[:2]
        return address

    def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket, which owner and group may use (mode 0660).

        A socket that a server left behind is replaced. Raises `OSError`, with
        EADDRINUSE if a server answers there or the path is no socket.
        """
        _remove_stale_socket(path)
        sock = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o117)
        try:
            sock.bind(path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
        self.listen_on(sock)

    def listen_on(self, sock: socket.socket, ssl_context: ssl.SSLContext | None = None) -> None:
        """Accept connections from a listening socket, and own it from now on."""
        self._listeners.append(Listener(self._context, sock, ssl_context))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop, once, in so many seconds."""
        self._loop.call_later(seconds, partial(self._call, callback))

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop; any thread or signal handler may ask for it."""
        self._loop.call_soon_threadsafe(partial(self._call, callback))

    def run(self) -> None:
        """Serve until `stop`; then release every socket. A server runs once."""
        try:
            with self._loop.woken_by_signals():
                self._take_turns()
        finally:
            self._close_listeners()
            for peer in self.peers:
                peer.abort()
            self._loop.close()

    def _take_turns(self) -> None:
        while not (self._stopping and not self._context.peers):
            self._loop.run_once()
            self._end_turn()
            if self._on_iteration_end is not None:
                self._call(self._on_iteration_end, time.monotonic() - self._loop.woke_at)
            if self._stopping and self._listeners and not self._has_connections():
                self._begin_stop(LAST_ANSWERS, accepting=False)
        self._end_turn()  # of those who were cut last

    def stop(self, grace: float = 1.0, *, accepting: bool = False) -> None:
        """Make `run` return; any thread or signal handler may ask for it.

        What has arrived by then is acted on first, as far as one read of each peer
        goes. Then nobody is accepted any more, peers are sent Close 1001 after what
        they were sent before, and whoever has not answered in `grace` seconds is cut;
        called again, it can only end earlier. While `accepting`, sockets are accepted
        until the last peer has gone, for `on_request` to refuse them.
        """
        begin = partial(self._begin_stop, grace, accepting)
        # A turn later than it could be: what has arrived by now is read first.
        self._loop.call_soon_threadsafe(partial(self._loop.call_soon_threadsafe, begin))

    def _begin_stop(self, grace: float, accepting: bool) -> None:
        self._end_turn()  # for what it has read is answered before the Close
        if not self._stopping:
            self._stopping = True
            self._context.close_timeout = grace  # all of it, to take what is queued
        if not accepting:
            self._close_listeners()
        for peer in self.peers:
            if peer.connection is not None or not accepting:
                peer.go_away("the server is stopping")
        self._end_turn()  # without any grace there is no other moment to write it
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

    def _end_turn(self) -> None:
        """Tell the application who has left, let it act on the turn, then write."""
        while True:
            # In this order, for whoever `on_close` aborts has yet to be told to have left.
            gone, self._context.gone = self._context.gone, []
            left, self._context.left = self._context.left, []
            for peer in left:
                self._call(self._on_close, peer)
            self._call(self._on_before_flush)
            self._context.write_coalescer.flush()
            for peer in gone:  # last, for nobody waits for this
                self._call(self._on_disconnect, peer)
            # Unless somebody was lost in writing, or is to be told something more.
            if not (self._context.left or self._context.gone or self._context.write_coalescer):
                return

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("an application callback failed")


class Listener:
    """A listening socket in the loop."""

    def __init__(
        self, service: ServerContext, sock: socket.socket, ssl_context: ssl.SSLContext | None
    ) -> None:
        sock.setblocking(False)
        self._ssl_context = ssl_context
        self._context = service
        self._socket = sock
        self._in_a_row = 0  # turns that have found whom they could accept
        self._paused = False
        self._closed = False
        service.loop.register(sock, EVENT_READ, self)

    def on_ready(self, events: int) -> None:
        """Accept those who wait, up to a number."""
        for _ in range(1 if self._in_a_row < SINGLE_ACCEPTS else ACCEPTS_PER_TURN):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                self._in_a_row = 0
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # this one has gone again (ECONNABORTED and its like)
            sock.setblocking(False)
            context = self._ssl_context
            try:
                transport = sock if context is None else TLSSocket(sock, context)
                peer = Peer(self._context, transport, _format_address(address))
            except OSError:  # TLS asks at once for the peer, who may be gone
                continue
            # A request that has come already is answered a turn earlier.
            peer.on_ready(EVENT_READ)
        self._in_a_row += 1

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a while: a ready listener must not spin the loop."""
        logger.warning("cannot accept: %s; trying again in %g s", error, ACCEPT_PAUSE)
        self._paused = True
        self._context.loop.unregister(self._socket)
        self._context.loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._paused = False
            self._context.loop.register(self._socket, EVENT_READ, self)

    def close(self) -> None:
        """Accept nobody any more."""
        self._closed = True
        if not self._paused:
            self._context.loop.unregister(self._socket)
        if self._socket.family == socket.AF_UNIX:
            with suppress(OSError, ValueError):  # it need not have a name in the file system
                os.unlink(self._socket.getsockname())
        self._socket.close()


def _remove_stale_socket(path: str) -> None:
    """Remove a Unix socket at which nobody answers any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one whose queue is full is alive, too
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _format_address(address: tuple[str, int] | str | bytes) -> str:
    """Return "host:port", with an IPv6 host in brackets as in a URL, or "unix"."""
    if isinstance(address, str | bytes):  # bytes: a client's name that is not a file's
        return "unix"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
