"""A peer with `picows`, which gives frames; this program joins them to messages."""

from __future__ import annotations

import asyncio
import ssl

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)

from tests.interop import peer_program as program


class Echo(WSListener):
    def __init__(self) -> None:
        self.kind = WSMsgType.TEXT
        self.message = bytearray()
        self.ping = b""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                code = frame.get_close_code()
                transport.send_close(WSCloseCode.OK if code is WSCloseCode.NO_INFO else code)
            transport.disconnect()
        elif kind is WSMsgType.PONG:
            transport.send(WSMsgType.TEXT, b"pong " + frame.get_payload_as_bytes())
        else:
            if kind is not WSMsgType.CONTINUATION:
                self.kind = kind
            self.message += frame.get_payload_as_memoryview()
            if frame.fin:
                message, self.message = bytes(self.message), bytearray()
                self.answer(transport, message)

    def answer(self, transport: WSTransport, message: bytes) -> None:
        text = self.kind is WSMsgType.TEXT
        match program.command(message.decode() if text else message):
            case "", _:
                transport.send(self.kind, message)
            case "protocol", _:
                chosen = transport.response.headers.get("Sec-WebSocket-Protocol", "")
                transport.send(WSMsgType.TEXT, chosen.encode())
            case "fragments", argument:
                first, second, third = program.thirds(argument)
                transport.send(WSMsgType.TEXT, first.encode(), fin=False)
                transport.send(WSMsgType.CONTINUATION, second.encode(), fin=False)
                transport.send(WSMsgType.CONTINUATION, third.encode())
            case "ping", payload:
                transport.send_ping(payload.encode())
            case "close", argument:
                code, reason = program.close_arguments(argument)
                transport.send_close(WSCloseCode(code), reason.encode())
            case name, _:
                program.unknown(name)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        received = transport.close_handshake and transport.close_handshake.recv
        if not received:
            program.say_closed(1006, "")
        else:  # an empty Close frame has the code 0 here
            program.say_closed(int(received.code) or 1005, received.reason)


def accept(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    chosen = {"Sec-WebSocket-Protocol": "coffee"} if "coffee" in offered else None
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(chosen), Echo())


async def main() -> None:
    role, rest = program.arguments("picows")
    if role == "client":
        context = ssl.create_default_context(cafile=rest[1]) if rest[1:] else None
        transport, _ = await ws_connect(
            Echo,
            rest[0],
            ssl_context=context,
            extra_headers={"Sec-WebSocket-Protocol": "tea, coffee"},
        )
        await transport.wait_disconnected()
        return
    context = None
    if rest[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*rest[1:])
    server = await ws_create_server(accept, "127.0.0.1", int(rest[0]), ssl=context)
    program.say_ready()
    await server.serve_forever()


asyncio.run(main())
