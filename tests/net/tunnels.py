"""Proxies in threads: one for CONNECT (RFC 9110, section 9.3.6), one for SOCKS5 (RFC 1928)."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.net.test_client import read_request
from tests.support import PATIENCE, Address
from wsproto_min.http import Request

Begin = Callable[[socket.socket], Address]
"""Handshake of a proxy: returns the address to which the client wants a tunnel."""


def relay(client: socket.socket, address: Address, limit: float) -> None:
    """Connect to the address and forward bytes in both directions until one side ends.

    Stops after `limit` bytes.
    """
    with socket.create_connection(address, PATIENCE) as server:
        while limit > 0:
            ready, _, _ = select.select([client, server], [], [], PATIENCE)
            for source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                (server if source is client else client).sendall(data)
                limit -= len(data)


@contextmanager
def tunnels(begin: Begin, *, limit: float = math.inf) -> Iterator[Address]:
    """Run a proxy; yield its address. It ends connections that break.

    Each connection breaks after about `limit` bytes.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(sock: socket.socket) -> None:
            with sock, suppress(OSError):
                sock.settimeout(PATIENCE)
                relay(sock, begin(sock), limit)

        def accept() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=serve, args=[sock], daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        thread.join(PATIENCE)
        assert not thread.is_alive()


class ConnectProxy:
    """Handshake of an HTTP proxy.

    Every name leads to `target`, if there is one. `requests` has the requests for a tunnel.
    """

    def __init__(self, target: Address | None = None, answer: str = "HTTP/1.1 200 OK") -> None:
        self.requests: list[Request] = []
        self._target = target
        self._answer = answer

    def __call__(self, sock: socket.socket) -> Address:
        request = read_request(sock)
        self.requests.append(request)
        sock.sendall(f"{self._answer}\r\nVia: test\r\n\r\n".encode())
        host, _, port = request.target.rpartition(":")
        return self._target or (host, int(port))


class SocksProxy:
    """Handshake of a SOCKS5 proxy.

    Every name leads to `target`. `received` has the bytes of the client, step by step.
    """

    def __init__(self, target: Address, *, user: str = "", password: str = "") -> None:
        self.received: list[bytes] = []
        self._target = target
        self._user = user
        self._password = password

    def __call__(self, sock: socket.socket) -> Address:
        self._next(sock)
        if self._user:
            sock.sendall(b"\x05\x02")
            user, password = self._user.encode(), self._password.encode()
            expected = b"\x01%c%b%c%b" % (len(user), user, len(password), password)
            is_right = self._next(sock) == expected
            sock.sendall(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                raise ConnectionAbortedError
        else:
            sock.sendall(b"\x05\x00")
        self._next(sock)
        for byte in b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\xd2":
            sock.sendall(bytes([byte]))  # the client must not take a read for a reply
        return self._target

    def _next(self, sock: socket.socket) -> bytes:
        self.received.append(sock.recv(1 << 10))
        return self.received[-1]
