"""Time from the start of a server to its first handshake response."""

from __future__ import annotations

import time
from functools import partial

from tests.benchmarks.client import connect
from tests.benchmarks.measure import Benchmark, Contender, Sample
from tests.benchmarks.servers import Program, chatd, probe, rivals, serving


def run(program: Program) -> Sample:
    """Start a server and open one connection; return the time in seconds."""
    begin = time.perf_counter()
    with serving(program) as (_, port), connect(port):
        return Sample(time.perf_counter() - begin)


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmark; it has no quick form."""
    programs = [chatd(), *rivals("chat"), probe()]
    return [
        Benchmark(
            "start to first answer",
            "s",
            [Contender(program.name, partial(run, program)) for program in programs],
        )
    ]
