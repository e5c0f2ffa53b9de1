"""The state of the path, in a file of the current directory."""

from __future__ import annotations

import json
from pathlib import Path

FILE_NAME = ".wsproto_min_learn.json"


def solved_steps() -> set[int]:
    """Return the numbers of the steps whose last check found no problem.

    Raises:
        ValueError: The file is damaged.
        OSError: The file cannot be read.

    """
    try:
        found = json.loads(Path(FILE_NAME).read_text())
        solved = found["solved"]
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError, KeyError, RecursionError):
        solved = None
    if not isinstance(solved, list) or any(type(number) is not int for number in solved):
        raise ValueError(f"{FILE_NAME}: not a list of solved steps; delete the file")
    return set(solved)


def record(number: int, *, solved: bool) -> None:
    """Store the result of a check.

    Raises:
        ValueError: The file is damaged.
        OSError: The file cannot be read or written.

    """
    steps = solved_steps()
    steps = steps | {number} if solved else steps - {number}
    Path(FILE_NAME).write_text(json.dumps({"solved": sorted(steps)}) + "\n")
