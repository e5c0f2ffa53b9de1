"""Diagram of a frame: the figure of RFC 6455, section 5.2, with the frame's own bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.explain.figure import ROW, FigureField, figure_fields
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.style import Style

_MARGIN = " " * 9


@dataclass(frozen=True, slots=True)
class _Cell:
    """A field, or its part in one row. A bit is two columns wide."""

    bits: str
    role: str
    labels: tuple[str, ...]

    @property
    def width(self) -> int:
        return 2 * len(self.bits) - 1

    def line(self, text: str) -> str:
        """Return `text` centred in the cell, or spaces if the text is too long."""
        return f"{text if len(text) <= self.width else '':^{self.width}}"


def render_diagram(frame: FrameFields, offset: int, style: Style) -> Iterator[str]:
    """Yield the lines of the diagram. It shows only the beginning of the payload.

    Args:
        frame: The frame, possibly incomplete.
        offset: Index of the frame's first byte in the capture.
        style: Colours, or `plain`.

    """
    tens = (str(bit // 10) if bit % 10 == 0 else " " for bit in range(ROW))
    yield (f"{_MARGIN} " + " ".join(tens)).rstrip()
    yield f"{_MARGIN} " + " ".join(str(bit % 10) for bit in range(ROW))
    above: list[_Cell] = []
    for index, row in enumerate(_rows(_cells(frame))):
        yield _MARGIN + _border(above, row)
        bits = "|".join(style(cell.role, " ".join(cell.bits)) for cell in row)
        yield f"{offset + 4 * index:>8} |{bits}|"
        for number in range(max(len(cell.labels) for cell in row)):
            texts = (cell.labels[number] if number < len(cell.labels) else "" for cell in row)
            line = "|".join(cell.line(text) for cell, text in zip(row, texts, strict=True))
            yield f"{_MARGIN}|{line}|"
        above = row
    yield _MARGIN + _border(above, [])


def _cells(frame: FrameFields) -> list[_Cell]:
    """Return the fields that have arrived, from left to right."""
    return [_Cell(field.bits, field.role, _labels(field)) for field in figure_fields(frame)]


def _labels(field: FigureField) -> tuple[str, ...]:
    """Return the lines in a field: the name of one bit from top to bottom, or name and value."""
    if len(field.bits) == 1:
        return tuple(field.name)
    return (field.name,) if field.role == "payload" else (field.name, field.value)


def _rows(cells: list[_Cell]) -> Iterator[list[_Cell]]:
    """Split the fields into rows of 32 bits."""
    row: list[_Cell] = []
    room = ROW
    for cell in cells:
        bits, labels = cell.bits, cell.labels
        while len(bits) > room:
            row.append(_Cell(bits[:room], cell.role, labels))
            bits = bits[room:]
            labels = (f"{cell.labels[0]} (cont.)",)
            yield row
            row, room = [], ROW
        row.append(_Cell(bits, cell.role, labels))
        room -= len(bits)
        if not room:
            yield row
            row, room = [], ROW
    if row:
        yield row


def _border(above: list[_Cell], below: list[_Cell]) -> str:
    """Return the line between two rows, with a plus sign at each end of a field."""
    crosses = {0}
    for row in (above, below):
        column = 0
        for cell in row:
            column += cell.width + 1
            crosses.add(column)
    return "".join("+" if column in crosses else "-" for column in range(max(crosses) + 1))
