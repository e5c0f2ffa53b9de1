"""Checks README's exercises: `python3 -m tests.exercises client|ping YOUR_CLIENT.py`.

It starts the program with a URL and is the server that it talks to.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from wsproto_min import (
    CloseCode,
    Connection,
    HandshakeError,
    HeadBuffer,
    Opcode,
    Pong,
    Role,
    accept,
    encode_frame,
    parse_request,
)

ROOT = Path(__file__).parent.parent
PATIENCE = 10.0  # seconds
PING = b"are you there?"


class Complaint(Exception):
    """What the client does wrong, in a sentence."""


def check(path: str, *, pings: bool) -> str | None:
    """Return what is wrong with the client in the file `path`, or None if nothing is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        with subprocess.Popen(
            [sys.executable, path, url],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as client:
            try:
                with _accept(listener, client) as sock:
                    sock.settimeout(PATIENCE)
                    _serve(sock, pings)
                output, _ = client.communicate(timeout=PATIENCE)
            except Complaint as complaint:
                return str(complaint)
            except TimeoutError:
                return f"the client said nothing for {PATIENCE:g} seconds"
            except subprocess.TimeoutExpired:
                return "the connection is closed, but the client does not end"
            finally:
                client.kill()
    if output != "Hello\n":
        return f"the client must print what comes back, Hello; it printed {output!r}"
    return f"the client ends with the status {client.returncode}" if client.returncode else None


def _accept(listener: socket.socket, client: subprocess.Popen[str]) -> socket.socket:
    """Return the client's connection."""
    listener.settimeout(0.1)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return listener.accept()[0]
        except TimeoutError:
            if client.poll() is not None:
                raise Complaint("the client ends without connecting to the URL") from None
    raise Complaint("the client does not connect to the URL that it is given")


def _serve(sock: socket.socket, pings: bool) -> None:
    """Be the server of one connection. Raises `Complaint`."""
    buffer = HeadBuffer()
    try:
        while (whole := buffer.receive_data(_receive(sock))) is None:
            pass
        sock.sendall(accept(parse_request(whole[0])).encode())
    except HandshakeError as error:
        raise Complaint(f"the handshake is refused: {error.reason}") from None
    connection = Connection(Role.SERVER)
    heard, ponged, data = False, not pings, whole[1]
    while connection.close_received is None:
        for event in connection.receive_data(data):
            if event == "Hello" and not heard:
                heard = True
                sock.sendall(_answer(pings))
            ponged = ponged or event == Pong(PING)
        sock.sendall(connection.data_to_send())
        if connection.error is not None:
            raise Complaint(f"the client breaks a rule: {connection.error.reason}")
        if connection.close_received is None:
            data = _receive(sock)
    if not heard:
        raise Complaint("the client must send the text Hello")
    if connection.close_received.code != CloseCode.NORMAL_CLOSURE:
        raise Complaint("the client must close with 1000")
    if not ponged:
        raise Complaint("the client closes without a Pong to the Ping within its message")


def _receive(sock: socket.socket) -> bytes:
    """Return what comes next. Raises `Complaint` if nothing can."""
    try:
        data = sock.recv(1 << 16)
    except ConnectionError:
        data = b""
    if not data:
        raise Complaint("the client is gone without a Close frame")
    return data


def _answer(pings: bool) -> bytes:
    """Return Hello, whole, or in two fragments with a Ping between them."""
    if not pings:
        return encode_frame(Opcode.TEXT, b"Hello")
    return (
        encode_frame(Opcode.TEXT, b"Hel", fin=False)
        + encode_frame(Opcode.PING, PING)
        + encode_frame(Opcode.CONTINUATION, b"lo")
    )


def main(arguments: list[str]) -> int:
    """Check one exercise; return 0 if it is solved, 1 if not, 2 if it is no exercise."""
    if len(arguments) != 2 or arguments[0] not in ("client", "ping"):
        print("usage: python3 -m tests.exercises client|ping YOUR_CLIENT.py", file=sys.stderr)
        return 2
    complaint = check(arguments[1], pings=arguments[0] == "ping")
    print(complaint or "solved")
    return 0 if complaint is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
