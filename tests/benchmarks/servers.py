"""Servers to measure, and the load client in C beside them.

Each run starts a server process on one core, in a new directory. The client runs on
another core.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.measure import Absent, Contender, Sample, Variant, Wrong

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INSTALL = "not installed: pip install '.[bench]'"
INSTALL_CC = "needs a C compiler: apt-get install gcc libc6-dev"
INSTALL_NATS = "not installed: apt-get install nats-server"
INSTALL_WS = (
    "not installed: npm install --prefix DIRECTORY ws, then NODE_PATH=DIRECTORY/node_modules"
)
# NATS logs its address to standard error.
NATS = """
printf 'port: -1\nhost: 127.0.0.1\nwebsocket { port: -1, host: 127.0.0.1, no_tls: true }' >nats.conf
exec nats-server -c nats.conf 2>&1
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A server: its command, its availability, and the hint to install it.

    The server prints a line with its address when it listens. `speaks` are the options of
    the load client for its protocol. Only our servers run from another checkout or under
    another interpreter.
    """

    name: str
    command: Sequence[str]
    is_installed: Callable[[], bool] = lambda: True
    install_hint: str = INSTALL
    speaks: Sequence[str] = ()
    is_ours: bool = False
    root: Path = ROOT

    def under(self, variant: Variant) -> Program:
        """Return the same server from another checkout or under another interpreter."""
        return replace(
            self,
            name=f"{self.name}, {variant.name}",
            command=(variant.python, *self.command[1:]),
            root=variant.root,
        )


def chatd(name: str = "chatd", db: str = "chat.db", speaks: Sequence[str] = ()) -> Program:
    """Return chatd without a rate limit."""
    command = (sys.executable, "-m", "chatd", "--port", "0", "--db", db, "--rate-limit", "0")
    return Program(name, command, speaks=speaks, is_ours=True)


def chatd_without_log() -> Program:
    """Return chatd without a message store on disk."""
    return chatd("chatd, no log", ":memory:")


def chatd_chat() -> Program:
    """Return chatd for clients that speak chat.v1."""
    return chatd("chatd, chat.v1", speaks=("--chat",))


def echo() -> Program:
    """Return our echo server."""
    command = (sys.executable, "-m", "wsproto_min", "echo", "--port", "0")
    return Program("wsproto_min", command, is_ours=True)


def rivals(task: str) -> list[Program]:
    """Return the servers of other libraries for a task, `chat` or `echo`."""
    return [
        _python_rival("uWebSockets", "socketify", task, ("socketify",)),
        _python_rival("picows", "picows", task, ("picows", "uvloop")),
        Program("ws", ("node", str(HERE / "rival_ws.cjs"), task), _has_ws, INSTALL_WS),
        _python_rival("websockets", "websockets", task, ("websockets", "uvloop")),
        _python_rival("aiohttp", "aiohttp", task, ("aiohttp", "uvloop")),
    ]


def nats() -> Program:
    """Return NATS, with its protocol inside WebSocket messages."""
    return Program("NATS", ("sh", "-c", NATS), _has_nats, INSTALL_NATS, ("--nats",))


def hubs() -> list[Program]:
    """Return a hub on picows that writes once per peer and iteration, as chatd does."""
    packages = ("picows", "uvloop")
    return [
        _python_rival("hub on picows", "hub", "chat", packages),
        _python_rival("hub with SQLite", "hub-sqlite", "chat", packages),
    ]


def floor(task: str) -> Program:
    """Return the floor in C for `chat` or `echo`; nearly all of its cost is the kernel's."""
    command = (str(_build("floor.c")), task) if has_cc() else ()
    return Program("C floor", command, has_cc, INSTALL_CC)


def _python_rival(name: str, rival: str, task: str, packages: Sequence[str]) -> Program:
    command = (sys.executable, "-m", "tests.benchmarks.rivals", rival, task)
    return Program(name, command, partial(_installed, packages))


def _installed(packages: Sequence[str]) -> bool:
    return all(find_spec(package) is not None for package in packages)


def has_cc() -> bool:
    return shutil.which("cc") is not None


def _has_nats() -> bool:
    return shutil.which("nats-server") is not None


@cache
def _has_ws() -> bool:
    node = shutil.which("node")
    look = "require.resolve('ws')"
    return (
        node is not None and not subprocess.run([node, "-e", look], capture_output=True).returncode
    )


@cache
def _build(source: str) -> Path:
    """Return the program of a C file of this directory."""
    if not has_cc():
        raise Absent(INSTALL_CC)
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    program = directory / Path(source).stem
    subprocess.run(["cc", "-O2", "-o", program, HERE / source, "-lm"], check=True)
    return program


def versions() -> str:
    """Return the versions of all that is installed of the contenders."""
    found = [f"SQLite {sqlite3.sqlite_version}"]
    for package in ("socketify", "picows", "uvloop", "websockets", "aiohttp", "wsproto"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    commands: list[tuple[str, ...]] = []
    if _has_ws():
        look = "`ws ${require('ws/package.json').version}, Node.js ${process.version}`"
        commands.append(("node", "-p", look))
    if _has_nats():
        commands.append(("nats-server", "--version"))
    if has_cc():
        commands.append(("cc", "--version"))
    return ", ".join([*found, *(_output(*words) for words in commands)])


def _output(*words: str) -> str:
    """Return the first line that a command prints."""
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    return ran.stdout.partition("\n")[0]


def contender(program: Program, options: str, value: str, *details: str) -> Contender:
    """Return a contender: `program` under the load client with `options`.

    Args:
        program: The server.
        options: Options of the load client.
        value: Name of the figure, as the load client prints it.
        details: Names of further figures; the client omits latencies that no peer measured.
    """

    def run() -> Sample:
        figures = load(program, options)
        return Sample(figures[value], {each: figures[each] for each in details if each in figures})

    def vary(variant: Variant) -> Contender:
        return contender(program.under(variant), options, value, *details)

    return Contender(program.name, run, vary if program.is_ours else None)


def load(program: Program, options: str) -> dict[str, float]:
    """Start a server and the load client; return the client's figures."""
    client = _build("load.c")
    with serving(program) as (process, port):
        words = [str(client), "--port", str(port), "--server", str(process), *program.speaks]
        ran = subprocess.run(
            [*words, *options.split()],
            capture_output=True,
            text=True,
            preexec_fn=partial(_pin, 0, _two_cores()[1]),  # 0 is the client itself
        )
    if ran.returncode:
        raise Wrong(ran.stderr.strip() or f"load: it exited with status {ran.returncode}")
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


@contextmanager
def serving(program: Program) -> Iterator[tuple[int, int]]:
    """Run a server; yield its process id and port."""
    if not hasattr(select, "epoll") or not Path("/proc/self/schedstat").exists():
        raise Absent("needs epoll and /proc; run it on Linux")
    if not program.is_installed():
        raise Absent(program.install_hint)
    _allow_descriptors()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            program.command,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(program.root)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            _pin(process.pid, _two_cores()[0])
            assert process.stdout is not None
            line = ""
            try:
                for line in process.stdout:
                    if address := re.search(r"://[^/]*:(\d+)(/|$)", line):
                        break
                else:
                    raise Wrong(f"server: expected a line with its address, read {line!r}")
                yield process.pid, int(address[1])
            finally:
                process.terminate()
                process.wait()
                errors.seek(0)
                for line in errors:
                    if " info connection " not in line:  # chatd logs one per connection
                        sys.stderr.write(line)


def _two_cores() -> tuple[int | None, int | None]:
    """Return the cores of server and client, or None twice on a single core."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _pin(process: int, core: int | None) -> None:
    if core is not None:
        with suppress(ProcessLookupError):  # it has exited; its output gives the reason
            os.sched_setaffinity(process, {core})


def _allow_descriptors() -> None:
    """Raise the soft limit on open files to the hard limit, for server and client."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
