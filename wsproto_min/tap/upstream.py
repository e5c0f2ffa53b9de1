"""Connections to the upstream: TCP and TLS in a short-lived thread, then a non-blocking socket.

The name lookup of the system blocks. So a thread connects and makes the TLS handshake, and hands
the socket to the event loop. Other connections do not wait.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE

from wsproto_min.errors import HandshakeError
from wsproto_min.net.connector import open_socket
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.proxy import find_proxy
from wsproto_min.net.tls import TLSSocket
from wsproto_min.net.url import WebSocketURL

CONNECT_TIMEOUT = 10.0
"""Seconds for the name lookup, TCP and TLS together."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind the tap.

    Attributes:
        text: The URL as the user wrote it.
        url: Its parts.
        ssl_context: TLS configuration for `wss`.

    """

    text: str
    url: WebSocketURL
    ssl_context: ssl.SSLContext

    def connect(self, loop: EventLoop, callback: Callable[[socket.socket | str], None]) -> None:
        """Connect in a thread; call `callback` in the loop with a socket or the reason of failure.

        A proxy of the environment is used as by `connect`.
        """
        threading.Thread(target=self._run, args=(loop, callback), daemon=True).start()

    def _run(self, loop: EventLoop, callback: Callable[[socket.socket | str], None]) -> None:
        result: socket.socket | str
        try:
            deadline = time.monotonic() + CONNECT_TIMEOUT
            proxy = find_proxy(self.url, True)
            result = open_socket(self.url, deadline, self.ssl_context, proxy)
            result.setblocking(False)
        except (OSError, HandshakeError, ValueError) as error:
            result = f"cannot connect to {self.text}: {error}"
        loop.call_soon_threadsafe(partial(callback, result))


class ClientTLSSocket(TLSSocket):
    """Client end of a TLS connection, after its TLS handshake."""

    __slots__ = ()

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._ssl = sock
        self.read_waits_for: int = EVENT_READ
        self.write_waits_for: int = EVENT_WRITE

    def recv(self, size: int) -> bytes:
        """Return bytes as in the base class; after `half_close`, too, the end is `b""`."""
        try:
            return super().recv(size)
        except ssl.SSLZeroReturnError:  # both ends have sent close_notify
            return b""

    def half_close(self) -> None:
        """Send close_notify and FIN. Unlike after `shutdown`, later input is still decrypted."""
        self._send_close_notify()
        socket.socket.shutdown(self._ssl, socket.SHUT_WR)
