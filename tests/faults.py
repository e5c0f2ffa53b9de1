"""Sockets with injected faults, to test a server or a client against the worst kernel.

A `FaultySocket` is a real socket. Its `Faults` decide from a seeded random generator how
each call fails, so a failing run can be repeated. `wrap` makes a socket faulty;
`FaultyListener` and `faulty_tls` make every accepted socket faulty.

Transient faults (a call that moves one byte, EAGAIN) must have no visible effect. Fatal
faults end the connection, and no other peer may notice them.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
from collections import Counter
from typing import Any

# Python retries after EINTR by itself (PEP 475), except if a signal handler raises.
# An EINTR that still gets through may end its own connection.
FATAL = (errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS, errno.EINTR)


class Faults:
    """Source of faults for sockets.

    `injected` counts the faults by errno; the key 0 counts shortened calls.

    Args:
        seed: Seed of the random generator.
        transient: Probability of EAGAIN in one call.
        fatal: Probability of an error of FATAL in one call.
        size: Maximum number of bytes that one call moves.
    """

    def __init__(
        self, seed: int, *, transient: float = 0.0, fatal: float = 0.0, size: int = 1 << 20
    ) -> None:
        self.random = random.Random(seed)
        self.transient = transient
        self.fatal = fatal
        self.size = size
        self.injected: Counter[int] = Counter()

    def maybe_raise(self, *, may_block: bool = True) -> None:
        """Raise an `OSError` if this call is to fail."""
        chance = self.random.random()
        if chance < self.fatal:
            number = self.random.choice(FATAL)
        elif may_block and chance < self.fatal + self.transient:
            number = errno.EAGAIN
        else:
            return
        self.injected[number] += 1
        raise OSError(number, os.strerror(number))

    def shorten(self, size: int) -> int:
        """Return the number of bytes, from 1 to `size`, that this call moves."""
        shortened = min(size, self.random.randint(1, self.size))
        self.injected[0] += shortened < size
        return shortened


class FaultySocket(socket.socket):
    """A socket with calls that fail as `faults` decides, or always once `error` is set."""

    faults: Faults
    error: OSError | None = None

    def maybe_raise(self, *, may_block: bool = True) -> None:
        if self.error is not None:
            raise self.error
        self.faults.maybe_raise(may_block=may_block)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self.maybe_raise()
        return super().recv(self.faults.shorten(size), flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        self.maybe_raise()
        with memoryview(data) as view:
            return super().send(view[: self.faults.shorten(len(view))], flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        sent = 0
        while sent < len(data):
            sent += self.send(data[sent:], flags)

    def shutdown(self, how: int, /) -> None:
        self.maybe_raise(may_block=False)
        super().shutdown(how)


def wrap(sock: socket.socket, faults: Faults) -> FaultySocket:
    """Return a faulty socket that replaces `sock`, with the same timeout."""
    timeout = sock.gettimeout()
    faulty = FaultySocket(fileno=sock.detach())
    faulty.settimeout(timeout)
    faulty.faults = faults
    return faulty


class FaultyListener(socket.socket):
    """A listening socket; accept() fails as `faults` decides."""

    faults: Faults

    def accept(self) -> tuple[socket.socket, Any]:
        self.faults.maybe_raise()
        sock, address = super().accept()
        return wrap(sock, self.faults), address


def faulty_listener(faults: Faults) -> FaultyListener:
    """Return a faulty listening socket on a free port of the loopback interface."""
    sock = FaultyListener()
    sock.faults = faults
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def faulty_tls(context: ssl.SSLContext, faults: Faults) -> None:
    """Make the sockets that a server's context wraps fail as `faults` decides."""

    class FaultyTLSSocket(ssl.SSLSocket):
        def maybe_raise(self) -> None:
            try:
                faults.maybe_raise()
            except BlockingIOError:  # ssl reports EAGAIN by its own exception
                raise ssl.SSLWantWriteError from None

        def recv(self, size: int = 1024, flags: int = 0) -> bytes:
            if not self.pending():  # decrypted bytes are available without waiting
                self.maybe_raise()
            return super().recv(faults.shorten(size), flags)

        def send(self, data: Any, flags: int = 0) -> int:
            self.maybe_raise()
            with memoryview(data) as view:
                return super().send(view[: faults.shorten(len(view))], flags)

    context.sslsocket_class = FaultyTLSSocket
