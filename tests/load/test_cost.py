"""Cheap bytes of one address that cause expensive work, beside a well-behaved chat."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from chatd.access.invitations import Invitations
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage
from tests.benchmarks.client import cpu_seconds, masked_frame, opening, resident_bytes
from tests.load.cost_attacks import ATTACKS, IN_LARGE_ROOM, Attack
from tests.load.support import MIB, latency_probe, print_figure
from tests.support import PATIENCE, Address, Daemon, daemon

SECONDS = 3.0
ATTEMPTS = 3
PAIRS = 8  # of the chat beside the attack
LARGE = 500  # members of the large room
SILENT = 60  # connections in 100 rooms each, for the recheck of invitations

MAX_CPU = 0.25  # of a core, above that of the chat alone
MAX_P99 = 0.005  # seconds, or three times the p99 of the chat alone
MAX_GROWTH = 64 * MIB


@contextmanager
def prepared_chatd(directory: Path, *options: str) -> Iterator[Daemon]:
    """Run chatd with a room of long messages and one of short ones."""
    path = str(directory / "chat.db")
    store = SQLiteStore(path)
    store.append([NewMessage("long", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    store.append([NewMessage("short", "Ben", "y" * 20, None)] * 1000, lambda _: None)
    store.close()
    with daemon("chatd", "--port", "0", "--db", path, *options) as running:
        yield running
        status, errors = running.stop(within=3 * PATIENCE)
        assert status == 0
        assert "Traceback" not in errors, errors


def join_from(
    address: Address, source: str, name: str, *rooms: str, **fields: str
) -> socket.socket:
    """Return a silent connection that has joined rooms."""
    sock = socket.create_connection(address, PATIENCE, (source, 0))
    sock.sendall(opening(address[1], subprotocol="chat.v1"))
    for room in rooms:
        request = {"type": "join", "room": room, "name": name, **fields}
        sock.sendall(masked_frame(json.dumps(request).encode()))
    received = b""
    while received.count(b'"joined","room"') < len(rooms):
        data = sock.recv(1 << 16)
        assert data, received
        received += data
    return sock


class Figures:
    """Share of a core, latency of the chat, and memory during one phase."""

    def __init__(self, running: Daemon, attack: Attack | None) -> None:
        process = running.process.pid
        with latency_probe(running.address, PAIRS) as latencies:
            cpu, start = cpu_seconds(process), time.monotonic()
            if attack is None:
                time.sleep(SECONDS)
            else:
                attack.run(SECONDS)
            self.cpu = (cpu_seconds(process) - cpu) / (time.monotonic() - start)
            self.memory = resident_bytes(process)
        self.p99 = latencies.p99

    def __str__(self) -> str:
        memory = f"{self.memory / MIB:.1f} MiB"
        return f"{self.cpu:.0%} of a core, p99 {self.p99 * 1e3:.2f} ms, {memory}"


def excesses(quiet: Figures, loud: Figures) -> list[str]:
    """Return the limits that an attack has exceeded."""
    checks = {
        "CPU": loud.cpu - quiet.cpu <= MAX_CPU,
        "p99": loud.p99 <= max(MAX_P99, 3 * quiet.p99),
        "memory": loud.memory - quiet.memory <= MAX_GROWTH,
    }
    return [name for name, holds in checks.items() if not holds]


@pytest.mark.parametrize("name", ATTACKS)
def test_cost_of_attack_leaves_the_chat_undisturbed(tmp_path: Path, name: str) -> None:
    script, connections = ATTACKS[name]
    with prepared_chatd(tmp_path) as running, ExitStack() as stack:
        if name in IN_LARGE_ROOM:
            for number in range(LARGE):
                source = f"127.0.1.{number // 20 + 1}"
                member = join_from(running.address, source, f"m{number}", "large")
                stack.enter_context(member)
                member.setblocking(False)
        # Other programs on the machine disturb the chat too, at random.
        for _ in range(ATTEMPTS):
            quiet = Figures(running, None)
            with closing(Attack(running.address, script, connections)) as attack:
                loud = Figures(running, attack)
            rate = f"{attack.sent / SECONDS / 1e3:.0f} kB/s"
            print_figure(f"{name}, {rate}", f"{loud}; quiet: {quiet}")
            exceeded = excesses(quiet, loud)
            if not exceeded:
                break
        assert exceeded == []


def test_cost_of_silent_invited_peers_is_that_of_idle_ones(tmp_path: Path) -> None:
    tokens = [
        Invitations(tmp_path).issue(f"n{number}", [], 7, time.time()) for number in range(SILENT)
    ]
    options = ("--invite-only", "--rate-limit", "0")
    with prepared_chatd(tmp_path, *options) as running, ExitStack() as stack:
        for token in tokens:
            rooms = [f"room-{room}" for room in range(100)]
            member = join_from(running.address, "127.0.0.2", "x", *rooms, token=token)
            stack.enter_context(member)
        process = running.process.pid
        cpu = cpu_seconds(process)
        time.sleep(SECONDS)
        share = (cpu_seconds(process) - cpu) / SECONDS
        print_figure(f"{SILENT} silent peers in 100 rooms each", f"{share:.1%} of a core")
        assert share < 0.05
