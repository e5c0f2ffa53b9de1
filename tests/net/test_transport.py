"""The transport: writing, buffering, selector interest, half-closing, and failing sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import Faults, FaultySocket, wrap
from tests.net.workbench import PING, UNMASKED, Workbench, close, text
from tests.support import handshake
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Pong, State
from wsproto_min.frames import encode_frame
from wsproto_min.http import Response
from wsproto_min.net.broadcast import Group
from wsproto_min.net.peer import Peer
from wsproto_min.net.transport import Transport
from wsproto_min.net.write_coalescer import WriteCoalescer
from wsproto_min.server_handshake import accept


def failing_later(sock: socket.socket) -> FaultySocket:
    """Return a faulty socket that works until the test sets its error."""
    return wrap(sock, Faults(0))


# Writing.


def test_write_watches_for_writability_only_while_bytes_wait(
    bench: Workbench, watched: list[int]
) -> None:
    peer, remote = bench.open()
    peer.send("small")
    bench.iterate()
    assert watched == [], "watched for writability after a complete write"
    message = "x" * 1_000_000
    peer.send(message)
    bench.iterate()
    assert watched == [EVENT_READ | EVENT_WRITE]
    for _ in range(3):
        bench.iterate()
    assert watched == [EVENT_READ | EVENT_WRITE], "changed the interest without a reason"

    bench.iterate_until(lambda: remote.has(2), "the message arrives")
    bench.iterate()
    assert remote.events == ["small", message]
    assert watched == [EVENT_READ | EVENT_WRITE, EVENT_READ], "still watches for writability"


def test_write_keeps_the_order_behind_buffered_bytes(bench: Workbench) -> None:
    peer, remote = bench.open()
    group = Group(bench.context.write_coalescer)
    group.add(peer)
    messages = [f"{number} " * 3000 for number in range(40)]
    for message in messages[::2]:
        peer.send(message)
        group.send(messages[messages.index(message) + 1])
        bench.iterate()
    remote.sock.sendall(PING)

    bench.iterate_until(lambda: remote.has(41), "all messages and the Pong arrive")
    assert remote.events == [*messages, Pong(b"still there?")]


def test_write_buffer_size_counts_the_waiting_bytes(bench: Workbench) -> None:
    peer, remote = bench.open()
    assert peer.write_buffer_size == 0
    peer.send("x" * 1_000_000)
    bench.iterate()
    assert 500_000 < peer.write_buffer_size < 1_000_000  # the kernel holds the rest
    bench.iterate_until(lambda: remote.has(1), "the message arrives")
    assert peer.write_buffer_size == 0


def test_write_buffer_limit_ignores_bytes_that_have_passed(bench: Workbench) -> None:
    bench.context.write_buffer_limit = 100_000
    peer, remote = bench.open()
    for _ in range(5):
        peer.send("x" * 10_000)
    for _ in range(100):
        peer.send("x" * 10_000)
        received = 0
        while peer.is_open and received < 10_000:
            received += len(bench.iterate_and_receive(remote.sock))
    assert peer.is_open, "closed after 1 MB, of which about 60,000 bytes waited at a time"


def test_write_buffer_over_its_limit_closes_with_1008(bench: Workbench) -> None:
    bench.context.write_buffer_limit = 100_000
    slow, remote_slow = bench.open()
    quick, remote_quick = bench.open()
    group = Group(bench.context.write_coalescer)
    group.add(slow)
    group.add(quick)
    messages = [f"{number:10}" * 1000 for number in range(100)]
    for number, message in enumerate(messages, start=1):
        group.send(message)
        bench.iterate()
        while len(remote_quick.events) < number:
            bench.iterate()
            remote_quick.read()
    assert remote_quick.events == messages, "a slow reader disturbed another peer"
    assert not slow.is_open
    assert list(group) == [quick], "the slow reader is still a member"
    bench.iterate_until(remote_slow.has_ended, "the slow reader's stream ends")
    *received, last = remote_slow.events
    assert received == messages[: len(received)], "the buffer was not sent in order"
    assert isinstance(last, Close)
    assert last.code == CloseCode.POLICY_VIOLATION
    assert "slow" in last.reason
    # The limit, the message of one iteration beyond it, and the kernel's buffers.
    buffered = 10_000 * len(received)
    assert 100_000 < buffered < 100_000 + 10_000 + 200_000, f"{buffered} bytes were buffered"


def test_write_buffer_overflow_in_a_group_counts_bytes_once(bench: Workbench) -> None:
    bench.context.write_buffer_limit = 100_000
    peer, _ = bench.open()
    group = Group(bench.context.write_coalescer)
    group.add(peer)
    before = bench.context.write_coalescer.bytes_sent
    group.send("x" * 1_000_000)
    bench.iterate()
    assert not peer.is_open
    assert not bench.context.write_coalescer, "frames are pending for a closed stream"
    assert bench.context.write_coalescer.bytes_sent - before == 1_000_010


@pytest.mark.parametrize("closing", [False, True], ids=["while open", "after our Close"])
def test_write_buffer_limit_holds_for_pongs(bench: Workbench, closing: bool) -> None:
    bench.context.write_buffer_limit = 100_000
    peer, remote = bench.open()
    if closing:
        peer.close(4000)
    remote.sock.settimeout(0)
    sent = 0
    for _ in range(100):
        with suppress(BlockingIOError):
            sent += remote.sock.send(PING * 1000)
        bench.iterate()
    assert sent > 1_000_000
    received = bytearray()
    while data := bench.iterate_and_receive(remote.sock):
        received += data
    assert 100_000 < len(received) < 300_000, "the write buffer had no limit"
    assert (b"too slow" in received) is not closing, "there must be one Close frame"


def test_write_skips_a_sender_without_frames_of_its_own(bench: Workbench) -> None:
    peer, _ = bench.open()
    peer.send("x" * 1_000_000)
    bench.iterate()
    group = Group(bench.context.write_coalescer)
    group.add(peer)
    writes: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "write", lambda self, data: writes.append(data))
        for _ in range(10):
            group.send("mine", sender=peer)
            bench.iterate()
    assert writes == [], "empty chunks pile up in the write buffer"


def test_write_joins_the_response_and_messages_of_on_open(bench: Workbench) -> None:
    writes: list[bytes] = []
    bench.context.on_open = lambda peer: peer.send("welcome")
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("hello"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "write", lambda self, data: writes.append(data))
        bench.iterate()
    assert [data.partition(b"\r\n\r\n")[2] for data in writes] == [b"\x81\x07welcome"]


# Limits for the write buffers of all peers.


@pytest.fixture
def limited(clock: list[float]) -> Iterator[Workbench]:
    """A workbench with 1 MB for all write buffers, which may stand still for 30 s."""
    bench = Workbench(clock, total_write_buffer_limit=1_000_000, write_timeout=30.0)
    yield bench
    bench.stop()
    assert bench.context.write_budget.total == 0


def test_total_write_buffer_limit_closes_the_slowest_first(limited: Workbench) -> None:
    reading, remote_reading = limited.open()
    slow = [limited.open() for _ in range(3)]
    reading.send("x" * 300_000)  # the first buffer, but the peer takes its bytes
    for peer, _ in slow:
        peer.send("x" * 300_000)
        limited.iterate()
        limited.iterate_until(lambda: remote_reading.has(1), "the quick peer reads")
    assert all(peer.is_open for peer, _ in slow)
    slow[0][1].sock.recv(1000)  # a few bytes do not make the peer quicker than the others
    limited.iterate()
    slow[2][0].send("x" * 300_000)
    limited.iterate()
    assert [peer.is_open for peer, _ in slow] == [False, True, True]
    assert slow[0][0] not in limited.context.peers, "the write buffer is still in memory"
    assert slow[0][0].close_code == CloseCode.POLICY_VIOLATION
    assert slow[0][0].close_reason == "too slow: the write buffers of all peers are full"
    assert reading.is_open
    slow[1][0].send("x" * 1_000_001)
    limited.iterate()
    assert [peer.is_open for peer, _ in slow] == [False, False, True]


def test_total_write_buffer_limit_closes_peers_in_any_state(limited: Workbench) -> None:
    limited.context.on_request = lambda peer, request: Response(200, body=bytes(400_000))
    for _ in range(3):
        _, theirs = limited.accept()
        theirs.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        limited.iterate()
    assert len(limited.context.peers) == 2
    limited.context.write_buffer_limit = 1000
    limited.context.on_request = lambda peer, request: accept(request)
    peer, _ = limited.open()
    peer.send("x" * 700_000)
    limited.iterate()
    assert (peer.state, len(limited.context.peers)) == (State.FLUSHING, 1)
    assert limited.context.write_budget.total > 700_000


def test_total_write_buffer_limit_counts_shared_bytes_once(limited: Workbench) -> None:
    peers = [limited.open() for _ in range(20)]
    group = Group(limited.context.write_coalescer)
    for peer, _ in peers:
        group.add(peer)
    group.send("x" * 400_000)
    limited.iterate()
    group.send("y" * 400_000)
    limited.iterate()
    assert 800_000 < limited.context.write_budget.total < 801_000
    assert all(peer.is_open for peer, _ in peers)
    remotes = [remote for _, remote in peers[1:]]
    limited.iterate_until(lambda: all(each.has(2) for each in remotes), "both messages arrive")
    assert limited.context.write_budget.total > 800_000, "one peer still holds the bytes"
    limited.iterate_until(lambda: peers[0][1].has(2), "both messages arrive")
    assert limited.context.write_budget.total == 0


def test_write_timeout_closes_a_peer_that_only_sends(limited: Workbench) -> None:
    peer, remote = limited.open()
    peer.send("x" * 500_000)
    limited.iterate()
    for _ in range(29):
        remote.sock.sendall(PING + text("still here"))
        limited.iterate(ahead=1.0)
    assert peer.is_open
    remote.sock.sendall(PING)
    limited.iterate(ahead=1.5)
    assert not limited.context.peers
    assert peer.close_code == CloseCode.POLICY_VIOLATION
    assert peer.close_reason == "too slow: no bytes were taken within the write timeout"


def test_write_timeout_starts_again_with_each_progress(limited: Workbench) -> None:
    peer, remote = limited.open()
    peer.send("x" * 800_000)
    limited.iterate()
    for _ in range(4):
        size = peer.write_buffer_size
        while peer.write_buffer_size == size:
            remote.sock.recv(1000)
            limited.iterate()
        limited.iterate(ahead=29.0)
    assert peer.is_open
    limited.iterate_until(lambda: remote.sock.recv(1 << 16) and not peer.write_buffer_size, "empty")
    limited.iterate(ahead=31.0)
    assert peer.is_open, "an empty write buffer has no timeout"


# The end of the stream.


@pytest.mark.parametrize("ending", ["last write", "close"])
def test_write_after_the_end_is_dropped(bench: Workbench, ending: str) -> None:
    peer, remote = bench.open()
    transport = peer._transport
    if ending == "close":
        transport.close()
    else:
        transport.end_after_next_write(half_close=True)
        transport.write(encode_frame(Opcode.TEXT, b"last"))
    transport.write(encode_frame(Opcode.TEXT, b"dropped"))
    bench.iterate()
    remote.read()
    assert remote.ended
    assert remote.events == ([] if ending == "close" else ["last"])


def test_bytes_sent_omits_messages_to_an_aborted_peer(bench: Workbench) -> None:
    peer, _ = bench.open()
    before = bench.context.write_coalescer.bytes_sent
    peer.send("y" * 1000)
    peer.abort()
    bench.iterate()
    assert bench.context.write_coalescer.bytes_sent == before


def test_bytes_sent_includes_the_close_frame_to_a_slow_reader(bench: Workbench) -> None:
    peer, _ = bench.open()
    peer._transport._write_buffer_limit = 100_000
    before = bench.context.write_coalescer.bytes_sent
    peer.send("x" * 1_000_000)
    bench.iterate()
    assert peer.close_code == 1008
    close_frame = 2 + 2 + len(peer.close_reason)
    assert bench.context.write_coalescer.bytes_sent - before == 1_000_010 + close_frame


def test_close_frame_follows_the_whole_write_buffer(bench: Workbench) -> None:
    peer, remote = bench.open()
    message = "x" * 500_000
    peer.send(message)
    remote.sock.sendall(close())
    bench.iterate_until(remote.has_ended, "the stream ends")
    assert remote.events == [message, Close(1000)]


def test_eof_without_close_frame_discards_the_write_buffer(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.send("x" * 500_000)
    bench.iterate()
    remote.sock.shutdown(socket.SHUT_WR)
    bench.iterate()
    assert bench.context.closed == [peer]
    assert not bench.context.peers


@pytest.mark.parametrize("size", [0, 500_000], ids=["empty buffer", "full buffer"])
def test_violation_half_closes_and_discards_later_input(bench: Workbench, size: int) -> None:
    peer, remote = bench.open()
    peer.send("x" * size)
    bench.iterate()
    remote.sock.sendall(text("before") + UNMASKED + text("after"))
    bench.iterate_until(remote.has_ended, "the stream ends")
    message, last = remote.events
    assert message == "x" * size
    assert isinstance(last, Close)
    assert last.code == CloseCode.PROTOCOL_ERROR
    assert bench.messages == [(peer, "before")]
    assert peer in bench.context.peers, "close() with unread input would send RST"
    for _ in range(10):
        remote.sock.sendall(b"\xff" * 1000)
        bench.iterate()
    remote.sock.close()
    bench.iterate()
    assert not bench.context.peers


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
def test_response_arrives_whole_at_a_half_closed_client(
    bench: Workbench, watched: list[int], half_closed: bool
) -> None:
    page = b"0123456789" * 100_000
    bench.context.on_request = lambda peer, request: Response(200, body=page)
    _, theirs = bench.accept()
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    if half_closed:
        theirs.shutdown(socket.SHUT_WR)
    received = b""
    while data := bench.iterate_and_receive(theirs):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (len(body), body == page) == (len(page), True)
    # A stream at its end is always readable: a loop that watches for it would spin.
    assert watched == [EVENT_READ | EVENT_WRITE, *[EVENT_WRITE] * half_closed, EVENT_READ]
    theirs.close()
    bench.iterate()
    assert not bench.context.peers


def test_eof_between_fail_and_its_write_keeps_the_buffer(bench: Workbench) -> None:
    # `failing` fails the other peer first, so the last bytes wait in the write coalescer.
    failing, remote_failing = bench.open()
    peer, remote = bench.open()
    message = "x" * 500_000
    peer.send(message)
    bench.iterate()
    bench.context.on_message = lambda _, message: peer.fail(4000, str(message))
    remote_failing.sock.sendall(text("enough"))
    remote.sock.shutdown(socket.SHUT_WR)
    bench.iterate_until(remote.has_ended, "the stream ends")
    assert remote.events == [message, Close(4000, "enough")]
    assert failing.is_open


def test_slow_reader_of_the_last_bytes_is_closed_at_the_deadline(bench: Workbench) -> None:
    peer, _ = bench.open()
    peer.send("x" * 1_000_000)
    peer.fail(4000)
    bench.iterate(ahead=9.9)
    assert bench.context.peers, "closed before the deadline"
    bench.iterate(ahead=0.2)
    assert not bench.context.peers


# Failing sockets.


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 7, 1000]), st.sampled_from([0.0, 0.3, 0.7]))
def test_faulty_sockets_lose_and_reorder_nothing(seed: int, size: int, transient: float) -> None:
    bench = Workbench([0.0])
    group = Group(bench.context.write_coalescer)
    bench.context.on_open = group.add

    def echo_and_broadcast(peer: Peer, message: str | bytes) -> None:
        peer.send(message)
        group.send(message, sender=peer)

    bench.context.on_message = echo_and_broadcast
    pairs = [
        bench.open(lambda sock: wrap(sock, Faults(seed, transient=transient, size=size)))
        for _ in range(3)
    ]
    sent = [[f"{sender}: {number}" * (number + 1) for number in range(8)] for sender in range(3)]
    for (_, remote), messages in zip(pairs, sent, strict=True):
        remote.sock.sendall(b"".join(map(text, messages)))

    def all_have(number: int) -> bool:
        return all(remote.has(number) for _, remote in pairs)

    try:
        bench.iterate_until(lambda: all_have(24), "every peer receives every message")
        for _, remote in pairs:
            for sender, messages in enumerate(sent):
                received = [each for each in remote.events if str(each).startswith(f"{sender}:")]
                assert received == messages
        for _, remote in pairs:
            remote.sock.sendall(close())
        bench.iterate_until(lambda: all_have(25), "every Close frame is answered")
        bench.iterate_until(lambda: not bench.context.peers, "every peer is closed")
    finally:
        bench.stop()


@pytest.mark.parametrize("size", [0, 500_000], ids=["empty buffer", "full buffer"])
@pytest.mark.parametrize("ending", [False, True], ids=["while open", "with the last bytes"])
@pytest.mark.parametrize("reading", [False, True], ids=["in a write", "in a read"])
def test_connection_reset_ends_that_peer_and_no_other(
    bench: Workbench, size: int, ending: bool, reading: bool
) -> None:
    group = Group(bench.context.write_coalescer)
    victim, remote_victim = bench.open(failing_later)
    witness, remote_witness = bench.open()
    group.add(victim)
    group.add(witness)
    victim.send("x" * size)
    bench.iterate()
    sock = victim._transport._socket
    assert isinstance(sock, FaultySocket)
    sock.error = ConnectionResetError()
    if ending:
        victim.fail(4000)
    if reading:
        remote_victim.sock.sendall(text("are you there?"))
    else:
        group.send("hello")
        remote_victim.read()  # makes room for the buffered bytes
    bench.iterate()
    bench.iterate()
    assert victim not in bench.context.peers, "the lost peer is still known"
    assert list(group) == [witness]
    group.send("and you?")
    bench.iterate()
    remote_witness.read()
    assert remote_witness.events == (["and you?"] if reading else ["hello", "and you?"])


def test_connection_reset_before_half_close_ends_the_peer(bench: Workbench) -> None:
    def fail_to_shut_down(self: FaultySocket, how: int) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    peer, _ = bench.open(failing_later)
    peer.fail(4000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultySocket, "shutdown", fail_to_shut_down)
        bench.iterate()
    assert not bench.context.peers


def test_interrupt_during_close_closes_the_socket(bench: Workbench) -> None:
    def interrupt(self: WriteCoalescer, peer: Peer) -> None:
        raise KeyboardInterrupt  # as after Ctrl-C

    peer, remote = bench.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WriteCoalescer, "discard", interrupt)
        with pytest.raises(KeyboardInterrupt):
            peer.abort()
    assert remote.sock.recv(1) == b""


def test_connection_reset_in_the_response_calls_on_open_first(bench: Workbench) -> None:
    def reset_on_send(self: FaultySocket, data: bytes) -> int:
        raise ConnectionResetError

    opened: list[Peer] = []
    bench.context.on_open = opened.append
    peer, theirs = bench.accept(failing_later)
    theirs.sendall(handshake())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultySocket, "send", reset_on_send)
        bench.iterate()
    assert (opened, bench.context.closed) == ([peer], [peer]), "on_close without on_open"


def test_peer_aborted_earlier_in_the_iteration_is_not_served(bench: Workbench) -> None:
    peers: list[Peer] = []

    def abort_the_other(peer: Peer, message: str | bytes) -> None:
        for other in peers:
            if other is not peer:
                other.abort()

    bench.context.on_message = abort_the_other
    pairs = [bench.open() for _ in range(2)]
    peers += [peer for peer, _ in pairs]
    for peer, _ in pairs:
        peer.send("x" * 1_000_000)  # so that the loop watches for writability
    bench.iterate()
    for _, remote in pairs:
        remote.sock.sendall(text("there can be only one"))
        remote.read()  # now both sockets are readable and writable in one iteration
    bench.iterate()
    assert len(bench.context.peers) == 1, "an aborted peer was served"
