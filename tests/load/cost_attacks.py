"""Attacks on the cost of requests: cheap bytes of one address that cause expensive work.

A script yields the bytes of one connection, from its opening handshake on. `Attack` runs
one script on several connections of one address, at a limited number of bytes per second.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

from tests.benchmarks.client import masked_frame, opening
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_close, encode_frame

BYTES_PER_SECOND = 50_000
ADDRESS = "127.0.0.2"  # the chat beside the attack has 127.0.0.1
# Seconds after which a connection without an answer is replaced.
PATIENCE = 0.3

Script = Callable[[int, int], Iterator[bytes]]
"""Script of one connection; called with the server's port and the connection's number."""


def message(**fields: object) -> bytes:
    return masked_frame(json.dumps(fields, separators=(",", ":")).encode())


def compressed(text: str) -> bytes:
    """Return a masked frame with a compressed text message."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return encode_frame(Opcode.TEXT, data[:-4], mask=os.urandom(4), rsv1=True)


def hello(port: int, *, compression: bool = False) -> bytes:
    request = opening(port, subprotocol="chat.v1")
    if compression:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        request = request.removesuffix(b"\r\n") + offer
    return request


def join(number: int, room: str = "long", **fields: object) -> bytes:
    return message(type="join", room=room, name=f"a{number}", **fields)


def history(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number) + 39 * message(type="history", room="long")
    while True:
        yield message(type="history", room="long")


def compressed_history(port: int, number: int) -> Iterator[bytes]:
    yield hello(port, compression=True) + join(number) + 39 * message(type="history", room="long")
    while True:
        yield message(type="history", room="long")


def pages(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number, "short")
    while True:
        yield message(type="history", room="short", before=500, limit=200)


def reconnecting_joins(port: int, number: int) -> Iterator[bytes]:
    yield hello(port, compression=True) + join(number, after=0)


def reconnecting_history(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number) + 39 * message(type="history", room="long")


def bombs(port: int, number: int) -> Iterator[bytes]:
    yield hello(port, compression=True)
    yield 39 * compressed("[" + "0.1," * 12_000 + "1]")


def large_integers(port: int, number: int) -> Iterator[bytes]:
    yield hello(port, compression=True)
    yield 39 * compressed("[" + ",".join(["9" * 4000] * 12) + "]")


def slow_unicode(port: int, number: int) -> Iterator[bytes]:
    yield hello(port, compression=True)
    while True:
        name = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 100 + "\u0301\u0327" * 14
        yield compressed(json.dumps({"type": "join", "room": "x", "name": name}))


def typing(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number, "large")
    while True:
        yield message(type="typing", room="large")


def flapping_joins(port: int, number: int) -> Iterator[bytes]:
    yield hello(port)
    while True:
        yield join(number, "large") + message(type="leave", room="large")


def says_to_a_large_room(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number, "large")
    while True:
        yield message(type="say", room="large", text="x")


def renames(port: int, number: int) -> Iterator[bytes]:
    yield hello(port)
    while True:
        yield join(number, "large") + message(type="join", room="large", name=f"b{number}")


def searches(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number) + join(number, "short")
    while True:
        yield message(type="search", text="yyy xxx")


def scans(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number) + join(number, "short")
    while True:
        yield message(type="search", text="zz")  # too short for the index


def directories(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number, "short")
    while True:
        yield message(type="rooms")


def changes(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + join(number, "short")
    while True:
        yield message(type="react", room="short", ref=1, emoji="\N{THUMBS UP SIGN}")


def posts(port: int, number: int) -> Iterator[bytes]:
    head = f"POST /r/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 200000\r\n\r\n"
    yield head.encode() + b"[" * 200_000


def many_rooms(port: int, number: int) -> Iterator[bytes]:
    yield hello(port)
    for room in range(100):
        yield join(number, f"room-{number}-{room}")


def empty_continuations(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + encode_frame(Opcode.TEXT, b"x", fin=False, mask=bytes(4))
    while True:
        yield 50 * encode_frame(Opcode.CONTINUATION, b"", fin=False, mask=bytes(4))


def pings(port: int, number: int) -> Iterator[bytes]:
    yield hello(port)
    while True:
        yield 50 * masked_frame(b"", Opcode.PING)


def page_requests(port: int, number: int) -> Iterator[bytes]:
    yield f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def handshakes(port: int, number: int) -> Iterator[bytes]:
    yield hello(port) + masked_frame(encode_close(1000), Opcode.CLOSE)


@cache
def client_hello() -> bytes:
    """Return the first bytes of a TLS handshake. Their replay costs the client nothing."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def tls_handshakes(port: int, number: int) -> Iterator[bytes]:
    yield client_hello()


# By name: the script, and the number of its connections at a time.
ATTACKS: dict[str, tuple[Script, int]] = {
    "history": (history, 10),
    "compressed history": (compressed_history, 10),
    "pages": (pages, 10),
    "reconnecting joins": (reconnecting_joins, 20),
    "reconnecting history": (reconnecting_history, 20),
    "compressed bombs": (bombs, 20),
    "large integers": (large_integers, 20),
    "slow Unicode": (slow_unicode, 20),
    "typing": (typing, 20),
    "flapping joins": (flapping_joins, 20),
    "says to a large room": (says_to_a_large_room, 20),
    "renames": (renames, 20),
    "searches": (searches, 20),
    "scanning searches": (scans, 20),
    "directories": (directories, 20),
    "changes": (changes, 20),
    "POST requests": (posts, 20),
    "many rooms": (many_rooms, 50),
    "empty continuations": (empty_continuations, 20),
    "pings": (pings, 20),
    "page requests": (page_requests, 50),
    "handshakes": (handshakes, 50),
    "TLS handshakes": (tls_handshakes, 50),
}
# Attacks on the members of the room `large`.
IN_LARGE_ROOM = ("typing", "flapping joins", "says to a large room", "renames")
OVER_TLS = ("TLS handshakes",)


class _Connection:
    def __init__(self, address: tuple[str, int], script: Script, number: int) -> None:
        self.sock = socket.create_connection(address, 10, (ADDRESS, 0))
        self.sock.setblocking(False)
        self.chunks = script(address[1], number)
        self.pending = b""
        self.received = 0
        self.opened_at = time.monotonic()

    def step(self, allowance: int) -> tuple[int, bool]:
        """Receive, and send up to `allowance` bytes.

        Returns:
            The number of bytes sent, and whether the connection is at its end.
        """
        with suppress(BlockingIOError):
            while data := self.sock.recv(1 << 16):
                self.received += len(data)
            return 0, True
        if not self.pending:
            chunk = next(self.chunks, None)
            if chunk is None:
                # The response to the handshake has 130 to 200 bytes.
                is_old = time.monotonic() - self.opened_at > PATIENCE
                return 0, self.received > 400 or is_old
            self.pending = chunk
        with suppress(BlockingIOError):
            sent = self.sock.send(self.pending[: max(0, allowance)])
            self.pending = self.pending[sent:]
            return sent, False
        return 0, False


class Attack:
    """One attack from one address.

    Args:
        address: Address of the server.
        script: Script of each connection; a new one replaces each that ends.
        connections: Number of connections at a time.
    """

    def __init__(self, address: tuple[str, int], script: Script, connections: int) -> None:
        self._address = address
        self._script = script
        self._number = 0
        self._connections = [self._open() for _ in range(connections)]
        self.sent = 0

    def _open(self) -> _Connection:
        self._number += 1
        return _Connection(self._address, self._script, self._number)

    def run(self, seconds: float) -> None:
        """Attack for some seconds at BYTES_PER_SECOND."""
        allowance = 0.0
        begun = before = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            allowance = min(BYTES_PER_SECOND / 10, allowance + (now - before) * BYTES_PER_SECOND)
            before = now
            for index, connection in enumerate(self._connections):
                try:
                    sent, ended = connection.step(int(allowance))
                except OSError:
                    sent, ended = 0, True
                allowance -= sent
                self.sent += sent
                if ended and allowance > 0:
                    connection.sock.close()
                    self._connections[index] = self._open()
            # The attackers begin in turn, so that none starves.
            self._connections.append(self._connections.pop(0))
            time.sleep(0.002)

    def close(self) -> None:
        for connection in self._connections:
            connection.sock.close()
