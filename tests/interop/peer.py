"""A peer of the interop matrix: a program with another WebSocket implementation.

- `PROGRAM server PORT [CERTIFICATE KEY]` listens on 127.0.0.1 and prints the line `ready`.
- `PROGRAM client URL [AUTHORITY]` connects, and offers the subprotocols `tea` and `coffee`, and
  compression.
- `PROGRAM version` prints the version of the library.

A peer sends each message back, except these commands in text messages:

- `!protocol`: send the negotiated subprotocol, or an empty text.
- `!compressed`: send `yes` or `no`.
- `!fragments TEXT`: send TEXT in three frames.
- `!ping TEXT`: send a Ping with the payload TEXT, and after its Pong the text `pong TEXT`.
- `!close CODE REASON`: start the closing handshake.

At the end of a connection it prints `closed CODE REASON` with the code and reason that it has
received: 1005 if the Close frame had no code, 1006 if TCP ended without a Close frame. Then a
client exits with status 0, and a server goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from tests.support import ROOT

PROGRAMS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("INTEROP_CACHE") or ROOT / ".interop")
NODE_MODULES = CACHE / "node_modules"


class PeerError(Exception):
    """A peer cannot be built or started, or its output breaks the rules above."""


class Side(Enum):
    """The role of the peer; ours is the other one."""

    SERVER = "server"
    CLIENT = "client"


class Feature(Enum):
    """A part of the protocol that a library or its binding may lack."""

    ROLE = "role"  # the role as a whole
    TLS = "TLS"
    PROTOCOL_REPORT = "!protocol"
    COMPRESSION = "compression"
    COMPRESSOR = "compression of its own messages"
    NO_TAKEOVER = "no context takeover"
    COMPRESSION_REPORT = "!compressed"
    FRAGMENTS = "!fragments"
    PING = "!ping"
    PONG = "Pongs"
    CLOSE_CODE = "close code"  # of a Close frame that it receives first
    CLOSE_REASON = "close reason"
    REPLY_CODE = "close code of a reply"  # to its own Close frame
    EMPTY_CLOSE = "close code 1005"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another WebSocket implementation.

    Attributes:
        name: Name of the library.
        language: Language of the program.
        command: The program, to which the role and its arguments are added. `{peers}` stands for
            the directory of the programs, `{build}` for the directory of build results,
            `{node_modules}` for the directory of npm packages.
        is_installed: Returns True if everything that the program needs is installed.
        install: Command that installs it, and further needs in parentheses.
        build: Shell command that builds the program, with the variables PEERS and BUILD, in
            the directory BUILD.
        sources: Files below `peers` that the build reads.
        lacks: Missing features with the reason, of both roles or of one.
        fails: Cases that fail because of a bug of the library, with the reason. A key is
            "CASE", "ROLE: CASE" or "ROLE, SCHEME: CASE". The matrix reports a case that passes.
        environment: Further variables of the program's environment.
        start_timeout: Seconds from the start of the program to its connection or `ready`.
        is_heavy: True if the default command leaves out this peer.

    """

    name: str
    language: str
    command: Sequence[str]
    is_installed: Callable[[], bool]
    install: str
    build: str = ""
    sources: Sequence[str] = ()
    lacks: Mapping[Feature | tuple[Side, Feature], str] = field(default_factory=dict)
    fails: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 30.0
    is_heavy: bool = False

    def lack(self, side: Side, feature: Feature) -> str | None:
        """Return the reason why a feature is missing, or None if the peer has it."""
        return self.lacks.get((side, feature), self.lacks.get(feature))

    def failure(self, side: Side, scheme: str, case: str) -> str | None:
        """Return the reason for which a case is expected to fail, or None."""
        for key in (f"{side.value}, {scheme}: {case}", f"{side.value}: {case}", case):
            if key in self.fails:
                return self.fails[key]
        return None

    @property
    def build_directory(self) -> Path:
        """Directory of the build results."""
        return CACHE / "build" / self.name.replace(" ", "-").replace("/", "-")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the program, after its build if it has one."""
        if self.build:
            _build(self.name, self.build, self.build_directory, tuple(self.sources))
        places = {"{peers}": str(PROGRAMS), "{build}": str(self.build_directory)}
        places["{node_modules}"] = str(NODE_MODULES)
        command = list(self.command)
        for place, path in places.items():
            command = [word.replace(place, path) for word in command]
        environment = {**_environment(), **self.environment}
        command[0] = shutil.which(command[0], path=environment["PATH"]) or command[0]
        return subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def version(self) -> str:
        """Return the version of the library."""
        process = self.start("version")
        output, errors = process.communicate(timeout=self.start_timeout)
        if process.returncode or len(output.splitlines()) != 1:
            raise PeerError(f"{self.name} version: printed {output!r}; {errors.strip()[-500:]}")
        return output.strip()


@cache
def _build(name: str, command: str, directory: Path, sources: tuple[str, ...]) -> None:
    """Build a program unless it is newer than its sources."""
    stamp = directory / ".built"
    times = [(PROGRAMS / source).stat().st_mtime for source in sources]
    if stamp.exists() and stamp.read_text() == command and stamp.stat().st_mtime > max(times):
        return
    directory.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["sh", "-euc", command],
        cwd=directory,
        env={**_environment(), "PEERS": str(PROGRAMS), "BUILD": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        raise PeerError(f"{name}: the build failed; {built.stdout.strip()[-2000:]}")
    stamp.write_text(command)


def _environment() -> dict[str, str]:
    """Return an environment with the modules of this checkout and without proxies."""
    variables = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    # A virtual environment may have Node.js too.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    node_path = [str(NODE_MODULES), *filter(None, [os.environ.get("NODE_PATH")])]
    return {
        **variables,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "NODE_PATH": os.pathsep.join(node_path),
    }


def _which(program: str) -> str | None:
    return shutil.which(program, path=_environment()["PATH"])


def modules(*names: str) -> Callable[[], bool]:
    """Return a check for Python modules."""
    return lambda: all(find_spec(name) is not None for name in names)


def programs(*names: str) -> Callable[[], bool]:
    """Return a check for programs on the path."""
    return lambda: all(_which(name) is not None for name in names)


def npm_packages(*names: str) -> Callable[[], bool]:
    """Return a check for Node.js and npm packages in `NODE_MODULES` or `NODE_PATH`."""
    return partial(_has_npm_packages, names)


@cache
def _has_npm_packages(names: tuple[str, ...]) -> bool:
    node = _which("node")
    if node is None:
        return False
    script = "process.argv.slice(1).forEach((name) => require.resolve(`${name}/package.json`))"
    found = subprocess.run(
        [node, "-e", script, *names], env=_environment(), capture_output=True, check=False
    )
    return found.returncode == 0


def all_of(*checks: Callable[[], bool]) -> Callable[[], bool]:
    """Return a check that holds if all `checks` hold."""
    return lambda: all(check() for check in checks)


PYTHON = sys.executable
