"""Sequence of a whole connection: opening handshake, messages, Ping, closing handshake.

The steps come from `conversation`, so each byte in the picture is one that the code sent.
"""

from __future__ import annotations

from tests.pictures.canvas import MAX_COLUMNS, Canvas
from tests.pictures.conversation import Step, conversation
from tests.pictures.picture import Picture
from wsproto_min.connection import Role, State

_WIDTH = 13  # of the box of an end
_LEFT, _RIGHT = _WIDTH // 2, MAX_COLUMNS - 1 - _WIDTH // 2  # columns of the two lines
_INDENT = 3


def sequence_picture() -> Picture:
    """Return the sequence."""
    canvas = Canvas()
    client_box = canvas.box((0, 0), _WIDTH, ("client",))
    canvas.box((_RIGHT - _LEFT, 0), _WIDTH, ("server",))
    row = client_box.bottom
    starts = [(_LEFT, row), (_RIGHT, row)]
    states = [State.CONNECTING, State.CONNECTING]
    last_rows = [row, row]
    sentences = []
    for step in conversation():
        row = _draw_step(canvas, step, row + 1)
        last_rows = [row, row]
        changed = [old is not new for old, new in zip(states, step.states, strict=True)]
        sentences.append(_sentence(step))
        if any(changed):
            row += 1
            for number, state in enumerate(step.states):
                if changed[number]:
                    starts[number] = _draw_state(canvas, starts[number], row, state)
            row += 2
            states = [*step.states]
    for start, last in zip(starts, last_rows, strict=True):
        if start[1] <= last:
            canvas.arrow(start, (start[0], last + 1), head=False)
    title = "A connection from its first byte to its last"
    return Picture("sequence", title, " ".join(sentences), canvas)


def _draw_step(canvas: Canvas, step: Step, row: int) -> int:
    """Draw the bytes and the arrow below them; return the arrow's row."""
    from_client = step.sender is Role.CLIENT
    lines = list(step.lines) if step.is_head else [f"{step.title}   {' '.join(step.lines)}".strip()]
    if step.is_head:
        left = _LEFT + _INDENT
        if not from_client:
            left = _RIGHT - _INDENT - max(map(len, lines)) + 1
        for line in lines:
            canvas.label((left, row), line, "bytes")
            row += 1
    else:
        text = lines[0]
        left = _LEFT + _INDENT if from_client else _RIGHT - _INDENT - len(text) + 1
        canvas.label((left, row), step.title, "name")
        if step.lines:
            canvas.label((left + len(step.title) + 3, row), step.lines[0], "bytes")
        row += 1
    ends = (_LEFT, row), (_RIGHT, row)
    canvas.arrow(*(ends if from_client else ends[::-1]))
    return row


def _draw_state(canvas: Canvas, start: tuple[int, int], row: int, state: State) -> tuple[int, int]:
    """Draw a state on the line of an end; return the place from which the line goes on."""
    column = start[0]
    box = canvas.box((column - _LEFT, row), _WIDTH, (state.name,))
    canvas.arrow(start, (column, box.top), head=False)
    return column, box.bottom


def _sentence(step: Step) -> str:
    """Return the step in words."""
    receiver = "server" if step.sender is Role.CLIENT else "client"
    data = f": {step.lines[0]}" if step.lines else ""
    client, server = step.states
    return (
        f"{step.sender.value} to {receiver}, {step.title}{data};"
        f" then the client is {client.name}, the server {server.name}."
    )
