"""Client on a simulated Windows: `python -m tests.without_unix URL`.

Removes AF_UNIX, poll() and epoll(), and lets select() accept sockets only. Then imports every
module of `wsproto_min`, exchanges messages with the echo server at URL, and sends the lines of
standard input to it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import select
import selectors
import socket
import stat
import sys
from collections.abc import Iterable
from typing import Any

_select = select.select


def select_sockets(
    readers: Iterable[Any], writers: Iterable[Any], _: Iterable[Any], timeout: float | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    """Do as select() of Windows."""
    files = [*readers, *writers]
    if not files:
        raise OSError(10022, "an invalid argument was supplied")
    for file in files:
        descriptor = file if isinstance(file, int) else file.fileno()
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(10038, "an operation was attempted on something that is not a socket")
    return _select(readers, writers, (), timeout)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Do as socketpair() of Windows, which uses TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def remove_unix() -> None:
    for module, names in (
        (select, ("poll", "epoll", "kqueue", "devpoll")),
        (selectors, ("PollSelector", "EpollSelector", "KqueueSelector", "DevpollSelector")),
        (socket, ("AF_UNIX",)),
    ):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    windows: dict[Any, dict[str, Any]] = {
        select: {"select": select_sockets},
        selectors: {"DefaultSelector": selectors.SelectSelector},
        selectors.SelectSelector: {"_select": staticmethod(select_sockets)},
        socket: {"socketpair": tcp_pair},
    }
    for owner, replacements in windows.items():
        for name, value in replacements.items():
            setattr(owner, name, value)


def main(url: str) -> int:
    remove_unix()
    wsproto_min = importlib.import_module("wsproto_min")
    for info in pkgutil.walk_packages(wsproto_min.__path__, "wsproto_min."):
        if not info.name.endswith((".__main__", ".strategies")):  # the latter needs hypothesis
            importlib.import_module(info.name)
    with wsproto_min.connect(url, background_reads=True) as client:
        client.send("x" * 1000)
        assert client.recv(10) == "x" * 1000
        assert client.ping() > 0
    server = wsproto_min.Server(on_message=wsproto_min.Peer.send)
    for call, argument in ((wsproto_min.connect, "ws+unix:s"), (server.listen_unix, "s")):
        try:
            call(argument)
        except OSError as error:
            print(error, flush=True)
    status: int = importlib.import_module("wsproto_min.__main__").main(["connect", url])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
