"""The student's program as a process: started, connected to, and ended."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

from wsproto_min.explain.style import printable

try:
    import resource
except ImportError:  # not Unix
    resource = None  # type: ignore[assignment]

DEFAULT_PATIENCE = 10.0
"""Seconds to wait for each answer of the student's program."""

_RETRY = 0.02  # seconds between two attempts to connect
# Free ports are rare among the ports that the system gives to clients, so choose from others.
_PORTS = range(20000, 30000)
_used_ports: set[int] = set()  # another program may be about to listen on them
_MAX_ERROR_LINES = 6
_MAX_ERROR_SIZE = 1 << 14  # bytes
_MAX_OUTPUT_SIZE = 1 << 14  # bytes
_MAX_DESCRIPTORS = 256  # a server that does not close its sockets soon has no more
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
        client_keys: The keys that the program has sent as a client, of requests and of frames.

    """

    def __init__(
        self, path: Path, *, patience: float, limit: int | None = None, restarts: bool = True
    ) -> None:
        self.patience: float = patience
        self.limit: int | None = limit
        self.client_keys: set[str] = set()
        self._restarts = restarts
        self._path = path
        interpreter = [sys.executable] if path.suffix.lower() == ".py" else []
        self._command = [*interpreter, str(path.absolute())]
        # In append mode, because the program and its reader share one position.
        self._output = TemporaryFile("a+b")  # noqa: SIM115, closed by `__exit__`
        self._errors: list[str] = []
        self._errors_from = 0  # where the errors of the last connection begin
        self._process: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
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
        """End the process, and one whose start was interrupted."""
        self._end()
        for process in self._started:
            if process.returncode is None:
                _kill(process)
        self._output.close()

    def variant(self, limit: int | None) -> Program:
        """Return the program with another LIMIT, as a context manager of its own."""
        return Program(self._path, patience=self.patience, limit=limit, restarts=self._restarts)

    def output_of(self, *arguments: str) -> str:
        """Run the program once with other arguments; return its standard output.

        Raises:
            Wrong: The program fails, or does not end within the patience.

        """
        with TemporaryFile() as output:
            process = self._run(arguments, output)
            try:
                process.wait(self.patience)
            except subprocess.TimeoutExpired:
                problem = f"the program does not end within {self.patience:g} seconds"
                raise Wrong(problem) from None
            finally:
                _kill(process)
            if process.returncode:
                raise Wrong(f"the program ends with status {process.returncode}")
            return _read(output)

    def _run(self, arguments: tuple[str, ...], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, so that its own processes end with it."""
        try:
            with _signals_held():
                process = subprocess.Popen(
                    [*self._command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=self._output,
                    # Without a copy the new process reads the environment of this one, which
                    # another thread may change at the same time.
                    env=dict(os.environ),
                    start_new_session=True,
                )
                self._started.append(process)
        except OSError as error:
            raise Wrong(
                f"the file cannot be run: {error.strerror}; end its name in .py, or make it"
                " executable and begin it with #!"
            ) from None
        return process

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a TCP connection to the program's server.

        Args:
            receive_buffer: Size of the kernel's receive buffer, in bytes; None for its default.

        Raises:
            Wrong: The program has ended, or does not listen within the patience.

        """
        self._errors_from = self._output.seek(0, os.SEEK_END)
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
        with socket.create_server(("127.0.0.1", 0)) as listener, TemporaryFile() as output:
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            process = self._run(("connect", url), output)

            def finish() -> tuple[int, str]:
                try:
                    process.wait(self.patience)
                except subprocess.TimeoutExpired:
                    raise Wrong("the connection is closed, but the program does not end") from None
                return process.returncode, _read(output)

            try:
                with self._accept(listener, process) as sock:
                    yield sock, finish
            finally:
                _kill(process)

    def _accept(self, listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket:
        listener.settimeout(_RETRY)
        deadline = time.monotonic() + self.patience
        while True:
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                if process.poll() is not None:
                    raise Wrong("the program ends without a connection to the URL") from None
                if time.monotonic() > deadline:
                    raise Wrong("the program does not connect to the URL") from None
            else:
                sock.settimeout(self.patience)
                return sock

    def peak_memory(self) -> int:
        """Return the largest memory of the server's process so far, in bytes; 0 if unknown."""
        status = Path(f"/proc/{0 if self._process is None else self._process.pid}/status")
        if not status.exists():  # not Linux
            return 0
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        return 0 if found is None else int(found[1]) << 10

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
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(self._errors_from, size - _MAX_ERROR_SIZE))
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
        self._process = self._run(tuple(arguments), subprocess.DEVNULL)
        if hasattr(resource, "prlimit"):  # on Linux
            limits = (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS)
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, limits)

    def _check_running(self) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise Wrong(f"the program ends with status {status}; it must go on to serve")

    def _end(self) -> None:
        if self._process is not None:
            _kill(self._process)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back: within Popen() they would leave a process that nobody knows."""
    if threading.current_thread() is not threading.main_thread():  # signals run in the main thread
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _read(output: IO[bytes]) -> str:
    """Return the beginning of the output."""
    output.seek(0)
    return output.read(_MAX_OUTPUT_SIZE).decode("utf-8", "replace")


def free_port() -> int:
    """Return a TCP port on which nothing listens, another one for each call."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            if port not in _used_ports and probe.connect_ex(("127.0.0.1", port)):
                _used_ports.add(port)
                return port
