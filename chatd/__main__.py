"""Command line of chatd: `python -m chatd [OPTIONS] [COMMAND]`."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words of the command line; None for those of the process.

    Returns:
        The exit status: 0, 1 for a problem in the data, 2 for a failed command, 130
        for an interrupt before the server runs.
    """
    _replace_closed_streams()
    try:
        import fcntl  # noqa: F401
        import resource  # noqa: F401
    except ImportError:
        print(
            "chatd: this system is not a Unix; run chatd on Linux or macOS, or on Windows in WSL",
            file=sys.stderr,
        )
        return 2
    # These modules need the two above.
    from chatd.commands import CommandError, check, export, invite, revoke
    from chatd.migration_command import migrate
    from chatd.moderation_commands import ban, bans, erase, unban
    from chatd.options import parse_arguments
    from chatd.serve import serve

    commands = {
        "serve": serve,
        "invite": invite,
        "revoke": revoke,
        "check": check,
        "export": export,
        "migrate": migrate,
        "ban": ban,
        "unban": unban,
        "bans": bans,
        "erase": erase,
    }
    options = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal may lack a file name's characters
            stream.reconfigure(errors="backslashreplace")
    try:
        return commands[options.command](options)
    except CommandError as error:
        print(f"chatd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has ended
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _replace_closed_streams() -> None:
    """Open the null device for each standard stream that the process began without.

    Otherwise a socket or the message store gets the descriptor 0, 1 or 2, and a library that
    writes an error to standard error damages its data. `sys.stdout` stays None, so that a command
    can refuse to print its result to nowhere.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # open() returns the lowest free descriptor
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
