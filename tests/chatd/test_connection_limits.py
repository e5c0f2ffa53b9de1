"""How many connections there may be, from one address and in all."""

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
    OWN_DESCRIPTORS,
    SPARE_PLACES,
    ConnectionLimiter,
    Slot,
    descriptors_for,
)
from chatd.access.trusted_networks import parse_proxy
from tests.chat import serve_chat
from tests.support import Client, connect, exchange, handshake, read_to_end
from wsproto_min.http import Headers, HeadReader, parse_response
from wsproto_min.net.event_loop import EventLoop

LOCAL = "127.0.0.1:{}"
REMOTE = "198.51.100.1:{}"


def admitted(caps: ConnectionLimiter, address: str, number: int) -> list[bool]:
    """Return of so many connections from an address whether each has a place of its own."""
    places = [caps.acquire(address.format(port)) for port in range(number)]
    return [place is not None and place.refused is None for place in places]


@pytest.mark.parametrize("address", [LOCAL, REMOTE, "[2001:db8::1]:{}", "[::ffff:10.0.0.1]:{}"])
def test_so_many_are_let_in_from_an_address_and_others_beside_them(address: str) -> None:
    caps = ConnectionLimiter(0, 3, ())
    assert admitted(caps, address, 5) == [True] * 3 + [False] * 2
    assert admitted(caps, "203.0.113.9:{}", 4) == [True] * 3 + [False]


def test_an_ipv6_address_counts_with_its_network_and_an_embedded_one_as_ipv4() -> None:
    caps = ConnectionLimiter(0, 2, ())
    assert admitted(caps, "[2001:db8:0:1::1]:{}", 1) == [True]
    assert admitted(caps, "[2001:db8:0:1:ffff::2]:{}", 2) == [True, False]
    assert admitted(caps, "[2001:db8:0:2::1]:{}", 1) == [True]
    assert admitted(caps, "[::ffff:10.0.0.1]:{}", 1) == [True]
    assert admitted(caps, "10.0.0.1:{}", 2) == [True, False]


def test_by_default_this_machine_itself_is_not_capped_and_others_are() -> None:
    caps = ConnectionLimiter(0, None, ())
    assert all(admitted(caps, LOCAL, DEFAULT_MAX_PER_ADDRESS + 1))
    assert all(admitted(caps, "[::1]:{}", DEFAULT_MAX_PER_ADDRESS + 1))
    assert admitted(caps, REMOTE, DEFAULT_MAX_PER_ADDRESS + 1)[-2:] == [True, False]


def test_zero_is_no_cap() -> None:
    assert all(admitted(ConnectionLimiter(0, 0, ()), REMOTE, 1000))


def test_a_trusted_proxy_and_a_unix_socket_are_not_capped_but_those_behind_are() -> None:
    caps = ConnectionLimiter(0, 1, [parse_proxy("10.0.0.0/8"), parse_proxy("unix")])
    places = [caps.acquire(address) for address in ("10.0.0.2:1", "10.0.0.2:2", "unix", "unix")]
    moved: list[Slot] = []
    for place in places:
        assert place is not None
        assert place.refused is None
        moved.append(caps.rekey(place, "198.51.100.1"))
    assert [place.refused is None for place in moved] == [True, False, False, False]


def test_a_place_that_was_left_is_free_again() -> None:
    caps = ConnectionLimiter(3, 2, ())
    for address in (REMOTE, LOCAL):
        for _ in range(10):
            places = [caps.acquire(address.format(port)) for port in range(3)]
            for place in places:
                assert place is not None
                caps.release(caps.rekey(place, address.format(9)))
    assert admitted(caps, REMOTE, 3) == [True, True, False]
    assert admitted(caps, LOCAL, 2) == [True, False]


def test_over_a_cap_a_few_are_heard_and_then_nobody() -> None:
    caps = ConnectionLimiter(1, 0, ())
    places = [caps.acquire(REMOTE.format(port)) for port in range(SPARE_PLACES + 3)]
    assert [place is None for place in places] == [False] * (SPARE_PLACES + 1) + [True] * 2
    assert places[1] is not None
    caps.release(places[1])
    assert caps.acquire(LOCAL.format(1)) is not None


# With real sockets.


def answer_to(request: bytes, address: tuple[str, int]) -> tuple[int, Headers, str]:
    """Return the status, the headers and the body that a request is answered with."""
    whole = HeadReader().receive_data(exchange(address, request))
    assert whole is not None
    status, headers = parse_response(whole[0])
    return status, headers, whole[1].decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_per_address": 3}, ["3 connections from your address", "--max-per-address"]),
        ({"max_peers": 3}, ["all the 3 connections", "--max-peers"]),
    ],
    ids=["per address", "in all"],
)
def test_who_is_too_many_is_told_503_and_what_to_do_until_somebody_goes(
    options: dict[str, Any], words: list[str]
) -> None:
    with serve_chat(**options) as chat, ExitStack() as stack:
        # Those who have not finished their handshake count as well.
        stack.enter_context(Client(chat.address))
        half_open = [stack.enter_context(connect(chat.address)) for _ in range(2)]
        half_open[0].sendall(b"GET / HTTP/1.1\r\nHost:")
        chat.wait_for_peers(3)
        for request in (handshake(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            status, headers, body = answer_to(request, chat.address)
            assert (status, headers.get("Retry-After")) == (503, "10")
            assert headers.get("Connection") == "close"
            assert all(word in body for word in words), body
        # A full server can be watched all the same.
        for path in ("/healthz", "/metrics"):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            assert answer_to(request, chat.address)[0] == 200
        half_open[1].close()
        chat.wait_for_peers(2)
        stack.enter_context(Client(chat.address))


def test_a_flood_that_never_speaks_is_cut_as_it_comes_and_those_inside_talk_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[EventLoop] = []
    turn = EventLoop.run_once

    def counted(loop: EventLoop) -> None:
        turns.append(loop)
        turn(loop)

    monkeypatch.setattr(EventLoop, "run_once", counted)
    with serve_chat(max_per_address=5) as chat, ExitStack() as stack:
        first, second = (stack.enter_context(Client(chat.address)) for _ in range(2))
        # What is heard at once: the three that are left, and the spare places.
        heard = 3 + SPARE_PLACES
        flood = [stack.enter_context(connect(chat.address)) for _ in range(heard + 20)]
        for sock in flood[heard:]:
            with suppress(ConnectionResetError):
                assert read_to_end(sock) == b""
        assert len(chat.ask(lambda: chat.server.peers)) == 2 + heard
        turns.clear()
        select.select([], [], [], 0.1)
        assert len(turns) < 20, "the loop spins"
        first.send("still here")
        assert second.receive() == "still here"


def test_behind_a_trusted_proxy_the_clients_are_capped_each_and_the_proxy_is_not() -> None:
    def request(client: str) -> bytes:
        return handshake()[:-2] + f"X-Forwarded-For: {client}\r\n\r\n".encode()

    proxies = [parse_proxy("127.0.0.1")]
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


def test_behind_a_trusted_proxy_too_only_so_many_are_told_that_they_are_too_many() -> None:
    request = handshake()[:-2] + b"X-Forwarded-For: 198.51.100.1\r\n\r\n"
    proxies = [parse_proxy("127.0.0.1")]
    with serve_chat(max_per_address=1, trusted_proxies=proxies) as chat, ExitStack() as stack:
        told = []
        for _ in range(1 + SPARE_PLACES + 3):
            sock = stack.enter_context(connect(chat.address))
            sock.sendall(request)
            try:
                told.append(sock.recv(12))
            except ConnectionResetError:
                told.append(b"")
        assert told == [b"HTTP/1.1 101", *[b"HTTP/1.1 503"] * SPARE_PLACES, b"", b"", b""]


# Descriptors.


@pytest.mark.parametrize(
    ("limits", "peers", "raised"),
    [
        ((64, 100_000), 5000, 5000 + SPARE_PLACES + OWN_DESCRIPTORS),
        ((100_000, 100_000), 5000, None),
        ((64, resource.RLIM_INFINITY), 5000, 5000 + SPARE_PLACES + OWN_DESCRIPTORS),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 5000, None),
        ((64, 1000), 1000 - SPARE_PLACES - OWN_DESCRIPTORS, 1000),
        ((20, 20), 1, None),
    ],
)
def test_the_process_is_allowed_the_descriptors_that_it_needs_as_far_as_may_be(
    limits: tuple[int, int], peers: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert descriptors_for(5000) == peers
    assert asked == ([] if raised is None else [(raised, limits[1])])


def test_a_cap_that_the_system_has_no_descriptors_for_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    options = ["--port", "0", "--db", ":memory:"]
    assert main([*options, "--max-peers", "5000"]) == 2
    errors = capsys.readouterr().err
    assert "for 872 connections only" in errors
    assert "--max-peers" in errors
    assert errors.count("\n") == 1
    # By default it makes do with what there is, and 0 is nobody's number to keep.
    assert main(options) == 0
    assert main([*options, "--max-peers", "0"]) == 0
    assert DEFAULT_MAX_PEERS > 872
