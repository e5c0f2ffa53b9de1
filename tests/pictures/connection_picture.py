"""State diagram of a connection (RFC 6455, sections 7.1.2 to 7.1.4).

Arrows and labels come from `connection_table`. This module only knows their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.pictures.canvas import Box, Canvas
from tests.pictures.connection_table import MESSAGE, SEND, Table, connection_table
from tests.pictures.picture import Picture
from wsproto_min.connection import State

_OPEN, _CLOSING, _FLUSHING, _CLOSED = list(State)[1:]
_WIDTH = 23  # of a box
_LABELS = 3  # lines of labels that fit beside an arrow

Change = tuple[State, State]
Boxes = Mapping[State, Box]
Draw = Callable[[Canvas, Boxes, list[str]], None]


def _labels_after(canvas: Canvas, column: int, row: int, labels: list[str]) -> None:
    for number, label in enumerate(labels):
        canvas.label((column + 2, row + number), label)


def _labels_before(canvas: Canvas, column: int, row: int, labels: list[str]) -> None:
    for number, label in enumerate(labels):
        canvas.label_before((column - 2, row + number), label)


def _open_to_closing(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_OPEN], boxes[_CLOSING]
    row = begin.top + 2
    canvas.arrow((begin.right, row), (end.left, row))
    (label,) = labels
    canvas.label((begin.right + (end.left - begin.right - len(label)) // 2 + 1, row - 1), label)


def _open_to_flushing(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_OPEN], boxes[_FLUSHING]
    column, row = begin.left + 12, end.top + 1
    canvas.arrow((column, begin.bottom), (column, row), (end.left, row))
    _labels_after(canvas, column, begin.bottom + 2, labels)


def _open_to_closed(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_OPEN], boxes[_CLOSED]
    column, row = begin.left + 3, end.top + 1
    canvas.arrow((column, begin.bottom), (column, row), (end.left, row))
    _labels_after(canvas, column, end.top - 2, labels)


def _closing_to_flushing(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_CLOSING], boxes[_FLUSHING]
    column, row = begin.right - 12, end.top + 1
    canvas.arrow((column, begin.bottom), (column, row), (end.right, row))
    _labels_before(canvas, column, begin.bottom + 2, labels)


def _closing_to_closed(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_CLOSING], boxes[_CLOSED]
    column, row = begin.right - 3, end.top + 1
    canvas.arrow((column, begin.bottom), (column, row), (end.right, row))
    _labels_before(canvas, column, end.top - 2, labels)


def _flushing_to_closed(canvas: Canvas, boxes: Boxes, labels: list[str]) -> None:
    begin, end = boxes[_FLUSHING], boxes[_CLOSED]
    column = begin.left + begin.width // 2
    canvas.arrow((column, begin.bottom), (column, end.top))
    _labels_after(canvas, column, end.top - 2, labels)


ARROWS: Mapping[Change, Draw] = {
    (_OPEN, _CLOSING): _open_to_closing,
    (_OPEN, _FLUSHING): _open_to_flushing,
    (_OPEN, _CLOSED): _open_to_closed,
    (_CLOSING, _FLUSHING): _closing_to_flushing,
    (_CLOSING, _CLOSED): _closing_to_closed,
    (_FLUSHING, _CLOSED): _flushing_to_closed,
}
"""The arrows that the layout has a place for."""


def connection_picture(
    table: Table | None = None, arrows: Mapping[Change, Draw] = ARROWS
) -> Picture:
    """Return the state diagram.

    Args:
        table: The transitions; by default those of `Connection`.
        arrows: The arrows of the layout.

    Raises:
        ValueError: A transition has no arrow, an arrow has no transition, or a label has no
            place.

    """
    table = connection_table() if table is None else table
    changes = _changes(table)
    for begin, end in sorted(changes.keys() - arrows.keys()):
        raise ValueError(f"transition {begin.name} to {end.name}: the layout has no arrow for it")
    for begin, end in sorted(arrows.keys() - changes.keys()):
        raise ValueError(f"arrow {begin.name} to {end.name}: not a transition of the code")
    canvas = Canvas()
    places = {_OPEN: (0, 0), _CLOSING: (53, 0), _FLUSHING: (26, 9), _CLOSED: (26, 16)}
    boxes = {
        state: canvas.box(place, _WIDTH, (state.name, _ability(table, state)))
        for state, place in places.items()
    }
    for change, draw in arrows.items():
        if len(changes[change]) > _LABELS:
            raise ValueError(f"labels {changes[change]}: there is room for {_LABELS}")
        draw(canvas, boxes, changes[change])
    sentences = [
        f"{begin.name} to {end.name}: {', '.join(labels)}."
        for (begin, end), labels in changes.items()
    ]
    title = "The states of a connection"
    return Picture("connection", title, " ".join(sentences), canvas)


def _changes(table: Table) -> dict[Change, list[str]]:
    """Return the labels of each change of state, in the order of the states and inputs."""
    changes: dict[Change, list[str]] = {}
    for (state, name), effect in sorted(table.items(), key=lambda item: item[0][0]):
        if effect.state is not state:
            label = f"{name}: send Close" if effect.sends_close else name
            changes.setdefault((state, effect.state), []).append(label)
    return changes


def _ability(table: Table, state: State) -> str:
    """Return the messages that a state allows, in a few words."""
    sends, receives = table[state, SEND].accepted, table[state, MESSAGE].accepted
    if sends or receives:
        both = "send and receive"
        return both if sends and receives else "send only" if sends else "receive only"
    is_last = all(effect.state is state for (each, _), effect in table.items() if each is state)
    return "end of the stream" if is_last else "discard input"
