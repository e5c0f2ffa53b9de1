"""How fast received frames are parsed, without any socket.

Masked binary messages of one frame each, as a client sends them, arrive in reads
of 64 KiB and go through what a server would use: our `Connection`, websockets'
`ServerProtocol` in state OPEN, wsproto's `Connection`. All get the same chunks,
and outside the measured time each one's messages are compared with what was
encoded. Binary, because websockets would leave the decoding of text for later.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from functools import partial

from tests.benchmarks import rivals
from tests.benchmarks.measure import Absent, Benchmark, Contender, Sample, Wrong
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Role
from wsproto_min.frames import encode_frame

READ_SIZE = 1 << 16
FRAME_SIZES = (64, 1024)
LARGE = 1 << 20

Parse = Callable[[Iterable[bytes]], list[bytes]]


def parse_with_ours(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that our `Connection` finds."""
    connection = Connection(Role.SERVER)
    messages: list[bytes] = []
    for chunk in chunks:
        messages += [event for event in connection.receive_data(chunk) if isinstance(event, bytes)]
    return messages


def benchmarks(*, quick: bool = False, ours_alone: bool = False) -> list[Benchmark]:
    """Return a benchmark for each size of message; `quick` ones are a tenth as long."""
    megabytes = 2 if quick else 20
    return [
        _benchmark(f"codec, {size} B frames", "frames/s", size, megabytes, ours_alone)
        for size in FRAME_SIZES
    ] + [_benchmark("codec, 1 MiB messages", "MB/s", LARGE, 5 * megabytes, ours_alone)]


def _benchmark(name: str, unit: str, size: int, megabytes: int, ours_alone: bool) -> Benchmark:
    count = max(1, megabytes * 10**6 // size)
    contenders: list[tuple[str, Parse]] = [("wsproto_min", parse_with_ours)]
    if not ours_alone:
        contenders += [
            (_websockets_name(), rivals.parse_with_websockets),
            ("wsproto", rivals.parse_with_wsproto),
        ]
    return Benchmark(
        name,
        unit,
        [Contender(who, partial(run, parse, size, count, unit)) for who, parse in contenders],
    )


def _websockets_name() -> str:
    """Return the name under which websockets runs here, with its C extension or not."""
    try:
        rivals.require("websockets")
    except Absent:
        return "websockets"
    return f"websockets, C extension {'on' if rivals.websockets_has_c() else 'off'}"


def run(parse: Parse, size: int, count: int, unit: str) -> Sample:
    """Let `parse` have `count` messages of `size` bytes, and check what it made of them."""
    sent, chunks = _traffic(size, count)
    begin = time.perf_counter()
    received = parse(chunks)
    elapsed = time.perf_counter() - begin
    if received != sent:
        raise Wrong(f"parsed {len(received)} messages that are not the {count} sent")
    return Sample((count if unit == "frames/s" else count * size / 1e6) / elapsed)


def _traffic(size: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """Return messages, and their masked frames cut into reads; the same every time."""
    source = random.Random(size)
    # A few different ones, in turn: enough to notice a loss or a mix-up.
    variety = [(source.randbytes(size), source.randbytes(4)) for _ in range(61)][:count]
    frames = [encode_frame(Opcode.BINARY, message, mask=mask) for message, mask in variety]
    messages = [variety[index % len(variety)][0] for index in range(count)]
    stream = b"".join(frames[index % len(frames)] for index in range(count))
    return messages, [
        stream[begin : begin + READ_SIZE] for begin in range(0, len(stream), READ_SIZE)
    ]
