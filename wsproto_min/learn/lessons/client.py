"""The other side: a client.

The client opens the connection (section 4.1), and masks its frames:

1. Connect, and send the request of step 2 with a key of 16 random bytes in
   base64: a new one for each connection.
2. Read the response up to its empty line. Go on only if its status is 101
   and its Sec-WebSocket-Accept fits the key: this proves that the server
   is no HTTP server, or a cache, that did not understand the request.
3. Mask each frame with a new random key, for example os.urandom(4). Web
   pages and proxies must not be able to predict it (section 10.3).
4. Refuse frames with MASK. All else is as in the server: partial reads,
   fragments, Pings, Close.
5. To close, send a Close frame and wait for the server's Close frame. The
   server ends the TCP connection first, so that the client's port is free
   again at once (section 7.1.1).

      client                                        server
        |  text "Hello", masked                        |
        |--------------------------------------------->|
        |               text "Hello", in any fragments |
        |<---------------------------------------------|
        |  Close 1000, masked                          |
        |--------------------------------------------->|
        |                       Close 1000, then FIN   |
        |<---------------------------------------------|

With the arguments `connect URL`, your file sends the text Hello to a URL
such as ws://127.0.0.1:8765/, prints the message that the server sends
back, closes with 1000 and ends with status 0. If the handshake fails, it
sends no frame and ends with another status. The checker is the server.
This may be a file of its own: `learn 14 check my_client.py`.
"""

from __future__ import annotations

import re
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Pong, Role
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import plain
from wsproto_min.frames import encode_frame
from wsproto_min.handshake import accept_key
from wsproto_min.http_reader import HeadReader, parse_request
from wsproto_min.learn.answers import describe
from wsproto_min.learn.client_frames import head_lines, rows
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case, Step
from wsproto_min.server_handshake import accept
from wsproto_min.testing.raw_frame import KEY

_PART = 50  # bytes of a response
_SHORT_PAUSE = 0.01  # seconds after each part of a response
_PAUSE = 0.1  # seconds after each part of an answer
_MAX_SHOWN = 2000  # bytes of an invalid request
_ANSWER = "Bonjour"
_PING = b"are you there?"
_CLOSE = bytes.fromhex("88 02 03 e8")

_Part = tuple[bytes, str]
"""Bytes of the server, and a hint for a client that acts on them too early."""

_IN_A_FRAME = "after a part of a frame; receive until the frame is complete"
_IN_A_MESSAGE = "after a fragment with FIN 0; the message ends with FIN 1"


def _one_frame() -> list[_Part]:
    frame = encode_frame(Opcode.TEXT, _ANSWER.encode())
    return [(frame[:1], _IN_A_FRAME), (frame[1:4], _IN_A_FRAME), (frame[4:], "")]


def _fragments_and_ping() -> list[_Part]:
    first = encode_frame(Opcode.TEXT, _ANSWER[:3].encode(), fin=False)
    ping = encode_frame(Opcode.PING, _PING)
    second = encode_frame(Opcode.CONTINUATION, _ANSWER[3:].encode(), fin=False)
    return [
        (first[:4], _IN_A_FRAME),
        (first[4:], _IN_A_MESSAGE),
        (ping[:5], _IN_A_FRAME),
        (ping[5:], _IN_A_MESSAGE),
        (second, _IN_A_MESSAGE),
        (encode_frame(Opcode.CONTINUATION, b""), ""),
    ]


class _Conversation:
    """The checker's end of a connection from the student's client."""

    def __init__(self, sock: socket.socket, program: Program) -> None:
        self._socket = sock
        self._program = program
        self._patience = program.patience
        self._dissector = Dissector(Role.CLIENT)
        self._keys: list[bytes] = []

    def receive_request(self) -> bytes:
        """Return the response 101 to the client's request, after a check of the request."""
        reader = HeadReader(is_request=True)
        received = b""
        try:
            while (head := reader.next_head()) is None:
                data = self._receive("within its request")
                received += data
                reader.receive_data(data)
            request = parse_request(head)
            response = accept(request).response
        except HandshakeError as error:
            problem = f"the request is invalid: {error.reason}"
            raise Wrong(problem, *head_lines(received[:_MAX_SHOWN])) from None
        except TimeoutError:
            problem = "the client's request has no empty line at its end"
            raise Wrong(problem, *head_lines(received)) from None
        if reader.trailing_data:
            raise Wrong("the client sends bytes before it has the response (4.1)")
        key = request.headers.get("Sec-WebSocket-Key") or ""
        if key in self._program.client_keys:
            raise Wrong("the client sends the key of an earlier request; choose each at random")
        self._program.client_keys.add(key)
        return response.encode()

    def send(self, data: bytes) -> None:
        """Send bytes. If the client has gone, the next event reports it."""
        with suppress(ConnectionError):
            self._socket.sendall(data)

    def close(self) -> None:
        """Answer the client's Close, and end the stream, after a check that it waits for both."""
        self._socket.settimeout(_PAUSE)
        late = self._dissector.next_event() is not None
        try:
            if not late and not self._socket.recv(1):
                raise ConnectionError
            raise Wrong("the client sends bytes after its Close frame (5.5.1)")
        except TimeoutError:
            self._socket.sendall(_CLOSE)
            self._socket.shutdown(socket.SHUT_WR)
        except ConnectionError:
            problem = "the client ends the connection without waiting for the server's Close frame"
            raise Wrong(problem) from None

    def next_event(self, state: str, patience: float | None = None) -> Event | None:
        """Return the next message or control frame.

        Args:
            state: The client's state, for a problem.
            patience: Return None after so many seconds; None: raise `Wrong` after the patience.

        """
        self._socket.settimeout(patience or self._patience)
        while True:
            for report in self._dissector.events():
                assert isinstance(report, FrameReport)
                self._keys.append(report.fields.mask or b"")
                if report.verdict is not None:
                    figure = [*render(report, plain), *render_verdict(report.verdict)]
                    raise Wrong(f"the client breaks a rule: {report.verdict.reason}", *figure)
                return report.event
            try:
                self._dissector.receive_data(self._receive(state))
            except TimeoutError:
                if patience is not None:
                    return None
                problem = f"the client sends nothing for {self._patience:g} seconds {state}"
                raise Wrong(problem.rstrip()) from None

    def has_failed(self) -> bool:
        """Return True if the client closes with 1002, or ends the connection."""
        self._socket.settimeout(self._patience)
        try:
            with suppress(ConnectionError):
                self._dissector.receive_data(self._socket.recv(1 << 16))
        except TimeoutError:
            return False
        report = self._dissector.next_event()  # None at the end of the stream
        event = report.event if isinstance(report, FrameReport) else None
        if isinstance(event, Close):
            return event.code == CloseCode.PROTOCOL_ERROR
        return event is None

    def check_keys(self) -> None:
        """Check that the masking keys are random."""
        if bytes(4) in self._keys:
            raise Wrong("the client masks with 00 00 00 00; choose a random key (5.3)")
        used = self._program.client_keys
        for key in self._keys:
            if key.hex() in used:
                raise Wrong("the client masks two frames with one key; choose each at random (5.3)")
            used.add(key.hex())

    def expect_end(self) -> None:
        """Expect that the client ends its stream without a frame."""
        self._socket.settimeout(self._patience)
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            return
        except TimeoutError:
            raise Wrong("the handshake fails, but the client does not end") from None
        if data:
            raise Wrong("the handshake fails, but the client sends a frame", *rows(data))

    def _receive(self, state: str) -> bytes:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            raise Wrong(f"the client ends the connection {state or 'without a Close frame'}")
        return data


def _talks(
    parts: list[_Part],
    program: Program,
    *,
    greeting: bytes = b"",
    change: Callable[[bytes], bytes] = bytes,
) -> None:
    """Be the server of the student's client: answer Hello in parts, and close.

    Args:
        parts: The answer. The server pauses after each part, so a client that takes a part for
            the message acts too early.
        greeting: Frames at the end of the response, in the same packet: a Ping.
        change: Changes the response. It arrives in parts.
        program: The student's program.

    """
    with program.connecting() as (sock, finish):
        conversation = _Conversation(sock, program)
        response = change(conversation.receive_request())
        for begin in range(0, len(response), _PART):
            end = begin + _PART
            conversation.send(response[begin:end] + (greeting if end >= len(response) else b""))
            time.sleep(_SHORT_PAUSE)
        remaining = deque(parts)
        pings = [_PING] * (greeting + b"".join(data for data, _ in parts)).count(_PING)
        state, received = "", False
        while True:
            patience = _PAUSE if received and remaining else None
            event = conversation.next_event(state, patience)
            if event is None:
                data, state = remaining.popleft()
                conversation.send(data)
            elif event == "Hello" and not received:
                received = True
            elif isinstance(event, Ping):
                conversation.send(encode_frame(Opcode.PONG, event.payload))
            elif isinstance(event, Pong):
                if event.payload in pings:  # others need no answer (5.5.3)
                    pings.remove(event.payload)
            elif isinstance(event, Close):
                break
            else:
                raise Wrong(f"the client sends {describe(event)}; expected: the text 'Hello'")
        if not received:
            raise Wrong("the client closes without the text 'Hello'")
        if remaining:
            raise Wrong(f"the client closes {state}")
        if event.code != CloseCode.NORMAL_CLOSURE:
            raise Wrong(f"the client closes with {event.code}; expected: 1000")
        if pings:
            raise Wrong("the client closes without a Pong to a Ping of the server (5.5.2)")
        conversation.check_keys()
        conversation.close()
        status, output = finish()
    if output.strip() != _ANSWER:
        raise Wrong(f"the client must print the answer, {_ANSWER}; it prints {output[:80]!r}")
    if status:
        raise Wrong(f"the client ends with status {status}; expected: 0")


def _refuses(change: Callable[[bytes], bytes], program: Program) -> None:
    """Answer with a changed response; expect that the client ends without a frame."""
    with program.connecting() as (sock, finish):
        conversation = _Conversation(sock, program)
        conversation.send(change(conversation.receive_request()))
        conversation.expect_end()
        sock.close()
        status, _ = finish()
    if not status:
        raise Wrong("the handshake fails, but the client ends with status 0")


def _refuses_masked_frames(program: Program) -> None:
    """Send a masked frame; expect a Close with 1002, or the end of the stream."""
    with program.connecting() as (sock, finish):
        conversation = _Conversation(sock, program)
        conversation.send(conversation.receive_request())
        while conversation.next_event("before the text 'Hello'") != "Hello":
            pass
        conversation.send(encode_frame(Opcode.TEXT, _ANSWER.encode(), mask=KEY))
        if not conversation.has_failed():
            raise Wrong("the client accepts a masked frame of the server (5.1)")
        sock.close()
        finish()


def _with_accept_key(name: str, key: str, response: bytes) -> bytes:
    line = f"{name}: {key}" if key else f"{name}: \\g<1>"
    return re.sub(rb"(?i)sec-websocket-accept: ([^\r]*)", line.encode(), response)


def _with_status(line: str, response: bytes) -> bytes:
    return response.replace(b"HTTP/1.1 101 Switching Protocols", line.encode())


def _in_lower_case(response: bytes) -> bytes:
    """Return the response with header names in lower case, and spaces around the values."""
    return re.sub(rb"(?m)^([A-Za-z-]+): ", lambda found: found[1].lower() + b":  ", response)


_ACCEPT = "Sec-WebSocket-Accept"
_WRONG_RESPONSES: dict[str, Callable[[bytes], bytes]] = {
    "a wrong accept key": partial(_with_accept_key, _ACCEPT, accept_key("A" * 22 + "==")),
    "the accept key in another header": partial(_with_accept_key, "X-Accept", ""),
    "the status 200": partial(_with_status, "HTTP/1.1 200 OK"),
    "the status 404 and 101 in its text": partial(_with_status, "HTTP/1.1 404 x 101 x"),
}

STEP = Step.from_docstring(
    __doc__,
    [
        Case("an answer whose frame arrives in parts", partial(_talks, _one_frame())),
        Case("fragments and a Ping", partial(_talks, _fragments_and_ping())),
        Case(
            "a Ping together with the response",
            partial(_talks, _one_frame(), greeting=encode_frame(Opcode.PING, _PING)),
        ),
        Case(
            "a response with header names in lower case",
            partial(_talks, _one_frame(), change=_in_lower_case),
        ),
        *(
            Case(f"a response with {name}", partial(_refuses, change))
            for name, change in _WRONG_RESPONSES.items()
        ),
        Case("a masked frame of the server", _refuses_masked_frames),
    ],
)
