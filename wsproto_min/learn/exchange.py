"""The checker's client: an exchange of bytes with the student's server over a socket.

The `Dissector` reads the server's frames, so a wrong answer is shown as `explain` shows it.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Self

from wsproto_min.client_handshake import upgrade_request, validate_response
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import plain
from wsproto_min.explain.verdict import count
from wsproto_min.handshake import NegotiatedOptions
from wsproto_min.http import Response
from wsproto_min.http_reader import HeadReader, parse_response
from wsproto_min.learn.answers import compare, describe, encoded
from wsproto_min.learn.client_frames import ZERO_KEY, head_lines, masked, rows, shown_parts
from wsproto_min.learn.hints import find_hint
from wsproto_min.learn.program import Program, Wrong

_RECEIVE_SIZE = 1 << 16
_PAUSE = 0.001  # seconds between two parts
_STALL = 0.5  # seconds in which a socket takes nothing, so that its peer does not read
_MAX_SHOWN = 1 << 16  # bytes of the checker that a report describes
_NO_LIMIT = 1 << 40


class Exchange:
    """One connection to the student's server; a context manager that closes the socket.

    Args:
        program: The student's program.
        receive_buffer: Size of the kernel's receive buffer, in bytes; None for its default.

    Attributes:
        note: The part of the case in a few words, for a report; or empty.
        last_frame: The server's last frame, or None.

    """

    def __init__(self, program: Program, *, receive_buffer: int | None = None) -> None:
        self.note: str = ""
        self.last_frame: FrameFields | None = None
        self._program = program
        self._socket = program.connect(receive_buffer)
        self._socket.settimeout(program.patience)
        self._patience = program.patience
        self._dissector = Dissector(Role.SERVER, max_message_size=_NO_LIMIT)
        self._sent = bytearray()  # since the last right answer, up to _MAX_SHOWN
        self._sent_size = 0
        self._received = bytearray()  # all frames of the server
        self._last: FrameReport | None = None  # the server's last frame since then
        self._was_reset = False
        self._pings = 0  # of the server

    def __enter__(self) -> Self:
        """Return the exchange."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the socket. After a problem, first let the program write its own errors."""
        if isinstance(error[1], Wrong):
            self._program.keep_errors()
        self._socket.close()

    def reset(self) -> None:
        """Close the socket with RST, so that the server's `recv` raises ConnectionResetError."""
        linger = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    # The opening handshake

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
        response, head, rest = self._receive_response("a response with status 101")
        try:
            options = validate_response(response, key, compression=compression)
        except HandshakeError as error:
            raise self._wrong_response(error.reason, head) from None
        self._dissector = Dissector(
            Role.SERVER,
            context=HandshakeContext(options.compression),
            max_message_size=_NO_LIMIT,
        )
        self._dissector.receive_data(rest)
        self._received += rest
        frames = self._sent.partition(b"\r\n\r\n")[2]  # that came together with the request
        self._sent, self._sent_size = frames, len(frames)
        return options

    def expect_refusal(
        self,
        statuses: Collection[int] = range(200, 600),
        expected: str = "a refusal, such as status 400",
    ) -> Response:
        """Receive a response that refuses the handshake, and return it.

        Args:
            statuses: The right statuses.
            expected: The right response in a few words.

        Raises:
            Wrong: The response has another status.

        """
        response, head, _ = self._receive_response(expected)
        if response.status not in statuses:
            problem = f"the server answers with status {response.status}; expected: {expected}"
            raise self._wrong_response(problem, head)
        self.send(masked(Opcode.TEXT, b"late", key=ZERO_KEY))  # must not be answered
        try:
            rest = self._receive(time.monotonic() + self._patience)
        except TimeoutError:
            problem = "the server refuses the request, but does not close the connection"
            raise self._wrong_response(problem, head) from None
        if b"late" in rest:
            raise self._wrong_response("the server refuses the request, but serves it", head)
        return response

    def _receive_response(self, expected: str) -> tuple[Response, bytes, bytes]:
        reader = HeadReader()
        received = b""
        deadline = time.monotonic() + self._patience
        while True:
            if re.search(rb"(?<!\r)\n", received):
                problem = "a line of the response ends with LF, not with CR LF: \\r\\n in Python"
                raise self._wrong_response(problem, received)
            try:
                head = reader.next_head()
                if head is not None:
                    return parse_response(head), head + b"\r\n\r\n", reader.trailing_data
            except HandshakeError as error:
                raise self._wrong_response(error.reason, received) from None
            try:
                data = self._receive(deadline)
            except TimeoutError:
                problem = f"the server sends nothing for {self._patience:g} seconds"
                hint = "an empty line ends the request, and the client keeps its connection open"
                if received:
                    hint = "an empty line must end the response"
                problem = f"{problem}; expected: {expected}{self._in_note()}; {hint}"
                raise self._wrong_response(problem, received) from None
            if not data:
                problem = f"the server ends the stream; expected: {expected}{self._in_note()}"
                if received:
                    problem += "; an empty line must end the response"
                raise self._wrong_response(problem, received)
            received += data
            reader.receive_data(data)

    def _wrong_response(self, problem: str, received: bytes) -> Wrong:
        response = list(head_lines(received))
        title = "The server sent:" if response else "The server sent nothing."
        return Wrong(problem, *self._shown_sent(), title, *response)

    # Sending

    def send(self, data: bytes) -> None:
        """Send bytes at once. If the server does not take them, the next `expect` reports it."""
        self._sent += data[: _MAX_SHOWN - len(self._sent)]
        self._sent_size += len(data)
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

    def send_until_stalled(self, frame: bytes, limit: int) -> tuple[int, bytes]:
        """Send a frame again and again until the server takes no more bytes.

        Args:
            frame: The frame.
            limit: Bytes after which the server must have stopped reading.

        Returns:
            The number of frames that were begun, and the bytes that the last one lacks.

        Raises:
            Wrong: The server takes more bytes than `limit`.

        """
        self._socket.settimeout(_STALL)
        sent = 0
        rest = memoryview(frame)
        with suppress(OSError):  # a timeout, or the server has closed
            while sent < limit:
                taken = self._socket.send(rest)
                sent += taken
                rest = rest[taken:] or memoryview(frame)
        self._socket.settimeout(self._patience)
        if sent >= limit:
            raise Wrong(
                f"the server reads {sent >> 20} MiB from a client that reads nothing; stop reading"
                " a client while its write buffer is large"
            )
        begun = -(-sent // len(frame))
        return begun, bytes(rest) if sent % len(frame) else b""

    @contextmanager
    def sending(self, data: bytes) -> Iterator[None]:
        """Send bytes in a thread while the block runs, because the server may not read them."""
        thread = Thread(target=self.send, args=[data])
        thread.start()
        try:
            yield
        finally:
            thread.join()

    # Receiving

    def expect(self, *events: Event) -> None:
        """Receive these messages and control frames, in this order.

        Raises:
            Wrong: The server sends something else, or nothing, or breaks a rule.

        """
        for event in events:
            found = self._next_event(event)
            if found is None:
                raise self._wrong("the server ends the stream", event)
            if found != event:
                problem = f"the server sends {describe(found)}"
                frame = self.last_frame
                hint = None if frame is None else find_hint(frame, event, bytes(self._sent))
                difference = hint or compare(found, event)
                raise self._wrong(f"{problem}, and {difference}" if difference else problem, event)
            self._last = None
        self._forget_sent()

    def expect_close(self, *codes: int) -> None:
        """Receive a Close frame with one of these codes, and the end of the stream after it.

        1005 stands for an empty Close frame.

        Raises:
            Wrong: The server sends something else, or nothing, or breaks a rule.

        """
        right = Close(codes[0])
        found = self._next_event(right)
        if found is None:
            raise self._wrong("the server ends the stream without a Close frame", right)
        if not isinstance(found, Close) or found.code not in codes:
            raise self._wrong(f"the server sends {describe(found)}", right)
        # A frame after the Close is a problem that `_next_event` raises.
        self._next_event(None)

    def check_no_reset(self) -> None:
        """Check that the server has ended the stream with FIN.

        Raises:
            Wrong: It has closed the socket with bytes that it did not read, which sends RST.

        """
        if self._was_reset:
            raise Wrong(
                "the server closes its socket although the client's bytes are in it, so the"
                " system resets the connection, and the client may lose the Close frame;"
                " half-close the socket and read until the client ends its stream"
            )

    def _next_event(self, right: Event | None) -> Event | None:
        """Return the next message or control frame of the server; None at the end of its stream.

        Args:
            right: The right event; None for the end of the stream.

        Raises:
            Wrong: The server sends nothing, breaks a rule, or ends the stream within a frame.

        """
        deadline = time.monotonic() + self._patience
        while True:
            for report in self._dissector.events():
                assert isinstance(report, FrameReport)
                self._last = report
                self.last_frame = report.fields
                if report.verdict is not None:
                    # The report ends at the byte that breaks the rule, so read the whole frame.
                    whole = FrameFields(bytes(self._received[report.offset :]))
                    hint = find_hint(whole, right, bytes(self._sent))
                    problem = hint or f"the server breaks a rule: {report.verdict.reason}"
                    raise self._wrong(problem, right)
                if report.ignored:
                    raise self._wrong("the server sends a frame after its Close frame (5.5.1)")
                if isinstance(report.event, Ping):
                    self._pings += 1
                    self._socket.sendall(masked(Opcode.PONG, report.event.payload))
                elif report.event is not None:
                    return report.event
            try:
                data = self._receive(deadline)
            except TimeoutError:
                raise self._wrong(self._silence(), right) from None
            if not data:
                return None
            self._dissector.receive_data(data)
            self._received += data

    def _receive(self, deadline: float) -> bytes:
        """Return the next bytes; none at the end of the stream. Raises `TimeoutError`."""
        self._socket.settimeout(max(_PAUSE, deadline - time.monotonic()))
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except ConnectionError:  # the server has closed with input that it did not read
            self._was_reset = True
            return b""
        finally:
            self._socket.settimeout(self._patience)

    def _silence(self) -> str:
        """Return the problem of a server that sends nothing, or an incomplete frame."""
        self._dissector.receive_eof()
        report = self._dissector.next_event()
        if isinstance(report, FrameReport) and report.fields.remaining:
            self._last = report
            frame = report.fields
            announced = "" if frame.length is None else f" of {count(frame.length, 'byte')}"
            return (
                f"the server's frame is not complete: of its payload{announced},"
                f" {count(len(frame.wire_payload), 'byte')} have come"
            )
        if self._last is not None and not self._last.fields.fin:
            return "the server's message does not end: its last frame has FIN 0"
        but = f" except {count(self._pings, 'Ping')} of its own" if self._pings else ""
        return f"the server sends nothing{but} for {self._patience:g} seconds"

    def _wrong(self, problem: str, right: Event | None = None) -> Wrong:
        """Return a problem with the checker's bytes, the server's frame, and a right answer."""
        expected = "the end of the TCP stream (7.1.1)" if right is None else describe(right)
        details = self._shown_sent()
        last = self._last
        if last is not None:
            details += ["The last frame of the server:", "", *render(last, plain)]
            if last.verdict is not None:
                details += [*render_verdict(last.verdict), ""]
        if right is not None:
            data = encoded(right)
            plainly = ", not compressed" if last is not None and last.fields.rsv[0] else ""
            title = f"A right answer is{plainly}, in {count(len(data), 'byte')}:"
            details += [title, *rows(data)]
            if isinstance(right, Close) and right.code == CloseCode.NO_STATUS_RCVD:
                details.append("It is empty, because the client sent no code.")
        return Wrong(f"{problem}; expected: {expected}{self._in_note()}", *details)

    def _in_note(self) -> str:
        return f" ({self.note})" if self.note else ""

    def _shown_sent(self) -> list[str]:
        """Return the lines about the checker's bytes since the last right answer."""
        if not self._sent:
            return []
        title = f"The checker sent {count(self._sent_size, 'byte')}:"
        return [title, *shown_parts(bytes(self._sent)), ""]

    def _forget_sent(self) -> None:
        self._sent.clear()
        self._sent_size = 0
