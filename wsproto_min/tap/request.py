"""Changes to the head of a request, so that the upstream accepts a connection through the tap.

The tap changes three headers and no other byte of a connection:

- Host (RFC 9110, section 7.2) becomes the upstream's authority, if it names this machine.
- Origin (RFC 6454, section 7) becomes the upstream's origin, if it is the tap's own.
- Connection (RFC 9110, section 7.6.1) becomes `close`, unless the request asks for a WebSocket.
  So a connection has one request, whose head is the only one to change.

A page of another site can reach the tap under a host name of its site (DNS rebinding). The tap
leaves the Host and Origin of this page unchanged, so that the upstream can still refuse them.
"""

from __future__ import annotations

import ipaddress

from wsproto_min.http import Request
from wsproto_min.net.url import WebSocketURL

_HTTP_SCHEMES = {"ws": "http", "wss": "https"}


def asks_for_websocket(request: Request) -> bool:
    """Return True if the request has `Upgrade: websocket`."""
    return request.headers.has_token("Upgrade", "websocket")


def names_this_machine(host: str) -> bool:
    """Return True if the value of a Host header is `localhost` or an IP address, with any port.

    >>> [names_this_machine(host) for host in ("localhost:8766", "[::1]", "evil.example:8766")]
    [True, True, False]
    """
    name = host.partition(":")[0].lower()
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True


def forwarded_head(head: bytes, request: Request, upstream: WebSocketURL) -> bytes:
    """Return the head for the upstream, with its empty line.

    Args:
        head: The client's head, without its empty line.
        request: The same head, parsed.
        upstream: The address of the server.

    """
    first, *lines = head.split(b"\r\n")
    hosts = request.headers.values("Host")
    is_own = len(hosts) == 1 and names_this_machine(hosts[0])
    is_websocket = asks_for_websocket(request)
    kept = [first]
    for line in lines:
        name, _, value = line.partition(b":")
        field = name.lower()
        if field == b"host" and is_own:
            line = name + b": " + upstream.host_header.encode()
        elif field == b"origin" and is_own and _is_origin_of(value, hosts[0]):
            origin = f"{_HTTP_SCHEMES[upstream.scheme]}://{upstream.host_header}"
            line = name + b": " + origin.encode()
        elif field == b"connection" and not is_websocket:
            continue
        kept.append(line)
    if not is_websocket:
        kept.append(b"Connection: close")
    return b"\r\n".join([*kept, b"", b""])


def _is_origin_of(value: bytes, host: str) -> bool:
    return value.strip().decode("latin-1").lower() == f"http://{host.lower()}"
