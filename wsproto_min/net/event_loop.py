"""A single-threaded event loop: ready sockets, timers, and calls from other threads.

An iteration (`run_once`) waits in a selector and calls the handler of each ready socket. It
then makes the calls that other threads asked for, and fires the expired timers.
The loop contains nothing of WebSocket or TLS.
"""

from __future__ import annotations

import heapq
import math
import selectors
import signal
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Protocol

# Busy-poll for up to _SPIN seconds before blocking, once _SPIN_AFTER consecutive waits
# were shorter than _SPIN. A blocked thread takes longer to wake than a message takes to answer.
_SPIN = 100e-6
_SPIN_AFTER = 8


class Handler(Protocol):
    """Owner of a registered socket."""

    def on_ready(self, events: int) -> None:
        """Act on `events`, a mask of `selectors.EVENT_READ` and `EVENT_WRITE`."""


class HasFileno(Protocol):
    """A socket, or an object that wraps one."""

    def fileno(self) -> int:
        """Return the file descriptor."""


class EventLoop:
    """Registered sockets with their handlers, and callbacks with their times.

    `woke_at` is the time (monotonic clock, seconds) at which the last wait ended.
    """

    def __init__(self) -> None:
        self.woke_at: float = 0.0
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._timer_numbers = count()  # timers with equal times fire in the order of their calls
        self._calls: deque[Callable[[], None]] = deque()
        self._short_waits = 0  # consecutive waits shorter than _SPIN
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.register(self._wake_receiver, selectors.EVENT_READ, self)
        # `run` closes the sockets. A loop that never runs closes them when it is collected.
        for sock in (self._wake_receiver, self._wake_sender):
            weakref.finalize(self, sock.close)

    def register(self, sock: HasFileno, events: int, handler: Handler) -> None:
        """Call `handler.on_ready` in each iteration that finds `sock` ready for `events`."""
        self._selector.register(sock, events, handler)

    def modify(self, sock: HasFileno, before: int, events: int, handler: Handler) -> None:
        """Replace the events that the loop watches a socket for.

        Args:
            sock: The socket.
            before: Events watched until now; 0 if the socket is not registered.
            events: Events to watch from now on; 0 unregisters the socket.
            handler: Object to call.
        """
        if not before:
            self.register(sock, events, handler)
        elif not events:
            self.unregister(sock)
        else:
            self._selector.modify(sock, events, handler)

    def unregister(self, sock: HasFileno) -> None:
        """Stop watching a registered socket; call this before closing the socket."""
        self._selector.unregister(sock)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, at the end of the first iteration that reaches `when`.

        An iteration fires its timers last, and reads the clock just before. A timer cannot
        be cancelled: a callback checks whether it still applies.

        Args:
            when: Time on the monotonic clock, in seconds.
            callback: Function without parameters.
        """
        heapq.heappush(self._timers, (when, next(self._timer_numbers), callback))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now (see `call_at`)."""
        self.call_at(time.monotonic() + seconds, callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the next iteration, and wake the loop if it waits.

        This is the only method for other threads and signal handlers.
        """
        self._calls.append(callback)
        # BlockingIOError: the socket is full of wake-ups, so one more adds nothing.
        # Other errors: the loop is closed, for example when a signal comes late.
        with suppress(OSError):
            self._wake_sender.send(b"\0")

    @contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """Wake the loop on every signal inside the `with` block, so that its handler runs at once.

        Python runs signal handlers between bytecodes of the main thread. A signal that
        arrives just before the wait, or in another thread, interrupts no system call.
        Without a wake-up byte the loop would continue to wait. So each signal also writes a
        byte to the loop's socket.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # signal handlers never run in this thread
            return
        descriptor = self._wake_sender.fileno()
        before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def run_once(self) -> None:
        """Run one iteration: wait, then call ready handlers, other threads' calls and timers."""
        for key, events in self._wait():
            key.data.on_ready(events)
        for _ in range(len(self._calls)):  # calls made meanwhile belong to the next iteration
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for a ready socket or the next timer; return the ready sockets."""
        begun = now = time.monotonic()
        deadline = self._timers[0][0] if self._timers else math.inf
        ready: list[tuple[selectors.SelectorKey, int]] = []
        if self._short_waits >= _SPIN_AFTER:
            spin_until = min(deadline, begun + _SPIN)
            while not ready and (now := time.monotonic()) < spin_until:
                ready = self._selector.select(0)
        if not ready:
            timeout = None if deadline == math.inf else max(0.0, deadline - now)
            ready = self._selector.select(timeout)
        self.woke_at = time.monotonic()
        self._short_waits = self._short_waits + 1 if self.woke_at - begun < _SPIN else 0
        return ready

    def on_ready(self, events: int) -> None:
        """Read the bytes that woke the loop."""
        self._wake_receiver.recv(4096)

    def close(self) -> None:
        """Close the loop's own file descriptors."""
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()
