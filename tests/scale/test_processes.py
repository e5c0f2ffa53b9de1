"""Real chatd processes: nodes that die, stop, restart one by one, or share a port."""

from __future__ import annotations

import random
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.chat import ChatClient
from tests.scale.conftest import running_nodes
from tests.scale.engine import Engine
from tests.scale.nodes import Node
from tests.scale.storm_client import StormClient
from tests.scale.test_two_nodes import SESSION, wait_for
from tests.support import PATIENCE, poll
from wsproto_min import ConnectionClosed

# Seconds between two requests of a client. A page of a join has 1,000 entries, so a client must
# not miss more of them while it has no node.
SEND_INTERVAL = 0.08


@contextmanager
def processes(url: str, directory: Path, number: int, *options: str) -> Iterator[list[Node]]:
    found = [Node(url, directory, f"p{place}", *options) for place in range(number)]
    try:
        for node in found:
            node.wait_until_ready()
        yield found
    finally:
        for node in found:
            node.process.send_signal(signal.SIGCONT)
            node.stop()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the nodes of this process give up another node after 3 polls, and its names soon."""
    monkeypatch.setattr("chatd.storage.postgres.poller.LEASE_POLLS", 3)
    monkeypatch.setattr("chatd.storage.postgres.poller.RESERVED_FOR", 1.0)


def test_members_of_a_dead_node_return_without_flapping(
    url: str, tmp_path: Path, short_lease: None
) -> None:
    with (
        running_nodes(url, 1) as (living,),
        processes(url, tmp_path, 1) as (dying,),
        ChatClient(living.address) as watcher,
    ):
        watcher.join("tea", "Watcher")
        ann, ben = ChatClient(dying.address), ChatClient(dying.address)
        ann.join("tea", "Ann", session=SESSION)
        ben.join("tea", "Ben")
        wait_for(watcher, "presence", count=3)
        dying.kill()
        with ChatClient(living.address) as again:
            joined = again.join("tea", "Ann", session=SESSION)
            assert (joined["count"], joined["members"]) == (3, ["Watcher", "Ann", "Ben"])
            # Only Ben leaves, once the lease of the dead node has ended.
            assert wait_for(watcher, "presence")["left"] == ["Ben"]
            assert watcher.join("tea", "Watcher")["members"] == ["Watcher", "Ann"]
            with ChatClient(living.address) as other:
                poll(
                    lambda: _joins(other, "Ben"),
                    "the name is free after its reservation",
                )


def _joins(client: ChatClient, name: str) -> bool:
    client.send(type="join", room="tea", name=name)
    while (message := client.receive())["type"] not in ("joined", "error"):
        pass
    return bool(message["type"] == "joined")


def test_node_that_was_given_up_gives_no_name_twice(
    url: str, tmp_path: Path, short_lease: None
) -> None:
    """The node stops, the others give its names away, then it continues."""
    with running_nodes(url, 1) as (living,), processes(url, tmp_path, 1) as (stopped,):
        ann = ChatClient(stopped.address)
        ann.join("tea", "Ann")
        stopped.process.send_signal(signal.SIGSTOP)
        with ChatClient(living.address) as thief:
            poll(lambda: _joins(thief, "Ann"), "the name is free")
            stopped.process.send_signal(signal.SIGCONT)
            ann.send(type="say", room="tea", text="as the former Ann", key="k")
            with pytest.raises(ConnectionClosed) as closed:
                wait_for(ann, "message")
            assert closed.value.code == 1012
            poll(lambda: "joins again" in stopped.log(), "the log tells of it")
            with ChatClient(stopped.address) as back:
                assert not _joins(back, "Ann")
                assert _joins(back, "Anna")


class Load:
    """Clients that send all the time, each connected to any of the ports."""

    def __init__(self, ports: Callable[[], list[int]], clients: int) -> None:
        self.random = random.Random(1)
        self.ports = ports
        self.clients = [StormClient(number, "tea", self.random) for number in range(clients)]
        self.selector = selectors.DefaultSelector()
        self.retry_at = dict.fromkeys(self.clients, 0.0)
        self.send_at = dict.fromkeys(self.clients, 0.0)

    def allow_gaps(self) -> None:
        """Accept that the store has lost entries, and returns all that it has after that."""
        for client in self.clients:
            client.allows_gaps = True

    def run(self, seconds: float, limit: int = 5) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step(limit)

    def finish(self) -> None:
        end = time.monotonic() + 4 * PATIENCE
        while (
            any(each.requests or not each.joined for each in self.clients)
            or len({each.last_id for each in self.clients}) != 1
        ):
            assert time.monotonic() < end, [
                (each.joined, each.last_id, len(each.requests)) for each in self.clients
            ]
            self.step(0)

    def step(self, limit: int) -> None:
        now = time.monotonic()
        for client in self.clients:
            if client.must_reconnect and client.connection is not None:
                client.must_reconnect = False
                self.selector.unregister(client.connection)
                client.disconnect("shut")
                self.retry_at[client] = time.monotonic() + 0.2
            if client.connection is None and time.monotonic() >= self.retry_at[client]:
                if client.connect(self.random.choice(self.ports())):
                    assert client.connection is not None
                    self.selector.register(client.connection, selectors.EVENT_READ, client)
                else:
                    self.retry_at[client] = time.monotonic() + 0.05
            elif client.can_say and len(client.requests) < limit and now >= self.send_at[client]:
                self.send_at[client] = now + SEND_INTERVAL
                client.request()
        for key, _ in self.selector.select(0.005):
            client = key.data
            try:
                client.receive_pending()
            except ConnectionClosed:
                self.selector.unregister(key.fileobj)
                client.connection, client.joined, client.can_say = None, False, False

    def close(self) -> None:
        for client in self.clients:
            if client.connection is not None:
                client.disconnect("shut")
        self.selector.close()

    def acknowledged(self) -> dict[str, int]:
        return {
            key: number
            for client in self.clients
            for key, number in client.acknowledged_ids.items()
        }


def test_rolling_restart_under_load_shows_no_error(
    server: Engine, url: str, tmp_path: Path
) -> None:
    with processes(url, tmp_path, 2) as nodes, ExitStack() as stack:
        load = Load(lambda: [node.port for node in nodes], 12)
        stack.callback(load.close)
        load.run(1.0)
        for node in nodes:
            others = [each for each in nodes if each is not node]
            load.ports = lambda others=others: [each.port for each in others]  # type: ignore[misc]
            node.process.terminate()
            while node.process.poll() is None:
                load.step(5)
            assert node.process.returncode == 0
            node.start()
            load.run(1.5)
            node.wait_until_ready()
        load.ports = lambda: [each.port for each in nodes]
        load.finish()
        assert [client.failures for client in load.clients] == [0] * 12
        assert [client.renamed_count for client in load.clients] == [0] * 12
        rows = server.execute(
            "SELECT key, id FROM chatd.messages ORDER BY id", database=url.rpartition("/")[2]
        )
        assert [number for _, number in rows] == list(range(1, len(rows) + 1))
        assert load.acknowledged().items() <= dict(rows).items()
        for client in load.clients:
            assert sorted(client.entries) == [number for _, number in rows]


def test_processes_share_a_port(url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(processes(url, tmp_path, 1, "--reuse-port"))[0]
        second = Node(url, tmp_path, "second", "--reuse-port", "--port", str(first.port))
        stack.callback(second.stop)
        second.wait_until_ready()
        clients = [stack.enter_context(ChatClient(first.address)) for _ in range(30)]
        for number, client in enumerate(clients):
            client.join("tea", f"client {number}")
        clients[0].say("tea", "hello")
        for client in clients[1:]:
            assert wait_for(client, "message")["text"] == "hello"
        first.kill()
        alive = sum(_is_open(client) for client in clients)
        assert 0 < alive < len(clients), "the kernel spreads the connections"


def _is_open(client: ChatClient) -> bool:
    try:
        client.send(type="ping", t="x")
        wait_for(client, "pong", t="x")
    except (ConnectionClosed, OSError):
        return False
    return True
