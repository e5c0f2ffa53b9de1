"""Tests of `reconnect`: delays, statuses that end it, and the clients that it closes."""

from __future__ import annotations

import itertools
import math
import random
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.net.test_client import url
from tests.support import PATIENCE, make_certificate, serving
from wsproto_min import (
    Acceptance,
    Client,
    HandshakeError,
    Peer,
    Request,
    Response,
    accept,
    reconnect,
)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The upper limits of the delays; the delays are 0."""
    seen: list[float] = []

    def uniform(low: float, high: float) -> float:
        seen.append(high)
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    return seen


def refusing(*statuses: int) -> Any:
    """Return an `on_request` that refuses with each of the statuses, then accepts."""
    left = list(statuses)

    def on_request(peer: Peer, request: Request) -> Response | Acceptance:
        return Response(left.pop(0)) if left else accept(request)

    return on_request


def test_reconnect_yields_clients_and_closes_each(limits: list[float]) -> None:
    with serving() as running:
        clients = reconnect(url(running.address), subprotocols=["a"])
        seen: list[Client] = []
        for client in itertools.islice(clients, 3):
            assert all(earlier.fileno() == -1 for earlier in seen)
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
            seen.append(client)
        clients.close()
        assert [client.close_code for client in seen] == [1000] * 3
    assert limits == [0.1, 0.2]


def test_reconnect_delays_grow_to_their_limit(
    limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter(range(2000))

    def fail(address: str) -> None:
        next(failures)
        raise ConnectionRefusedError

    monkeypatch.setattr("wsproto_min.net.reconnect.connect", fail)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(RuntimeError, match="StopIteration"):  # the end of `failures`
        next(reconnect("ws://h/", first_delay=1, max_delay=5))
    assert limits == [1, 2, 4] + [5] * 1997


def test_reconnect_delays_are_random_and_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr("wsproto_min.net.reconnect.time", clock)
    with serving(on_request=refusing(*[503] * 50)) as running:
        next(reconnect(url(running.address), first_delay=3, max_delay=3)).close()
    assert all(0 <= delay <= 3 for delay in slept)
    assert len(set(slept)) > 40


def test_reconnect_after_a_lasting_connection_starts_again(
    limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.chain([0, 1, 1, 2, 2, 32, 32, 33], itertools.repeat(math.inf))
    clock = SimpleNamespace(sleep=lambda delay: None, monotonic=lambda: next(now))
    monkeypatch.setattr("wsproto_min.net.reconnect.time", clock)
    with serving() as running:
        clients = reconnect(url(running.address))
        for _ in range(5):
            next(clients)
        clients.close()
    assert limits == [0.1, 0.2, 0.1, 0.2]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_reconnect_temporary_status_is_tried_again(status: int, limits: list[float]) -> None:
    with serving(on_request=refusing(status)) as running:
        next(reconnect(url(running.address))).close()
    assert limits == [0.1]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 426])
def test_reconnect_permanent_status_raises(status: int, limits: list[float]) -> None:
    with serving(on_request=refusing(status)) as running:
        with pytest.raises(HandshakeError) as raised:
            next(reconnect(url(running.address)))
        assert raised.value.status == status
    assert limits == []


def test_reconnect_invalid_certificate_raises(tmp_path: Path, limits: list[float]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(make_certificate(tmp_path))
    with serving(ssl_context=context) as running, pytest.raises(ssl.SSLCertVerificationError):
        next(reconnect(f"wss://127.0.0.1:{running.address[1]}/"))
    assert limits == []


def test_reconnect_invalid_url_raises() -> None:
    with pytest.raises(ValueError, match="is not ws://HOST/PATH"):
        next(reconnect("http://h/"))
