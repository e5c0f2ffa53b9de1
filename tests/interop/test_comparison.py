"""The rows on refused input in the comparison table, with raw bytes on a socket."""

from __future__ import annotations

import inspect
import re
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from tests.documents import DOCUMENTS, LEARN, table
from tests.interop.rivals import MAX_SIZE, RIVALS, their_server
from tests.needs import need
from tests.support import PATIENCE, handshake, serving
from tests.support import connect as connect_socket
from wsproto_min import Peer

OURS = "wsproto_min"
KEY = "00000000"  # masks nothing
CLOSE, TEXT = 0x88, 0x81  # first bytes of unmasked frames
SILENCE = 0.5  # seconds without a Close after which a server waits for more bytes

INPUTS = {
    "long form of a short length refused": f"81 fe 0005 {KEY} 48656c6c6f",
    "invalid text refused within a frame": f"81 8a {KEY} 61ff",
    "reserved opcode refused at its first byte": "83",
    "too big message refused at its header": f"81 ff {MAX_SIZE + 1:016x} {KEY}",
}


def shown(row: str, library: str) -> str:
    """Return the cell of a library in a row of the table."""
    head = DOCUMENTS[LEARN].partition("<!-- comparison -->\n")[2].partition("\n")[0]
    names = [re.sub(r"\[(.*)\]\(.*\)", r"\1", cell.strip()) for cell in head[1:-1].split("|")]
    (cells,) = (cells for cells in table(LEARN, "comparison") if cells[0] == row)
    return cells[names.index(library)]


@contextmanager
def echo_server(library: str) -> Iterator[tuple[str, int]]:
    if library == OURS:
        with serving(on_message=Peer.send, max_message_size=MAX_SIZE) as running:
            yield running.address
        return
    (rival,) = (rival for rival in RIVALS if rival.name == library)
    rival.need()
    with their_server(rival, "no compression", None) as server:
        yield "127.0.0.1", server.port


def first_byte_after(sock: socket.socket, data: bytes, seconds: float) -> int | None:
    """Send bytes; return the first byte of the server's frame, None for silence."""
    sock.sendall(data)
    ready, _, _ = select.select([sock], [], [], seconds)
    return sock.recv(1)[0] if ready else None


@pytest.mark.parametrize("library", [OURS, "websockets", "aiohttp"])
@pytest.mark.parametrize("row", INPUTS)
def test_comparison_row_on_refused_input_is_true(row: str, library: str) -> None:
    refused = shown(row, library) == "yes"
    with echo_server(library) as address, connect_socket(address) as sock:
        sock.sendall(handshake("/echo"))
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(1)
        if library != OURS:  # the first message of each rival's server
            size = sock.recv(2)[1]
            assert len(sock.recv(size, socket.MSG_WAITALL)) == size
        data = bytes.fromhex(INPUTS[row])
        is_whole = row.startswith("long form")
        wait = PATIENCE if refused or is_whole else SILENCE
        expected = CLOSE if refused else TEXT if is_whole else None
        assert first_byte_after(sock, data, wait) == expected


def test_comparison_row_on_default_limits_is_true() -> None:
    row = "default limit of a message"
    need(find_spec("websockets"), "websockets", "pip install '.[interop]'")
    need(find_spec("aiohttp"), "aiohttp", "pip install '.[interop]'")
    from aiohttp.web import WebSocketResponse
    from websockets.asyncio.server import serve

    for library, function, name in (
        ("websockets", serve, "max_size"),
        ("aiohttp", WebSocketResponse, "max_msg_size"),
    ):
        default = inspect.signature(function).parameters[name].default
        assert shown(row, library) == f"{default >> 20} MiB", library


def test_websockets_has_the_parts_that_the_front_page_names() -> None:
    need(find_spec("websockets"), "websockets", "pip install '.[interop]'")
    parts = ("websockets.asyncio.server", "websockets.sync.server", "websockets.speedups")
    assert [part for part in parts if find_spec(part) is None] == []
