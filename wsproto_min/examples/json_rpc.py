"""JSON-RPC 2.0 server that authenticates clients by a bearer token.

    RPC_TOKEN=secret python -m wsproto_min.examples.json_rpc 9001

    from wsproto_min import connect
    with connect("ws://127.0.0.1:9001/", headers=[("Authorization", "Bearer secret")]) as client:
        client.send('{"jsonrpc": "2.0", "id": 1, "method": "divide", "params": [6, 2]}')
        print(client.recv())  # {"jsonrpc": "2.0", "id": 1, "result": 3.0}

Checks the token before the connection opens. Supports neither batches nor named parameters.
"""

import hmac
import json
import operator
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from wsproto_min import Acceptance, HandshakeError, Peer, Request, Server, accept

METHODS: dict[str, Callable[..., float]] = {"add": operator.add, "divide": operator.truediv}


def authenticate(peer: Peer, request: Request) -> Acceptance:
    """Accept a handshake with the token RPC_TOKEN; refuse others with 401."""
    given = request.headers.get("Authorization") or ""
    if not hmac.compare_digest(given.encode(), f"Bearer {os.environ['RPC_TOKEN']}".encode()):
        challenge = [("WWW-Authenticate", "Bearer")]
        raise HandshakeError(401, "Authorization: the bearer token is missing or wrong", challenge)
    return accept(request)


def call(method: str, params: list[float]) -> dict[str, object]:
    """Call a method; return the `result` or `error` member of the response."""
    if method not in METHODS:
        return {"error": {"code": -32601, "message": "Method not found"}}
    try:
        return {"result": METHODS[method](*params)}
    except Exception as error:
        code = -32602 if isinstance(error, TypeError) else -32603
        return {"error": {"code": code, "message": str(error)}}


def respond(peer: Peer, message: str | bytes) -> None:
    """Answer a request; a notification, which has no `id`, gets no response."""
    response: dict[str, object] = {"jsonrpc": "2.0", "id": None}
    try:
        match json.loads(message):
            case {"jsonrpc": "2.0", "method": str(method), "params": list(params), **rest}:
                response |= {"id": rest.get("id")} | call(method, params)
                if "id" not in rest:
                    return
            case _:
                response["error"] = {"code": -32600, "message": "Invalid Request"}
    except (ValueError, RecursionError):
        response["error"] = {"code": -32700, "message": "Parse error"}
    peer.send(json.dumps(response))


def main() -> None:
    """Serve on the port of the first argument (default: 9001) until Ctrl-C."""
    server = Server(on_message=respond, on_request=authenticate)
    host, port = server.listen("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9001)
    print(f"JSON-RPC server at ws://{host}:{port}/", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()


if __name__ == "__main__":
    main()
