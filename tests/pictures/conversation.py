"""A whole connection between a real client and a real server, step by step.

`ClientHandshake`, `ServerHandshake` and `Connection` exchange the bytes. Random bytes are
replaced by the nonce and the masking key of the RFC's own examples, so the bytes are always the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

from wsproto_min.client_handshake import ClientHandshake
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Connection, Role, State
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.frames import parse_close
from wsproto_min.server_handshake import ServerHandshake
from wsproto_min.testing.raw_frame import KEY

_NONCE = b"the sample nonce"  # section 1.3


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes from one end to the other, or the end of a stream.

    Attributes:
        sender: The end that sends.
        title: The content in a few words.
        lines: The bytes: lines of a head, or one line of hex.
        is_head: True for the head of a request or a response.
        states: The states of client and server afterwards.

    """

    sender: Role
    title: str
    lines: tuple[str, ...]
    is_head: bool
    states: tuple[State, State]


def _fixed_random(size: int) -> bytes:
    return _NONCE if size == len(_NONCE) else KEY


def conversation() -> list[Step]:
    """Return the steps from the opening handshake to the end of both streams."""
    with patch("os.urandom", _fixed_random):
        return list(_steps())


def _steps() -> Iterator[Step]:
    connecting = State.CONNECTING, State.CONNECTING
    client_handshake = ClientHandshake("example.com", "/chat", compression=None)
    server_handshake = ServerHandshake()
    request = client_handshake.data_to_send()
    yield Step(Role.CLIENT, "request", _lines(request), True, connecting)
    server_handshake.receive_data(request)
    accepted = server_handshake.next_result()
    response = server_handshake.data_to_send()
    client_handshake.receive_data(response)
    result = client_handshake.next_result()
    assert accepted is not None
    assert result is not None
    server, client = accepted.connection, result.connection
    assert server is not None
    assert client is not None
    states = client.state, server.state
    yield Step(Role.SERVER, "response", _lines(response), True, states)
    ends = {Role.CLIENT: client, Role.SERVER: server}
    actions: list[tuple[Role, Callable[[Connection], None]]] = [
        (Role.CLIENT, lambda connection: connection.send("Hello")),
        (Role.SERVER, lambda connection: connection.send("Hi")),
        (Role.SERVER, lambda connection: connection.ping(b"42")),
        (Role.CLIENT, lambda connection: connection.close(CloseCode.NORMAL_CLOSURE)),
    ]
    for role, action in actions:
        action(ends[role])
        yield from _deliver(ends)
    for role in (Role.SERVER, Role.CLIENT):  # section 7.1.1: the server closes TCP first
        assert ends[role].eof_to_send, f"the {role.value} does not end its stream"
        _other(ends, role).receive_eof()
        yield Step(role, "end of the stream", (), False, (client.state, server.state))


def _other(ends: dict[Role, Connection], role: Role) -> Connection:
    return ends[Role.SERVER if role is Role.CLIENT else Role.CLIENT]


def _deliver(ends: dict[Role, Connection]) -> Iterator[Step]:
    """Deliver bytes to the other end, until neither end has any."""
    sending = True
    while sending:
        sending = False
        for role in Role:
            data = ends[role].data_to_send()
            if not data:
                continue
            sending = True
            receiver = _other(ends, role)
            receiver.receive_data(data)
            while receiver.next_event() is not None:
                pass
            states = ends[Role.CLIENT].state, ends[Role.SERVER].state
            yield Step(role, _title(data), (data.hex(" "),), False, states)


def _lines(head: bytes) -> tuple[str, ...]:
    return tuple(head.decode().split("\r\n")[:-2])


def _title(data: bytes) -> str:
    """Return the frame's type and its payload as text."""
    frame = FrameFields(data)
    assert frame.size == len(data), "one frame at a time"
    name = Opcode(frame.opcode).name
    if frame.opcode == Opcode.CLOSE:
        code, _ = parse_close(frame.payload)
        return f"Close {code}"
    title = name.lower() if frame.opcode in (Opcode.TEXT, Opcode.BINARY) else name.capitalize()
    return f'{title} "{frame.payload.decode()}"'
