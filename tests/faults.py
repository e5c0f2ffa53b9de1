"""Sockets at their worst: they give and take single bytes, or nothing, or break.

A `FaultySocket` is a real socket between the server and the kernel, and a
`Faults` says what goes wrong at each of its calls, from a seeded generator: a
failure can be repeated. `wrap` puts one around a socket; `FaultyListener` and
`faulty_tls` do so for whatever a server accepts.

Two kinds of fault: those that pass (a call that takes one byte, or says EAGAIN),
which nobody may ever notice, and those that end the connection, which only its
own peer may notice.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
from collections import Counter
from typing import Any

# Python tries again by itself after EINTR (PEP 475), unless a signal's handler
# raises; who sees it all the same has lost that connection and no other.
ENDING = (errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS, errno.EINTR)


class Faults:
    """What goes wrong, and how often: `blocks` and `ends` are probabilities.

    A call is given at most `size` bytes, at random. `met` counts what happened,
    by errno, and 0 stands for a call that was cut short.
    """

    def __init__(
        self, seed: int, *, blocks: float = 0.0, ends: float = 0.0, size: int = 1 << 20
    ) -> None:
        self.random = random.Random(seed)
        self.blocks = blocks
        self.ends = ends
        self.size = size
        self.met: Counter[int] = Counter()

    def pass_or_fail(self, *, may_block: bool = True) -> None:
        """Raise what this call is to end with, if anything."""
        chance = self.random.random()
        if chance < self.ends:
            number = self.random.choice(ENDING)
        elif may_block and chance < self.ends + self.blocks:
            number = errno.EAGAIN
        else:
            return
        self.met[number] += 1
        raise OSError(number, os.strerror(number))

    def cut(self, size: int) -> int:
        """Return how many of so many bytes this call takes."""
        short = min(size, self.random.randint(1, self.size))
        self.met[0] += short < size
        return short


class FaultySocket(socket.socket):
    """A socket whose calls fail as `faults` have it, and always once `fault` is set."""

    faults: Faults
    fault: OSError | None = None

    def disturb(self, *, may_block: bool = True) -> None:
        if self.fault is not None:
            raise self.fault
        self.faults.pass_or_fail(may_block=may_block)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self.disturb()
        return super().recv(self.faults.cut(size), flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        self.disturb()
        with memoryview(data) as view:
            return super().send(view[: self.faults.cut(len(view))], flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        sent = 0
        while sent < len(data):
            sent += self.send(data[sent:], flags)

    def shutdown(self, how: int, /) -> None:
        self.disturb(may_block=False)
        super().shutdown(how)


def wrap(sock: socket.socket, faults: Faults) -> FaultySocket:
    """Return a faulty socket in the place of `sock`, whose timeout it keeps."""
    timeout = sock.gettimeout()
    faulty = FaultySocket(fileno=sock.detach())
    faulty.settimeout(timeout)
    faulty.faults = faults
    return faulty


class FaultyListener(socket.socket):
    """A listening socket that fails as `faults` have it, as does what it accepts."""

    faults: Faults

    def accept(self) -> tuple[socket.socket, Any]:
        self.faults.pass_or_fail()
        sock, address = super().accept()
        return wrap(sock, self.faults), address


def faulty_listener(faults: Faults) -> FaultyListener:
    """Return one on a free port of this machine."""
    sock = FaultyListener()
    sock.faults = faults
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def faulty_tls(context: ssl.SSLContext, faults: Faults) -> None:
    """Let what is wrapped with a server's context fail as `faults` have it."""

    class FaultyTLS(ssl.SSLSocket):
        def disturb(self) -> None:
            try:
                faults.pass_or_fail()
            except BlockingIOError:  # TLS has a word of its own for it
                raise ssl.SSLWantWriteError from None

        def recv(self, size: int = 1024, flags: int = 0) -> bytes:
            # With decrypted bytes at hand TLS never has to wait.
            if not self.pending():
                self.disturb()
            return super().recv(faults.cut(size), flags)

        def send(self, data: Any, flags: int = 0) -> int:
            self.disturb()
            with memoryview(data) as view:
                return super().send(view[: faults.cut(len(view))], flags)

    context.sslsocket_class = FaultyTLS
