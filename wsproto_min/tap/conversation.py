"""Explanation of a live WebSocket connection: both directions, as their bytes arrive.

Two dissectors share the state of the handshake, so each one knows the negotiated compression.
Memory holds at most one unfinished message for each direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from wsproto_min import rules
from wsproto_min.connection import Role
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext, HandshakeLines
from wsproto_min.explain.verdict import Verdict, valid
from wsproto_min.tap.events import Seen, Stopped

MAX_EXPLAINED_SIZE = 64 << 20
"""Bytes of the largest message that is explained. The receiver's own limit is unknown."""

_NO_LIMIT = 1 << 40
_SEVERITY = ("broken", "refused", "incomplete", "valid")
_LONGEST_HEADER = 14  # bytes, section 5.2
# The dissector copies an incomplete frame on each read. Above this size, read only as often as
# the frame's bytes double, so that a frame of n bytes costs O(n).
_SMALL = 1 << 16
# A client may send frames before the response, which decides how they are read. So up to this
# many bytes wait for the response.
_MAX_EARLY = 1 << 20


class Conversation:
    """The bytes of both ends of one WebSocket connection.

    Args:
        number: Number of the connection.

    """

    def __init__(self, number: int) -> None:
        context = HandshakeContext()
        self._number = number
        self._feeds = {sender: _Feed(sender, context) for sender in Role}
        self._early: bytearray | None = bytearray()  # None once the response is known
        self._has_request = False
        self._frames = 0

    @property
    def verdict(self) -> Verdict:
        """The verdict on the connection: the worse one of both ends, after `end`."""
        verdicts = [replace(feed.verdict, stream=end.value) for end, feed in self._feeds.items()]
        worst = min(verdicts, key=lambda verdict: _SEVERITY.index(verdict.result))
        if worst.result != "valid":
            return worst
        client, server = (self._feeds[sender].counts for sender in Role)
        return valid(client + server)

    def receive_data(self, sender: Role, data: bytes) -> list[Seen | Stopped]:
        """Return the heads and frames that these bytes complete."""
        if sender is Role.CLIENT and self._has_request and self._early is not None:
            self._early += data
            return self._end_early() if len(self._early) > _MAX_EARLY else []
        events = list(self._named(sender, self._feeds[sender].receive_data(data)))
        if sender is Role.CLIENT:
            self._has_request = self._has_request or bool(events)
        elif any(_ends_handshake(event) for event in events):
            events += self._end_early()
        return events

    def end(self) -> list[Seen | Stopped]:
        """Return incomplete heads and frames, at the end of the connection."""
        events = self._end_early()
        for sender, feed in self._feeds.items():
            events += self._named(sender, feed.end())
        return events

    def _end_early(self) -> list[Seen | Stopped]:
        """Explain the frames that came before the response."""
        early, self._early = self._early, None
        if not early:
            return []
        return list(self._named(Role.CLIENT, self._feeds[Role.CLIENT].receive_data(bytes(early))))

    def _named(
        self, sender: Role, found: Iterator[HandshakeLines | FrameReport | Verdict]
    ) -> Iterator[Seen | Stopped]:
        """Yield the events of a direction with their connection; count the frames of both."""
        for event in found:
            if isinstance(event, Verdict):
                yield Stopped(self._number, sender, event)
                continue
            if isinstance(event, FrameReport):
                self._frames += 1
                event = replace(event, number=self._frames)
            yield Seen(self._number, sender, event)


def _ends_handshake(event: Seen | Stopped) -> bool:
    """Return True for the server's final response, and for bytes that are none."""
    if isinstance(event, Stopped):
        return True
    return isinstance(event.event, HandshakeLines) and event.event.kind == "response"


class _Feed:
    """The bytes of one end, on their way into a dissector."""

    def __init__(self, sender: Role, context: HandshakeContext) -> None:
        self._dissector = Dissector(
            sender,
            context=context,
            max_message_size=MAX_EXPLAINED_SIZE,
            max_fragments=_NO_LIMIT,
        )
        self.counts = self._dissector.counts
        self._waiting = bytearray()  # bytes for the next read
        self._fed = 0  # number of bytes that the dissector has received
        # Of the incomplete head or frame in the dissector: its size and its first bytes.
        self._held = 0
        self._start = b""
        self._stopped = False

    @property
    def verdict(self) -> Verdict:
        """The verdict on all bytes. A large message is not a violation."""
        verdict = self._dissector.verdict
        return _without_limit(verdict) or verdict

    def receive_data(self, data: bytes) -> Iterator[HandshakeLines | FrameReport | Verdict]:
        """Yield heads and frames, and after the last one that is explained its verdict."""
        if self._stopped:
            return
        self._waiting += data
        if self._may_complete():
            yield from self._read()

    def end(self) -> Iterator[HandshakeLines | FrameReport | Verdict]:
        """Yield the rest at the end of the stream."""
        self._dissector.receive_eof()
        if not self._stopped:
            yield from self._read()

    def _may_complete(self) -> bool:
        """Return True if a read may complete a frame, or is cheap."""
        waiting = len(self._waiting)
        if self._held < _SMALL or waiting >= self._held:
            return True
        return self._held + waiting >= FrameFields(self._start).size

    def _read(self) -> Iterator[HandshakeLines | FrameReport | Verdict]:
        data = bytes(self._waiting)
        self._waiting.clear()
        self._dissector.receive_data(data)
        end = self._fed - self._held  # of the last complete head or frame
        for event in self._dissector.events():
            size = len(event.fields.data) if isinstance(event, FrameReport) else event.size
            end = event.offset + size
            yield self._checked(event)
        self.counts = self._dissector.counts
        begin = end - self._fed
        self._start = (self._start + data if begin < 0 else data[begin:])[:_LONGEST_HEADER]
        self._fed += len(data)
        self._held = self._fed - end
        self._stopped = self._dissector.verdict.result in ("broken", "refused")
        if self._stopped:
            yield self.verdict

    def _checked(self, event: HandshakeLines | FrameReport) -> HandshakeLines | FrameReport:
        """Return the event; in the first frame of a message that is too large, without verdict."""
        if isinstance(event, FrameReport) and event.verdict is not None:
            return replace(event, verdict=_without_limit(event.verdict) or event.verdict)
        return event


def _without_limit(verdict: Verdict) -> Verdict | None:
    """Return the verdict on a message that is too large for the tap, or None for another one."""
    if verdict.rule != rules.MESSAGE_TOO_BIG.sentence:
        return None
    size = f"{MAX_EXPLAINED_SIZE >> 20} MiB"
    reason = f"a message is larger than {size}, the limit of the tap"
    return Verdict("incomplete", reason, offset=verdict.offset)
