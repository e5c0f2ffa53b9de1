"""Autobahn's cases, run by `kosoku`, against the echo server.

What each case must end in is kept as data in `expected.json`: OK, or
INFORMATIONAL where the case asks about something that the RFC leaves open.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.needs import need

EXPECTED: dict[str, str] = json.loads(Path(__file__).with_name("expected.json").read_text())
KOSOKU = Path(sys.executable).with_name("kosoku")
# The largest message that the cases send (9.1.6 and its like) is 16 MiB.
MAX_MESSAGE_SIZE = 16 << 20


def verdicts(report: Path) -> dict[str, str]:
    """Return each case's verdict; that on the close is added where it differs."""
    (cases,) = json.loads((report / "index.json").read_text()).values()
    return {
        case: verdict["behavior"]
        if verdict["behaviorClose"] == verdict["behavior"]
        else f"{verdict['behavior']}, closed {verdict['behaviorClose']}"
        for case, verdict in cases.items()
    }


def test_the_echo_server_passes_every_case(tmp_path: Path) -> None:
    need(KOSOKU.exists(), "kosoku", "pip install '.[conformance]'")
    command = [sys.executable, "-m", "wsproto_min", "echo", "--port", "0"]
    command += ["--max-message-size", str(MAX_MESSAGE_SIZE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            url = re.search(r"ws://\S+", ready)
            assert url, f"the echo server did not start: {ready!r}"
            # Compression is not negotiated, so its cases (12 and 13) ask nothing.
            suite = [
                str(KOSOKU),
                "-x",
                "12.*",
                "-x",
                "13.*",
                "-o",
                str(tmp_path),
                url[0].rstrip("/"),
            ]
            subprocess.run(suite, check=True, capture_output=True, timeout=300)
        finally:
            server.terminate()
    assert server.returncode == 0
    got = verdicts(tmp_path)
    assert got.keys() == EXPECTED.keys()
    assert {case: (EXPECTED[case], got[case]) for case in got if got[case] != EXPECTED[case]} == {}
