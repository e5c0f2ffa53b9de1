"""The benchmarks run, and notice what they must: smallest loads, ours alone."""

from __future__ import annotations

import select

import pytest

from tests.benchmarks import codec, fanout
from tests.benchmarks.__main__ import table
from tests.benchmarks.load import Load
from tests.benchmarks.measure import Absent, Benchmark, Contender, Sample, Wrong, measure

# The same room, but the sender hears itself: one delivery a message too many.
ECHOES_TO_ITS_SENDER = """
from wsproto_min import Server
server = Server(on_open=lambda peer: room.add(peer), on_message=lambda _, text: room.send(text))
room = server.group()
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="epoll is Linux's")


def test_the_codec_benchmarks_parse_what_was_sent() -> None:
    for benchmark in codec.benchmarks(quick=True, ours_alone=True):
        (result,) = measure(benchmark, runs=1)
        assert result.note == ""
        assert result.median > 0


def test_a_codec_that_loses_a_message_has_no_speed() -> None:
    with pytest.raises(Wrong, match="parsed 9 messages that are not the 10 sent"):
        codec.run(lambda chunks: codec.parse_with_ours(chunks)[1:], 64, 10, "frames/s")


@needs_epoll
def test_a_small_fan_out_delivers_every_message_to_every_other_peer() -> None:
    sample = fanout.run(fanout.OURS, Load(peers=4, senders=2, window=3), 0.1)
    assert sample.rate > 0
    assert sample.client_cpu is not None


@needs_epoll
def test_a_fan_out_that_delivers_too_much_has_no_speed() -> None:
    with pytest.raises(Wrong, match="more was delivered than was sent"):
        fanout.run(("-c", ECHOES_TO_ITS_SENDER), Load(peers=3, senders=1, window=1), 0.1)


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
