"""HTTP/1.1 as far as the handshake needs it (RFC 9110 and RFC 9112)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.errors import HandshakeError
from wsproto_min.http import Headers, Request, Response, encode_head, error_response
from wsproto_min.http_reader import (
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    HeadReader,
    body_size,
    parse_request,
    parse_response,
)
from wsproto_min.testing.strategies import chunkings, single_bytes

TOKENS = st.text("!#$%&'*+-.^_`|~0123456789abcxyzABCXYZ", min_size=1, max_size=12)
# Header values: visible ASCII, spaces, and bytes beyond ASCII.
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
).map(lambda value: value.strip(" \t"))
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=8)


def read_head(*chunks: bytes, is_request: bool = False) -> tuple[bytes, bytes] | int | None:
    """Return the head and the bytes behind it, or the status of a refusal, or None."""
    reader = HeadReader(is_request=is_request)
    for index, chunk in enumerate(chunks):
        reader.receive_data(chunk)
        try:
            head = reader.next_head()
        except HandshakeError as error:
            return error.status
        if head is not None:
            return head, reader.trailing_data + b"".join(chunks[index + 1 :])
    return None


def refusal(head: bytes) -> tuple[int, str]:
    """Return the status and reason with which a request is refused."""
    with pytest.raises(HandshakeError) as raised:
        parse_request(head)
    return raised.value.status, raised.value.reason


# The head reader


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r", None),
        (b"GET / HTTP/1.1\r\n\r\n", (b"GET / HTTP/1.1", b"")),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", (b"GET / HTTP/1.1\r\nA: b", b"")),
        (b"A\r\n\r\nfirst frame", (b"A", b"first frame")),
        (b"A\r\n\r\n\r\n\r\n", (b"A", b"\r\n\r\n")),  # the first empty line counts
        (b"\r\n\r\n", (b"", b"")),
        (b"A\n\nB", None),  # a bare LF is no line end
        (b"A\r\r\n\n", None),
    ],
)
def test_head_ends_at_its_empty_line(data: bytes, found: tuple[bytes, bytes] | None) -> None:
    assert read_head(data) == found
    assert read_head(*single_bytes(data)) == found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\r\nGET / HTTP/1.1\r\n\r\n", (b"GET / HTTP/1.1", b"")),
        (b"\r\nA\r\n\r\n\r\nB", (b"A", b"\r\nB")),
        (b"\r", None),
        (b"\r\n", None),
        (b"\r\nGET", None),
        (b"\r\n\r\n", 400),  # one empty line is enough
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (b"\rG", 400),
        (b"\nG", 400),
    ],
)
def test_request_after_an_empty_line_is_accepted(
    data: bytes, found: tuple[bytes, bytes] | int | None
) -> None:
    assert read_head(data, is_request=True) == found
    assert read_head(*single_bytes(data), is_request=True) == found


@pytest.mark.parametrize("byte", range(256))
def test_request_first_byte_must_begin_a_method(byte: int) -> None:
    data = bytes([byte])
    starts = data in b"!#$%&'*+-.^_`|~\r" or (data.isalnum() and data.isascii())
    assert read_head(data, is_request=True) == (None if starts else 400)
    starts = starts and data != b"\r"
    assert read_head(b"\r\n" + data, is_request=True) == (None if starts else 400)


@given(st.data(), st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"]), max_size=30))
def test_head_any_chunking_is_the_same(data: st.DataObject, parts: list[bytes]) -> None:
    received = b"".join(parts)
    head, end, rest = received.partition(b"\r\n\r\n")
    chunks = data.draw(chunkings(received))
    assert read_head(*chunks) == ((head, rest) if end else None)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000, MAX_HEAD_SIZE])
def test_head_of_16_kib_is_accepted_one_byte_more_is_431(size: int) -> None:
    for length, verdict in [(MAX_HEAD_SIZE, None), (MAX_HEAD_SIZE + 1, 431)]:
        data = b"x" * length + b"\r\n\r\n"
        expected = (b"x" * length, b"") if verdict is None else verdict
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert read_head(*chunks) == expected, f"{length} bytes in chunks of {size}"
        assert read_head(data) == expected, f"{length} bytes at once"


@pytest.mark.parametrize("tail", [b"", b"\r", b"\r\n", b"\r\n\r"])
def test_head_without_end_is_refused_as_soon_as_it_is_too_long(
    tail: bytes,
) -> None:
    incomplete = b"x" * MAX_HEAD_SIZE + tail
    assert read_head(incomplete) is None
    assert read_head(incomplete + b"\r\n\r\n"[len(tail) :]) == (b"x" * MAX_HEAD_SIZE, b"")
    assert read_head(incomplete + b"x" * (4 - len(tail))) == 431
    assert read_head(*single_bytes(incomplete + b"x" * (4 - len(tail)))) == 431


def test_trailing_data_does_not_count_as_head() -> None:
    rest = bytes(10 * MAX_HEAD_SIZE)
    assert read_head(b"A\r\n\r\n" + rest) == (b"A", rest)


def test_head_of_a_response_may_be_empty() -> None:
    for rest in (b"", bytes(2 * MAX_HEAD_SIZE)):
        reader = HeadReader()
        reader.receive_data(b"\r\n\r\n" + rest)
        assert (reader.next_head(), reader.trailing_data) == (b"", rest)


def test_head_too_long_error_states_the_limit() -> None:
    reader = HeadReader()
    reader.receive_data(b"x" * 20_000)
    with pytest.raises(HandshakeError, match="longer than 16384 bytes"):
        reader.next_head()


class CountingBytes(bytearray):
    """Buffer that counts the bytes scanned by `find`."""

    scanned = 0

    def find(self, *args: object) -> int:
        _, start = args
        assert isinstance(start, int)
        self.scanned += len(self) - start
        return super().find(b"\r\n\r\n", start)


def test_head_reader_scans_each_byte_a_fixed_number_of_times() -> None:
    reader = HeadReader()
    reader._buffer = counted = CountingBytes()
    for byte in single_bytes(b"A: b\r\n" * 2000):
        reader.receive_data(byte)
        assert reader.next_head() is None
    assert 0 < counted.scanned <= 4 * 12_000


# Requests


def test_request_has_line_and_headers() -> None:
    head = (
        b"GET /r/lobby?name=a%20b HTTP/1.1\r\nHost: example.com\r\nX-Empty:\r\nx-empty: \t "
        b"\r\nX-Case: \t X a \t X\t"
    )
    request = parse_request(head)
    assert (request.method, request.target, request.version) == (
        "GET",
        "/r/lobby?name=a%20b",
        "HTTP/1.1",
    )
    assert request.headers.fields == (
        ("host", "example.com"),
        ("x-empty", ""),
        ("x-empty", ""),
        ("x-case", "X a \t X"),
    )


@pytest.mark.parametrize(
    ("target", "path"),
    [("/", "/"), ("/a?b", "/a"), ("/a?b?c", "/a"), ("/?", "/"), ("/a%3fb", "/a%3fb"), ("*", "*")],
)
def test_request_path_is_target_without_query(target: str, path: str) -> None:
    assert parse_request(f"GET {target} HTTP/1.1".encode()).path == path


@pytest.mark.parametrize("scheme", ["http", "https", "ws", "wss", "HTTP", "Ws"])
@pytest.mark.parametrize(
    ("rest", "host", "path"),
    [
        ("127.0.0.1:8765/healthz", "127.0.0.1:8765", "/healthz"),
        ("example.com/a%20b?c=/d", "example.com", "/a%20b"),
        ("[::1]:80/", "[::1]:80", "/"),
        ("example.com", "example.com", "/"),
        ("example.com?a", "example.com", "/"),
    ],
)
def test_request_absolute_target_gives_path_and_host(
    scheme: str, rest: str, host: str, path: str
) -> None:
    head = f"GET {scheme}://{rest} HTTP/1.1\r\nA: b\r\nhOST: other.example\r\nC: d"
    request = parse_request(head.encode())
    assert (request.path, request.target) == (path, f"{scheme}://{rest}")
    assert request.headers.fields == (("a", "b"), ("host", host), ("c", "d"))


def test_request_absolute_target_adds_no_host_header() -> None:
    line = "GET http://example.com/ HTTP/1.1"
    assert "Host" not in parse_request(line.encode()).headers
    repeated = parse_request(f"{line}\r\nHost: a\r\nHost: b".encode())
    assert repeated.headers.values("Host") == ["a", "b"]


@pytest.mark.parametrize("target", ["ftp://example.com/a", "/http://example.com/", "http:/a"])
def test_request_other_target_keeps_path_and_host(target: str) -> None:
    request = parse_request(f"GET {target} HTTP/1.1\r\nHost: a".encode())
    assert (request.path, request.headers.get("Host")) == (target, "a")


@pytest.mark.parametrize("target", ["http:///healthz", "ws://", "http://me@example.com/"])
def test_request_absolute_target_without_a_host_is_400(target: str) -> None:
    assert refusal(f"GET {target} HTTP/1.1\r\nHost: a".encode()) == (
        400,
        "the request target has no host, or a user name before its host",
    )


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_request_may_be_http_1_0(version: str) -> None:
    assert parse_request(f"POST /say {version}".encode()).version == version


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"", "the request line is not"),
        (b"GET", "the request line is not"),
        (b"GET /", "the request line is not"),  # HTTP/0.9
        (b"GET / HTTP/1.1 ", "the request line is not"),
        (b"GET  / HTTP/1.1", "the request line is not"),
        (b" GET / HTTP/1.1", "the request line is not"),
        (b"GET /a b HTTP/1.1", "the request line is not"),
        (b"GET  HTTP/1.1", "the request line is not"),
        (b"G(T / HTTP/1.1", "the request line is not"),
        (b"G\xc9T / HTTP/1.1", "the request line is not"),
        (b"GET\t/\tHTTP/1.1", "the request line is not"),
        (b"GET / HTTP/2", "the request is not in HTTP/1.1"),
        (b"GET / HTTP/1.2", "the request is not in HTTP/1.1"),
        (b"GET / http/1.1", "the request is not in HTTP/1.1"),
        (b"PRI * HTTP/2.0", "the request is not in HTTP/1.1"),
        (b"GET /\0 HTTP/1.1", "the head contains a control character"),
        (b"GET / HTTP/1.1\r", "the head contains a control character"),
        (b"GET / HTTP/1.1\nHost: a", "the head contains a control character"),
        (b"\x16\x03\x01\x02\x00\x01", "the head contains a control character"),  # TLS
    ],
)
def test_request_line_invalid_is_400(line: bytes, rule: str) -> None:
    if rule == "the request line is not":
        rule = "the request line is not 'METHOD TARGET HTTP/1.1'"
    assert refusal(line) == (400, rule)


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (b"", "a header line is not 'Name: value'"),
        (b"Host", "a header line is not 'Name: value'"),
        (b": a", "a header line is not 'Name: value'"),
        (b"Host : a", "a header line is not 'Name: value'"),  # space before colon
        (b"Host\t: a", "a header line is not 'Name: value'"),
        (b" Host: a", "a header line is not 'Name: value'"),  # obs-fold
        (b"\tfolded: a", "a header line is not 'Name: value'"),
        (b"Ho st: a", "a header line is not 'Name: value'"),
        (b"Ho\0st: a", "a header line is not 'Name: value'"),
        (b"H\xc3\xb6st: a", "a header line is not 'Name: value'"),  # non-ASCII
        (b"(Host): a", "a header line is not 'Name: value'"),
        (b"A: b\nC: d", "the head contains a control character"),  # bare LF
        (b"A: b\rC: d", "the head contains a control character"),  # bare CR
        (b"A: b\0", "the head contains a control character"),
        (b"A: \x1b[2J", "the head contains a control character"),
        (b"A: b\x7f", "the head contains a control character"),
        (b"A: \x0bb", "the head contains a control character"),  # white space to str.strip
    ],
)
def test_header_line_invalid_is_400(header: bytes, rule: str) -> None:
    for head in (
        b"GET / HTTP/1.1\r\n" + header,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + header + b"\r\nB: c",
    ):
        assert refusal(head) == (400, rule)


@pytest.mark.parametrize("byte", range(256))
def test_header_value_may_have_any_byte_but_controls(byte: int) -> None:
    head = b"GET / HTTP/1.1\r\nA: x" + bytes((byte,)) + b"x"
    if byte == 0x09 or (byte >= 0x20 and byte != 0x7F):
        assert parse_request(head).headers.get("A") == f"x{chr(byte)}x"
    else:
        assert refusal(head)[0] == 400


def test_headers_100_are_accepted_101_are_431() -> None:
    head = b"GET / HTTP/1.1" + b"\r\nA: b" * MAX_HEADERS
    assert len(parse_request(head).headers.fields) == 100
    assert refusal(head + b"\r\nA: b") == (431, "there are over 100 headers")


@given(TOKENS, FIELDS)
def test_encoded_head_is_parsed_to_the_same_fields(
    method: str, fields: list[tuple[str, str]]
) -> None:
    data = encode_head(f"{method} / HTTP/1.1", fields)
    found = read_head(data)
    assert isinstance(found, tuple)
    head, rest = found
    request = parse_request(head)
    assert (request.method, rest) == (method, b"")
    assert request.headers.fields == tuple((name.lower(), value) for name, value in fields)


HTTP_PARTS = st.sampled_from(
    [b"GET / HTTP/1.1", b"HTTP/1.1 101 OK", b"\r\n", b"\n", b"A: b", b" ", b":", b"\t", b"\0"]
)


@given(
    st.binary(max_size=100)
    | st.lists(HTTP_PARTS | st.binary(max_size=3), max_size=20).map(b"".join)
)
def test_arbitrary_bytes_raise_only_handshake_error(head: bytes) -> None:
    for parse in (parse_request, parse_response):
        with contextlib.suppress(HandshakeError):
            parse(head)


# Fields


def test_header_names_are_case_insensitive() -> None:
    headers = Headers([("hOsT", "a"), ("Other", "b"), ("HOST", "c")])
    assert headers.values("Host") == ["a", "c"]
    assert Headers([("X-a", "1")]).get("x-A") == "1"


def test_header_absent_has_no_value() -> None:
    headers = Headers()
    assert (headers.get("Host"), headers.values("Host"), headers.tokens("Host")) == (None, [], [])


def test_header_single_valued_must_not_be_repeated() -> None:
    with pytest.raises(HandshakeError, match="header Host must not be repeated") as raised:
        Headers([("Host", "a"), ("host", "a")]).get("Host")
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([""], []),
        ([","], []),
        (["a"], ["a"]),
        (["a,b"], ["a", "b"]),
        (["a , b"], ["a", "b"]),
        ([", a,\t,b ,"], ["a", "b"]),
        (["a", "b, c"], ["a", "b", "c"]),
        (["A b"], ["A b"]),
        (["\xa0a"], ["\xa0a"]),  # only SP and HTAB are white space to HTTP
    ],
)
def test_header_list_is_joined_over_lines(values: list[str], tokens: list[str]) -> None:
    assert Headers([("L", value) for value in values]).tokens("l") == tokens


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([], False),
        ([("Host", "a"), ("Connection", "keep-alive")], False),
        ([("Upgrade", "h2c")], False),
        ([("Upgrade", "h2c, WebSocket")], True),
        ([("Sec-WebSocket-Key", "")], True),
        ([("sec-websocket-version", "8")], True),
    ],
)
def test_opening_handshake_invalid_is_still_recognised(
    fields: list[tuple[str, str]], wanted: bool
) -> None:
    assert Request("GET", "/", "HTTP/1.1", Headers(fields)).wants_websocket is wanted


# Responses


def test_response_has_length_and_closes() -> None:
    response = Response(200, [("Content-Type", "text/plain")], b"hi")
    head = (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: 2\r\n"
        b"Connection: close\r\n"
        b"\r\n"
    )
    assert response.encode() == head + b"hi"
    assert response.encode(head_only=True) == head


def test_response_101_has_no_length_and_stays_open() -> None:
    response = Response(101, [("Upgrade", "websocket")])
    assert response.encode() == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def test_error_response_states_reason_as_plain_text() -> None:
    error = HandshakeError(405, "a WebSocket handshake must use the method GET", [("Allow", "GET")])
    assert error_response(error).encode() == (
        b"HTTP/1.1 405 Method Not Allowed\r\n"
        b"Allow: GET\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 46\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"a WebSocket handshake must use the method GET\n"
    )


@pytest.mark.parametrize(
    ("first", "fields"),
    [
        ("GET / HTTP/1.1\r\nX: y", []),
        ("GET /\n HTTP/1.1", []),
        ("GET / HTTP/1.1", [("A", "b\r\nX: y")]),
        ("GET / HTTP/1.1", [("A", "b\nX: y")]),
        ("GET / HTTP/1.1", [("A\r\nX", "y")]),
    ],
)
def test_encode_head_with_line_break_is_value_error(
    first: str, fields: list[tuple[str, str]]
) -> None:
    with pytest.raises(ValueError, match="control character") as raised:
        encode_head(first, fields)
    assert str(raised.value) == "head: contains a control character; remove it from the header"


def test_response_with_an_unknown_status_cannot_be_encoded() -> None:
    reason = r"^status: 799 is unknown; use a status of http\.HTTPStatus$"
    with pytest.raises(ValueError, match=reason):
        Response(799).encode()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("HTTP/1.1 101 Switching Protocols", 101),
        ("HTTP/1.1 101 ", 101),
        ("HTTP/1.1 101", 101),
        ("HTTP/1.1 404 Not Found", 404),
        ("HTTP/1.1 599 \u00e9", 599),
    ],
)
def test_parse_response_returns_status_and_headers(line: str, status: int) -> None:
    response = parse_response(f"{line}\r\nUpgrade: websocket".encode("latin-1"))
    assert response == Response(status, (("upgrade", "websocket"),))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"101",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 10",
        b"HTTP/1.1 1011 OK",
        b"HTTP/1.1 1 1 OK",
        b"HTTP/1.1  101 OK",
        b"HTTP/1.1 -10 OK",
        b"HTTP/1.1 1\xb21 OK",  # a superscript two is a digit to str.isdigit
        b"HTTP/1.0 200 OK",
        b"HTTP/2 200",
        b"http/1.1 101 OK",
        b"220 mail.example.com ESMTP",
    ],
)
def test_parse_response_not_http_1_1_has_status_0(line: bytes) -> None:
    with pytest.raises(HandshakeError, match=r"the server's response is not HTTP/1\.1") as raised:
        parse_response(line)
    assert raised.value.status == 0


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 101 OK\r\nUpgrade", "a header line is not 'Name: value'"),
        (b"HTTP/1.1 101 OK\r\nUpgrade : websocket", "a header line is not 'Name: value'"),
        (b"HTTP/1.1 101 OK\r\nA: \0", "the head contains a control character"),
        (b"HTTP/1.1 101 OK" + b"\r\nA: b" * (MAX_HEADERS + 1), "there are over 100 headers"),
    ],
)
def test_parse_response_invalid_headers_have_status_0(head: bytes, reason: str) -> None:
    with pytest.raises(HandshakeError) as raised:
        parse_response(head)
    assert (raised.value.status, raised.value.reason) == (0, reason)


# Bodies, and responses by their content.


def posted(*fields: tuple[str, str], method: str = "POST", version: str = "HTTP/1.1") -> Request:
    return Request(method, "/", version, Headers(fields))


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        (posted(method="GET"), 0),
        (posted(method="DELETE"), 0),
        (posted(("Content-Length", "0")), 0),
        (posted(("Content-Length", "100")), 100),
        (posted(("Content-Length", "000000000000000000000000007")), 7),
        (posted(("Content-Length", "7"), method="GET"), 7),
        (posted(("Content-Length", "7"), ("Expect", "100-Continue")), 7),
    ],
)
def test_body_size_is_the_content_length(request_: Request, size: int) -> None:
    assert body_size(request_, 100) == size


NO_LENGTH = (411, "header Content-Length is missing")
UNKNOWN_CODING = (501, "the transfer coding is unknown")
WITH_CODING = (400, "header Transfer-Encoding must not come with this request")
NO_NUMBER = (400, "header Content-Length must be a number")
TOO_LONG = (413, "the body is longer than 100 bytes")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ([], NO_LENGTH),
        ([("Transfer-Encoding", "chunked")], NO_LENGTH),
        ([("Transfer-Encoding", "gzip, chunked")], UNKNOWN_CODING),
        ([("Transfer-Encoding", "")], UNKNOWN_CODING),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", "1")], WITH_CODING),
        (
            [("Content-Length", "1"), ("Content-Length", "1")],
            (400, "header Content-Length must not be repeated"),
        ),
        ([("Content-Length", "1, 1")], NO_NUMBER),
        ([("Content-Length", "+1")], NO_NUMBER),
        ([("Content-Length", "-1")], NO_NUMBER),
        ([("Content-Length", "")], NO_NUMBER),
        ([("Content-Length", "0x1")], NO_NUMBER),
        ([("Content-Length", "\xb2")], NO_NUMBER),  # a superscript two is a digit to str.isdigit
        ([("Content-Length", "101")], TOO_LONG),
        ([("Content-Length", "9" * 5000)], TOO_LONG),
        ([("Content-Length", "101"), ("Expect", "100-continue")], TOO_LONG),
        (
            [("Content-Length", "1"), ("Expect", "the unexpected")],
            (417, "header Expect must be '100-continue'"),
        ),
    ],
)
def test_body_size_unusable_is_refused(
    fields: list[tuple[str, str]], refused: tuple[int, str]
) -> None:
    with pytest.raises(HandshakeError) as raised:
        body_size(posted(*fields), 100)
    assert (raised.value.status, raised.value.reason) == refused


def test_body_size_of_a_get_request_with_a_coding_is_411() -> None:
    with pytest.raises(HandshakeError) as raised:
        body_size(posted(("Transfer-Encoding", "chunked"), method="GET"), 100)
    assert (raised.value.status, raised.value.reason) == NO_LENGTH


def test_body_size_of_http_1_0_with_a_coding_is_400() -> None:
    with pytest.raises(HandshakeError) as raised:
        body_size(posted(("Transfer-Encoding", "chunked"), version="HTTP/1.0"), 100)
    assert (raised.value.status, raised.value.reason) == WITH_CODING


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ("/say", ""),
        ("/say?", ""),
        ("/say?a=%20&b?", "a=%20&b?"),
        ("http://example.com?a", "a"),
        ("http://example.com/say?a=1", "a=1"),
    ],
)
def test_request_query_is_the_part_behind_the_path(target: str, query: str) -> None:
    assert Request("GET", target, "HTTP/1.1", Headers()).query == query


@pytest.mark.parametrize(
    ("make", "content", "content_type", "body"),
    [
        (Response.text, "Hé", "text/plain; charset=utf-8", "Hé"),
        (Response.html, "<p>Hé", "text/html; charset=utf-8", "<p>Hé"),
        (Response.json, {"a": [1, None]}, "application/json", '{"a": [1, null]}'),
    ],
)
def test_response_by_content_has_its_type(
    make: Callable[[Any], Response], content: object, content_type: str, body: str
) -> None:
    assert make(content) == Response(200, [("Content-Type", content_type)], body.encode())


def test_response_by_content_takes_status_and_headers() -> None:
    headers = [("Location", "/7")]
    for made in (Response.text("", 201, headers), Response.html("", 201, headers)):
        assert (made.status, made.headers[1:]) == (201, headers)
    made = Response.json("", status=201, headers=headers)
    assert (made.status, made.headers[1:]) == (201, headers)


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), ({1}, TypeError)])
def test_response_json_invalid_raises(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Response.json(value)


def test_repr_has_no_secret_and_is_bounded() -> None:
    secret = "c2VjcmV0"
    fields = [("Authorization", f"Bearer {secret}"), ("Cookie", secret), ("Host", "x")]
    request = Request("GET", f"/r/x?after=1&token={secret}", "HTTP/1.1", Headers(fields))
    assert repr(request) == "<Request GET /r/x?... HTTP/1.1, 3 headers, 0 bytes>"
    assert repr(request.headers) == "<Headers authorization, cookie, host>"
    assert repr(request._replace(target="/r/x")).startswith("<Request GET /r/x HTTP/1.1, ")
    response = Response(201, [("Set-Cookie", secret), ("Location", "/7")], secret.encode())
    assert repr(response) == "<Response 201 set-cookie, location, 8 bytes>"
    assert repr(Response(204)) == "<Response 204 no headers, 0 bytes>"
    long = Request("GET", "/\xa0" * 9999, "HTTP/1.1", Headers([("a" * 9999, "")]))
    for value in (long, long.headers, Response(200, long.headers.fields)):
        assert len(repr(value)) < 500
        assert repr(value).isascii()
