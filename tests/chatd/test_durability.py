"""Durability: no message is lost or repeated when chatd is killed or connections break.

Thirty clients in three rooms send messages while the test kills and restarts chatd, and
breaks connections at random. At the end each client must have exactly the messages of
the store, in order.

All clients run in one thread, so a seed determines every action except the timing of
chatd. CHATD_DURABILITY scales the numbers of messages, kills and broken connections
(default 0.1, complete 1). CHATD_DURABILITY_SEED repeats a run.
"""

from __future__ import annotations

import itertools
import os
import random
import selectors
import socket
import sqlite3
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.reconnecting_client import ReceivedMessage, ReconnectingClient
from tests.support import PATIENCE, ROOT, command, troubles
from wsproto_min import ConnectionClosed
from wsproto_min.net.client import Client

SCALE = float(os.environ.get("CHATD_DURABILITY", "0.1"))
CLIENTS = 30
ROOMS = ("red", "green", "blue")
MESSAGES = max(1000, round(24_000 * SCALE))
KILLS = max(10, round(30 * SCALE))
BROKEN_CONNECTIONS = max(100, round(800 * SCALE))
# Unacknowledged messages up to which a client sends more.
MAX_UNACKNOWLEDGED = 40


class Chatd:
    """A chatd process that is restarted on the same port and the same store."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chat.db"
        self.errors = directory / "errors"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        options = ("--port", str(self.port), "--db", str(self.path), "--rate-limit", "0")
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                command("chatd", *options), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors
            )

    def kill(self, delay: float) -> None:
        """Kill the process after `delay` seconds and start it again."""
        self.check_running()
        killer = threading.Timer(delay, self.process.kill)
        killer.start()
        killer.join()
        self.process.wait(PATIENCE)
        self.start()

    def check_running(self) -> None:
        assert self.process.poll() is None, f"chatd exited: {self.errors.read_text()}"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def stored_messages(self) -> dict[str, list[tuple[ReceivedMessage, str]]]:
        """Return the messages in the store with their keys, in order, by room."""
        with ExitStack() as stack:
            database = sqlite3.connect(self.path)
            stack.callback(database.close)
            rooms: dict[str, list[tuple[ReceivedMessage, str]]] = {room: [] for room in ROOMS}
            for room, number, name, text, key in database.execute(
                "SELECT room, id, name, text, key FROM messages ORDER BY id"
            ):
                rooms[room].append((ReceivedMessage(number, name, text), key))
            return rooms


class Scenario:
    """All clients on one selector, with the failures that they must survive."""

    def __init__(self, chatd: Chatd, seed: int) -> None:
        self.chatd = chatd
        self.random = random.Random(seed)
        self.clients = [
            ReconnectingClient(number, ROOMS[number % len(ROOMS)], self.random)
            for number in range(CLIENTS)
        ]
        self.selector = selectors.DefaultSelector()
        self.silent: list[Client] = []  # connections that the server still considers open
        self.kills = 0
        self.broken = 0
        self.lost_connections = 0

    def run(self) -> None:
        """Send all messages between the failures, then wait until all have arrived."""
        sent = 0
        while sent < MESSAGES:
            client = self.random.choice(self.clients)
            if client.can_say and len(client.unacknowledged) < MAX_UNACKNOWLEDGED:
                for _ in range(min(self.random.randint(1, 9), MESSAGES - sent)):
                    client.say()
                    sent += 1
            if sent * BROKEN_CONNECTIONS >= (self.broken + 1) * MESSAGES:
                self.broken += 1
                self.break_connection(self.random.choice(self.clients))
            if sent * (KILLS + 1) >= (self.kills + 1) * MESSAGES and self.kills < KILLS:
                self.kills += 1
                self.chatd.kill(self.random.choice((0.0, 0.001, 0.01)))
            self.step()
        deadline = time.monotonic() + 3 * PATIENCE
        while not self.is_complete():
            assert time.monotonic() < deadline, self.describe_clients()
            self.step(0.05)

    def step(self, timeout: float = 0.0) -> None:
        """Connect the disconnected clients, and handle the messages that have arrived."""
        for client in self.clients:
            if client.connection is not None:
                continue
            if client.connect(self.chatd.port):
                assert client.connection is not None
                self.selector.register(client.connection, selectors.EVENT_READ, client)
            else:
                self.chatd.check_running()
        for key, _ in self.selector.select(timeout):
            client = key.data
            try:
                client.receive_pending()
            except ConnectionClosed:
                self.lost_connections += 1
                self.selector.unregister(key.fileobj)
                client.connection, client.joined, client.can_say = None, False, False

    def break_connection(self, client: ReconnectingClient) -> None:
        if client.connection is None:
            return
        self.selector.unregister(client.connection)
        how = self.random.choice(("shut", "reset", "half a frame", "silent"))
        silent = client.disconnect(how)
        if silent is not None:
            self.silent.append(silent)

    def is_complete(self) -> bool:
        if any(client.unacknowledged or not client.joined for client in self.clients):
            return False
        return all(len({each.last_id for each in self.clients_in(room)}) == 1 for room in ROOMS)

    def describe_clients(self) -> str:
        return "messages are missing: " + "; ".join(
            f"{each.name}: joined {each.joined}, last id {each.last_id},"
            f" unacknowledged {len(each.unacknowledged)}"
            for each in self.clients
        )

    def clients_in(self, room: str) -> list[ReconnectingClient]:
        return [client for client in self.clients if client.room == room]

    def close(self) -> None:
        for client in self.clients:
            if client.connection is not None:
                client.disconnect("shut")
        for connection in self.silent:
            with (
                socket.socket(fileno=os.dup(connection.fileno())) as sock,
                suppress(OSError),  # chatd may have closed it already
            ):
                sock.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.selector.close()


def first_difference(received: list[ReceivedMessage], stored: list[ReceivedMessage]) -> str:
    for index, (left, right) in enumerate(itertools.zip_longest(received, stored)):
        if left != right:
            return f"message {index} is {left}, in the store {right}"
    return "none"


def test_kills_and_broken_connections_lose_and_repeat_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHATD_DURABILITY_SEED", random.randrange(1 << 32)))
    print(f"CHATD_DURABILITY_SEED={seed}")  # pytest shows it if the test fails
    with ExitStack() as stack:
        chatd = Chatd(tmp_path)
        stack.callback(chatd.stop)
        scenario = Scenario(chatd, seed)
        stack.callback(scenario.close)
        scenario.run()
    assert chatd.process.returncode == 0, chatd.errors.read_text()
    assert troubles(chatd.errors.read_text()) == ""
    assert scenario.kills >= 10
    assert scenario.lost_connections >= 10 * CLIENTS // 2, "too few clients lost a connection"

    stored_messages = chatd.stored_messages()
    assert sum(map(len, stored_messages.values())) == MESSAGES
    for client in scenario.clients:
        stored = stored_messages[client.room]
        messages = [message for message, _ in stored]
        assert client.received == messages, (
            f"{client.name} in {client.room}: {first_difference(client.received, messages)}"
        )
        own = [(key, message) for message, key in stored if key in client.acknowledged]
        assert [message.text for _, message in own] == [
            f"{client.number} says {number}" for number in range(client.sent_count)
        ], f"{client.name}: messages lost, repeated or out of order"
        assert client.acknowledged == {key: (each.id, each.text) for key, each in own}
