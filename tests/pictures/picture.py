"""A picture with its names."""

from __future__ import annotations

from dataclasses import dataclass

from tests.pictures.canvas import Canvas


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture.

    Attributes:
        name: The name of the SVG file, without its suffix.
        title: The title, in a few words.
        description: The content in sentences, for readers who do not see the picture.
        canvas: The drawing.

    """

    name: str
    title: str
    description: str
    canvas: Canvas
