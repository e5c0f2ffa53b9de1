"""The command line: `python -m tests.benchmarks [NAME ...]` measures and prints tables."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import loads, parsing, shared_store
from tests.benchmarks.measure import (
    OURS_TO_THEIRS,
    TO_THE_FIRST,
    Benchmark,
    Result,
    Variant,
    Wrong,
    interpreter,
    machine,
    measure,
)
from tests.benchmarks.servers import ROOT, versions

# The tables of the summary. Each function takes `quick`.
TABLES: dict[str, Callable[..., list[Benchmark]]] = {
    "rooms": loads.rooms,
    "echo": loads.echoes,
    "parsing": parsing.benchmarks,
    "CPU time": loads.costs,
    "shared store": shared_store.benchmarks,
}
Results = Mapping[str, Sequence[Result]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen benchmarks; return the exit status.

    The exit status is 1 if a contender failed, or if a benchmark has no figure at all.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure wsproto_min and chatd beside other libraries. Prints a table of each"
        " benchmark, then the tables of tests/README.md.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only the benchmarks with NAME in their name, such as 'codec' or '100 peers'",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CONTENDER",
        help="only this contender, its variants, and the first of each benchmark; repeatable",
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="run our servers from this older commit too, in turn with this checkout",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="run our servers under this interpreter too; repeatable",
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
    every = {name: table(quick=options.quick) for name, table in TABLES.items()}
    chosen = {
        name: [each for each in benchmarks if not options.names or _is_named(each, options.names)]
        for name, benchmarks in every.items()
    }
    if not any(chosen.values()):
        names = [each.name for benchmarks in every.values() for each in benchmarks]
        parser.error("no benchmark has this name; choose from: " + "; ".join(names))

    contenders = {
        each.name
        for benchmarks in chosen.values()
        for benchmark in benchmarks
        for each in benchmark.contenders
    }
    for name in set(options.only or ()) - contenders:
        parser.error(f"--only {name}: no contender; choose from: {'; '.join(sorted(contenders))}")

    with ExitStack() as stack:
        variants = []
        try:
            if options.against:
                variants.append(stack.enter_context(_checkout(options.against)))
            variants += [Variant(interpreter(path), path, ROOT) for path in options.python]
        except (Wrong, OSError) as error:
            parser.error(str(error))
        chosen = {
            name: [each.choose(options.only).with_variants(variants) for each in benchmarks]
            for name, benchmarks in chosen.items()
        }
        heading = f"{machine()}; {interpreter(sys.executable)}; {versions()}"
        print(f"{heading}; {options.runs}{' short' if options.quick else ''} runs", flush=True)
        results: dict[str, list[Result]] = {}
        for benchmark in (each for benchmarks in chosen.values() for each in benchmarks):
            results[benchmark.name] = measure(benchmark, options.runs)
            print(f"\n{table(benchmark, results[benchmark.name])}", flush=True)
    for name, benchmarks in chosen.items():
        if benchmarks:
            print(f"\n<!-- benchmarks: {name} -->\n{summary(benchmarks, results)}")
    if options.json:
        options.json.write_text(_to_json(heading, chosen, results))
    rows = results.values()
    failed = any(each.failed for row in rows for each in row)
    return 1 if failed or not all(any(each.samples for each in row) for row in rows) else 0


@contextmanager
def _checkout(commit: str) -> Iterator[Variant]:
    """Check out a commit in a temporary directory."""

    def git(*words: str) -> str:
        ran = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
        if ran.returncode:
            raise Wrong(f"git {words[0]}: {ran.stderr.strip()}")
        return ran.stdout.strip()

    name = git("rev-parse", "--verify", "--short", f"{commit}^{{commit}}")
    with tempfile.TemporaryDirectory() as directory:
        checkout = Path(directory, "checkout")
        git("worktree", "add", "--quiet", "--detach", str(checkout), name)
        try:
            yield Variant(f"at {name}", sys.executable, checkout)
        finally:
            git("worktree", "remove", "--force", str(checkout))


def _is_named(benchmark: Benchmark, names: Sequence[str]) -> bool:
    return any(name in benchmark.name for name in names)


def table(benchmark: Benchmark, results: Sequence[Result]) -> str:
    """Return the Markdown table of a benchmark: a row for each contender, with its spread."""
    names = dict.fromkeys(
        name for result in results for sample in result.samples for name in sample.details
    )
    title = f"{benchmark.name} ({benchmark.unit})"
    rows = [[title, "min", "median", "max", benchmark.ratio, *names]]
    first = results[0]
    for result in results:
        if not result.samples:
            rows.append([f"{result.contender}: {result.note}", *[""] * (len(rows[0]) - 1)])
            continue
        values = [sample.value for sample in result.samples]
        compared = ""
        if result is not first and first.samples:
            theirs = benchmark.ratio == OURS_TO_THEIRS
            ratio = first.ratio(result) if theirs else result.ratio(first)
            compared = f"{ratio:.2f}"
        details = [result.detail(name) for name in names]
        rows.append(
            [
                result.contender,
                *(_figure(value) for value in (min(values), result.median, max(values))),
                compared,
                *("" if detail is None else _figure(detail) for detail in details),
            ]
        )
    return _markdown(rows)


def summary(benchmarks: Sequence[Benchmark], results: Results) -> str:
    """Return a Markdown table of medians: a row for each benchmark, a column for each contender.

    The ratio to the first contender is in parentheses.
    """
    names = dict.fromkeys(each.contender for row in benchmarks for each in results[row.name])
    rows = [["", *names]]
    for benchmark in benchmarks:
        first = results[benchmark.name][0]
        by_name = {each.contender: each for each in results[benchmark.name] if each.samples}
        cells = {name: _figure(each.median) for name, each in by_name.items()}
        if benchmark.ratio == TO_THE_FIRST and first.samples:
            for name, each in by_name.items():
                if each is not first:
                    cells[name] += f" ({each.ratio(first):.2f})"
        rows.append([row_titles(benchmark)[0], *(cells.get(name, "") for name in names)])
        for detail, title in zip(benchmark.rows, row_titles(benchmark)[1:], strict=True):
            figures = {name: each.detail(detail) for name, each in by_name.items()}
            cells = {name: _figure(each) for name, each in figures.items() if each is not None}
            rows.append([title, *(cells.get(name, "") for name in names)])
    return _markdown(rows)


def row_titles(benchmark: Benchmark) -> list[str]:
    """Return the titles of the rows of a benchmark in the summary."""
    titles = [f"{benchmark.name} ({benchmark.unit})"]
    return titles + [f"{benchmark.name}, {title}" for title in benchmark.rows.values()]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column flush left, the figures flush right."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|---|{'---:|' * (len(rows[0]) - 1)}", *others])


def _figure(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _to_json(heading: str, chosen: Mapping[str, Sequence[Benchmark]], results: Results) -> str:
    document = {
        "machine": heading,
        "benchmarks": [
            {
                "name": benchmark.name,
                "unit": benchmark.unit,
                "results": [asdict(result) for result in results[benchmark.name]],
            }
            for benchmarks in chosen.values()
            for benchmark in benchmarks
        ],
    }
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
