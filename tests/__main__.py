"""Run the plain tests in two processes side by side: `python -m tests [pytest option ...]`.

`python -m pytest` runs the same tests in one process.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Two halves of the `testpaths` in pyproject.toml that take about the same time.
HALVES = (
    ["tests/chatd", "chatd", "tests/explain"],
    [
        *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_*.py")),
        "tests/net",
        "wsproto_min",
    ],
)


def main(options: list[str]) -> int:
    """Print the report of each half; return the highest exit status."""
    with ThreadPoolExecutor(len(HALVES)) as threads:
        runs = list(threads.map(partial(run, options), range(len(HALVES))))
    for report in runs:
        print(report.stdout, flush=True)
    return max(report.returncode for report in runs)


def run(options: list[str], number: int) -> subprocess.CompletedProcess[str]:
    """Run one half; each has a cache of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir=.pytest_cache/{number}"]
    return subprocess.run(
        [*command, *options, *HALVES[number]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
