"""Faults below: whatever the calls of a socket do, nothing is lost, mixed up or left behind."""

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
from tests.chat import chatting, open_log
from tests.chatter import Chatter
from tests.faults import ENDING, Faults, FaultySocket, faulty_listener, faulty_tls, wrap
from tests.load.support import VISITORS, come_speak_and_go
from tests.support import PATIENCE, RunningServer, make_certificate, poll, serving
from wsproto_min.errors import ConnectionClosed, HandshakeError
from wsproto_min.net import client as client_module
from wsproto_min.net import event_loop as loop_module
from wsproto_min.net import server as server_module
from wsproto_min.net.client import Client, connect
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server

SEED = int(os.environ.get("FAULTS_SEED", random.randrange(1 << 32)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    print(f"FAULTS_SEED={SEED}")  # pytest shows it if the test fails


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextmanager
def signals(thread: threading.Thread) -> Iterator[None]:
    """Interrupt a thread's system calls over and over: EINTR, as the kernel gives it."""
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
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # forgets one that is still on its way
        signal.signal(signal.SIGUSR1, before)


def is_left(server: Server) -> dict[str, int]:
    """Return what of a server's peers could be left behind."""
    loop, write_coalescer = server._loop, server._context.write_coalescer
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "registered": len(loop._selector.get_map()),
        "deadlines": len(loop._deadlines),
        "to be written": len(write_coalescer._direct) + len(write_coalescer._groups),
        "peers": sum(type(each) is Peer for each in gc.get_objects()),
    }


class Clock:
    """The loop's clock, which can be moved on: all that was to come falls due."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def keep_text_only(record: logging.LogRecord) -> bool:
    """Make a record of plain text: pytest keeps records, and an error in one its frames."""
    record.msg, record.args = record.getMessage(), ()
    return True


@contextmanager
def leaving_nothing(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Fail if anything is left of the connections that were made within the block."""
    clock = Clock()
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.01)
    monkeypatch.setattr(server_module.logger, "filters", [keep_text_only])
    monkeypatch.setattr(loop_module, "time", clock)
    before = running.ask(lambda: is_left(running.server))
    yield clock
    running.wait_for_peers(0)
    clock.ahead += 3600.0
    left: dict[str, int] = {}

    def is_clean() -> bool:
        left.update(running.ask(lambda: is_left(running.server)))
        return left == before

    with suppress(AssertionError):
        poll(is_clean, "nothing is left")
    assert left == before


class Crowd:
    """An application that tells everybody everything, and what it was told, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.opened = self.closed = 0
        self.server = Server(on_message=self.tell, on_open=self.let_in, on_close=self.let_out)
        self.group = self.server.group()

    def let_in(self, peer: Peer) -> None:
        self.opened += 1
        self.group.add(peer)

    def let_out(self, peer: Peer) -> None:
        self.closed += 1

    def tell(self, peer: Peer, message: str | bytes) -> None:
        self.said.append(str(message))
        self.group.send(message)


@contextmanager
def crowded(
    faults: Faults, certificate: Path | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Crowd, Callable[[], Client]]]:
    """Run a crowd's server over faulty sockets; give what connects to it."""
    crowd, scheme = Crowd(), "ws"
    ours = theirs = None
    if certificate is not None:
        scheme = "wss"
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(certificate)
        faulty_tls(ours, faults)
        theirs = ssl.create_default_context(cafile=certificate)
    listener = faulty_listener(faults)
    url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
    with (
        serving(server=crowd.server, listener=listener, ssl_context=ours) as running,
        leaving_nothing(running, monkeypatch),
    ):
        with signals(running.thread):
            yield crowd, lambda: connect(url, ssl_context=theirs)
        running.wait_for_peers(0)
        assert running.ask(lambda: len(crowd.group)) == 0
        assert crowd.opened == crowd.closed > 0


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_what_passes_nobody_notices(
    tls: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(SEED, blocks=0.3, size=7)
    said = [[f"{who}: " + "x" * number**2 for number in range(12)] for who in range(5)]
    with (
        crowded(faults, certificate if tls else None, monkeypatch) as (crowd, call),
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(call()) for _ in said]
        for number in range(12):
            for client, messages in zip(clients, said, strict=True):
                client.send(messages[number])
        for client in clients:
            assert [client.recv(PATIENCE) for _ in range(60)] == crowd.said
    for messages in said:
        assert [each for each in crowd.said if each[0] == messages[0][0]] == messages
    assert faults.met[errno.EAGAIN] > 100
    assert faults.met[0] > 100


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_what_ends_a_connection_ends_that_one_and_mixes_nothing_up(
    tls: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(SEED, blocks=0.1, ends=0.003, size=50)
    heard: dict[Client, list[str]] = {}

    def hear(client: Client, until: str | None = None) -> bool:
        """Hear what has come, or all up to a message; return whether the connection lives."""
        try:
            while until is None or heard[client][-1:] != [until]:
                heard[client].append(str(client.recv(PATIENCE if until else 0)))
        except TimeoutError:
            assert until is None, "a message was lost"
        except ConnectionClosed:
            client.close()
            return False
        return True

    with crowded(faults, certificate if tls else None, monkeypatch) as (crowd, call):
        living: list[Client] = []
        for number in range(5000):
            if number > 200 and len(faults.met) == len(ENDING) + 2:
                break  # each kind has been met
            while len(living) < 6:
                with suppress(OSError, HandshakeError):
                    living.append(client := call())
                    heard[client] = []
            with suppress(ConnectionClosed):
                living[0].send(f"{number} " + "x" * 100)
            living = [client for client in living if hear(client)]
        faults.ends = 0.0
        living.append(client := call())
        heard[client] = []
        for client in living:
            with suppress(ConnectionClosed):
                client.send("the end")
        survivors = [client for client in living if hear(client, "the end")]
        for client in survivors:
            client.close()
    assert client in survivors
    assert {number for number in ENDING if faults.met[number]} == set(ENDING)
    for each in heard.values():
        first = crowd.said.index(each[0]) if each else 0
        assert each == crowd.said[first : first + len(each)], "a gap, or another order"


# The client's own calls.


@pytest.fixture
def faulty_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Faults, Client]]:
    """Yield a client whose socket is faulty, at a server that sends everything back."""
    faults = Faults(SEED, size=7)
    open_socket = client_module._open_socket
    monkeypatch.setattr(
        client_module, "_open_socket", lambda *arguments: wrap(open_socket(*arguments), faults)
    )
    with serving() as running:
        client = connect(f"ws://127.0.0.1:{running.address[1]}/")
        yield faults, client
        client.close()


def test_a_client_that_gets_single_bytes_gets_whole_messages(
    faulty_client: tuple[Faults, Client],
) -> None:
    faults, client = faulty_client
    messages = ["x" * number**2 for number in range(20)]
    with signals(threading.main_thread()):
        for message in messages:
            client.send(message)
        assert [client.recv(PATIENCE) for _ in messages] == messages
    assert faults.met[0] > 100


@pytest.mark.parametrize(
    "number",
    [*ENDING, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETDOWN],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("sending", [False, True], ids=["reading", "sending"])
def test_a_client_tells_of_any_end_in_the_same_words(
    faulty_client: tuple[Faults, Client], number: int, sending: bool
) -> None:
    _, client = faulty_client
    client.send("answered")
    assert client.recv(PATIENCE) == "answered"
    assert isinstance(client._socket, FaultySocket)
    client._socket.fault = OSError(number, os.strerror(number))
    call = partial(client.send, "unheard") if sending else partial(client.recv, PATIENCE)
    with pytest.raises(ConnectionClosed, match="1006 the server is gone"):
        call()
    client.close()
    assert client.fileno() == -1


# A chat.


def test_a_chat_loses_nothing_and_keeps_nothing_whatever_befalls_its_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = Faults(SEED, blocks=0.1, ends=0.01, size=100)
    with closing(open_log()) as log:
        chat = Chat(log, rate=0.0)
        with (
            serving(server=chat.server, listener=faulty_listener(faults)) as running,
            leaving_nothing(running, monkeypatch),
        ):
            chance = random.Random(SEED)
            chatters = [Chatter(number, "lobby", chance) for number in range(6)]
            with signals(running.thread):
                poll(lambda: have_said(60, chatters, running), "everybody has its say")
                faults.ends = 0.0
                poll(lambda: are_at_rest(chatters, running), "everybody has seen everything")
            for chatter in chatters:
                assert chatter.now is not None
                chatter.tell(type="leave", room="lobby")
                chatter.now.close()
            running.wait_for_peers(0)
            # Seats that were kept for a session are given up in time.
            monkeypatch.setattr("chatd.registry.time", SimpleNamespace(monotonic=lambda: 1e9))
            running.ask(chat._rooms._expire_reservations)
            assert list(chat._rooms) == []
        slices: list[Page | StoreError] = []
        log.read_before("lobby", None, 10_000, slices.append)
    assert isinstance(slices[0], Page)
    stored = [(each.id, each.text) for each in slices[0].messages]
    assert sum(faults.met[number] for number in ENDING) > 10
    for chatter in chatters:
        assert [(each.id, each.text) for each in chatter.seen] == stored
        own = [text for _, text in stored if text.startswith(f"{chatter.number} says ")]
        assert own == [f"{chatter.number} says {index}" for index in range(chatter.said)]


def test_who_come_speak_and_go_leave_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def objects() -> int:
        running.wait_for_peers(0)
        clock.ahead += 60.0  # to when their deadlines would have been
        for _ in range(2):
            running.ask(lambda: None)
        gc.collect()
        return len(gc.get_objects())

    numbers = count()
    with chatting() as running, leaving_nothing(running, monkeypatch) as clock:
        for _ in range(10):
            come_speak_and_go(running.address, next(numbers))
        before = objects()
        for _ in range(40):
            come_speak_and_go(running.address, next(numbers))
        grown = objects() - before
        assert grown < 40 * VISITORS // 2, f"{grown} more for {40 * VISITORS} visitors"


def take_turn(chatter: Chatter, running: RunningServer) -> None:
    """Let one call who has no connection, and hear what has come."""
    if chatter.now is None and not chatter.call(running.address[1]):
        return
    assert chatter.now is not None
    try:
        chatter.listen()
    except ConnectionClosed:
        chatter.now.close()
        chatter.now, chatter.joined = None, False


def have_said(number: int, chatters: list[Chatter], running: RunningServer) -> bool:
    """Let each say one thing, if it can; return whether all have said so many."""
    for chatter in chatters:
        take_turn(chatter, running)
        if chatter.joined and chatter.said < number:
            chatter.say()
    return all(chatter.said == number for chatter in chatters)


def are_at_rest(chatters: list[Chatter], running: RunningServer) -> bool:
    """Let each hear what has come; return whether there is nothing more to be heard."""
    for chatter in chatters:
        take_turn(chatter, running)
    waiting = any(chatter.write_coalescer or not chatter.joined for chatter in chatters)
    return not waiting and len({chatter.last for chatter in chatters}) == 1
