"""A WebSocket connection without a socket (RFC 6455, sections 5 to 7), for both roles.

A `Connection` starts after the opening handshake (module `handshake`). It does no I/O and has no
clock, so one class serves a server on a selector, a blocking client and a test. Its user

1. passes received bytes to `receive_data`, and the end of the stream to `receive_eof`;
2. calls `next_event` until it returns None, and acts on each event before it asks for the next;
3. writes the bytes of `data_to_send`, and half-closes TCP once `eof_to_send` is True.

`next_event` acts on one frame at a time. A reply (a Pong or a Close frame) is queued when
its frame is read. So the order of the bytes to send depends on the peer's frames alone, never on
the way in which reads split them.

A violation has one consequence everywhere (section 7.1.7): all frames before it take effect, one
Close frame with the rule's code is queued, and further input is discarded.

A message may be sent in fragments (section 5.4) with `send_fragment`, and received in chunks once
`receive_chunks` is True. Control frames go in between. A message that was begun must be ended
before the next one, so `send` raises `RuntimeError` until then. A Close frame also goes in between;
the peer then drops the unfinished message.

The closing handshake (sections 7.1.2 to 7.1.4)::

    +---------------------+                              +---------------------+
    |        OPEN         |      close(): send Close     |       CLOSING       |
    |  send and receive   | ---------------------------> |    receive only     |
    +---------------------+                              +---------------------+
       |        |                                                  |        |
       |        | Close received: send Close        Close received |        |
       |        | violation: send Close                  violation |        |
       |        | fail(): send Close                        fail() |        |
       |        |                                                  |        |
       |        |             +---------------------+              |        |
       |        +-----------> |      FLUSHING       | <------------+        |
       |                      |    discard input    |                       |
       |                      +---------------------+                       |
       |                                 |                                  |
       | receive_eof()                   | receive_eof()      receive_eof() |
       |                                 v                                  |
       |                      +---------------------+                       |
       +--------------------> |       CLOSED        | <---------------------+
                              |  end of the stream  |
                              +---------------------+
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from sys import getsizeof
from typing import NamedTuple

from wsproto_min._fast_path import join_fragments, read_messages
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.deflate import (
    DEFAULT_COMPRESSION_THRESHOLD,
    SHARED_COMPRESSOR,
    DeflateParameters,
)
from wsproto_min.errors import ConnectionClosed, ProtocolError
from wsproto_min.extensions import Encoder, Extension, MessageEncoder
from wsproto_min.frames import (
    MAX_CONTROL_PAYLOAD,
    RSV1,
    Frame,
    FrameDecoder,
    encode_close,
    encode_frame,
    parse_close,
)
from wsproto_min.messages import (
    COMPRESSION_DECODERS,
    DEFAULT_MAX_MESSAGE_SIZE,
    NO_LIMIT,
    Decoders,
    MessageAssembler,
    MessageChunk,
)


class Role(Enum):
    """Side of a connection. A client masks its frames, a server does not (section 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class State(IntEnum):
    """State of a connection or of a server's peer. It only ever increases."""

    CONNECTING = 0  # opening handshake; a Connection starts after it
    OPEN = 1
    CLOSING = 2  # a Close frame is sent or queued, the peer's is awaited
    FLUSHING = 3  # input is discarded, queued bytes still go out
    CLOSED = 4  # the stream has ended


@dataclass(frozen=True, slots=True)
class Ping:
    """A received Ping. Its Pong is already queued (section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A received Pong, solicited or not (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection: close code and reason (section 7.4).

    As an event it comes once, for one of three causes. The peer sends a Close frame (code 1005
    if the frame has none). The peer breaks a rule (the code of the rule). The stream ends
    without a Close frame (1006).
    """

    code: int
    reason: str = ""


Event = str | bytes | MessageChunk | Ping | Pong | Close
"""A text message (`str`), a binary message (`bytes`), a chunk, a control frame or the end."""

# Constants, because the hot path reads the members often.
_CLIENT, _SERVER = Role
_OPEN, _CLOSING, _FLUSHING, _CLOSED = list(State)[1:]
_TEXT, _BINARY, _PING, _PONG = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG

# Progress of the input: `next_event` reads frames, discards them, or has returned the Close event.
_READING, _DISCARDING, _CLOSE_REPORTED = range(3)

_NO_MESSAGES: list[str | bytes] = []  # shared and never changed, so an idle connection has no list


# RSV bits with the encoders of their extensions. Most connections share these two.
_NO_ENCODERS: tuple[tuple[int, Encoder], ...] = ()
_SHARED_ENCODERS: tuple[tuple[int, Encoder], ...] = ((RSV1, SHARED_COMPRESSOR),)

_UNDER_WAY = "message: a fragmented message is under way; send its last fragment first"


class _OutgoingMessage(NamedTuple):
    """A fragmented message that is under way to the peer."""

    opcode: Opcode
    encoder: MessageEncoder | None


class _LargeMessages:
    """An encoder for messages from a minimum size on."""

    def __init__(self, encoder: Encoder, min_size: int) -> None:
        self._encoder = encoder
        self._min_size = min_size

    def begin(self, opcode: Opcode, size: int) -> MessageEncoder | None:
        """See `Encoder.begin`."""
        return self._encoder.begin(opcode, size) if size >= self._min_size else None


class Connection:
    """One side of an open WebSocket connection.

    Args:
        role: The own side.
        max_message_size: Limit for a received message in bytes, after decompression; None for no
            limit.
        max_fragments: Limit for its fragments; see `MessageAssembler`.
        compression: The negotiated parameters of permessage-deflate, or None.
        compression_threshold: Messages of at least this many bytes are compressed. For a message
            in fragments the size of the first one decides.
        receive_chunks: See the attribute.
        extensions: Further negotiated extensions, the preferred one first.

    >>> server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
    >>> client.send("Hello")
    >>> server.receive_data(client.data_to_send())
    >>> server.next_event()
    'Hello'
    >>> server.next_event()  # more data is needed
    >>> server.close(CloseCode.GOING_AWAY, "good night")
    >>> client.receive_data(server.data_to_send())
    >>> client.next_event()
    Close(code=1001, reason='good night')

    Attributes:
        role: The own side.
        state: The state; see the figure above.
        close_sent: The Close frame that was sent or queued, or None.
        close_received: The peer's Close frame, or None.
        first_close: The earlier of these two frames, which began the closing: the same object as
            `close_sent` or `close_received`. None before.
        error: The violation that failed the connection, or None.

    """

    __slots__ = (
        "_assembler",
        "_decoder",
        "_decoders",
        "_encoders",
        "_input",
        "_max_fragments",
        "_max_message_size",
        "_messages_ahead",
        "_min_encoded_size",
        "_outgoing",
        "_unsent",
        "close_received",
        "close_sent",
        "error",
        "first_close",
        "role",
        "state",
    )

    role: Role
    state: State
    close_sent: Close | None
    close_received: Close | None
    first_close: Close | None
    error: ProtocolError | None

    def __init__(
        self,
        role: Role,
        *,
        max_message_size: int | None = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        compression: DeflateParameters | None = None,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
        receive_chunks: bool = False,
        extensions: Sequence[Extension] = (),
    ) -> None:
        is_server = role is _SERVER
        self.role = role
        self.state = _OPEN
        self.close_sent = None
        self.close_received = None
        self.first_close = None
        self.error = None
        self._max_message_size = NO_LIMIT if max_message_size is None else max_message_size
        self._max_fragments = max_fragments
        self._min_encoded_size = compression_threshold
        self._encoders = _NO_ENCODERS
        self._decoders: Decoders = COMPRESSION_DECODERS[False]
        if compression is not None:
            compressor = compression.encoder(server=is_server)
            is_shared = compressor is SHARED_COMPRESSOR
            self._encoders = _SHARED_ENCODERS if is_shared else ((RSV1, compressor),)
            takeover = compression.context_takeover(server=not is_server)
            self._decoders = COMPRESSION_DECODERS[takeover]
        rsv_allowed = 0
        if extensions:
            rsv_allowed = self._add_extensions(extensions)
        self._decoder = FrameDecoder(
            masked=is_server, rsv1_allowed=compression is not None, rsv_allowed=rsv_allowed
        )
        self._assembler: MessageAssembler | None = None  # created for the first data frame
        self._messages_ahead = _NO_MESSAGES  # from the fast path, the next one last
        self._unsent: list[bytes] | None = None
        self._outgoing: _OutgoingMessage | None = None
        self._input = _READING
        if receive_chunks:
            self.receive_chunks = True

    def _add_extensions(self, extensions: Sequence[Extension]) -> int:
        """Add extensions behind permessage-deflate; return their RSV bits."""
        is_server = self.role is _SERVER
        size, self._min_encoded_size = self._min_encoded_size, 0
        encoders = [(bit, _LargeMessages(encoder, size)) for bit, encoder in self._encoders]
        own = [(extension.rsv, extension.encoder(server=is_server)) for extension in extensions]
        self._encoders = (*encoders, *own)
        decoders = {
            extension.rsv: extension.decoder(server=not is_server) for extension in extensions
        }
        self._decoders = {**self._decoders, **decoders} if encoders else decoders
        if len({bit for bit, _ in self._encoders}) < len(self._encoders):
            raise ValueError("extensions: two use the same RSV bit; negotiate one of them only")
        return sum(decoders)

    @property
    def accepts_shared_compression(self) -> bool:
        """True if the peer understands frames compressed with `SHARED_COMPRESSOR`."""
        return self._encoders is _SHARED_ENCODERS

    @property
    def receive_chunks(self) -> bool:
        """True to receive messages as `MessageChunk` events while they arrive.

        A change holds for the message under way too. The limits hold for whole messages.

        Raises:
            RuntimeError: Set to False between two chunks of a message.

        """
        return self._assembler is not None and self._assembler.chunked

    @receive_chunks.setter
    def receive_chunks(self, value: bool) -> None:
        if self._input == _READING:
            assembler = self._get_assembler()
            if assembler.in_chunks and not value:
                raise RuntimeError("receive_chunks: a message is under way; wait for its end")
            assembler.chunked = value

    def set_limits(self, max_message_size: int | None, max_fragments: int | None = None) -> None:
        """Change the limits for received messages, for the message under way too.

        Args:
            max_message_size: As for the class.
            max_fragments: As for the class.

        """
        self._max_message_size = NO_LIMIT if max_message_size is None else max_message_size
        self._max_fragments = max_fragments
        if self._assembler is not None:
            self._assembler.set_limits(max_message_size, max_fragments)

    @property
    def unfinished_size(self) -> int:
        """Bytes of memory for received data that is no event yet, about."""
        size = len(self._decoder.buffer)
        if self._messages_ahead:  # the user pauses between two of them
            size += sum(map(getsizeof, self._messages_ahead))
        return size if self._assembler is None else size + self._assembler.size

    @property
    def eof_to_send(self) -> bool:
        """True if the caller must half-close TCP after it has written all of `data_to_send`.

        Section 7.1.1: the server closes TCP first. A client waits for the end of the
        server's stream after a complete closing handshake.
        """
        if self.state is _FLUSHING:
            return self.role is _SERVER or self.close_received is None
        return self.state is _CLOSED

    def receive_data(self, data: bytes) -> None:
        """Store bytes received from the peer for `next_event`."""
        if self._input == _READING:
            self._decoder.receive_data(data)

    def receive_eof(self) -> None:
        """Record the end of the peer's stream; `next_event` still returns all events before it."""
        self.state = _CLOSED

    def next_event(self) -> Event | None:
        """Act on received frames up to the next event and return it.

        Returns:
            The event, or None if more data is needed. Exactly one `Close` event ends each
            connection, after which all calls return None.

        Never raises. After a violation `error` names the rule.

        """
        if self._messages_ahead:
            return self._messages_ahead.pop()
        try:
            while self._input == _READING:
                decoder = self._decoder
                assembler = self._assembler
                chunked = False
                if assembler is not None:
                    chunked = assembler.chunked
                    if assembler.has_more:
                        chunk = assembler.next_chunk()
                        if chunk is not None:
                            return chunk
                        continue
                if not decoder.buffer:
                    break
                frame = None
                if not (chunked or decoder.in_frame):
                    is_server = self.role is _SERVER
                    if assembler is not None and not assembler.idle:
                        frame = join_fragments(decoder, assembler, masked=is_server)
                    elif is_server and (messages := read_messages(decoder, self._max_message_size)):
                        self._messages_ahead = messages
                        return messages.pop()
                frame = frame or decoder.next_frame()
                if frame is None:
                    break
                event = self._receive_frame(frame)
                if event is not None:
                    return event
        except ProtocolError as error:
            # The traceback would keep this call's objects alive, an incomplete message above all.
            self.error = error.with_traceback(None)
            self.fail(error.code, error.reason)
            return self._report_close(Close(error.code, error.reason))
        if self.state is _CLOSED and self._input != _CLOSE_REPORTED:
            return self._report_close(Close(CloseCode.ABNORMAL_CLOSURE))
        return None

    def send(self, message: str | bytes, *, text: bool = False, compress: bool = True) -> None:
        """Queue a message in one frame: `str` as text, `bytes` as binary.

        Args:
            message: The message.
            text: Send `bytes` as text, after a check that they are UTF-8.
            compress: False sends this message uncompressed, for example because it has secrets
                beside text of other people, or is compressed already.

        Raises:
            ConnectionClosed: A Close frame was sent or received (section 5.5.1).
            RuntimeError: A message in fragments is under way (section 5.4).
            TypeError: The message is neither `str` nor `bytes`.
            ValueError: With `text`, the bytes are not UTF-8.

        """
        if self.state is not _OPEN or self._outgoing is not None:
            self._require_open()
            raise RuntimeError(_UNDER_WAY)
        opcode, payload = encode_message(message, text)
        if not self._encoders or not compress or len(payload) < self._min_encoded_size:
            self._send_frame(opcode, payload)
        else:
            rsv, encoder = self._begin_encoding(opcode, len(payload))
            if encoder is not None:
                payload = encoder.encode(payload, last=True)
            self._send_frame(opcode, payload, rsv=rsv)

    def send_fragment(
        self, data: str | bytes, *, last: bool = False, compress: bool = True
    ) -> None:
        """Queue the next fragment of a message (section 5.4).

        The first fragment begins a text (`str`) or binary (`bytes`) message; all others have the
        same type.

        Args:
            data: The fragment, possibly empty.
            last: True if the message ends with this fragment.
            compress: As for `send`; the value for the first fragment holds for the message.

        Raises:
            ConnectionClosed: A Close frame was sent or received (section 5.5.1).
            TypeError: The fragment is neither `str` nor `bytes`, or not of the message's type.

        """
        self._require_open()
        opcode, payload = encode_message(data)
        outgoing = self._outgoing
        rsv = 0
        if outgoing is None:
            encoder = None
            if self._encoders and compress and len(payload) >= self._min_encoded_size:
                rsv, encoder = self._begin_encoding(opcode, len(payload))
            outgoing = _OutgoingMessage(opcode, encoder)
        elif opcode is outgoing.opcode:
            opcode = Opcode.CONTINUATION
        else:
            kind, wrong = ("text", "bytes") if opcode is _BINARY else ("binary", "str")
            raise TypeError(f"fragment: the message is {kind}, so it must not be {wrong}")
        if outgoing.encoder is not None:
            payload = outgoing.encoder.encode(payload, last=last)
        self._outgoing = None if last else outgoing
        self._send_frame(opcode, payload, fin=last, rsv=rsv)

    def _begin_encoding(self, opcode: Opcode, size: int) -> tuple[int, MessageEncoder | None]:
        """Return the RSV bit and the encoder for a message; (0, None) to leave it as it is."""
        for bit, encoder in self._encoders:
            message_encoder = encoder.begin(opcode, size)
            if message_encoder is not None:
                return bit, message_encoder
        return 0, None

    def ping(self, payload: bytes = b"") -> None:
        """Queue a Ping. The peer's Pong repeats its payload (section 5.5.2).

        Raises:
            ConnectionClosed: As for `send`.
            TypeError: The payload is not `bytes`.
            ValueError: The payload has more than 125 bytes (section 5.5).

        """
        self._require_open()
        self._send_frame(_PING, _check_control_payload(payload))

    def pong(self, payload: bytes = b"") -> None:
        """Queue an unsolicited Pong (section 5.5.3). Raises as `ping` does."""
        self._require_open()
        self._send_frame(_PONG, _check_control_payload(payload))

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake (section 7.1.2), unless it has started.

        Messages still arrive until the peer's Close frame does.

        Raises:
            ValueError: A Close frame must not carry `code` (section 7.4).

        """
        if self.state is _OPEN:
            self._send_close(code, reason)
            self.state = _CLOSING

    def fail(self, code: int, reason: str = "") -> None:
        """Fail the connection (section 7.1.7): queue a Close frame and discard all input."""
        if self.state < _FLUSHING:
            if self.close_sent is None:
                self._send_close(code, reason)
            self.state = _FLUSHING
        if self._input == _READING:
            self._input = _DISCARDING
        self._messages_ahead = _NO_MESSAGES
        self._decoder.discard()
        self._assembler = None

    def data_to_send(self) -> bytes:
        """Return the bytes queued since the last call, to be written in this order."""
        unsent = self._unsent
        if unsent is None:
            return b""
        self._unsent = None
        return unsent[0] if len(unsent) == 1 else b"".join(unsent)

    def __repr__(self) -> str:
        """Return role, state and closing frames."""
        closes = "".join(
            f" {name}={close.code}"
            for name, close in (("sent", self.close_sent), ("received", self.close_received))
            if close is not None
        )
        return f"<Connection {self.role.value} {self.state.name}{closes}>"

    def _receive_frame(self, frame: Frame) -> Event | None:
        """Act on a frame; return the event that it completes, if any."""
        if not frame.opcode.is_control:
            assembler = self._assembler or self._get_assembler()
            if assembler.chunked:
                return assembler.receive_chunk(frame)
            return assembler.receive_frame(frame)
        if frame.opcode is _PING:
            # Section 5.5.2: "unless it already received a Close frame". A Close frame that was
            # sent forbids only data frames (section 5.5.1).
            self._send_frame(_PONG, frame.payload)
            return Ping(frame.payload)
        if frame.opcode is _PONG:
            return Pong(frame.payload)
        close = Close(*parse_close(frame.payload))
        self.close_received = close
        if self.close_sent is None:
            self.first_close = close
            # Section 5.5.1: the endpoint "typically echos the status code it received".
            self._send_close(close.code)
        if self.state < _FLUSHING:
            self.state = _FLUSHING
        return self._report_close(close)

    def _get_assembler(self) -> MessageAssembler:
        """Return the assembler; create it at the first call."""
        if self._assembler is None:
            self._assembler = MessageAssembler(
                max_message_size=self._max_message_size,
                max_fragments=self._max_fragments,
                decoders=self._decoders,
            )
        return self._assembler

    def _report_close(self, close: Close) -> Close:
        self._input = _CLOSE_REPORTED
        return close

    def _require_open(self) -> None:
        if self.state is not _OPEN:
            close = self.close_received or self.close_sent or Close(CloseCode.ABNORMAL_CLOSURE)
            raise ConnectionClosed(close.code, close.reason)

    def _send_close(self, code: int, reason: str = "") -> None:
        # Section 7.1.5: code 1005 stands for a Close frame without payload.
        payload = b"" if code == CloseCode.NO_STATUS_RCVD else encode_close(code, reason)
        self._send_frame(Opcode.CLOSE, payload)
        self.close_sent = Close(*parse_close(payload))
        if self.first_close is None:
            self.first_close = self.close_sent

    def _send_frame(
        self, opcode: Opcode, payload: bytes, *, fin: bool = True, rsv: int = 0
    ) -> None:
        # Section 5.3: the masking key must be fresh for each frame and unpredictable.
        mask = os.urandom(4) if self.role is _CLIENT else None
        data = encode_frame(opcode, payload, fin=fin, rsv=rsv, mask=mask)
        if self._unsent is None:
            self._unsent = [data]
        else:
            self._unsent.append(data)


def encode_message(message: str | bytes, text: bool = False) -> tuple[Opcode, bytes]:
    """Return the opcode and the payload of a message: text for `str`, binary for `bytes`.

    Args:
        message: The message.
        text: Treat `bytes` as text.

    Raises:
        TypeError: The message is neither. A mutable buffer could change before it is written.
        ValueError: With `text`, the bytes are not UTF-8.

    """
    if isinstance(message, str):
        return _TEXT, message.encode()
    if isinstance(message, bytes):
        if not text:
            return _BINARY, message
        try:
            message.decode()
        except UnicodeDecodeError as error:
            position = error.start
            raise ValueError(f"text: not UTF-8 at byte {position}; send it as binary") from None
        return _TEXT, message
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}")


def _check_control_payload(payload: bytes) -> bytes:
    if not isinstance(payload, bytes):
        raise TypeError(f"a control frame's payload is bytes, not {type(payload).__name__}")
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"control frame: payload of {len(payload)} bytes; "
            f"at most {MAX_CONTROL_PAYLOAD} are allowed (RFC 6455, 5.5)"
        )
    return payload
