"""A thousand who never finish, or begin badly, beside a chat that goes on; and no descriptors."""

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
from tests.load.support import chatd, figure, pulse, sockets
from tests.support import PATIENCE, Address, connect, exchange, poll
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_close, encode_frame

DEADLINE = 10.0  # seconds for a handshake, the server's default
ALONE = 3.0  # seconds in which the chat is measured with nobody beside it
PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def client_hello() -> bytes:
    """Return what a browser sends first to an `https` address."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@dataclass(frozen=True)
class Kind:
    """How some of them begin, and how the server's answer must begin and end."""

    name: str
    number: int
    data: bytes
    begins: bytes
    ends: bytes = b""
    waits: bool = False  # for the deadline of the handshake
    drips: bool = False


def kinds() -> list[Kind]:
    late, half = b"HTTP/1.1 408 ", b"GET / HTTP/1.1\r\nHost: loc"
    upgrade = opening(80)
    close = encode_frame(Opcode.CLOSE, encode_close(1000), mask=bytes(4))
    return [
        Kind("open and say nothing", 200, b"", late, waits=True),
        Kind("never finish", 200, half, late, waits=True),
        Kind("send a byte a second", 200, half, late, waits=True, drips=True),
        Kind("speak TLS to the plain port", 200, client_hello(), late, waits=True),
        Kind("send 100,000 headers", 50, half + b"\r\nX: y" * 100_000, b"HTTP/1.1 431 "),
        Kind("ask for the page twice at once", 50, PAGE + PAGE, b"HTTP/1.1 200 ", b"</html>\n"),
        Kind(
            "put a request behind the Upgrade",
            50,
            upgrade + PAGE,
            b"HTTP/1.1 101 ",
            encode_close(1002, "a reserved bit is set (RFC 6455, 5.2)"),
        ),
        Kind("put frames behind the Upgrade", 50, upgrade + close, b"HTTP/1.1 101 ", close[-2:]),
    ]


class Intruder:
    """One of them: what it has still to send, what it has heard, and when it was let go."""

    def __init__(self, kind: Kind, address: Address) -> None:
        self.kind = kind
        self.sock = connect(address)
        self.sock.setblocking(False)
        self.to_send = kind.data
        self.heard = b""
        self.begun = time.perf_counter()
        self.lasted = 0.0

    def act(self) -> bool:
        """Send and hear what goes; return whether it is over."""
        try:
            if self.to_send:
                self.to_send = self.to_send[self.sock.send(self.to_send) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.to_send = b""
        try:
            while data := self.sock.recv(1 << 16):
                self.heard += data
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        self.lasted = time.perf_counter() - self.begun
        return True

    def wants(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.to_send else 0)


def intrude(address: Address) -> list[Intruder]:
    """Let all of them in and act until the last one is let go."""
    selector = selectors.DefaultSelector()
    crowd = [Intruder(kind, address) for kind in kinds() for _ in range(kind.number)]
    for each in crowd:
        selector.register(each.sock, each.wants(), each)
    drip = time.perf_counter()
    begun = drip
    while selector.get_map():
        now = time.perf_counter()
        assert now - begun < DEADLINE + 3 * PATIENCE, "somebody is never let go"
        if now - drip >= 1.0:
            drip = now
            for each in crowd:
                if each.kind.drips and not each.lasted:
                    each.to_send += b"x"
        for key, _ in selector.select(0.1):
            each = key.data
            if each.act():
                selector.unregister(each.sock)
                each.sock.close()
        for key in list(selector.get_map().values()):
            if key.events != key.data.wants():
                selector.modify(key.fileobj, key.data.wants(), key.data)
    selector.close()
    return crowd


def test_a_thousand_hostile_openings_end_in_time_and_a_chat_beside_them_goes_on(
    tmp_path: Path,
) -> None:
    with chatd(tmp_path) as running:
        with pulse(running.address) as alone:
            time.sleep(ALONE)
        with pulse(running.address) as beside:
            crowd = intrude(running.address)
        poll(lambda: sockets(running.process.pid) <= 6, "every socket is closed")
    by_kind: dict[Kind, list[Intruder]] = defaultdict(list)
    for each in crowd:
        by_kind[each.kind].append(each)
    for kind, those in by_kind.items():
        for each in those:
            assert each.heard.startswith(kind.begins), (kind.name, each.heard[:200])
            assert each.heard.endswith(kind.ends), (kind.name, each.heard[-200:])
            if kind.waits:
                assert each.lasted > DEADLINE - 0.1, f"{kind.name}: cut too early"
        longest = max(each.lasted for each in those)
        answer = kind.begins.decode().split(" ")[1]
        figure(f"{kind.number} {kind.name}", f"{answer}, let go within {longest:.2f} s")
    figure("a chat alone", str(alone))
    figure("a chat beside these 1,000", f"{beside}, {beside.p99 / alone.p99:.2f} times")
    assert beside.p99 < 10 * alone.p99 + 0.1


def test_without_descriptors_the_loop_does_not_spin_and_all_get_in_at_last(tmp_path: Path) -> None:
    limit, waiting, seconds = 64, 200, 3.0
    with chatd(tmp_path) as running, ExitStack() as stack:
        process = running.process.pid
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, limit))
        with pulse(running.address) as beside:
            crowd = [stack.enter_context(connect(running.address)) for _ in range(waiting)]
            poll(lambda: sockets(process) >= limit - 12, "there are no descriptors left")
            # The chat's own messages cost next to nothing, an accept that spins a core.
            before = cpu_seconds(process)
            time.sleep(seconds)
            share = (cpu_seconds(process) - before) / seconds
        served = sum(is_served(sock) for sock in crowd)
        assert exchange(running.address, PAGE).startswith(b"HTTP/1.1 200 ")
    figure("beside 200 who wait for one of 64 descriptors", f"{share:.0%} of a core, {beside}")
    figure("served once there are some", f"{served} of {waiting}")
    assert share < 0.5
    assert served == waiting


def is_served(sock: socket.socket) -> bool:
    """Ask for the page, and give up the descriptor."""
    sock.settimeout(3 * PATIENCE)
    sock.sendall(PAGE)
    with sock:
        begins = sock.recv(13) == b"HTTP/1.1 200 "
        while sock.recv(1 << 18):
            pass
    return begins
