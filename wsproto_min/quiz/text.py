"""Text of the quiz: the bytes of a question, the explanation, and help."""

from __future__ import annotations

from collections.abc import Iterator

from wsproto_min.deflate import MAX_FINAL_BLOCKS
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import Style
from wsproto_min.explain.verdict import count
from wsproto_min.quiz.questions import Question
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE

_ROW = 20  # bytes in a row; a multiple of 4, so equal masked bytes give equal rows
_EXPLAINED_FRAMES = 2  # the last ones

HELP = """\
  first answer  the close code that the receiver sends for a violation, such as
                1002; or valid, if the bytes break no rule; or incomplete, if
                they break no rule but a frame or a message is not complete.
                v and i are short for both. A valid Close frame is valid.
  second        the position of the byte at which the receiver detects the
                violation. It checks bits and lengths byte by byte; the order
                of frames and the sizes when a header is complete; a Close
                when it is complete; text at its first invalid byte.
                Positions count from 0: row plus column.
  third         the number of the broken rule.
  q             ends the quiz with a summary."""
"""The kinds of answers."""


def conditions(question: Question) -> Iterator[str]:
    """Yield sentences about the connection on which the bytes are received."""
    if question.compression:
        yield "permessage-deflate is negotiated, without context takeover."
    else:
        yield "No extension is negotiated."
    if question.limited:
        yield (
            f"The receiver accepts messages of up to {MAX_MESSAGE_SIZE} bytes"
            f" in up to {MAX_FRAGMENTS} fragments."
        )
        if question.compression:
            yield f"A compressed message may have up to {MAX_FINAL_BLOCKS} final blocks."


def rows(data: bytes) -> Iterator[str]:
    """Yield the bytes in hex, with the positions of rows and columns; shorten equal rows."""
    yield " " * 8 + " ".join(f"{column:>2}" for column in range(min(_ROW, len(data))))
    begin = 0
    while begin < len(data):
        row = data[begin : begin + _ROW]
        yield f"{begin:>6}  {row.hex(' ')}"
        end = begin + _ROW
        while data[end : end + _ROW] == row:
            end += _ROW
        if end - begin > 2 * _ROW:
            yield f"{'...':>6}  equal rows up to byte {end - 1}"
            begin = end
        else:
            begin += _ROW


def explain(question: Question, style: Style) -> Iterator[str]:
    """Yield the output of `explain` for the last frames, and the verdict."""
    dissector = question.dissector()
    events = list(dissector.events())
    hidden = len(events) - _EXPLAINED_FRAMES
    if hidden > 0:
        yield f"({count(hidden, 'valid frame')} before, not shown)"
        yield ""
    for event in events[-_EXPLAINED_FRAMES:]:
        yield from render(event, style)
    yield from render_verdict(dissector.verdict, style)
