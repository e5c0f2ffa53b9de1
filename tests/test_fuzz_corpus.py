"""Replay the seeds and the corpus of each fuzz target, without the fuzzer."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, corpus


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz_target_passes_its_seeds_and_corpus(name: str) -> None:
    inputs = [*TARGETS[name].seeds(), *corpus(name)]
    assert len(inputs) > 20
    for data in inputs:
        try:
            TARGETS[name].check(data)
        except Exception as error:
            error.add_note(f"input in hex: {data.hex()}")
            raise
