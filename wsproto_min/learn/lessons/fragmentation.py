"""Fragmentation, with a Ping in between.

A sender may split a message into frames, before it knows the end (section
5.4). The first frame has the opcode and FIN 0. More frames follow with the
opcode 0, *continuation*. The last one has FIN 1. A fragment may be empty:

    01 83 ... "Hel"   FIN 0, text
    00 80 ...         FIN 0, continuation
    80 82 ... "lo"    FIN 1, continuation: the message is "Hello"

                  text or binary, FIN 1
                +----------------------+
                v                      |
    start --> [ no message ] ----------+
                |      ^
         FIN 0  v      |  continuation, FIN 1
              [ message under way ] <--+
                    |                  |  continuation, FIN 0
                    +------------------+

Control frames are short frames about the connection (section 5.5): 8 is
Close, 9 is Ping and A is Pong. They come between two fragments, and never
change the message. A fragment with FIN 0 needs no answer, but a Ping does:

- Answer a Ping at once with a Pong of the same payload (5.5.2, 5.5.3).
- Do nothing for a Pong that you did not ask for.

Send each message back when it is complete. You may send it in one frame,
or in fragments.

By hand: write the text Hé in hex as a server sends it in two fragments.
The first one ends within the é, which is c3 a9. Put an empty Ping between
them, and check what you wrote:

    python3 -m wsproto_min explain --role server 01 02 ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat

from wsproto_min.codes import Opcode
from wsproto_min.connection import Event, Pong
from wsproto_min.learn.client_frames import fragments, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_Exchanges = list[tuple[bytes, list[Event]]]


def _ping(payload: bytes) -> bytes:
    return masked(Opcode.PING, payload)


def _exchanges(make: Callable[[], _Exchanges], program: Program) -> None:
    """Send bytes and expect their answers, pair by pair."""
    with Exchange(program) as exchange:
        exchange.open()
        for data, events in make():
            exchange.send(data)
            exchange.expect(*events)


def _two_fragments() -> _Exchanges:
    return [(b"".join(fragments("Hello", 3)), ["Hello"])]


def _seven_fragments() -> _Exchanges:
    data = patterned(300)
    frames = fragments(data, 0, 0, 1, 130, 131, 300)
    return [(b"".join(frames), [data]), (message("next"), ["next"])]


def _ping_within() -> _Exchanges:
    first, second, last = fragments("Hello", 3, 3)
    return [
        (first + _ping(b"are you there?"), [Pong(b"are you there?")]),
        (second + masked(Opcode.PONG, b"not asked") + last, ["Hello"]),
    ]


def _pings() -> _Exchanges:
    return [
        (_ping(b""), [Pong(b"")]),
        (_ping(patterned(125)), [Pong(patterned(125))]),
        (_ping(b"1"), [Pong(b"1")]),
        (message("after"), ["after"]),
    ]


def _pong() -> _Exchanges:
    return [(masked(Opcode.PONG) + masked(Opcode.PONG, b"x") + message("only"), ["only"])]


def _messages_in_turn() -> _Exchanges:
    frames = [*fragments("one", 1), *fragments(b"two", 0, 2), message("three"), *fragments("", 0)]
    return [(b"".join(frames), ["one", b"two", "three", ""])]


def _single_bytes(program: Program) -> None:
    """Send fragments and a Ping byte by byte; expect the Pong first."""
    first, last = fragments("Hello", 2)
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send_in_parts(first + masked(Opcode.PING, b"now") + last, repeat(1))
        exchange.expect(Pong(b"now"), "Hello")


def _no_answer_to_a_fragment(program: Program) -> None:
    """Expect the Pong as the only answer, although a whole fragment came before the Ping."""
    with Exchange(program) as exchange:
        exchange.open()
        for part in fragments("abc", 1, 2):
            exchange.send(part + masked(Opcode.PING, part[-1:]))
            exchange.expect(*(["abc"] if part[0] & 0x80 else []), Pong(part[-1:]))


STEP = Step.from_docstring(
    __doc__,
    [
        Case("a text in two fragments", partial(_exchanges, _two_fragments)),
        Case("a Ping between two fragments", partial(_exchanges, _ping_within)),
        Case("Pings with 0, 125 and 1 bytes", partial(_exchanges, _pings)),
        Case("Pongs that nobody asked for", partial(_exchanges, _pong)),
        Case("no answer to a fragment", _no_answer_to_a_fragment),
        Case("empty fragments, and a message after them", partial(_exchanges, _seven_fragments)),
        Case("text and binary messages in turn", partial(_exchanges, _messages_in_turn)),
        Case("fragments and a Ping in single bytes", _single_bytes),
    ],
    restarts=True,
)
