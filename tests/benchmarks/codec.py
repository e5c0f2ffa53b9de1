"""Parsing of received frames, without a socket.

The input is masked binary messages in chunks of 64 KiB: of one frame each, and in one
row of many small fragments. Each
contender is the class that a server would use: our `Connection`, the `ServerProtocol`
of websockets in state OPEN, the `Connection` of wsproto. All get the same chunks.
After the measured time, the parsed messages are compared with the sent ones.
The messages are binary because websockets decodes text later than the others do.

The rows of compressed messages have our contender alone. It receives fragments and sends
each message back, once with text and once with noise, which stands for photos and archives.
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
from wsproto_min.deflate import Compressor, DeflateParameters
from wsproto_min.frames import encode_frame

READ_SIZE = 1 << 16
FRAME_SIZES = (64, 1024)
LARGE = 1 << 20
FRAGMENTED = 1 << 16
FRAGMENT_SIZE = 256

Parse = Callable[[Iterable[bytes]], list[bytes]]


def parse_with_ours(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that our `Connection` parses."""
    connection = Connection(Role.SERVER)
    messages: list[bytes] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        while (event := connection.next_event()) is not None:
            if isinstance(event, bytes):
                messages.append(event)
    return messages


def benchmarks(*, quick: bool = False, ours_alone: bool = False) -> list[Benchmark]:
    """Return a benchmark for each size of message; `quick` ones are a tenth as long."""
    megabytes = 2 if quick else 20
    return [
        _benchmark(f"codec, {size} B frames", "frames/s", size, megabytes, ours_alone)
        for size in FRAME_SIZES
    ] + [
        _benchmark("codec, 1 MiB messages", "MB/s", LARGE, 5 * megabytes, ours_alone),
        _benchmark(
            f"codec, fragments of {FRAGMENT_SIZE} B",
            "MB/s",
            FRAGMENTED,
            megabytes,
            ours_alone,
            FRAGMENT_SIZE,
        ),
        *(
            Benchmark(
                f"codec, echo of compressed {kind}",
                "MB/s",
                [Contender("wsproto_min", partial(run_compressed, make, megabytes))],
            )
            for kind, make in (("text", _text), ("noise", _noise))
        ),
    ]


def _text(source: random.Random) -> bytes:
    words = [source.randbytes(source.randrange(1, 10)).hex() for _ in range(1000)]
    return " ".join(source.choices(words, k=FRAGMENTED // 5)).encode()[:FRAGMENTED]


def _noise(source: random.Random) -> bytes:
    return source.randbytes(FRAGMENTED)


def _benchmark(
    name: str,
    unit: str,
    size: int,
    megabytes: int,
    ours_alone: bool,
    fragment_size: int | None = None,
) -> Benchmark:
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
        [
            Contender(name, partial(run, parse, size, count, unit, fragment_size))
            for name, parse in contenders
        ],
    )


def _websockets_name() -> str:
    """Return the name of the websockets contender; says if its C extension is on."""
    try:
        rivals.require("websockets")
    except Absent:
        return "websockets"
    return f"websockets, C extension {'on' if rivals.websockets_has_c() else 'off'}"


def run(parse: Parse, size: int, count: int, unit: str, fragment_size: int | None = None) -> Sample:
    """Measure `parse` on `count` messages of `size` bytes, and check its result."""
    sent, chunks = _traffic(size, count, fragment_size or size)
    begin = time.perf_counter()
    received = parse(chunks)
    elapsed = time.perf_counter() - begin
    if received != sent:
        raise Wrong(f"codec: parsed {len(received)} messages, which differ from the {count} sent")
    return Sample((count if unit == "frames/s" else count * size / 1e6) / elapsed)


def run_compressed(make: Callable[[random.Random], bytes], megabytes: int) -> Sample:
    """Measure the echo of compressed messages in fragments, and check it."""
    compression = DeflateParameters.DEFAULT
    client = Connection(Role.CLIENT, compression=compression)
    server = Connection(Role.SERVER, compression=compression)
    source = random.Random(FRAGMENTED)
    sent = [make(source) for _ in range(megabytes * 10**6 // FRAGMENTED)]
    chunks: list[bytes] = []
    for message in sent:
        data = Compressor().compress(message)
        frames = b"".join(
            encode_frame(
                Opcode.CONTINUATION if begin else Opcode.BINARY,
                data[begin : begin + FRAGMENT_SIZE],
                fin=begin + FRAGMENT_SIZE >= len(data),
                rsv1=not begin,
                mask=source.randbytes(4),
            )
            for begin in range(0, len(data), FRAGMENT_SIZE)
        )
        chunks += [frames[begin : begin + READ_SIZE] for begin in range(0, len(frames), READ_SIZE)]
    replies: list[bytes] = []
    begin = time.perf_counter()
    for chunk in chunks:
        server.receive_data(chunk)
        while isinstance(event := server.next_event(), bytes):
            server.send(event)
            replies.append(server.data_to_send())
    elapsed = time.perf_counter() - begin
    client.receive_data(b"".join(replies))
    if list(iter(client.next_event, None)) != sent:
        raise Wrong("codec: the echo of compressed messages differs from the messages sent")
    return Sample(sum(map(len, sent)) / 1e6 / elapsed)


def _traffic(size: int, count: int, fragment_size: int) -> tuple[list[bytes], list[bytes]]:
    """Return messages and the chunks of their masked frames; the same every time."""
    source = random.Random(size)
    # A few different messages in turn are enough to detect a loss or a mix-up.
    variety = [(source.randbytes(size), source.randbytes(4)) for _ in range(61)][:count]
    frames = [
        b"".join(
            encode_frame(
                Opcode.CONTINUATION if begin else Opcode.BINARY,
                message[begin : begin + fragment_size],
                fin=begin + fragment_size >= size,
                mask=mask,
            )
            for begin in range(0, size, fragment_size)
        )
        for message, mask in variety
    ]
    messages = [variety[index % len(variety)][0] for index in range(count)]
    stream = b"".join(frames[index % len(frames)] for index in range(count))
    return messages, [
        stream[begin : begin + READ_SIZE] for begin in range(0, len(stream), READ_SIZE)
    ]
