"""The proxy: a listening socket, and the connections that came through it."""

from __future__ import annotations

import errno
import socket
import sys
from selectors import EVENT_READ

from wsproto_min.http import Request
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.listener import ACCEPT_PAUSE, ACCEPTS_PER_ITERATION, open_tcp_listeners
from wsproto_min.tap.connection import TappedConnection
from wsproto_min.tap.events import Observer, Opened
from wsproto_min.tap.exchange import Exchange, HTTPExchange, WebSocketExchange
from wsproto_min.tap.recording import Endpoint, Recording
from wsproto_min.tap.request import asks_for_websocket
from wsproto_min.tap.upstream import Upstream

HOST = "127.0.0.1"
"""The only address that the tap listens on, because it passes on whole conversations."""


class Proxy:
    """A proxy on the loopback interface.

    Args:
        loop: The event loop.
        upstream: The server behind the tap.
        observe: Receives the events of all connections.

    Attributes:
        recording: The capture file, or None.

    """

    def __init__(self, loop: EventLoop, upstream: Upstream, observe: Observer) -> None:
        self.loop: EventLoop = loop
        self.upstream: Upstream = upstream
        self.observe: Observer = observe
        self.recording: Recording | None = None
        self._numbers = 0
        self._connections: set[TappedConnection] = set()
        self._listener: socket.socket | None = None
        self._port = 0
        self._paused = False

    def listen(self, port: int) -> int:
        """Listen, and return the port; 0 picks a free one. Raises `OSError`."""
        (self._listener,) = open_tcp_listeners(HOST, port)
        self._listener.setblocking(False)
        self.loop.register(self._listener, EVENT_READ, self)
        self._port = self._listener.getsockname()[1]
        return self._port

    def on_ready(self, events: int) -> None:
        """Accept waiting connections, up to a limit."""
        if self._listener is None:
            return
        for _ in range(ACCEPTS_PER_ITERATION):
            try:
                sock, client = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # ECONNABORTED: the client has gone. Other errors: there are no descriptors left,
                # and a ready listener would keep the loop busy.
                if error.errno != errno.ECONNABORTED:
                    self._pause(self._listener, error)
                    return
                continue
            sock.setblocking(False)
            self._connections.add(TappedConnection(self, sock, client))

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        reason = f"{error.strerror}; raise the limit on open files"
        print(f"wsproto_min: cannot accept a connection: {reason}", file=sys.stderr)
        self._paused = True
        self.loop.unregister(listener)
        self.loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            self._paused = False
            self.loop.register(self._listener, EVENT_READ, self)

    def next_number(self) -> int:
        """Return the number of the next connection."""
        self._numbers += 1
        return self._numbers

    def new_exchange(self, number: int, request: Request, client: Endpoint) -> Exchange:
        """Return the observer of a connection: for a WebSocket or for plain HTTP."""
        if not asks_for_websocket(request):
            return HTTPExchange(number, self.observe, request)
        self.observe(Opened(number, f"{client[0]}:{client[1]}", request.target))
        record = None
        if self.recording is not None:
            record = self.recording.connection(client, (HOST, self._port))
        return WebSocketExchange(number, self.observe, record)

    def on_closed(self, connection: TappedConnection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def close(self) -> None:
        """Close the listener and all connections, each with its verdict."""
        if self._listener is not None:
            if not self._paused:
                self.loop.unregister(self._listener)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.close()
