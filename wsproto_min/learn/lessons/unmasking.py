"""Unmasking.

A client chooses a random masking key of 4 bytes for each frame. It sends
byte i of the payload XOR byte i modulo 4 of the key (section 5.3). The
server does the same again and has the payload, because x ^ k ^ k is x:

(figure)

Masking is not encryption, as the key is in the frame. It has another
purpose: a web page cannot choose the bytes on the wire, so it cannot fake
an HTTP request that a proxy between both would believe (section 10.3).

In Python, `^` is XOR. Write a loop over the payload first. For long
payloads it is slow. Convert both sides with int.from_bytes later: Python
calculates XOR of two numbers of any size at once.

The server's own frames stay without MASK and without a key.

By hand: write the text Hi in hex as a client sends it with the key
01 02 03 04. Check the frame that you wrote:

    python3 -m wsproto_min explain --role client 81 82 01 02 03 04 ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from wsproto_min.learn.client_frames import message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import KEY, naive_mask, patterned


def _table(payload: bytes, key: bytes) -> Iterator[str]:
    yield "    payload, masked  " + "  ".join(f"{byte:02x}" for byte in naive_mask(payload, key))
    yield "    key, repeated    " + "  ".join(
        f"{key[index % 4]:02x}" for index in range(len(payload))
    )
    yield "    XOR: the payload " + "  ".join(f"{byte:02x}" for byte in payload)
    yield "    as ASCII         " + "  ".join(f" {chr(byte)}" for byte in payload)


def _echoes(sizes: list[int], keys: list[bytes | None], program: Program) -> None:
    """Send messages of these sizes, each with its key; None is a random key."""
    with Exchange(program) as exchange:
        exchange.open()
        for size, key in zip(sizes, keys, strict=True):
            data = patterned(size)[::-1]
            exchange.send(message(data, key=key))
            exchange.expect(data)


STEP = Step.from_docstring(
    __doc__,
    [
        Case("5 bytes with the key of section 5.7", partial(_echoes, [5], [KEY])),
        Case("5 bytes with a random key", partial(_echoes, [5], [None])),
        Case("a key with bytes 00", partial(_echoes, [9], [bytes.fromhex("00ff0001")])),
        Case("0 to 9 bytes, each with its own key", partial(_echoes, [*range(10)], [None] * 10)),
        Case(
            "126, 65535 and 65537 bytes",
            partial(_echoes, [126, 65535, 65537], [os.urandom(4) for _ in range(3)]),
        ),
    ],
    figure=_table(b"Hello", KEY),
    restarts=True,
)
