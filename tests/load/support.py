"""What the load tests share: a chat process, a pulse beside it, and figures to print."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.client import masked_frame, opening
from tests.support import PATIENCE, ROOT, Address, Daemon, connect, daemon
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_close

MIB = 1 << 20
# Who come together.
VISITORS = 16


def figure(what: str, value: str) -> None:
    """Print a measured figure; `pytest -rP` shows it."""
    print(f"{what}: {value}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return what so large a share of `values` does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def chatd(directory: Path, module: str = "chatd") -> Iterator[Daemon]:
    """Run a chat with a log on disk; it must end in good order, with no callback that failed."""
    log = str(directory / "chat.db")
    with daemon(module, "--port", "0", "--db", log, "--rate-limit", "0") as running:
        yield running
        status, errors = running.stop(within=3 * PATIENCE)
        assert status == 0
        assert "Traceback" not in errors, errors


def sockets(process: int) -> int:
    """Return how many sockets a process has."""
    number = 0
    directory = Path(f"/proc/{process}/fd")
    for descriptor in directory.iterdir():
        try:
            number += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:  # closed meanwhile
            continue
    return number


class Pulse:
    """How long a message takes from one to another, measured by a process of its own."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @property
    def p99(self) -> float:
        return percentile(self.seconds, 0.99)

    def __str__(self) -> str:
        return f"p50 {percentile(self.seconds, 0.5) * 1e3:.2f} ms, p99 {self.p99 * 1e3:.2f} ms"


@contextmanager
def pulse(address: Address) -> Iterator[Pulse]:
    """Measure while the block runs; the result is there after it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.pulse", str(address[1])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    taken = Pulse()
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield taken
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGTERM)
        taken.seconds = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert taken.seconds, "no message arrived"


class Ear:
    """A connection in chat mode that keeps the ids of what it hears, and when it was said.

    It looks at no more than it must, to keep up with the server.
    """

    _SAID = re.compile(rb'"id":(\d+),"time":"[^"]*","name":"[^"]*","text":"at (\d+) ')

    def __init__(self, address: Address, name: str, *, receive_buffer: int | None = None) -> None:
        self.name = name
        self.sock = connect(address, receive_buffer=receive_buffer)
        self.sock.sendall(opening(address[1], subprotocol="chat.v1"))
        self.session = ""
        self.ids: list[int] = []
        self.rest = b""
        self.ended = False
        join = {"type": "join", "room": "lobby", "name": name}
        self.sock.sendall(masked_frame(json.dumps(join).encode()))
        heard = b""
        while b'"session":"' not in heard:
            data = self.sock.recv(1 << 16)
            assert data, heard
            heard += data
        self.session = heard.split(b'"session":"')[1].split(b'"')[0].decode()

    def hear(self) -> list[int]:
        """Read what is there; return when each message of it was said, in ns."""
        received = self.sock.recv(1 << 18)
        self.ended = not received
        data = self.rest + received
        said = []
        end = 0
        for match in self._SAID.finditer(data):
            self.ids.append(int(match[1]))
            said.append(int(match[2]))
            end = match.end()
        self.rest = data[max(end, len(data) - 300) :]
        return said

    def say(self, number: int, size: int, now: int) -> None:
        text = f"at {now} ".ljust(size, "\N{EURO SIGN}")
        said = {"type": "say", "room": "lobby", "text": text, "key": f"{self.name}-{number}"}
        self.sock.sendall(masked_frame(json.dumps(said, ensure_ascii=False).encode()))

    def read_to_end(self) -> bytes:
        """Read all up to the end of the stream; return its last bytes."""
        while not self.ended:
            self.hear()
        return self.rest


def come_speak_and_go(address: Address, number: int) -> None:
    """Let some come together, half of them in chat mode; each says something and goes."""
    visitors = []
    for index in range(VISITORS):
        chat = index % 2 == 0
        sock = connect(address)
        data = opening(address[1], f"/r/room-{index % 5}", "chat.v1" if chat else None)
        if chat:
            room, name = f"room-{index % 5}", f"visitor {index}"
            for said in (
                {"type": "join", "room": room, "name": name},
                {"type": "say", "room": room, "text": "hello", "key": f"{number}.{index}"},
                {"type": "leave", "room": room},
            ):
                data += masked_frame(json.dumps(said).encode())
        else:
            data += masked_frame(b"hello")
        sock.sendall(data + masked_frame(encode_close(1000), Opcode.CLOSE))
        visitors.append(sock)
    for sock in visitors:
        heard = b""
        while received := sock.recv(1 << 16):
            heard += received
        sock.close()
        assert heard.endswith(b"\x88\x02\x03\xe8"), heard[-200:]


def vanish(sock: socket.socket) -> None:
    """Let a connection's packets be dropped before TCP sees them: no answer, no FIN, no RST.

    A socket filter that lets nothing pass; it needs no rights, unlike a network
    whose link goes down, and spares the connections beside it.
    """
    drop_all = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes
    program = ctypes.create_string_buffer(drop_all, len(drop_all))
    attach_filter = 26  # SO_ATTACH_FILTER, which Python does not name
    filters = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, attach_filter, filters)
