"""The shared store beside the embedded one: appends, latency, and deliveries of several nodes.

PostgreSQL runs on the same machine, without a core of its own. Two nodes share a port, so the
kernel spreads the peers over them.
"""

from __future__ import annotations

import atexit
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import NewMessage
from tests.benchmarks.loads import LATENCY_SECONDS, fan_out, latency
from tests.benchmarks.measure import Absent, Benchmark, Contender, Sample
from tests.benchmarks.servers import Program, chatd, chatd_chat, floor, rivals

BATCHES = (1, 8, 64, 512)
SECONDS = 2.0
QUICK_SECONDS = 0.2
ROOMS = 4
INSTALL_POSTGRES = "not installed: apt-get install postgresql; pip install '.[postgres]'"

_resources = ExitStack()
atexit.register(_resources.close)


def is_installed() -> bool:
    """Return True if PostgreSQL and its client are there."""
    programs = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return bool(programs) and find_spec("psycopg") is not None


@cache
def _server() -> Any:
    if not is_installed():
        raise Absent(INSTALL_POSTGRES)
    from tests.scale.engine import engine  # needs pytest

    return _resources.enter_context(engine())[0]


def appends(batch: int, seconds: float, *, shared: bool) -> Sample:
    """Append batches one after another; return messages/s and the median of an append."""
    calls: SimpleQueue[Any] = SimpleQueue()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        store: Any
        if shared:
            url = _server().new_database()  # first, as it raises `Absent`
            from chatd.storage.postgres.store import PostgresStore

            store = PostgresStore(url)
            store.start(lambda seconds, callback: None, calls.put)
        else:
            store = SQLiteStore(f"{directory}/chat.db")
        stack.callback(store.close)
        taken: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            messages = [
                NewMessage(
                    f"r{each % ROOMS}", "Ann", "x" * 40, secrets.token_hex(8), "s12345678901"
                )
                for each in range(batch)
            ]
            results: list[Any] = []
            started = time.perf_counter()
            store.append(messages, results.append)
            while not results:
                with suppress(Empty):
                    calls.get(timeout=1.0)()
            taken.append(time.perf_counter() - started)
            assert isinstance(results[0], list), results[0]
        return Sample(
            batch * len(taken) / sum(taken),
            {"p50 of an append, ms": statistics.median(taken) * 1e3},
        )


def nodes(number: int, speaks: Sequence[str] = ()) -> Program:
    """Return chatd on a shared store, as one node or as several on one port."""
    name = f"chatd --store, {number} node{'s' if number > 1 else ''}"
    command = (sys.executable, "-m", "tests.benchmarks.shared_store", str(number))
    return Program(name, command, is_installed, INSTALL_POSTGRES, speaks)


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmarks; `quick` ones are shorter."""
    seconds = QUICK_SECONDS if quick else SECONDS
    for_latency = seconds if quick else LATENCY_SECONDS
    chat = f"--peers 100 --senders 100 --rate 300 --seconds {for_latency}"
    uwebsockets = [each for each in rivals("chat") if each.name == "uWebSockets"]
    of_nodes = fan_out(
        "100 peers, 64 in flight",
        [floor("chat"), chatd(), nodes(1), nodes(2), *uwebsockets],
        seconds,
    )
    return [
        *(
            Benchmark(
                f"appends, {batch} in a batch",
                "messages/s",
                [
                    Contender("PostgreSQL", partial(appends, batch, seconds, shared=True)),
                    Contender("SQLite", partial(appends, batch, seconds, shared=False)),
                ],
            )
            for batch in BATCHES
        ),
        latency(
            "latency of a chat of 100 peers at 300 messages/s",
            chat,
            [chatd_chat(), *(nodes(number, ("--chat",)) for number in (1, 2))],
        ),
        replace(of_nodes, name=f"several nodes, {of_nodes.name}"),
    ]


def main(number: int) -> None:
    """Run nodes on one port, with a PostgreSQL of their own, until SIGTERM."""
    from tests.scale.engine import engine

    with engine() as (server,), ExitStack() as stack:
        options = ["--store", server.new_database(), "--rate-limit", "0", "--reuse-port"]
        port = "0"
        for place in range(number):
            words = [sys.executable, "-m", "chatd", *options, "--port", port, "--node", f"n{place}"]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            assert process.stdout is not None
            line = process.stdout.readline()
            port = line.partition("://")[2].partition("/")[0].rpartition(":")[2]
        print(line, end="", flush=True)
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    main(int(sys.argv[1]))
