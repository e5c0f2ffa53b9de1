"""Output of `explain`: text or JSON, for plain bytes and for capture files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from wsproto_min import rules
from wsproto_min.explain.captures.conversation import Skipped
from wsproto_min.explain.conversation_dissector import CaptureEvent
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.render_json import to_json, verdict_to_json
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import COLUMNS, Style, coloured, plain, printable, shortened
from wsproto_min.explain.verdict import Verdict, count


class Explanation(Protocol):
    """A connection that is explained."""

    @property
    def name(self) -> str:
        """The addresses of both ends, or a URL."""

    @property
    def verdict(self) -> Verdict:
        """The verdict, after all events."""

    def events(self) -> Iterator[CaptureEvent]:
        """Yield heads, frames and messages."""


def print_dissector(dissector: Dissector, *, as_json: bool) -> None:
    """Print the events and the verdict of plain bytes."""
    if as_json:
        seen = [to_json(event) for event in dissector.events()]
        _print_json({"seen": seen, "verdict": verdict_to_json(dissector.verdict)})
        return
    style = output_style()
    hint = None
    for event in dissector.events():
        print("\n".join(render(event, style)))
        hint = _hint(event)
    print("\n".join(render_verdict(dissector.verdict, style)))
    if hint is not None:
        print(hint)


def print_connections(
    connections: Iterable[Explanation], skipped: list[Skipped], *, as_json: bool
) -> None:
    """Print the connections of a capture file, and the reasons to skip the others."""
    if as_json:
        found = []
        for connection in connections:
            seen = [to_json(event) for event in connection.events()]
            verdict = verdict_to_json(connection.verdict)
            found.append({"name": connection.name, "seen": seen, "verdict": verdict})
        left_out = [{"name": each.name, "reason": each.reason} for each in skipped]
        _print_json({"connections": found, "skipped": left_out})
        return
    style = output_style()
    for number, connection in enumerate(connections, 1):
        title = shortened(f"Connection {number}: {printable(connection.name)}", COLUMNS)
        print(style("title", title), end="\n\n")
        for event in connection.events():
            print("\n".join(render(event, style)))
        print("\n".join(render_verdict(connection.verdict, style)), end="\n\n")
    names: dict[str, list[str]] = {}
    for each in skipped:
        names.setdefault(each.reason, []).append(each.name)
    for reason, (first, *more) in names.items():
        others = f" and {count(len(more), 'other')}" if more else ""
        print(f"Not explained: {first}{others}: {reason}.")


def output_style() -> Style:
    """Return the style of standard output: colours on a terminal, unless NO_COLOR forbids them."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return coloured if is_terminal and not os.environ.get("NO_COLOR") else plain


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _hint(event: CaptureEvent) -> str | None:
    """Return a hint if the broken frame may be the begin of a compressed message."""
    if not isinstance(event, FrameReport) or event.verdict is None:
        return None
    frame = event.fields
    only_rsv1 = frame.rsv == (True, False, False) and not frame.is_control
    if only_rsv1 and event.verdict.rule == rules.RESERVED_BIT.sentence:
        return "  If permessage-deflate was negotiated, add --deflate."
    return None
