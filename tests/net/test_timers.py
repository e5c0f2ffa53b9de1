"""Coarse timers: rounded deadlines, shared slots, cancelling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.net import event_loop, timers
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.timers import TICK, CoarseTimers


class Target:
    """A target that records when its timer fired, and then makes a call."""

    def __init__(self, fired: list[Target], call: Callable[[], object] = lambda: None) -> None:
        self.fired = fired
        self.call = call

    def on_timer(self) -> None:
        self.fired.append(self)
        self.call()


@pytest.fixture
def loop(clock: list[float]) -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def iterate(loop: EventLoop) -> None:
    loop.call_soon_threadsafe(lambda: None)
    loop.run_once()


@given(
    st.floats(0, 1e6),
    st.sampled_from([0.0, 0.001, 0.1, 0.3, 1.0, 10.0, 20.0]) | st.floats(0, 1000),
)
def test_timer_is_late_by_less_than_a_tick_and_never_early(now: float, seconds: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        time = type("Time", (), {"monotonic": staticmethod(lambda: now)})
        patch.setattr(timers, "time", time)
        patch.setattr(event_loop, "time", time)
        deadlines: list[float] = []
        loop = EventLoop()
        patch.setattr(loop, "call_at", lambda when, callback: deadlines.append(when))
        CoarseTimers(loop).start(Target([]), seconds)
        loop.close()
    [deadline] = deadlines
    rounding = 4 * math.ulp(now + seconds)
    assert now + seconds - rounding <= deadline
    assert deadline <= now + seconds + min(TICK, seconds / 8) + rounding


def test_timers_of_one_tick_share_one_timer_of_the_loop(
    loop: EventLoop, clock: list[float]
) -> None:
    coarse, fired = CoarseTimers(loop), list[Target]()
    targets = [Target(fired) for _ in range(100)]
    for target in targets:
        coarse.start(target, 10.0)
        clock[0] += TICK / 200
    assert len(loop._timers) <= 2
    clock[0] = 1000.0 + 10.0 + TICK
    iterate(loop)
    assert fired == targets, "not all fired, or not in the order of their start"


def test_cancelled_timer_does_not_fire(loop: EventLoop, clock: list[float]) -> None:
    coarse, fired = CoarseTimers(loop), list[Target]()
    kept, cancelled = Target(fired), Target(fired)
    coarse.start(kept, 1.0)
    coarse.start(cancelled, 1.0).pop(cancelled, None)
    clock[0] += 1.0 + TICK
    iterate(loop)
    assert fired == [kept]


def test_target_may_cancel_another_one_of_its_slot(loop: EventLoop, clock: list[float]) -> None:
    coarse, fired = CoarseTimers(loop), list[Target]()
    second = Target(fired)
    first = Target(fired, lambda: slot.pop(second))
    coarse.start(first, 1.0)
    slot = coarse.start(second, 1.0)
    clock[0] += 1.0 + TICK
    iterate(loop)
    assert fired == [first]


def test_target_may_start_its_timer_again(loop: EventLoop, clock: list[float]) -> None:
    coarse, fired = CoarseTimers(loop), list[Target]()
    target = Target(fired, lambda: coarse.start(target, 1.0))
    coarse.start(target, 1.0)
    for number in range(1, 4):
        clock[0] += 1.0 + TICK
        iterate(loop)
        assert fired == [target] * number
