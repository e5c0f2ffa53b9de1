"""A few connections and figures of a process, for the benchmarks and the tests of load.

The load of the benchmarks comes from `load.c`.
"""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path

from tests.benchmarks.measure import Wrong
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_frame

# Seconds for a handshake.
PATIENCE = 10.0


def opening(port: int, path: str = "/", subprotocol: str | None = None) -> bytes:
    """Return an opening handshake request."""
    offer = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"Sec-WebSocket-Version: 13\r\n{offer}\r\n"
    ).encode()


def connect(port: int) -> socket.socket:
    """Return a blocking connection after its opening handshake."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall(opening(port))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = sock.recv(4096)
        answer += data
        if not data or not answer.startswith(b"HTTP/1.1 101 "[: len(answer)]):
            raise Wrong(f"handshake: the server refused it with {answer[:100]!r}")
    return sock


def masked_frame(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """Return a masked frame, as a client sends it."""
    return encode_frame(opcode, payload, mask=os.urandom(4))


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process in seconds, all threads together."""
    total = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(process: int) -> int:
    """Return the resident set size of a process, shared pages included."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
