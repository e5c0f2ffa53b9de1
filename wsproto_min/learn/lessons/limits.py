"""Limits.

A frame of 14 bytes can announce a payload of 2^63 bytes, and a message can
have fragments without end. So a server needs limits, and checks them as
soon as a header announces too much:

    82 ff 7f ff ff ff ff ff ff ff    a frame of 9,223,372,036,854,775,807
                                     bytes: refuse it, allocate nothing

With the arguments `serve PORT LIMIT`, my_ws.py accepts messages of up to
LIMIT bytes. Without LIMIT the limit is 1048576.

- A larger message is refused with 1009 at the header that announces it,
  before its payload arrives. The fragments of a message count together.
- A message has at most LIMIT / 64 fragments, or 128 if this is more: 1024
  for LIMIT 65536. Empty fragments count. Answer one more with 1008. Smaller
  fragments than 64 bytes on average are rare, and each one costs time.
- A request whose head has more than 16384 bytes is refused with 431, also
  if it never ends.

The checker uses LIMIT 65536.
"""

from __future__ import annotations

from functools import partial

from wsproto_min.codes import Opcode
from wsproto_min.learn.client_frames import fragments, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_LIMIT = 65536
_MOST_FRAGMENTS = _LIMIT // 64
_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


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


def _header(length: int, opcode: int = Opcode.BINARY) -> bytes:
    """Return a client's header that announces `length` bytes, over 65535."""
    return bytes([0x80 | opcode, 0xFF]) + length.to_bytes(8, "big") + bytes(4)


def _refuses_endless_head(program: Program) -> None:
    """Send a request that does not end; expect a refusal, or the end of the stream."""
    with Exchange(program) as exchange:
        exchange.send(_HEAD + b"X-Long: " + b"x" * (1 << 16))
        exchange.expect_refusal({400, 431}, "status 431")


def _serves_after_them(program: Program) -> None:
    _echoes([message(b"after")], b"after", program)


_LARGEST = patterned(_LIMIT)
_MANY_FRAGMENTS = fragments(_LARGEST[:2000], *range(_MOST_FRAGMENTS - 1))
_HALF = message(_LARGEST[: _LIMIT // 2], fin=False)

STEP = Step.from_docstring(
    __doc__,
    [
        Case("a message of LIMIT bytes", partial(_echoes, [message(_LARGEST)], _LARGEST)),
        Case(
            "LIMIT bytes in two fragments",
            partial(_echoes, fragments(_LARGEST, 1000), _LARGEST),
        ),
        Case(f"{_MOST_FRAGMENTS} fragments", partial(_echoes, _MANY_FRAGMENTS, _LARGEST[:2000])),
        Case("a header that announces LIMIT + 1 bytes", partial(_refuses, _header(65537), (1009,))),
        Case(
            "a header that announces 2^63 - 1 bytes",
            partial(_refuses, _header((1 << 63) - 1), (1009,)),
        ),
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
            partial(
                _refuses,
                message(b"", fin=False) + masked(Opcode.CONTINUATION, fin=False) * _MOST_FRAGMENTS,
                (1008,),
            ),
        ),
        Case("a request without end", _refuses_endless_head),
        Case("a message after all of them", _serves_after_them),
    ],
    limit=_LIMIT,
)
