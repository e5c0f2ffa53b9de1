"""Places of the pictures: docstrings, SVG files, and the images in wsproto_min/README.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.pictures.connection_picture import connection_picture
from tests.pictures.fragmentation import fragmentation_picture
from tests.pictures.frame import frame_picture
from tests.pictures.picture import Picture
from tests.pictures.sequence import sequence_picture
from tests.pictures.svg import to_svg

PACKAGE = Path(__file__).parent.parent.parent / "wsproto_min"
README = PACKAGE / "README.md"
_DIRECTORY = "pictures"  # in the package
_INDENT = " " * 4

# The lines before the pictures in the docstrings.
_SEQUENCE_LINE = "with the random bytes of the RFC's own examples::"
_FRAME_LINE = "`parse_header` follows the figure of section 5.2 from left to right::"
_FRAGMENTATION_LINE = "frames, and the last one has FIN. Control frames may come in between::"
_CONNECTION_LINE = "The closing handshake (sections 7.1.2 to 7.1.4)::"


class Place(NamedTuple):
    """A picture and its place in a docstring.

    Attributes:
        make: Makes the picture.
        module: The file whose module docstring has the picture as text.
        before: The line before the picture. It ends with two colons.

    """

    make: Callable[[], Picture]
    module: str
    before: str


PLACES: tuple[Place, ...] = (
    Place(sequence_picture, "__init__.py", _SEQUENCE_LINE),
    Place(frame_picture, "frames.py", _FRAME_LINE),
    Place(fragmentation_picture, "messages.py", _FRAGMENTATION_LINE),
    Place(connection_picture, "connection.py", _CONNECTION_LINE),
)
"""All pictures, in the order of the package's modules."""


def expected_files() -> Mapping[Path, str]:
    """Return the files that have pictures, each with its text after an update.

    Raises:
        ValueError: A module has no place for its picture.

    """
    files: dict[Path, str] = {}
    for place in PLACES:
        picture = place.make()
        files[PACKAGE / _DIRECTORY / f"{picture.name}.svg"] = to_svg(picture)
        module = PACKAGE / place.module
        files[module] = with_picture(module.read_text(), place.before, picture.canvas.text())
    return files


def with_picture(source: str, before: str, text: str) -> str:
    r"""Return a module's source with the indented block behind a line replaced by a picture.

    >>> with_picture("Figure::\n\n    old\n\n    old\n\nEnd.\n", "Figure::", "new")
    'Figure::\n\n    new\n\nEnd.\n'

    Args:
        source: The source.
        before: The line before the block.
        text: The picture.

    Raises:
        ValueError: The source does not have this line exactly once.

    """
    found = source.split(f"{before}\n")
    if len(found) != 2:
        raise ValueError(f"line {before!r}: found {len(found) - 1} times; there must be one")
    block = "".join(f"{_INDENT}{line}".rstrip() + "\n" for line in text.splitlines())
    old = re.match(r"\n(?:(?: {4}.*)?\n)*?(?=\n?[^ \n])", found[1])
    if old is None:
        raise ValueError(f"line {before!r}: no indented block follows; add one")
    return f"{found[0]}{before}\n\n{block}{found[1][old.end() :]}"


def images(text: str) -> dict[str, str]:
    """Return the names of the pictures in a Markdown text, with their alternative texts."""
    found = re.findall(rf"^!\[([^\]]*)\]\({_DIRECTORY}/([a-z-]+)\.svg\)$", text, re.MULTILINE)
    return {name: alternative for alternative, name in found}
