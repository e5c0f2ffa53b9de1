"""Peers that stop reading, and peers that vanish: who else notices, and what they miss."""

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
from tests.chat import Talker
from tests.load.impatient import PING_INTERVAL, PING_TIMEOUT
from tests.load.link import NOT_PERMITTED, PEERS
from tests.load.support import MIB, Ear, chatd, figure, percentile, vanish
from tests.support import PATIENCE, ROOT, Address
from wsproto_min.frames import encode_close

QUICK = SLOW = 100
SENDERS = 4
RATE = 100  # messages a second
SIZE = 3900  # characters, of three bytes each
LIMIT = 4 * MIB  # what may wait for a peer, the server's default
# What the kernel may keep for a connection, at the most: tcp_wmem's default limit.
KERNEL = 4 * MIB


class Load:
    """Messages at a fixed rate, and how long they take to those who listen."""

    def __init__(self, senders: list[Ear]) -> None:
        self.number = 0
        self._senders = senders

    def run(
        self, ears: list[Ear], count: int, measured: int, each: Callable[[], object] = bool
    ) -> float:
        """Say so many; return the p99 in seconds of the first so many ears."""
        epoll = select.epoll()
        by_descriptor = {ear.sock.fileno(): (ear, index) for index, ear in enumerate(ears)}
        for descriptor in by_descriptor:
            epoll.register(descriptor, select.EPOLLIN)
        seconds: list[float] = []
        due = begin = time.perf_counter()
        last = self.number + count
        while len(seconds) < count * measured:
            now = time.perf_counter()
            assert now - begin < count / RATE + PATIENCE, "messages do not arrive"
            if now >= due and self.number < last:
                due += 1 / RATE
                self.number += 1
                sender = self._senders[self.number % len(self._senders)]
                sender.say(self.number, SIZE, time.perf_counter_ns())
                each()
            for descriptor, _ in epoll.poll(max(0.0, min(0.01, due - now))):
                ear, index = by_descriptor[descriptor]
                said = ear.hear()
                if index < measured:
                    now_ns = time.perf_counter_ns()
                    seconds += [(now_ns - moment) / 1e9 for moment in said]
        epoll.close()
        return percentile(seconds, 0.99)


def test_when_half_stop_reading_the_others_do_not_notice_and_nobody_misses_anything(
    tmp_path: Path,
) -> None:
    with chatd(tmp_path) as running, ExitStack() as stack:

        def enter(number: int, receive_buffer: int | None) -> Ear:
            ear = Ear(running.address, f"peer-{number}", receive_buffer=receive_buffer)
            stack.callback(ear.sock.close)
            return ear

        quick = [enter(number, None) for number in range(QUICK)]
        load = Load(quick[:SENDERS])
        alone = load.run(quick, 3 * RATE, QUICK)
        slow = [enter(QUICK + number, 8192) for number in range(SLOW)]
        together = load.run(quick + slow, 2 * RATE, QUICK)
        for ear in slow:
            while ear.ids[-1:] != quick[0].ids[-1:]:
                ear.hear()

        memory = [resident_bytes(running.process.pid)]
        # Then their queues are full, and so is whatever the kernel keeps.
        count = (LIMIT + KERNEL) // (3 * SIZE) + RATE // 2
        during = load.run(
            quick, count, QUICK, lambda: memory.append(resident_bytes(running.process.pid))
        )
        grown = max(memory) - memory[0]
        figure(f"p99 of {QUICK} who read, alone", f"{alone * 1e3:.2f} ms")
        figure(f"while {SLOW} others read too", f"{together * 1e3:.2f} ms")
        ratio = f"{during / alone:.2f} times that alone, {during / together:.2f} that together"
        figure("while those stand still", f"{during * 1e3:.2f} ms, {ratio}")
        figure("memory", f"+{grown / MIB:.1f} MiB, of {SLOW * LIMIT // MIB} MiB allowed")
        assert grown < SLOW * LIMIT
        assert during < 10 * alone + 0.1

        close = encode_close(1008, "too slow: the send queue is full")
        for ear in slow:
            assert ear.read_to_end().endswith(close), f"{ear.name} was not closed with 1008"
            assert ear.ids[-1] < load.number, "it was never behind"
        missed, everything = 0, quick[0].ids
        for ear in slow:
            before_the_cut = len(ear.ids)
            ear.ids += resume(running.address, ear)
            missed += len(ear.ids) - before_the_cut
            assert ear.ids == everything[everything.index(ear.ids[0]) :]
        figure("closed with 1008 and resumed", f"{SLOW} of {SLOW}, {missed:,} messages made up for")


def resume(address: Address, ear: Ear) -> list[int]:
    """Join again after the last id; return the ids of all that was missed."""
    with Talker(address) as talker:
        joined = talker.join("lobby", ear.name, session=ear.session, after=ear.ids[-1])
        messages = joined["messages"]
        while joined["gap"] and messages[0]["id"] > ear.ids[-1] + 1:
            talker.tell(type="history", room="lobby", before=messages[0]["id"], limit=200)
            messages = talker.hear_next("history")["messages"] + messages
        return [message["id"] for message in messages if message["id"] > ear.ids[-1]]


def test_who_vanishes_is_gone_within_ping_interval_and_ping_timeout(tmp_path: Path) -> None:
    number = 50
    with chatd(tmp_path, "tests.load.impatient") as running, ExitStack() as stack:
        witness = stack.enter_context(Talker(running.address))
        witness.join("lobby", "Witness")
        ghosts = [Ear(running.address, f"ghost-{index}") for index in range(number)]
        for ghost in ghosts:
            stack.callback(ghost.sock.close)
        witness.settle()
        vanished = {}
        for ghost in ghosts:
            vanish(ghost.sock)
            vanished[ghost.name] = time.perf_counter()
            time.sleep(0.01)
        gone: dict[str, float] = {}
        spoken = 0
        while len(gone) < number:
            # Half of the time nothing is said, half of the time their queues grow.
            if len(gone) < number // 2:
                spoken += 1
                witness.tell(type="say", room="lobby", text="hello", key=str(spoken))
            told = json.loads(witness.client.recv(PATIENCE))
            for name in told.get("left") or ():
                gone[name] = time.perf_counter() - vanished[name]
            assert time.perf_counter() - vanished["ghost-0"] < 3 * PATIENCE
        allowed = PING_INTERVAL + PING_TIMEOUT
        slowest = max(gone.values())
        figure("gone after they vanished", f"{number} of {number} within {slowest:.2f} s")
        figure("ping_interval + ping_timeout", f"{allowed:g} s")
        assert slowest < allowed + PATIENCE / 2


def test_when_the_link_goes_down_all_are_gone_as_soon() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.load.link"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
    )
    if ended.returncode == NOT_PERMITTED:
        # Those who vanish behind a socket filter, above, need no rights.
        pytest.skip(f"no network namespace may be made here: {ended.stdout}")
    assert ended.returncode == 0, ended.stderr
    seconds = float(ended.stdout)
    figure("gone after the link went down", f"{PEERS} of {PEERS} within {seconds:.2f} s")
    assert seconds < PING_INTERVAL + PING_TIMEOUT + PATIENCE / 2
