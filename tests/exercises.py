"""Checker of the exercises in wsproto_min/README.md.

Usage: `python3 -m tests.exercises NAME ANSWER`. For the exercises with a client, the answer is a
Python file. The checker runs it and is the server that the client talks to.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Pong, Role
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.hex_input import parse_hex
from wsproto_min.frames import encode_frame
from wsproto_min.server_handshake import ServerHandshake

KEY = bytes.fromhex("01 02 03 04")
# Frames for the exercise "predict". The dissector knows the close codes.
TO_PREDICT = (
    "82 fe 00 05",
    "88 82 00 00 00 00 03 ee",
    "88 83 00 00 00 00 03 e8 ff",
    "81 81 00 00 00 00 e9",
    "82 ff 00 00 00 01 00 00 00 00 00 00 00 00",
)
ROOT = Path(__file__).parent.parent
PATIENCE = 10.0  # seconds
PAUSE = 0.1  # seconds after each part of the server's answer
PING = b"are you there?"


class Complaint(Exception):
    """A problem with an answer, in one sentence."""


def check_mask(text: str) -> str | None:
    """Return the problem with a masked frame in hex, or None."""
    frames = _frames(text, Role.CLIENT)
    if [frame.event for frame in frames] != ["Hi"]:
        return "it must be one frame, from which the server gets the text Hi"
    key = frames[0].fields.mask or b""
    return None if key == KEY else f"the key is {key.hex(' ')}, not {KEY.hex(' ')}"


def check_split(text: str) -> str | None:
    """Return the problem with two fragments in hex and a Ping between them, or None."""
    frames = _frames(text, Role.SERVER)
    if "H\u00e9" not in [frame.event for frame in frames]:
        return "the client must get the text H\u00e9"
    opcodes = [frame.fields.opcode for frame in frames]
    if opcodes != [Opcode.TEXT, Opcode.PING, Opcode.CONTINUATION]:
        return "there must be two fragments, and a Ping between them"
    within = frames[0].fields.payload == "H\u00e9".encode()[:2]
    return None if within else "the first fragment must end within the \u00e9"


def check_predicted(codes: Sequence[str]) -> str | None:
    """Return the wrong ones of the close codes for `TO_PREDICT`, or None."""
    if len(codes) != len(TO_PREDICT):
        return f"there are {len(TO_PREDICT)} frames; give one close code for each"
    wrong = []
    for data, code in zip(TO_PREDICT, codes, strict=True):
        dissector = Dissector(Role.CLIENT)
        dissector.receive_data(bytes.fromhex(data))
        dissector.next_event()
        if str(dissector.verdict.close_code) != code:
            wrong.append(f"{code} is not the close code for {data}")
    return "\n".join(wrong) or None


def _frames(text: str, sender: Role) -> list[FrameReport]:
    """Return the frames that `text` has in hex. Raise `Complaint` if they are not valid."""
    try:
        data = parse_hex(text)
    except ValueError as error:
        raise Complaint(f"the answer is not hex: {error}") from None
    dissector = Dissector(sender)
    dissector.receive_data(data)
    dissector.receive_eof()
    events = list(iter(dissector.next_event, None))
    if dissector.verdict.result != "valid":
        raise Complaint(f"{dissector.verdict.result}: {dissector.verdict.reason}")
    return [event for event in events if isinstance(event, FrameReport)]


def check_client(path: str, *, pings: bool) -> str | None:
    """Return the problem with the client in the file `path`, or None.

    The server's message arrives in parts. With `pings` it has fragments, and a Ping between them.
    """
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
                return (
                    f"the client sent nothing for {PATIENCE:g} seconds; the server's frames arrive "
                    "in parts, so receive until each frame is complete"
                )
            except subprocess.TimeoutExpired:
                return "the connection is closed, but the client does not exit"
            finally:
                client.kill()
    if output != "Hello\n":
        return f"the client must print the answer, Hello; it printed {output!r}"
    return f"the client exits with status {client.returncode}" if client.returncode else None


def _accept(listener: socket.socket, client: subprocess.Popen[str]) -> socket.socket:
    """Return the client's connection. Raise `Complaint` if it does not connect."""
    listener.settimeout(0.1)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return listener.accept()[0]
        except TimeoutError:
            if client.poll() is not None:
                raise Complaint("the client exits without connecting to the URL") from None
    raise Complaint("the client does not connect to the URL")


def _serve(sock: socket.socket, pings: bool) -> None:
    """Serve one connection. Raise `Complaint` if the client does not solve the exercise."""
    handshake = ServerHandshake()
    while (result := handshake.next_result()) is None:
        handshake.receive_data(_receive(sock))
    if result.connection is None:
        raise Complaint(f"the handshake is refused: {result.error}")
    sock.sendall(handshake.data_to_send())
    connection = result.connection
    connection.receive_data(result.trailing_data)
    dissector = Dissector(Role.CLIENT)  # for the masking keys
    dissector.receive_data(result.trailing_data)
    parts = deque(_answer(pings))
    received, pong_received, state = False, not pings, ""
    while connection.close_received is None:
        event = connection.next_event()
        if connection.error is not None:
            raise Complaint(f"the client breaks a rule: {connection.error.reason}")
        if isinstance(event, str | bytes) and event != "Hello":
            raise Complaint(f"the client must send the text Hello; it sent {event!r}")
        received = received or event == "Hello"
        pong_received = pong_received or event == Pong(PING)
        sock.sendall(connection.data_to_send())
        if event is not None:
            continue
        sock.settimeout(PAUSE if received and parts else PATIENCE)
        try:
            data = _receive(sock, state)
        except TimeoutError:
            if not parts:
                raise
            part, state = parts.popleft()
            sock.sendall(part)
        else:
            connection.receive_data(data)
            dissector.receive_data(data)
    if not received:
        raise Complaint("the client must send the text Hello")
    if parts:
        raise Complaint(f"the client closes {state}")
    if connection.close_received.code != CloseCode.NORMAL_CLOSURE:
        raise Complaint("the client must close with 1000")
    if not pong_received:
        raise Complaint("the client closes without a Pong to the Ping within its message")
    _check_masks(dissector)


def _check_masks(dissector: Dissector) -> None:
    """Raise `Complaint` if the masking keys of a client's frames are not random."""
    events = iter(dissector.next_event, None)
    masks = [event.fields.mask for event in events if isinstance(event, FrameReport)]
    if bytes(4) in masks:
        raise Complaint("the client masks with 00 00 00 00; choose a random key (5.3)")
    if len(set(masks)) < len(masks):
        raise Complaint("the client masks two frames with one key; choose a random key each (5.3)")


def _receive(sock: socket.socket, state: str = "") -> bytes:
    """Return the next bytes. Raise `Complaint` at the end of the stream."""
    try:
        data = sock.recv(1 << 16)
    except ConnectionError:
        data = b""
    if not data:
        raise Complaint(f"the client ends the connection without a Close frame {state}".strip())
    return data


def _answer(pings: bool) -> list[tuple[bytes, str]]:
    """Return the parts of the message Hello, each with the state that it leaves the client in.

    The message is one frame, or three fragments with a Ping after the first. The server pauses
    after each part, so a client that takes a part for the message acts too early.
    """
    begun = "after a part of a frame; receive until the frame is complete"
    if not pings:
        frame = encode_frame(Opcode.TEXT, b"Hello")
        return [(frame[:1], begun), (frame[1:4], begun), (frame[4:], "")]
    first = encode_frame(Opcode.TEXT, b"Hel", fin=False)
    rest = encode_frame(Opcode.PING, PING)
    second = encode_frame(Opcode.CONTINUATION, b"lo", fin=False)
    fragment = "after a fragment with FIN 0; the message ends with FIN 1"
    return [
        (first[:4], begun),
        (first[4:], fragment),
        (rest[:5], begun),
        (rest[5:], fragment),
        (second, fragment),
        (encode_frame(Opcode.CONTINUATION, b""), ""),
    ]


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "mask": lambda words: check_mask(" ".join(words)),
    "split": lambda words: check_split(" ".join(words)),
    "predict": check_predicted,
    "client": lambda words: check_client(words[0], pings=False),
    "ping": lambda words: check_client(words[0], pings=True),
}


def main(arguments: list[str]) -> int:
    """Check one exercise. Return 0 if it is solved, 1 if not, 2 for wrong arguments."""
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
