"""A selectors loop for many peers.

A server that waits for one client lets all others wait. Non-blocking
sockets and one selector serve all of them in one thread:

    selector.register(listener, EVENT_READ)
    while True:
        for each socket that is ready:
            listener: accept, setblocking(False), register
            readable: recv once, parse, append the answers to its buffer
            writable: send from its buffer, keep the rest

      ready?  +----------+   recv    +--------+  answers  +-----------+
    --------->| selector |---------->| parser |---------->| write     |
              |          |<----------|        |           | buffer    |
              +----------+  more     +--------+           +-----------+
                   ^                                            |
                   +------------- EVENT_WRITE, send ------------+

- Each connection has its own buffers and its own state.
- `send` takes only as many bytes as the kernel has room for, and returns
  their number. Keep the rest, and wait for EVENT_WRITE only while there is
  a rest. `sendall` would wait.
- A client that sends and does not read makes its buffer grow. Stop reading
  it while its buffer is large, and continue when it has shrunk.
- An error of one socket ends this connection only.
- To close: mark the connection, send the rest of its buffer, half-close the
  socket, and read until the client ends its stream.
- The parser must not wait: with too few bytes it returns, and continues with
  the next ones. Keep its state in an object for each connection.

Threads are another way, and pass this step too. They cost more memory.
"""

from __future__ import annotations

from contextlib import ExitStack

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Pong
from wsproto_min.explain.verdict import count
from wsproto_min.learn.client_frames import close_frame, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_PEERS = 100
_IN_TURN = 300  # more than the descriptors that the program has on Linux
_LARGE = 1 << 19
_MAX_UNREAD = 64 << 20  # bytes, far more than the kernel's buffers
_SMALL_BUFFER = 1 << 13  # bytes


def _opened(program: Program, stack: ExitStack, others: int = 1) -> Exchange:
    """Open a connection beside the open ones."""
    exchange = stack.enter_context(Exchange(program))
    exchange.note = f"while {count(others, 'other connection')} may be open"
    exchange.open()
    return exchange


def _many_at_once(program: Program) -> None:
    """Open many connections; let the last one speak first."""
    with ExitStack() as stack:
        exchanges = [_opened(program, stack, number) for number in range(_PEERS)]
        for number, exchange in reversed(list(enumerate(exchanges))):
            exchange.send(message(f"peer {number}"))
        for number, exchange in enumerate(exchanges):
            exchange.expect(f"peer {number}")


def _halves(program: Program) -> None:
    """Send half a frame to each connection, then the other halves in another order."""
    with ExitStack() as stack:
        exchanges = [_opened(program, stack) for _ in range(10)]
        frames = [message(f"peer {number}" * 3) for number in range(10)]
        for exchange, frame in zip(exchanges, frames, strict=True):
            exchange.send(frame[:9])
        for exchange, frame in reversed(list(zip(exchanges, frames, strict=True))):
            exchange.send(frame[9:])
        for number, exchange in enumerate(exchanges):
            exchange.expect(f"peer {number}" * 3)


def _half_a_request(program: Program) -> None:
    """Leave a connection within its request; expect that others are served."""
    request = upgrade_request("127.0.0.1", "/", "dGhlIHNhbXBsZSBub25jZQ==")
    with ExitStack() as stack:
        waiting = stack.enter_context(Exchange(program))
        waiting.send(request[:20])
        other = _opened(program, stack)
        other.send(message("quick"))
        other.expect("quick")
        waiting.send(request[20:])
        waiting.receive_acceptance("dGhlIHNhbXBsZSBub25jZQ==")


def _slow_reader(program: Program) -> None:
    """Send on one connection until it stalls; expect that others are served meanwhile."""
    data = patterned(_LARGE)
    with ExitStack() as stack:
        other = _opened(program, stack)
        slow = stack.enter_context(Exchange(program, receive_buffer=_SMALL_BUFFER))
        slow.open()
        frames, rest = slow.send_until_stalled(message(data), _MAX_UNREAD)
        for number in range(5):
            other.send(message(f"message {number}") + masked(Opcode.PING, b"p"))
            other.expect(f"message {number}", Pong(b"p"))
        late = _opened(program, stack)
        late.send(message("late"))
        late.expect("late")
        with slow.sending(rest):
            slow.expect(*[data] * frames)


def _many_in_turn(program: Program) -> None:
    """Open and close many connections; expect that the server closes its sockets, too."""
    for _ in range(_IN_TURN):
        with Exchange(program) as exchange:
            exchange.open()
            exchange.send(close_frame(1000))
            exchange.expect_close(1000)


def _resets(program: Program) -> None:
    """Reset some connections at once; expect that another one is served."""
    with ExitStack() as stack:
        other = _opened(program, stack)
        for data in (b"", message("x")[:3], message(patterned(_LARGE))):
            with Exchange(program) as exchange:
                exchange.open()
                exchange.send(data)
                exchange.reset()
        other.send(message("still here"))
        other.expect("still here")


STEP = Step.from_docstring(
    __doc__,
    [
        Case(f"{_PEERS} connections at once", _many_at_once),
        Case("halves of frames on ten connections", _halves),
        Case("a client that stops within its request", _half_a_request),
        Case("a client that does not read", _slow_reader),
        Case(f"{_IN_TURN} connections in turn", _many_in_turn),
        Case("clients that reset their connections", _resets),
    ],
    limit=_LARGE,
)
