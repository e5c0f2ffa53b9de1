"""Checks README's exercises: `python3 -m tests.exercises NAME ANSWER`.

A client is started with a URL, and this is the server that it talks to.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Connection, Pong, Role
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.hex_input import parse_hex
from wsproto_min.frames import encode_frame
from wsproto_min.handshake import accept
from wsproto_min.http import HeadReader, parse_request

KEY = bytes.fromhex("01 02 03 04")
# What is wrong with each, the verdict of `explain` knows.
TO_PREDICT = (
    "82 fe 00 05",
    "88 82 00 00 00 00 03 ee",
    "88 83 00 00 00 00 03 e8 ff",
    "81 81 00 00 00 00 e9",
    "82 ff 00 00 00 01 00 00 00 00 00 00 00 00",
)
ROOT = Path(__file__).parent.parent
PATIENCE = 10.0  # seconds
PING = b"are you there?"


class Complaint(Exception):
    """What the client does wrong, in a sentence."""


def check_mask(text: str) -> str | None:
    """Return what is wrong with the masked frame that is written in `text`, or None."""
    frames = _frames(text, Role.CLIENT)
    if [frame.event for frame in frames] != ["Hi"]:
        return "it must be one frame, from which the server gets the text Hi"
    key = frames[0].layout.mask or b""
    return None if key == KEY else f"the key is {key.hex(' ')}, not {KEY.hex(' ')}"


def check_cut(text: str) -> str | None:
    """Return what is wrong with the fragments that are written in `text`, or None."""
    frames = _frames(text, Role.SERVER)
    if "H\u00e9" not in [frame.event for frame in frames]:
        return "the client must get the text H\u00e9"
    opcodes = [frame.layout.opcode for frame in frames]
    if opcodes != [Opcode.TEXT, Opcode.PING, Opcode.CONTINUATION]:
        return "there must be two fragments, and a Ping between them"
    within = frames[0].layout.payload == "H\u00e9".encode()[:2]
    return None if within else "the first fragment must end within the \u00e9"


def check_predicted(codes: Sequence[str]) -> str | None:
    """Return which of these close codes are not due for `TO_PREDICT`, or None."""
    if len(codes) != len(TO_PREDICT):
        return f"there are {len(TO_PREDICT)} frames, so it takes as many codes"
    wrong = []
    for data, code in zip(TO_PREDICT, codes, strict=True):
        dissector = Dissector(Role.CLIENT)
        list(dissector.receive_data(bytes.fromhex(data)))
        if str(dissector.verdict.close_code) != code:
            wrong.append(f"{code} is not what is due for {data}")
    return "\n".join(wrong) or None


def _frames(text: str, sender: Role) -> list[FrameReport]:
    """Return the frames that are written in `text`. Raises `Complaint` if they are not valid."""
    try:
        data = parse_hex(text)
    except ValueError as error:
        raise Complaint(f"that is not hex: {error}") from None
    dissector = Dissector(sender)
    seen = [*dissector.receive_data(data), *dissector.receive_eof()]
    if dissector.verdict.result != "valid":
        raise Complaint(f"{dissector.verdict.result}: {dissector.verdict.reason}")
    return [each for each in seen if isinstance(each, FrameReport)]


def check_client(path: str, *, pings: bool) -> str | None:
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
    buffer = HeadReader()
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
            if isinstance(event, str | bytes) and event != "Hello":
                raise Complaint(f"the client must send the text Hello; it sent {event!r}")
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


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "mask": lambda words: check_mask(" ".join(words)),
    "cut": lambda words: check_cut(" ".join(words)),
    "predict": check_predicted,
    "client": lambda words: check_client(words[0], pings=False),
    "ping": lambda words: check_client(words[0], pings=True),
}


def main(arguments: list[str]) -> int:
    """Check one exercise; return 0 if it is solved, 1 if not, 2 if it is no exercise."""
    name, *words = arguments or [""]
    if name not in CHECKS or not words:
        print(f"usage: python3 -m tests.exercises {'|'.join(CHECKS)} ANSWER", file=sys.stderr)
        return 2
    try:
        complaint = CHECKS[name](words)
    except Complaint as error:
        complaint = str(error)
    print(complaint or "solved")
    return 0 if complaint is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
