"""Nodes for tests: chatd processes that share a PostgreSQL, each through a proxy of its own."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from tests.scale.engine import free_port
from tests.support import PATIENCE, ROOT, command


class Proxy:
    """TCP proxy to the engine; `stall` stops all bytes, `reset` ends all connections."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._flow = threading.Event()
        self._flow.set()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, seconds: float) -> None:
        """Stop the bytes in both directions; connections stay open."""
        self._flow.clear()
        time.sleep(seconds)
        self._flow.set()

    def reset(self) -> None:
        """Reset all connections."""
        for sock in tuple(self._sockets):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self._flow.set()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                other = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                sock.close()
                continue
            self._sockets |= {sock, other}
            for pair in ((sock, other), (other, sock)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._flow.wait()
                target.sendall(data)
        for sock in (source, target):
            self._sockets.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Node:
    """A chatd process on a port of its own, which can be killed and started again."""

    def __init__(self, url: str, directory: Path, name: str, *options: str) -> None:
        self.name = name
        self.errors = directory / f"{name}.log"
        self.port = free_port()
        self._url = url
        self._options = options
        self.start()

    def start(self) -> None:
        words = command(
            "chatd", "--store", self._url, "--port", str(self.port), "--node", self.name,
            "--rate-limit", "0", "--metrics-from", "127.0.0.1", *self._options,
        )  # fmt: skip
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert b"chatd is ready" in line, self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def log(self) -> str:
        return self.errors.read_text()

    def get(self, path: str) -> str:
        """Return the body of a page; raises `HTTPError` for an error."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")
