"""Client of the stream test: a large message there and back, in chunks.

Arguments: URL, MiB. Prints the growth of the peak of this process's memory in bytes.
"""

from __future__ import annotations

import sys
import time

from tests.load.support import peak_growth
from wsproto_min import Client, connect

CHUNK = bytes(range(256)) * 256
CHUNKS_PER_MIB = (1 << 20) // len(CHUNK)


def transfer(client: Client, mib: int) -> None:
    client.send(CHUNK for _ in range(mib * CHUNKS_PER_MIB))
    size = 0
    for chunk in client.recv_streaming(timeout=60):
        start = size % 256
        assert chunk == (CHUNK + CHUNK)[start : start + len(chunk)]
        size += len(chunk)
    assert size == mib << 20, size


def main() -> None:
    url, mib = sys.argv[1], int(sys.argv[2])
    with connect(url, compression=None, max_message_size=None) as client:
        transfer(client, 4)  # code and buffers that stay
        begun = time.perf_counter()
        growth = peak_growth("self", lambda: transfer(client, mib))
        print(growth, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
