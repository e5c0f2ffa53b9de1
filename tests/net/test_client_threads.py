"""Tests of the blocking client: several threads, keepalive and bounded memory."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_client import BYE, HELLO, Script, closed, scripted, until_close, upgrade, url
from tests.support import PATIENCE, make_certificate, poll, serving
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Role
from wsproto_min.errors import ConnectionClosed, ProtocolError
from wsproto_min.frames import encode_frame
from wsproto_min.net.client import Client, connect
from wsproto_min.net.peer import Peer

PING = encode_frame(Opcode.PING, b"p")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def in_thread(call: Callable[..., object], *arguments: object) -> Callable[[], object]:
    """Run `call` in a thread; return a function that waits for its result or exception."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call(*arguments))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> object:
        thread.join(PATIENCE)
        assert results, "the thread has not ended"
        return results[0]

    return result


def wait_until_waiting(client: Client) -> None:
    poll(lambda: client._waiting, "the other thread waits for the socket")


@contextmanager
def silent_server() -> Iterator[str]:
    """Serve one connection that neither reads nor sends after the handshake; yield the URL."""
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        assert done.wait(PATIENCE)

    with scripted(script) as address:
        try:
            yield address
        finally:
            done.set()


def send_much(client: Client) -> None:
    while True:
        client.send(b"\0" * 1_000_000)


# Several threads


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_close_in_another_thread_ends_iteration(tls: bool, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    with serving(ssl_context=context if tls else None) as running:
        scheme, port = "wss" if tls else "ws", running.address[1]
        client = connect(f"{scheme}://127.0.0.1:{port}/", ssl_context=trusting)
        client.send("Hello")
        result = in_thread(list, client)
        wait_until_waiting(client)
        client.close()
        assert result() == ["Hello"]
        assert (client.close_code, client.fileno()) == (1000, -1)


@pytest.mark.parametrize(
    "call", [Client.recv, list, Client.ping, send_much], ids=["recv", "iter", "ping", "send"]
)
def test_close_in_another_thread_raises_connection_closed(
    call: Callable[[Client], object],
) -> None:
    with silent_server() as address:
        client = connect(address, close_timeout=0.1, compression=None)
        result = in_thread(call, client)
        wait_until_waiting(client)
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 2
        error = result()
        assert isinstance(error, ConnectionClosed), error
        assert error.code in (1000, 1006)
        assert client.fileno() == -1


def test_recv_of_a_busy_thread_raises_after_close() -> None:
    with serving() as running:
        client = connect(url(running.address))
        client.send("Hello")
        client.ping()
        client.close()
        assert in_thread(list, client)() == ["Hello"]


def test_threads_send_receive_and_ping_at_once() -> None:
    texts = [f"{thread} {number}" for thread in range(4) for number in range(100)]
    with serving() as running, connect(url(running.address)) as client:

        def send(thread: int) -> None:
            for number in range(100):
                client.send(f"{thread} {number}")

        def receive() -> list[object]:
            return [client.recv(PATIENCE) for _ in range(100)]

        senders = [in_thread(send, thread) for thread in range(4)]
        receivers = [in_thread(receive) for _ in range(4)]
        pings = [in_thread(client.ping) for _ in range(4)]
        assert [each() for each in senders] == [None] * 4
        received: list[Any] = [each() for each in receivers]
        assert sorted(chain.from_iterable(received)) == sorted(texts)
        assert all(isinstance(each(), float) for each in pings)


def test_recv_in_two_threads_obeys_both_time_limits() -> None:
    with serving() as running, connect(url(running.address)) as client:
        first = in_thread(client.recv)
        wait_until_waiting(client)
        with pytest.raises(TimeoutError, match="no data arrived"):
            client.recv(timeout=0.05)
        client.send("Hello")
        assert first() == "Hello"


def test_tls_read_may_wait_for_writing_and_the_reverse() -> None:
    class Swapped(socket.socket):
        """Socket that once needs to write in `recv`, and to read in `send`, as TLS may."""

        swaps: list[type[OSError]]

        def recv(self, *arguments: int) -> bytes:
            if ssl.SSLWantWriteError in self.swaps:
                self.swaps.remove(ssl.SSLWantWriteError)
                raise ssl.SSLWantWriteError
            return super().recv(*arguments)

        def send(self, *arguments: Any) -> int:
            if ssl.SSLWantReadError in self.swaps:
                self.swaps.remove(ssl.SSLWantReadError)
                raise ssl.SSLWantReadError
            return super().send(*arguments)

    ours, theirs = socket.socketpair()
    with theirs, Swapped(fileno=ours.detach()) as swapped:
        swapped.swaps = [ssl.SSLWantWriteError, ssl.SSLWantReadError]
        client = Client(swapped, Connection(Role.CLIENT), close_timeout=0)
        theirs.sendall(HELLO)
        client.send("Hello")
        assert client.recv(PATIENCE) == "Hello"
        assert swapped.swaps == []
        assert theirs.recv(100)[:2] == b"\x81\x85"
        client.close()


def test_client_without_poll_waits_with_select(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as running, connect(url(running.address)) as client:
        monkeypatch.delattr(select, "poll")
        client.send("Hello")
        assert client.recv(PATIENCE) == "Hello"
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.05)


# Keepalive


@pytest.mark.parametrize("call", [Client.recv, list, send_much], ids=["recv", "iter", "send"])
def test_silent_network_ends_calls_with_connection_closed(
    call: Callable[[Client], object],
) -> None:
    with silent_server() as address:
        client = connect(address, ping_interval=0.1, ping_timeout=0.1, compression=None)
        started = time.monotonic()
        with pytest.raises(ConnectionClosed, match="1006 the server did not answer a Ping"):
            call(client)
        assert 0.19 <= time.monotonic() - started < 2
        client.close()
        assert client.close_code == 1006
        with pytest.raises(ConnectionClosed):
            client.recv()


def test_silent_network_keeps_messages_and_time_limits() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO)
        until_close(sock)

    with scripted(script) as address:
        client = connect(address, ping_interval=0.15, ping_timeout=0.15)
        assert client.recv() == "Hello"
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.05)
        with pytest.raises(ConnectionClosed, match="did not answer a Ping"):
            client.recv(timeout=PATIENCE)


def test_keepalive_pings_an_idle_server_that_answers() -> None:
    with serving() as running:
        pings: list[Role] = []
        client = connect(
            url(running.address),
            ping_interval=0.2,
            ping_timeout=0.2,
            trace=lambda sender, data: pings.append(sender),
        )
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.7)
        assert pings[2:].count(Role.CLIENT) in (2, 3)
        client.close()


def test_keepalive_any_byte_shows_that_the_server_lives() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock)
        for byte in encode_frame(Opcode.TEXT, b"slow " * 4):
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
        until_close(sock)

    with (
        scripted(script) as address,
        connect(address, ping_interval=0.1, ping_timeout=0.2, close_timeout=0) as client,
    ):
        assert client.recv() == "slow " * 4


def test_keepalive_program_busy_past_the_timeout_is_not_lost() -> None:
    with (
        serving() as running,
        connect(url(running.address), ping_interval=0.1, ping_timeout=0.1) as client,
    ):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.15)  # sends a Ping
            time.sleep(0.25)  # the Pong waits in the kernel
        client.send("Hello")
        assert client.recv(PATIENCE) == "Hello"


def test_keepalive_none_sends_no_pings() -> None:
    with silent_server() as address:
        sent: list[Role] = []
        client = connect(
            address,
            ping_interval=None,
            ping_timeout=0.01,
            close_timeout=0,
            trace=lambda sender, data: sent.append(sender),
        )
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.1)
        client.close()
    assert sent == [Role.CLIENT, Role.SERVER, Role.CLIENT]  # handshake and Close


def test_recv_accepts_any_time_limit() -> None:
    with scripted(lambda sock: upgrade(sock, BYE)) as address:
        client = connect(address, ping_interval=None)
        with pytest.raises(ConnectionClosed, match="1000 bye"):
            client.recv(timeout=1e9)


# Bounded memory


def floods() -> Script:
    """Return a script that sends messages without pause until the client closes TCP."""

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.settimeout(PATIENCE)
        with suppress(OSError):
            while True:
                sock.sendall(encode_frame(Opcode.BINARY, bytes(10_000)) * 100)

    return script


def test_ping_keeps_a_bounded_size_of_messages() -> None:
    with scripted(floods()) as address:
        client = connect(address, read_buffer_limit=1_000_000, close_timeout=0.1)
        with pytest.raises(TimeoutError, match="received messages fill read_buffer_limit"):
            client.ping()
        assert 1_000_000 <= client._inbox.size < 1_020_000
        assert client.recv() == bytes(10_000)
        with pytest.raises(TimeoutError, match="received messages fill read_buffer_limit"):
            client.ping(timeout=None)
        client.close()


def test_close_keeps_a_bounded_size_of_messages() -> None:
    with scripted(floods()) as address:
        client = connect(address, read_buffer_limit=1_000_000)
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 5, "close waits although its buffer is full"
        assert 1_000_000 <= client._inbox.size < 1_020_000
        for _ in range(client._inbox.size // 10_100):
            assert client.recv() == bytes(10_000)
        assert client.close_code == 1006


def test_close_drops_inflated_messages_over_the_limit() -> None:
    def on_message(peer: Peer, message: str | bytes) -> None:
        for _ in range(100):
            peer.send("\0" * 100_000)

    with serving(on_message) as running:
        client = connect(url(running.address), read_buffer_limit=1_000_000)
        client.send("go")
        client.close()
        assert client._inbox.size < 1_200_000


def test_recv_after_a_full_buffer_gets_all_messages() -> None:
    number = 300

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        data = sock.recv(100)
        sock.sendall(encode_frame(Opcode.BINARY, bytes(10_000)) * number)
        del data
        until_close(sock)

    with scripted(script) as address:
        client = connect(address, read_buffer_limit=100_000, close_timeout=0.1)
        with pytest.raises(TimeoutError, match="received messages fill"):
            client.ping()
        assert [client.recv(PATIENCE) for _ in range(number)] == [bytes(10_000)] * number
        client.close()


# Reading in the background


def test_connect_without_a_thread_for_reads_closes_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Peer] = []
    with serving(on_close=closed.append) as running:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            connect(url(running.address), background_reads=True)
        poll(lambda: closed, "the server notices the end of the connection")


def test_background_reads_answer_pings_of_a_busy_program() -> None:
    answered = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO + PING)
        assert sock.recv(1 << 16)[0] == 0x8A  # FIN, Pong
        answered.set()
        until_close(sock)

    with (
        scripted(script) as address,
        connect(address, background_reads=True, close_timeout=0.1) as client,
    ):
        assert answered.wait(PATIENCE), "no Pong, although the program is only busy"
        assert client.recv(timeout=0) == "Hello"


@pytest.mark.parametrize("background", [False, True])
def test_server_drops_a_busy_client_without_background_reads(background: bool) -> None:
    with serving(ping_interval=0.2, ping_timeout=0.2) as running:
        client = connect(url(running.address), background_reads=background)
        time.sleep(0.7)
        if background:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
            client.close()
        else:
            assert closed(client)[0] in (1006, 1011)


def test_background_reads_stop_at_the_limit_and_go_on() -> None:
    with scripted(floods()) as address:
        client = connect(
            address, background_reads=True, read_buffer_limit=1_000_000, close_timeout=0.1
        )
        poll(lambda: client._inbox.is_full, "the background thread fills the buffer")
        time.sleep(0.05)
        assert client._inbox.size < 1_020_000
        for _ in range(500):
            assert client.recv(PATIENCE) == bytes(10_000)
        client.close()
        poll(
            lambda: not any("_read_in_background" in each.name for each in threading.enumerate()),
            "the background thread ends",
        )


@pytest.mark.parametrize(
    ("data", "kind"),
    [(BYE, ConnectionClosed), (bytes.fromhex("83 00"), ProtocolError)],
    ids=["close", "violation"],
)
def test_background_reads_keep_messages_before_the_end(data: bytes, kind: type[Exception]) -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO * 2 + data)
        until_close(sock)

    with scripted(script) as address, connect(address, background_reads=True) as client:
        poll(lambda: client.fileno() == -1, "the background thread closes the socket")
        assert [client.recv(), client.recv()] == ["Hello", "Hello"]
        with pytest.raises(kind):
            client.recv()


def test_background_reads_notice_a_silent_network() -> None:
    with silent_server() as address:
        client = connect(address, background_reads=True, ping_interval=0.05, ping_timeout=0.05)
        poll(lambda: client.close_code == 1006, "the background thread misses the Pong")
        with pytest.raises(ConnectionClosed, match="1006"):
            client.send("Hello")
        with pytest.raises(ConnectionClosed, match="did not answer a Ping"):
            client.recv()
