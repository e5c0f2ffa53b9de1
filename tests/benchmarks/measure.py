"""Benchmarks and their measurement.

Contenders run in turn, A B C C B A, so that other load on the machine affects all of them
alike. The result of a contender is the median of its runs; the lowest and the highest run
tell a difference from noise. A ratio is the median of the ratios within each round.
Compare the ratios within one run of this program, never figures of different runs.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

OURS_TO_THEIRS = "ours / theirs"
TO_THE_FIRST = "of the first"

# Debian removes the flags of its profile-guided build from sysconfig. Other builds keep them
# there, used or not.
_BUILD = """
import platform, sysconfig
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
flag = sysconfig.get_config_var("PGO_PROF_USE_FLAG")
profiled = "--enable-optimizations" in arguments or flag == ""
build = "PGO" if profiled else "no PGO"
build += ", LTO" if "--with-lto" in arguments else ""
print(f"{platform.python_implementation()} {platform.python_version()} ({build})")
"""


class Absent(Exception):
    """A contender cannot run here; the text says how to install it."""


class Wrong(Exception):
    """Wrong output of a contender: its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Another checkout of this repository, or another interpreter, for our servers."""

    name: str
    python: str
    root: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: its figure, and details measured beside it."""

    value: float
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A program or library to compare; `run` measures once.

    `vary` returns the contender for a variant. Only our servers have it.
    """

    name: str
    run: Callable[[], Sample]
    vary: Callable[[Variant], Contender] | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A measurement, its unit and its contenders.

    `ratio` is the heading of the column that compares each row with the first. `rows` maps
    a detail to its title, if the summary has a row of it.
    """

    name: str
    unit: str
    contenders: Sequence[Contender]
    ratio: str = OURS_TO_THEIRS
    rows: Mapping[str, str] = field(default_factory=dict)

    def choose(self, names: Sequence[str] | None) -> Benchmark:
        """Return the benchmark with its first contender and those named, or with all."""
        kept = [each for each in self.contenders[1:] if names is None or each.name in names]
        return replace(self, contenders=[self.contenders[0], *kept])

    def with_variants(self, variants: Sequence[Variant]) -> Benchmark:
        """Return the benchmark with the variants of each contender behind it."""
        contenders: list[Contender] = []
        for each in self.contenders:
            contenders.append(each)
            if each.vary is not None:
                contenders += [each.vary(variant) for variant in variants]
        return replace(self, contenders=contenders)


@dataclass(frozen=True, slots=True)
class Result:
    """The runs of a contender; without any, `note` gives the reason."""

    contender: str
    samples: tuple[Sample, ...] = ()
    note: str = ""
    failed: bool = False

    @property
    def median(self) -> float:
        """The median figure."""
        return statistics.median(sample.value for sample in self.samples)

    def detail(self, name: str) -> float | None:
        """Return the median of a detail, None if it was not measured."""
        taken = [sample.details[name] for sample in self.samples if name in sample.details]
        return statistics.median(taken) if taken else None

    def ratio(self, other: Result) -> float:
        """Return the median over the rounds of this figure divided by that of `other`."""
        pairs = zip(self.samples, other.samples, strict=True)
        return statistics.median(mine.value / theirs.value for mine, theirs in pairs)


def measure(benchmark: Benchmark, runs: int) -> list[Result]:
    """Run all contenders in turn, `runs` times."""
    samples: dict[str, list[Sample]] = {each.name: [] for each in benchmark.contenders}
    errors: dict[str, Absent | Wrong] = {}
    for number in range(runs):
        for contender in benchmark.contenders[:: -1 if number % 2 else 1]:
            if contender.name not in errors:
                try:
                    samples[contender.name].append(contender.run())
                except (Absent, Wrong) as error:
                    errors[contender.name] = error
    return [
        Result(name, (), str(errors[name]), isinstance(errors[name], Wrong))
        if name in errors
        else Result(name, tuple(taken))
        for name, taken in samples.items()
    ]


def interpreter(python: str) -> str:
    """Return the version of an interpreter, and if it was built with PGO and LTO."""
    ran = subprocess.run([python, "-c", _BUILD], capture_output=True, text=True)
    if ran.returncode:
        raise Wrong(f"{python}: cannot run: {ran.stderr.strip()}")
    return ran.stdout.strip()


def machine() -> str:
    """Return one line with date, system and processor."""
    now = datetime.now(UTC)
    system = f"{platform.system()} {platform.release()}"
    return f"{now:%Y-%m-%d %H:%M} UTC, {system}, {os.cpu_count()} x {_processor()}"


def _processor() -> str:
    """Return the name of the processor, or of the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
