"""Fixtures of the tests that use a `Workbench`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.net.workbench import Workbench
from wsproto_min.net import event_loop, session, timers
from wsproto_min.net.event_loop import EventLoop, Handler


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the fake monotonic clock, as the only item."""
    now = [1000.0]
    time = SimpleNamespace(monotonic=lambda: now[0])
    for module in (event_loop, session, timers):
        monkeypatch.setattr(module, "time", time)
    return now


@pytest.fixture
def bench(clock: list[float]) -> Iterator[Workbench]:
    bench = Workbench(clock)
    yield bench
    bench.stop()


@pytest.fixture
def pinging(clock: list[float]) -> Iterator[Workbench]:
    """A workbench that pings every 20 s and waits 8 s for a sign of life."""
    bench = Workbench(clock, ping_interval=20.0, ping_timeout=8.0)
    yield bench
    bench.stop()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The events that sockets are watched for, change by change."""
    changes: list[int] = []
    modify = EventLoop.modify

    def record(
        self: EventLoop, sock: socket.socket, before: int, events: int, handler: Handler
    ) -> None:
        changes.append(events)
        modify(self, sock, before, events, handler)

    monkeypatch.setattr(EventLoop, "modify", record)
    return changes
