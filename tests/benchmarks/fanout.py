"""How many deliveries a second a chat room makes: one message, to all other peers.

A real server process on one core, the load client (see `load`) on another, 64
bytes of text a message, over loopback. For each run both are started afresh. Ours
is `python -m chatd` in its plain mode, its log in a file. The share of its core that
the client used stands beside each figure: near 100% it is the client that was
measured, and the server could do more.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.benchmarks import rivals
from tests.benchmarks.load import Load
from tests.benchmarks.measure import Absent, Benchmark, Contender, Sample, Wrong

SECONDS = 2.0
QUICK_SECONDS = 0.3
LOADS = {
    "fan-out, 10 peers, 1 in flight": Load(peers=10, senders=1, window=1),
    "fan-out, 100 peers, 1 in flight": Load(peers=100, senders=1, window=1),
    "fan-out, 100 peers, 10 senders, 64 in flight": Load(100, 10, 64),
    "fan-out, 1000 peers, 50 senders, 128 in flight": Load(1000, 50, 128),
}
# A real log, in the directory that each run has for itself, and no limit on speed.
OURS = ("-m", "chatd", "--port", "0", "--db", "chat.db", "--rate-limit", "0")
# Beside one for each peer: listener, selector, standard streams and the like.
SPARE_DESCRIPTORS = 64
ROOT = Path(__file__).parents[2]


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return a benchmark for each load; `quick` ones measure for a shorter time."""
    seconds = QUICK_SECONDS if quick else SECONDS
    return [
        Benchmark(
            name,
            "deliveries/s",
            [
                Contender("chatd", partial(run, OURS, load, seconds)),
                Contender("websockets", partial(_run_rival, "websockets", load, seconds)),
            ],
        )
        for name, load in LOADS.items()
    ]


def run(server: Sequence[str], load: Load, seconds: float) -> Sample:
    """Start a server and the load client; return what the client measured.

    `server` are the arguments for Python. It must print an address with its port.
    """
    if not hasattr(select, "epoll"):
        raise Absent("the load client needs epoll, which is Linux's")
    _allow_descriptors(load.peers + SPARE_DESCRIPTORS)
    server_core, client_core = _two_cores()
    with _serving(server, server_core) as port:
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.benchmarks.load", str(port)),
                *(f"--peers={load.peers}", f"--senders={load.senders}"),
                *(f"--window={load.window}", f"--seconds={seconds}"),
            ],
            env=_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            _pin(client.pid, client_core)
            output, _ = client.communicate()
    try:
        result = json.loads(output)
    except ValueError:
        raise Wrong(f"the load client ended with {client.returncode}") from None
    if "error" in result:
        raise Wrong(result["error"])
    return Sample(result["rate"], result["client_cpu"])


def _run_rival(name: str, load: Load, seconds: float) -> Sample:
    rivals.require(name)
    return run(("-m", "tests.benchmarks.rivals", name), load, seconds)


@contextmanager
def _serving(server: Sequence[str], core: int | None) -> Iterator[int]:
    """Run a server while the context lasts, with a directory of its own; give its port."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [sys.executable, *server],
            cwd=directory,
            env=_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            _pin(process.pid, core)
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                address = re.search(r"://[^/]*:(\d+)/", line)
                if address is None:
                    raise Wrong(f"the server said {line!r} where its address was awaited")
                yield int(address[1])
            finally:
                process.terminate()


def _environment() -> dict[str, str]:
    """Return the environment in which this checkout's modules are found."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _two_cores() -> tuple[int | None, int | None]:
    """Return one core for the server and one for the client, or None where there is no say."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _pin(process: int, core: int | None) -> None:
    if core is not None:
        with suppress(ProcessLookupError):  # it has ended already: its output says why
            os.sched_setaffinity(process, {core})


def _allow_descriptors(count: int) -> None:
    """Raise the limit on open files, which both processes inherit."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Absent(f"needs {count} open files, and only {hard} are allowed: see ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
