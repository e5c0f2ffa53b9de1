"""Queue of expensive requests: spreads their work over event-loop iterations.

Each address has a queue of its own, with a queue for each of its peers. The addresses
take turns, and so do the peers of an address. A peer's requests keep their order. The
queue of an address waits while the address is in debt (see `access.costs`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from chatd.access.rate_limit import TokenBucket
from wsproto_min import Peer

# Seconds of one event loop iteration in which requests may start. The last one that starts
# may end later, so a request must itself be short.
STEP = 0.002
# Requests that wait for the message store. Several answers may arrive in one iteration.
MAX_IN_PROGRESS = 4

Job = Callable[[], None]
"""Starts a request; `WorkQueue.done` must follow once the request is complete."""

_Key = TokenBucket | Peer


class WorkQueue:
    """Queue of expensive requests.

    Args:
        call_later: Calls a function after some seconds, like `Server.call_later`.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], None]) -> None:
        self._call_later = call_later
        # By bucket of the address, or by peer for an address without a bucket.
        self._ready: dict[_Key, dict[Peer, deque[Job]]] = {}
        self._in_debt: dict[_Key, dict[Peer, deque[Job]]] = {}
        self._in_progress = 0
        self._running = False
        self._run_scheduled = False
        self._spent = 0.0  # seconds of this iteration

    def submit(self, peer: Peer, address: TokenBucket | None, job: Job) -> None:
        """Start a request now if nothing is in its way, otherwise later.

        Args:
            peer: Sender of the request.
            address: Bucket of its address, None without a limit.
            job: Starts the request.
        """
        key = peer if address is None else address
        queues = self._in_debt if key in self._in_debt else self._ready
        queues.setdefault(key, {}).setdefault(peer, deque()).append(job)
        self._run()

    def done(self) -> None:
        """Record the completion of a request that the queue has started."""
        self._in_progress -= 1
        if not self._running:  # the store has answered late
            self._schedule_run()

    def discard(self, peer: Peer, address: TokenBucket | None) -> None:
        """Remove the waiting requests of a closed peer."""
        key = peer if address is None else address
        for queues in (self._ready, self._in_debt):
            peers = queues.get(key)
            if peers is not None:
                peers.pop(peer, None)
                if not peers:
                    del queues[key]

    def end_iteration(self) -> None:
        """Allow the work of another iteration."""
        self._spent = 0.0

    def _run(self) -> None:
        """Start requests for the rest of this iteration's STEP."""
        if self._running:
            return
        self._running = True
        started = now = time.monotonic()
        limit = STEP - self._spent
        try:
            while self._ready and self._in_progress < MAX_IN_PROGRESS and now - started < limit:
                job = self._next(now)
                if job is not None:
                    self._in_progress += 1
                    job()
                now = time.monotonic()
        finally:
            self._running = False
            self._spent += now - started
            if self._ready and self._in_progress < MAX_IN_PROGRESS:
                self._schedule_run()

    def _next(self, now: float) -> Job | None:
        """Return the next request; None if its address is in debt."""
        key = next(iter(self._ready))
        peers = self._ready.pop(key)
        wait = key.wait(now) if isinstance(key, TokenBucket) else 0.0
        if wait > 0:
            self._in_debt[key] = peers
            self._call_later(wait, partial(self._wake, key))
            return None
        peer = next(iter(peers))
        jobs = peers.pop(peer)
        job = jobs.popleft()
        if jobs:
            peers[peer] = jobs
        if peers:
            self._ready[key] = peers
        return job

    def _wake(self, key: _Key) -> None:
        peers = self._in_debt.pop(key, None)
        if peers is not None:  # else the peers are closed
            self._ready[key] = peers
            self._run()

    def _schedule_run(self) -> None:
        if not self._run_scheduled:
            self._run_scheduled = True
            self._call_later(0.0, self._run_later)

    def _run_later(self) -> None:
        self._run_scheduled = False
        self._run()
