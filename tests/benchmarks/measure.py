"""Benchmarks and their measurement.

Contenders run in turn, A B A B, so that other load on the machine affects all of them
alike. The result of a contender is the median of its runs. Compare the ratios within one
run of this program, never figures of different runs.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

OURS_TO_THEIRS = "ours / theirs"
TO_THE_FIRST = "of the first"


class Absent(Exception):
    """A contender cannot run here; the text says how to install it."""


class Wrong(Exception):
    """Wrong output of a contender: its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: its figure, and details measured beside it."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A program or library to compare; `run` measures once."""

    name: str
    run: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A measurement, its unit and its contenders, ours first.

    `ratio` is the heading of the column that compares each row with the first.
    """

    name: str
    unit: str
    contenders: Sequence[Contender]
    ratio: str = OURS_TO_THEIRS


@dataclass(frozen=True, slots=True)
class Result:
    """The runs of a contender; without any, `note` gives the reason."""

    contender: str
    samples: tuple[Sample, ...] = ()
    note: str = ""

    @property
    def median(self) -> float:
        """The median figure."""
        return statistics.median(sample.value for sample in self.samples)

    def detail(self, name: str) -> float | None:
        """Return the median of a detail, None if it was not measured."""
        taken = [sample.details[name] for sample in self.samples if name in sample.details]
        return statistics.median(taken) if taken else None


def measure(benchmark: Benchmark, runs: int) -> list[Result]:
    """Run all contenders in turn, `runs` times."""
    samples: dict[str, list[Sample]] = {each.name: [] for each in benchmark.contenders}
    notes: dict[str, str] = {}
    for _ in range(runs):
        for contender in benchmark.contenders:
            if contender.name not in notes:
                try:
                    samples[contender.name].append(contender.run())
                except (Absent, Wrong) as error:
                    notes[contender.name] = str(error)
    return [
        Result(name, () if name in notes else tuple(taken), notes.get(name, ""))
        for name, taken in samples.items()
    ]


def machine() -> str:
    """Return one line with date, Python, system and processor."""
    now = datetime.now(UTC)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()}"
    return f"{now:%Y-%m-%d %H:%M} UTC, {python}, {system}, {os.cpu_count()} x {_processor()}"


def _processor() -> str:
    """Return the name of the processor, or of the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
