"""Messages of a client in parts: sent in fragments, received in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from wsproto_min.codes import CloseCode
from wsproto_min.messages import MessageChunk


class StreamClient(Protocol):
    """A client, as far as its streams use it."""

    def _send_fragment(
        self, stream: SendStream, data: str | bytes, timeout: float | None, *, last: bool
    ) -> None:
        """Send a fragment of the client's current stream."""

    def _next_chunk(self, stream: ReceiveStream, timeout: float | None) -> MessageChunk:
        """Return the next chunk of the client's current message."""

    def close(self, code: int, reason: str) -> None:
        """See `Client.close`."""


class SendStream:
    """A message that is sent in fragments; `Client.send_stream` returns it.

    A stream is a context manager, which finishes the message. An exception after the first
    fragment closes the connection with 1011 instead, because a message that has begun cannot be
    withdrawn: its receiver drops it at the Close frame (RFC 6455, section 5.4).

    Args:
        client: The client.
        compress: False sends the message uncompressed.

    Attributes:
        compress: As above.

    """

    def __init__(self, client: StreamClient, *, compress: bool) -> None:
        self.compress: bool = compress
        self._client = client
        self._is_text: bool | None = None  # None before the first fragment
        self._finished = False

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the message, or close with 1011 if an exception leaves it incomplete."""
        if error is None:
            self.finish()
        elif self._is_text is not None and not self._finished:
            self._finished = True
            reason = "the client could not complete a message"
            self._client.close(CloseCode.INTERNAL_ERROR, reason)

    def send(self, data: str | bytes, *, timeout: float | None = None) -> None:
        """Send the next fragment: `str` in a text message, `bytes` in a binary one.

        Waits while the server does not read.

        Args:
            data: The fragment, possibly empty.
            timeout: Time limit in seconds; None for no limit.

        Raises:
            ConnectionClosed: The connection is closing, closed or lost.
            RuntimeError: The message is finished.
            TimeoutError: The server did not read in time. The fragment leaves with the next call.
            TypeError: The fragment is neither `str` nor `bytes`, or not of the message's type.

        """
        if self._finished:
            raise RuntimeError("stream: the message is finished; call send_stream for another one")
        is_text = isinstance(data, str)
        try:
            self._client._send_fragment(self, data, timeout, last=False)
        except TimeoutError:
            self._is_text = is_text
            raise
        self._is_text = is_text

    def finish(self, *, timeout: float | None = None) -> None:
        """Finish the message. Sends nothing if there was no fragment, or at a second call.

        Raises as `send` does.
        """
        if not self._finished:
            self._finished = True
            if self._is_text is not None:
                data = "" if self._is_text else b""
                self._client._send_fragment(self, data, timeout, last=True)


class ReceiveStream(Iterator[str | bytes]):
    """The chunks of one message while it arrives; `Client.recv_streaming` returns it.

    Args:
        client: The client.
        timeout: Time limit for each chunk in seconds, or None. After a `TimeoutError` the
            iteration can go on.

    """

    def __init__(self, client: StreamClient, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        self._begun = False
        self._finished = False

    def __next__(self) -> str | bytes:
        """Return the next chunk: `str` of a text message, `bytes` of a binary one.

        An empty message has one empty chunk. All other chunks have data.

        Raises:
            StopIteration: The message is complete.
            RuntimeError: Another call of `recv` or `recv_streaming` has skipped the rest.
            TimeoutError, ConnectionClosed, ProtocolError: As for `Client.recv`.

        """
        while not self._finished:
            chunk = self._client._next_chunk(self, self._timeout)
            self._finished = chunk.message_finished
            if chunk.data or (chunk.message_finished and not self._begun):
                self._begun = True
                return chunk.data
        raise StopIteration
