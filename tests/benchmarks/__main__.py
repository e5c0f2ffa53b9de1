"""The command line: `python -m tests.benchmarks [NAME ...]` measures and prints tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import (
    codec,
    echo,
    fanout,
    handshakes,
    idle,
    latency,
    memory,
    shared_store,
    start,
)
from tests.benchmarks.measure import OURS_TO_THEIRS, Benchmark, Result, machine, measure

MODULES = (fanout, latency, memory, handshakes, idle, codec, echo, start, shared_store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen benchmarks; return the exit status.

    The exit status is 1 if the first contender of a benchmark, ours, failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure wsproto_min and chatd beside other libraries.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only the benchmarks with NAME in their name, such as 'codec' or '100 peers'",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of all runs to FILE"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short runs, to try the benchmarks; do not quote their figures",
    )
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    every = [each for module in MODULES for each in module.benchmarks(quick=options.quick)]
    chosen = [each for each in every if not options.names or _is_named(each, options.names)]
    if not chosen:
        parser.error(
            "no benchmark has this name; choose from: " + "; ".join(each.name for each in every)
        )

    print(f"{machine()}; median of {options.runs}{' short runs' if options.quick else ''}")
    results: dict[str, list[Result]] = {}
    for benchmark in chosen:
        results[benchmark.name] = measure(benchmark, options.runs)
        print(f"\n{table(benchmark, results[benchmark.name])}", flush=True)
    if options.json:
        options.json.write_text(_to_json(chosen, results))
    return 0 if all(rows[0].samples for rows in results.values()) else 1


def _is_named(benchmark: Benchmark, names: Sequence[str]) -> bool:
    return any(name in benchmark.name for name in names)


def table(benchmark: Benchmark, results: Sequence[Result]) -> str:
    """Return a Markdown table: a row per contender with median, range and ratio."""
    names = dict.fromkeys(
        name for result in results for sample in result.samples for name in sample.details
    )
    head = [benchmark.name, benchmark.unit, "lowest to highest", benchmark.ratio, *names]
    rows = [head]
    first = results[0]
    for result in results:
        if not result.samples:
            rows.append([result.contender, result.note, *[""] * (len(head) - 2)])
            continue
        values = [sample.value for sample in result.samples]
        compared = ""
        if result is not first and first.samples:
            theirs = benchmark.ratio == OURS_TO_THEIRS
            ratio = first.median / result.median if theirs else result.median / first.median
            compared = f"{ratio:.2f}"
        details = [result.detail(name) for name in names]
        rows.append(
            [
                result.contender,
                _figure(result.median),
                f"{_figure(min(values))} to {_figure(max(values))}",
                compared,
                *("" if detail is None else f"{detail:.2f}" for detail in details),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (head, rule, *rows[1:]))


def _figure(value: float) -> str:
    """Return a figure with at least three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one row: the first column flush left, the figures flush right."""
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *others])} |"


def _to_json(chosen: Sequence[Benchmark], results: dict[str, list[Result]]) -> str:
    document = {
        "machine": machine(),
        "benchmarks": [
            {
                "name": benchmark.name,
                "unit": benchmark.unit,
                "results": [asdict(result) for result in results[benchmark.name]],
            }
            for benchmark in chosen
        ],
    }
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
