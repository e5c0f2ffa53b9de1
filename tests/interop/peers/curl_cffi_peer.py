"""A peer with `curl_cffi`, a binding of libcurl; it has a client only."""

from __future__ import annotations

from curl_cffi import CurlWsFlag, Session
from curl_cffi.requests.websockets import WebSocket, WebSocketClosed

from tests.interop import peer_program as program


def answer(client: WebSocket, payload: bytes, flags: int) -> None:
    if flags & CurlWsFlag.BINARY:
        client.send(payload, CurlWsFlag.BINARY)
        return
    text = payload.decode()
    match program.command(text):
        case "", _:
            client.send_str(text)
        case "fragments", argument:
            first, second, third = program.thirds(argument)
            client.send(first, CurlWsFlag.TEXT | CurlWsFlag.CONT)
            client.send(second, CurlWsFlag.TEXT | CurlWsFlag.CONT)
            client.send(third, CurlWsFlag.TEXT)
        case "close", argument:
            client.close(*program.close_arguments(argument))
        case name, _:
            program.unknown(name)


def main() -> None:
    role, rest = program.arguments("curl_cffi")
    assert role == "client", "curl_cffi has no server"
    with Session() as session:
        client = session.ws_connect(
            rest[0],
            headers={"Sec-WebSocket-Protocol": "tea, coffee"},
            verify=rest[1] if rest[1:] else None,
            max_message_size=8 << 20,
        )
        try:
            while not client.closed:
                payload, flags = client.recv()
                if not flags & CurlWsFlag.CLOSE:
                    answer(client, payload, flags)
        except WebSocketClosed:
            pass
        program.say_closed(client.close_code, client.close_reason)


main()
