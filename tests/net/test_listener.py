"""Listeners: TCP and Unix sockets, limits of accept(), and its failures."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from selectors import EVENT_READ
from typing import Any

import pytest

from tests.needs import need
from tests.net.workbench import Workbench
from tests.support import (
    PATIENCE,
    Client,
    connect,
    handshake,
    is_served,
    need_ipv6,
    poll,
    send_back,
    serving,
    tight_listener,
)
from wsproto_min.connection import Close
from wsproto_min.net import listener as listener_module
from wsproto_min.net.client import connect as connect_url
from wsproto_min.net.listener import open_tcp_listeners
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server

# Accepting.


def test_accepted_sockets_have_nodelay_set() -> None:
    def nodelay() -> list[int]:
        option = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sockets = [peer._transport._socket for peer in running.server.peers]
        return [sock.getsockopt(*option) for sock in sockets if isinstance(sock, socket.socket)]

    with serving() as running, Client(running.address):
        [delays_off] = running.ask(nodelay)
        assert delays_off, "Nagle's algorithm is on"


def test_more_connections_than_one_iteration_accepts_are_served() -> None:
    with ExitStack() as stack:
        listener = tight_listener()
        number = listener_module.ACCEPTS_PER_ITERATION + 10
        waiting = [stack.enter_context(connect(listener.getsockname())) for _ in range(number)]
        running = stack.enter_context(serving(listener=listener))
        running.wait_for_peers(number)
        for sock in waiting:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"


class FailingListener(socket.socket):
    """A listening socket; `accept` raises `error` while it is set."""

    error: OSError | None = None
    failures = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.error is not None:
            self.failures += 1
            raise self.error
        return super().accept()


def failing_listener() -> FailingListener:
    sock = FailingListener()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_accept_without_descriptors_pauses_and_resumes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE", 0.05)
    iterations = 0

    def count() -> None:
        nonlocal iterations
        iterations += 1

    listener = failing_listener()
    with (
        serving(listener=listener, on_before_flush=count) as running,
        Client(running.address) as present,
    ):
        listener.error = OSError(number, "exhausted, on purpose")
        iterations_before, started = iterations, time.monotonic()
        with connect(running.address) as waiting:
            poll(lambda: listener.failures >= 3, "the server tries accept() again")
            pauses = (time.monotonic() - started) / 0.05 + 2
            assert iterations - iterations_before < 4 * pauses, "the loop spun"
            present.send("still served?")
            assert present.receive() == "still served?"
            listener.error = None
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 400"
        assert listener.failures <= (time.monotonic() - started) / 0.05 + 2
    assert "accept: " in caplog.text
    assert "on purpose" in caplog.text


def test_client_gone_before_accept_disturbs_no_other() -> None:
    listener = failing_listener()
    with serving(listener=listener) as running:
        listener.error = ConnectionAbortedError()
        with connect(running.address) as waiting:
            poll(lambda: listener.failures, "the server tries accept()")
            listener.error = None
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 400"


def test_interrupt_during_accept_closes_the_accepted_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams: list[socket.socket] = []

    def interrupt(context: object, stream: socket.socket, address: str) -> None:
        streams.append(stream)
        raise KeyboardInterrupt  # as after Ctrl-C

    monkeypatch.setattr(listener_module, "Session", interrupt)
    server = Server(on_message=send_back)
    with connect(server.listen("127.0.0.1", 0)), pytest.raises(KeyboardInterrupt):
        server.run()
    assert [stream.fileno() for stream in streams] == [-1]


def test_failed_accepts_do_not_raise_the_number_per_iteration() -> None:
    bench = Workbench([0.0])
    sock = failing_listener()
    sock.error = ConnectionAbortedError()
    listener = listener_module.Listener(bench.context, sock, None)
    try:
        for _ in range(listener_module.SINGLE_ACCEPTS + 1):
            listener.on_ready(EVENT_READ)
        assert sock.failures == listener_module.SINGLE_ACCEPTS + 1, "one accept() an iteration"
    finally:
        listener.close()
        bench.stop()


def test_stop_during_an_accept_pause_does_not_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE", 0.05)
    listener = failing_listener()
    with serving(listener=listener) as running, Client(running.address) as silent_client:
        listener.error = OSError(errno.EMFILE, "exhausted, on purpose")
        with connect(running.address):
            poll(lambda: listener.failures, "accepting is paused")
            running.server.stop(
                0.3
            )  # a client that does not answer makes the stop longer than the pause
            running.thread.join(PATIENCE)
        assert listener.fileno() == -1
        assert silent_client.receive() == Close(1001, "the server is stopping")


def test_ipv6_addresses_are_shown_in_brackets() -> None:
    need_ipv6()

    def on_message(peer: Peer, message: str | bytes) -> None:
        peer.send(peer.address)

    with serving(on_message, host="::1") as running, Client(running.address) as client:
        client.send("address?")
        assert client.receive() == f"[::1]:{client.sock.getsockname()[1]}"


def test_server_listens_on_several_addresses() -> None:
    server = Server(on_message=send_back)
    addresses = [server.listen("127.0.0.1", 0) for _ in range(2)]
    with serving(server=server):
        assert [is_served(address) for address in addresses] == [True, True]


def resolve(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(host: str | None, port: int, **options: Any) -> list[Any]:
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in hosts]
        return [
            (family, socket.SOCK_STREAM, 6, "", (each, port, *([0, 0] if ":" in each else [])))
            for family, each in zip(families, hosts, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("is_dual_stack", [True, False])
def test_listen_on_any_ipv6_address_accepts_ipv4_too(
    monkeypatch: pytest.MonkeyPatch, is_dual_stack: bool
) -> None:
    need_ipv6()
    if not is_dual_stack:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with serving(lambda peer, message: peer.send(peer.address), host="0::0") as running:
        port = running.address[1]
        for host in ("::1", "127.0.0.1") if is_dual_stack else ("::1",):
            with Client((host, port)) as client:
                client.send("address?")
                shown = f"[{host}]" if ":" in host else host
                assert client.receive() == f"{shown}:{client.sock.getsockname()[1]}"
        if not is_dual_stack:
            with pytest.raises(ConnectionRefusedError):
                Client(("127.0.0.1", port))


def test_listen_on_a_name_uses_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.1", "192.0.2.1")  # one twice, one not local
    with pytest.MonkeyPatch.context() as patch:
        resolve(patch, *hosts)
        server = Server(on_message=send_back)
        address = server.listen("name", 0)
    with serving(server=server, listener=socket.create_server(("127.0.0.1", 0))):
        assert address[0] == "127.0.0.1"
        assert is_served(address)
        assert is_served(("127.0.0.2", address[1]))


def test_listen_on_localhost_accepts_both_families() -> None:
    need_ipv6()
    families = {info[0] for info in socket.getaddrinfo("localhost", 0)}
    with serving(host="localhost") as running:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family in families:
                assert is_served((host, running.address[1]))


def test_listen_on_all_interfaces_accepts_both_families() -> None:
    need_ipv6()
    with serving(host="") as running:
        assert is_served(("127.0.0.1", running.address[1]))
        assert is_served(("::1", running.address[1]))


def test_listen_tries_another_free_port_if_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "127.0.0.1", "127.0.0.2")
    create_server = socket.create_server
    blockers: list[socket.socket] = []

    def take_port(address: tuple[Any, ...], **options: Any) -> socket.socket:
        sock = create_server(address, **options)
        if address[0] == "127.0.0.1" and len(blockers) < 2:
            blockers.append(create_server(("127.0.0.2", sock.getsockname()[1])))
        return sock

    monkeypatch.setattr(socket, "create_server", take_port)
    sockets = open_tcp_listeners("name", 0)
    names = [sock.getsockname() for sock in sockets]
    for sock in [*sockets, *blockers]:
        sock.close()
    assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1]


def test_listen_on_a_name_without_local_addresses_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "192.0.2.1", "198.51.100.1")
    with pytest.raises(OSError, match="assign requested address"):
        open_tcp_listeners("name", 0)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        pytest.param("192.0.2.1", 0, id="address of another machine"),
        pytest.param("256.1.1.1", 0, id="invalid address"),
        pytest.param("a..b", 0, id="invalid name"),
        pytest.param("x" * 64, 0, id="name too long"),
        pytest.param("127.0.0.1", -1, id="port below 0"),
        pytest.param("127.0.0.1", 65536, id="port above 65535"),
    ],
)
def test_listen_on_an_invalid_address_raises_oserror(host: str, port: int) -> None:
    server = Server(on_message=send_back)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        server.listen(host, port)
    assert caught.value.strerror
    server.stop()
    server.run()


def test_listen_on_a_used_port_raises_oserror() -> None:
    server = Server(on_message=send_back)
    with serving() as running, pytest.raises(OSError, match="in use"):
        server.listen(*running.address)
    server.stop()
    server.run()


# Unix sockets.


def test_unix_socket_is_for_owner_and_group_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    addresses: list[str] = []
    server = Server(on_message=Peer.send, on_open=lambda peer: addresses.append(peer.address))
    mask = os.umask(0o022)
    try:
        server.listen_unix(str(path))
        assert os.umask(0o022) == 0o022, "the umask of the process has changed"
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with serving(server=server), connect_url(f"ws+unix:{path}") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"
    assert addresses == ["unix"]
    assert not path.exists()


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server(on_message=Peer.send)
    server.listen_unix(str(path))
    with serving(server=server), connect_url(f"ws+unix:{path}") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"


def test_close_keeps_the_unix_socket_of_another_server(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first, second = Server(on_message=Peer.send), Server(on_message=Peer.send)
    first.listen_unix(str(path))
    path.unlink()
    second.listen_unix(str(path))
    first.stop()
    first.run()
    with serving(server=second), connect_url(f"ws+unix:{path}") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"
    assert not path.exists()


def test_close_ignores_a_unix_socket_file_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Server(on_message=Peer.send)
    server.listen_unix(str(path))
    path.unlink()
    server.stop()
    server.run()
    assert not path.exists()


@pytest.mark.parametrize("waiting", [0, 3], ids=["idle", "full queue"])
def test_unix_socket_of_a_live_server_raises_eaddrinuse(tmp_path: Path, waiting: int) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as alive, ExitStack() as stack:
        alive.bind(path)
        alive.listen(1)
        for _ in range(waiting):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(path)
        with pytest.raises(OSError, match="already in use") as raised:
            Server(on_message=send_back).listen_unix(path)
        assert raised.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link to nowhere"])
def test_listen_unix_keeps_a_file_that_is_not_a_socket(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="already in use"):
        Server(on_message=send_back).listen_unix(str(path))
    assert os.path.lexists(path)


def test_listen_unix_on_an_unusable_path_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Server(on_message=send_back).listen_unix(str(tmp_path / "missing" / "socket"))
    with pytest.raises(OSError, match="too long"):
        Server(on_message=send_back).listen_unix(str(tmp_path / ("x" * 200)))


need_abstract = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has Unix sockets without a file"
)


@need_abstract
def test_client_with_an_abstract_name_is_served(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = Server(on_message=Peer.send)
    server.listen_unix(path)
    with serving(server=server) as running, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.bind("\0" + tmp_path.name + "client")
        client.connect(path)
        client.sendall(handshake())
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        (peer,) = running.ask(lambda: running.server.peers)
        assert peer.address == "unix"


@need_abstract
def test_listener_with_an_abstract_name_is_closed(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + tmp_path.name + "server")
    listener.listen()
    server = Server(on_message=Peer.send)
    server.listen_on(listener)
    server.stop()
    server.run()
    assert listener.fileno() == -1


def test_listen_unix_without_unix_sockets_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="Unix socket: this system has none; listen on a TCP port"):
        listener_module.open_unix_listener(str(tmp_path / "socket"))


# Sharing a port.


def test_servers_with_reuse_port_share_a_port() -> None:
    need(hasattr(socket, "SO_REUSEPORT"), "SO_REUSEPORT", "use Linux or BSD")
    served: list[str] = []
    servers = [
        Server(on_open=lambda peer, name=name: served.append(name), on_message=send_back)  # type: ignore[misc]
        for name in ("first", "second")
    ]
    address = servers[0].listen("127.0.0.1", 0, reuse_port=True)
    with pytest.raises(OSError, match="in use") as raised:
        servers[1].listen(*address)
    assert raised.value.errno == errno.EADDRINUSE
    assert servers[1].listen(*address, reuse_port=True) == address
    other = [socket.create_server(("127.0.0.1", 0)) for _ in servers]
    with (
        serving(server=servers[0], listener=other[0]),
        serving(server=servers[1], listener=other[1]),
    ):
        for _ in range(1000):  # the kernel chooses the server by the client's port
            assert is_served(address)
            if len(set(served)) == 2:
                break
    assert set(served) == {"first", "second"}
