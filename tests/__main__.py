"""Run the plain tests in four processes side by side: `python -m tests [pytest option ...]`.

`--coverage` as the first option measures the coverage; `coverage combine` joins the files of the
processes. `python -m pytest` runs the same tests in one process.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _files(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


# The `testpaths` in pyproject.toml in parts that take about the same time.
PARTS = (
    _files("tests/chatd/test_[a-f]*.py"),
    [*_files("tests/chatd/test_[!a-f]*.py"), "chatd", "tests/explain", "tests/net"],
    [*_files("tests/test_*.py"), "wsproto_min"],
    ["tests/learn/test_learn.py", "tests/quiz", "tests/tap"],
)


def main(options: list[str]) -> int:
    """Print the report of each part; return the highest exit status."""
    with ThreadPoolExecutor(len(PARTS)) as threads:
        runs = list(threads.map(partial(run, options), range(len(PARTS))))
    for report in runs:
        print(report.stdout, flush=True)
    return max(report.returncode for report in runs)


def run(options: list[str], number: int) -> subprocess.CompletedProcess[str]:
    """Run one part; each has a cache of its own."""
    pytest = ["-m", "pytest", "-q", "-o", f"cache_dir=.pytest_cache/{number}"]
    if options[:1] == ["--coverage"]:
        options = options[1:]
        pytest = ["-m", "coverage", "run", "--parallel-mode", *pytest]
    command = [sys.executable, *pytest]
    return subprocess.run(
        [*command, *options, *PARTS[number]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
