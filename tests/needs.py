"""Requirements of tests: a test is skipped if a program or package is not installed."""

from __future__ import annotations

import os

import pytest


def need(found: object, name: str, install: str) -> None:
    """Skip the test unless `found`; with CI=true, fail instead.

    Args:
        found: A true value if the requirement is installed.
        name: The program or package.
        install: The command that installs it.

    """
    if not found:
        message = f"{name} is not installed; {install}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
