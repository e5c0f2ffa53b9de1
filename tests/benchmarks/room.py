"""The load client's side of a chat room: its connections and an exact count.

The client must not be slower than the server, so it parses almost nothing. In plain mode
every message is a frame of 66 bytes (64 bytes of text), so the count of bytes gives the
count of deliveries. In chat mode frame sizes vary, so the client counts the byte 0x81.
It begins each frame and occurs nowhere else: payloads are ASCII, and no length has it.
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from tests.benchmarks.client import PATIENCE, SETTLE, connect, masked_frame
from tests.benchmarks.measure import Wrong

TEXT_SIZE = 64
TEXT_FRAME = bytes((0x81, TEXT_SIZE))
# A large room sends presence at most once a second; wait longer until it is quiet.
LARGE = 200
LARGE_SETTLE = 1.2
# Seconds to wait for deliveries that must not come.
QUIET = 0.05
# The content check: messages per sender, and the number of checked peers.
NUMBERED = 3
SAMPLED = 5


class Mode(Protocol):
    """Plain mode or chat mode: how to send messages and count deliveries."""

    unit: int
    """The amount of one delivery."""

    echoes_to_sender: bool

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        """Return a connection that has joined a room."""

    def encode(self, sender: int, text: bytes, count: int) -> bytes:
        """Return the frames of `count` messages with this text."""

    def amount(self, buffer: bytearray, size: int) -> int:
        """Return the amount delivered in the first `size` bytes of `buffer`."""

    def texts(self, data: bytes, peer: int) -> list[bytes] | None:
        """Return the texts of all frames, None if the last frame is incomplete."""


class Plain:
    """Bare text: a message goes to every peer of the room except its sender."""

    unit = len(TEXT_FRAME) + TEXT_SIZE
    echoes_to_sender = False

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        return connect(port, f"/r/{room}" if room else "/")

    def encode(self, sender: int, text: bytes, count: int) -> bytes:
        return masked_frame(text) * count

    def amount(self, buffer: bytearray, size: int) -> int:
        return size

    def texts(self, data: bytes, peer: int) -> list[bytes] | None:
        frames = [data[at : at + self.unit] for at in range(0, len(data), self.unit)]
        if any(frame[:2] != TEXT_FRAME for frame in frames):
            raise Wrong("plain mode: received something other than text frames of 64 bytes")
        return None if len(data) % self.unit else [frame[2:] for frame in frames]


class Chat:
    """Chat mode: JSON messages with a key, which the sender receives too."""

    unit = 1
    echoes_to_sender = True

    def __init__(self) -> None:
        self._keys = 0

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        sock = connect(port, "/", "chat.v1")
        join = {"type": "join", "room": "lobby", "name": f"peer-{number}"}
        sock.sendall(masked_frame(json.dumps(join).encode()))
        received = b""
        while b'"type":"joined"' not in received:
            data = sock.recv(1 << 16)
            if not data:
                raise Wrong(f"join: the server closed the connection after {received!r}")
            received += data
        return sock

    def encode(self, sender: int, text: bytes, count: int) -> bytes:
        frames = []
        for _ in range(count):
            self._keys += 1
            say = b'{"type":"say","room":"lobby","text":"%s","key":"%d-%d"}'
            frames.append(masked_frame(say % (text, sender, self._keys)))
        return b"".join(frames)

    def amount(self, buffer: bytearray, size: int) -> int:
        return buffer.count(TEXT_FRAME[0], 0, size)

    def texts(self, data: bytes, peer: int) -> list[bytes] | None:
        texts = []
        last_id = 0
        while data:
            if len(data) < 4:
                return None
            length = int.from_bytes(data[2:4], "big")
            if data[:2] != b"\x81\x7e" or not 129 < length < 256:
                raise Wrong(f"chat mode: {data[:4].hex(' ')} is not the header of a message")
            if len(data) < 4 + length:
                return None
            message: dict[str, Any] = json.loads(data[4 : 4 + length])
            data = data[4 + length :]
            if message["id"] <= last_id:
                raise Wrong("chat mode: message ids do not increase")
            last_id = message["id"]
            if (message["name"] == f"peer-{peer}") is not ("key" in message):
                raise Wrong("chat mode: a message key went to a peer other than the sender")
            texts.append(message["text"].encode())
        return texts


class Room:
    """Connections, spread evenly over rooms; the first `senders` of them send.

    Connections are numbered from `first`, so that several `Room`s have different numbers.
    """

    def __init__(
        self,
        port: int,
        peers: int,
        senders: int,
        *,
        chat: bool = False,
        rooms: int = 1,
        first: int = 0,
    ) -> None:
        if peers % rooms or senders % rooms or (chat and rooms > 1):
            raise ValueError("rooms must have equal sizes; chat mode has one room")
        self.mode: Mode = Chat() if chat else Plain()
        names = [f"room-{number}" if rooms > 1 else "" for number in range(rooms)]
        self.sockets = [
            self.mode.connect(port, names[number % rooms], first + number)
            for number in range(peers)
        ]
        self.deliveries = peers // rooms - (not self.mode.echoes_to_sender)  # of each message
        self._rooms = rooms
        self.sent = [0] * senders
        self._epoll = select.epoll()
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        for sock in self.sockets:
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)
            self._receive[sock.fileno()] = sock.recv_into
        self.buffer = bytearray(1 << 18)
        self._received = dict.fromkeys(self._receive, 0)
        time.sleep(SETTLE)
        while chat and self.receive(LARGE_SETTLE if peers > LARGE else SETTLE, idle=True):
            pass  # presence of the peers that joined
        self._received = dict.fromkeys(self._receive, 0)

    def send(self, sender: int, text: bytes, count: int = 1) -> None:
        """Send `count` messages with a text of 64 bytes, in one write."""
        data = self.mode.encode(sender, text, count)
        if self.sockets[sender].send(data) != len(data):
            raise Wrong("send: short write; the server does not read fast enough")
        self.sent[sender] += count

    def receive(
        self,
        patience: float = PATIENCE,
        *,
        idle: bool = False,
        watch: Callable[[int, int], None] | None = None,
    ) -> int:
        """Read once from each ready socket; return the amount delivered.

        Calls `watch` with each descriptor and the number of its bytes in `buffer`.
        """
        events = self._epoll.poll(patience, len(self.sockets))
        if not events and not idle:
            raise Wrong(f"receive: no delivery within {patience:g} s")
        receive, received, buffer = self._receive, self._received, self.buffer
        amount, count_bytes = self.mode.amount, self.mode.unit > 1
        total = 0
        for descriptor, _ in events:
            size = receive[descriptor](buffer)
            if not size:
                raise Wrong("receive: the server closed a connection")
            if watch is not None:
                watch(descriptor, size)
            if not count_bytes:
                size = amount(buffer, size)
            received[descriptor] += size
            total += size
        return total

    def finish(self) -> None:
        """Check the count of each peer, then the content of further messages; close."""
        self._check_counts()
        self._check_content()
        self.close()

    def close(self) -> None:
        """Close all connections, without closing handshakes."""
        self._epoll.close()
        for sock in self.sockets:
            sock.close()

    def drain(self, delivered: int) -> None:
        """Receive all deliveries that are outstanding after `delivered`."""
        while delivered < sum(self.sent) * self.deliveries * self.mode.unit:
            delivered += self.receive()

    def _check_counts(self) -> None:
        if self.receive(QUIET, idle=True):
            raise Wrong("fan-out: a message was delivered twice")
        in_room = [sum(self.sent[room :: self._rooms]) for room in range(self._rooms)]
        for number, sock in enumerate(self.sockets):
            expected = in_room[number % self._rooms]
            if number < len(self.sent) and not self.mode.echoes_to_sender:
                expected -= self.sent[number]
            received = self._received[sock.fileno()] / self.mode.unit
            if received != expected:
                raise Wrong(
                    f"fan-out: peer {number} received {received:g} messages, not {expected}"
                )

    def _check_content(self) -> None:
        """Check that a few peers receive the sent texts in the order of each sender."""
        for sender in range(len(self.sent)):
            for index in range(1, NUMBERED + 1):
                self.send(sender, numbered(sender, index))
        step = max(1, len(self.sockets) // SAMPLED)
        for peer in {*range(0, len(self.sockets), step), len(self.sockets) - 1}:
            expected = {
                sender: [numbered(sender, index) for index in range(1, NUMBERED + 1)]
                for sender in range(peer % self._rooms, len(self.sent), self._rooms)
                if sender != peer or self.mode.echoes_to_sender
            }
            received: dict[int, list[bytes]] = {}
            for text in self._receive_texts(peer, len(expected) * NUMBERED):
                match = re.search(rb"sender +(\d+)", text)
                received.setdefault(int(match[1]) if match else -1, []).append(text)
            if received != expected:
                raise Wrong(f"fan-out: peer {peer} received content that differs from the sent one")

    def _receive_texts(self, peer: int, count: int) -> list[bytes]:
        """Return the texts of the next `count` deliveries to a peer."""
        sock = self.sockets[peer]
        sock.settimeout(PATIENCE)
        data = b""
        texts: list[bytes] | None = []
        while texts is None or len(texts) < count:
            chunk = sock.recv(1 << 16)
            if not chunk:
                raise Wrong("receive: the server closed a connection")
            data += chunk
            texts = self.mode.texts(data, peer)
        return texts


def numbered(sender: int, index: int) -> bytes:
    """Return a text with its sender and its index; the content check uses index 1 and up."""
    return f"message {index} of sender {sender:4} ".encode().ljust(TEXT_SIZE, b".")
