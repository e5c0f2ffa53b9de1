"""What the fuzzer begins with and what it found, without the fuzzer."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, kept


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_were_found_or_made_raise_nothing(name: str) -> None:
    inputs = [*TARGETS[name].seeds(), *kept(name)]
    assert len(inputs) > 20
    for data in inputs:
        try:
            TARGETS[name].check(data)
        except Exception as error:
            error.add_note(f"the input, in hex: {data.hex()}")
            raise
