"""A step of the path: its page, its figure and its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from wsproto_min.learn.program import Program

_FIGURE = "(figure)"


@dataclass(frozen=True, slots=True)
class Case:
    """One check of the student's program.

    Attributes:
        name: The case in a few words.
        run: Checks the program; raises `Wrong` or `Skipped`.

    """

    name: str
    run: Callable[[Program], None]


class Skipped(Exception):
    """A case that this machine cannot run; the argument is a sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the path.

    Attributes:
        title: The title.
        page: Plain text of at most 80 columns.
        cases: The checks, in their order.
        limit: Argument LIMIT of the student's server, in bytes; None leaves it out.
        restarts: Start the program again if it has ended between two cases.

    """

    title: str
    page: str
    cases: Sequence[Case]
    limit: int | None = None
    restarts: bool = False

    @classmethod
    def from_docstring(
        cls,
        docstring: str | None,
        cases: Sequence[Case],
        *,
        figure: Iterable[str] = (),
        limit: int | None = None,
        restarts: bool = False,
    ) -> Step:
        """Return the step of a lesson.

        Args:
            docstring: The docstring of the lesson's module. Its first line is the title.
            cases: The checks.
            figure: Lines that replace the line "(figure)" of the page.
            limit: See `Step`.
            restarts: See `Step`.

        """
        title, _, page = (docstring or "").partition("\n")
        page = page.strip("\n").replace(_FIGURE, "\n".join(figure))
        return cls(title.rstrip("."), page, cases, limit, restarts)
