"""The conformance suite.

The Autobahn test suite has 517 cases. It tests WebSocket implementations of
all languages, and a server that passes is correct in all that browsers can
do to it. `kosoku` runs these cases:

    python3 -m pip install kosoku

The checker starts your server with LIMIT 16777216, because the largest
messages have 16 MiB, and runs the cases in groups. Each verdict must be OK,
NON-STRICT or INFORMATIONAL. NON-STRICT means: right, but later than
possible. A text that is refused when it is complete is such a case.

        group   cases   what is tested
        1          16   text and binary of all lengths
        2          11   Ping and Pong
        3           7   reserved bits
        4          10   reserved opcodes
        5          20   fragmentation
        6         145   UTF-8
        7          37   the closing handshake
        9          54   messages of up to 16 MiB, in fragments, in parts
        10          1   fragments that the server may join
        12         90   compressed messages
        13        126   parameters of permessage-deflate

All groups take 5 to 20 minutes. A case has a limit of its own, so a loop over
single bytes is too slow for the large ones: see step 5.

To test by yourself, and to read the report of a case in a browser:

    python3 my_ws.py serve 9001 16777216
    kosoku -o report -i '6.*' 127.0.0.1:9001
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case, Skipped, Step

_LIMIT = 16 << 20
_RIGHT = {"OK", "NON-STRICT", "INFORMATIONAL"}
_MAX_SHOWN = 10  # cases
_GROUPS = (
    *("1", "2", "3", "4", "5", "6", "7", "9", "10"),
    *(f"12.{number}" for number in range(1, 6)),
    *(f"13.{number}" for number in range(1, 8)),
)


def _passes(group: str, program: Program) -> None:
    """Run the cases of a group."""
    kosoku = Path(sys.executable).with_name("kosoku")
    if not kosoku.exists():
        raise Skipped("install kosoku: python3 -m pip install kosoku")
    program.connect().close()
    host, port = program.address
    with TemporaryDirectory() as directory:
        done = subprocess.run(
            [str(kosoku), "-o", directory, "-i", f"{group}.*", f"{host}:{port}"],
            capture_output=True,
            text=True,
        )
        report = Path(directory) / "index.json"
        if not report.exists():
            raise Wrong("the suite has no result", *done.stderr.splitlines()[-3:])
        (cases,) = json.loads(report.read_text()).values()
        wrong = [
            _describe(case, verdict, report.with_name(verdict["reportfile"]))
            for case, verdict in cases.items()
            if {verdict["behavior"], verdict["behaviorClose"]} - _RIGHT
        ]
    if wrong:
        more = len(wrong) - _MAX_SHOWN
        rest = [f"  and {more} more"] if more > 0 else []
        problem = f"{len(wrong)} of {len(cases)} cases fail"
        raise Wrong(problem, *wrong[:_MAX_SHOWN], *rest)


def _describe(case: str, verdict: dict[str, Any], report: Path) -> str:
    """Return the lines about a failed case: its verdicts, its task, and the suite's reasons."""
    details = json.loads(report.read_text())
    lines = [
        f"  case {case}: {verdict['behavior']}, closing: {verdict['behaviorClose']}",
        details["description"],
        details["result"],
        f"{details['resultClose']}; your close code: {details['remoteCloseCode']}",
    ]
    return "\n    ".join(lines)


STEP = Step.from_docstring(
    __doc__,
    [Case(f"group {group}", partial(_passes, group)) for group in _GROUPS],
    limit=_LIMIT,
)
