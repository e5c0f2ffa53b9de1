"""Opening a connection as a client: socket, TLS and opening handshake (RFC 6455, section 4.1).

A deadline is a time of `time.monotonic`. One deadline limits all steps of `connect` together:
the name lookup, every address of the host, TLS and the handshake.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import zip_longest
from typing import Any, cast

from wsproto_min.client_handshake import ClientHandshake
from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import HandshakeResult
from wsproto_min.http import Headers, Response
from wsproto_min.net.url import WebSocketURL

RECEIVE_SIZE = 1 << 16
ATTEMPT_DELAY = 0.25
"""Seconds from one connection attempt to the next (RFC 8305, section 5)."""
MAX_FIRST_LINE = 500
"""Number of bytes of a refusal's body that an error quotes."""

_LENGTH = re.compile("[0-9]{1,9}")
_HEAD = re.compile(rb"(?s).+?(?:\r\n\r\n|\Z)")

Trace = Callable[[Role, bytes], None]
"""Observer of the bytes on the wire: called with their sender and the bytes.

Each head of the handshake comes in a call of its own.
"""


def open_socket(
    url: WebSocketURL, deadline: float, ssl_context: ssl.SSLContext | None
) -> socket.socket:
    """Return a socket that is connected to the URL's host, with TLS for `wss`.

    Args:
        url: Address of the server.
        deadline: Time limit.
        ssl_context: TLS configuration; None verifies the certificate by the system's CAs.

    Raises:
        OSError: The server cannot be reached; `TimeoutError` after the deadline.
    """
    if url.scheme == "ws+unix":
        return _connect_unix(url.host, deadline)
    sock = _connect_tcp(url.host, url.port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "wss":
            context = ssl_context or ssl.create_default_context()
            sock.settimeout(_remaining(deadline))
            sock = context.wrap_socket(sock, server_hostname=url.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tcp(host: str, port: int, deadline: float) -> socket.socket:
    """Return a TCP connection to the address of `host` that accepts one first (RFC 8305).

    An attempt begins when one before it has failed, or after ATTEMPT_DELAY. Earlier attempts
    continue, so no address uses up the time of the others.

    Raises:
        OSError: No address accepts a connection: the error of the last attempt that failed.
            `TimeoutError` after the deadline.
    """
    addresses = _alternate_families(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    failure = OSError(f"{host}: the name has no address")
    attempts: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        try:
            while addresses or attempts:
                wait = _remaining(deadline)
                if addresses:
                    family, address = addresses.popleft()
                    try:
                        sock = socket.socket(family)
                        attempts.add(sock)
                        sock.setblocking(False)
                        with suppress(BlockingIOError):
                            sock.connect(address)
                    except OSError as error:  # also if the machine lacks the address family
                        failure = error
                        continue
                    selector.register(sock, selectors.EVENT_WRITE)
                if addresses:  # under a short time limit, each one gets an equal share
                    wait = min(ATTEMPT_DELAY, wait / (len(addresses) + 1))
                for key, _ in selector.select(wait):
                    sock = cast("socket.socket", key.fileobj)
                    selector.unregister(sock)
                    attempts.remove(sock)
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not number:
                        return sock
                    sock.close()
                    failure = OSError(number, os.strerror(number))
        finally:
            for sock in attempts:
                sock.close()
    raise failure


def _alternate_families(found: Sequence[tuple[Any, ...]]) -> deque[tuple[int, Any]]:
    """Return (family, address) of each result of getaddrinfo (RFC 8305, section 4).

    The order within a family stays. A first address over a broken IPv6 network is followed by
    one over IPv4.
    """
    families: dict[int, list[tuple[int, Any]]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    return deque(each for group in zip_longest(*families.values()) for each in group if each)


def _connect_unix(path: str, deadline: float) -> socket.socket:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("ws+unix: this system has no Unix sockets; use ws or wss")
    sock = socket.socket(family)
    try:
        sock.settimeout(_remaining(deadline))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def perform_handshake(
    sock: socket.socket, handshake: ClientHandshake, deadline: float, trace: Trace | None
) -> HandshakeResult:
    """Send the request and read the response; return the result, which has a connection.

    Raises:
        HandshakeError: The server refused the handshake; the error quotes the first line of
            the response's body. Or the response breaks a rule, or there is none (status 0).
        OSError: The connection broke; `TimeoutError` after the deadline.
    """
    request = handshake.data_to_send()
    if trace is not None:
        trace(Role.CLIENT, request)
    sock.settimeout(_remaining(deadline))
    sock.sendall(request)
    received = b""
    while (result := handshake.next_result()) is None:
        data = _receive(sock, deadline)
        if data:
            handshake.receive_data(data)
        else:
            handshake.receive_eof()
        received += data
    if trace is not None:
        # A 101 may follow 1xx responses, each with a head of its own.
        for head in _HEAD.findall(received.removesuffix(result.trailing_data)):
            trace(Role.SERVER, head)
    response = result.response
    if response is not None and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        line = _first_line(sock, deadline, response, result.trailing_data)
        reason = f"the server answered {response.status}" + (f": {line}" if line else "")
        raise HandshakeError(response.status, reason, response.headers)
    if result.error is not None:
        raise result.error
    return result


def _first_line(sock: socket.socket, deadline: float, response: Response, body: bytes) -> str:
    """Return the first line of a response's body; `body` is the part that has arrived.

    Stops at the length that the headers give, because servers keep connections open.
    """
    headers = Headers(response.headers)
    lengths = [text for text in headers.values("Content-Length") if _LENGTH.fullmatch(text)]
    size = min([MAX_FIRST_LINE, *map(int, lengths)])
    skipped = 1 if headers.values("Transfer-Encoding") else 0  # the line with the chunk's size
    with suppress(OSError):
        while body.count(b"\n") <= skipped and len(body) < size:
            data = _receive(sock, deadline)
            if not data:
                break
            body += data
    line = b"".join(body[:size].split(b"\n")[skipped : skipped + 1])
    return line.decode("utf-8", "replace").strip()


def _receive(sock: socket.socket, deadline: float) -> bytes:
    sock.settimeout(_remaining(deadline))
    return sock.recv(RECEIVE_SIZE)


def _remaining(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises `TimeoutError` after it."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    return remaining
