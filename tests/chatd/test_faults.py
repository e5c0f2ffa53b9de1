"""System calls that fail: no message is lost, reordered or repeated, and nothing leaks.

Each failing test prints its seed; run it again with FAULTS_SEED=... to repeat the faults.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatd.app import Chat
from chatd.storage.store import Page, StoreError
from tests.chat import open_store, serve_chat
from tests.faults import FATAL, Faults, FaultySocket, faulty_listener, faulty_tls, wrap
from tests.load.support import BATCH, connect_talk_and_close
from tests.reconnecting_client import ReconnectingClient
from tests.support import PATIENCE, RunningServer, make_certificate, poll, serving
from wsproto_min.errors import ConnectionClosed, HandshakeError
from wsproto_min.net import connector
from wsproto_min.net import event_loop as loop_module
from wsproto_min.net import listener as listener_module
from wsproto_min.net import timers as timers_module
from wsproto_min.net.client import Client, connect
from wsproto_min.net.connector import open_socket
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server
from wsproto_min.net.session import Session

SEED = int(os.environ.get("FAULTS_SEED", random.randrange(1 << 32)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    print(f"FAULTS_SEED={SEED}")  # pytest shows the output of a failed test


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextmanager
def signals(thread: threading.Thread) -> Iterator[None]:
    """Interrupt a thread's system calls once per millisecond, so that they return EINTR."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.001):
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGUSR1)

    sender = threading.Thread(target=send, name="signals")
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join(PATIENCE)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # discards a pending signal
        signal.signal(signal.SIGUSR1, before)


def count_resources(server: Server) -> dict[str, int]:
    """Return the numbers of everything that a closed peer could leave behind."""
    loop, write_coalescer = server._loop, server._context.write_coalescer
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "registered sockets": len(loop._selector.get_map()),
        "timers": len(loop._timers),
        "pending writes": len(write_coalescer._pending) + len(write_coalescer._groups),
        "peers": sum(type(each) in (Peer, Session) for each in gc.get_objects()),
    }


class Clock:
    """Replacement for the module `time`; an `offset` in seconds makes timers due."""

    def __init__(self) -> None:
        self.offset = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


def keep_text_only(record: logging.LogRecord) -> bool:
    """Format a record at once: pytest keeps records, and an exception in one its frames."""
    record.msg, record.args = record.getMessage(), ()
    return True


@contextmanager
def no_leaks(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Fail if a connection of the block leaves a resource behind."""
    clock = Clock()
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE", 0.01)
    monkeypatch.setattr(listener_module.logger, "filters", [keep_text_only])
    monkeypatch.setattr(loop_module, "time", clock)
    monkeypatch.setattr(timers_module, "time", clock)
    before = running.ask(lambda: count_resources(running.server))
    yield clock
    running.wait_for_peers(0)
    clock.offset += 3600.0
    after: dict[str, int] = {}

    def is_clean() -> bool:
        after.update(running.ask(lambda: count_resources(running.server)))
        return after == before

    with suppress(AssertionError):
        poll(is_clean, "no resource is left")
    assert after == before


class Broadcaster:
    """A server that sends every message to all peers; `messages` are in its order."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.opened = self.closed = 0
        self.server = Server(
            on_message=self.on_message, on_open=self.on_open, on_close=self.on_close
        )
        self.group = self.server.group()

    def on_open(self, peer: Peer) -> None:
        self.opened += 1
        self.group.add(peer)

    def on_close(self, peer: Peer) -> None:
        self.closed += 1

    def on_message(self, peer: Peer, message: str | bytes) -> None:
        self.messages.append(str(message))
        self.group.send(message)


@contextmanager
def faulty_broadcaster(
    faults: Faults, certificate: Path | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Broadcaster, Callable[[], Client]]]:
    """Run a broadcaster on faulty sockets; yield it and a function that connects to it."""
    broadcaster, scheme = Broadcaster(), "ws"
    server_context = client_context = None
    if certificate is not None:
        scheme = "wss"
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_context.load_cert_chain(certificate)
        faulty_tls(server_context, faults)
        client_context = ssl.create_default_context(cafile=certificate)
    listener = faulty_listener(faults)
    url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
    with (
        serving(
            server=broadcaster.server, listener=listener, ssl_context=server_context
        ) as running,
        no_leaks(running, monkeypatch),
    ):
        with signals(running.thread):
            yield broadcaster, lambda: connect(url, ssl_context=client_context)
        running.wait_for_peers(0)
        assert running.ask(lambda: len(broadcaster.group)) == 0
        assert broadcaster.opened == broadcaster.closed > 0


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_transient_faults_have_no_visible_effect(
    tls: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(SEED, transient=0.3, size=7)
    messages = [[f"{sender}: " + "x" * number**2 for number in range(12)] for sender in range(5)]
    with (
        faulty_broadcaster(faults, certificate if tls else None, monkeypatch) as (
            broadcaster,
            connect,
        ),
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect()) for _ in messages]
        for number in range(12):
            for client, own in zip(clients, messages, strict=True):
                client.send(own[number])
        for client in clients:
            assert [client.recv(PATIENCE) for _ in range(60)] == broadcaster.messages
    for own in messages:
        assert [each for each in broadcaster.messages if each[0] == own[0][0]] == own
    assert faults.injected[errno.EAGAIN] > 100
    assert faults.injected[0] > 100


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_fatal_fault_ends_only_its_own_connection(
    tls: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(SEED, transient=0.1, fatal=0.003, size=50)
    received: dict[Client, list[str]] = {}

    def receive(client: Client, last: str | None = None) -> bool:
        """Receive pending messages, or all up to `last`; return whether the client is open."""
        try:
            while last is None or received[client][-1:] != [last]:
                received[client].append(str(client.recv(PATIENCE if last else 0)))
        except TimeoutError:
            assert last is None, "a message was lost"
        except ConnectionClosed:
            client.close()
            return False
        return True

    with faulty_broadcaster(faults, certificate if tls else None, monkeypatch) as (
        broadcaster,
        connect,
    ):
        clients: list[Client] = []
        for number in range(5000):
            if number > 200 and len(faults.injected) == len(FATAL) + 2:
                break  # every kind of fault has occurred
            while len(clients) < 6:
                with suppress(OSError, HandshakeError):
                    clients.append(client := connect())
                    received[client] = []
            with suppress(ConnectionClosed):
                clients[0].send(f"{number} " + "x" * 100)
            clients = [client for client in clients if receive(client)]
        faults.fatal = 0.0
        clients.append(client := connect())
        received[client] = []
        for client in clients:
            with suppress(ConnectionClosed):
                client.send("the end")
        survivors = [client for client in clients if receive(client, "the end")]
        for client in survivors:
            client.close()
    assert client in survivors
    assert {number for number in FATAL if faults.injected[number]} == set(FATAL)
    for each in received.values():
        first = broadcaster.messages.index(each[0]) if each else 0
        expected = broadcaster.messages[first : first + len(each)]
        assert each == expected, "a message was lost or reordered"


# Faults in the client.


@pytest.fixture
def faulty_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Faults, Client]]:
    """Yield a client with a faulty socket, connected to an echo server."""
    faults = Faults(SEED, size=7)
    monkeypatch.setattr(
        connector, "open_socket", lambda *arguments: wrap(open_socket(*arguments), faults)
    )
    with serving() as running:
        client = connect(f"ws://127.0.0.1:{running.address[1]}/")
        yield faults, client
        client.close()


def test_client_reading_few_bytes_a_call_gets_whole_messages(
    faulty_client: tuple[Faults, Client],
) -> None:
    faults, client = faulty_client
    messages = ["x" * number**2 for number in range(20)]
    with signals(threading.main_thread()):
        for message in messages:
            client.send(message)
        assert [client.recv(PATIENCE) for _ in messages] == messages
    assert faults.injected[0] > 100


@pytest.mark.parametrize(
    "number",
    [*FATAL, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETDOWN],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("sending", [False, True], ids=["reading", "sending"])
def test_client_reports_every_socket_error_as_1006(
    faulty_client: tuple[Faults, Client], number: int, sending: bool
) -> None:
    _, client = faulty_client
    client.send("answered")
    assert client.recv(PATIENCE) == "answered"
    assert isinstance(client._socket, FaultySocket)
    client._socket.error = OSError(number, os.strerror(number))
    call = partial(client.send, "lost") if sending else partial(client.recv, PATIENCE)
    with pytest.raises(ConnectionClosed, match="1006 the server is gone"):
        call()
    client.close()
    assert client.fileno() == -1


# Faults under a chat.


def test_chat_on_faulty_sockets_loses_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(SEED, transient=0.1, fatal=0.01, size=100)
    with closing(open_store()) as store:
        chat = Chat(store, rate=0.0)
        with (
            serving(server=chat.server, listener=faulty_listener(faults)) as running,
            no_leaks(running, monkeypatch),
        ):
            chance = random.Random(SEED)
            clients = [ReconnectingClient(number, "lobby", chance) for number in range(6)]
            with signals(running.thread):
                poll(lambda: have_sent(60, clients, running), "every client has sent 60 messages")
                faults.fatal = 0.0
                poll(lambda: are_idle(clients, running), "every client has all messages")
            for client in clients:
                assert client.connection is not None
                client.send(type="leave", room="lobby")
                client.connection.close()
            running.wait_for_peers(0)
            # Much later the reserved names expire.
            monkeypatch.setattr("chatd.registry.time", SimpleNamespace(monotonic=lambda: 1e9))
            running.ask(chat._rooms._expire_reservations)
            assert list(chat._rooms) == []
        pages: list[Page | StoreError] = []
        store.read_before("lobby", None, 10_000, pages.append)
    assert isinstance(pages[0], Page)
    stored = [(each.id, each.text) for each in pages[0].messages]
    assert sum(faults.injected[number] for number in FATAL) > 10
    for client in clients:
        assert [(each.id, each.text) for each in client.received] == stored
        own = [text for _, text in stored if text.startswith(f"{client.number} says ")]
        assert own == [f"{client.number} says {index}" for index in range(client.sent_count)]


def test_closed_chat_connections_leave_no_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    def count_objects() -> int:
        running.wait_for_peers(0)
        clock.offset += 60.0  # the timers of closed peers become due
        for _ in range(2):
            running.ask(lambda: None)
        gc.collect()
        return len(gc.get_objects())

    numbers = count()
    with serve_chat() as running, no_leaks(running, monkeypatch) as clock:
        for _ in range(10):
            connect_talk_and_close(running.address, next(numbers))
        before = count_objects()
        for _ in range(40):
            connect_talk_and_close(running.address, next(numbers))
        growth = count_objects() - before
        assert growth < 40 * BATCH // 2, f"{growth} more objects after {40 * BATCH} connections"


def reconnect_and_receive(client: ReconnectingClient, running: RunningServer) -> None:
    """Connect the client if necessary, and handle its pending messages."""
    if client.connection is None and not client.connect(running.address[1]):
        return
    assert client.connection is not None
    try:
        client.receive_pending()
    except ConnectionClosed:
        client.connection.close()
        client.connection, client.joined = None, False


def have_sent(number: int, clients: list[ReconnectingClient], running: RunningServer) -> bool:
    """Let each joined client send one message; return whether all have sent `number`."""
    for client in clients:
        reconnect_and_receive(client, running)
        if client.joined and client.sent_count < number:
            client.say()
    return all(client.sent_count == number for client in clients)


def are_idle(clients: list[ReconnectingClient], running: RunningServer) -> bool:
    """Let each client receive; return whether all have the same messages and wait for none."""
    for client in clients:
        reconnect_and_receive(client, running)
    waiting = any(client.unacknowledged or not client.joined for client in clients)
    return not waiting and len({client.last_id for client in clients}) == 1
