"""Run a server program in this process, so that coverage measures it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import TypeVar

import pytest

from tests.support import PATIENCE

T = TypeVar("T")

WAKE = signal.SIGWINCH  # ignored by default


class Lines:
    """A standard output; `lines` passes complete lines to another thread."""

    def __init__(self) -> None:
        self.lines: Queue[str] = Queue()
        self._incomplete = ""

    def write(self, text: str) -> int:
        *complete, self._incomplete = (self._incomplete + text).split("\n")
        for line in complete:
            self.lines.put(line)
        return len(text)

    def flush(self) -> None:
        pass


@contextmanager
def handlers_restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, WAKE)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def run_until_signal(
    monkeypatch: pytest.MonkeyPatch,
    program: Callable[[], T],
    number: signal.Signals,
    client: Callable[[tuple[str, int]], None],
) -> T:
    """Run a server program, call `client` with its address, then send a signal.

    The program runs in this thread, because only the main thread handles signals. It prints
    a line with its URL when it is ready.

    Returns:
        The program's result.
    """
    output = Lines()
    errors: list[BaseException] = []
    ended = threading.Event()

    def use_and_stop() -> None:
        try:
            line = output.lines.get(timeout=PATIENCE)
        except Empty:
            return  # without a signal, because the program may have ended
        try:
            host, _, port = line.partition("://")[2].strip("/").rpartition(":")
            client((host.strip("[]"), int(port)))
        except BaseException as error:
            errors.append(error)
        finally:
            os.kill(os.getpid(), number)
            # A signal between the interpreter's last check and a system call that blocks does
            # not end this call.
            main = threading.main_thread().ident
            assert main is not None
            while not ended.wait(0.1):
                signal.pthread_kill(main, WAKE)

    monkeypatch.setattr(sys, "stdout", output)
    thread = threading.Thread(target=use_and_stop, daemon=True)
    with handlers_restored():
        signal.signal(WAKE, lambda *_: None)
        thread.start()
        try:
            result = program()
        finally:
            ended.set()
    thread.join(PATIENCE)
    for error in errors:
        raise error
    return result
