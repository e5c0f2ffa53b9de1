"""Nothing is lost, repeated or reordered while nodes, engine and connections fail at random.

Thirty clients on three nodes send messages, edits and reactions. At the end each client must
have exactly the entries of the store. CHATD_STORM scales the numbers (default 0.15, complete 1),
and CHATD_STORM_SEED repeats the choices of a run.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tests.scale.engine import Engine, engine
from tests.scale.nodes import Node, Proxy
from tests.scale.storm_client import StormClient
from tests.support import PATIENCE
from wsproto_min import ConnectionClosed
from wsproto_min.net.client import Client

T = TypeVar("T")
SCALE = float(os.environ.get("CHATD_STORM", "0.15"))
NODES = 3
CLIENTS = 30
ROOMS = ("red", "green", "blue")
REQUESTS = round(10_000 * SCALE)
MAX_UNACKNOWLEDGED = 40
# Seconds in which the engine must answer, so that the storm meets the deadline too.
STORE_TIMEOUT = 3.0


class Storm:
    """All clients on one selector, with the failures that they must survive."""

    def __init__(self, server: Engine, url: str, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.engine = server
        self.proxies = [Proxy(server.port) for _ in range(NODES)]
        self.nodes = [
            Node(
                url.replace(f":{server.port}/", f":{proxy.port}/"),
                directory,
                f"n{number}",
                "--store-timeout",
                str(STORE_TIMEOUT),
            )
            for number, proxy in enumerate(self.proxies)
        ]
        for node in self.nodes:
            node.wait_until_ready()
        self.clients = [
            StormClient(number, ROOMS[number % len(ROOMS)], self.random)
            for number in range(CLIENTS)
        ]
        self.selector = selectors.DefaultSelector()
        self.silent: list[Client] = []
        self.counts: Counter[str] = Counter()
        self.restarts: list[tuple[float, Callable[[], None]]] = []
        self.retry_at = dict.fromkeys(self.clients, 0.0)

    def run(self) -> None:
        failures: list[tuple[int, Callable[[], None]]] = [
            (8, self.kill_node),
            (4, self.kill_engine),
            (2, self.pause_engine),
            (200, self.break_connection),
            (6, self.stall_proxy),
            (6, self.reset_proxy),
            (6, self.terminate_listener),
        ]
        plan = [
            (self.random.randrange(REQUESTS), failure)
            for number, failure in failures
            for _ in range(max(1, round(number * SCALE)))
        ]
        plan.sort(key=lambda each: each[0])
        sent = 0
        while sent < REQUESTS:
            client = self.random.choice(self.clients)
            if client.can_say and len(client.requests) < MAX_UNACKNOWLEDGED:
                for _ in range(self.random.randint(1, 9)):
                    client.request()
                    sent += 1
            while plan and plan[0][0] <= sent:
                _, failure = plan.pop(0)
                self.counts[failure.__name__] += 1
                failure()
            self.step()
        deadline = time.monotonic() + 4 * PATIENCE
        while not self.is_complete():
            assert time.monotonic() < deadline, self.describe()
            self.step(0.05)

    # Failures.

    def kill_node(self) -> None:
        node = self.random.choice(self.nodes)
        node.kill()
        node.start()

    def kill_engine(self) -> None:
        if self.restarts:
            return  # it is already away
        self.engine.kill()
        self.restarts.append((time.monotonic() + self.random.random(), self.engine.start))

    def pause_engine(self) -> None:
        if self.restarts:
            return
        self.engine.signal(signal.SIGSTOP)
        end = time.monotonic() + STORE_TIMEOUT + 1.0
        self.restarts.append((end, lambda: self.engine.signal(signal.SIGCONT)))

    def break_connection(self) -> None:
        client = self.random.choice(self.clients)
        if client.connection is not None:
            self.selector.unregister(client.connection)
            how = self.random.choice(("shut", "reset", "half a frame", "silent"))
            silent = client.disconnect(how)
            if silent is not None:
                self.silent.append(silent)

    def stall_proxy(self) -> None:
        proxy = self.random.choice(self.proxies)
        seconds = self.random.choice((0.5, STORE_TIMEOUT + 1.0))
        threading.Thread(target=proxy.stall, args=(seconds,), daemon=True).start()

    def reset_proxy(self) -> None:
        self.random.choice(self.proxies).reset()

    def terminate_listener(self) -> None:
        if not self.restarts:
            self.engine.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )

    # Clients.

    def step(self, timeout: float = 0.0) -> None:
        for each in list(self.restarts):
            if each[0] <= time.monotonic():
                self.restarts.remove(each)
                each[1]()
        for client in self.clients:
            if client.must_reconnect and client.connection is not None:
                client.must_reconnect = False
                self.selector.unregister(client.connection)
                client.disconnect("shut")
                self.retry_at[client] = time.monotonic() + 0.2
            if client.connection is None and time.monotonic() >= self.retry_at[client]:
                if client.connect(self.random.choice(self.nodes).port):
                    assert client.connection is not None
                    self.selector.register(client.connection, selectors.EVENT_READ, client)
                else:
                    self.retry_at[client] = time.monotonic() + 0.05
        for key, _ in self.selector.select(timeout):
            client = key.data
            try:
                client.receive_pending()
            except ConnectionClosed:
                self.counts["lost connection"] += 1
                self.selector.unregister(key.fileobj)
                client.connection, client.joined, client.can_say = None, False, False

    def is_complete(self) -> bool:
        if any(client.requests or not client.joined for client in self.clients):
            return False
        return all(
            len({each.last_id for each in self.clients if each.room == room}) == 1 for room in ROOMS
        )

    def describe(self) -> str:
        return "entries are missing: " + "; ".join(
            f"{each.name} in {each.room}: joined {each.joined}, last id {each.last_id},"
            f" unacknowledged {len(each.requests)}"
            for each in self.clients
        )

    def close(self) -> None:
        for client in self.clients:
            if client.connection is not None:
                client.disconnect("shut")
        for connection in self.silent:
            connection.close()
        for _, restart in self.restarts:
            restart()
        for node in self.nodes:
            node.stop()
        for proxy in self.proxies:
            proxy.close()
        self.selector.close()


def difference(
    received: dict[int, T], stored: dict[int, T]
) -> list[tuple[int, T | None, T | None]]:
    """Return the ids with another value at the client than in the store."""
    return [
        (number, received.get(number), stored.get(number))
        for number in sorted(received.keys() | stored.keys())
        if received.get(number) != stored.get(number)
    ]


def test_storm_loses_repeats_and_reorders_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHATD_STORM_SEED", random.randrange(1 << 32)))
    print(f"CHATD_STORM_SEED={seed}")  # pytest shows it if the test fails
    with ExitStack() as stack:
        (server,) = stack.enter_context(engine())
        url = server.new_database()
        storm = Storm(server, url, tmp_path, seed)
        stack.callback(storm.close)
        started = time.monotonic()
        storm.run()
        failures = sum(client.failures for client in storm.clients)
        print(
            f"{REQUESTS} requests in {time.monotonic() - started:.0f} s, log_failed {failures},"
            f" {dict(storm.counts)}"
        )
        database = url.rpartition("/")[2]
        for node in storm.nodes:
            assert "Traceback" not in node.log(), node.log()
        for room in ROOMS:
            rows = server.execute(
                "SELECT id, kind, name, text, key FROM chatd.messages WHERE room = %s ORDER BY id",
                room,
                database=database,
            )
            assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "ids have gaps"
            kinds = ("message", "edit", "delete", "react", "topic")
            entries = {row[0]: kinds[row[1]] for row in rows}
            texts = {row[0]: (row[2], row[3]) for row in rows if row[1] == 0}
            keys = {row[4]: row[0] for row in rows}
            assert len(keys) == len(rows), "a key is stored twice"
            for client in storm.clients:
                if client.room == room:
                    assert not difference(client.entries, entries), client.name
                    assert not difference(client.texts, texts), client.name
                    assert client.acknowledged_ids.items() <= keys.items()
