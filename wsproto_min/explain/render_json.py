"""JSON renderer: turns the results of a `Dissector` into plain values, with bytes in hex."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wsproto_min.connection import Close, Event
from wsproto_min.explain.conversation_dissector import CaptureEvent, MessageReport
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.verdict import Verdict
from wsproto_min.messages import MessageChunk


def to_json(event: CaptureEvent) -> dict[str, Any]:
    """Return a head, a frame, or a message of a HAR file."""
    if isinstance(event, MessageReport):
        return _message_to_json(event)
    return _head_to_json(event) if isinstance(event, HandshakeLines) else _frame_to_json(event)


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict, without its empty fields."""
    fields = asdict(verdict)
    if verdict.needs is None:
        del fields["at_least"]
    return {name: value for name, value in fields.items() if value is not None}


def _head_to_json(head: HandshakeLines) -> dict[str, Any]:
    steps = head.accept_key
    return {
        "kind": head.kind,
        "offset": head.offset,
        "size": head.size,
        "lines": [{"text": text, "meaning": meaning} for text, meaning in head.lines],
        "accept_key": steps
        and {
            "key": steps.key,
            "joined": steps.joined,
            "sha1": steps.digest.hex(),
            "accept": steps.accept,
        },
        "notes": list(head.notes),
    }


def _message_to_json(report: MessageReport) -> dict[str, Any]:
    message = report.message
    return {
        "kind": "message",
        "number": report.number,
        "sender": message.sender.value,
        "opcode": message.opcode,
        "text": message.text,
        "data": message.data.hex(),
    }


def _frame_to_json(report: FrameReport) -> dict[str, Any]:
    frame = report.fields
    rsv1, rsv2, rsv3 = frame.rsv
    return {
        "kind": "frame",
        "number": report.number,
        "sender": report.sender and report.sender.value,
        "offset": report.offset,
        "data": frame.data.hex(),
        "fin": frame.fin,
        "rsv1": rsv1,
        "rsv2": rsv2,
        "rsv3": rsv3,
        "opcode": frame.opcode,
        "name": frame.opcode_name,
        "masked": frame.masked,
        "length": frame.length,
        "masking_key": frame.mask and frame.mask.hex(),
        "payload": frame.payload.hex(),
        "missing": frame.remaining,
        "fragment": report.fragment and report.fragment.fragments,
        "compressed": report.fragment and report.fragment.compressed,
        "event": None if report.event is None else _event_to_json(report.event),
        "ignored": report.ignored,
    }


def _event_to_json(event: Event) -> dict[str, Any]:
    if isinstance(event, str):
        return {"type": "text", "text": event}
    if isinstance(event, bytes):
        return {"type": "binary", "data": event.hex()}
    if isinstance(event, Close):
        return {"type": "close", "code": event.code, "reason": event.reason}
    assert not isinstance(event, MessageChunk)  # the dissector assembles whole messages
    return {"type": type(event).__name__.lower(), "data": event.payload.hex()}
