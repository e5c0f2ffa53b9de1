"""Printer: shows the events of the tap on standard output, as `explain` shows a capture.

Escapes everything from the network, so that it cannot control the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from wsproto_min.connection import Role
from wsproto_min.explain.render_text import render, render_brief, render_verdict
from wsproto_min.explain.style import COLUMNS, Style, printable, shortened
from wsproto_min.tap.events import Ended, Exchanged, Opened, Refused, Seen, Stopped, TapEvent

_BAD_GATEWAY = 502
_DIRECTIONS = {Role.CLIENT: "client to server", Role.SERVER: "server to client"}


class Printer:
    """An observer that prints each event at once.

    Args:
        style: Colours, or `plain`.
        brief: Print a few lines for each frame instead of its figure.

    """

    def __init__(self, style: Style, *, brief: bool) -> None:
        self._style = style
        self._brief = brief

    def __call__(self, event: TapEvent) -> None:
        """Print an event."""
        if isinstance(event, Refused) and event.status == _BAD_GATEWAY:
            print(f"wsproto_min: {printable(event.reason)}", file=sys.stderr, flush=True)
            return
        print("\n".join(self._lines(event)), flush=True)

    def _lines(self, event: TapEvent) -> Iterator[str]:
        name = f"connection {event.connection}"
        if isinstance(event, Opened):
            target = printable(event.target)
            yield self._title(f"{name}: {event.client} opens {target}")
        elif isinstance(event, Exchanged):
            status = "no response" if event.status is None else f"{event.status}"
            request = f"{event.method} {printable(event.target)}"
            yield f"{shortened(f'{name}: {request}', COLUMNS - len(status) - 2)}: {status}"
        elif isinstance(event, Refused):
            yield f"{name}: refused with {event.status}: {printable(event.reason)}"
        elif isinstance(event, Seen):
            yield from self._seen(event, name)
        elif isinstance(event, Stopped):
            yield from self._stopped(event, name)
        else:
            yield from self._ended(event, name)

    def _seen(self, event: Seen, name: str) -> Iterator[str]:
        if self._brief:
            arrow = ">" if event.sender is Role.CLIENT else "<"
            lines: Iterable[str] = render_brief(event.event)
            yield from (f"{event.connection} {arrow} {line}" for line in lines)
            return
        yield self._title(f"{name}, {_DIRECTIONS[event.sender]}")
        yield from render(event.event, self._style)

    def _stopped(self, event: Stopped, name: str) -> Iterator[str]:
        verdict = render_verdict(event.verdict, self._style)
        rest = (
            f"The tap passes further bytes of the {event.sender.value} on without an explanation."
        )
        if self._brief:
            if event.verdict.result == "refused":  # the brief form of a frame has its verdict
                yield from (f"{event.connection} ! {line}" for line in verdict)
            yield f"{event.connection} ! {rest}"
        else:
            yield self._title(f"{name}, {_DIRECTIONS[event.sender]}")
            yield from (*verdict, f"  {rest}", "")

    def _ended(self, event: Ended, name: str) -> Iterator[str]:
        yield self._title(f"{name} ended")
        yield from render_verdict(event.verdict, self._style)
        yield ""

    def _title(self, text: str) -> str:
        return self._style("title", shortened(text, COLUMNS))
