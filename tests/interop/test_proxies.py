"""Connections through proxies of other authors: tinyproxy (CONNECT) and microsocks (SOCKS5)."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.certificate import Certificate
from tests.needs import need
from tests.support import PATIENCE, Address, RunningServer, is_served, poll, serving
from wsproto_min import HandshakeError, connect

USER, PASSWORD = "Ann", "secret"


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address: Address = free.getsockname()
    return address


def listens(address: Address) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


@contextmanager
def proxy(program: str, *arguments: str, address: Address) -> Iterator[str]:
    """Run a proxy; yield the part of its URL after user name and password."""
    with subprocess.Popen(
        [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            poll(lambda: listens(address), f"{program} listens")
            yield f"{address[0]}:{address[1]}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def tinyproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(shutil.which("tinyproxy"), "tinyproxy", "apt-get install tinyproxy-bin")
    address = free_address()
    lines = [f"Port {address[1]}", f"Listen {address[0]}", f"BasicAuth {USER} {PASSWORD}"]
    # The program needs these two, and a time limit for its clients.
    lines += ["MaxClients 20", "Timeout 60"]
    file = tmp_path_factory.mktemp("tinyproxy") / "tinyproxy.conf"
    file.write_text("\n".join([*lines, ""]))
    with proxy("tinyproxy", "-d", "-c", str(file), address=address) as place:
        yield f"http://%s@{place}"


@pytest.fixture(scope="module")
def microsocks() -> Iterator[str]:
    need(shutil.which("microsocks"), "microsocks", "apt-get install microsocks")
    address = free_address()
    arguments = ["-i", address[0], "-p", str(address[1]), "-u", USER, "-P", PASSWORD]
    with proxy("microsocks", *arguments, address=address) as place:
        yield f"socks5h://%s@{place}"


@pytest.fixture(params=["tinyproxy", "microsocks"])
def place(request: pytest.FixtureRequest) -> str:
    """The proxy's URL with a place for user name and password."""
    found: str = request.getfixturevalue(request.param)
    return found


def check_echo(url: str, **options: object) -> None:
    with connect(url, **options) as client:  # type: ignore[arg-type]
        for message in ("Hello", b"\x00" * 100_000):
            client.send(message)
            assert client.recv(PATIENCE) == message
    assert client.close_code == 1000


def url(running: RunningServer, scheme: str = "ws", host: str = "localhost") -> str:
    return f"{scheme}://{host}:{running.address[1]}/"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_proxy_forwards_messages_in_both_directions(place: str, host: str) -> None:
    with serving() as running:
        check_echo(url(running, host=host), proxy=place % f"{USER}:{PASSWORD}")


def test_proxy_forwards_tls(place: str, certificate: Certificate) -> None:
    with serving(ssl_context=certificate.server_context()) as running:
        check_echo(
            url(running, "wss", "127.0.0.1"),
            proxy=place % f"{USER}:{PASSWORD}",
            ssl_context=certificate.client_context(),
        )


def test_proxy_refuses_a_wrong_password(place: str) -> None:
    with serving() as running:
        with pytest.raises(HandshakeError) as raised:
            connect(url(running), proxy=place % f"{USER}:wrong")
        assert raised.value.status in (401, 407)  # tinyproxy 1.11 answers 401
        assert "wrong" not in str(raised.value)
        assert is_served(running.address)


def test_proxy_without_the_server_gives_a_clear_error(place: str) -> None:
    _, port = free_address()
    with pytest.raises(HandshakeError, match=rf"^proxy .*localhost:{port}") as raised:
        connect(f"ws://localhost:{port}/", proxy=place % f"{USER}:{PASSWORD}")
    assert raised.value.status in (0, 500, 502, 503)
