"""Lengths in three forms.

The 7 bits of the length have room for 125 and two marks (section 5.2):

    0 to 125   the length itself
    126        the length is in the next 2 bytes: 126 to 65535
    127        the length is in the next 8 bytes: 65536 and more

The masking key comes after these bytes. The longer forms have the most
significant byte first, which is called network byte order or big-endian:
126 is 00 7e. This is the start of a frame with 300 bytes:

(figure)

A sender must take the shortest form that fits, so 125 bytes never begin
with the mark 126.

`int.from_bytes(data, "big")` and `number.to_bytes(2, "big")` convert. So
does the module struct, with ">H" and ">Q": letters in lower case are
signed, and without ">" the byte order is that of your processor.

A frame of 65536 bytes seldom arrives in one `recv`: call it until you have
the whole frame.
"""

from __future__ import annotations

from functools import partial

from wsproto_min.explain.diagram import render_diagram
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.style import plain
from wsproto_min.explain.verdict import count
from wsproto_min.learn.client_frames import ZERO_KEY, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.testing.raw_frame import patterned

_SIZES = (125, 126, 127, 255, 256, 32768, 65535, 65536, 65537, 150_000)


def _echoes(size: int, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        data = patterned(size)
        exchange.send(message(data, key=ZERO_KEY))
        exchange.expect(data)


STEP = Step.from_docstring(
    __doc__,
    [Case(count(size, "byte"), partial(_echoes, size)) for size in _SIZES],
    figure=render_diagram(FrameFields(message(patterned(300), key=ZERO_KEY)), 0, plain),
    restarts=True,
)
