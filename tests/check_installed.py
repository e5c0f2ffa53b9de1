"""Check that an installed chatd serves its page: `check_installed.py PATH_OF_CHATD`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path


def main(chatd: str) -> None:
    """Exit with an error unless the page is this checkout's `client.html`."""
    page = (Path(__file__).parent.parent / "client.html").read_bytes()
    with (
        tempfile.TemporaryDirectory() as elsewhere,
        subprocess.Popen(
            [chatd, "--port", "0", "--db", ":memory:"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=elsewhere,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = re.search(r"http://\S+", process.stdout.readline())
            assert url, "chatd did not start"
            with urllib.request.urlopen(url[0], timeout=10) as response:
                assert response.read() == page, "the page differs from client.html"
        finally:
            process.terminate()
    print(f"{chatd} serves the page")


if __name__ == "__main__":
    main(sys.argv[1])
