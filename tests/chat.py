"""What the tests of chat mode share: chats in this process, and clients that speak JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Self
from unittest.mock import patch

from chatd.app import Chat
from chatd.rooms import Room
from chatd.storage.sqlite import MEMORY, SQLiteStore
from chatd.storage.store import MessageStore
from tests.support import PATIENCE, Address, RunningServer, serving
from wsproto_min.errors import ConnectionClosed
from wsproto_min.net.broadcast import Group, WriteCoalescer
from wsproto_min.net.client import Client, connect
from wsproto_min.net.peer import Peer

Told = dict[str, Any]

_numbers = count(1)


def open_client(
    address: Address,
    target: str = "/",
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
) -> Client:
    """Return a connection in plain mode, unless `subprotocols` are offered."""
    return connect(
        f"ws://{address[0]}:{address[1]}{target}",
        subprotocols=subprotocols,
        headers=headers,
        origin=origin,
        close_timeout=PATIENCE,
    )


class Talker:
    """A client in chat mode. What it hears it gives out in order, whole objects."""

    def __init__(self, address: Address, *, origin: str | None = None) -> None:
        self.client = open_client(address, subprotocols=("chat.v1",), origin=origin)
        assert self.client.subprotocol == "chat.v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def tell(self, **fields: object) -> None:
        self.client.send(json.dumps(fields))

    def hear(self) -> Told:
        """Return the next object that the server says."""
        message = self.client.recv(PATIENCE)
        assert isinstance(message, str), message
        told = json.loads(message)
        assert isinstance(told, dict), message
        return told

    def hear_next(self, kind: str) -> Told:
        """Return the next object, which must be of a kind; presence in between does not count."""
        while (told := self.hear())["type"] == "presence" != kind:
            pass
        assert told["type"] == kind, f"{told} came instead of {kind}"
        return told

    def settle(self) -> list[Told]:
        """Return all that the server has had to say to this client until now.

        A Pong goes out before what the same turn gathers until its end, so it
        takes a second turn to be sure.
        """
        told = []
        for _ in range(2):
            mark = f"settled {next(_numbers)}"
            self.tell(type="ping", t=mark)
            while (latest := self.hear()) != {"type": "pong", "t": mark}:
                told.append(latest)
        return told

    def messages(self) -> list[Told]:
        """Settle; return the messages that have come."""
        return [told for told in self.settle() if told["type"] == "message"]

    def join(self, room: str, name: str, **more: object) -> Told:
        self.tell(type="join", room=room, name=name, **more)
        return self.hear_next("joined")

    def say(self, room: str, text: str, key: str | None = None) -> Told:
        """Say something; return its acknowledgement."""
        key = key or f"key {next(_numbers)}"
        self.tell(type="say", room=room, text=text, key=key)
        told = self.hear_next("message")
        assert (told.get("key"), told["text"]) == (key, text), told
        return told

    def refusal(self, **fields: object) -> Told:
        """Tell something; return the error that it must be answered with."""
        self.tell(**fields)
        return self.hear_next("error")

    def hear_end(self) -> tuple[int, str]:
        """Return the code and reason with which the server closes, after nothing else."""
        try:
            told = self.hear_next("nothing more")
        except ConnectionClosed as closed:
            return closed.code, closed.reason
        raise AssertionError(f"the server said {told}")


def bare_room(name: str = "x") -> Room:
    """Return a room without a server; messages to its groups go nowhere."""
    write_coalescer = WriteCoalescer()
    return Room(name, Group(write_coalescer), Group(write_coalescer))


def bare_peer() -> Peer:
    """Return a peer without a socket, for a `Room`, which only stores its peers."""
    return Peer.__new__(Peer)


def open_log(path: str = MEMORY, **options: Any) -> SQLiteStore:
    """Return a log for a chat that serves in a thread other than this."""
    anywhere = partial(sqlite3.connect, check_same_thread=False)
    with patch("sqlite3.connect", anywhere):
        return SQLiteStore(path, **options)


@contextmanager
def chatting(log: Log | None = None, **options: Any) -> Iterator[RunningServer]:
    """Run a chat in a thread, by default with a log in memory and no limit of speed."""
    options.setdefault("rate", 0.0)
    log = log or open_log()
    try:
        with serving(server=Chat(log, **options).server) as running:
            yield running
    finally:
        log.close()
