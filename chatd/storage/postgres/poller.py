"""Polls of the shared store, for unreported changes and for the leases of the nodes.

Once a second a node reads what has changed in its rooms, and the beats of all nodes. A node whose
beats do not increase is dead, and another one releases its members' names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from chatd.model import RESERVED_FOR, Sanction
from chatd.storage.postgres import reads
from chatd.storage.postgres.connection import Connection
from chatd.storage.postgres.engine_state import EngineState
from chatd.storage.postgres.notifications import Notifier, format_payload, notify
from chatd.storage.postgres.worker import Callback
from chatd.storage.shared import Subscriber
from chatd.storage.store import CallLater, StoreError

logger = logging.getLogger("chatd")

# Seconds between two polls, and polls between two beats of this node.
POLL_INTERVAL = 1.0
POLLS_PER_BEAT = 5
# Polls in which another node shows no beat, after which it counts as dead.
LEASE_POLLS = 15
# Polls in a row with unreported changes, after which the listener reconnects.
MAX_REPAIRS = 3


class Submit(Protocol):
    """Runs a job with a connection, and calls back with its result."""

    def __call__(
        self, job: Callable[[Connection], Any], callback: Callback, action: str, /
    ) -> None:
        """Run a job; `action` is for the error."""


class Poller:
    """Polls the store for one node.

    Args:
        node: Name of this node.
        place: The engine, for the log.
        first: The first poll.
        submit: Runs a job.
        notifier: Sends the beats of this node to the others.
        reconnect: Lets the listener connect again.
        state: Receives the results.

    Attributes:
        subscriber: Receives the changes; None before there is one.
        revocations: The times of revocation by name.
        list_changes: Number of the changes of the revocation list that were loaded.
    """

    def __init__(
        self,
        node: str,
        place: str,
        first: reads.Poll,
        submit: Submit,
        notifier: Notifier,
        reconnect: Callable[[], None],
        state: EngineState,
    ) -> None:
        assert first.sanctions is not None
        assert first.revocations is not None
        self._sanctions_version, self._sanctions = first.sanctions
        self._revocations_version, self.revocations = first.revocations
        self._sanctions_changed = True
        self.list_changes = 1
        self.subscriber: Subscriber | None = None
        self._node = node
        self._place = place
        self._submit = submit
        self._notifier = notifier
        self._reconnect = reconnect
        self._state = state
        self._call_later: CallLater | None = None
        self._is_stopped = False
        self._is_joining = False
        self._is_polling = False
        self._polls_again = False
        self._polls = 0
        self._repairs = 0  # polls in a row with a repair
        self._was_repaired = False
        self._lives: dict[str, tuple[int, int]] = {}  # beats, and polls without a new one, by node

    def start(self, call_later: CallLater) -> None:
        """Poll from now on."""
        self._call_later = call_later
        call_later(POLL_INTERVAL, self._tick)

    def stop(self) -> None:
        """Poll no more."""
        self._is_stopped = True

    def poll_soon(self) -> None:
        """Poll now, or after the poll in progress, which may have read too early."""
        if self._is_polling:
            self._polls_again = True
        else:
            self.poll(lambda: None)

    def take_sanctions(self) -> list[Sanction] | None:
        """Return all sanctions, None if they have not changed since the last call."""
        if not self._sanctions_changed:
            return None
        self._sanctions_changed = False
        return list(self._sanctions)

    def _tick(self) -> None:
        assert self._call_later is not None
        if self._is_stopped:
            return
        self._call_later(POLL_INTERVAL, self._tick)
        if self._state.is_long_lost() and self.subscriber is not None:
            self.subscriber.on_lost("the message store does not answer")
        if not self._is_polling:
            self._polls += 1
            self._count_repairs()
            self.poll(lambda: None, is_regular=True)
            if self._polls % POLLS_PER_BEAT == 0:
                self._beat()
        if self._state.is_deaf():
            self._reconnect()

    def _beat(self) -> None:
        """Report that this node lives, and expect to hear it."""
        sequence = self._state.next_sequence()
        payload = format_payload("beat", self._node, sequence)

        def finish(lives: bool | StoreError) -> None:
            if lives is False:
                self.on_removed()

        self._submit(partial(reads.beat, self._node), finish, "beat")
        self._notifier.send(lambda: [payload], partial(self._state.on_written, sequence))

    def on_removed(self) -> None:
        """Join the other nodes again, after they have given up this one."""
        if self._is_joining:
            return
        self._is_joining = True
        logger.warning(
            "message store %s: node %s was removed; it joins again", self._place, self._node
        )
        self._submit(self._join_again, self._on_joined_again, "join again")
        if self.subscriber is not None:
            self.subscriber.on_lost("this server has lost the names of its members")

    def _on_joined_again(self, result: StoreError | None) -> None:
        self._is_joining = False
        if result is not None:
            self.on_removed()

    def _join_again(self, database: Connection) -> None:
        database.execute(
            "INSERT INTO nodes (node) VALUES (?) ON CONFLICT DO NOTHING", (self._node,)
        )

    def poll(self, then: Callable[[], None], *, is_regular: bool = False) -> None:
        """Read the changes of other nodes, in case a notification is lost; then call back.

        Only regular polls count for the leases of other nodes.
        """
        positions = () if self.subscriber is None else self.subscriber.positions()
        self._is_polling = True
        job = partial(reads.poll, positions, self._sanctions_version, self._revocations_version)

        def finish(result: reads.Poll | StoreError) -> None:
            self._is_polling = False
            if not isinstance(result, StoreError):
                self._state.on_contact()
                self._on_poll(result)
                self._state.nodes = len(result.nodes)
                if is_regular:
                    self._watch_nodes(result.nodes)
            then()
            if self._polls_again and not self._is_polling:
                self._polls_again = False
                self.poll(lambda: None)

        self._submit(job, finish, "read")

    def _on_poll(self, result: reads.Poll) -> None:
        if result.sanctions is not None and result.sanctions[0] > self._sanctions_version:
            self._sanctions_version, self._sanctions = result.sanctions
            self._sanctions_changed = True
        if result.revocations is not None and result.revocations[0] > self._revocations_version:
            self._revocations_version, self.revocations = result.revocations
            self.list_changes += 1
        if self.subscriber is not None:
            for room, last, version in result.rooms:
                self.subscriber.on_last(room, last)
                self.subscriber.on_roster_version(room, version)

    def on_repair(self) -> None:
        """Record a repair, at most one for each poll."""
        self._was_repaired = True

    def _count_repairs(self) -> None:
        """Let the listener connect again after MAX_REPAIRS polls in a row with a repair."""
        was_repaired, self._was_repaired = self._was_repaired, False
        self._state.poll_repairs += was_repaired
        self._repairs = self._repairs + 1 if was_repaired else 0
        if self._repairs == MAX_REPAIRS:
            self._repairs = 0
            logger.warning(
                "message store %s: notifications do not arrive; the listener connects again",
                self._place,
            )
            self._reconnect()

    def _watch_nodes(self, nodes: Mapping[str, int]) -> None:
        """Remove each node without a beat in LEASE_POLLS polls.

        The polls count, not the time: while the engine is away, no node has a beat.
        """
        lives = {}
        for node, beats in nodes.items():
            former, silent = self._lives.get(node, (beats, 0))
            lives[node] = (beats, silent + 1 if beats == former else 0)
            if node != self._node and lives[node][1] >= LEASE_POLLS:
                job = partial(_remove, node, beats)
                self._submit(job, self._on_node_removed, "remove a node")
        self._lives = lives

    def _on_node_removed(self, is_removed: bool | StoreError) -> None:
        if is_removed is True:
            self.poll_soon()


def _remove(node: str, beats: int, database: Connection) -> bool:
    """Remove a dead node; let all nodes read the rosters again."""
    (is_removed,) = database.execute(
        "SELECT remove_node(?, ?, ?)", (node, beats, float(RESERVED_FOR))
    ).fetchone()
    if is_removed:
        if beats != reads.ENDED:
            logger.warning("node %s: no sign of life; its members leave", node)
        notify([format_payload("poll", "operator", 0)], database)
    return bool(is_removed)
