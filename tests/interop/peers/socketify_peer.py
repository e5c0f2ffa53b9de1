"""A peer with `socketify`, a binding of uWebSockets; it has a server only."""

from __future__ import annotations

from socketify import App, AppListenOptions, AppOptions, CompressOptions, OpCode

from tests.interop import peer_program as program


def answer(peer: object, message: str | bytes, opcode: OpCode) -> None:
    match program.command(message):
        case "", _:
            peer.send(message, opcode, compress=True)
        case "protocol", _:
            peer.send(peer.get_user_data()["protocol"], OpCode.TEXT)
        case "fragments", argument:
            first, second, third = program.thirds(argument)
            peer.send_first_fragment(first, OpCode.TEXT)
            peer.send_fragment(second)
            peer.send_last_fragment(third)
        case "ping", payload:
            peer.send(payload, OpCode.PING)
        case "close", argument:
            peer.end(*program.close_arguments(argument))
        case name, _:
            program.unknown(name)


def on_upgrade(response: object, request: object, context: object) -> None:
    header = request.get_header
    offered = header("sec-websocket-protocol") or ""
    protocol = "coffee" if "coffee" in offered else ""
    response.upgrade(
        header("sec-websocket-key"),
        protocol,
        header("sec-websocket-extensions") or "",
        context,
        {"protocol": protocol},
    )


def on_close(peer: object, code: int, message: str | bytes | None) -> None:
    reason = message.decode() if isinstance(message, bytes) else message
    program.say_closed(code, reason)


def on_pong(peer: object, payload: str | bytes | None) -> None:
    text = payload.decode() if isinstance(payload, bytes) else payload
    peer.send(f"pong {text}", OpCode.TEXT)


def behavior(compression: CompressOptions) -> dict[str, object]:
    return {
        "upgrade": on_upgrade,
        "message": answer,
        "pong": on_pong,
        "close": on_close,
        "compression": compression,
        "max_payload_length": 8 << 20,
        "max_backpressure": 64 << 20,
        "idle_timeout": 0,
    }


def main() -> None:
    role, rest = program.arguments("socketify")
    assert role == "server", "socketify has no client"
    options = AppOptions(cert_file_name=rest[1], key_file_name=rest[2]) if rest[1:] else None
    app = App(options)
    # Only its shared compressor works without context takeover.
    app.ws("/no-context-takeover", behavior(CompressOptions.SHARED_COMPRESSOR))
    app.ws("/*", behavior(CompressOptions.DEDICATED_COMPRESSOR))
    app.listen(AppListenOptions(port=int(rest[0]), host="127.0.0.1"), lambda _: program.say_ready())
    app.run()


main()
