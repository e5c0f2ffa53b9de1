"""The accept key.

A WebSocket connection begins as an HTTP request. The client sends a random
key in it, and the server proves that it speaks WebSocket: it computes the
*accept key* from the key and a constant (RFC 6455, sections 1.3 and 4.2.2):

1. Append the constant 258EAFA5-E914-47DA-95CA-C5AB0DC85B11 to the key.
2. Compute the SHA-1 digest of the result: 20 bytes.
3. Encode the digest in base64: 28 characters.

The key itself is base64, but it is not decoded: append the constant to its
24 characters. With the key of section 1.3:

(figure)

Write my_ws.py. With the arguments `accept KEY` it prints the accept key:

    $ python3 my_ws.py accept dGhlIHNhbXBsZSBub25jZQ==
    s3pPLMBiTxaQ9kYGzzhZRbK+xOo=

Python has the parts in the modules hashlib and base64. sys.argv has the
arguments: sys.argv[1] is "accept", and sys.argv[2] is the key. All later
steps extend this file.
"""

from __future__ import annotations

import base64
import os
from functools import partial

from wsproto_min.explain.handshake_lines import AcceptKey
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case, Step

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_RANDOM_KEYS = 2


def _steps(key: str) -> list[str]:
    steps = AcceptKey(key)
    return [
        f"    key + constant  {steps.joined}",
        f"    SHA-1           {steps.digest.hex(' ')}",
        f"    base64          {steps.accept}",
    ]


def _check(key: str | None, program: Program) -> None:
    key = key or base64.b64encode(os.urandom(16)).decode()
    printed = program.output_of("accept", key)
    right = AcceptKey(key).accept
    if printed.strip() != right:
        raise Wrong(
            f"for the key {key} the program prints {printed.strip()[:80]!r}, not {right!r}",
            *_steps(key),
        )


STEP = Step.from_docstring(
    __doc__,
    [
        Case("the key of RFC 6455, section 1.3", partial(_check, _KEY)),
        Case("a key with + and /", partial(_check, "+/+/+/+/+/+/+/+/+/+/+w==")),
        *(Case("a random key", partial(_check, None)) for _ in range(_RANDOM_KEYS)),
    ],
    figure=_steps(_KEY),
)
