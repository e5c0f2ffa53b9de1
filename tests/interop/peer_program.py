"""Parts of the peers that are written in Python: commands in messages, and the output."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import NoReturn

USAGE = "usage: PROGRAM (server PORT [CERTIFICATE KEY] | client URL [AUTHORITY] | version)"


def arguments(package: str) -> tuple[str, list[str]]:
    """Return the role and its arguments; print the version of `package` if it is the command."""
    match sys.argv[1:]:
        case ["version"]:
            print(version(package))
            sys.exit()
        case ["server" | "client" as role, *rest] if 1 <= len(rest) <= 3:
            return role, rest
    sys.exit(USAGE)


def command(message: str | bytes) -> tuple[str, str]:
    """Return the command in a message and its argument; an empty command means an echo."""
    if isinstance(message, str) and message.startswith("!"):
        name, _, argument = message[1:].partition(" ")
        return name, argument
    return "", ""


def close_arguments(argument: str) -> tuple[int, str]:
    """Return the code and the reason of `!close`."""
    code, _, reason = argument.partition(" ")
    return int(code), reason


def thirds(text: str) -> tuple[str, str, str]:
    """Return a text in three parts."""
    size = max(1, len(text) // 3)
    return text[:size], text[size : 2 * size], text[2 * size :]


def say_ready() -> None:
    print("ready", flush=True)


def say_closed(code: int | None, reason: str | None) -> None:
    print(f"closed {1006 if code is None else code} {reason or ''}".rstrip(), flush=True)


def unknown(name: str) -> NoReturn:
    raise ValueError(f"command {name!r}: unknown; see tests/interop/peer.py")
