"""Limits.

A frame of 14 bytes can announce a payload of 2^63 bytes, and a message can
have fragments without end. So a server needs limits, and checks them as
soon as a header announces too much:

    82 ff 7f ff ff ff ff ff ff ff    a frame of 9,223,372,036,854,775,807
                                     bytes: refuse it, allocate nothing

With the arguments `serve PORT LIMIT`, my_ws.py accepts messages of up to
LIMIT bytes: sys.argv[3]. Without LIMIT the limit is 1048576.

- A larger message is refused with 1009 at the header that announces it,
  before its payload arrives. The fragments of a message count together.
- A message has at most max(128, LIMIT // 64) fragments: 1024 for LIMIT
  65536. Empty fragments count. The next one is answered with 1008. Smaller
  fragments than 64 bytes on average are rare, and each one costs time.
- A request whose head, without its empty line, has more than 16384 bytes is
  refused with 431, also if it never ends.

The checker uses LIMIT 65536.
"""

from __future__ import annotations

from functools import partial

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.learn.client_frames import fragments, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_LIMIT = 65536
_MOST_FRAGMENTS = _LIMIT // 64
_MAX_HEAD = 16384  # bytes
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_HEAD = upgrade_request("127.0.0.1", "/", _KEY).removesuffix(b"\r\n")


def _echoes(frames: list[bytes], data: bytes, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(b"".join(frames))
        exchange.expect(data)


def _refuses(data: bytes, codes: tuple[int, ...], program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(data)
        exchange.expect_close(*codes)


def _header(length: int, opcode: int = Opcode.BINARY, *, fin: bool = True) -> bytes:
    """Return a client's header that announces `length` bytes, over 65535."""
    first = (0x80 if fin else 0) | opcode
    return bytes([first, 0xFF]) + length.to_bytes(8, "big") + bytes(4)


def _head(size: int, *, ends: bool) -> bytes:
    """Return the head of a request, of `size` bytes without its empty line."""
    start = _HEAD + b"X-Long: "
    return start.ljust(size, b"x") + (b"\r\n\r\n" if ends else b"")


def _refuses_head(data: bytes, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.send(data)
        exchange.expect_refusal({431}, "status 431")


def _accepts_long_head(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.send(_head(_MAX_HEAD, ends=True))
        exchange.receive_acceptance(_KEY)


def _limits_without_an_argument(program: Program) -> None:
    """Start the program without LIMIT; expect the limit 1048576."""
    data = patterned(1 << 20)
    with program.variant(None) as other:
        _echoes([message(data)], data, other)
        _refuses(_header(len(data) + 1), (1009,), other)


def _counts_each_message_alone(program: Program) -> None:
    """Send three messages with the most fragments on one connection."""
    with Exchange(program) as exchange:
        exchange.open()
        for _ in range(3):
            exchange.send(b"".join(_MANY_FRAGMENTS))
            exchange.expect(_LARGEST[:2000])


_LARGEST = patterned(_LIMIT)
_MANY_FRAGMENTS = fragments(_LARGEST[:2000], *range(_MOST_FRAGMENTS - 1))
_HALF = message(_LARGEST[: _LIMIT // 2], fin=False)
_EMPTY = masked(Opcode.CONTINUATION, fin=False)
_SHORT = masked(Opcode.CONTINUATION, b"x", fin=False)

STEP = Step.from_docstring(
    __doc__,
    [
        Case("a message of LIMIT bytes", partial(_echoes, [message(_LARGEST)], _LARGEST)),
        Case(
            "LIMIT bytes in two fragments",
            partial(_echoes, fragments(_LARGEST, 1000), _LARGEST),
        ),
        Case(f"{_MOST_FRAGMENTS} fragments, three times", _counts_each_message_alone),
        Case("LIMIT + 1 bytes of binary", partial(_refuses, _header(_LIMIT + 1), (1009,))),
        Case("LIMIT + 1 bytes of text", partial(_refuses, _header(_LIMIT + 1, 1), (1009,))),
        Case(
            "LIMIT + 1 bytes with FIN 0", partial(_refuses, _header(_LIMIT + 1, fin=False), (1009,))
        ),
        Case("2^32 + 5 bytes", partial(_refuses, _header((1 << 32) + 5), (1009,))),
        Case("2^63 - 1 bytes", partial(_refuses, _header((1 << 63) - 1), (1009,))),
        Case(
            "fragments of LIMIT + 1 bytes together",
            partial(
                _refuses,
                _HALF + masked(Opcode.CONTINUATION, _LARGEST[: _LIMIT // 2 + 1]),
                (1009,),
            ),
        ),
        Case(
            f"{_MOST_FRAGMENTS + 1} empty fragments",
            partial(_refuses, message(b"", fin=False) + _EMPTY * _MOST_FRAGMENTS, (1008,)),
        ),
        Case(
            f"{_MOST_FRAGMENTS + 1} fragments of one byte",
            partial(_refuses, message(b"x", fin=False) + _SHORT * _MOST_FRAGMENTS, (1008,)),
        ),
        Case("a head of 16384 bytes", _accepts_long_head),
        Case("a head of 16385 bytes", partial(_refuses_head, _head(_MAX_HEAD + 1, ends=True))),
        Case("a head without end", partial(_refuses_head, _head(4 * _MAX_HEAD, ends=False))),
        Case("no LIMIT", _limits_without_an_argument),
        Case("a message after all of them", partial(_echoes, [message(b"after")], b"after")),
    ],
    limit=_LIMIT,
)
