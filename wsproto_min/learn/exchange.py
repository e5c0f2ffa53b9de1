"""The checker's client: an exchange of bytes with the student's server over a socket.

Frames are sent from `RawFrame`, which does not use the codec. The `Dissector` reads the answers,
so a wrong answer is shown as `explain` shows it.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Self

from wsproto_min.client_handshake import upgrade_request, validate_response
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Event, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import plain
from wsproto_min.explain.verdict import count
from wsproto_min.handshake import NegotiatedOptions
from wsproto_min.http import Response
from wsproto_min.http_reader import HeadReader, parse_response
from wsproto_min.learn.answers import describe, difference, encoded, rows, shown_head
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.testing.raw_frame import RawFrame

ZERO_KEY = bytes(4)
"""A masking key that changes nothing, for the steps before unmasking."""

_RECEIVE_SIZE = 1 << 16
_PAUSE = 0.001  # seconds between two parts


def message(data: str | bytes, *, key: bytes | None = None, fin: bool = True) -> bytes:
    """Return a client's text or binary message in one frame, or its first fragment.

    Args:
        data: The message: `str` for text, `bytes` for binary.
        key: The masking key; None for a random one.
        fin: The FIN bit.

    """
    if isinstance(data, str):
        return masked(Opcode.TEXT, data.encode(), key=key, fin=fin)
    return masked(Opcode.BINARY, data, key=key, fin=fin)


def masked(
    opcode: int, payload: bytes = b"", *, key: bytes | None = None, fin: bool = True, rsv: int = 0
) -> bytes:
    """Return a client's frame; see `RawFrame`. None stands for a random key."""
    return RawFrame(opcode, payload, fin, os.urandom(4) if key is None else key, rsv).data


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a client's Close frame, with an empty payload if `code` is None."""
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return masked(Opcode.CLOSE, payload)


class Exchange:
    """One connection to the student's server; a context manager that closes the socket.

    Args:
        program: The student's program.
        receive_buffer: Size of the kernel's receive buffer, in bytes; None for its default.

    """

    def __init__(self, program: Program, *, receive_buffer: int | None = None) -> None:
        self._socket = program.connect(receive_buffer)
        self._socket.settimeout(program.patience)
        self._patience = program.patience
        self._dissector = Dissector(Role.SERVER, max_message_size=1 << 40)
        self._sent = b""  # the last bytes of the checker
        self._last: FrameReport | None = None  # the last frame of the server

    def __enter__(self) -> Self:
        """Return the exchange."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the socket."""
        self._socket.close()

    def reset(self) -> None:
        """Close the socket with RST, so that the server's `recv` raises ConnectionResetError."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    @property
    def last_payload(self) -> bytes:
        """The payload of the server's last frame, as it is on the wire."""
        return b"" if self._last is None else self._last.fields.payload

    def open(
        self, *, compression: DeflateParameters | None = None, offer: str | None = None
    ) -> NegotiatedOptions:
        """Make the opening handshake; return the negotiated options.

        Args:
            compression: The parameters of permessage-deflate that the client can accept.
            offer: The value of Sec-WebSocket-Extensions; None for the offer of `compression`.

        """
        key = base64.b64encode(os.urandom(16)).decode()
        if offer is None:
            request = upgrade_request("127.0.0.1", "/", key, compression=compression)
        else:
            headers = [("Sec-WebSocket-Extensions", offer)]
            request = upgrade_request("127.0.0.1", "/", key, headers=headers)
        self.send(request)
        return self.receive_acceptance(key, compression=compression)

    def receive_acceptance(
        self, key: str, *, compression: DeflateParameters | None = None
    ) -> NegotiatedOptions:
        """Receive a response 101 to a request with `key`, and check it.

        Raises:
            Wrong: The response does not open the connection.

        """
        response, head, rest = self._receive_response()
        try:
            options = validate_response(response, key, compression=compression)
        except HandshakeError as error:
            raise Wrong(error.reason, *shown_head(head)) from None
        self._dissector = Dissector(
            Role.SERVER,
            context=HandshakeContext(options.compression),
            max_message_size=1 << 40,
        )
        self._dissector.receive_data(rest)
        return options

    def expect_refusal(self, statuses: Collection[int] = range(200, 600)) -> None:
        """Receive a response that refuses the handshake, or the end of the stream after bytes.

        Raises:
            Wrong: The response has another status.

        """
        response, head, _ = self._receive_response()
        if response.status not in statuses:
            raise Wrong(
                f"the server answers with the status {response.status}, but this request is "
                "not a valid opening handshake",
                *shown_head(head),
            )

    def _receive_response(self) -> tuple[Response, bytes, bytes]:
        reader = HeadReader()
        received = b""
        while True:
            try:
                head = reader.next_head()
                if head is not None:
                    return parse_response(head), head, reader.trailing_data
                data = self._receive("a response that ends with an empty line", received)
            except HandshakeError as error:
                raise Wrong(error.reason, *shown_head(received)) from None
            if not data:
                raise Wrong(
                    "the server ends the stream without a whole response", *shown_head(received)
                )
            received += data
            if b"\n\n" in received:
                problem = "each line of the response must end with CR LF: \\r\\n in Python"
                raise Wrong(problem, *shown_head(received))
            reader.receive_data(data)

    def send(self, data: bytes) -> None:
        """Send bytes at once. If the server does not take them, the next `expect` reports it."""
        self._sent = data
        with suppress(OSError):
            self._socket.sendall(data)

    def send_in_parts(self, data: bytes, sizes: Iterator[int]) -> None:
        """Send bytes in parts of these sizes, so that the server receives each part alone."""
        begin = 0
        while begin < len(data):
            end = begin + next(sizes)
            self.send(data[begin:end])
            time.sleep(_PAUSE)
            begin = end
        self._sent = data

    @contextmanager
    def sending(self, data: bytes) -> Iterator[None]:
        """Send bytes in a thread while the block runs, because the server may not read them."""
        thread = Thread(target=self.send, args=[data])
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def expect(self, *events: Event) -> None:
        """Receive these messages and control frames, in this order.

        Raises:
            Wrong: The server sends something else, or nothing, or breaks a rule.

        """
        for event in events:
            expected = f"expected: {describe(event)}"
            found = self.next_event(expected)
            if found is None:
                raise self._wrong(f"the server ends the stream; {expected}", event)
            if found != event:
                raise self._wrong(f"the server sends {describe(found)}; {expected}", event)

    def expect_close(self, *codes: int) -> None:
        """Receive a Close frame with one of these codes, and the end of the stream after it.

        1005 stands for an empty Close frame.

        Raises:
            Wrong: The server sends something else, or nothing, or breaks a rule.

        """
        expected = f"expected: {describe(Close(codes[0]))}"
        found = self.next_event(expected)
        right = Close(codes[0])
        if found is None:
            raise self._wrong(
                f"the server ends the stream without a Close frame; {expected}", right
            )
        if not isinstance(found, Close):
            raise self._wrong(f"the server sends {describe(found)}; {expected}", right)
        if found.code not in codes:
            raise self._wrong(f"the server closes with {found.code}; {expected}", right)
        # A frame after the Close is a problem that `next_event` raises.
        self.next_event("expected: the end of the TCP stream (7.1.1)")

    def next_event(self, expected: str) -> Event | None:
        """Return the next message or control frame of the server; None at the end of its stream.

        Raises:
            Wrong: The server sends nothing, breaks a rule, or ends the stream within a frame.

        """
        while True:
            for report in self._dissector.events():
                assert isinstance(report, FrameReport)
                self._last = report
                if report.verdict is not None:
                    figure = [*render(report, plain), *render_verdict(report.verdict)]
                    raise Wrong(f"the server breaks a rule: {report.verdict.reason}", *figure)
                if report.event is not None and not report.ignored:
                    return report.event
                if report.ignored:
                    raise self._wrong("the server sends a frame after its Close frame (5.5.1)")
            data = self._receive(expected)
            if not data:
                return None
            self._dissector.receive_data(data)

    def _receive(self, expected: str, received: bytes = b"") -> bytes:
        """Return the next bytes; none at the end of the stream."""
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except TimeoutError:
            problem = f"the server sends nothing for {self._patience:g} seconds; {expected}"
            if received:
                raise Wrong(problem, *shown_head(received)) from None
            raise self._wrong(problem, incomplete=True) from None
        except OSError:  # the server has closed with input that it did not read
            return b""

    def _wrong(
        self, problem: str, right: Event | None = None, *, incomplete: bool = False
    ) -> Wrong:
        """Return a problem with the bytes that the checker sent, the answer, and a right answer."""
        details = [f"The checker sent {count(len(self._sent), 'byte')}:", *rows(self._sent)]
        if incomplete:
            self._last = None
            self._dissector.receive_eof()
            for report in self._dissector.events():
                assert isinstance(report, FrameReport)
                self._last = report
        if self._last is not None:
            details += ["", "The last frame of the server:", "", *render(self._last, plain)]
        if right is not None:
            data = encoded(right)
            details += [f"A right answer is, in {count(len(data), 'byte')}:", *rows(data)]
            if self._last is not None:
                details += difference(self._last.fields.data, data)
        return Wrong(problem, *details)
