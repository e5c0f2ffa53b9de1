"""The command `python -m tests.pictures [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.pictures.places import PACKAGE, expected_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all pictures, or compare them.

    Args:
        arguments: Words after the program's name; None for those of the process.

    Returns:
        0, or 1 if `--check` found a difference.

    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.pictures",
        description="Write the pictures into docstrings and into wsproto_min/pictures.",
    )
    parser.add_argument("--check", action="store_true", help="compare the pictures; write nothing")
    options = parser.parse_args(arguments)
    status = 0
    for path, text in expected_files().items():
        if path.exists() and path.read_text() == text:
            continue
        name = path.relative_to(PACKAGE.parent)
        if options.check:
            print(f"{name}: differs from the code; run: python3 -m tests.pictures")
            status = 1
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"{name}: written")
    return status


if __name__ == "__main__":
    sys.exit(main())
