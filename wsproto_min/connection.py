"""A WebSocket connection without a socket: RFC 6455, sections 5 to 7, both roles.

Give a `Connection` the bytes that arrive and it tells what they mean; tell
it what to say and it queues the bytes to send. It does no I/O, keeps no clock
and starts after the opening handshake (see `handshake`), so the same object
serves a server on a selector, a blocking client and a test.

What happens on a violation (section 7.1.7) is the same everywhere: whatever
came before it has its effect, one Close frame with the code due is queued,
and all further input is discarded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from wsproto_min._fast_path import short_messages
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, SHARED_COMPRESSOR, DeflateParameters
from wsproto_min.errors import ConnectionClosed, ProtocolError
from wsproto_min.frames import (
    MAX_CONTROL_PAYLOAD,
    Frame,
    FrameDecoder,
    encode_close,
    encode_frame,
    parse_close,
)
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE, MessageAssembler


class Role(Enum):
    """Which end this is; it decides who masks (section 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """How far a connection has come (sections 7.1.3 and 7.1.4)."""

    OPEN = "open"
    CLOSING = "closing"  # one Close frame has been sent, the peer's is awaited
    CLOSED = "closed"  # nothing more will be sent; what arrives is discarded


@dataclass(frozen=True, slots=True)
class Ping:
    """A Ping arrived; its Pong is queued already (section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A Pong arrived, asked for or not (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """A Close frame's meaning (section 5.5.1); code 1005 if it gave none."""

    code: int
    reason: str = ""


# Looking a member up in its enum takes 0.1 us, as long as a call.
_CLIENT, _SERVER = Role
_OPEN, _CLOSED = State.OPEN, State.CLOSED
_TEXT, _BINARY, _PING, _PONG = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG

Event = str | bytes | Ping | Pong | Close
"""What arrived: a text message as `str`, a binary one as `bytes`, or a control frame."""


class Connection:
    """One end of an open WebSocket connection.

        >>> server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
        >>> client.send("Hello")
        >>> list(server.receive_data(client.data_to_send()))
        ['Hello']
        >>> server.close(CloseCode.GOING_AWAY, "good night")
        >>> list(client.receive_data(server.data_to_send()))
        [Close(code=1001, reason='good night')]

    `max_message_size` (bytes) and `max_fragments` bound what a peer may send in
    one message; see `MessageAssembler`. `deflate` is what was agreed of
    compression, if anything, and messages are compressed from `compression_threshold`
    bytes up.
    """

    __slots__ = (
        "_assembler",
        "_compression_threshold",
        "_compressor",
        "_context_takeover",
        "_decoder",
        "_max_fragments",
        "_max_message_size",
        "_outgoing",
        "close_received",
        "close_sent",
        "error",
        "role",
        "state",
    )

    def __init__(
        self,
        role: Role,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        compression: DeflateParameters | None = None,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
    ) -> None:
        self.role = role
        self.state = _OPEN
        self.close_sent: Close | None = None
        self.close_received: Close | None = None
        self.error: ProtocolError | None = None
        is_server = role is _SERVER
        self._compression_threshold = compression_threshold
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._context_takeover = compression is not None and compression.context_takeover(
            server=not is_server
        )
        self._compressor = None if compression is None else compression.compressor(server=is_server)
        self._decoder = FrameDecoder(masked=is_server, rsv1_allowed=compression is not None)
        self._assembler: MessageAssembler | None = None  # until a message needs one
        self._outgoing: list[bytes] = []

    @property
    def accepts_shared_compression(self) -> bool:
        """Whether the peer understands frames made with `SHARED_COMPRESSOR`."""
        return self._compressor is SHARED_COMPRESSOR

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Take bytes from the peer; return an iterator over what they complete.

        Frames are acted on as the iterator is advanced: what you send on an
        event goes out before the answer to any later frame, be it a Pong or
        the Close that a violation calls for. So the order of what is sent
        depends on the peer's frames alone, never on how they share reads.

        Never raises for what the peer sent: a violation ends the iterator and
        fails the connection (see `fail`); `error` then says which it was.
        """
        if self.state is not _CLOSED:
            self._decoder.receive_data(data)
        return self._events()

    def _events(self) -> Iterator[Event]:
        try:
            while self.state is not _CLOSED:
                if self.role is _SERVER and (self._assembler is None or self._assembler.idle):
                    yield from short_messages(self._decoder, self._max_message_size)
                frame = self._decoder.next_frame()
                if frame is None:
                    return
                event = self._receive_frame(frame)
                if event is not None:
                    yield event
        except ProtocolError as error:
            self.error = error
            self.fail(error.code, error.reason)

    def receive_eof(self) -> None:
        """Note that the peer's stream has ended: no Close frame can come any more."""
        self.state = _CLOSED

    def _receive_frame(self, frame: Frame) -> Event | None:
        """Act on a frame; return the event that it completes, if any."""
        if not frame.opcode.is_control:
            if self._assembler is None:
                self._assembler = MessageAssembler(
                    max_message_size=self._max_message_size,
                    max_fragments=self._max_fragments,
                    context_takeover=self._context_takeover,
                )
            return self._assembler.receive_frame(frame)
        if frame.opcode is _PING:
            # Section 5.5.2: due "unless it already received a Close frame"; one
            # that we have sent forbids only data frames (section 5.5.1).
            self._send_frame(Opcode.PONG, frame.payload)
            return Ping(frame.payload)
        if frame.opcode is _PONG:
            return Pong(frame.payload)
        close = Close(*parse_close(frame.payload))
        self.close_received = close
        if self.close_sent is None:
            # Section 5.5.1: the answer "typically echos the status code".
            self._send_close(close.code)
        self.state = _CLOSED
        return close

    def send(self, message: str | bytes) -> None:
        """Queue a text (`str`) or binary (`bytes`) message, in one frame.

        Raises `ConnectionClosed` once a Close frame was sent or received:
        section 5.5.1 forbids to send more.
        """
        self._require_open()
        opcode, payload = encode_message(message)
        if self._compressor is None or len(payload) < self._compression_threshold:
            self._send_frame(opcode, payload)
        else:
            self._send_frame(opcode, self._compressor.compress(payload), rsv1=True)

    def ping(self, payload: bytes = b"") -> None:
        """Queue a Ping with up to 125 bytes, which the Pong will bring back.

        Raises `ConnectionClosed` as `send` does, `ValueError` for a payload
        that is too long for a control frame (section 5.5).
        """
        self._require_open()
        self._send_frame(Opcode.PING, _control_payload(payload))

    def pong(self, payload: bytes = b"") -> None:
        """Queue a Pong that nobody asked for (section 5.5.3); raises as `ping` does."""
        self._require_open()
        self._send_frame(Opcode.PONG, _control_payload(payload))

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake (section 7.1.2); does nothing if it has started.

        Messages still arrive until the peer's Close does. Raises `ValueError`
        for a code that must not be sent.
        """
        if self.state is _OPEN:
            self._send_close(code, reason)
            self.state = State.CLOSING

    def fail(self, code: int, reason: str = "") -> None:
        """Fail the connection (section 7.1.7): say why, then discard all input."""
        if self.close_sent is None and self.state is not _CLOSED:
            self._send_close(code, reason)
        self.state = _CLOSED
        self._decoder.discard()
        self._assembler = None

    def data_to_send(self) -> bytes:
        """Return the bytes queued since the last call, to be sent in this order."""
        if not self._outgoing:
            return b""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def _require_open(self) -> None:
        if self.state is not _OPEN:
            close = self.close_received or self.close_sent or Close(CloseCode.ABNORMAL_CLOSURE)
            raise ConnectionClosed(close.code, close.reason)

    def _send_close(self, code: int, reason: str = "") -> None:
        # Code 1005 stands for a Close frame without a payload (section 7.1.5).
        payload = b"" if code == CloseCode.NO_STATUS_RCVD else encode_close(code, reason)
        self._send_frame(Opcode.CLOSE, payload)
        self.close_sent = Close(*parse_close(payload))

    def _send_frame(self, opcode: Opcode, payload: bytes, *, rsv1: bool = False) -> None:
        # Section 5.3: the key must be fresh for every frame and unpredictable.
        mask = os.urandom(4) if self.role is _CLIENT else None
        self._outgoing.append(encode_frame(opcode, payload, rsv1=rsv1, mask=mask))


def encode_message(message: str | bytes) -> tuple[Opcode, bytes]:
    """Return a message's opcode and payload: text for `str`, binary for `bytes`."""
    if isinstance(message, str):
        return _TEXT, message.encode()
    return _BINARY, message


def _control_payload(payload: bytes) -> bytes:
    """Return `payload` if it fits into a control frame."""
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"a control frame holds at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}"
        )
    return payload
