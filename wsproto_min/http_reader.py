"""Reading the heads and bodies of HTTP/1.1 (RFC 9112).

A `HeadReader` collects the head of a request or response. `parse_request` and `parse_response`
parse it. A request body has a Content-Length, which `body_size` checks. No byte is scanned more
than a fixed number of times, however a peer splits or repeats its headers.
"""

from http import HTTPStatus

from wsproto_min.errors import HandshakeError
from wsproto_min.http import (
    ABSOLUTE_FORM,
    TOKEN,
    Headers,
    Request,
    Response,
    bad_request,
    has_control_character,
    is_token,
)

# Usual limits of HTTP servers: nginx allows 8 KiB a line, Apache 100 lines.
MAX_HEAD_SIZE = 16384
MAX_HEADERS = 100

# A request with one of these methods has a body (RFC 9110, section 9.3; RFC 5789).
_METHODS_WITH_BODY = {"POST", "PUT", "PATCH"}
_TOKEN_CHARACTERS = frozenset(byte for byte in range(128) if TOKEN.fullmatch(chr(byte)))
# RFC 8446, section 5.1: content type of the record that carries a ClientHello.
_TLS_HANDSHAKE_RECORD = 0x16


class HeadReader:
    """Reader for the head of one request or response, up to its empty line, and for its body.

    Args:
        is_request: Expect a request: skip an empty line before it (RFC 9112, section 2.2), and
            refuse other bytes than a method at its first byte.

    """

    __slots__ = ("_at_start", "_buffer", "_scanned", "_skips_empty_line")

    def __init__(self, *, is_request: bool = False) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._at_start = is_request  # the first byte of a request is not checked yet
        self._skips_empty_line = is_request

    @property
    def trailing_data(self) -> bytes:
        """The bytes behind the head, once `next_head` has returned it."""
        return bytes(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Store received bytes for `next_head`."""
        self._buffer += data

    def next_head(self) -> bytes | None:
        """Return the head without its empty line, or None if more data is needed.

        Raises:
            HandshakeError: Status 431: the head is longer than 16 KiB. Status 400: the bytes
                are not the start of a request.

        """
        if self._at_start:
            self._check_start()
        # The last read may have ended within the four bytes of the separator.
        end = self._buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        self._scanned = len(self._buffer)
        if end > MAX_HEAD_SIZE or (end < 0 and len(self._buffer) >= MAX_HEAD_SIZE + 4):
            raise HandshakeError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the request's head is longer than {MAX_HEAD_SIZE} bytes",
            )
        if end < 0:
            return None
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    def next_body(self, size: int) -> bytes | None:
        """Return the `size` bytes behind the head, or None if more data is needed."""
        if len(self._buffer) < size:
            return None
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return body

    @property
    def size(self) -> int:
        """Number of received bytes that were not returned yet."""
        return len(self._buffer)

    def _check_start(self) -> None:
        """Check the first byte of a request, once it has arrived."""
        if self._skips_empty_line and self._buffer.startswith(b"\r"):
            if len(self._buffer) == 1:
                return
            if self._buffer.startswith(b"\r\n"):
                del self._buffer[:2]
                self._skips_empty_line = False
        if not self._buffer:
            return
        self._at_start = False
        first = self._buffer[0]
        if first == _TLS_HANDSHAKE_RECORD:
            raise bad_request("the client began TLS on a port without TLS; use ws:// or http://")
        if first not in _TOKEN_CHARACTERS:
            raise bad_request("the first bytes are not an HTTP request")


def parse_request(head: bytes) -> Request:
    """Parse the head of a request (RFC 9112, sections 3 and 5), without its empty line.

    Raises:
        HandshakeError: Status 400: the head is not HTTP/1.x. Status 431: it has more than 100
            headers.

    """
    line, headers = _parse_head(head)
    parts = line.split(" ")
    if len(parts) != 3 or not is_token(parts[0]) or not parts[1]:
        raise bad_request("the request line is not 'METHOD TARGET HTTP/1.1'")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise bad_request("the request is not in HTTP/1.1")
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is not None:
        headers = _with_host(headers, absolute[1])
    return Request(method, target, version, headers)


def body_size(request: Request, limit: int) -> int:
    """Return the size of a request's body in bytes (RFC 9112, section 6.3).

    Args:
        request: The head of the request.
        limit: Largest body that the server accepts, in bytes.

    Raises:
        HandshakeError: Status 400: the size is ambiguous or no number. Status 411: the size is
            missing, as with the coding "chunked". Status 413: it is above the limit. Status 417:
            the header Expect asks for something else than 100-continue. Status 501: the transfer
            coding is unknown.

    """
    headers = request.headers
    length = headers.get("Content-Length")
    is_coded = "Transfer-Encoding" in headers
    if is_coded:
        # RFC 9112, section 6.1: a way to smuggle a request past a proxy.
        if length is not None or request.version == "HTTP/1.0":
            raise bad_request("header Transfer-Encoding must not come with this request")
        if headers.tokens("Transfer-Encoding") != ["chunked"]:
            raise HandshakeError(HTTPStatus.NOT_IMPLEMENTED, "the transfer coding is unknown")
    if length is None:
        if is_coded or request.method in _METHODS_WITH_BODY:
            raise HandshakeError(HTTPStatus.LENGTH_REQUIRED, "header Content-Length is missing")
        return 0
    if not (length.isascii() and length.isdigit()):
        raise bad_request("header Content-Length must be a number")
    digits = length.lstrip("0")
    if len(digits) > len(str(limit)) or int(digits or "0") > limit:
        raise HandshakeError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {limit} bytes"
        )
    if [token.lower() for token in headers.tokens("Expect")] not in ([], ["100-continue"]):
        raise HandshakeError(HTTPStatus.EXPECTATION_FAILED, "header Expect must be '100-continue'")
    return int(digits or "0")


def _with_host(headers: Headers, authority: str) -> Headers:
    """Return the headers with the host of an absolute target (RFC 9112, section 3.2.2).

    A missing or repeated Host stays an error.
    """
    if not authority or "@" in authority:  # RFC 9110, sections 4.2.1 and 4.2.4
        raise bad_request("the request target has no host, or a user name before its host")
    if len(headers.values("Host")) != 1:
        return headers
    fields = headers.fields
    return Headers([(name, authority if name == "host" else value) for name, value in fields])


def parse_response(head: bytes) -> Response:
    """Parse the head of a response, without its empty line.

    Raises:
        HandshakeError: Status 0: the head is not HTTP/1.1.

    """
    try:
        line, headers = _parse_head(head)
    except HandshakeError as error:
        raise HandshakeError(0, error.reason) from None
    version, _, rest = line.partition(" ")
    status = rest[:3]
    is_number = len(status) == 3 and status.isascii() and status.isdigit()
    if version != "HTTP/1.1" or not is_number or rest[3:4].strip():
        raise HandshakeError(0, "the server's response is not HTTP/1.1")
    return Response(int(status), headers.fields)


def _parse_head(head: bytes) -> tuple[str, Headers]:
    """Split a head into its first line and its fields (RFC 9112, section 5)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    if len(lines) > MAX_HEADERS:
        raise HandshakeError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"there are over {MAX_HEADERS} headers"
        )
    fields = []
    is_token = TOKEN.fullmatch
    for line in lines:
        name, colon, value = line.partition(":")
        # RFC 9112, sections 5.1 and 5.2: a space before the colon or at the start of a line is
        # a way to smuggle a request past a proxy.
        if not colon or is_token(name) is None:
            raise bad_request("a header line is not 'Name: value'")
        fields.append((name, value.strip(" \t")))
    if has_control_character("".join([first, *lines])):
        raise bad_request("the head contains a control character")  # RFC 9110, section 5.5
    return first, Headers(fields)
