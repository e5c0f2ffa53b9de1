"""The benchmarks run with the smallest loads and detect wrong output of a server."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import codec, fanout, handshakes, idle, latency, memory, room, start
from tests.benchmarks.__main__ import MODULES, main, table
from tests.benchmarks.echo import load as echo_load
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

# A room that delivers each message to its sender too: one delivery too many.
ECHOES_TO_SENDER = """
from wsproto_min import Server
server = Server(on_open=lambda peer: room.add(peer), on_message=lambda _, text: room.send(text))
room = server.group()
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""

# A room that delivers the right number of messages, but other content.
GARBLES_TEXT = """
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
    reason="needs epoll and /proc/PID/schedstat of Linux",
)
SMALL = {"peers": 4, "senders": 2, "window": 3, "seconds": 0.1}


def test_codec_benchmark_parses_all_messages() -> None:
    for benchmark in codec.benchmarks(quick=True, ours_alone=True):
        (result,) = measure(benchmark, runs=1)
        assert result.note == ""
        assert result.median > 0


def test_codec_benchmark_detects_a_lost_message() -> None:
    with pytest.raises(Wrong, match="parsed 9 messages, which differ from the 10 sent"):
        codec.run(lambda chunks: codec.parse_with_ours(chunks)[1:], 64, 10, "frames/s")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of loads in this process; the servers here settle at once."""
    for module in (idle, room):
        monkeypatch.setattr(module, "SETTLE", 0.05)


@needs_linux
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("program", "loads"),
    [
        (
            chatd(),
            [
                (fanout.load, SMALL),
                (fanout.load, {**SMALL, "rooms": 2, "per_delivery": True}),
                (fanout.load, {**SMALL, "chat": True}),
                (latency.load, {"peers": 10, "rate": 1000, "seconds": 0.15}),
                (memory.load, {"peers": 30}),
                (idle.load, {"peers": 5, "seconds": 0.1}),
                (handshakes.load, {"seconds": 0.1}),
            ],
        ),
        (probe(), [(fanout.load, SMALL)]),
        (
            echo(),
            [
                (echo_load, {"peers": 1, "seconds": 0.1}),
                (echo_load, {"peers": 3, "seconds": 0.1}),
            ],
        ),
    ],
    ids=["chatd", "probe", "echo"],
)
def test_load_with_few_peers_loses_nothing(
    program: Program, loads: list[tuple[Callable[..., dict[str, float]], dict[str, Any]]]
) -> None:
    with serving(program) as (process, port):
        for load, arguments in loads:
            assert load(port, process, **arguments)["value"] >= 0
            time.sleep(0.05)  # the server reads the ends of the connections


@needs_linux
def test_run_starts_a_server_and_the_load_client() -> None:
    assert run(chatd(), "handshakes", seconds=0.1).value > 0


@needs_linux
@pytest.mark.parametrize("task", ["chat", "echo"])
def test_floor_in_c_passes_its_loads(task: str) -> None:
    need(floor(task).is_installed(), "a C compiler", "apt-get install gcc libc6-dev")
    if task == "chat":
        # Enough messages to split reads, with several senders in one loop iteration.
        loads: dict[str, dict[str, Any]] = {
            "fanout": {**SMALL, "senders": 4, "window": 4000},
            "handshakes": {"seconds": 0.1},
        }
    else:
        loads = {"echo": {"peers": 3, "seconds": 0.1}}
    for module, arguments in loads.items():
        assert run(floor(task), module, **arguments).value >= 0


@needs_linux
def test_start_benchmark_measures_a_server() -> None:
    assert 0 < start.run(chatd()).value < 10


@needs_linux
@pytest.mark.parametrize(
    ("server", "complaint"),
    [
        (ECHOES_TO_SENDER, "more messages were delivered than sent"),
        (GARBLES_TEXT, "received content that differs from the sent one"),
    ],
)
def test_fanout_detects_wrong_deliveries(server: str, complaint: str) -> None:
    program = Program("wrong", (sys.executable, "-c", server))
    with pytest.raises(Wrong, match=complaint):
        run(program, "fanout", **{**SMALL, "senders": 1, "window": 1})


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
