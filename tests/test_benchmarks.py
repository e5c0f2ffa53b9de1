"""Measurement, tables and command line of the benchmarks; one small load."""

from __future__ import annotations

import json
import select
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import codec
from tests.benchmarks.__main__ import MODULES, main, table
from tests.benchmarks.measure import (
    TO_THE_FIRST,
    Absent,
    Benchmark,
    Contender,
    Sample,
    Wrong,
    measure,
)
from tests.benchmarks.servers import Program, chatd, run, serving
from tests.support import poll

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


@needs_linux
def test_run_starts_a_server_and_the_load_client() -> None:
    # On a busy machine 0.1 s may end before the first handshake.
    poll(lambda: run(chatd(), "handshakes", seconds=0.1).value > 0, "a handshake is measured")


def test_benchmarks_and_contenders_have_unique_names() -> None:
    for quick in (False, True):
        every = [each for module in MODULES for each in module.benchmarks(quick=quick)]
        names = [each.name for each in every]
        assert len(set(names)) == len(names)
        for benchmark in every:
            contenders = [each.name for each in benchmark.contenders]
            assert len(set(contenders)) == len(contenders)


def test_table_of_absent_rival_shows_the_install_command() -> None:
    def absent() -> Sample:
        raise Absent("not installed: pip install '.[bench]'")

    benchmark = Benchmark(
        "sums",
        "sums/s",
        [Contender("ours", lambda: Sample(1000)), Contender("theirs", absent)],
    )
    assert table(benchmark, measure(benchmark, runs=3)).splitlines() == [
        "| sums   |                                sums/s | lowest to highest | ours / theirs |",
        "| ------ | ------------------------------------: | ----------------: | ------------: |",
        "| ours   |                                 1,000 |    1,000 to 1,000 |               |",
        "| theirs | not installed: pip install '.[bench]' |                   |               |",
    ]


@needs_linux
def test_serving_a_missing_server_raises_absent() -> None:
    program = Program("theirs", ("theirs",), lambda: False, "not installed: pip install theirs")
    with pytest.raises(Absent, match="pip install theirs"), serving(program):
        pass


def test_table_shows_details_and_ratio_to_the_first() -> None:
    benchmark = Benchmark(
        "sums",
        "s",
        [
            Contender("few", lambda: Sample(0.5, {"CPU": 0.25})),
            Contender("many", lambda: Sample(1.0)),
        ],
        TO_THE_FIRST,
    )
    assert table(benchmark, measure(benchmark, runs=1)).splitlines() == [
        "| sums |   s | lowest to highest | of the first |  CPU |",
        "| ---- | --: | ----------------: | -----------: | ---: |",
        "| few  | 0.5 |        0.5 to 0.5 |              | 0.25 |",
        "| many |   1 |            1 to 1 |         2.00 |      |",
    ]


def test_command_runs_chosen_benchmarks_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def benchmarks(*, quick: bool) -> list[Benchmark]:
        sums = [Contender("ours", lambda: Sample(2.0))]
        return [Benchmark("sums", "sums/s", sums), Benchmark("more", "sums/s", sums)]

    monkeypatch.setattr(
        "tests.benchmarks.__main__.MODULES", [SimpleNamespace(benchmarks=benchmarks)]
    )
    file = tmp_path / "figures.json"
    assert main(["sum", "--quick", "--runs", "2", "--json", str(file)]) == 0
    assert "| sums |" in capsys.readouterr().out
    (written,) = json.loads(file.read_text())["benchmarks"]
    assert written["name"] == "sums"
    assert [sample["value"] for sample in written["results"][0]["samples"]] == [2.0, 2.0]
