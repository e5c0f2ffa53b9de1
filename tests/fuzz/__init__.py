"""Fuzzing: bytes that a tool chooses, on everything that reads what a peer sends.

Each target is a module with `check`, which takes any bytes and raises only if
something is wrong, and `seeds`, the inputs to begin with. What a check may meet
is what the package documents; anything else, and any difference between two
ways that must agree, is a find. `__main__` runs them with `atheris`, which
follows what each input covers; `tests/test_fuzz_corpus.py` replays what is in
`corpus/` with pytest alone. The first bytes of an input choose options, so that
the fuzzer finds the combinations by itself.
"""

from __future__ import annotations


def cut(data: bytes, size: int) -> list[bytes]:
    """Cut `data` in pieces of `size` bytes, the last one perhaps smaller."""
    return [data[start : start + size] for start in range(0, len(data), size)]
