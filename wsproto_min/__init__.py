"""RFC 6455 by hand: a WebSocket codec, connection and selectors server to learn from.

Each module builds on those before it only: `codes`, `errors`, `text`, `masking`, `frames`,
`fast`, `deflate`, `messages`, `connection`, `http`, `handshake`, `url`, `client`,
`loop`, `group`, `backlog`, `tls`, `peer`, `server`; README says what to read first.
What explains them (`rawframe`, `violations`, `layout`, `verdict`, `heads`, `explain`,
`figure`, `drawing`, `records`, `capture`, `builder`, `explain_command`, `terminal`) is
not imported here, since a server has no use for it.
"""

from wsproto_min.client import Client, connect
from wsproto_min.codes import CloseCode, Opcode, is_sendable_close_code
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role, State
from wsproto_min.deflate import ANY, WITHOUT_TAKEOVER, Deflate
from wsproto_min.errors import ConnectionClosed, HandshakeError, ProtocolError, WebSocketError
from wsproto_min.frames import (
    Frame,
    FrameDecoder,
    FrameHeader,
    encode_close,
    encode_frame,
    parse_close,
    parse_header,
)
from wsproto_min.group import Group
from wsproto_min.handshake import accept, accept_key, check_response, upgrade_request
from wsproto_min.http import (
    HeadBuffer,
    Headers,
    Request,
    Response,
    error_response,
    parse_request,
    parse_response,
)
from wsproto_min.masking import apply_mask
from wsproto_min.messages import MessageAssembler
from wsproto_min.peer import Peer
from wsproto_min.server import Server
from wsproto_min.text import printable

__all__ = [
    "ANY",
    "WITHOUT_TAKEOVER",
    "Client",
    "Close",
    "CloseCode",
    "Connection",
    "ConnectionClosed",
    "Deflate",
    "Event",
    "Frame",
    "FrameDecoder",
    "FrameHeader",
    "Group",
    "HandshakeError",
    "HeadBuffer",
    "Headers",
    "MessageAssembler",
    "Opcode",
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
    "accept_key",
    "apply_mask",
    "check_response",
    "connect",
    "encode_close",
    "encode_frame",
    "error_response",
    "is_sendable_close_code",
    "parse_close",
    "parse_header",
    "parse_request",
    "parse_response",
    "printable",
    "upgrade_request",
]
