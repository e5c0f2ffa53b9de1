"""Chat servers in a thread of the test process, and blocking clients for them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Self, cast
from unittest.mock import patch

from chatd import protocol
from chatd.access.trusted_networks import parse_network
from chatd.app import Chat
from chatd.model import Kind, Message, session_author
from chatd.rooms import Member, Room
from chatd.storage.sqlite import MEMORY, SQLiteStore
from chatd.storage.store import (
    Act,
    ActCallback,
    ActivityCallback,
    CallLater,
    CallSoon,
    DirectCallback,
    MessageStore,
    ReadCallback,
    SearchCallback,
    StoreError,
)
from tests.support import PATIENCE, Address, RunningServer, serving
from wsproto_min.errors import ConnectionClosed
from wsproto_min.net.broadcast import Group
from wsproto_min.net.client import Client, connect
from wsproto_min.net.peer import Peer
from wsproto_min.net.write_coalescer import WriteCoalescer

ServerMessage = dict[str, Any]

_numbers = count(1)


def open_client(
    address: Address,
    target: str = "/",
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
) -> Client:
    """Connect; without `subprotocols` the connection is in plain mode."""
    return connect(
        f"ws://{address[0]}:{address[1]}{target}",
        subprotocols=subprotocols,
        headers=headers,
        origin=origin,
        close_timeout=PATIENCE,
    )


def client_fields() -> dict[str, set[str]]:
    """Return the fields of each type of message that a client can send."""
    entry = {"room", "key", "ref"}
    sanction = {"room", "author", "seconds"}
    return {
        "join": {"room", "name", "after", "session", "token"},
        "say": {*entry, "text"},
        "edit": {*entry, "text"},
        "delete": entry,
        "react": {*entry, "emoji", "on"},
        "topic": {"room", "text", "key"},
        "history": {"room", "before", "after", "around", "date", "limit"},
        "search": {"room", "text", "before"},
        "rooms": set(),
        "leave": {"room"},
        "typing": {"room"},
        "ping": {"t"},
        "kick": {"room", "author"},
        "ban": sanction,
        "unban": {"room", "author"},
        "mute": sanction,
        "unmute": {"room", "author"},
    }


def server_messages() -> dict[str, set[str]]:
    """Return the fields of each type of message that the server sends."""
    stored = Message(1, "2026-01-01T00:00:00.000Z", "n", "t", "a", ref=1)
    entries = [
        stored._replace(kind=kind, text="+x" if kind is Kind.REACT else "t")
        for kind in (Kind.EDIT, Kind.DELETE, Kind.REACT)
    ]
    topic = stored._replace(kind=Kind.TOPIC, ref=None)
    encoded = [
        protocol.joined(
            "r", "n", "a", "s", [("n", "a")], 1, [], [], topic="", moderator=False, gap=False
        ),
        *(
            protocol.acknowledgement(protocol.message("r", each), "k")
            for each in (stored, *entries, topic)
        ),
        protocol.history("r", [], more=False, more_after=False),
        protocol.results("t", [], before=None),
        protocol.rooms([]),
        protocol.direct("r", "n", "a"),
        protocol.presence("r", [("n", "a")], [], 1),
        protocol.renamed("r", "m", "n", "a"),
        protocol.moderated("r", "kick", "n", "m", None),
        protocol.typing("r", "n"),
        protocol.pong(1),
        protocol.error(protocol.ChatError("c", "m", key="k", room="r")),
    ]
    return {message.pop("type"): set(message) for message in map(json.loads, encoded)}


class ChatClient:
    """Blocking client in chat mode: sends and receives JSON objects."""

    def __init__(self, address: Address, *, origin: str | None = None) -> None:
        self.client = open_client(address, subprotocols=("chat.v1",), origin=origin)
        assert self.client.subprotocol == "chat.v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def send(self, **fields: object) -> None:
        self.client.send(json.dumps(fields))

    def receive(self) -> ServerMessage:
        """Return the next message of the server."""
        text = self.client.recv(PATIENCE)
        assert isinstance(text, str), text
        message = json.loads(text)
        assert isinstance(message, dict), text
        return message

    def receive_type(self, kind: str) -> ServerMessage:
        """Return the next message, which must have the type `kind`; skip presence."""
        while (message := self.receive())["type"] == "presence" != kind:
            pass
        assert message["type"] == kind, f"received {message} instead of {kind}"
        return message

    def receive_pending(self) -> list[ServerMessage]:
        """Return every message that the server has for this client at present.

        The server sends a `pong` before the messages that it collects until the end of
        the iteration. Only a second `pong` proves that they have arrived.
        """
        pending = []
        for _ in range(2):
            mark = f"mark {next(_numbers)}"
            self.send(type="ping", t=mark)
            while (latest := self.receive()) != {"type": "pong", "t": mark}:
                pending.append(latest)
        return pending

    def messages(self) -> list[ServerMessage]:
        """Return the pending messages of the type `message`."""
        return [each for each in self.receive_pending() if each["type"] == "message"]

    def join(self, room: str, name: str, **fields: object) -> ServerMessage:
        """Join a room; return the `joined` message."""
        self.send(type="join", room=room, name=name, **fields)
        return self.receive_type("joined")

    def say(self, room: str, text: str, key: str | None = None) -> ServerMessage:
        """Send a message to a room; return its acknowledgement."""
        key = key or f"key {next(_numbers)}"
        self.send(type="say", room=room, text=text, key=key)
        message = self.receive_type("message")
        assert (message.get("key"), message["text"]) == (key, text), message
        return message

    def error_for(self, **fields: object) -> ServerMessage:
        """Send a message; return the error that the server must answer with."""
        self.send(**fields)
        return self.receive_type("error")

    def receive_close(self) -> tuple[int, str]:
        """Return the code and reason of the Close frame, which must come next."""
        try:
            message = self.receive_type("")
        except ConnectionClosed as closed:
            return closed.code, closed.reason
        raise AssertionError(f"received {message} instead of a Close frame")


def bare_room(name: str = "x") -> Room:
    """Return a room without a server; messages to its groups go nowhere."""
    write_coalescer = WriteCoalescer()
    return Room(name, Group(write_coalescer), Group(write_coalescer))


def new_author() -> str:
    """Return the public id of another person."""
    return session_author(f"person {next(_numbers)}")


def leave(member: Member, **options: float) -> None:
    """Let all peers of a member leave its room."""
    for peer in tuple(member.peers):
        member.room.leave(member, peer, **options)


def names(room: Room) -> list[str]:
    """Return the names that the room lists for a client."""
    return [name for name, _ in room.names_to_send()]


def bare_peer() -> Peer:
    """Return a peer without a socket, for a `Room`, which only stores its peers."""
    return Peer.__new__(Peer)


class StoreWithoutFiles:
    """The methods of a message store beside appends and joins; none has an effect."""

    log_size = 0

    def start(self, call_later: CallLater, call_soon: CallSoon) -> None:
        pass

    def check(self) -> None:
        pass

    def changed_sanctions(self) -> None:
        pass

    def moderate(self, act: Act, callback: ActCallback, /) -> None:
        callback(StoreError("no moderation"))

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, callback: SearchCallback, /
    ) -> None:
        callback(StoreError("no search"))

    def read_activity(self, callback: ActivityCallback, /) -> None:
        callback(StoreError("no activity"))

    def read_direct_rooms(self, author: str, callback: DirectCallback, /) -> None:
        callback(StoreError("no direct rooms"))

    def read_following(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        callback(StoreError("no page"))

    def read_around(self, room: str, number: int, limit: int, callback: ReadCallback, /) -> None:
        callback(StoreError("no page"))

    def read_from(self, room: str, time: str, limit: int, callback: ReadCallback, /) -> None:
        callback(StoreError("no page"))


def open_store(path: str = MEMORY, **options: Any) -> SQLiteStore:
    """Return a store that a server in another thread can use; a new one has ids from 1.

    With CHATD_TEST_ENGINE, the URL of a database, a store in memory is one in PostgreSQL instead,
    in another database of this server. So tests of the chat hold for both engines.
    """
    if path == MEMORY and (shared := open_shared_store(**options)) is not None:
        return cast(SQLiteStore, shared)
    connect_for_any_thread = partial(sqlite3.connect, check_same_thread=False)
    with (
        patch("sqlite3.connect", connect_for_any_thread),
        patch("chatd.storage.ids.first_id", lambda: 0),
    ):
        return SQLiteStore(path, **options)


def open_shared_store(**options: Any) -> Any:
    """Return a store in a new database of CHATD_TEST_ENGINE, None without this variable."""
    url = os.environ.get("CHATD_TEST_ENGINE")
    if not url:
        return None
    import psycopg

    from chatd.storage.postgres.store import PostgresStore

    name = f"chat_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return PostgresStore(f"{url.rpartition('/')[0]}/{name}", **options)


@contextmanager
def serve_chat(store: MessageStore | None = None, **options: Any) -> Iterator[RunningServer]:
    """Run a chat server in a thread.

    By default the store is in memory, the message rate has no limit, and this machine may
    read the metrics.
    """
    options.setdefault("metrics_readers", [parse_network("127.0.0.1")])
    options.setdefault("rate", 0.0)
    store = store or open_store()
    if hasattr(store, "change_member"):
        options["shared"] = store
    try:
        with serving(server=Chat(store, **options).server) as running:
            yield running
    finally:
        store.close()
