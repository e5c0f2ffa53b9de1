"""HTTP/1.1 as far as the opening handshake and simple responses need it (RFC 9110).

This module has the values: headers, requests and responses, and how a head is written. Module
`http_reader` reads and checks the bytes.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from wsproto_min.errors import HandshakeError

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}

# Characters of a head that a `repr` shows.
_REPR_SIZE = 100

# RFC 9110, section 5.6.2.
TOKEN = re.compile("[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# RFC 9112, section 3.2.2: the authority of an absolute target, and its path with its query.
ABSOLUTE_FORM = re.compile("(?:http|ws)s?://([^/?#]*)(.*)", re.IGNORECASE)


class Headers:
    """Header fields in their order. Names are compared case-insensitively.

    Args:
        fields: Pairs of name and value.

    Attributes:
        fields: The same pairs, their names in lower case.

    """

    __slots__ = ("_values", "fields")

    fields: tuple[tuple[str, str], ...]

    def __init__(self, fields: Sequence[tuple[str, str]] = ()) -> None:
        self.fields = tuple([(name.lower(), value) for name, value in fields])
        self._values: dict[str, list[str]] = {}
        for name, value in self.fields:
            if name in self._values:
                self._values[name].append(value)
            else:
                self._values[name] = [value]

    def __repr__(self) -> str:
        """Return the names, because values may be secret."""
        return f"<Headers {_shorten(', '.join(self._values))}>"

    def __contains__(self, name: str) -> bool:
        """Return True if there is a header of that name."""
        return name.lower() in self._values

    def values(self, name: str) -> list[str]:
        """Return all values of a header in their order."""
        return list(self._values.get(name.lower(), ()))

    def get(self, name: str) -> str | None:
        """Return the only value of a header, or None if it is absent.

        Raises:
            HandshakeError: Status 400: the header is repeated. Two parsers might choose
                different ones.

        """
        values = self._values.get(name.lower())
        if values is None:
            return None
        if len(values) > 1:
            raise HandshakeError(HTTPStatus.BAD_REQUEST, f"header {name} must not be repeated")
        return values[0]

    def tokens(self, name: str) -> list[str]:
        """Return the items of a comma-separated header, from all of its lines."""
        lines = self._values.get(name.lower())
        if lines is None:
            return []
        items = [item.strip(" \t") for value in lines for item in value.split(",")]
        return [item for item in items if item]

    def has_token(self, name: str, token: str) -> bool:
        """Return True if a comma-separated header contains `token`.

        The comparison is case-insensitive; pass `token` in lower case.
        """
        lines = self._values.get(name.lower())
        if lines is None:
            return False
        if lines[0].lower() == token:  # usual, and saves the splitting
            return True
        return token in [item.lower() for item in self.tokens(name)]


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        method: Such as "GET".
        target: The request target as it was sent, such as "/chat" or "http://example.com/chat".
        version: "HTTP/1.1" or "HTTP/1.0".
        headers: The header fields. `parse_request` takes Host from an absolute target.
        body: The content; empty unless the server reads bodies (`max_body_size`).

    """

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target's path, percent-encoding untouched; "/" if an absolute target has none."""
        return self._split_target()[0] or "/"

    @property
    def query(self) -> str:
        """The target's part behind "?", percent-encoding untouched; may be empty.

        `urllib.parse.parse_qs` decodes it.
        """
        return self._split_target()[1]

    def _split_target(self) -> tuple[str, str]:
        absolute = ABSOLUTE_FORM.fullmatch(self.target)
        path, _, query = (self.target if absolute is None else absolute[2]).partition("?")
        return path, query

    @property
    def wants_websocket(self) -> bool:
        """True if the request is an opening handshake, valid or not."""
        headers = self.headers
        return (
            "sec-websocket-key" in headers
            or "sec-websocket-version" in headers
            or headers.has_token("Upgrade", "websocket")
        )

    def __repr__(self) -> str:
        """Return method, path and sizes, without values that may be secret."""
        query = "?..." if self.query else ""
        line = _shorten(f"{self.method} {self.path}{query} {self.version}")
        return f"<Request {line}, {len(self.headers.fields)} headers, {len(self.body)} bytes>"


class Response(NamedTuple):
    """A response. Except for 101 it gets a Content-Length and ends the connection.

    Attributes:
        status: The status code.
        headers: Pairs of name and value.
        body: The content; empty if the response was parsed from its head.

    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    @classmethod
    def text(
        cls, text: str, status: int = 200, headers: Sequence[tuple[str, str]] = ()
    ) -> "Response":
        r"""Return a response with plain text.

        >>> Response.text("There is no such room.\n", 404)
        <Response 404 content-type, 23 bytes>
        """
        return cls._of_type("text/plain; charset=utf-8", text, status, headers)

    @classmethod
    def html(
        cls, text: str, status: int = 200, headers: Sequence[tuple[str, str]] = ()
    ) -> "Response":
        """Return a response with a page in HTML."""
        return cls._of_type("text/html; charset=utf-8", text, status, headers)

    @classmethod
    def json(
        cls, value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()
    ) -> "Response":
        """Return a response with a value as JSON.

        Raises:
            TypeError: JSON cannot represent the value.
            ValueError: The value contains NaN, an infinite number or itself.

        """
        from json import dumps  # few programs need this module, and it takes 2 ms to load

        return cls._of_type("application/json", dumps(value, allow_nan=False), status, headers)

    @classmethod
    def _of_type(
        cls, content_type: str, text: str, status: int, headers: Sequence[tuple[str, str]]
    ) -> "Response":
        return cls(status, [("Content-Type", content_type), *headers], text.encode())

    def __repr__(self) -> str:
        """Return status, names of headers and size, without values that may be secret."""
        names = _shorten(", ".join(name.lower() for name, _ in self.headers) or "no headers")
        return f"<Response {self.status} {names}, {len(self.body)} bytes>"

    def encode(self, *, head_only: bool = False) -> bytes:
        """Return the bytes to send, without body if `head_only` (for a HEAD request).

        Raises:
            ValueError: A header contains a control character, or the status is unknown.

        """
        fields = list(self.headers)
        if self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            fields += [("Content-Length", str(len(self.body))), ("Connection", "close")]
        first = _STATUS_LINES.get(self.status)
        if first is None:
            raise ValueError(f"status: {self.status} is unknown; use a status of http.HTTPStatus")
        head = encode_head(first, fields)
        return head if head_only else head + self.body


def _shorten(text: str) -> str:
    """Return text for a `repr`: bounded, and printable."""
    shown = text if len(text) <= _REPR_SIZE else f"{text[:_REPR_SIZE]}..."
    return shown.encode("unicode_escape").decode()


def error_response(error: HandshakeError) -> Response:
    """Return the response that states an error as plain text."""
    return Response(
        error.status,
        [*error.headers, ("Content-Type", "text/plain; charset=utf-8")],
        f"{error.reason}\n".encode(),
    )


def bad_request(reason: str) -> HandshakeError:
    """Return the error with status 400 for a malformed request."""
    return HandshakeError(HTTPStatus.BAD_REQUEST, reason)


def is_token(text: str) -> bool:
    """Return True if `text` is a token (RFC 9110, section 5.6.2)."""
    return TOKEN.fullmatch(text) is not None


def has_control_character(text: str) -> bool:
    """Return True if `text` has a control character other than TAB."""
    return not text.isprintable() and any((c < " " and c != "\t") or c == "\x7f" for c in text)


def encode_head(first: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the bytes of a head: its first line, its fields and the empty line.

    Raises:
        ValueError: There is a control character. A line break in a value would begin another
            header.

    """
    lines = [first, *[f"{name}: {value}" for name, value in fields]]
    if has_control_character("".join(lines)):
        raise ValueError("head: contains a control character; remove it from the header")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
