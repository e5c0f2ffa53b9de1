"""Output of the tap: a thread writes, so that a slow reader of a pipe delays no connection.

The queue of the thread is bounded. When it is full, events are dropped until it is empty. The
thread then writes the number of dropped events.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from wsproto_min.explain.verdict import count

MAX_QUEUED = 1000
"""Number of texts that wait for the thread."""


class Writer(Protocol):
    """Destination of texts."""

    def write(self, text: str) -> None:
        """Write lines to standard output."""

    def write_error(self, text: str) -> None:
        """Write lines to standard error."""


class Output:
    """Standard output and standard error, in the order of the calls.

    Args:
        on_failure: Called once, in the thread, if standard output takes no more text.

    Attributes:
        error: The failure of standard output, or None.

    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self.error: OSError | None = None
        self._on_failure = on_failure
        self._queue: deque[tuple[str, bool]] = deque()  # texts; True for standard error
        self._dropped = 0
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, because a thread that waits for a full pipe cannot be ended.
        self._thread = threading.Thread(target=self._run, name="tap output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue lines for standard output, or drop them."""
        self._put(text, is_error=False)

    def write_error(self, text: str) -> None:
        """Queue lines for standard error, or drop them."""
        self._put(text, is_error=True)

    def _put(self, text: str, *, is_error: bool) -> None:
        with self._changed:
            if self._dropped or len(self._queue) >= MAX_QUEUED:
                self._dropped += 1
            else:
                self._queue.append((text, is_error))
                self._changed.notify()

    def close(self, seconds: float) -> bool:
        """Let the thread write the rest; return False if it is still busy after `seconds`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            text, is_error = item
            try:
                print(text, file=sys.stderr if is_error else sys.stdout, flush=True)
            except OSError as error:
                if not is_error:
                    self.error = error
                    self._on_failure()
                    return

    def _next(self) -> tuple[str, bool] | None:
        """Wait for the next text; return None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._dropped or self._closed)
            if self._queue:
                return self._queue.popleft()
            if not self._dropped:
                return None
            dropped, self._dropped = self._dropped, 0
        events = count(dropped, "event")
        return f"{events} not shown, because the output is read too slowly", False
