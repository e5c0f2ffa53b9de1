"""The event loop, turned by hand: readiness, deadlines, and calls from other threads."""

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
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Recorder:
    """A handler that notes which events it was called with."""

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


def turn(loop: EventLoop) -> None:
    """Take a turn that does not wait."""
    loop.call_soon_threadsafe(lambda: None)
    loop.run_once()


def test_a_handler_is_told_which_of_the_events_it_waits_for_has_come(loop: EventLoop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = Recorder()
        loop.register(ours, selectors.EVENT_READ, handler)
        turn(loop)
        assert handler.events == [], "nothing had arrived"
        theirs.send(b"x")
        loop.run_once()
        assert handler.events == [selectors.EVENT_READ]
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        loop.modify(ours, selectors.EVENT_READ, both, handler)
        loop.run_once()
        assert handler.events[1:] == [selectors.EVENT_READ | selectors.EVENT_WRITE]
        loop.unregister(ours)
        turn(loop)
        assert len(handler.events) == 2, "called for a socket that is not registered any more"


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), max_size=20))
def test_callbacks_come_in_the_order_of_their_deadlines_and_of_equal_ones_in_that_of_asking(
    delays: list[float],
) -> None:
    clock = Clock()
    called: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "time", SimpleNamespace(monotonic=clock.monotonic))
        loop = EventLoop()
        for index, delay in enumerate(delays):
            loop.call_later(delay, partial(called.append, index))
        by_deadline = sorted(range(len(delays)), key=lambda index: delays[index])
        for moment in (0.0, 0.4, 0.5, 1.9, 5.0):
            clock.now = 1000.0 + moment
            turn(loop)
            due = [index for index in by_deadline if delays[index] <= moment]
            assert called == due, f"of {delays} these had fallen due after {moment} s"
        loop.close()


def test_a_turn_waits_for_the_next_deadline_and_no_longer(loop: EventLoop) -> None:
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("due"))
    loop.call_later(3600, lambda: called.append("much later"))
    while not called:
        loop.run_once()  # without a deadline of its own it would wait for an hour
    assert called == ["due"]


def test_a_deadline_that_has_passed_does_not_make_the_turn_wait(
    loop: EventLoop, clock: Clock
) -> None:
    called: list[str] = []
    loop.call_later(1, lambda: called.append("due"))
    clock.now += 2
    loop.run_once()
    assert called == ["due"]


def test_a_callback_may_ask_for_another(loop: EventLoop, clock: Clock) -> None:
    called: list[str] = []
    loop.call_later(1, lambda: loop.call_later(1, lambda: called.append("second")))
    clock.now += 1
    turn(loop)
    assert called == [], "the second was called a second early"
    clock.now += 1
    turn(loop)
    assert called == ["second"]


def test_a_call_from_another_thread_wakes_a_loop_that_waits(loop: EventLoop) -> None:
    called = threading.Event()

    def wait_without_a_deadline() -> None:
        while not called.is_set():
            loop.run_once()

    thread = threading.Thread(target=wait_without_a_deadline, daemon=True)
    thread.start()
    loop.call_soon_threadsafe(called.set)
    assert called.wait(PATIENCE), "the loop was not woken"
    thread.join(PATIENCE)


@pytest.fixture
def usr1(loop: EventLoop) -> Iterator[list[str]]:
    """Note in a list that the loop has run what the handler of SIGUSR1 asked it to."""
    handled: list[str] = []

    def handle(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: handled.append("handled"))

    before = signal.signal(signal.SIGUSR1, handle)
    yield handled
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_handled_at_once_even_if_it_interrupts_no_system_call(
    loop: EventLoop, usr1: list[str]
) -> None:
    def signal_this_thread_while_the_loop_waits() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    loop.call_later(PATIENCE, lambda: usr1.append("too late"))
    thread = threading.Thread(target=signal_this_thread_while_the_loop_waits)
    thread.start()
    with loop.woken_by_signals():
        while not usr1:
            loop.run_once()
    thread.join(PATIENCE)
    assert usr1 == ["handled"]


def test_signals_wake_whom_they_woke_before_when_the_loop_has_ended(loop: EventLoop) -> None:
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


def test_any_number_of_wake_ups_neither_blocks_nor_gets_lost(loop: EventLoop) -> None:
    called: list[int] = []
    for number in range(20_000):  # far more bytes than the wake-up socket takes
        loop.call_soon_threadsafe(partial(called.append, number))
    loop.run_once()
    assert called == list(range(20_000)), "not all were called, or not in order"


def test_wake_ups_are_taken_back_so_that_the_loop_can_wait_again(loop: EventLoop) -> None:
    for _ in range(20_000):
        loop.call_soon_threadsafe(lambda: None)
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("due"))
    turns = 0
    while not called:
        loop.run_once()
        turns += 1
    assert turns < 100, "the loop spun while it had nothing to do but wait"


def test_what_a_call_asks_for_in_turn_waits_for_the_next_turn(loop: EventLoop) -> None:
    called: list[str] = []

    def again() -> None:
        called.append("again")
        assert len(called) <= 3, "one turn never ends"
        loop.call_soon_threadsafe(again)

    loop.call_soon_threadsafe(again)
    for turns in (1, 2, 3):
        loop.run_once()
        assert called == ["again"] * turns, "one turn ran what belonged to the next"


def test_a_closed_loop_holds_no_descriptor_and_lets_late_calls_pass() -> None:
    before = set(os.listdir("/dev/fd"))
    loop = EventLoop()
    loop.close()
    after = set(os.listdir("/dev/fd"))
    assert after <= before, f"descriptors {after - before} were left open"
    # A second signal may come when the server has just ended.
    loop.call_soon_threadsafe(lambda: None)


def test_a_fault_in_a_deadline_leaves_the_others_in_place(loop: EventLoop, clock: Clock) -> None:
    called: list[str] = []

    def fault() -> None:
        raise ValueError("a fault")

    loop.call_later(1, fault)
    loop.call_later(1, lambda: called.append("the next"))
    clock.now += 1
    with pytest.raises(ValueError, match="a fault"):
        turn(loop)
    turn(loop)
    assert called == ["the next"]


# Sleeping, or not.


class Script:
    """A selector that finds something ready after the delays that it is told."""

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


def timeouts_of_turns(loop: EventLoop, clock: Clock, delays: list[float]) -> list[float | None]:
    """Return how long the loop let the selector wait, when something was ready so often."""
    selector = Script(clock, delays)
    real, loop._selector = loop._selector, selector  # type: ignore[assignment]
    for _ in delays:
        loop.run_once()
    loop._selector = real
    return selector.timeouts


SHORT = [0.5 * _SPIN] * _SPIN_AFTER


def test_a_loop_with_little_to_do_sleeps(loop: EventLoop, clock: Clock) -> None:
    assert timeouts_of_turns(loop, clock, [2 * _SPIN] * 20) == [None] * 20


def test_one_that_always_has_something_shortly_looks_for_it_before_it_sleeps(
    loop: EventLoop, clock: Clock
) -> None:
    timeouts = timeouts_of_turns(loop, clock, [*SHORT, 0.5 * _SPIN])
    assert timeouts[:_SPIN_AFTER] == [None] * _SPIN_AFTER
    assert len(timeouts) > _SPIN_AFTER + 10
    assert set(timeouts[_SPIN_AFTER:]) == {0}


def test_it_looks_for_so_long_and_then_sleeps_until_there_is_more(
    loop: EventLoop, clock: Clock
) -> None:
    timeouts = timeouts_of_turns(loop, clock, [*SHORT, 5 * _SPIN, 2 * _SPIN, 2 * _SPIN])
    looks = timeouts[_SPIN_AFTER:-3]
    assert set(looks) == {0}
    assert len(looks) == pytest.approx(_SPIN / 1e-6, abs=2)
    assert timeouts[-3:] == [None] * 3


def test_a_deadline_is_met_all_the_same(loop: EventLoop, clock: Clock) -> None:
    selector = Script(clock, [*SHORT, 1.0])
    real, loop._selector = loop._selector, selector  # type: ignore[assignment]
    for _ in SHORT:
        loop.run_once()
    rung: list[float] = []
    due = clock.now + 0.2 * _SPIN
    loop.call_later(0.2 * _SPIN, lambda: rung.append(clock.now))
    loop.run_once()
    loop._selector = real
    assert len(rung) == 1
    assert due <= rung[0] < due + 3e-6
