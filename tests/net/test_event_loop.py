"""The event loop: readiness, timers, calls from other threads, signals, busy-polling."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import PATIENCE
from wsproto_min.net import event_loop as loop_module
from wsproto_min.net.event_loop import _SPIN, _SPIN_AFTER, EventLoop


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Recorder:
    """A handler that records the events of its calls."""

    def __init__(self) -> None:
        self.events: list[int] = []

    def on_ready(self, events: int) -> None:
        self.events.append(events)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def iterate(loop: EventLoop) -> None:
    """Run one iteration that does not wait."""
    loop.call_soon_threadsafe(lambda: None)
    loop.run_once()


def test_handler_receives_the_events_it_waits_for(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = Recorder()
        loop.register(ours, selectors.EVENT_READ, handler)
        iterate(loop)
        assert handler.events == [], "nothing had arrived"
        theirs.send(b"x")
        loop.run_once()
        assert handler.events == [selectors.EVENT_READ]
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        loop.modify(ours, selectors.EVENT_READ, both, handler)
        loop.run_once()
        assert handler.events[1:] == [selectors.EVENT_READ | selectors.EVENT_WRITE]
        loop.unregister(ours)
        iterate(loop)
        assert len(handler.events) == 2, "called after unregister()"


# Timers.


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), max_size=20))
def test_timers_fire_by_time_and_equal_ones_by_call_order(delays: list[float]) -> None:
    clock = Clock()
    called: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "time", SimpleNamespace(monotonic=clock.monotonic))
        loop = EventLoop()
        for index, delay in enumerate(delays):
            loop.call_later(delay, partial(called.append, index))
        by_deadline = sorted(range(len(delays)), key=lambda index: delays[index])
        for seconds in (0.0, 0.4, 0.5, 1.9, 5.0):
            clock.now = 1000.0 + seconds
            iterate(loop)
            due = [index for index in by_deadline if delays[index] <= seconds]
            assert called == due, f"of {delays} these were due after {seconds} s"
        loop.close()


def test_iteration_waits_until_the_next_timer(loop: EventLoop) -> None:
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("due"))
    loop.call_later(3600, lambda: called.append("much later"))
    while not called:
        loop.run_once()
    assert called == ["due"]


def test_overdue_timer_does_not_wait(loop: EventLoop, clock: Clock) -> None:
    called: list[str] = []
    loop.call_later(1, lambda: called.append("due"))
    clock.now += 2
    loop.run_once()
    assert called == ["due"]


def test_callback_may_start_another_timer(loop: EventLoop, clock: Clock) -> None:
    called: list[str] = []
    loop.call_later(1, lambda: loop.call_later(1, lambda: called.append("second")))
    clock.now += 1
    iterate(loop)
    assert called == [], "the second timer fired a second early"
    clock.now += 1
    iterate(loop)
    assert called == ["second"]


def test_exception_in_a_timer_keeps_the_other_timers(loop: EventLoop, clock: Clock) -> None:
    called: list[str] = []

    def fail() -> None:
        raise ValueError("on purpose")

    loop.call_later(1, fail)
    loop.call_later(1, lambda: called.append("the next"))
    clock.now += 1
    with pytest.raises(ValueError, match="on purpose"):
        iterate(loop)
    iterate(loop)
    assert called == ["the next"]


# Calls from other threads, and signals.


def test_call_soon_threadsafe_wakes_a_waiting_loop(loop: EventLoop) -> None:
    called = threading.Event()

    def wait_without_a_timer() -> None:
        while not called.is_set():
            loop.run_once()

    thread = threading.Thread(target=wait_without_a_timer, daemon=True)
    thread.start()
    loop.call_soon_threadsafe(called.set)
    assert called.wait(PATIENCE), "the loop did not wake"
    thread.join(PATIENCE)


@pytest.fixture
def usr1(loop: EventLoop) -> Iterator[list[str]]:
    """A list to which the loop adds "handled" for each SIGUSR1."""
    handled: list[str] = []

    def handle(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: handled.append("handled"))

    before = signal.signal(signal.SIGUSR1, handle)
    yield handled
    signal.signal(signal.SIGUSR1, before)


def test_signal_to_another_thread_is_handled_at_once(loop: EventLoop, usr1: list[str]) -> None:
    def signal_this_thread_during_the_wait() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    loop.call_later(PATIENCE, lambda: usr1.append("too late"))
    thread = threading.Thread(target=signal_this_thread_during_the_wait)
    thread.start()
    with loop.woken_by_signals():
        while not usr1:
            loop.run_once()
    thread.join(PATIENCE)
    assert usr1 == ["handled"]


def test_woken_by_signals_restores_the_wakeup_descriptor(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            with loop.woken_by_signals():
                assert signal.set_wakeup_fd(theirs.fileno()) != theirs.fileno()
            assert signal.set_wakeup_fd(theirs.fileno()) == theirs.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_many_calls_neither_block_nor_get_lost(loop: EventLoop) -> None:
    called: list[int] = []
    for number in range(20_000):  # more bytes than the wake-up socket holds
        loop.call_soon_threadsafe(partial(called.append, number))
    loop.run_once()
    assert called == list(range(20_000)), "calls are missing or out of order"


def test_loop_waits_again_after_many_wake_ups(loop: EventLoop) -> None:
    for _ in range(20_000):
        loop.call_soon_threadsafe(lambda: None)
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("due"))
    iterations = 0
    while not called:
        loop.run_once()
        iterations += 1
    assert iterations < 100, "the loop spun instead of waiting"


def test_call_made_by_a_call_waits_for_the_next_iteration(loop: EventLoop) -> None:
    called: list[str] = []

    def again() -> None:
        called.append("again")
        assert len(called) <= 3, "one iteration never ends"
        loop.call_soon_threadsafe(again)

    loop.call_soon_threadsafe(again)
    for iterations in (1, 2, 3):
        loop.run_once()
        assert called == ["again"] * iterations, "one iteration made the calls of the next"


def test_closed_loop_holds_no_descriptor_and_ignores_calls() -> None:
    before = set(os.listdir("/dev/fd"))
    loop = EventLoop()
    loop.close()
    after = set(os.listdir("/dev/fd"))
    assert after <= before, f"descriptors {after - before} are open"
    loop.call_soon_threadsafe(lambda: None)  # as the handler of a late signal does


# Busy-polling.


class ScriptedSelector:
    """A selector that finds a socket ready after given delays, one for each iteration."""

    def __init__(self, clock: Clock, delays: list[float]) -> None:
        self.clock = clock
        self.ready_at = [clock.now + sum(delays[: index + 1]) for index in range(len(delays))]
        self.timeouts: list[float | None] = []

    def select(self, timeout: float | None) -> list[tuple[object, int]]:
        self.timeouts.append(timeout)
        until = self.ready_at[0] if timeout is None else self.clock.now + timeout
        self.clock.now = max(self.clock.now + 1e-6, min(until, self.ready_at[0]))
        if self.clock.now < self.ready_at[0]:
            return []
        del self.ready_at[0]
        return [(SimpleNamespace(data=Recorder()), selectors.EVENT_READ)]


def select_timeouts(loop: EventLoop, clock: Clock, delays: list[float]) -> list[float | None]:
    """Return the timeouts of all select() calls while sockets become ready after `delays`."""
    selector = ScriptedSelector(clock, delays)
    real, loop._selector = loop._selector, selector  # type: ignore[assignment]
    for _ in delays:
        loop.run_once()
    loop._selector = real
    return selector.timeouts


SHORT = [0.5 * _SPIN] * _SPIN_AFTER


def test_loop_with_long_waits_blocks(loop: EventLoop, clock: Clock) -> None:
    assert select_timeouts(loop, clock, [2 * _SPIN] * 20) == [None] * 20


def test_loop_busy_polls_after_several_short_waits(loop: EventLoop, clock: Clock) -> None:
    timeouts = select_timeouts(loop, clock, [*SHORT, 0.5 * _SPIN])
    assert timeouts[:_SPIN_AFTER] == [None] * _SPIN_AFTER
    assert len(timeouts) > _SPIN_AFTER + 10
    assert set(timeouts[_SPIN_AFTER:]) == {0}


def test_loop_blocks_again_after_fruitless_polling(loop: EventLoop, clock: Clock) -> None:
    timeouts = select_timeouts(loop, clock, [*SHORT, 5 * _SPIN, 2 * _SPIN, 2 * _SPIN])
    polls = timeouts[_SPIN_AFTER:-3]
    assert set(polls) == {0}
    assert len(polls) == pytest.approx(_SPIN / 1e-6, abs=2)
    assert timeouts[-3:] == [None] * 3


def test_busy_polling_loop_fires_timers_in_time(loop: EventLoop, clock: Clock) -> None:
    selector = ScriptedSelector(clock, [*SHORT, 1.0])
    real, loop._selector = loop._selector, selector  # type: ignore[assignment]
    for _ in SHORT:
        loop.run_once()
    fired: list[float] = []
    deadline = clock.now + 0.2 * _SPIN
    loop.call_later(0.2 * _SPIN, lambda: fired.append(clock.now))
    loop.run_once()
    loop._selector = real
    assert len(fired) == 1
    assert deadline <= fired[0] < deadline + 3e-6
