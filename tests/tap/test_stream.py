"""A stream of the tap: write buffer, half-close and reset."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from tests.support import PATIENCE, read_to_end, reset
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.tap.stream import End, Stream
from wsproto_min.tap.upstream import ClientTLSSocket


class Owner:
    """Records the calls of a stream."""

    def __init__(self) -> None:
        self.calls: list[str | bytes] = []

    def on_data(self, stream: Stream, data: bytes) -> None:
        self.calls.append(data)

    def on_eof(self, stream: Stream) -> None:
        self.calls.append("eof")

    def on_lost(self, stream: Stream) -> None:
        self.calls.append("lost")

    def on_written(self, stream: Stream) -> None:
        self.calls.append("written")


class Pair:
    """A stream with its loop and owner, and the other end of its TCP connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            self.other = socket.socket()
            self.other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.other.settimeout(PATIENCE)
            self.other.connect(listener.getsockname())
            sock, _ = listener.accept()
        sock.setblocking(False)
        self.loop = EventLoop()
        self.owner = Owner()
        self.stream = Stream(sock, self.loop, self.owner)

    def fill(self) -> bytes:
        """Write until the socket takes no more; return all bytes."""
        data = os.urandom(1 << 20)
        self.stream.write(data)
        assert 0 < self.stream.buffer_size < len(data)
        return data

    def run_until(self, call: str | bytes) -> None:
        late: list[bool] = []
        self.loop.call_later(PATIENCE, lambda: late.append(True))
        while call not in self.owner.calls:
            assert not late, f"{call!r} is not among the calls {self.owner.calls}"
            self.loop.run_once()

    def read_all(self, size: int) -> bytes:
        """Read `size` bytes at the other end, while the stream writes them."""
        data = bytearray()
        while len(data) < size:
            self.stream.on_ready(EVENT_WRITE)
            data += self.other.recv(1 << 16)
        return bytes(data)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.stream.close()
    pair.other.close()
    pair.loop.close()


def test_write_buffer_empties_before_the_half_close(pair: Pair) -> None:
    data = pair.fill()
    pair.stream.write(b"last")
    pair.stream.end(End.HALF_CLOSE)
    pair.stream.write(b"dropped")
    assert not pair.stream.half_closed
    assert pair.read_all(len(data) + 4) == data + b"last"
    assert read_to_end(pair.other) == b""
    assert pair.stream.half_closed
    pair.other.sendall(b"still read")
    pair.run_until(b"still read")


def test_write_buffer_empties_before_the_reset(pair: Pair) -> None:
    data = pair.fill()
    pair.stream.end(End.RESET)
    pair.stream.resume()  # without effect
    received = bytearray()
    with suppress(ConnectionResetError):  # RST discards bytes in the kernel
        while True:
            received += pair.other.recv(1 << 16)
            assert pair.stream.closed == (not pair.stream.buffer_size)
            pair.stream.on_ready(EVENT_WRITE)
    assert pair.stream.closed
    assert data.startswith(received)


def test_paused_stream_reads_nothing_until_resumed(pair: Pair) -> None:
    pair.stream.pause()
    pair.other.sendall(b"later")
    pair.stream.on_ready(EVENT_READ)
    assert pair.owner.calls == []
    pair.stream.resume()
    pair.run_until(b"later")
    pair.other.close()
    pair.run_until("eof")
    assert pair.stream.eof


@pytest.mark.parametrize("action", ["read", "write", "flush", "half-close"])
def test_reset_by_the_other_end_is_reported_once(pair: Pair, action: str) -> None:
    if action == "flush":
        pair.fill()
    reset(pair.other)
    if action == "read":
        pair.stream.on_ready(EVENT_READ)
    elif action == "write":
        pair.stream.write(b"x")
    elif action == "flush":
        pair.stream.on_ready(EVENT_WRITE)
    else:
        pair.stream.end(End.HALF_CLOSE)
    assert pair.stream.closed
    pair.run_until("lost")
    pair.stream.write(b"dropped")
    pair.stream.end(End.HALF_CLOSE)
    pair.stream.on_ready(EVENT_READ | EVENT_WRITE)
    assert pair.owner.calls.count("lost") == 1


class ClosedTLS:
    """An SSLSocket after close_notify of both ends."""

    def recv(self, size: int) -> bytes:
        raise ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)")


def test_end_of_tls_after_a_half_close_is_the_end_of_the_stream() -> None:
    assert ClientTLSSocket(ClosedTLS()).recv(100) == b""  # type: ignore[arg-type]
