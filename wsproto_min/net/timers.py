"""Coarse timers: many deadlines on few timers of the event loop.

Deadlines are rounded up to whole ticks, as in a timer wheel. All deadlines of one tick share
a slot, and a slot is one timer of the loop. To start or cancel a timer takes one dictionary
operation. A cancelled timer keeps no reference to its target.

The rounding also groups the work: the Pings of many idle peers go out in one iteration.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from wsproto_min.net.event_loop import EventLoop

# Length of a tick in seconds. A timer fires late by less than min(TICK, seconds / _MIN_TICKS).
# TICK is a power of two, so rounding to whole TICKs is exact.
TICK = 0.125
_MIN_TICKS = 8


class Target(Protocol):
    """Object with a deadline."""

    def on_timer(self) -> None:
        """Act on the deadline."""


TimerSlot = dict[Target, None]
"""The targets of one deadline, in the order in which their timers were started."""


class CoarseTimers:
    """Timers with rounded deadlines, on an event loop.

    A target stores the slot that `start` returns. To cancel the timer it removes itself
    from the slot: `slot.pop(target, None)`.
    """

    __slots__ = ("_loop", "_slots")

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._slots: dict[float, TimerSlot] = {}

    def start(self, target: Target, seconds: float) -> TimerSlot:
        """Call `target.on_timer` once, `seconds` from now or up to a tick later."""
        deadline = time.monotonic() + seconds
        tick = min(TICK, seconds / _MIN_TICKS)
        if tick:
            deadline += -deadline % tick  # rounds up
        slot = self._slots.get(deadline)
        if slot is None:
            slot = self._slots[deadline] = {}
            self._loop.call_at(deadline, partial(self._fire, deadline))
        slot[target] = None
        return slot

    def _fire(self, deadline: float) -> None:
        slot = self._slots.pop(deadline)
        for target in list(slot):
            if target in slot:  # a target may cancel the timer of another one
                target.on_timer()
