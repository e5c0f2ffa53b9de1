"""A load client's side of a chat room: all its connections, and an exact count.

To keep up with any server it hardly looks at what it receives. In plain mode all
messages are 64 bytes of text, a frame of 66 bytes on the wire, so the bytes tell
how many were delivered. In chat mode the frames vary, and their first byte is
counted, 0x81, which is nowhere else: it is no ASCII, and no length of theirs.
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
# Presence of a large room is told at most once a second, and then it is quiet.
LARGE = 200
LARGE_SETTLE = 1.2
# Long enough to see a delivery that should not have been made.
QUIET = 0.05
# The content check: messages of each sender, and how many peers are looked at.
NUMBERED = 3
SAMPLED = 5


class Mode(Protocol):
    """How messages are said, and how what comes is counted."""

    unit: int
    """What `amount` gives for one delivery."""

    hears_itself: bool

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        """Return a connection that is in a room."""

    def say(self, sender: int, text: bytes, count: int) -> bytes:
        """Return the frames that say a text so many times."""

    def amount(self, buffer: bytearray, size: int) -> int:
        """Return how much was delivered with so many received bytes."""

    def texts(self, data: bytes, peer: int) -> list[bytes] | None:
        """Return the texts of whole frames, None if the last one is not whole yet."""


class Plain:
    """Bare text, the rule of a room in every library: one says it, all others hear it."""

    unit = len(TEXT_FRAME) + TEXT_SIZE
    hears_itself = False

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        return connect(port, f"/r/{room}" if room else "/")

    def say(self, sender: int, text: bytes, count: int) -> bytes:
        return masked_frame(text) * count

    def amount(self, buffer: bytearray, size: int) -> int:
        return size

    def texts(self, data: bytes, peer: int) -> list[bytes] | None:
        frames = [data[at : at + self.unit] for at in range(0, len(data), self.unit)]
        if any(frame[:2] != TEXT_FRAME for frame in frames):
            raise Wrong("what arrived are not text frames of 64 bytes")
        return None if len(data) % self.unit else [frame[2:] for frame in frames]


class Chat:
    """Chat mode: one joins, says with a key, and hears everything as JSON, itself too."""

    unit = 1
    hears_itself = True

    def __init__(self) -> None:
        self._keys = 0

    def connect(self, port: int, room: str, number: int) -> socket.socket:
        sock = connect(port, "/", "chat.v1")
        join = {"type": "join", "room": "lobby", "name": f"peer-{number}"}
        sock.sendall(masked_frame(json.dumps(join).encode()))
        heard = b""
        while b'"type":"joined"' not in heard:
            data = sock.recv(1 << 16)
            if not data:
                raise Wrong(f"the server let nobody join: {heard!r}")
            heard += data
        return sock

    def say(self, sender: int, text: bytes, count: int) -> bytes:
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
                raise Wrong(f"{data[:4].hex(' ')} begins no message of the usual size")
            if len(data) < 4 + length:
                return None
            message: dict[str, Any] = json.loads(data[4 : 4 + length])
            data = data[4 + length :]
            if message["id"] <= last_id:
                raise Wrong("ids do not increase")
            last_id = message["id"]
            if (message["name"] == f"peer-{peer}") is not ("key" in message):
                raise Wrong("a key came to another than the sender")
            texts.append(message["text"].encode())
        return texts


class Room:
    """Connections that share rooms evenly, the first of them senders.

    `first` is the number of the first, where there are others before them.
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
            raise ValueError("rooms must be alike, and one in chat mode")
        self.mode: Mode = Chat() if chat else Plain()
        names = [f"room-{number}" if rooms > 1 else "" for number in range(rooms)]
        self.sockets = [
            self.mode.connect(port, names[number % rooms], first + number)
            for number in range(peers)
        ]
        self.deliveries = peers // rooms - (not self.mode.hears_itself)  # of each message
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
            pass  # who else has come
        self._received = dict.fromkeys(self._receive, 0)

    def say(self, sender: int, text: bytes, count: int = 1) -> None:
        """Let a sender say a text of 64 bytes so many times, in one write."""
        data = self.mode.say(sender, text, count)
        if self.sockets[sender].send(data) != len(data):
            raise Wrong("the server does not read what it is sent")
        self.sent[sender] += count

    def receive(
        self,
        patience: float = PATIENCE,
        *,
        idle: bool = False,
        watch: Callable[[int, int], None] | None = None,
    ) -> int:
        """Read once from each socket that is ready; return how much was delivered.

        `watch` is shown each descriptor and the size of what it left in `buffer`.
        """
        events = self._epoll.poll(patience, len(self.sockets))
        if not events and not idle:
            raise Wrong(f"nothing was delivered for {patience:g} s")
        receive, received, buffer = self._receive, self._received, self.buffer
        amount, count_bytes = self.mode.amount, self.mode.unit > 1
        total = 0
        for descriptor, _ in events:
            size = receive[descriptor](buffer)
            if not size:
                raise Wrong("the server has closed a connection")
            if watch is not None:
                watch(descriptor, size)
            if not count_bytes:
                size = amount(buffer, size)
            received[descriptor] += size
            total += size
        return total

    def finish(self) -> None:
        """Raise unless each peer has received just what it should, and does from now on."""
        self._check_counts()
        self._check_content()
        self.close()

    def close(self) -> None:
        """Drop all connections."""
        self._epoll.close()
        for sock in self.sockets:
            sock.close()

    def drain(self, delivered: int) -> None:
        """Receive what is still missing of what was sent, `delivered` having arrived."""
        while delivered < sum(self.sent) * self.deliveries * self.mode.unit:
            delivered += self.receive()

    def _check_counts(self) -> None:
        if self.receive(QUIET, idle=True):
            raise Wrong("something was delivered twice")
        in_room = [sum(self.sent[room :: self._rooms]) for room in range(self._rooms)]
        for number, sock in enumerate(self.sockets):
            due = in_room[number % self._rooms]
            if number < len(self.sent) and not self.mode.hears_itself:
                due -= self.sent[number]
            received = self._received[sock.fileno()] / self.mode.unit
            if received != due:
                raise Wrong(f"peer {number} received {received:g} messages instead of {due}")

    def _check_content(self) -> None:
        """Raise unless what a few peers receive is what was sent, in each sender's order."""
        for sender in range(len(self.sent)):
            for index in range(1, NUMBERED + 1):
                self.say(sender, numbered(sender, index))
        step = max(1, len(self.sockets) // SAMPLED)
        for peer in {*range(0, len(self.sockets), step), len(self.sockets) - 1}:
            due = {
                sender: [numbered(sender, index) for index in range(1, NUMBERED + 1)]
                for sender in range(peer % self._rooms, len(self.sent), self._rooms)
                if sender != peer or self.mode.hears_itself
            }
            heard: dict[int, list[bytes]] = {}
            for text in self._receive_texts(peer, len(due) * NUMBERED):
                match = re.search(rb"sender +(\d+)", text)
                heard.setdefault(int(match[1]) if match else -1, []).append(text)
            if heard != due:
                raise Wrong(f"peer {peer} received other content than was sent")

    def _receive_texts(self, peer: int, count: int) -> list[bytes]:
        """Return the texts of a peer's next so many deliveries."""
        sock = self.sockets[peer]
        sock.settimeout(PATIENCE)
        data = b""
        texts: list[bytes] | None = []
        while texts is None or len(texts) < count:
            piece = sock.recv(1 << 16)
            if not piece:
                raise Wrong("the server has closed a connection")
            data += piece
            texts = self.mode.texts(data, peer)
        return texts


def numbered(sender: int, index: int) -> bytes:
    """Return a text that says whose it is, and which; 0 in all but the content check."""
    return f"message {index} of sender {sender:4} ".encode().ljust(TEXT_SIZE, b".")
