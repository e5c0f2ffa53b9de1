"""Messages in fragments of a server: order, backpressure, limits, closing; chunks received."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.net.workbench import MASK, PING, Remote, Workbench, text
from tests.support import serving
from wsproto_min import connect
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Pong, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import encode_frame
from wsproto_min.messages import MessageChunk
from wsproto_min.net.broadcast import Group
from wsproto_min.net.peer import Peer
from wsproto_min.server_handshake import accept

KIB = 1 << 10


@pytest.fixture
def limited(clock: list[float]) -> Iterator[Workbench]:
    """A workbench with 100 KiB as the limit of a write buffer."""
    bench = Workbench(clock, write_buffer_limit=100 * KIB)
    yield bench
    bench.stop()


def group_of(bench: Workbench, *peers: Peer) -> Group:
    group = Group(bench.context.write_coalescer)
    for peer in peers:
        group.add(peer)
    return group


def received(bench: Workbench, remote: Remote, number: int, *, iterations: int = 2000) -> list[Any]:
    for _ in range(iterations):
        if remote.has(number):
            break
        bench.iterate()
    bench.iterate()
    remote.read()
    return remote.events


def test_stream_sends_one_message_of_all_fragments(bench: Workbench) -> None:
    peer, remote = bench.open()
    with peer.send_stream() as stream:
        assert stream.send("Hel")
        bench.iterate()
        assert stream.send("lo")
        assert stream.is_open
    assert not stream.is_open
    with peer.send_stream() as stream:
        stream.send(b"binary")
    assert received(bench, remote, 2) == ["Hello", b"binary"]


def test_stream_without_fragments_sends_nothing(bench: Workbench) -> None:
    peer, remote = bench.open()
    with peer.send_stream():
        peer.send("after")
    assert received(bench, remote, 1) == ["after"]


@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize("compression", [None, DeflateParameters.DEFAULT])
def test_messages_sent_during_a_stream_follow_it_in_order(
    clock: list[float], flushes: bool, compression: DeflateParameters | None
) -> None:
    bench = Workbench(clock, on_request=lambda _, request: accept(request, compression=compression))
    peer, remote = bench.open()
    group = group_of(bench, peer)
    other = group_of(bench, peer)
    flush: Callable[[], None] = bench.iterate if flushes else lambda: None
    peer.send("1")
    group.send("2")
    with peer.send_stream() as stream:
        group.send("4")
        flush()
        peer.send("5")
        stream.send("3")
        other.send("6")
        remote.sock.sendall(PING)
        flush()
        peer.send(b"7")
        group.send("to the others", sender=peer)
        stream.send("!")
    peer.send("8")
    with peer.send_stream() as stream:
        group.send("10")
        stream.send("9")
    received(bench, remote, 11)
    pong = Pong(b"still there?")
    messages = [event for event in remote.events if event != pong]
    assert messages == ["1", "2", "3!", "4", "5", "6", b"7", "8", "9", "10"]
    assert remote.events.index(pong) <= remote.events.index("3!") or not flushes
    assert bench.context.write_budget.total == 0
    bench.stop()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            ["send", "group", "joined", "stream", "fragment", "finish", "flush", "leave"]
        ),
        max_size=25,
    )
)
def test_any_mixture_of_sends_leaves_in_order(bench: Workbench, actions: list[str]) -> None:
    peer, remote = bench.open()
    bystander, _ = bench.open()
    group, joined = group_of(bench, peer, bystander), group_of(bench)
    stream = None
    expected: list[str] = []
    for number, action in enumerate(actions):
        if action == "send":
            peer.send(str(number))
            expected.append(str(number))
        elif action in ("group", "joined"):
            target = group if action == "group" else joined
            target.send(str(number))
            expected += [str(number)] if peer in target else []
        elif action == "stream" and stream is None:
            stream, place = peer.send_stream(), len(expected)
            parts: list[str] = []
        elif action == "fragment" and stream is not None:
            stream.send(f"<{number}>")
            parts.append(f"<{number}>")
        elif action == "finish" and stream is not None:
            stream.finish()
            stream = None
            expected[place:place] = ["".join(parts)] if parts else []
        elif action == "flush":
            bench.iterate()
        elif action == "leave":
            joined.add(peer)
            group.discard(peer)
    if stream is not None:
        stream.finish()
        expected[place:place] = ["".join(parts)] if parts else []
    assert received(bench, remote, len(expected)) == expected
    assert peer.write_buffer_size == 0


def test_stream_exception_in_its_block_fails_with_1011(bench: Workbench) -> None:
    peer, remote = bench.open()
    group = group_of(bench, peer)
    group.send("before")
    stream = peer.send_stream()

    def fail() -> None:
        with stream:
            stream.send("begun")
            group.send("never")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert not stream.send("ignored")
    stream.finish()
    assert received(bench, remote, 2) == [
        "before",
        Close(1011, "the server could not complete a message"),
    ]
    assert peer.write_buffer_size == 0


def test_stream_exception_before_a_fragment_keeps_the_peer(bench: Workbench) -> None:
    peer, remote = bench.open()

    def fail() -> None:
        with peer.send_stream():
            peer.send("after")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert received(bench, remote, 1) == ["after"]
    assert peer.is_open


def test_stream_exception_after_closing_keeps_the_close_code(bench: Workbench) -> None:
    peer, remote = bench.open()

    def fail() -> None:
        with peer.send_stream() as stream:
            stream.send("begun")
            peer.send("never")
            peer.close(1001)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert received(bench, remote, 1) == [Close(1001)]


def test_stream_open_at_a_callback_exception_is_dropped(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    def on_message(peer: Peer, message: str | bytes) -> None:
        peer.send_stream().send("begun")
        raise ValueError("on purpose")

    bench.context.on_message = on_message
    _, remote = bench.open()
    remote.sock.sendall(text("a"))
    assert received(bench, remote, 1) == [Close(1011, "internal server error")]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_stream_misuse_raises_and_keeps_the_message(bench: Workbench) -> None:
    peer, remote = bench.open()
    with peer.send_stream() as stream:
        stream.send("Hel")
        with pytest.raises(RuntimeError, match="another stream is open; finish it first"):
            peer.send_stream()
        with pytest.raises(TypeError, match="the message is text, so it must not be bytes"):
            stream.send(b"bytes")
        with pytest.raises(TypeError, match="not int"):
            peer.send(1)  # type: ignore[arg-type]
        stream.send("lo")
    stream.finish()  # twice
    with pytest.raises(RuntimeError, match="the message is finished; call send_stream"):
        stream.send("more")
    assert received(bench, remote, 1) == ["Hello"]


def test_stream_of_a_peer_that_is_not_open_does_nothing(bench: Workbench) -> None:
    unopened, _ = bench.accept()
    closed, _ = bench.open()
    closed.abort()
    for peer in (unopened, closed):
        with peer.send_stream() as stream:
            assert not stream.is_open
            assert not stream.send("a")
        peer.set_write_marks(high=1, low=0)
        assert peer.write_buffer_size == 0


def test_stream_in_on_open_follows_the_response(bench: Workbench) -> None:
    def on_open(peer: Peer) -> None:
        with peer.send_stream() as stream:
            stream.send("wel")
            peer.send("after")
            stream.send("come")

    bench.context.on_open = on_open
    _, remote = bench.open()
    assert received(bench, remote, 2) == ["welcome", "after"]


# Limits


def test_messages_that_wait_for_a_stream_are_bounded(limited: Workbench) -> None:
    peer, remote = limited.open()
    group = group_of(limited, peer)
    stream = peer.send_stream()
    stream.send("begun")
    for send in (peer.send, group.send):
        send("a" * 60 * KIB)
        limited.iterate()
    assert peer.close_code == 1008
    assert not stream.is_open
    assert received(limited, remote, 1) == [
        Close(1008, "too slow: the write buffer is full"),
    ]
    assert limited.context.write_budget.total == 0


def test_messages_that_wait_for_a_stream_count_in_total(clock: list[float]) -> None:
    bench = Workbench(clock, total_write_buffer_limit=100 * KIB)
    peers = [bench.open()[0] for _ in range(3)]
    group = group_of(bench, *peers)
    streams = [peer.send_stream() for peer in peers]
    group.send("a" * 60 * KIB)  # shared bytes count once
    bench.iterate()
    assert 60 * KIB < bench.context.write_budget.total < 61 * KIB
    assert peers[0].write_buffer_size > 60 * KIB
    peers[2].send("b" * 60 * KIB)
    bench.iterate()
    bench.iterate()
    assert [peer.state is State.CLOSED for peer in peers] == [True, True, True]
    assert peers[0].close_code == 1008
    assert not streams[0].is_open
    assert bench.context.write_budget.total == 0
    bench.stop()


# Backpressure


def test_send_returns_false_above_the_high_mark(bench: Workbench) -> None:
    drained: list[Peer] = []
    bench.context.on_drained = drained.append
    peer, remote = bench.open()
    peer.set_write_marks(high=10_000, low=1000)
    stream = peer.send_stream()
    assert stream.send(bytes(9000))
    assert peer.write_buffer_size > 9000
    assert not stream.send(bytes(90_000))
    bench.iterate()
    bench.iterate()
    assert not drained
    bench.iterate_until(lambda: remote.has(100) or drained, "drained")
    assert peer.write_buffer_size <= 1000
    assert drained == [peer]
    bench.iterate()
    assert drained == [peer], "on_drained comes once"


def test_drained_comes_in_the_next_iteration_if_all_is_taken(bench: Workbench) -> None:
    drained: list[Peer] = []
    bench.context.on_drained = drained.append
    peer, _ = bench.open()
    peer.set_write_marks(high=0, low=0)
    stream = peer.send_stream()
    assert not stream.send("a")
    assert not drained
    bench.iterate()
    assert not drained  # the socket has taken all
    bench.iterate()
    assert drained == [peer]


def test_drained_comes_at_once_below_a_raised_low_mark(bench: Workbench) -> None:
    drained: list[Peer] = []
    bench.context.on_drained = drained.append
    peer, _ = bench.open()
    peer.set_write_marks(high=0, low=0)
    assert not peer.send_stream().send(bytes(500 * KIB))  # more than the socket takes
    peer.set_write_marks(high=600 * KIB, low=600 * KIB)
    bench.iterate()
    assert peer.write_buffer_size > 0
    bench.iterate()
    assert drained == [peer]


def test_drained_comes_for_other_messages_too(bench: Workbench) -> None:
    drained: list[Peer] = []
    bench.context.on_drained = drained.append
    peer, remote = bench.open()
    small, _ = bench.open()
    peer.send(bytes(500 * KIB))
    small.send(bytes(10))
    bench.iterate_until(lambda: remote.has(100) or drained, "drained")
    assert drained == [peer]


def test_drained_does_not_come_after_the_closing(bench: Workbench) -> None:
    drained: list[Peer] = []
    bench.context.on_drained = drained.append
    peer, remote = bench.open()
    peer.set_write_marks(high=0, low=0)
    stream = peer.send_stream()
    stream.send("a")
    bench.iterate()
    peer.close()
    bench.iterate()
    assert not drained
    assert received(bench, remote, 1) == [Close(1000)]


def test_drained_exception_closes_with_1011(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    def on_drained(peer: Peer) -> None:
        raise ValueError("on purpose")

    bench.context.on_drained = on_drained
    peer, remote = bench.open()
    peer.set_write_marks(high=0, low=0)
    peer.send_stream().send("a")
    assert received(bench, remote, 1) == [Close(1011, "internal server error")]
    assert "on_drained: raised an exception" in caplog.text


@pytest.mark.parametrize(("high", "low"), [(1, 2), (1, -1)])
def test_write_marks_out_of_order_raise(bench: Workbench, high: int, low: int) -> None:
    peer, _ = bench.open()
    with pytest.raises(ValueError, match="pass 0 <= low <= high"):
        peer.set_write_marks(high=high, low=low)
    with pytest.raises(ValueError, match="pass 0 <= low <= high"):
        Workbench([0.0], write_high_mark=high, write_low_mark=low)


def test_write_marks_are_at_most_the_limit(limited: Workbench) -> None:
    peer, _ = limited.open()
    peer.set_write_marks(high=10**9, low=10**8)
    stream = peer.send_stream()
    assert stream.send(bytes(90 * KIB))
    assert not stream.send(bytes(10 * KIB))


def test_file_of_many_buffers_goes_through_a_small_one(clock: list[float]) -> None:
    total, chunk = 4 << 20, bytes(range(256)) * 64
    streams: dict[Peer, Any] = {}
    left = {"size": total}
    largest = 0

    def pump(peer: Peer) -> None:
        nonlocal largest
        stream = streams.setdefault(peer, None) or peer.send_stream()
        streams[peer] = stream
        while left["size"] and stream.is_open:
            left["size"] -= len(chunk)
            if not stream.send(chunk):
                break
        largest = max(largest, peer.write_buffer_size)
        if not left["size"]:
            stream.finish()

    bench = Workbench(
        clock,
        on_open=pump,
        on_drained=pump,
        write_buffer_limit=100 * KIB,
        write_high_mark=64 * KIB,
        write_low_mark=16 * KIB,
    )
    _, remote = bench.open()
    assert received(bench, remote, 1, iterations=50_000) == [chunk * (total // len(chunk))]
    assert largest <= 64 * KIB + len(chunk) + 100
    bench.stop()


# Receiving


def test_peer_receives_chunks_with_its_own_limit(clock: list[float]) -> None:
    chunks: list[MessageChunk] = []
    bench = Workbench(
        clock,
        on_open=lambda peer: peer.receive_chunks(max_message_size=None),
        on_chunk=lambda peer, chunk: chunks.append(chunk),
        max_message_size=10,
    )
    _, remote = bench.open()
    remote.sock.sendall(encode_frame(Opcode.BINARY, bytes(100), fin=False, mask=MASK))
    remote.sock.sendall(PING)
    remote.sock.sendall(encode_frame(Opcode.CONTINUATION, b"end", mask=MASK))
    bench.iterate_until(lambda: chunks and chunks[-1].message_finished, "the message's end")
    assert b"".join(chunk.data for chunk in chunks if isinstance(chunk.data, bytes)) == (
        bytes(100) + b"end"
    )
    assert received(bench, remote, 1) == [Pong(b"still there?")]
    assert not bench.messages
    bench.stop()


def test_chunk_exception_closes_with_1011(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    def on_chunk(peer: Peer, chunk: MessageChunk) -> None:
        raise ValueError("on purpose")

    bench = Workbench(clock, on_chunk=on_chunk)
    peer, remote = bench.open()
    peer.receive_chunks(max_message_size=100)
    remote.sock.sendall(encode_frame(Opcode.TEXT, b"a", mask=MASK))
    assert received(bench, remote, 1) == [Close(1011, "internal server error")]
    assert "on_chunk: raised an exception" in caplog.text
    bench.stop()


def test_chunks_after_close_are_not_passed_on(clock: list[float]) -> None:
    chunks: list[MessageChunk] = []

    def on_chunk(peer: Peer, chunk: MessageChunk) -> None:
        chunks.append(chunk)
        peer.close()

    bench = Workbench(clock, on_chunk=on_chunk)
    peer, remote = bench.open()
    peer.receive_chunks(max_message_size=100)
    remote.sock.sendall(encode_frame(Opcode.TEXT, b"a", fin=False, mask=MASK))
    remote.sock.sendall(encode_frame(Opcode.CONTINUATION, b"b", mask=MASK))
    assert received(bench, remote, 1) == [Close(1000)]
    assert [chunk.data for chunk in chunks] == ["a"]
    bench.stop()


def test_receive_chunks_without_on_chunk_raises(bench: Workbench) -> None:
    peer, _ = bench.open()
    with pytest.raises(RuntimeError, match="the server has no on_chunk; pass it to Server"):
        peer.receive_chunks(max_message_size=None)


def test_receive_chunks_before_the_handshake_does_nothing(clock: list[float]) -> None:
    bench = Workbench(
        clock,
        on_accept=lambda peer: peer.receive_chunks(max_message_size=None),
        on_chunk=lambda peer, chunk: None,
    )
    _, remote = bench.open()
    remote.sock.sendall(text("whole"))
    bench.iterate_until(lambda: bench.messages, "a message")
    bench.stop()


def test_server_with_chunks_and_stream_copies_a_message() -> None:
    streams: dict[Peer, Any] = {}

    def on_chunk(peer: Peer, chunk: MessageChunk) -> None:
        stream = streams.get(peer) or streams.setdefault(peer, peer.send_stream())
        if not stream.send(chunk.data):
            peer.pause_reading(60)
        if chunk.message_finished:
            streams.pop(peer).finish()

    with (
        serving(
            on_open=lambda peer: peer.receive_chunks(max_message_size=None),
            on_chunk=on_chunk,
            on_drained=lambda peer: peer.pause_reading(0),
            on_message=lambda peer, message: None,
        ) as running,
        connect(f"ws://127.0.0.1:{running.address[1]}/", max_message_size=1 << 22) as client,
    ):
        for message in ("text", bytes(2 << 20), ""):
            client.send(message)
            assert client.recv(timeout=60) == message
