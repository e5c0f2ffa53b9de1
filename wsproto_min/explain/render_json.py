"""What a `Dissector` saw, as plain values for JSON; bytes are in hex."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wsproto_min.connection import Close, Event
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.handshake_lines import Head
from wsproto_min.explain.verdict import Verdict


def record(seen: Head | FrameReport) -> dict[str, Any]:
    """Return a head or frame."""
    return _head_record(seen) if isinstance(seen, Head) else _frame_record(seen)


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict, without what it does not say."""
    fields = asdict(verdict)
    if verdict.needs is None:
        del fields["at_least"]
    return {name: value for name, value in fields.items() if value is not None}


def _head_record(head: Head) -> dict[str, Any]:
    derived = head.accept_key
    return {
        "kind": head.kind,
        "offset": head.offset,
        "size": head.size,
        "lines": [{"text": text, "meaning": meaning} for text, meaning in head.lines],
        "accept_key": derived
        and {
            "key": derived.key,
            "joined": derived.joined,
            "sha1": derived.digest.hex(),
            "accept": derived.accept,
        },
        "notes": list(head.notes),
    }


def _frame_record(seen: FrameReport) -> dict[str, Any]:
    frame = seen.layout
    rsv1, rsv2, rsv3 = frame.rsv
    return {
        "kind": "frame",
        "number": seen.number,
        "sender": seen.sender and seen.sender.value,
        "offset": seen.offset,
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
        "fragment": seen.part and seen.part.fragments,
        "compressed": seen.part and seen.part.compressed,
        "event": None if seen.event is None else _event_record(seen.event),
        "ignored": seen.ignored,
    }


def _event_record(event: Event) -> dict[str, Any]:
    if isinstance(event, str):
        return {"type": "text", "text": event}
    if isinstance(event, bytes):
        return {"type": "binary", "data": event.hex()}
    if isinstance(event, Close):
        return {"type": "close", "code": event.code, "reason": event.reason}
    return {"type": type(event).__name__.lower(), "data": event.payload.hex()}
