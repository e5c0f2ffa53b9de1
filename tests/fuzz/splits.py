"""Splits of an input, and the rules that two splits may violate."""

from __future__ import annotations

from wsproto_min import rules
from wsproto_min.rules import Rule


def chunks_of(data: bytes, size: int) -> list[bytes]:
    """Split `data` into chunks of `size` bytes; the last one may be smaller."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def first_chunks_of(data: bytes, size: int, count: int = 16) -> list[bytes]:
    """Split `data` into at most `count` chunks of `size` bytes and the rest."""
    end = size * count
    return chunks_of(data[:end], size) + ([data[end:]] if len(data) > end else [])


def splits_may_violate(first: Rule | None, second: Rule | None) -> bool:
    """Return True if two splits of one input may violate these rules.

    zlib withholds the output of a chunk with invalid data. If that output is an error of its
    own, the split decides which of the two errors is found first.
    """
    if rules.NOT_DEFLATE in (first, second):
        return first is not None and second is not None
    return first is second
