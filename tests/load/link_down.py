"""Takes the network interface down under a chat: `python -m tests.load.link_down`.

The loopback interface of a separate network namespace goes down, so no packet passes,
neither FIN nor RST. The program prints the seconds until the server has closed all
peers. Its exit status is 77 if the system does not permit a network namespace.
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

from tests.load.support import ChatReceiver, chatd, count_sockets
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
        chatd(Path(directory), "tests.load.short_ping") as running,
    ):
        process = running.process.pid
        before = count_sockets(process)
        receivers = [ChatReceiver(running.address, f"peer {number}") for number in range(PEERS)]
        set_loopback(False)
        start = time.perf_counter()
        poll(lambda: count_sockets(process) == before, "the server has closed every peer")
        print(time.perf_counter() - start)
        set_loopback(True)
        page = exchange(running.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert page.startswith(b"HTTP/1.1 200 "), "the server does not answer any more"
        for receiver in receivers:
            receiver.sock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
