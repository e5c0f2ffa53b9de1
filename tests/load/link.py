"""`python -m tests.load.link` takes the network away from under a chat, and gives it back.

In a network namespace of its own the loopback interface goes down: no packet passes
any more, no FIN and no RST. It prints the seconds until all peers were gone; its
status is 77 where no namespace may be made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from tests.load.support import Ear, chatd, sockets
from tests.support import exchange, poll

PEERS = 20
NOT_PERMITTED = 77
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def set_loopback(up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", IFF_UP if up else 0)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def main() -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        print(os.strerror(ctypes.get_errno()))
        return NOT_PERMITTED
    set_loopback(True)
    with (
        tempfile.TemporaryDirectory() as directory,
        chatd(Path(directory), "tests.load.impatient") as running,
    ):
        process = running.process.pid
        before = sockets(process)
        ears = [Ear(running.address, f"peer {number}") for number in range(PEERS)]
        set_loopback(False)
        begin = time.perf_counter()
        poll(lambda: sockets(process) == before, "every peer is gone")
        print(time.perf_counter() - begin)
        set_loopback(True)
        page = exchange(running.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert page.startswith(b"HTTP/1.1 200 "), "nobody is served afterwards"
        for ear in ears:
            ear.sock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
