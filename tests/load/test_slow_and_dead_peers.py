"""Peers that stop reading or vanish: their effect on others, and their missed messages."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.benchmarks.client import resident_bytes
from tests.chat import ChatClient
from tests.load.link_down import NOT_PERMITTED, PEERS
from tests.load.short_ping import PING_INTERVAL, PING_TIMEOUT
from tests.load.support import MIB, ChatReceiver, chatd, drop_packets, percentile, print_figure
from tests.support import PATIENCE, ROOT, Address
from wsproto_min.frames import encode_close

FAST = SLOW = 100
SENDERS = 4
RATE = 100  # messages per second
SIZE = 3900  # characters of three bytes
WRITE_BUFFER_LIMIT = 4 * MIB  # the server's default
# Bytes that the kernel buffers for one connection, at most: tcp_wmem's default limit.
KERNEL_BUFFER = 4 * MIB


class Load:
    """Messages at a fixed rate; measures their latency."""

    def __init__(self, senders: list[ChatReceiver]) -> None:
        self.number = 0
        self._senders = senders

    def run(
        self,
        receivers: list[ChatReceiver],
        count: int,
        measured: int,
        on_send: Callable[[], object] = bool,
    ) -> float:
        """Send messages until the measured receivers have them.

        Args:
            receivers: Clients to read from.
            count: Number of messages.
            measured: Number of receivers to measure, from the first.
            on_send: Function to call after every message.

        Returns:
            The 99th percentile of the latencies, in seconds.
        """
        epoll = select.epoll()
        by_descriptor = {each.sock.fileno(): (each, index) for index, each in enumerate(receivers)}
        for descriptor in by_descriptor:
            epoll.register(descriptor, select.EPOLLIN)
        latencies: list[float] = []
        due = start = time.perf_counter()
        last = self.number + count
        while len(latencies) < count * measured:
            now = time.perf_counter()
            assert now - start < count / RATE + PATIENCE, "a message did not arrive"
            if now >= due and self.number < last:
                due += 1 / RATE
                self.number += 1
                sender = self._senders[self.number % len(self._senders)]
                sender.say(self.number, SIZE, time.perf_counter_ns())
                on_send()
            for descriptor, _ in epoll.poll(max(0.0, min(0.01, due - now))):
                receiver, index = by_descriptor[descriptor]
                sending_times = receiver.receive()
                if index < measured:
                    now_ns = time.perf_counter_ns()
                    latencies += [(now_ns - sent) / 1e9 for sent in sending_times]
        epoll.close()
        return percentile(latencies, 0.99)


def test_slow_readers_delay_no_peer_and_can_resume(tmp_path: Path) -> None:
    with chatd(tmp_path) as running, ExitStack() as stack:

        def enter(number: int, receive_buffer: int | None) -> ChatReceiver:
            name = f"peer-{number}"
            receiver = ChatReceiver(running.address, name, receive_buffer=receive_buffer)
            stack.callback(receiver.sock.close)
            return receiver

        fast = [enter(number, None) for number in range(FAST)]
        load = Load(fast[:SENDERS])
        alone = load.run(fast, 3 * RATE, FAST)
        slow = [enter(FAST + number, 8192) for number in range(SLOW)]
        together = load.run(fast + slow, 2 * RATE, FAST)
        for receiver in slow:
            while receiver.ids[-1:] != fast[0].ids[-1:]:
                receiver.receive()

        memory = [resident_bytes(running.process.pid)]
        # The slow peers read nothing until their write buffers and the kernel's are full.
        count = (WRITE_BUFFER_LIMIT + KERNEL_BUFFER) // (3 * SIZE) + RATE // 2
        during = load.run(
            fast, count, FAST, lambda: memory.append(resident_bytes(running.process.pid))
        )
        growth = max(memory) - memory[0]
        print_figure(f"p99 of {FAST} fast peers", f"{alone * 1e3:.2f} ms")
        print_figure(f"p99 with {SLOW} more that read", f"{together * 1e3:.2f} ms")
        ratios = f"{during / alone:.2f} and {during / together:.2f} times these"
        print_figure(f"p99 with {SLOW} more that do not read", f"{during * 1e3:.2f} ms, {ratios}")
        allowed = f"{SLOW * WRITE_BUFFER_LIMIT // MIB} MiB allowed"
        print_figure("memory", f"+{growth / MIB:.1f} MiB, {allowed}")
        assert growth < SLOW * WRITE_BUFFER_LIMIT
        assert during < 10 * alone + 0.1

        close = encode_close(1008, "too slow: the write buffer is full")
        for receiver in slow:
            assert receiver.read_to_end().endswith(close), f"{receiver.name} got no Close 1008"
            assert receiver.ids[-1] < fast[0].ids[-1], f"{receiver.name} was never behind"
        missed, all_ids = 0, fast[0].ids
        for receiver in slow:
            before = len(receiver.ids)
            receiver.ids += resume(running.address, receiver)
            missed += len(receiver.ids) - before
            assert receiver.ids == all_ids[all_ids.index(receiver.ids[0]) :]
        figures = f"{SLOW} of {SLOW}, with {missed:,} missed messages"
        print_figure("closed with 1008 and resumed", figures)


def resume(address: Address, receiver: ChatReceiver) -> list[int]:
    """Join again after the last id; return the ids of all missed messages."""
    last = receiver.ids[-1]
    with ChatClient(address) as client:
        joined = client.join("lobby", receiver.name, session=receiver.session, after=last)
        messages = joined["messages"]
        while joined["gap"] and messages[0]["id"] > last + 1:
            client.send(type="history", room="lobby", before=messages[0]["id"], limit=200)
            messages = client.receive_type("history")["messages"] + messages
        return [message["id"] for message in messages if message["id"] > last]


def test_vanished_peer_is_closed_after_ping_timeout(tmp_path: Path) -> None:
    number = 50
    with chatd(tmp_path, "tests.load.short_ping") as running, ExitStack() as stack:
        witness = stack.enter_context(ChatClient(running.address))
        witness.join("lobby", "Witness")
        vanishing = [ChatReceiver(running.address, f"peer-{index}") for index in range(number)]
        for receiver in vanishing:
            stack.callback(receiver.sock.close)
        witness.receive_pending()
        vanished_at = {}
        for receiver in vanishing:
            drop_packets(receiver.sock)
            vanished_at[receiver.name] = time.perf_counter()
            time.sleep(0.01)
        seconds: dict[str, float] = {}
        sent = 0
        while len(seconds) < number:
            # Messages fill the write buffers of the first half; the second half is idle.
            if len(seconds) < number // 2:
                sent += 1
                witness.send(type="say", room="lobby", text="hello", key=str(sent))
            message = json.loads(witness.client.recv(PATIENCE))
            for name in message.get("left") or ():
                seconds[name] = time.perf_counter() - vanished_at[name]
            assert time.perf_counter() - vanished_at["peer-0"] < 3 * PATIENCE
        expected = PING_INTERVAL + PING_TIMEOUT
        slowest = max(seconds.values())
        print_figure("closed after they vanished", f"{number} of {number} within {slowest:.2f} s")
        print_figure("ping_interval + ping_timeout", f"{expected:g} s")
        assert slowest < expected + PATIENCE / 2


def test_link_down_closes_all_peers_after_ping_timeout() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.load.link_down"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
    )
    if ended.returncode == NOT_PERMITTED:
        # The previous test covers vanished peers without privileges.
        pytest.skip(f"no network namespace may be made here: {ended.stdout}")
    assert ended.returncode == 0, ended.stderr
    seconds = float(ended.stdout)
    print_figure("closed after the link went down", f"{PEERS} of {PEERS} within {seconds:.2f} s")
    assert seconds < PING_INTERVAL + PING_TIMEOUT + PATIENCE / 2
