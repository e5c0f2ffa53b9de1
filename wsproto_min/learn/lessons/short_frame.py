"""An echo server for one short frame.

After the response both sides send *frames*: a short header and a payload.
This is the text Hello from a client (RFC 6455, section 5.2):

(figure)

- FIN is 1, because the message ends with this frame. RSV1 to RSV3 are 0.
- The opcode is the kind of frame: 1 is text, 2 is binary.
- MASK is 1 in every frame of a client, and 0 in every frame of a server.
- The next 7 bits are the length of the payload, up to 125 bytes.
- A masking key of 4 bytes follows only if MASK is 1. This step and the next
  use the key 00 00 00 00, which changes nothing. Step 5 is about others.

The server answers with the same payload and the same opcode, without MASK
and without a key:

    81 05 48 65 6c 6c 6f

Send each message back like this, text as text and binary as binary, until
the client ends the connection: `recv` then returns no bytes. In Python,
`data[0]` of a bytes object is a number, and `data[0] & 0x0f` are its last
four bits. `bytes([0x81, 5])` makes bytes from numbers.
"""

from __future__ import annotations

from functools import partial

from wsproto_min.explain.diagram import render_diagram
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.style import plain
from wsproto_min.learn.client_frames import ZERO_KEY, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step


def _echoes(messages: list[str | bytes], program: Program) -> None:
    """Send messages one after another, each after the answer to the last one."""
    with Exchange(program) as exchange:
        exchange.open()
        for data in messages:
            exchange.send(message(data, key=ZERO_KEY))
            exchange.expect(data)


STEP = Step.from_docstring(
    __doc__,
    [
        Case("the text Hello", partial(_echoes, ["Hello"])),
        Case("another text", partial(_echoes, ["a chat"])),
        Case("a binary message", partial(_echoes, [bytes([0, 1, 254, 255])])),
        Case("an empty text", partial(_echoes, [""])),
        Case("125 bytes", partial(_echoes, ["x" * 125])),
        Case("five messages, text and binary", partial(_echoes, ["a", b"b", "", b"", "c" * 9])),
    ],
    figure=render_diagram(FrameFields(message("Hello", key=ZERO_KEY)), 0, plain),
    restarts=True,
)
