"""SVG of a picture: the primitives of its canvas, with readable colours in light and dark.

The picture has a background of its own, because a page may be dark although its reader prefers
light colours.
"""

from __future__ import annotations

from itertools import pairwise
from xml.sax.saxutils import escape

from tests.pictures.canvas import Arrow, Box, Label, Point
from tests.pictures.picture import Picture

# Pixels. A column is as wide as a character of a monospace font of this size.
_FONT = 14
_COLUMN, _ROW = 8.4, 18
_MARGIN = 14
_HEAD_LENGTH, _HEAD_WIDTH = 9, 4

_STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;\
fill:#1f2328;white-space:pre}
.page{fill:#ffffff}
.name{font-weight:bold}
.note{fill:#59636e}
.bytes{fill:#0550ae}
.box{fill:#ddf4ff;stroke:#0969da}
.violation{fill:#ffebe9;stroke:#cf222e}
.header{fill:#fff8c5;stroke:#9a6700}
.length{fill:#ddf4ff;stroke:#0969da}
.key{fill:#fbefff;stroke:#8250df}
.payload{fill:#dafbe1;stroke:#1a7f37}
.line{fill:none;stroke:#59636e;stroke-width:1.5}
.head{fill:#59636e}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}
.page{fill:#0d1117}
.note{fill:#9198a1}
.bytes{fill:#79c0ff}
.box{fill:#0d2440;stroke:#4493f8}
.violation{fill:#3c1618;stroke:#f85149}
.header{fill:#33270a;stroke:#d29922}
.length{fill:#0d2440;stroke:#4493f8}
.key{fill:#2a1d45;stroke:#ab7df8}
.payload{fill:#0f2d1a;stroke:#3fb950}
.line{stroke:#9198a1}
.head{fill:#9198a1}
}"""


def to_svg(picture: Picture) -> str:
    """Return the picture as the text of an SVG file."""
    canvas = picture.canvas
    columns, rows = canvas.size
    width = round(columns * _COLUMN + 2 * _MARGIN)
    height = rows * _ROW + 2 * _MARGIN
    used = {box.role for box in canvas.boxes} | {label.role for label in canvas.labels}
    used |= {"page", "line", "head"}
    style = "\n".join(
        line for line in _STYLE.splitlines() if line[0] != "." or _class_in(line) in used
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(picture.title)}</title>',
        f'<desc id="desc">{escape(picture.description)}</desc>',
        f"<style>\n{style}\n</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        *(_box(box) for box in canvas.boxes),
        *(_arrow(arrow) for arrow in canvas.arrows),
        *(_label(label) for label in canvas.labels),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _class_in(line: str) -> str:
    return line[1:].partition("{")[0]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _centre(point: Point) -> tuple[float, float]:
    """Return the pixel at the centre of a character."""
    return _MARGIN + (point[0] + 0.5) * _COLUMN, _MARGIN + (point[1] + 0.5) * _ROW


def _box(box: Box) -> str:
    x, y = _centre(box.start)
    width, height = (box.width - 1) * _COLUMN, (box.height - 1) * _ROW
    corner = ' rx="6"' if box.role in ("box", "violation") else ""
    return (
        f'<rect class="{box.role}" x="{_number(x)}" y="{_number(y)}"'
        f' width="{_number(width)}" height="{_number(height)}"{corner}/>'
    )


def _arrow(arrow: Arrow) -> str:
    points = [_centre(point) for point in arrow.points]
    *_, ((from_x, from_y), (x, y)) = pairwise(points)
    step_x, step_y = (x > from_x) - (x < from_x), (y > from_y) - (y < from_y)
    head = ""
    if arrow.head:
        back_x, back_y = x - _HEAD_LENGTH * step_x, y - _HEAD_LENGTH * step_y
        side_x, side_y = _HEAD_WIDTH * step_y, _HEAD_WIDTH * step_x
        corners = [(x, y), (back_x + side_x, back_y + side_y), (back_x - side_x, back_y - side_y)]
        head = f'<path class="head" d="M{_path(corners)}z"/>'
        points[-1] = back_x, back_y
    return f'<path class="line" d="M{_path(points)}"/>{head}'


def _path(points: list[tuple[float, float]]) -> str:
    return "L".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _label(label: Label) -> str:
    """Return a line of text, stretched to the width of its characters in any font."""
    x, y = _MARGIN + label.start[0] * _COLUMN, _centre(label.start)[1] + _FONT * 0.35
    role = f' class="{label.role}"' if label.role else ""
    return (
        f'<text{role} x="{_number(x)}" y="{_number(y)}"'
        f' textLength="{_number(len(label.text) * _COLUMN)}"'
        f' lengthAdjust="spacingAndGlyphs">{escape(label.text)}</text>'
    )
