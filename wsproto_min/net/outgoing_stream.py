"""A message that a server sends in fragments."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Connection, encode_message
from wsproto_min.net.message_order import MessageOrder, OrderOwner
from wsproto_min.net.transport import Transport
from wsproto_min.net.write_buffer import WriteBudget
from wsproto_min.net.write_coalescer import Recipient, WriteCoalescer


class StreamSession(OrderOwner, Protocol):
    """A session, as far as its stream uses it."""

    stream: OutgoingStream | None

    @property
    def connection(self) -> Connection | None:
        """The connection without its socket."""

    @property
    def peer(self) -> Recipient:
        """The peer."""

    @property
    def transport(self) -> Transport:
        """The socket with its write buffer."""

    def fail(self, code: int, reason: str) -> None:
        """See `Peer.fail`."""


class OutgoingStream:
    """A message that a peer is sent in fragments; `Peer.send_stream` returns it.

    A stream is a context manager, which finishes the message. An exception after the first
    fragment fails the connection with 1011 instead, because a message that has begun cannot be
    withdrawn: its receiver drops it at the Close frame (RFC 6455, section 5.4). A stream that
    stays open over several callbacks needs no block; its last call is `finish`.

    Messages that are sent to the peer or its groups meanwhile leave after the stream. They count
    for `write_buffer_limit`. Pings, Pongs and Close frames do not wait.

    Args:
        session: The peer's session. The stream is open while it is the session's stream.
        order: Holds the other messages to the peer.
        write_coalescer: The server's write coalescer.
        budget: The server's limits for write buffers.
        compress: False sends the message uncompressed.

    """

    __slots__ = (
        "_budget",
        "_compress",
        "_deferred",
        "_finished",
        "_is_text",
        "_order",
        "_session",
        "_write_coalescer",
    )

    def __init__(
        self,
        session: StreamSession,
        order: MessageOrder,
        write_coalescer: WriteCoalescer,
        budget: WriteBudget,
        *,
        compress: bool,
    ) -> None:
        self._session = session
        self._order = order
        self._write_coalescer = write_coalescer
        self._budget = budget
        self._compress = compress
        self._finished = False
        self._is_text: bool | None = None  # None before the first fragment
        # Messages to the peer, with their numbers. They are encoded after the stream, because
        # compression with context takeover depends on the order.
        self._deferred: list[tuple[int, bytes, bool, bool]] = []

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the message, or fail with 1011 if an exception leaves it incomplete."""
        if error is None or self._is_text is None:
            self.finish()
        elif self.is_open:
            reason = "the server could not complete a message"
            self._session.fail(CloseCode.INTERNAL_ERROR, reason)

    @property
    def is_open(self) -> bool:
        """True until the message is finished or closing has begun."""
        return self._session.stream is self

    @property
    def size(self) -> int:
        """Bytes of this iteration's fragments and of the messages that wait for the end."""
        return self._order.pending_size + self._order.held_size

    def send(self, data: str | bytes) -> bool:
        """Send the next fragment: `str` in a text message, `bytes` in a binary one.

        Does nothing once closing has begun.

        Returns:
            True if the peer takes more now. False if its write buffer is above the high mark:
            continue in `on_drained`, which comes once the buffer is at the low mark. If the
            application goes on, the buffer grows up to `write_buffer_limit`.

        Raises:
            RuntimeError: The message is finished, or the caller is in another thread.
            TypeError: The fragment is neither `str` nor `bytes`, or not of the message's type.

        """
        self._write_coalescer.check_thread()
        if self._finished:
            raise RuntimeError("stream: the message is finished; call send_stream for another one")
        if not self.is_open:
            return False
        self._send_fragment(data, last=False)
        self._is_text = isinstance(data, str)
        transport = self._session.transport
        high_mark, _ = self._budget.marks(transport)
        if transport.write_buffer_size + self._order.pending_size <= high_mark:
            return True
        self._order.awaits_drain = True
        return False

    def finish(self) -> None:
        """Finish the message, and send the messages that wait for its end.

        Sends nothing if there was no fragment. Does nothing once closing has begun, or if the
        message is finished.

        Raises:
            RuntimeError: The caller is in another thread.

        """
        self._write_coalescer.check_thread()
        if not self.is_open:
            return
        self._finished = True
        if self._is_text is not None:
            self._send_fragment("" if self._is_text else b"", last=True)
        self._session.stream = None
        self._write_coalescer.end_message(self._order)
        connection = self._session.connection
        assert connection is not None
        frames = []
        for number, payload, text, compress in self._deferred:
            self._order.release(payload)
            connection.send(payload, text=text, compress=compress)
            frames.append((number, connection.data_to_send()))
        self._deferred = []
        self._order.add(frames)

    def _send_fragment(self, data: str | bytes, *, last: bool) -> None:
        connection = self._session.connection
        assert connection is not None
        connection.send_fragment(data, last=last, compress=self._compress)
        frame = connection.data_to_send()
        self._order.pending_size += len(frame)
        self._write_coalescer.enqueue(self._session.peer, frame)

    def defer(self, message: str | bytes, *, text: bool, compress: bool) -> None:
        """Send a message after this one; for the arguments see `Connection.send`."""
        opcode, payload = encode_message(message, text=text)
        number = self._write_coalescer.next_number()
        self._deferred.append((number, payload, opcode is Opcode.TEXT, compress))
        self._order.hold(payload)

    def cancel(self) -> None:
        """Drop the messages that wait for the end, because closing has begun."""
        self._session.stream = None
        for _, payload, _, _ in self._deferred:
            self._order.release(payload)
        self._deferred = []
        self._order.cancel()
