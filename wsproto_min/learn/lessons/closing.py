"""The closing handshake, with codes.

Either side ends a connection with a Close frame, opcode 8 (sections 5.5.1,
7.1 and 7.4). Its payload is empty, or a close code in two bytes and a
reason in UTF-8. The other side answers with a Close frame, and sends
nothing after it. Then the server ends the TCP connection first:

    client   88 85 ... 03 e8 62 79 65    code 1000, "bye"
    server   88 02 03 e8                 the same code
    server   (ends the TCP connection)

      client                               server
        |  Close 1000                        |
        |----------------------------------->|
        |                        Close 1000  |
        |<-----------------------------------|
        |                  end of the stream |
        |<-----------------------------------|

- Send the client's code back. For an empty Close send an empty Close, or
  1000.
- Answer the messages before the Close first, and ignore all bytes after it.
- Codes have meanings: 1000 normal, 1001 going away, 1002 protocol error,
  1007 invalid data, 1009 message too big, 1011 internal error. From 3000 to
  4999 they belong to libraries and applications.
- A client may vanish without a Close: at the end of the stream, or with an
  error of `recv`. The program closes the socket and goes on to serve.
- Before you close the socket, half-close it with shutdown(SHUT_WR), and read
  until the client ends its stream. Step 10 has the reason, and checks it.

A malformed request must not end your program either, such as a line without
a colon. Refuse a key that is not 16 bytes in base64 like a missing one.

From this step on the checker does not start your program again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Pong
from wsproto_min.learn.client_frames import close_frame, fragments, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step


def _closes(data: bytes, codes: tuple[int, ...], program: Program) -> None:
    """Send `data` with a Close frame in it; expect a Close frame with one of the codes."""
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(data)
        exchange.expect_close(*codes)


def _answers_before_closing(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(message("last") + masked(Opcode.PING, b"p") + close_frame(1000))
        exchange.expect("last", Pong(b"p"))
        exchange.expect_close(1000)


def _closes_in_single_bytes(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send_in_parts(close_frame(4001, b"done"), repeat(1))
        exchange.expect_close(4001)


def _refuses_key(key: str, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.send(upgrade_request("127.0.0.1", "/", key))
        exchange.expect_refusal()


def _vanish(leave: Callable[[Exchange], None], program: Program) -> None:
    """Leave without a Close frame; then expect that another connection is served."""
    with Exchange(program) as exchange:
        exchange.open()
        leave(exchange)
    _is_served(program)


def _within_a_frame(exchange: Exchange) -> None:
    exchange.send(message("Hello")[:4])


def _with_reset(exchange: Exchange) -> None:
    exchange.send(message("Hello"))
    exchange.reset()


def _vanish_early(data: bytes, program: Program) -> None:
    """Send bytes, perhaps a malformed request, and leave; expect that another one is served."""
    with Exchange(program) as exchange:
        exchange.send(data)
    _is_served(program)


def _is_served(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(message("next"))
        exchange.expect("next")
        exchange.send(close_frame(1000))
        exchange.expect_close(1000)


_LONG_REASON = close_frame(1000, "é".encode() * 61)
_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_EARLY = {
    "nothing": b"",
    "half a request": _HEAD[:20],
    "a header without a colon": _HEAD + b"Upgrade websocket\r\n\r\n",
    "a header with bytes over 127": _HEAD + b"X-Name: \xff\xc3\r\n\r\n",
    "a request line of one word": b"GET\r\n\r\n",
    "an empty line": b"\r\n\r\n",
}

STEP = Step.from_docstring(
    __doc__,
    [
        Case("code 1000 and a reason", partial(_closes, close_frame(1000, b"bye"), (1000,))),
        Case("an empty Close", partial(_closes, close_frame(), (1005, 1000))),
        Case("code 4999", partial(_closes, close_frame(4999), (4999,))),
        Case("messages before the Close are answered", _answers_before_closing),
        Case(
            "bytes after the Close are ignored",
            partial(_closes, close_frame(1001) + message("late") + b"\xff", (1001,)),
        ),
        Case(
            "a Close within a message",
            partial(_closes, fragments("Hello", 2)[0] + close_frame(1000), (1000,)),
        ),
        Case("a Close in single bytes", _closes_in_single_bytes),
        Case("a reason of 123 bytes", partial(_closes, _LONG_REASON, (1000,))),
        *(
            Case(f"the client leaves after {name}", partial(_vanish_early, data))
            for name, data in _EARLY.items()
        ),
        Case("the client ends the stream within a frame", partial(_vanish, _within_a_frame)),
        Case("the client resets the connection", partial(_vanish, _with_reset)),
        Case("a key that is not base64", partial(_refuses_key, "!")),
        Case("a key of 15 bytes", partial(_refuses_key, "A" * 20)),
        Case("a key of 17 bytes", partial(_refuses_key, "A" * 23 + "=")),
        Case("a key with - and _", partial(_refuses_key, "-_" * 11 + "==")),
    ],
)
