"""Opening a connection as a client: socket, TLS and opening handshake (RFC 6455, section 4.1).

A deadline is a time of `time.monotonic`. One deadline limits all steps of `connect` together:
the name lookup, every address of the host, the proxy, TLS, the handshake and all redirects.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from http import HTTPStatus

from wsproto_min.client_handshake import ClientHandshake
from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import HandshakeResult
from wsproto_min.http import Headers, Response
from wsproto_min.net.proxy import Proxy, find_proxy, naming, open_tunnel
from wsproto_min.net.redirects import headers_after, next_url
from wsproto_min.net.socks import open_socks_tunnel
from wsproto_min.net.tcp import connect_tcp, connect_unix, receive, time_left
from wsproto_min.net.url import WebSocketURL

MAX_FIRST_LINE = 500
"""Number of bytes of a refusal's body that an error quotes."""

_LENGTH = re.compile("[0-9]{1,9}")
_HEAD = re.compile(rb"(?s).+?(?:\r\n\r\n|\Z)")

Trace = Callable[[Role, bytes], None]
"""Observer of the bytes on the wire: called with their sender and the bytes.

Each head of the handshake comes in a call of its own. The bytes for a proxy do not come.
"""


def open_connection(
    url: WebSocketURL,
    begin: Callable[[WebSocketURL, Sequence[tuple[str, str]]], ClientHandshake],
    headers: Sequence[tuple[str, str]],
    *,
    deadline: float,
    ssl_context: ssl.SSLContext | None,
    proxy: str | bool | None,
    max_redirects: int,
    trace: Trace | None,
) -> tuple[socket.socket, HandshakeResult]:
    """Return an open socket and the result of the handshake, which has a connection.

    Args:
        url: Address of the server.
        begin: Function that returns the handshake for an address and further headers.
        headers: Further headers of the first request.
        deadline: Time limit.
        ssl_context: TLS configuration; None verifies the certificate by the system's CAs.
        proxy: As for `connect`.
        max_redirects: Number of redirects that may be followed.
        trace: As for `connect`.

    Raises:
        ValueError: The URL of the proxy or a header is invalid.
        HandshakeError: The server or the proxy refused, broke a rule, or redirects too often.
        OSError: The server or the proxy cannot be reached; `TimeoutError` after the deadline.
    """
    remaining = max_redirects
    while True:
        handshake = begin(url, headers)
        sock = open_socket(url, deadline, ssl_context, find_proxy(url, proxy))
        try:
            result = _perform_handshake(sock, handshake, deadline, trace)
            if result.connection is not None:
                return sock, result
            response = result.response
            target = next_url(url, response) if response is not None and max_redirects else None
            if response is None or target is None:
                raise _refusal(sock, result, deadline)
            if not remaining:
                reason = f"redirects: over {max_redirects} in a row; check the server for a loop"
                raise HandshakeError(response.status, reason, response.headers)
        except BaseException:
            sock.close()
            raise
        sock.close()
        remaining -= 1
        headers = headers_after(headers, url, target)
        url = target


def open_socket(
    url: WebSocketURL,
    deadline: float,
    ssl_context: ssl.SSLContext | None,
    proxy: Proxy | None = None,
) -> socket.socket:
    """Return a socket that is connected to the URL's host, with TLS for `wss`.

    Args:
        url: Address of the server.
        deadline: Time limit.
        ssl_context: TLS configuration; None verifies the certificate by the system's CAs.
        proxy: Proxy to use, or None.

    Raises:
        HandshakeError: The proxy refused.
        OSError: The server or the proxy cannot be reached; `TimeoutError` after the deadline.
    """
    if url.scheme == "ws+unix":
        return connect_unix(url.host, deadline)
    first = url if proxy is None else proxy
    with nullcontext() if proxy is None else naming(proxy):
        sock = connect_tcp(first.host, first.port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None:
            open_any = open_tunnel if proxy.scheme == "http" else open_socks_tunnel
            with naming(proxy):
                open_any(sock, proxy, url, deadline)
        if url.scheme == "wss":
            context = ssl_context or ssl.create_default_context()
            sock.settimeout(time_left(deadline))
            sock = context.wrap_socket(sock, server_hostname=url.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _perform_handshake(
    sock: socket.socket, handshake: ClientHandshake, deadline: float, trace: Trace | None
) -> HandshakeResult:
    """Send the request and read the response. Raises `OSError`."""
    request = handshake.data_to_send()
    if trace is not None:
        trace(Role.CLIENT, request)
    sock.settimeout(time_left(deadline))
    sock.sendall(request)
    received = b""
    while (result := handshake.next_result()) is None:
        data = receive(sock, deadline)
        if data:
            handshake.receive_data(data)
        else:
            handshake.receive_eof()
        received += data
    if trace is not None:
        # A 101 may follow 1xx responses, each with a head of its own.
        for head in _HEAD.findall(received.removesuffix(result.trailing_data)):
            trace(Role.SERVER, head)
    return result


def _refusal(sock: socket.socket, result: HandshakeResult, deadline: float) -> HandshakeError:
    """Return the error of a failed handshake; quote the first line of the response's body.

    The status is 0 if there is no valid response.
    """
    response = result.response
    if response is not None and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        line = _first_line(sock, deadline, response, result.trailing_data)
        reason = f"the server answered {response.status}" + (f": {line}" if line else "")
        return HandshakeError(response.status, reason, response.headers)
    assert result.error is not None
    return result.error


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
            data = receive(sock, deadline)
            if not data:
                break
            body += data
    line = b"".join(body[:size].split(b"\n")[skipped : skipped + 1])
    return line.decode("utf-8", "replace").strip()
