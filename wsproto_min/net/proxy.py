"""Connections of a client through a proxy (RFC 6455, section 4.1, item 3).

An HTTP proxy opens a tunnel at the request CONNECT (RFC 9110, section 9.3.6). Module `socks` has
the handshake of a SOCKS5 proxy. TLS with the server runs inside the tunnel. The connection to the
proxy itself has no TLS. Errors name the proxy without its user name and password.
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from wsproto_min.errors import HandshakeError
from wsproto_min.http import Response, encode_head
from wsproto_min.http_reader import HeadReader, parse_response
from wsproto_min.net.tcp import receive, time_left
from wsproto_min.net.url import WebSocketURL, bracketed, to_a_labels

DEFAULT_PORTS: dict[str, int] = {"http": 80, "socks5": 1080, "socks5h": 1080}
"""Port of each kind of proxy if its URL names none."""
MAX_SOCKS_CREDENTIAL = 255
"""Maximum size of a user name or password for SOCKS5, in bytes (RFC 1929, section 2)."""

_HTTP_1_0 = re.compile(rb"\AHTTP/1\.0 ")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Address of a proxy.

    Attributes:
        scheme: `http` for CONNECT; `socks5` (the client resolves the server's name) or
            `socks5h` (the proxy does).
        host: Host name in A-label form, or IP address.
        port: TCP port.
        username: User name, or None for no authentication.
        password: Password; empty without a user name.
    """

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the address as errors show it, without user name and password."""
        return f"proxy {self.scheme}://{bracketed(self.host)}:{self.port}"


def parse_proxy(url: str) -> Proxy:
    """Parse `http://[USER:PASSWORD@]HOST[:PORT]`, or the same with `socks5` or `socks5h`.

    A missing scheme means `http`. User name and password are percent-decoded.

    Raises:
        ValueError: The URL has another form. The error does not contain user and password.
    """
    if "://" not in url:
        url = f"http://{url}"
    shown = re.sub("//.*@", "//", url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its text may contain a part of the password
        host, port = "", None
    if not host or parts.scheme not in DEFAULT_PORTS or parts.path not in ("", "/"):
        raise ValueError(
            f"proxy {shown!r}: unknown form or scheme;"
            " write http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT"
        )
    username = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    if username is not None:
        if parts.scheme == "http" and ":" in username:  # RFC 7617, section 2
            raise ValueError(f"proxy {shown!r}: the user name contains ':'; use another one")
        sizes = len(username.encode()), len(password.encode())
        if parts.scheme != "http" and max(sizes) > MAX_SOCKS_CREDENTIAL:
            raise ValueError(
                f"proxy {shown!r}: the user name or password is too long;"
                f" SOCKS5 allows {MAX_SOCKS_CREDENTIAL} bytes each"
            )
    if ":" not in host:
        host = to_a_labels(host)
    return Proxy(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], username, password)


def find_proxy(url: WebSocketURL, proxy: str | bool | None) -> Proxy | None:
    """Return the proxy for a server, or None for a direct connection.

    Args:
        url: Address of the server.
        proxy: URL of a proxy; None or False for none. True for the proxy of the environment, as
            `urllib.request.getproxies` and `proxy_bypass` give it: that of SOCKS before that of
            HTTPS, as section 4.1 recommends, and that of HTTP for `ws` only. Unix sockets and
            loopback addresses need no proxy of the environment.

    Raises:
        ValueError: The proxy's URL is invalid, or `url` is that of a Unix socket.
    """
    if proxy is True:
        proxy = None if url.scheme == "ws+unix" or _is_loopback(url.host) else _configured(url)
    if proxy is None or proxy is False:
        return None
    if url.scheme == "ws+unix":
        raise ValueError("proxy: not possible for a Unix socket; omit the argument")
    return parse_proxy(proxy)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3


def _configured(url: WebSocketURL) -> str | None:
    """Return the proxy of the environment, in `url`'s scheme or in a more general one."""
    from urllib.request import getproxies, proxy_bypass  # 20 ms, so not for local servers

    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxies = getproxies()
    http = ["http"] if url.scheme == "ws" else []
    for name in (url.scheme, "socks", "https", *http, "all"):
        if found := proxies.get(name):
            # macOS gives the address of a SOCKS proxy with the scheme http.
            is_socks = name == "socks" and not found.startswith("socks")
            return f"socks5h://{found.removeprefix('http://')}" if is_socks else found
    return None


@contextmanager
def naming(proxy: Proxy) -> Iterator[None]:
    """Put the proxy's name before the text of an `OSError` in the block."""
    try:
        yield
    except OSError as error:
        problem = f"{proxy}: {error.strerror or error}"
        error.strerror, error.args = problem, (*error.args[:-1], problem)
        raise


def open_tunnel(sock: socket.socket, proxy: Proxy, url: WebSocketURL, deadline: float) -> None:
    """Ask an HTTP proxy for a tunnel to the server of `url` (RFC 9110, section 9.3.6).

    Args:
        sock: Connection to the proxy; afterwards the connection to the server.
        proxy: The proxy, for its user name and for errors.
        url: Address of the server.
        deadline: Time limit.

    Raises:
        HandshakeError: The proxy refused with the error's status, or its response is invalid
            (status 0).
        OSError: The connection broke; `TimeoutError` after the deadline.
    """
    fields = [("Host", url.authority)]
    if proxy.username is not None:
        credentials = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        fields.append(("Proxy-Authorization", f"Basic {credentials}"))
    sock.settimeout(time_left(deadline))
    sock.sendall(encode_head(f"CONNECT {url.authority} HTTP/1.1", fields))
    reader = HeadReader()
    try:
        while (head := reader.next_head()) is None and (data := receive(sock, deadline)):
            reader.receive_data(data)
        # Small proxies answer in HTTP/1.0. The difference has no meaning for a tunnel.
        response = None if head is None else parse_response(_HTTP_1_0.sub(b"HTTP/1.1 ", head))
    except HandshakeError:
        raise _invalid(proxy, "the response to CONNECT is not HTTP") from None
    if response is None:
        raise _invalid(proxy, "closed the connection without a response to CONNECT")
    if not 200 <= response.status < 300:
        raise _refusal(proxy, url, response)
    # A WebSocket server never sends first, with or without TLS. So these bytes are the proxy's.
    if reader.trailing_data:
        raise _invalid(proxy, "sent data after its response to CONNECT, so it is no tunnel")


def _invalid(proxy: Proxy, problem: str) -> HandshakeError:
    return HandshakeError(0, f"{proxy}: {problem}; check the proxy's address")


def _refusal(proxy: Proxy, url: WebSocketURL, response: Response) -> HandshakeError:
    status, headers = response.status, response.headers
    if status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        problem = f"answered {status} to CONNECT {url.authority}; check what the proxy allows"
    elif proxy.username is None:
        problem = "answered 407; put USER:PASSWORD@ before the host of the proxy's URL"
    else:
        problem = "answered 407; check the user name and password in the proxy's URL"
    return HandshakeError(status, f"{proxy}: {problem}", headers)
