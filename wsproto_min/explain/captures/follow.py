"""Output of `tshark -q -z follow,tcp,raw,N`: the bytes of both ends of a connection in hex.

A line has the bytes of one end. The lines of node 1 begin with a tab.
"""

from __future__ import annotations

import re

from wsproto_min.explain.captures.tcp import Endpoint, Stream

_START = re.compile(rb"\s*=+\r?\nFollow: (\S+)\r?\n")
_NODE = re.compile(r"Node \d: (.*):(\d+)")


def is_follow(data: bytes) -> bool:
    """Return True if `data` is the output of `tshark -z follow`. No frame begins like it."""
    return _START.match(data) is not None


def read_follow(data: bytes) -> list[tuple[Stream, Stream]]:
    """Return the streams of both ends of each connection.

    Raises:
        ValueError: The output has another form than `raw`, or is corrupt; the message says where.

    """
    found: list[tuple[Stream, Stream]] = []
    endpoints: list[Endpoint] = []
    chunks: tuple[list[bytes], list[bytes]] = ([], [])
    arrivals: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        text = line.strip()
        if text.startswith("Follow:"):
            if text != "Follow: tcp,raw":
                raise ValueError(f"tshark: line {number} is not 'Follow: tcp,raw'; use this form")
            endpoints, chunks, arrivals = [], ([], []), ([], [])
        elif node := _NODE.fullmatch(text):
            endpoints.append((node[1].strip("[]"), int(node[2])))
        elif text.startswith("=") and len(endpoints) == 2:
            client, server = (
                Stream(source, b"".join(parts), tuple(times), None, 0, from_start=True)
                for source, parts, times in zip(endpoints, chunks, arrivals, strict=True)
            )
            found.append((client, server))
            endpoints = []
        elif text and len(endpoints) == 2:
            end = line.startswith("\t")
            try:
                chunks[end].append(bytes.fromhex(text))
            except ValueError:
                raise ValueError(f"tshark: line {number} is not hex; run tshark again") from None
            size = arrivals[end][-1][1] if arrivals[end] else 0
            arrivals[end].append((number, size + len(chunks[end][-1])))
    if endpoints:
        raise ValueError(f"tshark: line {number} is not the last one; copy the output whole")
    return found
