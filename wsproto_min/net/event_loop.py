"""The event loop: non-blocking sockets on a selector, deadlines on one heap.

One `turn` waits until something is ready, lets each ready socket's handler
act, runs what other threads asked for and what has fallen due. It knows
nothing of WebSocket. It waits in one system call, but see `SPIN`.
"""

from __future__ import annotations

import heapq
import math
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Protocol

# Seconds for which the loop looks for something to do before it sleeps, if the last
# waits, so many of them, were all shorter. An echo then takes 25 us instead of 65,
# and a loop with less to do than that sleeps as ever.
SPIN = 100e-6
SPIN_AFTER = 8


class Handler(Protocol):
    """What the loop calls when a socket is ready."""

    def on_ready(self, events: int) -> None:
        """Act on `events`, a mask of `selectors.EVENT_READ` and `EVENT_WRITE`."""


class Descriptor(Protocol):
    """A socket, or what stands for one."""

    def fileno(self) -> int:
        """Return its descriptor."""


class EventLoop:
    """Sockets with their handlers, deadlines, and a way in for other threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._tie_break = count()
        self._calls: deque[Callable[[], None]] = deque()
        self._short_waits = 0  # in a row
        self.woke_at = 0.0  # when the last turn had waited, by the monotonic clock
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.register(self._wake_receiver, selectors.EVENT_READ, self)

    def register(self, sock: Descriptor, events: int, handler: Handler) -> None:
        """Call `handler.on_ready` whenever `sock` is ready for one of `events`."""
        self._selector.register(sock, events, handler)

    def modify(self, sock: Descriptor, before: int, events: int, handler: Handler) -> None:
        """Wait for other `events` on a socket than `before`; 0 stands for none at all."""
        if not before:
            self.register(sock, events, handler)
        elif not events:
            self.unregister(sock)
        else:
            self._selector.modify(sock, events, handler)

    def unregister(self, sock: Descriptor) -> None:
        """Forget a registered socket; due before it is closed."""
        self._selector.unregister(sock)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once in a turn, `seconds` from now or as soon after as can be.

        There is no way to cancel it: a callback checks whether it still matters.
        """
        due = time.monotonic() + seconds
        heapq.heappush(self._deadlines, (due, next(self._tie_break), callback))

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the next turn, and wake the loop if it waits.

        The only method that other threads and signal handlers may use.
        """
        self._calls.append(callback)
        # If it blocks, so many wake-ups are unread that one more adds nothing; if
        # it fails otherwise, the loop is closed, as when a signal comes late.
        with suppress(OSError):
            self._wake_sender.send(b"\0")

    @contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """Let every signal end the wait, so that its handler runs at once.

        A signal interrupts no wait that is only about to begin, nor that of another
        thread than it was sent to, and Python would run its handler whenever
        something else happens. So it has to leave a byte for the loop as well.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # handlers never run in this one
            return
        descriptor = self._wake_sender.fileno()
        before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def on_ready(self, events: int) -> None:
        """Take back the bytes that woke the loop."""
        self._wake_receiver.recv(4096)

    def turn(self) -> None:
        """Wait for something to do, then do all that is ready or due."""
        for key, events in self._wait():
            key.data.on_ready(events)
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            heapq.heappop(self._deadlines)[2]()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the sockets that are ready, once some are or a deadline has come.

        To sleep and be woken takes longer than to answer a message. So while there
        is always something to do shortly, look again and again before going to sleep.
        """
        begun = now = time.monotonic()
        due = self._deadlines[0][0] if self._deadlines else math.inf
        ready: list[tuple[selectors.SelectorKey, int]] = []
        if self._short_waits >= SPIN_AFTER:
            end = min(due, begun + SPIN)
            while not ready and (now := time.monotonic()) < end:
                ready = self._selector.select(0)
        if not ready:
            ready = self._selector.select(None if due == math.inf else max(0.0, due - now))
        self.woke_at = time.monotonic()
        self._short_waits = self._short_waits + 1 if self.woke_at - begun < SPIN else 0
        return ready

    def close(self) -> None:
        """Release the loop's own descriptors."""
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()
