"""Addresses that the server listens on, and addresses of its page.

A host of `--host` is an address or a name. The server listens on every address of a name,
because `localhost` is 127.0.0.1 for one browser and ::1 for another.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from wsproto_min import Server

Address = tuple[str, int]

_ANY_IPV4, _ANY_IPV6 = "0.0.0.0", "::"
# Errors for an address of a protocol that this machine does not have.
_UNAVAILABLE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# Addresses for documentation (RFC 5737, RFC 3849); they stand for any other machine.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


class ListenError(Exception):
    """The server cannot listen on `host` and `port` because of `cause`."""

    def __init__(self, host: str, port: int, cause: OSError) -> None:
        super().__init__(f"host {host}, port {port}: {cause}")
        self.host = host
        self.port = port
        self.cause = cause


def listen(
    server: Server,
    hosts: Iterable[str],
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    reuse_port: bool = False,
) -> list[Address]:
    """Listen on every address of the hosts, on the same port.

    Args:
        server: The server.
        hosts: Addresses and names. `::` stands for all addresses of IPv6 and IPv4. Its
            socket accepts both, unless the system has no such sockets.
        port: Port from 0 to 65535; 0 picks a free one.
        ssl_context: TLS configuration, or None for plain TCP.
        reuse_port: Share the port with other servers.

    Returns:
        The addresses that the server listens on.

    Raises:
        ListenError: A host is invalid, in use, or not a host of this machine. A name may
            have some addresses of a protocol that this machine does not have.
    """
    found = [(host, _resolve(host, port)) for host in hosts]
    # Listen on the wildcard addresses first, because they include other addresses, and on the
    # one of IPv6 before the one of IPv4.
    found.sort(key=lambda each: (_ANY_IPV6 not in each[1], _ANY_IPV4 not in each[1]))
    listening: dict[str, Address] = {}
    for host, addresses in found:
        unavailable: OSError | None = None
        for address in addresses:
            if _is_included(address, listening):
                continue
            try:
                listening[address] = server.listen(
                    address, port, ssl_context, reuse_port=reuse_port
                )
            except OSError as error:
                if error.errno not in _UNAVAILABLE:
                    raise ListenError(host, port, error) from None
                unavailable = error
            else:
                port = listening[address][1]
                if address == _ANY_IPV6 and socket.has_dualstack_ipv6():
                    listening[_ANY_IPV4] = _ANY_IPV4, port
        if unavailable and not any(_is_included(address, listening) for address in addresses):
            raise ListenError(host, port, unavailable)
    return list(listening.values())


def page_urls(scheme: str, listening: Iterable[Address]) -> list[str]:
    """Return the addresses of the page, the one for other machines first.

    >>> page_urls("http", [("127.0.0.1", 8765), ("::1", 8765)])
    ['http://127.0.0.1:8765/', 'http://[::1]:8765/']

    Args:
        scheme: `http` or `https`.
        listening: Addresses of the listening sockets. A wildcard address becomes the address
            from which this machine reaches others, and a loopback address.
    """
    urls: list[str] = []
    for host, port in sorted(listening, key=lambda address: address[0] == _ANY_IPV6):
        hosts = [host]
        if host == _ANY_IPV4:
            hosts = [_outgoing_host(socket.AF_INET), "127.0.0.1"]
        elif host == _ANY_IPV6:
            hosts = [_outgoing_host(socket.AF_INET6), "" if urls else "::1"]
        names = [f"[{each}]" if ":" in each else each for each in hosts if each]
        urls += [f"{scheme}://{name}:{port}/" for name in names]
    return list(dict.fromkeys(urls))


def is_loopback(host: str) -> bool:
    """Return True if a host is this machine for every machine.

    >>> [is_loopback(host) for host in ("127.1.2.3", "[::1]", "LOCALHOST", "a.localhost.")]
    [True, True, True, True]
    >>> is_loopback("192.0.2.7"), is_loopback("localhost.example")
    (False, False)
    """
    name = host.strip("[]").lower().rstrip(".").partition("%")[0]
    if re.fullmatch(r"(.+\.)?localhost", name):  # RFC 6761, 6.3
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, without duplicates, in the order of the resolver."""
    name = re.sub(r"^\[(.*)\]$", r"\1", host)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(host, port, error) from None
    except UnicodeError:  # from the IDNA codec
        cause = OSError(errno.EINVAL, "not a valid name")
        raise ListenError(host, port, cause) from None
    addresses = []
    for *_, location in found:
        address = str(location[0])
        if len(location) == 4 and location[3]:  # the interface of an IPv6 address of a link
            address += f"%{location[3]}"
        addresses.append(address)
    if _ANY_IPV6 in addresses:
        addresses.append(_ANY_IPV4)
    return list(dict.fromkeys(addresses))


def _is_included(address: str, listening: Iterable[str]) -> bool:
    """Return True if the server already listens on an address."""
    return address in listening or (_ANY_IPV6 if ":" in address else _ANY_IPV4) in listening


def _outgoing_host(family: socket.AddressFamily) -> str:
    """Return the address from which this machine reaches others, or an empty text.

    A datagram socket determines the address in connect() and sends nothing.
    """
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((_ELSEWHERE[family], 9))
        return str(sock.getsockname()[0])
    return ""
