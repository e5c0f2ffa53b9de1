"""chatd on a Unix socket, for several tests of this directory."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd.storage.sqlite import MEMORY
from tests.support import PATIENCE, ROOT, command


@contextmanager
def chatd_on(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run chatd on a Unix socket."""
    arguments = command("chatd", "--unix", str(path), "--trusted-proxy", "unix", "--db", MEMORY)
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline() if ready else ""
            assert f"listening on the Unix socket {path}" in line
            yield process
        finally:
            if process.poll() is None:
                process.kill()
