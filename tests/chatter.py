"""A client that loses nothing however often its connection goes, and complains if it did.

It does what a page does: it joins after the last id seen, with the session of
before, and says again what was not acknowledged, under the same key.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support import PATIENCE
from wsproto_min import ConnectionClosed, HandshakeError
from wsproto_min.net.client import Client, connect


class Seen(NamedTuple):
    """A message as a client has it in its list."""

    id: int
    name: str
    text: str


class LostOrTwice(AssertionError):
    """A client was told what it must not be told."""


class Chatter:
    """One who chats; `now` is its connection, None while it has none."""

    def __init__(self, number: int, room: str, random: random.Random) -> None:
        self.number = number
        self.room = room
        self.name = f"client {number}"
        self.random = random
        self.session: str | None = None
        self.now: Client | None = None
        self.joined = False
        self.said = 0
        self.write_coalescer: dict[str, str] = {}  # key and text of what is not acknowledged
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self.seen: list[Seen] = []
        self.renamed = 0

    @property
    def last(self) -> int:
        return self.seen[-1].id if self.seen else 0

    def call(self, port: int) -> bool:
        """Connect and join; now and then resend without waiting for the answer."""
        try:
            self.now = connect(
                f"ws://127.0.0.1:{port}/", subprotocols=("chat.v1",), close_timeout=PATIENCE
            )
        except (OSError, HandshakeError):  # there is no daemon at the moment
            return False
        self.joined = False
        self.tell(
            type="join", room=self.room, name=self.name, after=self.last, session=self.session
        )
        if self.random.random() < 0.5:
            self.resend()
        return True

    def tell(self, **fields: object) -> None:
        assert self.now is not None
        with suppress(ConnectionClosed):  # the end is found when all before it is read
            self.now.send(json.dumps(fields))

    def say(self) -> None:
        key = self.random.randbytes(9).hex()
        self.write_coalescer[key] = f"{self.number} says {self.said}"
        self.said += 1
        self.tell(type="say", room=self.room, text=self.write_coalescer[key], key=key)

    def resend(self) -> None:
        for key, text in self.write_coalescer.items():
            self.tell(type="say", room=self.room, text=text, key=key)

    def cut(self, how: str) -> Client | None:
        """Lose the connection; return it if nobody but this client knows."""
        former, self.now, self.joined = self.now, None, False
        assert former is not None
        if how == "forgotten":
            return former
        with socket.socket(fileno=os.dup(former.fileno())) as sock:
            if how == "half a frame":
                sock.sendall(bytes.fromhex("81fe"))  # a text frame whose length is to come
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                sock.shutdown(socket.SHUT_RDWR)
        former.close()
        return None

    def listen(self) -> None:
        """Act on all that has arrived. Raises `ConnectionClosed`, `LostOrTwice`."""
        assert self.now is not None
        while True:
            try:
                message = self.now.recv(0)
            except TimeoutError:
                return
            self.hear(json.loads(message))

    def hear(self, told: dict[str, Any]) -> None:
        kind = told["type"]
        if kind == "joined":
            if told["gap"]:
                raise LostOrTwice(f"{self.name} missed messages after {self.last}")
            self.session = told["session"]
            for each in told["messages"]:
                self.see(each, may_repeat=False)
            if not self.joined:
                self.joined = True
                self.resend()
        elif kind == "message":
            key = told.get("key")
            self.see(told, may_repeat=key is not None)
            if key is not None:
                self.acknowledge(key, told)
        elif kind == "error" and told["code"] == "name_taken":
            # Its first `joined` was lost with the connection, the session with it.
            self.renamed += 1
            self.name = f"client {self.number}, {self.renamed}"
            self.session = None
            self.tell(type="join", room=self.room, name=self.name, after=self.last)
            self.resend()
        elif kind == "error" and told["code"] == "not_joined":
            pass  # said along with a join that was refused: it is said again
        elif kind != "presence":
            raise LostOrTwice(f"{self.name} was told {told}")

    def see(self, told: dict[str, Any], *, may_repeat: bool) -> None:
        message = Seen(told["id"], told["name"], told["text"])
        if message.id > self.last:
            self.seen.append(message)
        elif not may_repeat:
            raise LostOrTwice(f"{self.name} was told {message} after {self.seen[-1]}")
        elif message not in self.seen:
            raise LostOrTwice(f"{self.name} never saw {message}, which answers a repeat")

    def acknowledge(self, key: str, told: dict[str, Any]) -> None:
        answered = (told["id"], told["text"])
        text = self.write_coalescer.pop(key, None)
        if text is not None:
            self.acknowledged[key] = answered
        if self.acknowledged[key] != answered or text not in (None, told["text"]):
            raise LostOrTwice(f"{self.name}: {key} is {self.acknowledged[key]} and {answered}")
