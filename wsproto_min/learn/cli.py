"""The arguments of the command `python -m wsproto_min learn`."""

from __future__ import annotations

import argparse
import math

from wsproto_min.learn.program import DEFAULT_PATIENCE

_MAX_PATIENCE = 3600.0  # seconds
_COMMAND = "python3 -m wsproto_min learn"
_EPILOG = """\
exit status: 0 if the check finds no problem, 1 if your file has one, 2 for a usage error. The
state of the path is in the file .wsproto_min_learn.json of the current directory."""


def add_learn(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to `parser`."""
    parser.usage = f"{_COMMAND} [N] [check FILE] [--patience SECONDS]"
    parser.description = (
        "Build a WebSocket server yourself, in numbered steps. Without arguments, show the state"
        " of the path; with N, the page of step N; with check, run FILE and check it."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "words", nargs="*", metavar="N, check, FILE", help="the step, and the file to check"
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=DEFAULT_PATIENCE,
        metavar="SECONDS",
        help="time to wait for each answer of your program (default: %(default)g)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # The lessons take time to load, so no other command loads them.
    from wsproto_min.learn.command import run

    return run(options)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_PATIENCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return seconds
