"""RFC 6455 by hand: a WebSocket codec, connection and selectors server to learn from.

The protocol without I/O lies in the modules of this package, sockets in `wsproto_min.net`,
the dissector in `wsproto_min.explain`, strategies for property tests in `wsproto_min.testing`.
The README beside this file says which module to read first.

This is a connection from its first byte to its last, with the states of both ends and
with the random bytes of the RFC's own examples::

    +-----------+                                                  +-----------+
    |  client   |                                                  |  server   |
    +-----------+                                                  +-----------+
          |  GET /chat HTTP/1.1                                          |
          |  Host: example.com                                           |
          |  Upgrade: websocket                                          |
          |  Connection: Upgrade                                         |
          |  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==                 |
          |  Sec-WebSocket-Version: 13                                   |
          | -----------------------------------------------------------> |
          |          HTTP/1.1 101 Switching Protocols                    |
          |          Upgrade: websocket                                  |
          |          Connection: Upgrade                                 |
          |          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=  |
          | <----------------------------------------------------------- |
    +-----------+                                                  +-----------+
    |   OPEN    |                                                  |   OPEN    |
    +-----------+                                                  +-----------+
          |  text "Hello"   81 85 37 fa 21 3d 7f 9f 4d 51 58             |
          | -----------------------------------------------------------> |
          |                                     text "Hi"   81 02 48 69  |
          | <----------------------------------------------------------- |
          |                                     Ping "42"   89 02 34 32  |
          | <----------------------------------------------------------- |
          |  Pong "42"   8a 82 37 fa 21 3d 03 c8                         |
          | -----------------------------------------------------------> |
          |  Close 1000   88 82 37 fa 21 3d 34 12                        |
          | -----------------------------------------------------------> |
    +-----------+                                                  +-----------+
    |  CLOSING  |                                                  | FLUSHING  |
    +-----------+                                                  +-----------+
          |                                    Close 1000   88 02 03 e8  |
          | <----------------------------------------------------------- |
    +-----------+                                                        |
    | FLUSHING  |                                                        |
    +-----------+                                                        |
          |                                           end of the stream  |
          | <----------------------------------------------------------- |
    +-----------+                                                        |
    |  CLOSED   |                                                        |
    +-----------+                                                        |
          |  end of the stream                                           |
          | -----------------------------------------------------------> |
                                                                   +-----------+
                                                                   |  CLOSED   |
                                                                   +-----------+
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed, HandshakeError, ProtocolError, WebSocketError
from wsproto_min.http import Headers, Request, Response
from wsproto_min.messages import MessageChunk
from wsproto_min.server_handshake import Acceptance, Deferred, accept

if TYPE_CHECKING:
    from wsproto_min.net.broadcast import Group
    from wsproto_min.net.client import Client, connect
    from wsproto_min.net.outgoing_stream import OutgoingStream
    from wsproto_min.net.peer import Peer
    from wsproto_min.net.reconnect import reconnect
    from wsproto_min.net.server import Server

__all__ = [
    "Acceptance",
    "Client",
    "Close",
    "CloseCode",
    "Connection",
    "ConnectionClosed",
    "Deferred",
    "DeflateParameters",
    "Event",
    "Group",
    "HandshakeError",
    "Headers",
    "MessageChunk",
    "Opcode",
    "OutgoingStream",
    "Peer",
    "Ping",
    "Pong",
    "ProtocolError",
    "Request",
    "Response",
    "Role",
    "Server",
    "State",
    "WebSocketError",
    "accept",
    "connect",
    "reconnect",
]

_NET = {
    "Client": "client",
    "Group": "broadcast",
    "OutgoingStream": "outgoing_stream",
    "Peer": "peer",
    "Server": "server",
    "connect": "client",
    "reconnect": "reconnect",
}


def __dir__() -> list[str]:
    """Return the names of the module, also those of `net`, for `pydoc` and the prompt."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a name of `net` at its first use, so that the protocol loads no sockets."""
    if name not in _NET:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.net.{_NET[name]}"), name)
    globals()[name] = value
    return value
