"""The load client: fills a chat room and counts what comes out of it.

`python -m tests.benchmarks.load` is a process of its own, so that it can have a
core of its own. To keep up with any server it never looks at what it receives:
all messages are 64 bytes of text, a frame of 66 bytes on the wire, so the bytes
received tell how many messages have been delivered. A message counts as done
when the deliveries of as many messages are in; then the next may be sent, so
that a fixed number, the window, is always under way. What one sender has to send
between two waits goes out in one write.

After the measured time the window is let run empty, and every peer must have
received exactly what the others sent. Last, each sender sends some numbered
messages, and a few peers' bytes are compared with what they must be.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from wsproto_min import Opcode, encode_frame

MESSAGE_SIZE = 64
DELIVERY_SIZE = 2 + MESSAGE_SIZE  # a server's frame: no mask
WARM_UP = 0.2
# Servers may admit a peer to the room some time after they have answered its handshake.
SETTLE = 0.2
# So long nothing arrives only when something is lost.
PATIENCE = 10.0
# Long enough to see a delivery that should not have been made.
QUIET = 0.05
# The content check: messages of each sender, and how many peers are looked at.
NUMBERED = 3
SAMPLED = 5


@dataclass(frozen=True, slots=True)
class Load:
    """So many peers in a room, so many of them sending, so many messages under way."""

    peers: int
    senders: int
    window: int


class Room:
    """All of the client's connections, and the count of bytes that each has received."""

    def __init__(self, port: int, load: Load) -> None:
        self._sockets = [_connect(port) for _ in range(load.peers)]
        self._senders = self._sockets[: load.senders]
        # Enough for all that a sender can have to send at once.
        self._sendable = [
            memoryview(_masked_frame(_message(number, 0)) * load.window)
            for number in range(load.senders)
        ]
        self._frame_size = len(_masked_frame(_message(0, 0)))
        self._next_sender = 0
        self._sent = [0] * load.senders
        self._load = load
        self._epoll = select.epoll()
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        self._received: dict[int, int] = {}
        for sock in self._sockets:
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)
            self._receive[sock.fileno()] = sock.recv_into
            self._received[sock.fileno()] = 0
        self._buffer = bytearray(1 << 18)

    def run(self, seconds: float) -> dict[str, float]:
        """Keep the window full for so long; return the rate and our share of a core."""
        others = self._load.peers - 1
        message_cost = DELIVERY_SIZE * others
        window, sent, total = self._load.window, 0, 0
        begin = time.perf_counter() + WARM_UP
        end = begin + seconds
        started: tuple[float, float, int] | None = None
        now = 0.0
        while now < end:
            free = window - (sent - total // message_cost)
            if free > window:
                raise RuntimeError("more was delivered than was sent")
            if free:
                self._send(free)
                sent += free
            total += self._receive_ready(PATIENCE)
            now = time.perf_counter()
            if started is None and now >= begin:
                started = now, time.process_time(), total
        cpu = time.process_time()
        at, cpu_at, total_at = started or (begin, cpu, 0)
        result = {
            "rate": (total - total_at) / DELIVERY_SIZE / (now - at),
            "client_cpu": (cpu - cpu_at) / (now - at),
        }
        while total < sent * message_cost:
            total += self._receive_ready(PATIENCE)
        self.check_counts()
        self.check_content()
        return result

    def check_counts(self) -> None:
        """Raise unless each peer has received just what the others have sent."""
        if self._receive_ready(QUIET, idle=True):
            raise RuntimeError("something was delivered twice")
        sent = sum(self._sent)
        for number, sock in enumerate(self._sockets):
            own = self._sent[number] if number < len(self._sent) else 0
            received = self._received[sock.fileno()]
            if received != (sent - own) * DELIVERY_SIZE:
                raise RuntimeError(
                    f"peer {number} received {received / DELIVERY_SIZE:g} messages"
                    f" of the {sent - own} from others"
                )

    def check_content(self) -> None:
        """Raise unless what a few peers receive is what was sent, in each sender's order."""
        senders = range(len(self._senders))
        for number in senders:
            for index in range(1, NUMBERED + 1):
                self._senders[number].sendall(_masked_frame(_message(number, index)))
        step = max(1, self._load.peers // SAMPLED)
        sampled = set(range(0, self._load.peers, step)) | {self._load.peers - 1}
        for peer, sock in enumerate(self._sockets):
            expected = {
                number: [_message(number, index) for index in range(1, NUMBERED + 1)]
                for number in senders
                if number != peer
            }
            data = _receive_exactly(sock, len(expected) * NUMBERED * DELIVERY_SIZE)
            if peer in sampled and _by_sender(data) != expected:
                raise RuntimeError(f"peer {peer} received other content than was sent")

    def close(self) -> None:
        """Drop all connections."""
        self._epoll.close()
        for sock in self._sockets:
            sock.close()

    def _send(self, count: int) -> None:
        """Send so many messages, spread over the senders in turn."""
        load = self._load
        share, extra = divmod(count, load.senders)
        first = self._next_sender
        for step in range(load.senders if share else extra):
            number = (first + step) % load.senders
            messages = share + (step < extra)
            size = messages * self._frame_size
            if self._senders[number].send(self._sendable[number][:size]) != size:
                raise RuntimeError("the server does not read what it is sent")
            self._sent[number] += messages
        self._next_sender = (first + extra) % load.senders

    def _receive_ready(self, patience: float, *, idle: bool = False) -> int:
        """Read once from each socket that is ready; return how many bytes there were."""
        events = self._epoll.poll(patience, self._load.peers)
        if not events and not idle:
            raise RuntimeError(f"nothing was delivered for {patience:g} s")
        receive, received, buffer = self._receive, self._received, self._buffer
        total = 0
        for descriptor, _ in events:
            size = receive[descriptor](buffer)
            if not size:
                raise RuntimeError("the server has closed a connection")
            received[descriptor] += size
            total += size
        return total


def _connect(port: int) -> socket.socket:
    """Return a connection after its opening handshake."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = sock.recv(4096)
        answer += data
        if not data or not answer.startswith(b"HTTP/1.1 101 "[: len(answer)]):
            raise RuntimeError(f"the server refused the handshake: {answer[:100]!r}")
    return sock


def _message(sender: int, index: int) -> bytes:
    """Return a text that says whose it is, and which; 0 in all but the content check."""
    return f"message {index} of sender {sender:4} ".encode().ljust(MESSAGE_SIZE, b".")


def _masked_frame(message: bytes) -> bytes:
    return encode_frame(Opcode.TEXT, message, mask=os.urandom(4))


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(PATIENCE)
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise RuntimeError("the server has closed a connection")
        data += piece
    return data


def _by_sender(data: bytes) -> dict[int, list[bytes]]:
    """Return each sender's messages, in the order in which they came."""
    messages: dict[int, list[bytes]] = {}
    for begin in range(0, len(data), DELIVERY_SIZE):
        frame = data[begin : begin + DELIVERY_SIZE]
        if frame[:2] != bytes((0x81, MESSAGE_SIZE)):
            raise RuntimeError(f"{frame[:2].hex(' ')} begins no text frame of 64 bytes")
        sender = frame[2:].split(b"sender ")[1][:4]
        messages.setdefault(int(sender), []).append(frame[2:])
    return messages


def main() -> None:
    """Load the server on a port; print the result, or what was wrong, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.load")
    parser.add_argument("port", type=int)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--senders", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    result: dict[str, float | str]
    try:
        room = Room(options.port, Load(options.peers, options.senders, options.window))
        time.sleep(SETTLE)
        result = {**room.run(options.seconds)}
        room.close()
    except (RuntimeError, OSError) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
