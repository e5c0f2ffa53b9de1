"""A tap in a thread of the test, with the events that it has reported."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import TypeVar

from tests.support import PATIENCE, Address, poll
from wsproto_min.connection import Role
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.verdict import Verdict
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.url import parse_url
from wsproto_min.tap.events import Ended, Observer, Seen, TapEvent
from wsproto_min.tap.proxy import Proxy
from wsproto_min.tap.recording import Recording
from wsproto_min.tap.upstream import Upstream

T = TypeVar("T")


class Prints:
    """A writer that prints at once, in the thread of the caller."""

    def write(self, text: str) -> None:
        print(text)

    def write_error(self, text: str) -> None:
        print(text, file=sys.stderr)


class RunningTap:
    """A proxy with its loop in a thread; `events` are all events so far."""

    def __init__(self, proxy: Proxy, address: Address, events: list[TapEvent]) -> None:
        self.proxy = proxy
        self.address = address
        self.events = events
        self.error: BaseException | None = None
        self._stopped = False
        self.thread = threading.Thread(target=self._run, name="tap", daemon=True)

    @property
    def url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}/"

    def _run(self) -> None:
        try:
            while not self._stopped:
                self.proxy.loop.run_once()
        except BaseException as error:
            self.error = error
        self.proxy.close()
        self.proxy.loop.close()

    def ask(self, question: Callable[[], T]) -> T:
        """Call `question` in the tap's thread; return its result."""
        results: Queue[T] = Queue()
        self.proxy.loop.call_soon_threadsafe(lambda: results.put(question()))
        try:
            return results.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"the tap's loop is dead or stuck: {self.error!r}") from None

    def stop(self) -> None:
        def stop() -> None:
            self._stopped = True

        self.proxy.loop.call_soon_threadsafe(stop)
        self.thread.join(PATIENCE)

    def frames(self, sender: Role | None = None, connection: int = 1) -> list[FrameReport]:
        """Return the frames that one end, or both, have sent so far."""
        return [
            event.event
            for event in list(self.events)
            if isinstance(event, Seen)
            and isinstance(event.event, FrameReport)
            and event.connection == connection
            and sender in (None, event.sender)
        ]

    def heads(self) -> list[HandshakeLines]:
        seen = [event.event for event in list(self.events) if isinstance(event, Seen)]
        return [event for event in seen if isinstance(event, HandshakeLines)]

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def wait_for(self, kind: type[T], number: int = 1) -> list[T]:
        """Wait for a number of events of a kind; return them."""
        poll(lambda: len(self.of(kind)) >= number, f"{number} events {kind.__name__}")
        return self.of(kind)

    def wait_for_verdict(self) -> Verdict:
        """Wait until the first connection has ended; return its verdict."""
        return self.wait_for(Ended)[0].verdict


@contextmanager
def tapping(
    upstream: str,
    *,
    context: ssl.SSLContext | None = None,
    recording: Recording | None = None,
    observe: Observer | None = None,
) -> Iterator[RunningTap]:
    """Run a tap in front of the server at a URL."""
    events: list[TapEvent] = []

    def on_event(event: TapEvent) -> None:
        events.append(event)
        if observe is not None:
            observe(event)

    server = Upstream(upstream, parse_url(upstream), context or ssl.create_default_context())
    proxy = Proxy(EventLoop(), server, on_event)
    proxy.recording = recording
    running = RunningTap(proxy, ("127.0.0.1", proxy.listen(0)), events)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop()
    assert not running.thread.is_alive(), f"the tap did not stop within {PATIENCE:g} s"
    if running.error is not None:
        raise running.error


def url_of(address: Address, scheme: str = "ws") -> str:
    return f"{scheme}://{address[0]}:{address[1]}/"
