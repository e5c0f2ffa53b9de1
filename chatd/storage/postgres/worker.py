"""A thread with one connection to the shared engine, which runs jobs in order.

The event loop never waits for the engine. It gives a job to the worker, and gets the result
through `call_soon`. A job whose connection is lost runs again on a new connection, so each job
must have the same effect when it is repeated. The loop watches the deadline of each job, because
libpq waits without end for a stopped server. It then reports an error, and closes the socket
under the job in progress.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from chatd.storage.postgres.connection import Connect, Connection
from chatd.storage.store import CallLater, CallSoon, StoreError

logger = logging.getLogger("chatd")

Job = Callable[[Connection], Any]
Callback = Callable[[Any], None]
"""Receives the result of a job, or a `StoreError`."""

# Seconds between two attempts to connect, which double up to the maximum, with jitter.
MIN_BACKOFF = 0.05
MAX_BACKOFF = 2.0
# Seconds between two checks of the deadlines.
WATCH_INTERVAL = 0.2
# Errors after which the same job may succeed on another connection: deadlock, serialization,
# and a server that became a standby.
_REPEATABLE = ("40P01", "40001", "25006")


class _Entry:
    """A job with its callback, and the time at which it fails. `once` forbids a repetition."""

    __slots__ = ("callback", "deadline", "job", "once")

    def __init__(self, job: Job, callback: Callback, deadline: float, once: bool) -> None:
        self.job = job
        self.callback: Callback | None = callback
        self.deadline = deadline
        self.once = once


class Worker:
    """Runs jobs in a thread, and before `start` at once.

    All methods belong to the thread of the event loop.

    Args:
        name: Name of the thread.
        connect: Opens a connection.
        timeout: Seconds from `submit` until a job fails.
        on_state: Called with None once connected, and with the error once it is lost.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        timeout: float,
        on_state: Callable[[Exception | None], None],
    ) -> None:
        self._name = name
        self._connect = connect
        self._timeout = timeout
        self._on_state = on_state
        self._call_later: CallLater | None = None
        self._call_soon: CallSoon | None = None
        self._waiting: deque[_Entry] = deque()
        self._current: _Entry | None = None
        self._jobs: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, call_later: CallLater, call_soon: CallSoon) -> None:
        """Start the thread."""
        self._call_later, self._call_soon = call_later, call_soon
        self._thread.start()
        self._call_later(WATCH_INTERVAL, self._watch)

    def submit(
        self, job: Job, callback: Callback, *, once: bool = False, timeout: float | None = None
    ) -> None:
        """Run a job after the earlier ones.

        Args:
            job: Called in the thread, with the connection.
            callback: Receives the result in the event loop.
            once: True if a repetition of the job would have another effect.
            timeout: Seconds, None for those of the worker.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        entry = _Entry(job, callback, deadline, once)
        if self._call_soon is None:
            callback(self._attempt(entry))
            return
        self._waiting.append(entry)
        self._start_next()

    def abort_connection(self) -> None:
        """Close the socket of the connection, so that the worker connects again."""
        if self._connection is not None:
            self._connection.abort()

    def finish(self) -> None:
        """Let the thread end after the jobs that it has; no job may follow."""
        for entry in self._waiting:
            self._jobs.put(entry)
        self._waiting.clear()
        self._jobs.put(None)

    def stop(self, end: float) -> None:
        """End the thread, at the latest at a time of the monotonic clock."""
        if self._call_soon is None:
            self._close()
            return
        self._thread.join(max(0.0, end - time.monotonic()))
        self._stopping.set()
        self.abort_connection()
        self._thread.join(1.0)

    def _start_next(self) -> None:
        if self._waiting and self._current is None:
            self._current = self._waiting.popleft()
            self._jobs.put(self._current)

    def _watch(self) -> None:
        """Fail the jobs whose deadline is over."""
        assert self._call_later is not None
        if self._stopping.is_set():
            return
        now = time.monotonic()
        current = self._current
        if current is not None and now >= current.deadline:
            self._current = None
            self._fail(current)
            self.abort_connection()  # the thread drops the job
        while self._waiting and now >= self._waiting[0].deadline:
            self._fail(self._waiting.popleft())
        self._start_next()
        self._call_later(WATCH_INTERVAL, self._watch)

    def _fail(self, entry: _Entry) -> None:
        callback, entry.callback = entry.callback, None
        if callback is not None:
            callback(self._timeout_error())

    def _finish(self, entry: _Entry, result: object) -> None:
        if self._current is entry:
            self._current = None
        callback, entry.callback = entry.callback, None
        self._start_next()
        if callback is not None:
            callback(result)

    # In the thread.

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            result = self._attempt(entry)
            self._report(partial(self._finish, entry, result))
        self._close()

    def _attempt(self, entry: _Entry) -> object:
        """Run a job until it succeeds, fails, or is dropped."""
        backoff = MIN_BACKOFF
        while not self._is_over(entry):
            connection = self._connection
            try:
                if connection is None:
                    connection = self._connect()
                    self._connection = connection
                    self._report(partial(self._on_state, None))
                return entry.job(connection)
            except StoreError as error:
                return error
            except psycopg.Error as error:
                was_connected = self._connection is not None
                if was_connected and not _is_lost(error, self._connection):
                    if error.sqlstate not in _REPEATABLE:
                        return error
                else:
                    self._close()
                    self._report(partial(self._on_state, error))
                if entry.once and was_connected:
                    return error
            except Exception:
                logger.exception("%s: unexpected exception; report this bug", self._name)
                self._close()
                return StoreError("message store: unexpected exception; see the log")
            self._stopping.wait(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, MAX_BACKOFF)
        return self._timeout_error()

    def _is_over(self, entry: _Entry) -> bool:
        """Return True if a job need not run any more."""
        is_late = time.monotonic() >= entry.deadline
        return entry.callback is None or is_late or self._stopping.is_set()

    def _timeout_error(self) -> StoreError:
        return StoreError(f"message store: no answer of the engine within {self._timeout:g} s")

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _report(self, call: Callable[[], None]) -> None:
        if self._call_soon is None:
            call()
        else:
            self._call_soon(call)


def _is_lost(error: psycopg.Error, connection: Connection | None) -> bool:
    """Return True if a connection is of no more use."""
    is_broken = connection is None or connection.raw.closed
    return is_broken or error.sqlstate == "25006" or isinstance(error, psycopg.InterfaceError)
