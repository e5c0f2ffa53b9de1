"""Each load runs small against each of our servers and detects wrong output of a server."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import echo as echo_module
from tests.benchmarks import fanout, handshakes, idle, latency, memory, room, start
from tests.benchmarks.measure import Wrong
from tests.benchmarks.servers import Program, chatd, echo, floor, probe, run, serving
from tests.needs import need

pytestmark = pytest.mark.skipif(
    not hasattr(select, "epoll") or not Path("/proc/self/schedstat").exists(),
    reason="needs epoll and /proc/PID/schedstat of Linux",
)

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

SMALL = {"peers": 4, "senders": 2, "window": 3, "seconds": 0.1}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of loads in this process; the servers here settle at once."""
    for module in (idle, room):
        monkeypatch.setattr(module, "SETTLE", 0.05)


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
                (echo_module.load, {"peers": 1, "seconds": 0.1}),
                (echo_module.load, {"peers": 3, "seconds": 0.1}),
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


def test_start_benchmark_measures_a_server() -> None:
    assert 0 < start.run(chatd()).value < 10


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
