"""Errors planted in a copy of the source: a test of tests/scale must fail with each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.scale.engine import Engine
from tests.support import PATIENCE, ROOT


class Mutation(NamedTuple):
    """A replacement in a file, and the test that must detect it."""

    file: str
    code: str
    error: str
    test: str


MUTATIONS = {
    "lock order": Mutation(
        "chatd/storage/postgres/writer.py",
        "own = sorted(counts)",
        "own = list(counts)",
        "test_order.py::test_batches_with_rooms_in_any_order_never_deadlock",
    ),
    "acknowledgement before joined": Mutation(
        "chatd/intake.py",
        "        if mode.waiting:\n            paused = True\n"
        "            peer.pause_reading(WAITING_PAUSE)",
        "        mode.waiting = 0",
        "test_order.py::test_acknowledgement_never_comes_before_joined",
    ),
    "position + 1": Mutation(
        "chatd/feed.py",
        "feed.waiting.pop(feed.position + 1, None)",
        "feed.waiting.pop(min(feed.waiting, default=0), None)",
        "test_order.py::test_lost_notification_leaves_no_hole",
    ),
    "hello": Mutation(
        "chatd/storage/postgres/connection.py",
        "SELECT hello()",
        "SELECT 1",
        "test_failover.py::test_asynchronous_failover_gives_no_id_twice",
    ),
    "join before the position": Mutation(
        "chatd/feed.py",
        "page.last is not None and page.last <= feed.position",
        "page.last is not None",
        "test_order.py::test_join_waits_for_what_the_client_has_seen_elsewhere",
    ),
    "fencing": Mutation(
        "chatd/storage/postgres/schema.py",
        "IF NOT EXISTS (SELECT 1 FROM nodes WHERE node = node_) THEN",
        "IF false THEN",
        "test_processes.py::test_node_that_was_given_up_gives_no_name_twice",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_fails_a_test(name: str, tmp_path: Path, server: Engine) -> None:
    file, code, error, test = MUTATIONS[name]
    for part in ("chatd", "wsproto_min", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "client.html"):
        shutil.copy(ROOT / part, tmp_path / part)
    source = (tmp_path / file).read_text()
    assert source.count(code) == 1, f"{name}: {file} has no such code"
    (tmp_path / file).write_text(source.replace(code, error))
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", f"tests/scale/{test}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
    )
    assert process.returncode == 1, f"{name}: no test fails\n{process.stdout[-3000:]}"
    assert "1 failed" in process.stdout, process.stdout[-3000:]
