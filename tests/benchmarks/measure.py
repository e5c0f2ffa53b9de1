"""What a benchmark is, and how one is measured.

Contenders take turns, A B A B, so that whatever else the machine does meets all
of them alike; of each one's runs the median counts. Figures of different runs of
this program are not comparable, the ratios within one are.
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
    """A contender cannot run here; the text says what would change that."""


class Wrong(Exception):
    """A contender's output is not what it must be, so its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: its figure, and whatever else was measured along the way."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those compared; `run` measures once."""

    name: str
    run: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured, in which unit, and of whom: ours comes first.

    `ratio` is what each row is told beside its figure: how it compares to the first.
    """

    name: str
    unit: str
    contenders: Sequence[Contender]
    ratio: str = OURS_TO_THEIRS


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's runs, or in `note` why there are none."""

    contender: str
    samples: tuple[Sample, ...] = ()
    note: str = ""

    @property
    def median(self) -> float:
        """The median figure."""
        return statistics.median(sample.value for sample in self.samples)

    def detail(self, name: str) -> float | None:
        """Return the median of something measured along the way, if it was."""
        taken = [sample.details[name] for sample in self.samples if name in sample.details]
        return statistics.median(taken) if taken else None


def measure(benchmark: Benchmark, runs: int) -> list[Result]:
    """Run all contenders in turn, so many times."""
    samples: dict[str, list[Sample]] = {one.name: [] for one in benchmark.contenders}
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
    """Return one line on when and where this ran."""
    now = datetime.now(UTC)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()}"
    return f"{now:%Y-%m-%d %H:%M} UTC, {python}, {system}, {os.cpu_count()} x {_processor()}"


def _processor() -> str:
    """Return the processor's name, as far as it is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
