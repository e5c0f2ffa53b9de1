"""chatd behind nginx, set up as chatd/README.md shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from chatd.access.trusted_networks import TrustedNetwork, parse_network
from chatd.app import Chat
from chatd.storage.sqlite import MEMORY, SQLiteStore
from tests.interop.support import chatd_on
from tests.needs import need
from tests.support import PATIENCE, ROOT, Address, daemon, exchange, poll, serving, troubles
from wsproto_min import Client, HandshakeError, connect

# Debian has nginx in /usr/sbin, which only root has on the path.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
# nginx connects from this address, so that chatd can distinguish nginx from its clients.
NGINX_ADDRESS = "127.0.0.2"
README = (ROOT / "chatd" / "README.md").read_text()
README_SOCKET = "http://unix:/run/chatd/chatd.sock"

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {more}
        include {directory}/snippet.conf;
    }}
}}
"""


def snippet() -> str:
    """Return the nginx configuration in chatd/README.md."""
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", README, re.DOTALL)
    assert found, "chatd/README.md shows no nginx snippet"
    assert found[1].count(README_SOCKET) == 1
    return found[1]


def is_listening(address: Address) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


@contextmanager
def nginx(
    directory: Path, upstream: str, more: str = "", configured: str | None = None
) -> Iterator[Address]:
    """Run nginx in front of `upstream`; yield its address.

    `configured` replaces the configuration in chatd/README.md.
    """
    need(NGINX, "nginx", "apt-get install nginx-light")
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address: Address = sock.getsockname()
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, port=address[1], more=more))
    configured = configured or snippet()
    (directory / "snippet.conf").write_text(configured.replace(README_SOCKET, upstream))
    arguments = [NGINX, "-p", str(directory), "-c", str(configuration)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        try:
            poll(lambda: is_listening(address) or process.poll() is not None, "nginx listens")
            assert process.poll() is None, process.communicate()[1]
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def enter(address: Address, origin: str | None = None) -> Client:
    """Connect with the Origin of the page at `address`, or with another one."""
    host = f"127.0.0.1:{address[1]}"
    return connect(f"ws://{host}/r/tea", origin=origin or f"http://{host}")


def chat_through(address: Address) -> None:
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\nConnection: close\r\n\r\n"
    response = exchange(address, request.encode())
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith((ROOT / "client.html").read_bytes())
    with enter(address) as ann, enter(address) as bob:
        for text in ("Hello", "日本語 👍", "x" * 4000):
            ann.send(text)
            assert bob.recv(PATIENCE) == text
            bob.send(text)
            assert ann.recv(PATIENCE) == text
        assert ann.ping(PATIENCE) > 0


def test_nginx_forwards_page_and_chat_to_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    with chatd_on(path) as chatd, nginx(tmp_path, f"http://unix:{path}") as address:
        assert path.stat().st_mode & 0o777 == 0o660
        chat_through(address)
        chatd.send_signal(signal.SIGTERM)
        assert troubles(chatd.communicate(timeout=PATIENCE)[1]) == ""
        assert chatd.returncode == 0
        assert not path.exists()


def test_nginx_forwards_page_and_chat_over_tcp(tmp_path: Path) -> None:
    with (
        daemon("chatd", "--port", "0", "--trusted-proxy", "127.0.0.1", "--db", MEMORY) as chatd,
        nginx(tmp_path, f"http://127.0.0.1:{chatd.address[1]}") as address,
    ):
        chat_through(address)
        assert chatd.stop() == (0, "")


def test_nginx_forwards_a_foreign_origin_and_chatd_refuses(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    with chatd_on(path), nginx(tmp_path, f"http://unix:{path}") as address:
        for origin in ("http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "null"):
            with pytest.raises(HandshakeError) as caught:
                enter(address, origin=origin)
            assert caught.value.status == 403


def test_nginx_forwards_close_1001_when_chatd_stops(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    with chatd_on(path) as chatd, nginx(tmp_path, f"http://unix:{path}") as address:
        peer = enter(address)
        chatd.send_signal(signal.SIGTERM)
        assert list(peer) == []
        assert peer.connection.close_received is not None
        assert peer.connection.close_received.code == 1001


@pytest.mark.parametrize("trusted", ["unix", NGINX_ADDRESS])
def test_nginx_forwards_the_address_of_the_client(tmp_path: Path, trusted: str) -> None:
    claims = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", f"192.0.2.2, {trusted}")]

    def address_of_peer(*proxies: TrustedNetwork) -> str:
        """Return chatd's address of a client with forged X-Forwarded-For headers."""
        store = SQLiteStore(MEMORY)
        chat = Chat(store, trusted_proxies=proxies)
        path = tmp_path / "chatd.sock"
        chat.server.listen_unix(os.fspath(path))
        with serving(server=chat.server) as running:
            upstream, bind = f"http://unix:{path}", ""
            if trusted != "unix":
                port = running.address[1]
                upstream, bind = f"http://127.0.0.1:{port}", f"proxy_bind {NGINX_ADDRESS};"
            with (
                nginx(tmp_path, upstream, bind) as address,
                connect(f"ws://127.0.0.1:{address[1]}/", headers=claims),
            ):
                (peer,) = running.ask(lambda: chat.server.peers)
        store.close()
        return peer.address

    assert address_of_peer(parse_network(trusted)) == "127.0.0.1"
    assert address_of_peer().startswith("unix" if trusted == "unix" else f"{NGINX_ADDRESS}:")


METRICS = b"GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
BARE = f"location / {{ proxy_pass {README_SOCKET}; }}"
HTTP_1_1 = f"location / {{ proxy_pass {README_SOCKET}; proxy_http_version 1.1; }}"
# With keepalive to the upstream server, the request shows no proxy.
HIDDEN = HTTP_1_1.replace("1.1;", '1.1; proxy_set_header Connection "";')
PROXIES = {"bare": BARE, "HTTP/1.1": HTTP_1_1, "hidden": HIDDEN, "README": None}


@pytest.mark.parametrize("configured", PROXIES.values(), ids=list(PROXIES))
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_nginx_publishes_no_metrics_by_default(
    configured: str | None, transport: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        if transport == "unix":
            upstream = f"http://unix:{tmp_path / 'chatd.sock'}"
            stack.enter_context(chatd_on(tmp_path / "chatd.sock"))
        else:
            running = stack.enter_context(daemon("chatd", "--port", "0", "--db", MEMORY))
            upstream = f"http://127.0.0.1:{running.address[1]}"
            assert b" 403 " in exchange(running.address, METRICS % b"localhost")[:20]
        address = stack.enter_context(nginx(tmp_path, upstream, configured=configured))
        for host in (b"localhost", b"127.0.0.1", b"[::1]", b"chat.example"):
            assert exchange(address, METRICS % host).startswith(b"HTTP/1.1 403 "), host
        assert exchange(address, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")


@pytest.mark.parametrize(
    ("proxy", "status"), [("bare", b"403"), ("README", b"403"), ("hidden", b"200")]
)
def test_nginx_publishes_metrics_only_if_allowed(proxy: str, status: bytes, tmp_path: Path) -> None:
    readers = ("--metrics-from", "127.0.0.1")
    with daemon("chatd", "--port", "0", "--db", MEMORY, *readers) as running:
        upstream = f"http://127.0.0.1:{running.address[1]}"
        assert b" 200 " in exchange(running.address, METRICS % b"localhost")[:20]
        with nginx(tmp_path, upstream, configured=PROXIES[proxy]) as address:
            response = exchange(address, METRICS % b"localhost")
            assert response.startswith(b"HTTP/1.1 " + status)
        # chatd/README.md has this location for a proxy that hides itself.
        location = re.search(r"`(location = /metrics .*?)`", README)
        assert location
        with nginx(tmp_path, upstream, location[1], configured=PROXIES[proxy]) as address:
            assert exchange(address, METRICS % b"localhost").startswith(b"HTTP/1.1 404 ")
