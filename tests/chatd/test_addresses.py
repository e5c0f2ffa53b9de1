"""Addresses that chatd listens on, and addresses of its page."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from chatd.__main__ import main
from chatd.addresses import ListenError, is_loopback, listen, page_urls
from tests.support import PATIENCE, RunningServer, daemon, exchange, need_ipv6
from wsproto_min import Server

ALONE = ("--port", "0", "--db", ":memory:")
HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"


class RecordingServer(Server):
    """A server without sockets; `refused` has the error of each address that it refuses."""

    def __init__(self, **refused: int) -> None:
        self.refused = refused
        self.calls: list[tuple[str, int]] = []

    def listen(self, host: str, port: int, *_: object, **__: object) -> tuple[str, int]:
        if number := self.refused.get(host):
            raise OSError(number, os.strerror(number))
        self.calls.append((host, port))
        return host.partition("%")[0], port or 8765


def resolve_to(*addresses: str) -> Callable[..., list[Any]]:
    """Return a resolver that knows one name."""

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        return [
            (socket.AF_INET6, *(0, 0, ""), (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, *(0, 0, ""), (each, port))
            for each in addresses
        ]

    return getaddrinfo


def listened(*hosts: str, port: int = 8765, **refused: int) -> list[str]:
    """Return the addresses that a server listens on for some hosts."""
    server = RecordingServer(**refused)
    addresses = listen(server, hosts, port, None)
    served = [host for host, _ in server.calls]
    if "::" in served and socket.has_dualstack_ipv6():
        assert "0.0.0.0" not in served  # the socket of :: includes IPv4, so bind() would fail
        served.insert(served.index("::") + 1, "0.0.0.0")
    assert [host for host, _ in addresses] == [host.partition("%")[0] for host in served]
    assert {port for _, port in addresses} == {port or 8765}
    return served


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (["[::1]"], ["::1"]),
        (["127.0.0.1", "127.0.0.1"], ["127.0.0.1"]),
        # Dual stack.
        (["::"], ["::", "0.0.0.0"]),
        (["[::]"], ["::", "0.0.0.0"]),
        (["0::0"], ["::", "0.0.0.0"]),
        (["0.0.0.0"], ["0.0.0.0"]),
        (["0.0.0.0", "::"], ["::", "0.0.0.0"]),
        (["::", "0.0.0.0"], ["::", "0.0.0.0"]),
        # A wildcard address includes the others.
        (["127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
        (["::1", "127.0.0.1", "::"], ["::", "0.0.0.0"]),
        (["::1", "0.0.0.0"], ["0.0.0.0", "::1"]),
        # An address of a link keeps its interface.
        (["fe80::1%1"], ["fe80::1%1"]),
    ],
)
@pytest.mark.parametrize("is_dual_stack", [True, False])
def test_listen_takes_all_hosts_without_duplicates(
    monkeypatch: pytest.MonkeyPatch, is_dual_stack: bool, hosts: list[str], addresses: list[str]
) -> None:
    monkeypatch.setattr("socket.has_dualstack_ipv6", lambda: is_dual_stack)
    assert listened(*hosts) == addresses
    assert listened(*hosts, port=0) == addresses


def test_listen_takes_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", resolve_to("::1", "127.0.0.1", "127.0.0.1"))
    assert listened("localhost") == ["::1", "127.0.0.1"]
    for number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # a machine without IPv6
        assert listened("localhost", **{"::1": number}) == ["127.0.0.1"]
        with pytest.raises(ListenError) as caught:
            listened("localhost", **{"::1": number, "127.0.0.1": number})
        assert (caught.value.host, caught.value.cause.errno) == ("localhost", number)
    for number in (errno.EADDRINUSE, errno.EACCES):
        with pytest.raises(ListenError) as caught:
            listened("localhost", **{"127.0.0.1": number})
        assert caught.value.cause.errno == number


def test_listen_on_port_0_uses_one_port_for_all_hosts() -> None:
    server = RecordingServer()
    assert listen(server, ["127.0.0.1", "::1"], 0, None) == [("127.0.0.1", 8765), ("::1", 8765)]
    assert server.calls == [("127.0.0.1", 0), ("::1", 8765)]


def test_listen_fails_for_a_host_beside_valid_ones() -> None:
    with pytest.raises(ListenError) as caught:
        listened("127.0.0.1", "192.0.2.77", **{"192.0.2.77": errno.EADDRNOTAVAIL})
    assert caught.value.host == "192.0.2.77"
    assert listened("::", **{"::": errno.EAFNOSUPPORT}) == ["0.0.0.0"]


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64, "127.0.0.1:80", "http://localhost/"])
def test_listen_rejects_malformed_hosts(host: str) -> None:
    with pytest.raises(ListenError, match=f"^host {host}, port 80: "):
        listened(host, port=80)


def test_two_hosts_serve_on_one_port() -> None:
    need_ipv6()
    with daemon("chatd", "--host", "127.0.0.1", "--host", "::1", *ALONE) as running:
        port = running.address[1]
        for host in ("127.0.0.1", "::1"):
            assert exchange((host, port), HEALTH).endswith(b"ok\n")
        assert f"open http://127.0.0.1:{port}/ or http://[::1]:{port}/ (" in running.line
        assert running.stop() == (0, "")


@pytest.mark.parametrize("hosts", [("::",), ("0.0.0.0", "::"), ("::", "0.0.0.0", "127.0.0.1")])
def test_wildcard_hosts_serve_both_protocols(hosts: tuple[str, ...]) -> None:
    need_ipv6()
    options = [word for host in hosts for word in ("--host", host)]
    with daemon("chatd", *options, *ALONE) as running:
        for host in ("127.0.0.1", "::1"):
            assert exchange((host, running.address[1]), HEALTH).endswith(b"ok\n")
        status, errors = running.stop()
        assert status == 0, errors


def test_name_with_two_addresses_serves_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    need_ipv6()
    resolve, both = socket.getaddrinfo, resolve_to("::1", "127.0.0.1")

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        return both(host, port) if host == "two.example" else resolve(host, port, **options)

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    server = Server(on_message=lambda *_: None)
    first, second = listen(server, ["two.example"], 0, None)
    assert (first[0], second[0]) == ("::1", "127.0.0.1")
    assert first[1] == second[1]
    running = RunningServer(server, first)
    running.thread.start()
    for address in (first, second):
        assert exchange(address, HEALTH).startswith(b"HTTP/1.1 ")
    server.stop(0)
    running.thread.join(PATIENCE)


def outgoing(monkeypatch: pytest.MonkeyPatch, **hosts: str) -> None:
    """Replace the addresses from which this machine reaches others."""
    monkeypatch.setattr("chatd.addresses._outgoing_host", lambda family: hosts[family.name])


def test_page_urls_of_wildcards_are_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing(monkeypatch, AF_INET="192.0.2.7", AF_INET6="2001:db8::7")
    assert page_urls("http", [("0.0.0.0", 1)]) == ["http://192.0.2.7:1/", "http://127.0.0.1:1/"]
    assert page_urls("https", [("::", 1)]) == ["https://[2001:db8::7]:1/", "https://[::1]:1/"]
    assert page_urls("http", [("::", 1), ("0.0.0.0", 1)]) == [
        *("http://192.0.2.7:1/", "http://127.0.0.1:1/", "http://[2001:db8::7]:1/"),
    ]
    outgoing(monkeypatch, AF_INET="", AF_INET6="")  # a machine without a network
    assert page_urls("http", [("0.0.0.0", 1)]) == ["http://127.0.0.1:1/"]
    assert page_urls("http", [("::", 1)]) == ["http://[::1]:1/"]


def test_ready_line_for_all_addresses_names_one_for_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outgoing(monkeypatch, AF_INET="192.0.2.7", AF_INET6="2001:db8::7")
    monkeypatch.setattr("chatd.app.Server.listen", lambda _, host, port, *__, **___: (host, port))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    assert main(["--host", "0.0.0.0", "--db", ":memory:"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert " open http://192.0.2.7:8765/ or http://127.0.0.1:8765/ (" in first
    assert "everybody who can reach http://192.0.2.7:8765/ can read" in second


def test_outgoing_address_is_of_this_machine_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::"):
        for url in page_urls("http", [(host, 1)]):
            assert "//0.0.0.0" not in url
            assert "//[::]" not in url

    def refuse(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert page_urls("http", [("0.0.0.0", 1)]) == ["http://127.0.0.1:1/"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "[::1]", "::ffff:127.0.0.1")),
        *((host, False) for host in ("0.0.0.0", "192.0.2.7", "[2001:db8::1]", "", "notlocalhost")),
        *((host, False) for host in ("127.0.0.1.example", "::12", "[fe80::1%lo]")),
    ],
)
def test_loopback_hosts_are_recognized(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
