"""Measurement, tables and command line of the benchmarks."""

from __future__ import annotations

import json
import platform
import select
import sys
import sysconfig
from functools import partial
from itertools import cycle, takewhile
from pathlib import Path

import pytest

from tests.benchmarks import codec
from tests.benchmarks.__main__ import TABLES, main, row_titles, summary, table
from tests.benchmarks.measure import (
    TO_THE_FIRST,
    Absent,
    Benchmark,
    Contender,
    Sample,
    Variant,
    Wrong,
    interpreter,
    measure,
)
from tests.benchmarks.servers import ROOT, Program, chatd, serving
from tests.documents import DOCUMENTS, TEST

needs_linux = pytest.mark.skipif(
    not hasattr(select, "epoll") or not Path("/proc/self/schedstat").exists(),
    reason="needs epoll and /proc/PID/schedstat of Linux",
)


def test_codec_benchmark_parses_all_messages() -> None:
    for benchmark in codec.benchmarks(quick=True, ours_alone=True):
        (result,) = measure(benchmark, runs=1)
        assert result.note == ""
        assert result.median > 0


def test_codec_benchmark_detects_a_lost_message() -> None:
    with pytest.raises(Wrong, match="parsed 9 messages, which differ from the 10 sent"):
        codec.run(lambda chunks: codec.parse_with_ours(chunks)[1:], 64, 10, "frames/s")


def test_benchmarks_and_contenders_have_unique_names() -> None:
    for quick in (False, True):
        every = [each for table in TABLES.values() for each in table(quick=quick)]
        names = [each.name for each in every]
        assert len(set(names)) == len(names)
        for benchmark in every:
            contenders = [each.name for each in benchmark.contenders]
            assert len(set(contenders)) == len(contenders)


SUMS = Benchmark(
    "sums",
    "s",
    [
        Contender("few", lambda: Sample(0.5, {"CPU": 0.25})),
        Contender("many", partial(next, map(Sample, cycle((1.0, 2.0, 3.0))))),
    ],
    TO_THE_FIRST,
    {"CPU": "CPU (cores)"},
)


def test_table_of_absent_rival_shows_the_install_command() -> None:
    def absent() -> Sample:
        raise Absent("not installed: pip install '.[bench]'")

    benchmark = Benchmark(
        "sums",
        "sums/s",
        [Contender("ours", lambda: Sample(1000)), Contender("theirs", absent)],
    )
    results = measure(benchmark, runs=3)
    assert table(benchmark, results).splitlines() == [
        "| sums (sums/s) | min | median | max | ours / theirs |",
        "|---|---:|---:|---:|---:|",
        "| ours | 1,000 | 1,000 | 1,000 |  |",
        "| theirs: not installed: pip install '.[bench]' |  |  |  |  |",
    ]
    assert not any(each.failed for each in results)


@needs_linux
def test_serving_a_missing_server_raises_absent() -> None:
    program = Program("theirs", ("theirs",), lambda: False, "not installed: pip install theirs")
    with pytest.raises(Absent, match="pip install theirs"), serving(program):
        pass


def test_table_shows_details_and_ratio_to_the_first() -> None:
    assert table(SUMS, measure(SUMS, runs=3)).splitlines() == [
        "| sums (s) | min | median | max | of the first | CPU |",
        "|---|---:|---:|---:|---:|---:|",
        "| few | 0.5 | 0.5 | 0.5 |  | 0.25 |",
        "| many | 1 | 2 | 3 | 4.00 |  |",
    ]


def test_summary_has_ratios_and_rows_of_details() -> None:
    of_first = Benchmark("none", "s", SUMS.contenders[:1])
    results = {"sums": measure(SUMS, runs=3), "none": measure(of_first, runs=1)}
    assert summary([SUMS, of_first], results).splitlines() == [
        "|  | few | many |",
        "|---|---:|---:|",
        "| sums (s) | 0.5 | 2 (4.00) |",
        "| sums, CPU (cores) | 0.25 |  |",
        "| none (s) | 0.5 |  |",
    ]


def test_measure_alternates_the_order_of_contenders() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        def run() -> Sample:
            order.append(name)
            return Sample(1.0)

        return Contender(name, run)

    measure(Benchmark("sums", "s", [contender("a"), contender("b")]), runs=3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_ratio_is_the_median_of_the_rounds() -> None:
    # The machine is half as fast in the second and third round.
    ours, theirs = iter((10.0, 6.0, 5.0)), iter((20.0, 10.0, 10.0))
    benchmark = Benchmark(
        "sums",
        "s",
        [
            Contender("ours", lambda: Sample(next(ours))),
            Contender("theirs", lambda: Sample(next(theirs))),
        ],
    )
    first, second = measure(benchmark, runs=3)
    assert first.ratio(second) == 0.5
    assert second.ratio(first) == 2.0


def test_variants_stand_behind_our_contenders() -> None:
    def ours(name: str) -> Contender:
        return Contender(name, lambda: Sample(1.0), lambda variant: ours(f"{name}, {variant.name}"))

    theirs = Contender("theirs", lambda: Sample(1.0))
    benchmark = Benchmark("sums", "s", [theirs, ours("ours"), ours("chat")])
    variant = Variant("at 123", "python3", Path("checkout"))
    names = [each.name for each in benchmark.choose(["ours"]).with_variants([variant]).contenders]
    assert names == ["theirs", "ours", "ours, at 123"]


def test_variant_of_a_program_has_its_python_and_checkout(tmp_path: Path) -> None:
    program = chatd().under(Variant("at 123", "python3.14", tmp_path))
    assert program.command[:3] == ("python3.14", "-m", "chatd")
    assert (program.name, program.root) == ("chatd, at 123", tmp_path)
    assert chatd().root == ROOT


def test_interpreter_says_how_it_was_built() -> None:
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    described = interpreter(sys.executable)
    assert platform.python_version() in described
    if "--enable-optimizations" in arguments:
        assert "(PGO" in described
    assert ("LTO" in described) is ("--with-lto" in arguments)


def test_interpreter_that_is_none_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--python", "/nonexistent/python"])
    assert "/nonexistent/python" in capsys.readouterr().err


def test_command_runs_chosen_benchmarks_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def benchmarks(*, quick: bool) -> list[Benchmark]:
        sums = [Contender("ours", lambda: Sample(2.0))]
        return [Benchmark("sums", "sums/s", sums), Benchmark("more", "sums/s", sums)]

    monkeypatch.setattr("tests.benchmarks.__main__.TABLES", {"all": benchmarks})
    file = tmp_path / "figures.json"
    assert main(["sum", "--quick", "--runs", "2", "--json", str(file)]) == 0
    assert "| sums (sums/s) |" in capsys.readouterr().out
    (written,) = json.loads(file.read_text())["benchmarks"]
    assert written["name"] == "sums"
    assert [sample["value"] for sample in written["results"][0]["samples"]] == [2.0, 2.0]


def test_command_only_unknown_contender_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fan-out", "--only", "none"])
    assert "--only none: no contender; choose from: C floor; NATS;" in capsys.readouterr().err


def test_command_with_a_failed_contender_returns_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> Sample:
        raise Wrong("lost")

    def benchmarks(*, quick: bool) -> list[Benchmark]:
        contenders = [Contender("ours", lambda: Sample(2.0)), Contender("theirs", wrong)]
        return [Benchmark("sums", "sums/s", contenders)]

    monkeypatch.setattr("tests.benchmarks.__main__.TABLES", {"all": benchmarks})
    assert main(["--runs", "1"]) == 1


def test_readme_tables_are_those_of_the_command() -> None:
    for name in ("rooms", "echo", "parsing", "CPU time"):
        shown = DOCUMENTS[TEST].partition(f"<!-- benchmarks: {name} -->\n")[2].splitlines()
        (_, *columns), _, *rows = (
            [cell.strip() for cell in line[1:-1].split("|")] for line in takewhile(bool, shown)
        )
        benchmarks = TABLES[name]()
        assert [row[0] for row in rows] == [
            title for benchmark in benchmarks for title in row_titles(benchmark)
        ]
        contenders = [each.name for benchmark in benchmarks for each in benchmark.contenders]
        if name == "parsing":  # the names of the libraries depend on the installation
            assert columns[0] == contenders[0]
        else:
            assert columns == list(dict.fromkeys(contenders))
