"""As much HTTP/1.1 as the opening handshake and a page need (RFC 9110, RFC 9112).

A `HeadReader` gathers one request or response head, `parse_request` and
`parse_response` read it, `encode_head` and `Response.encode` write one. No
I/O and no backtracking: every byte is looked at a fixed number of times,
however a peer chops or repeats its headers. Bodies of requests are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from wsproto_min.errors import HandshakeError

# The usual limits of HTTP servers (nginx: 8 KiB a line; Apache: 100 lines).
MAX_HEAD_SIZE = 16384
MAX_HEADERS = 100

# RFC 9110, section 5.6.2.
_TOKEN = re.compile("[-!#$%&'*+.^_`|~0-9A-Za-z]+")


class Headers:
    """The header fields of a message, in order; names compare without regard to case.

    `fields` are pairs of a name, here in lower case, and a value.
    """

    __slots__ = ("_values", "fields")

    def __init__(self, fields: Sequence[tuple[str, str]] = ()) -> None:
        self.fields = tuple([(name.lower(), value) for name, value in fields])
        self._values: dict[str, list[str]] = {}
        for name, value in self.fields:
            if name in self._values:
                self._values[name].append(value)
            else:
                self._values[name] = [value]

    def __contains__(self, name: str) -> bool:
        """Return whether there is a field of that name."""
        return name.lower() in self._values

    def values(self, name: str) -> list[str]:
        """Return every value of a field, in order."""
        return list(self._values.get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return a field's only value, or None if it is absent.

        Raises `HandshakeError` 400 if it stands there more than once: which of
        them counts is how two parsers come to disagree.
        """
        values = self._values.get(name.lower())
        if values is None:
            return None
        if len(values) > 1:
            raise HandshakeError(HTTPStatus.BAD_REQUEST, f"header {name} must not be repeated")
        return values[0]

    def tokens(self, name: str) -> list[str]:
        """Return the items of a comma-separated list, gathered over repeated lines."""
        lines = self._values.get(name.lower(), ())
        items = [item.strip(" \t") for value in lines for item in value.split(",")]
        return [item for item in items if item]

    def has_token(self, name: str, token: str) -> bool:
        """Return whether an item of that list is `token`, which is in lower case, in any case."""
        return token in [item.lower() for item in self.tokens(name)]


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head; `target` is as sent, `path` without the query."""

    method: str
    target: str
    version: str
    headers: Headers

    @property
    def path(self) -> str:
        """The target up to a question mark, percent-encoding untouched."""
        return self.target.partition("?")[0]

    @property
    def wants_websocket(self) -> bool:
        """Whether this is an opening handshake, a faulty one included."""
        headers = self.headers
        return (
            "sec-websocket-key" in headers
            or "sec-websocket-version" in headers
            or headers.has_token("Upgrade", "websocket")
        )


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer; all but 101 get a Content-Length and end the connection."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    def encode(self, *, head_only: bool = False) -> bytes:
        """Return the bytes to send; `head_only` answers a HEAD request."""
        fields = list(self.headers)
        if self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            fields += [("Content-Length", str(len(self.body))), ("Connection", "close")]
        phrase = HTTPStatus(self.status).phrase
        head = encode_head(f"HTTP/1.1 {self.status} {phrase}", fields)
        return head if head_only else head + self.body


def error_response(error: HandshakeError) -> Response:
    """Return the answer that tells a client what was wrong, as plain text."""
    return Response(
        error.status,
        [*error.headers, ("Content-Type", "text/plain; charset=utf-8")],
        f"{error.reason}\n".encode(),
    )


class HeadReader:
    """Gathers a head up to its empty line, scanning each byte once."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def receive_data(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take more bytes; return the head and what follows it, or None if not whole.

        Raises `HandshakeError` 431 beyond 16 KiB.
        """
        # The end may straddle two reads: its first three bytes may be here already.
        start = max(0, len(self._data) - 3)
        self._data += data
        end = self._data.find(b"\r\n\r\n", start)
        too_long = end > MAX_HEAD_SIZE or (end < 0 and len(self._data) >= MAX_HEAD_SIZE + 4)
        if too_long:
            raise HandshakeError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the request's head is longer than {MAX_HEAD_SIZE} bytes",
            )
        if end < 0:
            return None
        return bytes(self._data[:end]), bytes(self._data[end + 4 :])


def parse_request(head: bytes) -> Request:
    """Read a request's head (RFC 9112, sections 3 and 5), without its empty line.

    Raises `HandshakeError` 400 for what is not HTTP/1.x, 431 for over 100 headers.
    """
    line, headers = _parse_head(head)
    parts = line.split(" ")
    if len(parts) != 3 or not is_token(parts[0]) or not parts[1]:
        raise bad_request("the request line is not 'METHOD TARGET HTTP/1.1'")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise bad_request("the request is not in HTTP/1.1")
    return Request(method, target, version, headers)


def parse_response(head: bytes) -> tuple[int, Headers]:
    """Read a response's head, without its empty line: its status and headers.

    Raises `HandshakeError` with status 0 for what is not HTTP/1.1.
    """
    try:
        line, headers = _parse_head(head)
    except HandshakeError as error:
        raise HandshakeError(0, error.reason) from None
    version, _, rest = line.partition(" ")
    status = rest[:3]
    is_number = len(status) == 3 and status.isascii() and status.isdigit()
    if version != "HTTP/1.1" or not is_number or rest[3:4].strip():
        raise HandshakeError(0, "the server's answer is not HTTP/1.1")
    return int(status), headers


def bad_request(reason: str) -> HandshakeError:
    """Return the error 400 that names a broken rule."""
    return HandshakeError(HTTPStatus.BAD_REQUEST, reason)


def is_token(text: str) -> bool:
    """Return whether `text` is a token (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def _parse_head(head: bytes) -> tuple[str, Headers]:
    """Split a head into its first line and its fields (RFC 9112, section 5)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    if len(lines) > MAX_HEADERS:
        raise HandshakeError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"there are over {MAX_HEADERS} headers"
        )
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        # A name that ends in a space, or a line that begins with one, is how
        # requests get smuggled past a proxy (RFC 9112, sections 5.1 and 5.2).
        if not colon or not is_token(name):
            raise bad_request("a header line is not 'Name: value'")
        fields.append((name, value.strip(" \t")))
    if _has_control_character("".join([first, *[value for _, value in fields]])):
        raise bad_request("the head contains a control character")  # RFC 9110, section 5.5
    return first, Headers(fields)


def _has_control_character(text: str) -> bool:
    """Return whether there is a control character but TAB."""
    return not text.isprintable() and any((c < " " and c != "\t") or c == "\x7f" for c in text)


def encode_head(first: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return a head's bytes: its first line, its fields and the empty line.

    Raises `ValueError` for a control character: a line break would begin a
    header that nobody meant to send.
    """
    lines = [first, *[f"{name}: {value}" for name, value in fields]]
    if _has_control_character("".join(lines)):
        raise ValueError("a head cannot hold a control character")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
