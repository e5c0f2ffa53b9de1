"""The tests of the store and of chat mode hold for the shared engine too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.scale.engine import Engine
from tests.support import PATIENCE, ROOT

# Tests of stores in memory, and of chats with them. CHATD_TEST_ENGINE replaces these stores.
MODULES = ("store", "changes", "search", "chat_mode", "moderation", "posts")


@pytest.mark.parametrize("module", MODULES)
def test_contract_holds_for_the_shared_engine(server: Engine, module: str) -> None:
    words = ["-m", "pytest", "-q", "-m", "not embedded", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [sys.executable, *words, f"tests/chatd/test_{module}.py"],
        cwd=ROOT,
        env={**os.environ, "CHATD_TEST_ENGINE": server.url("postgres")},
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
    )
    assert process.returncode == 0, process.stdout[-5000:]
    assert " passed" in process.stdout
