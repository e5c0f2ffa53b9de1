"""The benchmarks run, and notice what they must: smallest loads, ours alone."""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import codec, start
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
from tests.benchmarks.servers import Program, chatd, echo, floor, probe, run, serving
from tests.needs import need

# The same room, but the sender hears itself: one delivery a message too many.
ECHOES_TO_ITS_SENDER = """
from wsproto_min import Server
server = Server(on_open=lambda peer: room.add(peer), on_message=lambda _, text: room.send(text))
room = server.group()
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""

# The right number, but not what was said.
GARBLES = """
from wsproto_min import Server
def garble(peer, text):
    room.send("x" * len(text), sender=peer)
server = Server(on_open=lambda peer: room.add(peer), on_message=garble)
room = server.group()
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""

needs_linux = pytest.mark.skipif(
    not hasattr(select, "epoll") or not Path("/proc/self/schedstat").exists(),
    reason="epoll and /proc/PID/schedstat are Linux's",
)
SMALL = {"peers": 4, "senders": 2, "window": 3, "seconds": 0.1}


def test_the_codec_benchmarks_parse_what_was_sent() -> None:
    for benchmark in codec.benchmarks(quick=True, ours_alone=True):
        (result,) = measure(benchmark, runs=1)
        assert result.note == ""
        assert result.median > 0


def test_a_codec_that_loses_a_message_has_no_speed() -> None:
    with pytest.raises(Wrong, match="parsed 9 messages that are not the 10 sent"):
        codec.run(lambda chunks: codec.parse_with_ours(chunks)[1:], 64, 10, "frames/s")


@needs_linux
@pytest.mark.parametrize(
    ("module", "program", "arguments"),
    [
        ("fanout", chatd(), SMALL),
        ("fanout", chatd(), {**SMALL, "chat": True}),
        ("fanout", chatd(), {**SMALL, "rooms": 2, "per_delivery": True}),
        ("fanout", probe(), SMALL),
        ("latency", chatd(), {"peers": 10, "rate": 500, "seconds": 0.2}),
        ("memory", chatd(), {"peers": 30}),
        ("idle", chatd(), {"peers": 5, "seconds": 0.2}),
        ("handshakes", chatd(), {"seconds": 0.1}),
        ("echo", echo(), {"peers": 1, "seconds": 0.1}),
        ("echo", echo(), {"peers": 3, "seconds": 0.1}),
    ],
)
def test_a_small_load_loses_nothing(
    module: str, program: Program, arguments: dict[str, Any]
) -> None:
    assert run(program, module, **arguments).value >= 0


@needs_linux
@pytest.mark.parametrize("task", ["chat", "echo"])
def test_the_floor_in_c_does_its_work(task: str) -> None:
    need(floor(task).is_there(), "a C compiler", "apt-get install gcc libc6-dev")
    if task == "chat":
        # So many messages that they come in pieces, and turns have several senders.
        loads: dict[str, dict[str, Any]] = {
            "fanout": {**SMALL, "senders": 4, "window": 4000},
            "handshakes": {"seconds": 0.1},
        }
    else:
        loads = {"echo": {"peers": 3, "seconds": 0.1}}
    for module, arguments in loads.items():
        assert run(floor(task), module, **arguments).value >= 0


@needs_linux
def test_a_server_is_started_and_answers() -> None:
    assert 0 < start.run(chatd()).value < 10


@needs_linux
@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (ECHOES_TO_ITS_SENDER, "more was delivered than was sent"),
        (GARBLES, "received other content than was sent"),
    ],
)
def test_a_fan_out_that_delivers_something_else_has_no_speed(server: str, complaint: str) -> None:
    program = Program("wrong", (sys.executable, "-c", server))
    with pytest.raises(Wrong, match=complaint):
        run(program, "fanout", **{**SMALL, "senders": 1, "window": 1})


def test_every_benchmark_measures_ours_first_and_under_a_name_of_its_own() -> None:
    for quick in (False, True):
        every = [one for module in MODULES for one in module.benchmarks(quick=quick)]
        names = [one.name for one in every]
        assert len(set(names)) == len(names)
        for benchmark in every:
            contenders = [one.name for one in benchmark.contenders]
            assert len(set(contenders)) == len(contenders)


def test_an_absent_rival_says_in_its_row_what_to_install() -> None:
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
def test_a_server_that_is_not_installed_is_absent() -> None:
    program = Program("theirs", ("theirs",), lambda: False, "not installed: pip install theirs")
    with pytest.raises(Absent, match="pip install theirs"), serving(program):
        pass


def test_details_have_columns_and_costs_are_compared_with_the_first() -> None:
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


def test_the_command_runs_what_is_named_and_writes_json(
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
