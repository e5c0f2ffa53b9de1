"""The load client: a process of its own, so that it has a core of its own.

`python -m tests.benchmarks.client MODULE ARGUMENTS` calls `load` of the module
`tests.benchmarks.MODULE`. ARGUMENTS is a JSON object with the keyword arguments. The
process prints the returned figures as JSON. The functions below are shared by all loads.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from importlib import import_module
from pathlib import Path

from tests.benchmarks.measure import Wrong
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_frame

# Seconds without any delivery after which a message counts as lost.
PATIENCE = 10.0
# A server may add a peer to the room some time after it answered the handshake.
SETTLE = 0.2


def opening(port: int, path: str = "/", subprotocol: str | None = None) -> bytes:
    """Return an opening handshake request."""
    offer = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"Sec-WebSocket-Version: 13\r\n{offer}\r\n"
    ).encode()


def connect(port: int, path: str = "/", subprotocol: str | None = None) -> socket.socket:
    """Return a blocking connection after its opening handshake."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(opening(port, path, subprotocol))
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


class Clock:
    """Elapsed time, and the CPU time of server and client, since its creation."""

    def __init__(self, server: int) -> None:
        self._server = server
        self.begin = time.perf_counter()
        self._server_begin = cpu_seconds(server)
        self._own_begin = time.process_time()

    def read(self) -> tuple[float, float, float]:
        """Return three figures in seconds: elapsed time, server CPU, client CPU."""
        own = time.process_time() - self._own_begin
        elapsed = time.perf_counter() - self.begin
        return elapsed, cpu_seconds(self._server) - self._server_begin, own

    def rate(self, count: float) -> dict[str, float]:
        """Return `count` per second, and the CPU use of server and client."""
        elapsed, server, own = self.read()
        return {
            "value": count / elapsed,
            "server's core": server / elapsed,
            "client's core": own / elapsed,
        }


def main() -> None:
    """Run the load; print its figures or its error as JSON."""
    module, arguments = sys.argv[1:]
    result: dict[str, float | str]
    try:
        result = import_module(f"tests.benchmarks.{module}").load(**json.loads(arguments))
    except (Wrong, OSError) as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
