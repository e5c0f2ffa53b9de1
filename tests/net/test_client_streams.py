"""Messages of a client in parts: sent in fragments, received in chunks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.net.test_client import scripted, until_close, upgrade, url
from tests.support import PATIENCE, poll, serving
from wsproto_min import ConnectionClosed, ProtocolError, connect
from wsproto_min.codes import Opcode
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import encode_frame
from wsproto_min.net.peer import Peer

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION


def begins(*frames: bytes, then: Callable[[socket.socket], object] = until_close) -> Any:
    """Return a script that sends frames, then calls `then`."""

    def script(sock: socket.socket) -> None:
        upgrade(sock, b"".join(frames))
        then(sock)

    return script


@pytest.mark.parametrize("compression", [None, DeflateParameters.DEFAULT])
def test_stream_and_iterables_arrive_as_one_message(compression: DeflateParameters | None) -> None:
    with (
        serving(on_message=Peer.send) as running,
        connect(url(running.address), compression=compression) as client,
    ):
        with client.send_stream() as stream:
            stream.send("Hel")
            client.ping(PATIENCE)
            stream.send("lo")
        assert client.recv(PATIENCE) == "Hello"
        client.send([b"a", b"b" * 1000])
        assert client.recv(PATIENCE) == b"a" + b"b" * 1000
        client.send(letter for letter in "Hello")
        assert client.recv(PATIENCE) == "Hello"
        client.send([])  # no fragment, no message
        with client.send_stream(compress=False) as stream:
            stream.send(b"")
        assert client.recv(PATIENCE) == b""


def test_stream_misuse_raises_and_keeps_the_message() -> None:
    with serving(on_message=Peer.send) as running, connect(url(running.address)) as client:
        with client.send_stream() as stream:
            stream.send("Hel")
            with pytest.raises(RuntimeError, match="a stream of this thread is open; finish it"):
                client.send("other")
            with pytest.raises(RuntimeError, match="a stream of this thread is open; finish it"):
                client.send_stream().send("other")
            with pytest.raises(TypeError, match="the message is text, so it must not be bytes"):
                stream.send(b"bytes")
            stream.send("lo")
        stream.finish()  # twice
        with pytest.raises(RuntimeError, match="the message is finished; call send_stream"):
            stream.send("more")
        assert client.recv(PATIENCE) == "Hello"


def test_send_of_no_fragments_raises_and_keeps_the_client_open() -> None:
    wrong: list[Any] = [bytearray(b"a"), memoryview(b"a"), {"a": "b"}, 5, [5], [["a"]]]
    with serving(on_message=Peer.send) as running, connect(url(running.address)) as client:
        for message in wrong:
            with pytest.raises(TypeError, match="str or bytes, not"):
                client.send(message)
        client.send("right")
        assert client.recv(PATIENCE) == "right"


def test_stream_exception_closes_with_1011() -> None:
    def broken() -> Iterator[str]:
        yield "begun"
        raise ValueError("on purpose")

    closed: list[tuple[int | None, str]] = []
    with serving(
        on_message=Peer.send,
        on_close=lambda peer: closed.append((peer.close_code, peer.close_reason)),
    ) as running:
        client = connect(url(running.address))
        with pytest.raises(ValueError, match="on purpose"):
            client.send(broken())
        with pytest.raises(ConnectionClosed):
            client.send("more")
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
        running.wait_for_peers(0)
    assert closed == [(1011, "the client could not complete a message")]


def test_send_waits_for_the_stream_of_another_thread() -> None:
    with serving(on_message=Peer.send) as running, connect(url(running.address)) as client:
        with client.send_stream() as stream:
            stream.send("first ")
            thread = threading.Thread(target=client.send, args=("second",))
            thread.start()
            stream.send("message")
            thread.join(0.05)
            assert thread.is_alive()
        thread.join(PATIENCE)
        assert [client.recv(PATIENCE) for _ in range(2)] == ["first message", "second"]


def test_send_behind_an_endless_stream_times_out_or_is_closed() -> None:
    with serving(on_message=Peer.send) as running, connect(url(running.address)) as client:
        client.send_stream().send("first ")
        errors: list[type[BaseException]] = []

        def send(timeout: float | None) -> None:
            try:
                client.send("second", timeout=timeout)
            except (TimeoutError, ConnectionClosed) as error:
                errors.append(type(error))

        thread = threading.Thread(target=send, args=(0.01,))
        thread.start()
        thread.join(PATIENCE)
        assert errors == [TimeoutError]
        thread = threading.Thread(target=send, args=(None,))
        thread.start()
        client.close()
        thread.join(PATIENCE)
        assert errors == [TimeoutError, ConnectionClosed]


def test_send_to_a_server_that_does_not_read_times_out() -> None:
    done = threading.Event()
    with (
        scripted(begins(then=lambda sock: done.wait(PATIENCE) and until_close(sock))) as address,
        connect(address, compression=None, close_timeout=0.1) as client,
    ):
        with pytest.raises(TimeoutError, match="did not read within the time limit"):
            client.send([bytes(1 << 20)] * 64, timeout=0.05)
        with pytest.raises(ConnectionClosed):
            client.send(b"a", timeout=0.05)
        done.set()


def test_recv_streaming_returns_chunks_while_they_arrive() -> None:
    arrived = threading.Event()

    def then(sock: socket.socket) -> None:
        assert arrived.wait(PATIENCE)
        sock.sendall(
            encode_frame(Opcode.PING, b"")
            + encode_frame(CONTINUATION, b"\xa9!")
            + encode_frame(TEXT, b"next")
        )
        until_close(sock)

    with (
        scripted(begins(encode_frame(TEXT, b"H\xc3", fin=False), then=then)) as address,
        connect(address) as client,
    ):
        stream = client.recv_streaming(timeout=PATIENCE)
        assert next(stream) == "H"
        arrived.set()
        assert list(stream) == ["\u00e9!"]
        assert list(stream) == []
        assert client.recv(PATIENCE) == "next"


def test_recv_streaming_of_messages_received_before() -> None:
    frames = [
        encode_frame(TEXT, b""),
        encode_frame(BINARY, b"", fin=False),
        encode_frame(CONTINUATION, b""),
        encode_frame(BINARY, b"three"),
    ]
    with scripted(begins(*frames)) as address, connect(address) as client:
        received = [list(client.recv_streaming(PATIENCE)) for _ in range(3)]
    assert received == [[""], [b""], [b"three"]]


def test_recv_streaming_left_early_skips_the_rest() -> None:
    frames = [
        encode_frame(TEXT, b"one ", fin=False),
        encode_frame(CONTINUATION, b"two ", fin=False),
        encode_frame(CONTINUATION, b"three"),
        encode_frame(TEXT, b"next"),
        encode_frame(TEXT, b"begun ", fin=False),
        encode_frame(CONTINUATION, b"never"),
        encode_frame(TEXT, b"a", fin=False),
        encode_frame(CONTINUATION, b"b"),
    ]
    with scripted(begins(*frames)) as address, connect(address) as client:
        stream = client.recv_streaming(PATIENCE)
        assert next(stream) == "one "
        assert client.recv(PATIENCE) == "next"
        with pytest.raises(RuntimeError, match="a later call has skipped the rest"):
            next(stream)
        for chunk in client.recv_streaming(PATIENCE):
            assert chunk == "begun "
            break
        assert list(client.recv_streaming(PATIENCE)) == ["a", "b"]


def test_recv_after_a_streaming_without_chunks_gets_the_message() -> None:
    go = threading.Event()

    def then(sock: socket.socket) -> None:
        assert go.wait(PATIENCE)
        for frame in (
            encode_frame(TEXT, b"a", fin=False),
            encode_frame(CONTINUATION, b"b"),
            encode_frame(BINARY, b"c", fin=False),
            encode_frame(CONTINUATION, b"d"),
        ):
            sock.sendall(frame)
        until_close(sock)

    with scripted(begins(then=then)) as address, connect(address) as client:
        for _ in range(2):  # the iteration goes on after a timeout
            stream = client.recv_streaming(timeout=0)
            with pytest.raises(TimeoutError):
                next(stream)
            with pytest.raises(TimeoutError):
                next(stream)
        go.set()
        assert client.recv(PATIENCE) == "ab"
        assert (
            b"".join(part for part in client.recv_streaming(PATIENCE) if isinstance(part, bytes))
            == b"cd"
        )


def test_recv_streaming_gets_the_parts_that_recv_has_read() -> None:
    go = threading.Event()

    def then(sock: socket.socket) -> None:
        assert go.wait(PATIENCE)
        sock.sendall(encode_frame(CONTINUATION, b"two"))
        until_close(sock)

    with (
        scripted(begins(encode_frame(TEXT, b"one ", fin=False), then=then)) as address,
        connect(address) as client,
    ):
        client.connection.receive_chunks = True  # as a stream that got no chunk leaves it
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.01)
        go.set()
        assert "".join(map(str, client.recv_streaming(PATIENCE))) == "one two"


def test_recv_streaming_with_background_reads_gets_all() -> None:
    with (
        serving(on_message=Peer.send) as running,
        connect(url(running.address), background_reads=True) as client,
    ):
        client.send("whole")
        poll(lambda: client._inbox.size, "the message has arrived")
        client.send([b"a" * 100_000] * 5)
        assert list(client.recv_streaming(PATIENCE)) == ["whole"]
        parts = [part for part in client.recv_streaming(PATIENCE) if isinstance(part, bytes)]
        assert b"".join(parts) == b"a" * 500_000


def test_recv_streaming_raises_a_violation_after_its_chunks() -> None:
    frames = [encode_frame(TEXT, b"good", fin=False), encode_frame(CONTINUATION, b"\xff")]
    with scripted(begins(*frames)) as address, connect(address) as client:
        stream = client.recv_streaming(PATIENCE)
        assert next(stream) == "good"
        with pytest.raises(ProtocolError, match="not UTF-8"):
            next(stream)


def test_close_within_a_stream_drops_the_rest_over_the_limit() -> None:
    def on_message(peer: Peer, message: str | bytes) -> None:
        with peer.send_stream() as stream:
            for _ in range(20):
                stream.send(bytes(50_000))

    with serving(on_message=on_message) as running:
        client = connect(
            url(running.address), compression=None, max_message_size=None, read_buffer_limit=100_000
        )
        client.send("go")
        stream = client.recv_streaming(PATIENCE)
        assert next(stream)
        client.close()
        assert client._inbox.size < 300_000


def test_recv_streaming_over_the_size_limit_raises() -> None:
    def on_message(peer: Peer, message: str | bytes) -> None:
        with peer.send_stream() as stream:
            for _ in range(20):
                stream.send(bytes(1000))

    with serving(on_message=on_message) as running:
        client = connect(url(running.address), max_message_size=10_000)
        client.send("go")
        with pytest.raises(ProtocolError, match="larger than 10000 bytes"):
            list(client.recv_streaming(PATIENCE))
