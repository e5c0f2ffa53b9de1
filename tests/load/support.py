"""Shared parts of the load tests: a chatd process, a latency probe, fast clients, figures."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.client import masked_frame, opening
from tests.support import PATIENCE, ROOT, Address, Daemon, connect, daemon
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_close

MIB = 1 << 20
# Connections that `connect_talk_and_close` opens together.
BATCH = 16


def print_figure(name: str, value: str) -> None:
    """Print a measured figure; `pytest -rP` shows it."""
    print(f"{name}: {value}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile of `values` for a share from 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def chatd(directory: Path, module: str = "chatd") -> Iterator[Daemon]:
    """Run chatd with a store on disk; fail unless it stops cleanly and logs no traceback."""
    database = str(directory / "chat.db")
    with daemon(module, "--port", "0", "--db", database, "--rate-limit", "0") as running:
        yield running
        status, errors = running.stop(within=3 * PATIENCE)
        assert status == 0
        assert "Traceback" not in errors, errors


def count_sockets(process: int) -> int:
    """Return the number of open sockets of a process."""
    number = 0
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            number += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:  # closed since the directory was listed
            continue
    return number


class Latencies:
    """Times in seconds that messages took from sender to receiver."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @property
    def p99(self) -> float:
        return percentile(self.seconds, 0.99)

    def __str__(self) -> str:
        return f"p50 {percentile(self.seconds, 0.5) * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms"


@contextmanager
def latency_probe(
    address: Address, pairs: int = 1, certificate: Path | None = None
) -> Iterator[Latencies]:
    """Measure latencies from another process while the block runs; they are set after it.

    Args:
        address: Address of the server.
        pairs: Number of senders, each with one receiver.
        certificate: File with the server's certificate; None for a server without TLS.
    """
    tls = [] if certificate is None else [str(certificate)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.latency_probe", str(address[1]), str(pairs), *tls],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    latencies = Latencies()
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield latencies
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGTERM)
        latencies.seconds = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert latencies.seconds, "no message arrived"


class ChatReceiver:
    """Fast client in chat mode: records the ids of the messages, and parses nothing else.

    The texts must come from `say`, because they contain the time of sending.
    """

    _MESSAGE = re.compile(
        rb'"id":(\d+),"time":"[^"]*","name":"[^"]*","author":"[^"]*","text":"at (\d+) '
    )

    def __init__(self, address: Address, name: str, *, receive_buffer: int | None = None) -> None:
        self.name = name
        self.sock = connect(address, receive_buffer=receive_buffer)
        self.sock.sendall(opening(address[1], subprotocol="chat.v1"))
        self.ids: list[int] = []
        self.unparsed = b""
        self.ended = False
        join = {"type": "join", "room": "lobby", "name": name}
        self.sock.sendall(masked_frame(json.dumps(join).encode()))
        received = b""
        while b'"session":"' not in received:
            data = self.sock.recv(1 << 16)
            assert data, received
            received += data
        self.session = received.split(b'"session":"')[1].split(b'"')[0].decode()

    def receive(self) -> list[int]:
        """Read once; return the sending times of the messages, in ns."""
        received = self.sock.recv(1 << 18)
        self.ended = not received
        data = self.unparsed + received
        sending_times = []
        end = 0
        for match in self._MESSAGE.finditer(data):
            self.ids.append(int(match[1]))
            sending_times.append(int(match[2]))
            end = match.end()
        self.unparsed = data[max(end, len(data) - 300) :]
        return sending_times

    def say(self, number: int, size: int, now: int) -> None:
        """Send a message of `size` characters that contains `now`, a time in ns."""
        text = f"at {now} ".ljust(size, "\N{EURO SIGN}")
        say = {"type": "say", "room": "lobby", "text": text, "key": f"{self.name}-{number}"}
        self.sock.sendall(masked_frame(json.dumps(say, ensure_ascii=False).encode()))

    def read_to_end(self) -> bytes:
        """Read up to the end of the stream; return its last bytes."""
        while not self.ended:
            self.receive()
        return self.unparsed


def connect_talk_and_close(address: Address, number: int) -> None:
    """Open BATCH connections, half of them in chat mode; each sends a message and closes."""
    connections = []
    for index in range(BATCH):
        chat = index % 2 == 0
        room = f"room-{index % 5}"
        sock = connect(address)
        data = opening(address[1], f"/r/{room}", "chat.v1" if chat else None)
        if chat:
            for message in (
                {"type": "join", "room": room, "name": f"visitor {index}"},
                {"type": "say", "room": room, "text": "hello", "key": f"{number}.{index}"},
                {"type": "leave", "room": room},
            ):
                data += masked_frame(json.dumps(message).encode())
        else:
            data += masked_frame(b"hello")
        sock.sendall(data + masked_frame(encode_close(1000), Opcode.CLOSE))
        connections.append(sock)
    for sock in connections:
        received = b""
        while data := sock.recv(1 << 16):
            received += data
        sock.close()
        # 88: FIN, Close; 02: 2 bytes, unmasked; 03e8: code 1000
        assert received.endswith(bytes.fromhex("88 02 03e8")), received[-200:]


def drop_packets(sock: socket.socket) -> None:
    """Make the kernel drop a socket's incoming packets before TCP: no answer, no FIN, no RST.

    A socket filter needs no privileges and affects no other connection.
    """
    drop_all = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes
    program = ctypes.create_string_buffer(drop_all, len(drop_all))
    attach_filter = 26  # SO_ATTACH_FILTER; Python has no constant for it
    filters = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, attach_filter, filters)


def peak_growth(process: int | str, use: Callable[[], object]) -> int:
    """Return by how many bytes the peak of a process's memory grows while `use` runs."""
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak begins at the present size
    before = _status_bytes(process, "VmRSS")
    use()
    return _status_bytes(process, "VmHWM") - before


def _status_bytes(process: int | str, field: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    raise AssertionError(f"/proc/{process}/status: {field} is missing")
