"""WebSocket connections of a capture file, with the bytes or messages of both ends."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.explain.captures.tcp import Endpoint, Stream
from wsproto_min.explain.heads import split_parts
from wsproto_min.http import Headers

_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
_RESPONSE = b"HTTP/1."
_TLS = b"\x16\x03"  # a handshake record (RFC 8446, section 5.1)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The bytes of both ends of a connection that begins with a request for a WebSocket."""

    client: Stream
    server: Stream

    @property
    def name(self) -> str:
        """The addresses of both ends."""
        return _name(self.client, self.server)

    def units(self) -> list[tuple[Role, bytes]]:
        """Return heads and frames, each with its sender: the heads first, then as they arrived."""
        units = [*_units(Role.CLIENT, self.client), *_units(Role.SERVER, self.server)]
        units.sort(key=lambda unit: unit[0])
        return [(sender, data) for _, sender, data in units]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A connection that is not explained, with its addresses and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class HarMessage:
    """A message as a browser recorded it, without its frames.

    Attributes:
        sender: The end that sent the message.
        opcode: The opcode as a number, or None for an error that the browser reports.
        text: The text as recorded, or None for binary data.
        data: The payload in UTF-8 or as binary data.

    """

    sender: Role
    opcode: int | None
    text: str | None
    data: bytes

    @property
    def opcode_name(self) -> str:
        """The opcode's name in the RFC, or its number if the opcode is reserved."""
        try:
            return Opcode(self.opcode or 0).name
        except ValueError:
            return f"opcode {self.opcode}"


@dataclass(frozen=True, slots=True)
class HarConversation:
    """A connection of a HAR file.

    Attributes:
        name: The URL.
        request: The request's head, or None if the file does not have all required headers.
        response: The response's head, or None.
        messages: The messages of both ends, in their order.

    """

    name: str
    request: bytes | None
    response: bytes | None
    messages: tuple[HarMessage, ...]


def conversation(ends: tuple[Stream, Stream]) -> Conversation | Skipped:
    """Return the conversation of a connection, or the reason for which it cannot be explained."""
    client, server = ends
    if _REQUEST.match(server.data) and not _REQUEST.match(client.data):
        client, server = server, client
    reason = _reason_to_skip(client, server)
    if reason is not None:
        return Skipped(_name(client, server), reason)
    return Conversation(client, server)


def _reason_to_skip(client: Stream, server: Stream) -> str | None:
    if not client.data and not server.data:
        return "no data"
    if client.data.startswith(_TLS) or server.data.startswith(_TLS):
        return "encrypted with TLS"
    if not _REQUEST.match(client.data):
        begins = client.from_start and server.from_start
        return "not HTTP" if begins else "its beginning is missing from the capture"
    if not _asks_for_websocket(client.data):
        return "the first request is not for a WebSocket"
    if server.data and not server.data.startswith(_RESPONSE):
        begins = server.from_start
        return "the response is not HTTP" if begins else "the response's beginning is missing"
    return None


def _name(client: Stream, server: Stream) -> str:
    return f"{_address(client.source)} to {_address(server.source)}"


def _address(endpoint: Endpoint) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _asks_for_websocket(data: bytes) -> bool:
    """Return True if the request's head has `Upgrade: websocket`, or is incomplete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, _, value in fields]
    headers = Headers([(name.lower(), value.strip()) for name, value in pairs])
    return not end or headers.has_token("upgrade", "websocket")


def _units(sender: Role, stream: Stream) -> Iterator[tuple[tuple[int, int], Role, bytes]]:
    """Yield each head and frame, with its place in the conversation."""
    sizes = [size for _, size in stream.arrivals]
    begin, is_opening = 0, True
    for part in split_parts(stream.data):
        is_opening = is_opening and part.kind != "frame"
        index = min(bisect_left(sizes, part.end), len(sizes) - 1)
        order = (0, sender is Role.SERVER) if is_opening else (1, stream.arrivals[index][0])
        yield order, sender, stream.data[part.begin : part.end]
        begin = part.end
    if begin < len(stream.data):  # the rest after a frame or a response that ends the connection
        yield (1, stream.arrivals[-1][0]), sender, stream.data[begin:]
