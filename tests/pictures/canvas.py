"""Canvas of characters: boxes, arrows and labels at positions of rows and columns.

A picture consists of these primitives. `Canvas.text` draws them with characters, and module `svg`
draws the same primitives with lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

MAX_COLUMNS = 76
"""Largest width: 80 columns less the indentation of a block in a docstring."""

Point = tuple[int, int]
"""Column and row, from 0."""

_HEADS = {(1, 0): ">", (-1, 0): "<", (0, 1): "v", (0, -1): "^"}


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text.

    Attributes:
        start: The position of the first character.
        text: The text.
        role: The class in the SVG file: "name", "note", "bytes", or "" for plain text.

    """

    start: Point
    text: str
    role: str = ""

    @property
    def end(self) -> Point:
        """The position of the last character."""
        return self.start[0] + len(self.text) - 1, self.start[1]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with a border of one character.

    Attributes:
        start: The upper left corner.
        width: The width in columns, with both borders.
        height: The height in rows, with both borders.
        role: The class in the SVG file.

    """

    start: Point
    width: int
    height: int
    role: str = "box"

    @property
    def left(self) -> int:
        """The column of the left border."""
        return self.start[0]

    @property
    def right(self) -> int:
        """The column of the right border."""
        return self.start[0] + self.width - 1

    @property
    def top(self) -> int:
        """The row of the upper border."""
        return self.start[1]

    @property
    def bottom(self) -> int:
        """The row of the lower border."""
        return self.start[1] + self.height - 1

    @property
    def end(self) -> Point:
        """The lower right corner."""
        return self.right, self.bottom


@dataclass(frozen=True, slots=True)
class Arrow:
    """A line with right angles, from border to border.

    In text, the line leaves out both borders, and one column beside a vertical border.

    Attributes:
        points: The ends and the corners.
        head: False for a line without a head.

    """

    points: tuple[Point, ...]
    head: bool = True

    def cells(self) -> Iterator[tuple[Point, str]]:
        """Yield positions with their characters."""
        last = len(self.points) - 2
        for number, (begin, end) in enumerate(pairwise(self.points)):
            step = _step(begin, end)
            gap = 2 if step[0] else 1
            skipped = gap if number == 0 else 0
            length = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]))
            stop = length - gap if number == last else length
            for index in range(skipped, stop + 1):
                cell = begin[0] + index * step[0], begin[1] + index * step[1]
                character = "-" if step[0] else "|"
                if cell in self.points[1:-1]:
                    character = "+"
                elif number == last and index == stop and self.head:
                    character = _HEADS[step]
                yield cell, character


def _step(begin: Point, end: Point) -> Point:
    """Return the direction of a horizontal or vertical line."""
    (x, y), (to_x, to_y) = begin, end
    if (x == to_x) == (y == to_y):
        raise ValueError(f"line from {begin} to {end}: neither horizontal nor vertical")
    return (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)


@dataclass(slots=True)
class Canvas:
    """The primitives of a picture, in the order of drawing."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def box(self, start: Point, width: int, lines: tuple[str, ...], role: str = "box") -> Box:
        """Add a box with centred lines, the first text as its name; return the box."""
        box = Box(start, width, len(lines) + 2, role)
        self.boxes.append(box)
        text_role = "name"
        for row, line in enumerate(lines, box.top + 1):
            if line:
                self.label((box.left + 1 + (width - 2 - len(line)) // 2, row), line, text_role)
                text_role = ""
        return box

    def arrow(self, *points: Point, head: bool = True) -> None:
        """Add an arrow through these points."""
        self.arrows.append(Arrow(points, head))

    def label(self, start: Point, text: str, role: str = "") -> None:
        """Add a line of text that begins at `start`."""
        self.labels.append(Label(start, text, role))

    def label_before(self, end: Point, text: str, role: str = "") -> None:
        """Add a line of text that ends at `end`."""
        self.label((end[0] - len(text) + 1, end[1]), text, role)

    @property
    def size(self) -> Point:
        """The numbers of columns and rows."""
        ends = [box.end for box in self.boxes] + [label.end for label in self.labels]
        ends += [point for arrow in self.arrows for point in arrow.points]
        return max(x for x, _ in ends) + 1, max(y for _, y in ends) + 1

    def text(self) -> str:
        """Return the picture as lines of text.

        Raises:
            ValueError: A label hides a part of another primitive, or the picture is too wide.

        """
        columns, rows = self.size
        if columns > MAX_COLUMNS:
            raise ValueError(f"picture: {columns} columns wide; {MAX_COLUMNS} are allowed")
        grid = [[" "] * columns for _ in range(rows)]
        for box in self.boxes:
            for (x, y), character in _border(box):
                grid[y][x] = "+" if grid[y][x] == "+" else character
        for arrow in self.arrows:
            for (x, y), character in arrow.cells():
                crossing = grid[y][x] != " " and grid[y][x] != character and character in "-|+"
                grid[y][x] = "+" if crossing else character
        for label in self.labels:
            x, y = label.start
            if "".join(grid[y][x : x + len(label.text)]).strip():
                raise ValueError(f"label {label.text!r} at {label.start}: the place is not empty")
            grid[y][x : x + len(label.text)] = label.text
        return "\n".join("".join(row).rstrip() for row in grid)


def _border(box: Box) -> Iterator[tuple[Point, str]]:
    for x in range(box.left, box.right + 1):
        corner = x in (box.left, box.right)
        yield (x, box.top), "+" if corner else "-"
        yield (x, box.bottom), "+" if corner else "-"
    for y in range(box.top + 1, box.bottom):
        yield (box.left, y), "|"
        yield (box.right, y), "|"
