"""Never lost, never twice: a daemon killed over and over, and connections cut at random.

Thirty clients in three rooms do what a page does: join after the last id seen,
with the session of before, and say again what was not acknowledged, under the
same key. In the end each has seen just what the log has.

One thread plays all clients, so that a seed decides what is said and cut and
when; only the daemon's own timing is not in its hands. CHATD_DURABILITY
multiplies messages, kills and cuts (0.25, and about 20 seconds for each 1), and
CHATD_DURABILITY_SEED repeats a run.
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

from tests.chatter import Chatter, Seen
from tests.support import PATIENCE, ROOT, command, troubles
from wsproto_min import ConnectionClosed
from wsproto_min.net.client import Client

SCALE = float(os.environ.get("CHATD_DURABILITY", "0.25"))
CLIENTS = 30
ROOMS = ("red", "green", "blue")
MESSAGES = max(1000, round(24_000 * SCALE))
KILLS = max(10, round(30 * SCALE))
CUTS = max(100, round(800 * SCALE))
# So many messages may wait for their acknowledgement before a client says more.
OUTBOX = 40


class Chatd:
    """The daemon, over and over, on one port and one file."""

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
        """End it in a moment, whatever it is at then, and start it again."""
        if self.process.poll() is not None:
            raise AssertionError(f"it ended by itself: {self.errors.read_text()}")
        killer = threading.Timer(delay, self.process.kill)
        killer.start()
        killer.join()
        self.process.wait(PATIENCE)
        self.start()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def log(self) -> dict[str, list[tuple[Seen, str]]]:
        """Return what the file has of each room, in order, with the keys."""
        with ExitStack() as stack:
            database = sqlite3.connect(self.path)
            stack.callback(database.close)
            rooms: dict[str, list[tuple[Seen, str]]] = {room: [] for room in ROOMS}
            for room, number, name, text, key in database.execute(
                "SELECT room, id, name, text, key FROM messages ORDER BY id"
            ):
                rooms[room].append((Seen(number, name, text), key))
            return rooms


class Storm:
    """All clients on one selector, and what befalls them."""

    def __init__(self, chatd: Chatd, seed: int) -> None:
        self.chatd = chatd
        self.random = random.Random(seed)
        self.clients = [
            Chatter(number, ROOMS[number % len(ROOMS)], self.random) for number in range(CLIENTS)
        ]
        self.selector = selectors.DefaultSelector()
        self.forgotten: list[Client] = []
        self.kills = 0
        self.cuts = 0
        self.lost_connections = 0

    def run(self) -> None:
        """Say everything in between kills and cuts, then let all come to rest."""
        said = 0
        while said < MESSAGES:
            client = self.random.choice(self.clients)
            if client.now is not None and len(client.write_coalescer) < OUTBOX:
                for _ in range(min(self.random.randint(1, 9), MESSAGES - said)):
                    client.say()
                    said += 1
            if said * CUTS >= (self.cuts + 1) * MESSAGES:
                self.cuts += 1
                self.cut(self.random.choice(self.clients))
            if said * (KILLS + 1) >= (self.kills + 1) * MESSAGES and self.kills < KILLS:
                self.kills += 1
                self.chatd.kill(self.random.choice((0.0, 0.001, 0.01)))
            self.turn()
        deadline = time.monotonic() + 3 * PATIENCE
        while not self.is_at_rest():
            assert time.monotonic() < deadline, self.unrest()
            self.turn(0.05)

    def turn(self, seconds: float = 0.0) -> None:
        """Let those call who have no connection, and those listen who have one."""
        for client in self.clients:
            if client.now is None and client.call(self.chatd.port):
                assert client.now is not None
                self.selector.register(client.now, selectors.EVENT_READ, client)
        for key, _ in self.selector.select(seconds):
            client = key.data
            try:
                client.listen()
            except ConnectionClosed:
                self.lost_connections += 1
                self.selector.unregister(key.fileobj)
                client.now, client.joined = None, False

    def cut(self, client: Chatter) -> None:
        if client.now is None:
            return
        self.selector.unregister(client.now)
        how = self.random.choice(("shut", "reset", "half a frame", "forgotten"))
        forgotten = client.cut(how)
        if forgotten is not None:
            self.forgotten.append(forgotten)

    def is_at_rest(self) -> bool:
        if any(client.write_coalescer or not client.joined for client in self.clients):
            return False
        return all(len({each.last for each in self.of(room)}) == 1 for room in ROOMS)

    def unrest(self) -> str:
        return "no rest, but: " + "; ".join(
            f"{each.name}: joined {each.joined}, last {each.last}, unanswered {len(each.outbox)}"
            for each in self.clients
        )

    def of(self, room: str) -> list[Chatter]:
        return [client for client in self.clients if client.room == room]

    def close(self) -> None:
        for client in self.clients:
            if client.now is not None:
                client.cut("shut")
        for forgotten in self.forgotten:
            with (
                socket.socket(fileno=os.dup(forgotten.fileno())) as sock,
                suppress(OSError),  # the daemon was quicker
            ):
                sock.shutdown(socket.SHUT_RDWR)
            forgotten.close()
        self.selector.close()


def first_difference(one: list[Seen], other: list[Seen]) -> str:
    for place, (left, right) in enumerate(itertools.zip_longest(one, other)):
        if left != right:
            return f"at place {place} it has {left}, the log {right}"
    return "none"


def test_whatever_is_killed_or_cut_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHATD_DURABILITY_SEED", random.randrange(1 << 32)))
    print(f"CHATD_DURABILITY_SEED={seed}")  # pytest shows it if the test fails
    with ExitStack() as stack:
        chatd = Chatd(tmp_path)
        stack.callback(chatd.end)
        storm = Storm(chatd, seed)
        stack.callback(storm.close)
        storm.run()
    assert chatd.process.returncode == 0, chatd.errors.read_text()
    assert troubles(chatd.errors.read_text()) == ""
    assert storm.kills >= 10
    assert storm.lost_connections >= 10 * len(storm.clients) // 2, "hardly anybody noticed"

    log = chatd.log()
    assert sum(map(len, log.values())) == MESSAGES
    for client in storm.clients:
        stored = log[client.room]
        messages = [message for message, _ in stored]
        assert client.seen == messages, (
            f"{client.name} in {client.room}: {first_difference(client.seen, messages)}"
        )
        own = [(key, message) for message, key in stored if key in client.acknowledged]
        assert [message.text for _, message in own] == [
            f"{client.number} says {count}" for count in range(client.said)
        ], f"{client.name}: not each message once and in order"
        assert client.acknowledged == {key: (each.id, each.text) for key, each in own}
