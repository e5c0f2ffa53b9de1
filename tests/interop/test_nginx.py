"""chatd behind nginx, set up as chatd/README.md shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
    found = re.search(
        r"<!-- nginx -->\n```nginx\n(.*?)```",
        (ROOT / "chatd" / "README.md").read_text(),
        re.DOTALL,
    )
    assert found, "chatd/README.md shows no nginx snippet"
    assert found[1].count(README_SOCKET) == 1
    return found[1]


def is_listening(address: Address) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address) == 0


@contextmanager
def nginx(directory: Path, upstream: str, more: str = "") -> Iterator[Address]:
    """Run nginx in front of `upstream`; yield its address."""
    need(NGINX, "nginx", "apt-get install nginx-light")
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address: Address = sock.getsockname()
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, port=address[1], more=more))
    (directory / "snippet.conf").write_text(snippet().replace(README_SOCKET, upstream))
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
