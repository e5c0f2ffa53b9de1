"""The student's program as a process: started, connected to, and ended."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from wsproto_min.explain.style import printable

_RETRY = 0.02  # seconds between two attempts to connect
# Free ports are rare among the ports that the system gives to clients, so choose from others.
_PORTS = range(20000, 30000)
_MAX_ERROR_LINES = 6
_MAX_ERROR_SIZE = 1 << 14  # bytes
_GRACE = 0.2  # seconds in which a program that fails may end


class Wrong(Exception):
    """A problem with the student's program.

    Args:
        problem: The problem in one sentence.
        details: Further lines, such as the figure of a frame.

    """

    def __init__(self, problem: str, *details: str) -> None:
        super().__init__(problem)
        self.problem: str = problem
        self.details: tuple[str, ...] = details


class Program:
    """The student's program; a context manager that ends its process.

    Args:
        path: The student's file. A file that does not end in `.py` is run itself.
        patience: Seconds to wait for each answer.
        limit: Argument LIMIT of `serve`: the largest message in bytes. None leaves it out.
        restarts: Start the program again if its process has ended since the last connection.

    Attributes:
        address: Host and port of the program's server.
        client_keys: The values of Sec-WebSocket-Key that the program has sent.

    """

    def __init__(
        self, path: Path, *, patience: float, limit: int | None = None, restarts: bool = True
    ) -> None:
        self.patience: float = patience
        self.limit: int | None = limit
        self.client_keys: set[str] = set()
        self._restarts = restarts
        interpreter = [sys.executable] if path.suffix == ".py" else []
        self._command = [*interpreter, str(path.absolute())]
        self._output = TemporaryFile()  # noqa: SIM115, closed by `__exit__`
        self._errors: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.address: tuple[str, int] = ("127.0.0.1", 0)

    def __enter__(self) -> Self:
        """Return the program. Its process starts with the first connection."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self._end()
        self._output.close()

    def output_of(self, *arguments: str) -> str:
        """Run the program once with other arguments; return its standard output.

        Raises:
            Wrong: The program fails, or does not end within the patience.

        """
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._output,
                timeout=self.patience,
            )
        except subprocess.TimeoutExpired:
            raise Wrong(f"the program does not end within {self.patience:g} seconds") from None
        if done.returncode:
            raise Wrong(f"the program ends with status {done.returncode}")
        return done.stdout.decode("utf-8", "replace")

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a TCP connection to the program's server.

        Args:
            receive_buffer: Size of the kernel's receive buffer, in bytes; None for its default.

        Raises:
            Wrong: The program has ended, or does not listen within the patience.

        """
        if self._process is None or (self._restarts and self._process.poll() is not None):
            self._start()
        deadline = time.monotonic() + self.patience
        while True:
            sock = socket.socket()
            sock.settimeout(self.patience)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            try:
                sock.connect(self.address)
            except OSError:
                sock.close()
                self._check_running()
                if time.monotonic() > deadline:
                    port = self.address[1]
                    raise Wrong(f"the program does not accept connections on port {port}") from None
                time.sleep(_RETRY)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock

    @contextmanager
    def connecting(self) -> Iterator[tuple[socket.socket, Callable[[], tuple[int, str]]]]:
        """Run `connect URL`; yield its connection, and a function that waits for its end.

        The function returns exit status and standard output, and raises `Wrong` if the program
        does not end within the patience.

        Raises:
            Wrong: The program does not connect within the patience.

        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            process = subprocess.Popen(
                [*self._command, "connect", url],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._output,
                text=True,
            )

            def finish() -> tuple[int, str]:
                try:
                    output, _ = process.communicate(timeout=self.patience)
                except subprocess.TimeoutExpired:
                    raise Wrong("the connection is closed, but the program does not end") from None
                return process.returncode, output

            with process:
                try:
                    with self._accept(listener, process) as sock:
                        yield sock, finish
                finally:
                    process.kill()

    def _accept(self, listener: socket.socket, process: subprocess.Popen[str]) -> socket.socket:
        listener.settimeout(_RETRY)
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if process.poll() is not None:
                    raise Wrong("the program ends without a connection to the URL") from None
                if time.monotonic() > deadline:
                    raise Wrong("the program does not connect to the URL") from None

    def keep_errors(self) -> None:
        """Remember the program's state for a report, before the checker causes other errors."""
        if self._errors:
            return
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
            if self._process.returncode is not None:
                status = self._process.returncode
                self._errors.append(f"The program has ended with status {status}.")
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - _MAX_ERROR_SIZE))
        lines = self._output.read().decode("utf-8", "replace").splitlines()
        if lines:
            shown = (f"    {printable(line)}" for line in lines[-_MAX_ERROR_LINES:])
            self._errors += ["The program wrote on standard error:", *shown]

    def errors(self) -> list[str]:
        """Return the lines about the program's state that a report shows."""
        self.keep_errors()
        return self._errors

    def _start(self) -> None:
        self._end()
        self.address = ("127.0.0.1", free_port())
        arguments = ["serve", str(self.address[1])]
        if self.limit is not None:
            arguments.append(str(self.limit))
        self._process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
        )

    def _check_running(self) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise Wrong(f"the program ends with status {status}; it must go on to serve")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
