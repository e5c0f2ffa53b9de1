"""Servers to measure, and the load client beside them.

Each run starts a server process on one core, in a new directory. The client runs on
another core.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.measure import Absent, Contender, Sample, Wrong

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INSTALL = "not installed: pip install '.[bench]'"
INSTALL_CC = "needs a C compiler: apt-get install gcc libc6-dev"
INSTALL_WS = (
    "not installed: npm install --prefix DIRECTORY ws, then NODE_PATH=DIRECTORY/node_modules"
)


@dataclass(frozen=True, slots=True)
class Program:
    """A server: its command, its availability, and the hint to install it.

    The server prints one line with its address when it listens.
    """

    name: str
    command: Sequence[str]
    is_installed: Callable[[], bool] = lambda: True
    install_hint: str = INSTALL


def chatd() -> Program:
    """Return chatd with a message store on disk and without a rate limit."""
    options = ("--port", "0", "--db", "chat.db", "--rate-limit", "0")
    return Program("chatd", (sys.executable, "-m", "chatd", *options))


def echo() -> Program:
    """Return our echo server."""
    return Program("wsproto_min", (sys.executable, "-m", "wsproto_min", "echo", "--port", "0"))


def rivals(task: str) -> list[Program]:
    """Return the servers of other libraries for a task, `chat` or `echo`."""
    return [
        _python_rival("websockets + uvloop", "websockets", task, ("websockets", "uvloop")),
        _python_rival("picows + uvloop", "picows", task, ("picows", "uvloop")),
        _python_rival("aiohttp + uvloop", "aiohttp", task, ("aiohttp", "uvloop")),
        _python_rival("uWebSockets (socketify)", "socketify", task, ("socketify",)),
        Program("ws on Node.js", ("node", str(HERE / "rival_ws.cjs"), task), _has_ws, INSTALL_WS),
    ]


def probe() -> Program:
    """Return the floor in Python: one write per iteration and peer, no checks."""
    return Program("bare probe", (sys.executable, "-m", "tests.benchmarks.probe"))


def floor(task: str) -> Program:
    """Return the floor in C for `chat` or `echo`; nearly all of its cost is the kernel's."""
    build = f"cc -O2 -o floor {shlex.quote(str(HERE / 'floor.c'))}"
    command = ("sh", "-c", f"{build} && exec ./floor {task}")
    return Program("C floor", command, lambda: shutil.which("cc") is not None, INSTALL_CC)


def _python_rival(name: str, rival: str, task: str, packages: Sequence[str]) -> Program:
    command = (sys.executable, "-m", "tests.benchmarks.rivals", rival, task)
    return Program(name, command, partial(_installed, packages))


def _installed(packages: Sequence[str]) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _has_ws() -> bool:
    node = shutil.which("node")
    look = "require.resolve('ws')"
    return (
        node is not None and not subprocess.run([node, "-e", look], capture_output=True).returncode
    )


def contender(
    program: Program, module: str, name: str | None = None, **arguments: object
) -> Contender:
    """Return a contender: `program` under the `load` of `module`."""
    return Contender(name or program.name, partial(run, program, module, **arguments))


def run(program: Program, module: str, **arguments: object) -> Sample:
    """Start a server and the load client; return the client's figures."""
    with serving(program) as (process, port):
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.benchmarks.client", module),
                json.dumps({"port": port, "server": process, **arguments}),
            ],
            env=_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            _pin(client.pid, _two_cores()[1])
            output, _ = client.communicate()
    try:
        result = json.loads(output)
    except ValueError:
        raise Wrong(f"load client: it exited with status {client.returncode}") from None
    if "error" in result:
        raise Wrong(result["error"])
    return Sample(result.pop("value"), result)


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
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            _pin(process.pid, _two_cores()[0])
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                address = re.search(r"://[^/]*:(\d+)/", line)
                if address is None:
                    raise Wrong(f"server: expected a line with its address, read {line!r}")
                yield process.pid, int(address[1])
            finally:
                process.terminate()
                process.wait()
                errors.seek(0)
                for line in errors:
                    if " info connection " not in line:  # chatd logs one per connection
                        sys.stderr.write(line)


def _environment() -> dict[str, str]:
    """Return an environment that finds the modules of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


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
