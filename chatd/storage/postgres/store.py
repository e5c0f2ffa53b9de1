"""The shared engine of the message store: one PostgreSQL for any number of nodes.

Four connections, each with a thread, keep the event loop from waiting: the writer appends, the
notifier tells the other nodes of it, the listener hears them, and the reader does everything else.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import psycopg

from chatd.model import Sanction
from chatd.storage import pages
from chatd.storage.moderation import write_act
from chatd.storage.postgres import reads
from chatd.storage.postgres.connection import Connection, connect, create, describe, place_of
from chatd.storage.postgres.engine_state import EngineState
from chatd.storage.postgres.listener import Listener
from chatd.storage.postgres.members import change_members, encode_changes, read_roster
from chatd.storage.postgres.notifications import (
    MAX_PAYLOAD,
    Notification,
    Notifier,
    decode_entry,
    encode,
    encode_batch,
    format_payload,
    notify,
)
from chatd.storage.postgres.poller import Poller
from chatd.storage.postgres.schema import FENCED
from chatd.storage.postgres.search import search
from chatd.storage.postgres.worker import Callback, Worker
from chatd.storage.postgres.writer import append
from chatd.storage.retention import Retention
from chatd.storage.shared import (
    ChangeCallback,
    Changed,
    Claim,
    EntriesCallback,
    LastCallback,
    MetricValue,
    NewEntries,
    Release,
    RosterCallback,
    RosterEntry,
    Subscriber,
)
from chatd.storage.store import (
    Act,
    ActCallback,
    ActivityCallback,
    AppendCallback,
    Appended,
    CallLater,
    CallSoon,
    DirectCallback,
    NewMessage,
    ReadCallback,
    SearchCallback,
    StoredMessage,
    StoreError,
)

logger = logging.getLogger("chatd")

DEFAULT_TIMEOUT = 10.0
# Changes of members in one transaction.
MAX_CHANGES = 100
# Seconds for the jobs in progress at the end.
STOP_TIMEOUT = 3.0


class PostgresStore:
    """Message store in a PostgreSQL database.

    Args:
        url: URL of the database, `postgresql://...`.
        name: Name of this node, for example that of its machine.
        timeout: Seconds after which a request fails if the engine does not answer.
        keep_messages: Number of messages to keep in each room, None for all.
        keep_days: Delete messages older than this many days; None deletes none by age.

    Attributes:
        node: The name with a random part, so that no two processes have the same.
        place: The engine for messages to people, without user and password.
        secret: Secret that signs invitations.
        is_synchronous: True if a commit waits for a standby.

    Raises:
        StoreError: The database cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "node",
        timeout: float = DEFAULT_TIMEOUT,
        keep_messages: int | None = None,
        keep_days: float | None = None,
    ) -> None:
        self.node = f"{name}.{secrets.token_hex(4)}"
        self.place = place_of(url)
        self._url = url
        self._subscriber: Subscriber | None = None
        self._is_closed = False
        self._new_retention = partial(Retention, keep_messages=keep_messages, keep_days=keep_days)
        self._retention: tuple[Connection, Retention] | None = None
        create(url, secrets.token_bytes(32))
        try:
            with closing(connect(url)) as database:
                self.secret, self.is_synchronous = self._register(database)
                first = reads.poll((), 0, 0, database)
        except psycopg.Error as error:
            raise describe(url, "open", error) from None
        self._state = EngineState(self.place)
        self._state.nodes = len(first.nodes)
        self._writer = Worker("writer", self._connect, timeout, self._state.of("writer"))
        self._reader = Worker("reader", self._connect, timeout, self._state.of("reader"))
        self._sender = Worker("notifier", self._connect, timeout, self._state.of("notifier"))
        self._notifier = Notifier(self._sender)
        self._listener = Listener(
            self._connect, self.node, self._on_notification, self._on_listening
        )
        self._call_later: CallLater | None = None
        self._call_soon: CallSoon | None = None
        self._in_flight: set[tuple[str, str | None]] = set()  # rooms and keys of the append
        self._changes: list[tuple[Claim | Release, ChangeCallback]] = []
        self._is_changing = False
        self._poller = Poller(
            self.node,
            self.place,
            first,
            self._submit,
            self._notifier,
            self._listener.reconnect,
            self._state,
        )

    def _register(self, database: Connection) -> tuple[bytes, bool]:
        """Add the node; return the secret, and whether a commit waits for a standby."""
        row = database.execute("SELECT secret, importing FROM meta", ()).fetchone()
        if row[1]:
            raise StoreError(
                f"message store {self.place}: a migration of {row[1]} is not complete; run `chatd"
                " migrate` again"
            )
        database.execute("INSERT INTO nodes (node) VALUES (?)", (self.node,))
        notify([format_payload("poll", self.node, 0)], database)
        (is_synchronous,) = database.execute(
            "SELECT current_setting('synchronous_standby_names') <> ''"
            " AND current_setting('synchronous_commit') <> 'local'",
            (),
        ).fetchone()
        return bytes(row[0]), is_synchronous

    def _connect(self) -> Connection:
        """Connect, in the thread of a connection."""
        connection = connect(self._url)
        report = partial(self._state.on_engine, connection.engine)
        if self._call_soon is None:
            report()
        else:
            self._call_soon(report)
        return connection

    def subscribe(self, subscriber: Subscriber) -> None:
        """Set the receiver of events."""
        self._subscriber = self._poller.subscriber = subscriber

    def start(self, call_later: CallLater, call_soon: CallSoon) -> None:
        """Start the threads and the poll."""
        self._call_later, self._call_soon = call_later, call_soon
        self._writer.start(call_later, call_soon)
        self._reader.start(call_later, call_soon)
        self._sender.start(call_later, call_soon)
        self._listener.start(call_soon)
        self._poller.start(call_later)

    # Append.

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        """Append entries in one transaction, each with a key so that it can be repeated."""
        keyed = [
            each if each.key is not None else each._replace(key=f"~{secrets.token_hex(10)}")
            for each in messages
        ]
        self._state.waiting_messages += len(keyed)
        self._in_flight = {(each.room, each.key) for each in keyed}

        def finish(result: Any) -> None:
            self._state.waiting_messages -= len(keyed)
            self._in_flight = set()
            # A node that has just started lets the others poll, and so they know of it.
            is_alone = self._state.nodes == 1
            if isinstance(result, list) and not is_alone and any(map(_is_new, result)):
                sequence = self._state.next_sequence()
                payloads = partial(encode_batch, self.node, sequence, keyed, result)
                self._notifier.send(payloads, partial(self._state.on_written, sequence))
            callback(self._checked(result, "append"))

        self._writer.submit(partial(append, self.node, keyed), finish)

    def _checked(self, result: Any, action: str) -> Any:
        """Return a result; as a `StoreError` if it is an error of the engine."""
        if not isinstance(result, psycopg.Error):
            return result
        if result.sqlstate == FENCED:
            self._poller.on_removed()
        return describe(self._url, action, result)

    # Read.

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's entries after an id."""
        read = partial(reads.read_after, room, after, limit)
        self._read(partial(reads.with_last, room, read), callback)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read a room's newest messages before an id."""
        read = partial(pages.read_before, room, before, limit)
        self._read(partial(reads.with_last, room, read), callback)

    def read_following(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's oldest messages after an id."""
        self._read(partial(pages.read_following, room, after, limit), callback)

    def read_around(self, room: str, number: int, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's messages on both sides of an id."""
        self._read(partial(pages.read_around, room, number, limit), callback)

    def read_from(self, room: str, time: str, limit: int, callback: ReadCallback, /) -> None:
        """Read a room's oldest messages from a time on."""
        self._read(partial(pages.read_from, room, time, limit), callback)

    def read_activity(self, callback: ActivityCallback, /) -> None:
        """Read the rooms with stored messages."""
        self._read(reads.read_activity, callback)

    def read_direct_rooms(self, author: str, callback: DirectCallback, /) -> None:
        """Read the direct rooms of an author."""
        self._read(partial(pages.read_direct_rooms, author), callback)

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, callback: SearchCallback, /
    ) -> None:
        """Find messages by a bounded scan."""
        self._read(partial(search, rooms, text, before), callback)

    def read_last(self, room: str, callback: LastCallback, /) -> None:
        """Read the last id of a room."""
        self._read(partial(reads.read_last, room), callback)

    def read_entries(self, room: str, after: int, limit: int, callback: EntriesCallback, /) -> None:
        """Read a room's oldest entries after an id, up to the first of an append in progress."""
        self._state.gaps_read += 1

        def finish(result: Any) -> None:
            if not isinstance(result, StoreError):
                # The append has the sender, so its answer delivers the entry.
                known = list(
                    itertools.takewhile(lambda each: (room, each[1]) not in self._in_flight, result)
                )
                is_complete = len(known) == len(result) < limit
                result = NewEntries([message for message, _ in known], is_complete)
            callback(result)

        self._read(partial(reads.read_entries, room, after, limit), finish)

    def read_roster(self, room: str, callback: RosterCallback, /) -> None:
        """Read the members of a room."""
        self._submit(partial(read_roster, self.node, room), callback, "read")

    def _read(self, read: pages.Read, callback: Callback) -> None:
        self._submit(partial(reads.snapshot, read), callback, "read")

    def _submit(
        self,
        job: Callable[[Connection], Any],
        callback: Callback,
        action: str,
        *,
        once: bool = False,
    ) -> None:
        def finish(result: Any) -> None:
            callback(self._checked(result, action))

        self._reader.submit(job, finish, once=once)

    # Invitations; see `access.invitations.InvitationSource`.

    def load_revocations(self) -> Mapping[str, float]:
        """Return the time of revocation by name, as the last poll has read it."""
        return self._poller.revocations

    @property
    def list_changes(self) -> int:
        """Number of the changes of the revocation list that were loaded."""
        return self._poller.list_changes

    def revoke(self, key: str, now: float, /) -> None:
        """Refuse: only the operator's command revokes, with a connection of its own."""
        raise OSError("the server does not revoke; use the command `chatd revoke`")

    # Members.

    def change_member(self, change: Claim | Release, callback: ChangeCallback, /) -> None:
        """Claim or release a name, together with the other changes of the moment."""
        self._changes.append((change, callback))
        self._change_members()

    def _change_members(self) -> None:
        if self._is_changing or not self._changes:
            return
        self._is_changing = True
        batch, self._changes = self._changes[:MAX_CHANGES], self._changes[MAX_CHANGES:]
        changes = [change for change, _ in batch]

        def finish(result: Any) -> None:
            self._is_changing = False
            self._change_members()
            if isinstance(result, StoreError):
                results = [result] * len(batch)
            else:
                results = result
                self._notifier.send(partial(encode_changes, self.node, changes, results))
            for (_, callback), each in zip(batch, results, strict=True):
                callback(each)

        self._submit(partial(change_members, self.node, changes), finish, "change members")

    def announce(self, room: str, text: str, /) -> None:
        """Send a message to the members of a room on the other nodes, if it fits."""
        content = encode({"room": room, "text": text})
        payload = format_payload("announce", self.node, 0, content)
        if len(payload.encode()) <= MAX_PAYLOAD:
            self._notifier.send(lambda: [payload])

    # Moderation.

    def moderate(self, act: Act, callback: ActCallback, /) -> None:
        """Store an act of moderation, and let all nodes read the sanctions again."""

        def store(database: Connection) -> None:
            write_act(database, act)
            touch_sanctions(database)

        def finish(result: Any) -> None:
            if isinstance(result, StoreError):
                callback(result)
            else:  # the poll comes before the callback, which needs the sanctions
                self._poller.poll(lambda: callback(None))

        self._submit(store, finish, "store an act of moderation", once=True)

    def changed_sanctions(self) -> list[Sanction] | None:
        """Return all sanctions after a change by any node or by an operator's command."""
        return self._poller.take_sanctions()

    def on_repair(self) -> None:
        """Record a repair, at most one for each poll."""
        self._poller.on_repair()

    # Notifications.

    def _on_listening(self, error: Exception | None) -> None:
        self._state.of("listener")(error)
        if error is None:
            self._poller.poll_soon()  # what came while nobody listened

    def _on_notification(self, notification: Notification) -> None:
        """Pass a notification on to the chat."""
        kind, node, sequence, fields = notification
        self._state.on_notification(kind, sequence if node == self.node else 0)
        subscriber = self._subscriber
        if node == self.node or subscriber is None:
            return
        try:
            match kind:
                case "entries":
                    rows = fields.get("entries")
                    entries = None if rows is None else [decode_entry(row) for row in rows]
                    subscriber.on_entries(fields["room"], fields["last"], entries)
                case "member":
                    changed = Changed(fields["version"], RosterEntry(*fields["member"]))
                    subscriber.on_member(fields["room"], changed)
                case "announce":
                    subscriber.on_announcement(fields["room"], fields["text"])
                case "poll":
                    self._poller.poll_soon()
        except (KeyError, TypeError, ValueError):
            logger.warning("notification: unreadable; run the same chatd on all nodes")

    # Maintenance.

    def apply_retention(self) -> bool:
        """Begin to delete messages, in steps of the reader; return False."""
        self._submit(self._retain, self._on_retained, "apply retention")
        return False

    def _retain(self, database: Connection) -> bool:
        if self._retention is None or self._retention[0] is not database:
            self._retention = database, self._new_retention(database)
        # One node at a time does a step.
        (is_free,) = database.execute(
            "SELECT pg_try_advisory_lock(hashtext('chatd retention'))", ()
        ).fetchone()
        if not is_free:
            return False
        try:
            return self._retention[1].apply()
        finally:
            database.execute("SELECT pg_advisory_unlock(hashtext('chatd retention'))", ())

    def _on_retained(self, more: bool | StoreError) -> None:
        if more is True and not self._is_closed:
            self.apply_retention()

    def check(self) -> None:
        """Do nothing: an engine that is away has no effect on the health of this process."""

    def readiness(self) -> str | None:
        """Return the reason why the node is not ready, None if it is."""
        return self._state.problem()

    def metrics(self) -> Mapping[tuple[str, ...], tuple[str, MetricValue]]:
        """Return the metrics of the shared store."""
        return self._state.metrics()

    @property
    def log_size(self) -> int:
        """0, because the engine manages its own log."""
        return 0

    def close(self) -> None:
        """Complete the jobs in progress, and close the connections.

        The members of this node stay listed until its lease ends, so that the clients that
        connect to another node keep their names, and nobody sees them leave.
        """
        self._is_closed = True
        self._poller.stop()
        if self._call_later is not None:
            self._submit(partial(reads.say_goodbye, self.node), lambda _: None, "stop")
            self._listener.stop()
        workers = (self._writer, self._reader, self._sender)
        end = time.monotonic() + STOP_TIMEOUT
        for worker in workers:
            worker.finish()
        for worker in workers:
            worker.stop(end)


def _is_new(appended: Appended) -> bool:
    return isinstance(appended, StoredMessage) and not appended.repeated


def touch_sanctions(database: Connection) -> None:
    """Let all nodes read the sanctions again."""
    database.execute("UPDATE meta SET sanctions = sanctions + 1", ())
    notify([format_payload("poll", "operator", 0)], database)
