"""Fixtures: one PostgreSQL for the session, and chat servers on several nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from chatd.storage.shared import SharedStore
from tests.chat import serve_chat
from tests.scale.engine import Engine, engine
from tests.support import RunningServer, poll

OpenNodes = Callable[..., "list[RunningServer]"]


@pytest.fixture(scope="session")
def server() -> Iterator[Engine]:
    """Return a PostgreSQL, which must run again after each test."""
    with engine() as engines:
        yield engines[0]


@pytest.fixture
def url(server: Engine) -> str:
    """Return the URL of a new database."""
    return server.new_database()


@contextmanager
def running_nodes(url: str, number: int = 2, **options: object) -> Iterator[list[RunningServer]]:
    """Run chat servers of this process that share a store."""
    from chatd.storage.postgres.store import PostgresStore

    store_options = {"timeout": options.pop("timeout", 10.0)}
    with ExitStack() as stack:
        nodes = []
        for place in range(number):
            store = PostgresStore(url, name=f"n{place}", **store_options)  # type: ignore[arg-type]
            node = stack.enter_context(serve_chat(store, **options))
            nodes.append(node)
            # A node that does not listen yet misses notices that are sent once, such as typing.
            poll(partial(_listens, store), "the node listens")
        yield nodes


def _listens(store: SharedStore) -> bool:
    _, connected = store.metrics()["chatd_store_connected", "part"]
    assert isinstance(connected, Mapping)
    return connected["listener",] == 1


@pytest.fixture
def nodes(url: str) -> Iterator[list[RunningServer]]:
    """Run two nodes."""
    with running_nodes(url) as found:
        yield found
