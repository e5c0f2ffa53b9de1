"""Start of a browser with a port for automation."""

from __future__ import annotations

import re
import select
import subprocess
import time

START_TIMEOUT = 60.0


def read_url(process: subprocess.Popen[bytes], announcement: str) -> str:
    """Return the URL behind the announcement that a browser prints when it is ready."""
    assert process.stderr is not None
    output = b""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        match = re.search(rb"%s (ws://\S+)\s" % re.escape(announcement.encode()), output)
        if match:
            return match[1].decode()
        remaining = deadline - time.monotonic()
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, remaining))
        data = process.stderr.read1(4096) if ready else b""  # type: ignore[attr-defined]
        assert data, f"the browser did not start: {output.decode(errors='replace')}"
        output += data
