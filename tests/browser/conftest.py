"""Fixtures of the tests in Chromium: a browser, a chat server, and users with tabs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.devtools import Browser, chromium
from tests.browser.test_page import Users
from tests.support import Daemon, daemon


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def chat() -> Iterator[Daemon]:
    """One server for all tests; each test uses its own rooms."""
    with daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as running:
        yield running


@pytest.fixture
def users(browser: Browser) -> Iterator[Users]:
    users = Users(browser)
    yield users
    # A failed connection logs an error, which no script can prevent. All other errors are bugs.
    errors = [text for text in users.close() if "net::ERR_CONNECTION_" not in text]
    assert errors == []
