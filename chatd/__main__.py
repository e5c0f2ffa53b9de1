"""Command line of chatd: `python -m chatd [OPTIONS] [COMMAND]`."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence

from chatd.commands import CommandError, check, export, invite, revoke
from chatd.options import parse_arguments
from chatd.serve import serve

COMMANDS = {
    "serve": serve,
    "invite": invite,
    "revoke": revoke,
    "check": check,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words of the command line; None for those of the process.

    Returns:
        The exit status: 0, 1 for a problem in the data, 2 for a failed command, 130
        for an interrupt before the server runs.
    """
    options = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal may lack a file name's characters
            stream.reconfigure(errors="backslashreplace")
    try:
        return COMMANDS[options.command](options)
    except CommandError as error:
        print(f"chatd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has ended
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
