"""The limit on the age of connections."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.net.workbench import Workbench
from wsproto_min.connection import Close
from wsproto_min.net.server import Server


@pytest.fixture
def aging(clock: list[float]) -> Iterator[Workbench]:
    bench = Workbench(clock, max_connection_age=1000.0, ping_interval=None)
    yield bench
    bench.stop()


def test_old_connection_is_closed_with_1001(aging: Workbench) -> None:
    peer, remote = aging.open()
    aging.iterate(ahead=899.0)
    assert peer.is_open, "closed before 90% of the age"
    aging.iterate(ahead=101.2)
    aging.iterate()
    remote.read()
    assert remote.events == [Close(1001, "the connection has reached its maximum age")]


def test_connections_opened_together_do_not_all_close_together(aging: Workbench) -> None:
    peers = [aging.open()[0] for _ in range(20)]
    ended = []
    for _ in range(11):
        ended.append(sum(not peer.is_open for peer in peers))
        aging.iterate(ahead=90.0 if len(ended) == 1 else 10.0)
        aging.iterate(ahead=810.0 if len(ended) == 1 else 0.0)
    aging.iterate(ahead=1.0)
    assert not any(peer.is_open for peer in peers)
    assert len(set(ended)) > 2, f"closed by steps of 1% of the age: {ended}"


def test_closed_connection_keeps_no_timer(aging: Workbench) -> None:
    for end in ("abort", "close"):
        peer, _ = aging.open()
        getattr(peer, end)()
        assert aging.context.connection_age is not None
        assert not aging.context.connection_age._limits
        assert not any(
            "connection_age" in type(target).__module__
            for slot in aging.context.timers._slots.values()
            for target in slot
        )


@pytest.mark.parametrize("age", [0.0, -1.0, math.inf, math.nan])
def test_max_connection_age_invalid_is_value_error(age: float) -> None:
    with pytest.raises(ValueError, match="max_connection_age: must be above 0; use None"):
        Server(on_message=print, max_connection_age=age)
