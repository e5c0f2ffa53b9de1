"""Partial reads.

TCP carries a stream of bytes, not packets. One `recv` may return a part of
a frame, the end of one frame and the start of the next, or the end of the
request together with the first frame:

    sent      [request     ][frame 1    ][frame 2 ]
    received  [reque][st  ][frame 1  ]
              [fr][ame 2 ] ...

So keep received bytes in a buffer that lives as long as the connection:

1. Append the bytes of each `recv` to the buffer.
2. While the buffer begins with a whole frame, take this frame out of it
   and answer.
3. Otherwise keep the buffer and receive more.

A frame is whole if the buffer has its 2 bytes of header, then the longer
length, the key and the payload. Each of them may be missing. Bytes behind
the empty line of the request belong to the first frame.

A function `next_frame(buffer)` is a good form: it takes a whole frame out
of the buffer and returns it, or returns None. Step 12 can use it unchanged.

Another way is a function `read_exactly(n)`: it returns n bytes, and keeps
the bytes that it received too many. `makefile("rb").read(n)` of a socket
is such a function. It waits, so step 12 then needs threads or asyncio.

With asyncio, `start_server` and these methods do most of the steps 6 and 12:
readuntil for the request, readexactly for frames, write_eof to half-close,
wait_for as a time limit, and drain, which waits for a slow reader.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterator
from itertools import chain, repeat

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.learn.client_frames import message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_SEED = 6455


def _random_sizes() -> Iterator[int]:
    source = random.Random(_SEED)
    while True:
        yield source.randint(1, 30)


def _request() -> tuple[bytes, str]:
    key = base64.b64encode(os.urandom(16)).decode()
    return upgrade_request("127.0.0.1", "/", key), key


def _request_in_single_bytes(program: Program) -> None:
    request, key = _request()
    with Exchange(program) as exchange:
        exchange.send_in_parts(request, repeat(1))
        exchange.receive_acceptance(key)


def _frames_in_single_bytes(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        for data in ("Hello", "", "x" * 130):
            exchange.send_in_parts(message(data), repeat(1))
            exchange.expect(data)


def _cut_within_the_long_length(program: Program) -> None:
    """Cut a frame of 65,536 bytes within its length and its key."""
    data = patterned(65536)
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send_in_parts(message(data), chain([3, 4, 4], repeat(30_000)))
        exchange.expect(data)


def _two_frames_at_once(program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(message("first") + message(b"second") + message(""))
        exchange.expect("first", b"second", "")


def _request_with_a_frame(program: Program) -> None:
    request, key = _request()
    with Exchange(program) as exchange:
        exchange.send(request + message("early"))
        exchange.receive_acceptance(key)
        exchange.expect("early")


def _request_with_a_part_of_a_frame(program: Program) -> None:
    request, key = _request()
    frame = message("early")
    with Exchange(program) as exchange:
        exchange.send_in_parts(request + frame, chain([len(request) + 3], repeat(len(frame))))
        exchange.receive_acceptance(key)
        exchange.expect("early")


def _random_parts(program: Program) -> None:
    messages = [f"message {number}" * (number % 12) for number in range(40)]
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send_in_parts(b"".join(map(message, messages)), _random_sizes())
        exchange.expect(*messages)


STEP = Step.from_docstring(
    __doc__,
    [
        Case("frames in single bytes", _frames_in_single_bytes),
        Case("a frame that is cut within its length", _cut_within_the_long_length),
        Case("three frames at once", _two_frames_at_once),
        Case("the request in single bytes", _request_in_single_bytes),
        Case("the request and a frame at once", _request_with_a_frame),
        Case("the request and a part of a frame", _request_with_a_part_of_a_frame),
        Case("40 frames in parts of random sizes", _random_parts),
    ],
    restarts=True,
)
