"""TCP connections and Unix sockets of a client, with a deadline (RFC 8305).

A deadline is a time of `time.monotonic`. One deadline limits all steps of `connect` together.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, cast

RECEIVE_SIZE = 1 << 16
ATTEMPT_DELAY = 0.25
"""Seconds from one connection attempt to the next (RFC 8305, section 5)."""


def connect_tcp(host: str, port: int, deadline: float) -> socket.socket:
    """Return a TCP connection to the address of `host` that accepts one first (RFC 8305).

    An attempt begins when one before it has failed, or after ATTEMPT_DELAY. Earlier attempts
    continue, so no address uses up the time of the others.

    Raises:
        OSError: No address accepts a connection: the error of the last attempt that failed.
            `TimeoutError` after the deadline.
    """
    addresses = alternate_families(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    failure = OSError(f"{host}: the name has no address")
    attempts: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        try:
            while addresses or attempts:
                wait = time_left(deadline)
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


def alternate_families(found: Sequence[tuple[Any, ...]]) -> deque[tuple[int, Any]]:
    """Return (family, address) of each result of getaddrinfo (RFC 8305, section 4).

    The order within a family stays. A first address over a broken IPv6 network is followed by
    one over IPv4.
    """
    families: dict[int, list[tuple[int, Any]]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    return deque(each for group in zip_longest(*families.values()) for each in group if each)


def connect_unix(path: str, deadline: float) -> socket.socket:
    """Return a connection to a Unix socket. Raises `OSError`."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("ws+unix: this system has no Unix sockets; use ws or wss")
    sock = socket.socket(family)
    try:
        sock.settimeout(time_left(deadline))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, deadline: float) -> bytes:
    """Return the bytes of one read; none at the end of the stream. Raises `OSError`."""
    sock.settimeout(time_left(deadline))
    return sock.recv(RECEIVE_SIZE)


def time_left(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises `TimeoutError` after it."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
