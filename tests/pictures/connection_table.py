"""Transitions of a connection, found by driving a real `Connection` through every input.

The table has no knowledge of its own: it tries every sequence of inputs on both roles, and
records the state before and after each input. An input must have the same effect in a state
however the connection came there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Connection, Role, State
from wsproto_min.errors import ConnectionClosed
from wsproto_min.frames import FrameDecoder, encode_close, encode_frame
from wsproto_min.testing.raw_frame import KEY

_SEQUENCE = 3  # inputs; one more than the longest way to a state
_NORMAL = CloseCode.NORMAL_CLOSURE
_RESERVED_OPCODE = bytes([0x83])

MakeConnection = Callable[[Role], Connection]


class Effect(NamedTuple):
    """The effect of an input in a state.

    Attributes:
        state: The state after the input.
        sends_close: True if a Close frame is queued.
        accepted: True if `send` or a received message is accepted; False for other inputs.

    """

    state: State
    sends_close: bool
    accepted: bool


Table = dict[tuple[State, str], Effect]
"""Effects by state and input."""


def _receive(connection: Connection, opcode: Opcode, payload: bytes) -> None:
    mask = KEY if connection.role is Role.SERVER else None
    connection.receive_data(encode_frame(opcode, payload, mask=mask))


def _is_sent(connection: Connection) -> bool:
    try:
        connection.send("Hello")
    except ConnectionClosed:
        return False
    return True


SEND, MESSAGE = "send()", "message received"

INPUTS: Mapping[str, Callable[[Connection], object]] = {
    SEND: _is_sent,
    MESSAGE: lambda connection: _receive(connection, Opcode.TEXT, b"Hello"),
    "close()": lambda connection: connection.close(_NORMAL),
    "Close received": lambda connection: _receive(connection, Opcode.CLOSE, encode_close(_NORMAL)),
    "violation": lambda connection: connection.receive_data(_RESERVED_OPCODE),
    "fail()": lambda connection: connection.fail(CloseCode.GOING_AWAY),
    "receive_eof()": Connection.receive_eof,
}
"""All inputs that may change the state, and sending and receiving messages."""


def connection_table(make: MakeConnection = Connection) -> Table:
    """Return the effects of all inputs in all states.

    Args:
        make: Makes a connection for a role.

    Raises:
        ValueError: An input in a state has different effects for different roles or pasts.

    """
    table: Table = {}
    for role in Role:
        for sequence in product(INPUTS, repeat=_SEQUENCE):
            connection = make(role)
            for name in sequence:
                before = connection.state
                effect = _apply(connection, name)
                known = table.setdefault((before, name), effect)
                if known != effect:
                    raise ValueError(f"{name} in {before.name}: {known} and {effect}")
    return table


def _apply(connection: Connection, name: str) -> Effect:
    """Apply an input, with all its events and bytes, and return its effect."""
    returned = INPUTS[name](connection)
    events = list(iter(connection.next_event, None))
    decoder = FrameDecoder()
    decoder.receive_data(connection.data_to_send())
    sent = [frame.opcode for frame in iter(decoder.next_frame, None)]
    return Effect(connection.state, Opcode.CLOSE in sent, returned is True or "Hello" in events)
