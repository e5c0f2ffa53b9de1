"""JSON form of the tap's events, for the page.

A frame has the fields of its figure with their rules. Payloads and messages are truncated to
SHOWN_BYTES, so that an event has a bounded size.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from wsproto_min.codes import Opcode
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.figure import FigureField, figure_fields
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.render_json import to_json, verdict_to_json
from wsproto_min.explain.verdict import Verdict, close_code_name
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

SHOWN_BYTES = 2048
"""Bytes of a payload that an event has, and characters or bytes of a message."""

_TYPES: dict[type, str] = {
    Opened: "opened",
    Exchanged: "http",
    Unexplained: "unexplained",
    Body: "body",
    Refused: "refused",
}


def event_to_json(event: TapEvent) -> dict[str, Any]:
    """Return an event with its `type`: that of the class, or "head", "frame" or "stopped"."""
    if isinstance(event, Seen):
        seen = event.event
        body = _frame(seen) if isinstance(seen, FrameReport) else _head(seen)
        return {"connection": event.connection, "sender": event.sender.value, **body}
    if isinstance(event, Ended):
        return {
            "type": "ended",
            "connection": event.connection,
            "verdict": _verdict(event.verdict),
            "ending": event.ending,
        }
    if isinstance(event, Stopped):
        return {
            "type": "stopped",
            "connection": event.connection,
            "sender": event.sender.value,
            "verdict": _verdict(event.verdict),
        }
    return {"type": _TYPES[type(event)], **asdict(event)}


def _head(head: HandshakeLines) -> dict[str, Any]:
    return {"type": "head", **to_json(head), "verdict": _verdict(head.verdict)}


def _frame(report: FrameReport) -> dict[str, Any]:
    frame, event = report.fields, report.event
    message_size = None
    if isinstance(event, str | bytes):
        message_size = len(event.encode() if isinstance(event, str) else event)
        event = event[:SHOWN_BYTES]
    shown = FrameFields(frame.data[: frame.header_size + SHOWN_BYTES])
    fragment = report.fragment
    return {
        "type": "frame",
        **to_json(replace(report, fields=shown, event=event)),
        "missing": frame.remaining,
        "size": len(frame.data),
        "header_size": frame.header_size,
        "fields": [_field(field) for field in figure_fields(frame)],
        "last": fragment is not None and fragment.last,
        "message_name": fragment and Opcode(fragment.opcode).name,
        "message_size": message_size,
        "wire_size": fragment and fragment.size,
        "verdict": _verdict(report.verdict),
    }


def _field(field: FigureField) -> dict[str, Any]:
    rules = [{"section": rule.section, "sentence": rule.sentence} for rule in field.rules]
    return {**asdict(field), "rules": rules}


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    """Return a verdict, with the name of its close code as `close_name`."""
    if verdict is None:
        return None
    code = verdict.close_code
    name = {} if code is None else {"close_name": close_code_name(code)}
    return {**verdict_to_json(verdict), **name}
