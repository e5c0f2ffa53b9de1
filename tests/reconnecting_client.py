"""A chat client that reconnects, and fails the test if a message is lost or repeated.

It recovers as the page does: it joins with the id of the last message that it has and
with its former session. It sends every unacknowledged message again under the same key.
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


class ReceivedMessage(NamedTuple):
    """A message in the client's list."""

    id: int
    name: str
    text: str


class DeliveryError(AssertionError):
    """A message is lost, repeated or out of order, or the server sent an unexpected one."""


class ReconnectingClient:
    """Client in one room; `connection` is None while it is not connected."""

    def __init__(self, number: int, room: str, random: random.Random) -> None:
        self.number = number
        self.room = room
        self.name = f"client {number}"
        self.random = random
        self.session: str | None = None
        self.connection: Client | None = None
        self.joined = False
        self.can_say = False  # a new message would follow every earlier one
        self.sent_count = 0
        self.unacknowledged: dict[str, str] = {}  # texts by key
        self.acknowledged: dict[str, tuple[int, str]] = {}  # ids and texts by key
        self.received: list[ReceivedMessage] = []
        self.renamed_count = 0

    @property
    def last_id(self) -> int:
        return self.received[-1].id if self.received else 0

    def connect(self, port: int) -> bool:
        """Connect and join; half of the time resend without waiting for `joined`."""
        try:
            self.connection = connect(
                f"ws://127.0.0.1:{port}/", subprotocols=("chat.v1",), close_timeout=PATIENCE
            )
        except (OSError, HandshakeError):  # chatd is restarting
            return False
        self.joined = self.can_say = False
        self.send(
            type="join", room=self.room, name=self.name, after=self.last_id, session=self.session
        )
        if self.random.random() < 0.5:
            self.resend()
        return True

    def send(self, **fields: object) -> None:
        assert self.connection is not None
        with suppress(ConnectionClosed):  # recv() reports it after the buffered messages
            self.connection.send(json.dumps(fields))

    def say(self) -> None:
        """Send the next message; `can_say` must be true."""
        key = self.random.randbytes(9).hex()
        self.unacknowledged[key] = f"{self.number} says {self.sent_count}"
        self.sent_count += 1
        self.send(type="say", room=self.room, text=self.unacknowledged[key], key=key)

    def resend(self) -> None:
        self.can_say = True
        for key, text in self.unacknowledged.items():
            self.send(type="say", room=self.room, text=text, key=key)

    def disconnect(self, how: str) -> Client | None:
        """Lose the connection.

        Args:
            how: "shut", "reset", "half a frame", or "silent".

        Returns:
            The connection if the server cannot notice the loss ("silent"), else None.
        """
        connection, self.connection = self.connection, None
        self.joined = self.can_say = False
        assert connection is not None
        if how == "silent":
            return connection
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            if how == "half a frame":
                sock.sendall(bytes.fromhex("81fe"))  # FIN, text; MASK, 16-bit length follows
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                with suppress(OSError):  # the server may have reset it already
                    sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        return None

    def receive_pending(self) -> None:
        """Handle every message that has arrived. Raises `ConnectionClosed`, `DeliveryError`."""
        assert self.connection is not None
        while True:
            try:
                message = self.connection.recv(0)
            except TimeoutError:
                return
            self.handle(json.loads(message))

    def handle(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "joined":
            if message["gap"]:
                raise DeliveryError(f"{self.name} missed messages after {self.last_id}")
            self.session = message["session"]
            for each in message["messages"]:
                self.store(each, may_repeat=False)
            if not self.joined:
                self.joined = True
                self.resend()
        elif kind == "message":
            key = message.get("key")
            self.store(message, may_repeat=key is not None)
            if key is not None:
                self.acknowledge(key, message)
        elif kind == "error" and message["code"] == "name_taken":
            # The connection ended before `joined` came, so the client lacks the session
            # that owns its name.
            self.renamed_count += 1
            self.name = f"client {self.number}, {self.renamed_count}"
            self.session = None
            self.send(type="join", room=self.room, name=self.name, after=self.last_id)
            self.resend()
        elif kind == "error" and message["code"] == "not_joined":
            pass  # the reply to a `say` after a refused join; the client sends it again
        elif kind != "presence":
            raise DeliveryError(f"{self.name} received {message}")

    def store(self, fields: dict[str, Any], *, may_repeat: bool) -> None:
        message = ReceivedMessage(fields["id"], fields["name"], fields["text"])
        if message.id > self.last_id:
            self.received.append(message)
        elif not may_repeat:
            raise DeliveryError(f"{self.name} received {message} after {self.received[-1]}")
        elif message not in self.received:
            raise DeliveryError(f"{self.name} received only the acknowledgement of {message}")

    def acknowledge(self, key: str, fields: dict[str, Any]) -> None:
        result = (fields["id"], fields["text"])
        text = self.unacknowledged.pop(key, None)
        if text is not None:
            self.acknowledged[key] = result
        if self.acknowledged[key] != result or text not in (None, fields["text"]):
            raise DeliveryError(
                f"{self.name}: key {key} acknowledged as {self.acknowledged[key]} and {result}"
            )
