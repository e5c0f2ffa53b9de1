"""What some tests need beyond pytest and hypothesis, and how to get it."""

from __future__ import annotations

import os

import pytest


def need(found: object, name: str, install: str) -> None:
    """Skip the test unless `found`, saying how to install `name`; in CI, fail instead."""
    if not found:
        message = f"{name} is not installed; {install}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
