"""The frame trace: a log line at DEBUG for each head and frame of a connection, both ways.

    192.0.2.1:5000 client: <Request GET /chat HTTP/1.1, 5 headers, 0 bytes>
    192.0.2.1:5000 server: <Response 101 upgrade, connection, sec-websocket-accept, 0 bytes>
    192.0.2.1:5000 client: TEXT, 5 bytes: 'Hello'
    192.0.2.1:5000 server: CLOSE, 2 bytes: 1000 ''

A trace observes the bytes on the wire, valid or not. It shows the start of each payload, so it is
for debugging only. Connections without a trace cost nothing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError, ProtocolError
from wsproto_min.frames import Frame, FrameDecoder, parse_close
from wsproto_min.http_reader import HeadReader, parse_request, parse_response

Trace = Callable[[Role, bytes], None]
"""Observer of the bytes on the wire: called with their sender and the bytes."""

MAX_SHOWN = 64
"""Number of bytes of a payload that a line shows."""

logger: logging.Logger = logging.getLogger("wsproto_min")


class FrameTrace:
    """A `Trace` that logs heads and frames.

    Args:
        name: Name of the connection, which begins each line.
        to: Logger; by default "wsproto_min".

    """

    def __init__(self, name: str, to: logging.Logger = logger) -> None:
        self._name = name
        self._logger = to
        self._readers: dict[Role, HeadReader | FrameDecoder | None] = {
            role: HeadReader() for role in Role
        }

    def __call__(self, sender: Role, data: bytes) -> None:
        """Log the heads and frames that these bytes complete."""
        try:
            while data and (reader := self._readers[sender]) is not None:
                reader.receive_data(data)
                data = b""
                if isinstance(reader, FrameDecoder):
                    self._read_frames(sender, reader)
                elif (head := reader.next_head()) is not None:
                    data = reader.trailing_data
                    self._log_head(sender, head)
        except (HandshakeError, ProtocolError) as error:
            self._log(sender, f"invalid, not traced from here on: {error.reason}")
            self._readers[sender] = None

    def _log_head(self, sender: Role, head: bytes) -> None:
        """Log a head, and choose the reader of the bytes behind it."""
        self._readers[sender] = None  # skips a body
        if sender is Role.CLIENT:
            request = parse_request(head.removeprefix(b"\r\n"))
            self._log(sender, repr(request))
            if request.wants_websocket:
                self._readers[sender] = FrameDecoder(rsv1_allowed=True)
            if self._readers[Role.SERVER] is None:
                self._readers[Role.SERVER] = HeadReader()
            return
        response = parse_response(head)
        self._log(sender, repr(response))
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self._readers[sender] = FrameDecoder(rsv1_allowed=True)
        elif response.status < HTTPStatus.OK:
            self._readers[sender] = HeadReader()
        else:  # a client that follows a redirect sends another request
            self._readers[Role.CLIENT] = HeadReader()

    def _read_frames(self, sender: Role, decoder: FrameDecoder) -> None:
        for frame in iter(decoder.next_frame, None):
            if frame.offset == 0:  # the header of a frame comes with its first chunk
                self._log(sender, describe(frame))

    def _log(self, sender: Role, text: str) -> None:
        self._logger.debug("%s %s: %s", self._name, sender.value, text)


def as_trace(trace: Trace | bool | logging.Logger | None, name: str) -> Trace | None:
    """Return the trace that an argument of `connect` asks for, or None."""
    if isinstance(trace, bool):
        trace = logger if trace else None
    if isinstance(trace, logging.Logger):
        return FrameTrace(name, trace) if trace.isEnabledFor(logging.DEBUG) else None
    return trace


def describe(frame: Frame) -> str:
    """Return a frame's header and the start of its payload as one line of ASCII.

    >>> describe(Frame(Opcode.TEXT, b"Hel", fin=False, remaining=2))
    "TEXT, not final, 5 bytes: 'Hel'..."
    """
    flags = ("" if frame.fin else ", not final") + (", compressed" if frame.rsv1 else "")
    head = f"{frame.opcode.name}{flags}, {frame.length} bytes"
    if not frame.length:
        return head
    shown = frame.payload[:MAX_SHOWN]
    dots = "..." if len(shown) < frame.length else ""
    if frame.opcode is Opcode.CLOSE:
        try:
            code, reason = parse_close(frame.payload)
        except ProtocolError as error:
            return f"{head}: {error.reason}"
        return f"{head}: {code} {reason[:MAX_SHOWN]!a}"
    if frame.opcode is Opcode.TEXT and not frame.rsv1:
        return f"{head}: {shown.decode('utf-8', 'replace')!a}{dots}"
    return f"{head}: {shown.hex(' ')}{dots}"


class TracedSocket:
    """A socket of a server that passes its bytes to a trace.

    Args:
        sock: The socket; attributes that this class does not have are those of the socket.
        trace: Receives the bytes.

    """

    def __init__(self, sock: socket.socket, trace: Trace) -> None:
        self._socket = sock
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the socket."""
        return getattr(self._socket, name)

    def recv(self, size: int) -> bytes:
        """Receive up to `size` bytes, and trace them."""
        data = self._socket.recv(size)
        if data:
            self._trace(Role.CLIENT, data)
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send bytes, and trace those that the socket takes."""
        sent = self._socket.send(data)
        self._trace(Role.SERVER, bytes(data[:sent]))
        return sent
