"""Replay the seeds and the corpus of each fuzz target, without the fuzzer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.targets import TARGETS, corpus
from tests.support import ROOT


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


def test_fuzz_package_imports_no_code_before_atheris() -> None:
    code = "import sys, tests.fuzz; print([name for name in sys.modules if 'wsproto' in name])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n"
