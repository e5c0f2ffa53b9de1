"""Run the plain tests in two processes side by side: `python -m tests [pytest option ...]`.

`python -m pytest` runs the same tests in one process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Two halves of the `testpaths` in pyproject.toml that take about the same time.
HALVES = (
    ["tests/chatd", "chatd", "tests/explain"],
    [*sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_*.py")), "tests/net"]
    + ["wsproto_min"],
)


def main(options: list[str]) -> int:
    """Print the report of each half; return the highest exit status."""
    runs = []
    for number, paths in enumerate(HALVES):
        report = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir=.pytest_cache/{number}"]
        process = subprocess.Popen(
            [*command, *options, *paths], cwd=ROOT, stdout=report, stderr=subprocess.STDOUT
        )
        runs.append((process, report))
    statuses = []
    for process, report in runs:
        statuses.append(process.wait())
        report.seek(0)
        print(report.read(), flush=True)
        report.close()
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
