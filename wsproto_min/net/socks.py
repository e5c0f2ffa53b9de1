"""The client's side of a SOCKS5 handshake (RFC 1928), with user name and password (RFC 1929)."""

import socket
from http import HTTPStatus
from ipaddress import ip_address

from wsproto_min.errors import HandshakeError
from wsproto_min.net.proxy import Proxy
from wsproto_min.net.tcp import time_left
from wsproto_min.net.url import WebSocketURL

VERSION = b"\x05"
NO_AUTHENTICATION, USERNAME_PASSWORD = 0, 2  # RFC 1928, section 3
CONNECT, RESERVED = b"\x01", b"\x00"  # section 4
IPV4, DOMAIN_NAME, IPV6 = b"\x01", b"\x03", b"\x04"  # section 5
PROBLEMS = {  # section 6
    1: "general failure",
    2: "the proxy's rules forbid the connection",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
}


def open_socks_tunnel(
    sock: socket.socket, proxy: Proxy, url: WebSocketURL, deadline: float
) -> None:
    """Ask a SOCKS5 proxy for a connection to the server of `url`.

    Args:
        sock: Connection to the proxy; afterwards the connection to the server.
        proxy: The proxy. With the scheme `socks5h` the proxy resolves the server's name.
        url: Address of the server.
        deadline: Time limit.

    Raises:
        HandshakeError: The proxy refused the user (status 407), forbids the connection (403),
            failed or is no SOCKS5 proxy (0).
        OSError: The name has no address, or the connection broke; `TimeoutError` after the
            deadline.
    """

    def send(data: bytes) -> None:
        sock.settimeout(time_left(deadline))
        sock.sendall(data)

    def receive_exactly(size: int) -> bytes:
        received = b""
        while len(received) < size:
            sock.settimeout(time_left(deadline))
            data = sock.recv(size - len(received))
            if not data:
                raise error(0, "closed the connection within the SOCKS5 handshake")
            received += data
        return received

    def error(status: int, problem: str) -> HandshakeError:
        return HandshakeError(status, f"{proxy}: {problem}; check the proxy's URL and rules")

    has_user = proxy.username is not None
    methods = bytes([NO_AUTHENTICATION, USERNAME_PASSWORD] if has_user else [NO_AUTHENTICATION])
    send(VERSION + bytes([len(methods)]) + methods)
    version, method = receive_exactly(2)
    if version != VERSION[0]:
        raise error(0, "the response is not SOCKS5")
    if method not in methods:
        raise error(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, "requires another authentication")
    if method == USERNAME_PASSWORD:
        parts = (proxy.username or "").encode(), proxy.password.encode()
        send(b"\x01" + b"".join(bytes([len(part)]) + part for part in parts))
        if receive_exactly(2)[1]:
            refused = "refused the user name or password"
            raise error(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, refused)
    send(VERSION + CONNECT + RESERVED + _address(url, proxy) + url.port.to_bytes(2, "big"))
    version, reply, _, kind = receive_exactly(4)
    if reply:
        status = HTTPStatus.FORBIDDEN if reply == 2 else 0
        problem = PROBLEMS.get(reply, f"error {reply}")
        raise error(status, f"no connection to {url.authority}: {problem}")
    # The address of the proxy's own end, which has no use here. Then the port.
    sizes = {IPV4[0]: 4, IPV6[0]: 16}
    receive_exactly((sizes[kind] if kind in sizes else receive_exactly(1)[0]) + 2)


def _address(url: WebSocketURL, proxy: Proxy) -> bytes:
    """Return the server's address as RFC 1928, section 5, encodes it."""
    host = url.host
    if proxy.scheme == "socks5":
        host = str(socket.getaddrinfo(host, url.port, type=socket.SOCK_STREAM)[0][4][0])
    try:
        address = ip_address(host)
    except ValueError:
        return DOMAIN_NAME + bytes([len(host)]) + host.encode()
    return (IPV4 if address.version == 4 else IPV6) + address.packed
