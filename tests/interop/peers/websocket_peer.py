"""A peer with `websocket-client`."""

from __future__ import annotations

import struct

import websocket
from websocket import ABNF

from tests.interop import peer_program as program


def answer(client: websocket.WebSocket, opcode: int, payload: bytes) -> None:
    if opcode == ABNF.OPCODE_BINARY:
        client.send(payload, opcode)
        return
    text = payload.decode()
    match program.command(text):
        case "", _:
            client.send(text)
        case "protocol", _:
            client.send(client.subprotocol or "")
        case "fragments", argument:
            first, second, third = program.thirds(argument)
            client.send_frame(ABNF.create_frame(first, ABNF.OPCODE_TEXT, 0))
            client.send_frame(ABNF.create_frame(second.encode(), ABNF.OPCODE_CONT, 0))
            client.send_frame(ABNF.create_frame(third.encode(), ABNF.OPCODE_CONT, 1))
        case "ping", argument:
            client.ping(argument)
        case "close", argument:
            code, reason = program.close_arguments(argument)
            client.send_close(code, reason.encode())
        case name, _:
            program.unknown(name)


def main() -> None:
    role, rest = program.arguments("websocket-client")
    assert role == "client", "websocket-client has no server"
    client = websocket.create_connection(
        rest[0],
        subprotocols=["tea", "coffee"],
        sslopt={"ca_certs": rest[1]} if rest[1:] else None,
        timeout=60,
    )
    while True:
        # Answers Pings and Close frames itself.
        opcode, payload = client.recv_data(control_frame=True)
        if opcode == ABNF.OPCODE_CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if payload else 1005
            program.say_closed(code, payload[2:].decode())
            client.shutdown()
            return
        if opcode == ABNF.OPCODE_PONG:
            client.send(f"pong {payload.decode()}")
        elif opcode in (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY):
            answer(client, opcode, payload)


main()
