"""Incomplete and invalid handshakes, and exhausted descriptors, beside a chat in use."""

from __future__ import annotations

import resource
import selectors
import socket
import ssl
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.benchmarks.client import cpu_seconds, opening
from tests.load.support import chatd, count_sockets, latency_probe, print_figure
from tests.support import PATIENCE, Address, connect, exchange, poll
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_close, encode_frame

OPEN_TIMEOUT = 10.0  # seconds; the server's default
UNDISTURBED = 3.0  # seconds of measurement without hostile clients
GET_PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def client_hello() -> bytes:
    """Return the first bytes that a browser sends to an `https` address."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@dataclass(frozen=True)
class Attack:
    """A group of hostile clients, and the response that the server must send to each.

    `start` and `end` are the first and last bytes of the response. A group that
    `times_out` gets it at OPEN_TIMEOUT. A group that `drips` sends a byte per second.
    """

    name: str
    clients: int
    data: bytes
    start: bytes
    end: bytes = b""
    times_out: bool = False
    drips: bool = False


def attacks() -> list[Attack]:
    timeout, incomplete = b"HTTP/1.1 408 ", b"GET / HTTP/1.1\r\nHost: loc"
    upgrade = opening(80)
    close = encode_frame(Opcode.CLOSE, encode_close(1000), mask=bytes(4))
    reserved_bit = encode_close(1002, "a reserved bit is set (RFC 6455, 5.2)")
    return [
        Attack("send nothing", 200, b"", timeout, times_out=True),
        Attack("send an incomplete request", 200, incomplete, timeout, times_out=True),
        Attack("send a byte per second", 200, incomplete, timeout, times_out=True, drips=True),
        Attack("send TLS to the plain port", 200, client_hello(), b"HTTP/1.1 400 "),
        Attack("send 100,000 headers", 50, incomplete + b"\r\nX: y" * 100_000, b"HTTP/1.1 431 "),
        Attack(
            "send two requests at once", 50, GET_PAGE + GET_PAGE, b"HTTP/1.1 200 ", b"</html>\n"
        ),
        Attack(
            "send a request after the upgrade",
            50,
            upgrade + GET_PAGE,
            b"HTTP/1.1 101 ",
            reserved_bit,
        ),
        Attack("send frames with the handshake", 50, upgrade + close, b"HTTP/1.1 101 ", close[-2:]),
    ]


class HostileClient:
    """One client of an attack; `seconds` is the time until the server closed it."""

    def __init__(self, attack: Attack, address: Address) -> None:
        self.attack = attack
        self.sock = connect(address)
        self.sock.setblocking(False)
        self.to_send = attack.data
        self.received = b""
        self.start = time.perf_counter()
        self.seconds = 0.0

    def on_ready(self) -> bool:
        """Send and receive without blocking; return whether the connection has ended."""
        try:
            if self.to_send:
                self.to_send = self.to_send[self.sock.send(self.to_send) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.to_send = b""
        try:
            while data := self.sock.recv(1 << 16):
                self.received += data
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        self.seconds = time.perf_counter() - self.start
        return True

    def events(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.to_send else 0)


def attack(address: Address) -> list[HostileClient]:
    """Connect all hostile clients and run them until the server has closed every one."""
    selector = selectors.DefaultSelector()
    clients = [HostileClient(each, address) for each in attacks() for _ in range(each.clients)]
    for client in clients:
        selector.register(client.sock, client.events(), client)
    start = last_drip = time.perf_counter()
    while selector.get_map():
        now = time.perf_counter()
        assert now - start < OPEN_TIMEOUT + 3 * PATIENCE, "the server keeps a hostile client"
        if now - last_drip >= 1.0:
            last_drip = now
            for client in clients:
                if client.attack.drips and not client.seconds:
                    client.to_send += b"x"
        for key, _ in selector.select(0.1):
            client = key.data
            if client.on_ready():
                selector.unregister(client.sock)
                client.sock.close()
        for key in list(selector.get_map().values()):
            if key.events != key.data.events():
                selector.modify(key.fileobj, key.data.events(), key.data)
    selector.close()
    return clients


def test_hostile_handshakes_end_in_time_and_chat_continues(tmp_path: Path) -> None:
    with chatd(tmp_path) as running:
        with latency_probe(running.address) as undisturbed:
            time.sleep(UNDISTURBED)
        with latency_probe(running.address) as attacked:
            clients = attack(running.address)
        poll(lambda: count_sockets(running.process.pid) <= 6, "every socket is closed")
    groups: dict[Attack, list[HostileClient]] = defaultdict(list)
    for client in clients:
        groups[client.attack].append(client)
    for kind, group in groups.items():
        for client in group:
            assert client.received.startswith(kind.start), (kind.name, client.received[:200])
            assert client.received.endswith(kind.end), (kind.name, client.received[-200:])
            if kind.times_out:
                assert client.seconds > OPEN_TIMEOUT - 0.1, f"{kind.name}: closed too early"
        longest = max(client.seconds for client in group)
        status = kind.start.decode().split(" ")[1]
        print_figure(f"{kind.clients} clients {kind.name}", f"{status} within {longest:.2f} s")
    print_figure("latency without hostile clients", str(undisturbed))
    ratio = attacked.p99 / undisturbed.p99
    print_figure(f"latency beside {len(clients)} hostile clients", f"{attacked}, {ratio:.2f} times")
    assert attacked.p99 < 10 * undisturbed.p99 + 0.1


def test_server_without_descriptors_idles_and_accepts_all_later(tmp_path: Path) -> None:
    limit, waiting, seconds = 64, 200, 3.0
    with chatd(tmp_path) as running, ExitStack() as stack:
        process = running.process.pid
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, limit))
        with latency_probe(running.address) as latencies:
            sockets = [stack.enter_context(connect(running.address)) for _ in range(waiting)]
            open_files = Path(f"/proc/{process}/fd")
            poll(lambda: len(list(open_files.iterdir())) >= limit - 2, "no descriptor is free")
            # The probe costs little CPU time; a loop that retries accept() costs a core.
            before = cpu_seconds(process)
            time.sleep(seconds)
            share = (cpu_seconds(process) - before) / seconds
        served = sum(gets_page(sock) for sock in sockets)
        assert exchange(running.address, GET_PAGE).startswith(b"HTTP/1.1 200 ")
    figures = f"{share:.0%} of a core, {latencies}"
    print_figure(f"{waiting} connections wait for {limit} descriptors", figures)
    print_figure("served when descriptors are free again", f"{served} of {waiting}")
    assert share < 0.5
    assert served == waiting


def gets_page(sock: socket.socket) -> bool:
    """Request the page and close; return whether it came."""
    sock.settimeout(3 * PATIENCE)
    sock.sendall(GET_PAGE)
    with sock:
        is_page = sock.recv(13) == b"HTTP/1.1 200 "
        while sock.recv(1 << 18):
            pass
    return is_page
