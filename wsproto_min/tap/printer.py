"""Printer: shows the events of the tap on standard output, as `explain` shows a capture.

Escapes everything from the network, so that it cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsproto_min.connection import Role
from wsproto_min.explain.render_text import render, render_brief, render_verdict
from wsproto_min.explain.style import COLUMNS, Style, printable, shortened
from wsproto_min.tap.events import (
    Body,
    Ended,
    Exchanged,
    Opened,
    Refused,
    Seen,
    Stopped,
    TapEvent,
    Unexplained,
)
from wsproto_min.tap.output import Writer

_BAD_GATEWAY = 502
_DIRECTIONS = {Role.CLIENT: "client to server", Role.SERVER: "server to client"}


class Printer:
    """An observer that prints each event at once.

    Args:
        output: Receives the lines.
        style: Colours, or `plain`.
        brief: Print a few lines for each frame instead of its figure.

    """

    def __init__(self, output: Writer, style: Style, *, brief: bool) -> None:
        self._output = output
        self._style = style
        self._brief = brief

    def __call__(self, event: TapEvent) -> None:
        """Print an event."""
        if isinstance(event, Refused) and event.status == _BAD_GATEWAY:
            name = f"connection {event.connection}"
            self._output.write_error(f"wsproto_min: {name}: {printable(event.reason)}")
        self._output.write("\n".join(self._lines(event)))

    def _lines(self, event: TapEvent) -> Iterator[str]:
        name = f"connection {event.connection}"
        if isinstance(event, Opened):
            target = printable(event.target)
            yield self._title(f"{name}: {event.client} opens {target}")
        elif isinstance(event, Exchanged):
            yield from self._exchanged(event, name)
        elif isinstance(event, Unexplained):
            yield f"{name}: further bytes of the client are not explained"
        elif isinstance(event, Body):
            yield from self._body(event)
        elif isinstance(event, Refused):
            request = f"{printable(event.request)}: " if event.request else ""
            yield f"{name}: {request}the tap answered {event.status}: {printable(event.reason)}"
        elif isinstance(event, Seen):
            yield from self._seen(event, name)
        elif isinstance(event, Stopped):
            yield from self._stopped(event, name)
        else:
            yield from self._ended(event, name)

    def _exchanged(self, event: Exchanged, name: str) -> Iterator[str]:
        status = "no response" if event.status is None else f"{event.status}"
        if event.problem is not None:
            status = f"response not understood: {event.problem}"
        request = f"{name}: {event.method} {printable(event.target)}"
        yield f"{shortened(request, max(COLUMNS - len(status) - 2, len(name) + 9))}: {status}"

    def _body(self, event: Body) -> Iterator[str]:
        start = f"{event.connection} <     " if self._brief else "    "
        if not self._brief:
            yield "  The body of the response:"
        yield from (f"{start}{printable(line)}" for line in event.text.splitlines())
        if event.truncated:
            yield f"{start}..."
        if not self._brief:
            yield ""

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
        if event.ending is not None:
            yield f"  {event.ending}"
        yield ""

    def _title(self, text: str) -> str:
        return self._style("title", shortened(text, COLUMNS))
