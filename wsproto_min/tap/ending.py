"""The end of a WebSocket connection: the end that closed it, with or without a Close frame.

RFC 6455, section 7.1.5: without a received Close frame, an application gets the close code 1006.
"""

from __future__ import annotations

from wsproto_min.connection import Close, Role
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.tap.events import Seen, Stopped


class Ending:
    """Observes one connection, and describes its end."""

    def __init__(self) -> None:
        self._is_open = False  # True after the response that accepts the handshake
        self._has_response = False
        self._closes: set[Role] = set()  # the ends that sent a Close frame
        self._unknown: set[Role] = set()  # the ends whose later frames are not explained
        self._first_eof: Role | None = None
        self._reset_by: Role | None = None

    def on_event(self, event: Seen | Stopped) -> None:
        """Record a head, a frame, or the end of the explanation."""
        if isinstance(event, Stopped):
            self._unknown.add(event.sender)
            self._has_response = self._has_response or event.sender is Role.SERVER
        elif isinstance(event.event, HandshakeLines):
            if event.event.kind == "response":
                self._has_response = True
                self._is_open = event.event.verdict is None
        elif _is_close(event.event):
            self._closes.add(event.sender)

    def on_eof(self, sender: Role) -> None:
        """Record the end of a stream."""
        self._first_eof = self._first_eof or sender

    def on_reset(self, sender: Role) -> None:
        """Record a reset."""
        self._reset_by = self._reset_by or sender

    @property
    def sentence(self) -> str | None:
        """A sentence about the end; None after a complete closing handshake, or if unknown."""
        if len(self._closes) == len(Role):
            return None
        if self._reset_by is not None:
            return f"The {self._reset_by.value} reset the connection."
        if not self._is_open and self._has_response:
            return None  # the verdict explains the refused handshake
        if self._first_eof is None:
            return "The tap closed the connection."
        if not self._has_response:
            return f"The {self._first_eof.value} ended its stream before a response."
        return self._sentence_about_close(self._first_eof)

    def _sentence_about_close(self, first_eof: Role) -> str | None:
        for sender in self._closes:
            (other,) = set(Role) - {sender}
            is_known = other not in self._unknown
            return f"The Close of the {sender.value} was not answered." if is_known else None
        if first_eof in self._unknown:
            return None
        return (
            f"The {first_eof.value} ended its stream without a Close frame: a browser reports 1006."
        )


def _is_close(report: FrameReport) -> bool:
    return isinstance(report.event, Close) and not report.ignored
