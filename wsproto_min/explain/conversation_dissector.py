"""Explanation of a connection of a capture file: both ends, in the order of arrival."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wsproto_min.connection import Role
from wsproto_min.explain.captures.conversation import Conversation, HarConversation, HarMessage
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext, HandshakeLines
from wsproto_min.explain.verdict import Verdict, count, incomplete, valid

_SEVERITY = ("broken", "refused", "incomplete", "valid")


@dataclass(frozen=True, slots=True)
class MessageReport:
    """A message of a HAR file, with its number in the connection, from 1."""

    number: int
    message: HarMessage


CaptureEvent = HandshakeLines | FrameReport | MessageReport


class ConversationDissector:
    """Explains one connection of a pcap or pcapng file.

    Attributes:
        name: The addresses of both ends.

    Args:
        conversation: The bytes of both ends.
        max_message_size: The receivers' limit in bytes.
        max_fragments: The receivers' limit on the fragments of a message.

    """

    def __init__(
        self, conversation: Conversation, *, max_message_size: int, max_fragments: int | None
    ) -> None:
        self.name: str = conversation.name
        self._conversation = conversation
        context = HandshakeContext()
        self._dissectors = {
            sender: Dissector(
                sender,
                context=context,
                max_message_size=max_message_size,
                max_fragments=max_fragments,
            )
            for sender in Role
        }
        self._frames = 0

    def events(self) -> Iterator[CaptureEvent]:
        """Yield the heads and frames of both ends. Offsets count the bytes of each end."""
        for sender, data in self._conversation.units():
            dissector = self._dissectors[sender]
            dissector.receive_data(data)
            yield from self._next_events(dissector)
        for dissector in self._dissectors.values():
            dissector.receive_eof()
            yield from self._next_events(dissector)

    def _next_events(self, dissector: Dissector) -> Iterator[CaptureEvent]:
        for event in dissector.events():
            if isinstance(event, FrameReport):
                self._frames += 1
                event = replace(event, number=self._frames)
            yield event

    @property
    def verdict(self) -> Verdict:
        """The verdict on the connection: the worse one of both ends, after all events."""
        verdicts = [self._verdict(sender) for sender in Role]
        worst = min(verdicts, key=lambda verdict: _SEVERITY.index(verdict.result))
        if worst.result != "valid":
            return worst
        client, server = (self._dissectors[sender].counts for sender in Role)
        return valid(client + server)

    def _verdict(self, sender: Role) -> Verdict:
        """Return the verdict on one end. A gap in its stream makes valid bytes incomplete."""
        verdict = self._dissectors[sender].verdict
        is_client = sender is Role.CLIENT
        stream = self._conversation.client if is_client else self._conversation.server
        if stream.problem is not None and verdict.result in ("valid", "incomplete"):
            where = f"bytes from {len(stream.data)} on are {stream.problem}"
            needs = stream.missing or None
            verdict = replace(incomplete(where, 0, at_least=True), needs=needs)
        return replace(verdict, stream=sender.value)


class HarDissector:
    """Explains one connection of a HAR file: its handshake and its messages.

    Attributes:
        name: The URL.

    """

    def __init__(self, conversation: HarConversation) -> None:
        self.name: str = conversation.name
        self._conversation = conversation
        self._verdict: Verdict | None = None
        self._heads = 0

    def events(self) -> Iterator[CaptureEvent]:
        """Yield the heads, if all their headers are recorded, and the messages."""
        context = HandshakeContext()
        heads = (
            (self._conversation.request, context.explain_request),
            (self._conversation.response, context.explain_response),
        )
        for head, explain in heads:
            if head is not None:
                lines = explain(head, 0)
                self._heads += 1
                yield lines
                if lines.verdict is not None:
                    self._verdict = lines.verdict
                    return
        for number, message in enumerate(self._conversation.messages, 1):
            if message.opcode is None:
                self._verdict = Verdict("broken", f"the browser reports: {message.text}")
            yield MessageReport(number, message)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the handshake, after all events. There are no frames to check."""
        if self._verdict is not None:
            return self._verdict
        heads = count(self._heads, "head")
        messages = count(len(self._conversation.messages), "message")
        return Verdict("valid", f"{heads}, {messages}; a HAR file has no frames to check")
