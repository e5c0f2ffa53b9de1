"""Limits on the number of connections, per address and in total."""

from __future__ import annotations

import resource
import select
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from chatd.__main__ import main
from chatd.access.connection_limits import (
    DEFAULT_MAX_PEERS,
    DEFAULT_MAX_PER_ADDRESS,
    OVERFLOW_SLOTS,
    RESERVED_DESCRIPTORS,
    ConnectionLimiter,
    Slot,
    raise_descriptor_limit,
)
from chatd.access.trusted_networks import parse_network
from tests.chat import serve_chat
from tests.support import Client, connect, exchange, handshake, read_to_end
from wsproto_min.http import Response
from wsproto_min.http_reader import parse_response
from wsproto_min.net.event_loop import EventLoop

LOCAL = "127.0.0.1:{}"
REMOTE = "198.51.100.1:{}"


def acquire(limiter: ConnectionLimiter, address: str, number: int) -> list[bool]:
    """Acquire slots for an address; return for each whether it is a regular slot."""
    slots = [limiter.acquire(address.format(port)) for port in range(number)]
    return [slot is not None and slot.refusal is None for slot in slots]


@pytest.mark.parametrize("address", [LOCAL, REMOTE, "[2001:db8::1]:{}", "[::ffff:10.0.0.1]:{}"])
def test_limiter_counts_each_address_separately(address: str) -> None:
    limiter = ConnectionLimiter(0, 3, ())
    assert acquire(limiter, address, 5) == [True] * 3 + [False] * 2
    assert acquire(limiter, "203.0.113.9:{}", 4) == [True] * 3 + [False]


def test_limiter_counts_ipv6_networks_and_embedded_ipv4() -> None:
    limiter = ConnectionLimiter(0, 2, ())
    assert acquire(limiter, "[2001:db8:0:1::1]:{}", 1) == [True]
    assert acquire(limiter, "[2001:db8:0:1:ffff::2]:{}", 2) == [True, False]
    assert acquire(limiter, "[2001:db8:0:2::1]:{}", 1) == [True]
    assert acquire(limiter, "[::ffff:10.0.0.1]:{}", 1) == [True]
    assert acquire(limiter, "10.0.0.1:{}", 2) == [True, False]


def test_default_limit_exempts_loopback_addresses() -> None:
    limiter = ConnectionLimiter(0, None, ())
    assert all(acquire(limiter, LOCAL, DEFAULT_MAX_PER_ADDRESS + 1))
    assert all(acquire(limiter, "[::1]:{}", DEFAULT_MAX_PER_ADDRESS + 1))
    assert acquire(limiter, REMOTE, DEFAULT_MAX_PER_ADDRESS + 1)[-2:] == [True, False]


@pytest.mark.parametrize("address", ["unix", "nonsense"])
def test_address_without_an_ip_address_has_no_limit(address: str) -> None:
    limiter = ConnectionLimiter(5, 1, ())
    assert acquire(limiter, address, 6) == [True] * 5 + [False]


def test_limits_of_zero_admit_any_number() -> None:
    assert all(acquire(ConnectionLimiter(0, 0, ()), REMOTE, 1000))


def test_limiter_counts_clients_behind_proxy_and_not_the_proxy() -> None:
    limiter = ConnectionLimiter(0, 1, [parse_network("10.0.0.0/8"), parse_network("unix")])
    slots = [limiter.acquire(address) for address in ("10.0.0.2:1", "10.0.0.2:2", "unix", "unix")]
    rekeyed: list[Slot] = []
    for slot in slots:
        assert slot is not None
        assert slot.refusal is None
        rekeyed.append(limiter.rekey(slot, "198.51.100.1"))
    assert [slot.refusal is None for slot in rekeyed] == [True, False, False, False]


def test_released_slots_are_free_again() -> None:
    limiter = ConnectionLimiter(3, 2, ())
    for address in (REMOTE, LOCAL):
        for _ in range(10):
            slots = [limiter.acquire(address.format(port)) for port in range(3)]
            for slot in slots:
                assert slot is not None
                limiter.release(limiter.rekey(slot, address.format(9)))
    assert acquire(limiter, REMOTE, 3) == [True, True, False]
    assert acquire(limiter, LOCAL, 2) == [True, False]


def test_released_slot_leaves_those_of_its_address_counted() -> None:
    limiter = ConnectionLimiter(0, 2, ())
    slot = limiter.acquire(REMOTE.format(1))
    assert slot is not None
    assert acquire(limiter, REMOTE, 1) == [True]
    limiter.release(slot)
    assert acquire(limiter, REMOTE, 2) == [True, False]


def test_rekey_admits_a_refused_connection_after_a_release() -> None:
    limiter = ConnectionLimiter(0, 1, ())
    first, second = (limiter.acquire(REMOTE.format(port)) for port in (1, 2))
    assert first is not None
    assert second is not None
    assert second.refusal is not None
    assert limiter.rekey(second, REMOTE.format(2)).refusal is not None
    limiter.release(first)
    assert limiter.rekey(second, REMOTE.format(2)).refusal is None


def test_refusal_names_its_cause_and_the_option() -> None:
    for limiter, cause, reason in (
        (
            ConnectionLimiter(1, 0, ()),
            "max_peers",
            "server full: its limit is 1 connections; try again in 10 seconds, or ask the operator"
            " to raise --max-peers",
        ),
        (
            ConnectionLimiter(0, 1, ()),
            "max_per_address",
            "too many connections: the limit is 1 connections from one address; close some and"
            " try again, or ask the operator to raise --max-per-address",
        ),
    ):
        limiter.acquire(REMOTE.format(1))
        slot = limiter.acquire(REMOTE.format(2))
        assert slot is not None
        assert slot.refusal is not None
        assert (slot.refusal.status, slot.refusal.cause) == (503, cause)
        assert slot.refusal.reason == reason


def test_acquire_returns_none_once_overflow_slots_are_full() -> None:
    limiter = ConnectionLimiter(1, 0, ())
    slots = [limiter.acquire(REMOTE.format(port)) for port in range(OVERFLOW_SLOTS + 3)]
    assert [slot is None for slot in slots] == [False] * (OVERFLOW_SLOTS + 1) + [True] * 2
    assert slots[1] is not None
    limiter.release(slots[1])
    assert limiter.acquire(LOCAL.format(1)) is not None


def test_overflow_is_full_once_all_overflow_slots_are_taken() -> None:
    limiter = ConnectionLimiter(1, 0, ())
    for port in range(OVERFLOW_SLOTS):
        limiter.acquire(REMOTE.format(port))
        assert not limiter.overflow_full
    limiter.acquire(LOCAL.format(1))
    assert limiter.overflow_full


# Limits of a running server.


def response_to(request: bytes, address: tuple[str, int]) -> tuple[Response, str]:
    """Return the response to a request, and its body as text."""
    head, _, body = exchange(address, request).partition(b"\r\n\r\n")
    return parse_response(head), body.decode()


def header(response: Response, name: str) -> str | None:
    """Return the value of a header of a response."""
    return {key.lower(): value for key, value in response.headers}.get(name.lower())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"max_per_address": 3},
            ["the limit is 3 connections from one address", "--max-per-address"],
        ),
        ({"max_peers": 3}, ["server full: its limit is 3 connections", "--max-peers"]),
    ],
    ids=["per address", "in all"],
)
def test_connection_over_limit_gets_503_until_another_one_ends(
    options: dict[str, Any], words: list[str]
) -> None:
    with serve_chat(**options) as chat, ExitStack() as stack:
        # Connections without a complete handshake count as well.
        stack.enter_context(Client(chat.address))
        half_open = [stack.enter_context(connect(chat.address)) for _ in range(2)]
        half_open[0].sendall(b"GET / HTTP/1.1\r\nHost:")
        chat.wait_for_peers(3)
        for request in (handshake(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            response, body = response_to(request, chat.address)
            assert (response.status, header(response, "Retry-After")) == (503, "10")
            assert header(response, "Connection") == "close"
            assert all(word in body for word in words), body
        # Monitoring works while the server is full.
        for path in ("/healthz", "/metrics"):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            assert response_to(request, chat.address)[0].status == 200
        half_open[1].close()
        chat.wait_for_peers(2)
        stack.enter_context(Client(chat.address))


def test_silent_flood_is_closed_and_open_peers_stay_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iterations: list[EventLoop] = []
    run_once = EventLoop.run_once

    def counted(loop: EventLoop) -> None:
        iterations.append(loop)
        run_once(loop)

    monkeypatch.setattr(EventLoop, "run_once", counted)
    with serve_chat(max_per_address=5) as chat, ExitStack() as stack:
        first, second = (stack.enter_context(Client(chat.address)) for _ in range(2))
        # Three regular slots are left, besides the overflow slots.
        accepted = 3 + OVERFLOW_SLOTS
        flood = [stack.enter_context(connect(chat.address)) for _ in range(accepted + 20)]
        for sock in flood[accepted:]:
            with suppress(ConnectionResetError):
                assert read_to_end(sock) == b""
        assert len(chat.ask(lambda: chat.server.peers)) == 2 + accepted
        iterations.clear()
        select.select([], [], [], 0.1)
        assert len(iterations) < 20, "the loop spins"
        first.send("still here")
        assert second.receive() == "still here"


def test_limit_per_address_applies_to_clients_of_a_trusted_proxy() -> None:
    def request(client: str) -> bytes:
        return handshake()[:-2] + f"X-Forwarded-For: {client}\r\n\r\n".encode()

    proxies = [parse_network("127.0.0.1")]
    with serve_chat(max_per_address=1, trusted_proxies=proxies) as chat, ExitStack() as stack:
        for client, status in (("198.51.100.1", 101), ("198.51.100.1", 503), ("192.0.2.7", 101)):
            sock = stack.enter_context(connect(chat.address))
            sock.sendall(request(client))
            assert sock.recv(12) == f"HTTP/1.1 {status}".encode(), client
        stack.close()
        chat.wait_for_peers(0)
        with connect(chat.address) as sock:
            sock.sendall(request("198.51.100.1"))
            assert sock.recv(12) == b"HTTP/1.1 101"


def test_overflow_slots_limit_refusals_behind_a_trusted_proxy() -> None:
    request = handshake()[:-2] + b"X-Forwarded-For: 198.51.100.1\r\n\r\n"
    proxies = [parse_network("127.0.0.1")]
    with serve_chat(max_per_address=1, trusted_proxies=proxies) as chat, ExitStack() as stack:
        responses = []
        for _ in range(1 + OVERFLOW_SLOTS + 3):
            sock = stack.enter_context(connect(chat.address))
            sock.sendall(request)
            try:
                responses.append(sock.recv(12))
            except ConnectionResetError:
                responses.append(b"")
        refused = [b"HTTP/1.1 503"] * OVERFLOW_SLOTS
        assert responses == [b"HTTP/1.1 101", *refused, b"", b"", b""]
        # The proxy itself may read the metrics, because it has no limit.
        metrics = exchange(chat.address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        aborted = b'chatd_refused_total{status="none",reason="no_spare_place"} 3\n'
        assert aborted in metrics


# File descriptors.


@pytest.mark.parametrize(
    ("limits", "peers", "soft"),
    [
        ((64, 100_000), 5000, 5000 + OVERFLOW_SLOTS + RESERVED_DESCRIPTORS),
        ((100_000, 100_000), 5000, None),
        ((64, resource.RLIM_INFINITY), 5000, 5000 + OVERFLOW_SLOTS + RESERVED_DESCRIPTORS),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 5000, None),
        ((64, 1000), 1000 - OVERFLOW_SLOTS - RESERVED_DESCRIPTORS, 1000),
        ((20, 20), 1, None),
    ],
)
def test_descriptor_limit_is_raised_as_far_as_needed_and_allowed(
    limits: tuple[int, int], peers: int, soft: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: limits}.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda *call: calls.append(call))
    assert raise_descriptor_limit(5000) == peers
    expected = (resource.RLIMIT_NOFILE, (soft, limits[1]))
    assert calls == ([] if soft is None else [expected])


def test_max_peers_above_descriptor_limit_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    options = ["--port", "0", "--db", ":memory:"]
    assert main([*options, "--max-peers", "5000"]) == 2
    errors = capsys.readouterr().err
    assert "for 872 connections only" in errors
    assert "--max-peers" in errors
    assert errors.count("\n") == 1
    # The default adapts to the system, and 0 promises no number of connections.
    assert main(options) == 0
    assert main([*options, "--max-peers", "0"]) == 0
    assert DEFAULT_MAX_PEERS > 872
