"""As much of HTTP/1.1 as the handshake needs: RFC 9110 and RFC 9112."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.errors import HandshakeError
from wsproto_min.http import (
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    Headers,
    HeadReader,
    Request,
    Response,
    encode_head,
    error_response,
    parse_request,
    parse_response,
)
from wsproto_min.testing.strategies import chunkings, single_bytes

TOKENS = st.text("!#$%&'*+-.^_`|~0123456789abcxyzABCXYZ", min_size=1, max_size=12)
# What may stand within a value: visible ASCII, blanks, and bytes beyond ASCII.
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
).map(lambda value: value.strip(" \t"))
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=8)


def gather(*chunks: bytes) -> tuple[bytes, bytes] | int | None:
    """Return the head and what follows it, the status of a refusal, or None if not whole."""
    buffer = HeadReader()
    for index, chunk in enumerate(chunks):
        try:
            found = buffer.receive_data(chunk)
        except HandshakeError as error:
            return error.status
        if found is not None:
            head, rest = found
            return head, rest + b"".join(chunks[index + 1 :])
    return None


def refusal(head: bytes) -> tuple[int, str]:
    """Return the status and reason with which a request is refused."""
    with pytest.raises(HandshakeError) as raised:
        parse_request(head)
    return raised.value.status, raised.value.reason


# A head, however it arrives


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
        (b"A\n\nB", None),  # bare LFs end nothing
        (b"A\r\r\n\n", None),
    ],
)
def test_a_head_ends_at_its_empty_line(data: bytes, found: tuple[bytes, bytes] | None) -> None:
    assert gather(data) == found
    assert gather(*single_bytes(data)) == found


@given(st.data(), st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"]), max_size=30))
def test_any_chunking_finds_the_same_head(data: st.DataObject, pieces: list[bytes]) -> None:
    received = b"".join(pieces)
    head, end, rest = received.partition(b"\r\n\r\n")
    chunks = data.draw(chunkings(received))
    assert gather(*chunks) == ((head, rest) if end else None)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000, MAX_HEAD_SIZE])
def test_a_head_of_16_kib_is_taken_and_one_byte_more_is_431_however_it_arrives(size: int) -> None:
    for length, verdict in [(MAX_HEAD_SIZE, None), (MAX_HEAD_SIZE + 1, 431)]:
        data = b"x" * length + b"\r\n\r\n"
        expected = (b"x" * length, b"") if verdict is None else verdict
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert gather(*chunks) == expected, f"{length} bytes in chunks of {size}"
        assert gather(data) == expected, f"{length} bytes at once"


@pytest.mark.parametrize("tail", [b"", b"\r", b"\r\n", b"\r\n\r"])
def test_a_head_without_an_end_is_refused_as_soon_as_no_end_could_come_in_time(
    tail: bytes,
) -> None:
    undecided = b"x" * MAX_HEAD_SIZE + tail
    assert gather(undecided) is None
    assert gather(undecided + b"\r\n\r\n"[len(tail) :]) == (b"x" * MAX_HEAD_SIZE, b"")
    assert gather(undecided + b"x" * (4 - len(tail))) == 431
    assert gather(*single_bytes(undecided + b"x" * (4 - len(tail)))) == 431


def test_what_follows_a_head_does_not_count_as_its_size() -> None:
    rest = bytes(10 * MAX_HEAD_SIZE)
    assert gather(b"A\r\n\r\n" + rest) == (b"A", rest)


def test_the_refusal_of_a_long_head_says_how_long_it_may_be() -> None:
    with pytest.raises(HandshakeError, match="longer than 16384 bytes"):
        HeadReader().receive_data(b"x" * 20_000)


class CountingBytes(bytearray):
    """Counts the bytes that `find` looks at."""

    looked_at = 0

    def find(self, *args: object) -> int:
        _, start = args
        assert isinstance(start, int)
        self.looked_at += len(self) - start
        return super().find(b"\r\n\r\n", start)


def test_the_search_for_the_end_looks_at_each_byte_a_fixed_number_of_times() -> None:
    buffer = HeadReader()
    buffer._data = counted = CountingBytes()
    for byte in single_bytes(b"A: b\r\n" * 2000):
        assert buffer.receive_data(byte) is None
    assert 0 < counted.looked_at <= 4 * 12_000


# Requests


def test_a_request_is_its_line_and_its_headers() -> None:
    head = b"GET /r/lobby?name=a%20b HTTP/1.1\r\nHost: example.com\r\nX-Empty:\r\nx-empty: \t "
    request = parse_request(head)
    assert (request.method, request.target, request.version) == (
        "GET",
        "/r/lobby?name=a%20b",
        "HTTP/1.1",
    )
    assert request.headers.fields == (("host", "example.com"), ("x-empty", ""), ("x-empty", ""))


@pytest.mark.parametrize(
    ("target", "path"),
    [("/", "/"), ("/a?b", "/a"), ("/a?b?c", "/a"), ("/?", "/"), ("/a%3fb", "/a%3fb"), ("*", "*")],
)
def test_the_path_is_the_target_up_to_a_question_mark(target: str, path: str) -> None:
    assert parse_request(f"GET {target} HTTP/1.1".encode()).path == path


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_request_may_be_in_http_1_0_too(version: str) -> None:
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
def test_a_bad_request_line_is_400(line: bytes, rule: str) -> None:
    status, reason = refusal(line)
    assert status == 400
    assert rule in reason


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
def test_a_bad_header_line_is_400(header: bytes, rule: str) -> None:
    for head in (
        b"GET / HTTP/1.1\r\n" + header,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + header + b"\r\nB: c",
    ):
        status, reason = refusal(head)
        assert status == 400
        assert rule in reason


@pytest.mark.parametrize("byte", range(256))
def test_a_value_may_hold_any_byte_but_a_control_character(byte: int) -> None:
    head = b"GET / HTTP/1.1\r\nA: x" + bytes((byte,)) + b"x"
    if byte == 0x09 or (byte >= 0x20 and byte != 0x7F):
        assert parse_request(head).headers.get("A") == f"x{chr(byte)}x"
    else:
        assert refusal(head)[0] == 400


def test_100_headers_are_taken_and_one_more_is_431() -> None:
    head = b"GET / HTTP/1.1" + b"\r\nA: b" * MAX_HEADERS
    assert len(parse_request(head).headers.fields) == 100
    assert refusal(head + b"\r\nA: b") == (431, "there are over 100 headers")


@given(TOKENS, FIELDS)
def test_what_was_encoded_is_parsed_to_the_same_fields(
    method: str, fields: list[tuple[str, str]]
) -> None:
    data = encode_head(f"{method} / HTTP/1.1", fields)
    found = gather(data)
    assert isinstance(found, tuple)
    head, rest = found
    request = parse_request(head)
    assert (request.method, rest) == (method, b"")
    assert request.headers.fields == tuple((name.lower(), value) for name, value in fields)


HTTP_PIECES = st.sampled_from(
    [b"GET / HTTP/1.1", b"HTTP/1.1 101 OK", b"\r\n", b"\n", b"A: b", b" ", b":", b"\t", b"\0"]
)


@given(
    st.binary(max_size=100)
    | st.lists(HTTP_PIECES | st.binary(max_size=3), max_size=20).map(b"".join)
)
def test_arbitrary_bytes_raise_nothing_but_a_handshake_error(head: bytes) -> None:
    for parse in (parse_request, parse_response):
        with contextlib.suppress(HandshakeError):
            parse(head)


# Fields


def test_names_compare_without_regard_to_case() -> None:
    headers = Headers([("hOsT", "a"), ("Other", "b"), ("HOST", "c")])
    assert headers.values("Host") == ["a", "c"]
    assert Headers([("X-a", "1")]).get("x-A") == "1"


def test_a_field_that_is_absent_has_no_value() -> None:
    headers = Headers()
    assert (headers.get("Host"), headers.values("Host"), headers.tokens("Host")) == (None, [], [])


def test_a_field_that_must_have_one_value_may_not_be_repeated_not_even_the_same() -> None:
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
def test_a_list_is_gathered_over_its_lines_without_its_empty_items(
    values: list[str], tokens: list[str]
) -> None:
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
def test_a_faulty_opening_handshake_still_counts_as_one(
    fields: list[tuple[str, str]], wanted: bool
) -> None:
    assert Request("GET", "/", "HTTP/1.1", Headers(fields)).wants_websocket is wanted


# Responses


def test_a_response_has_its_length_and_says_that_the_connection_ends() -> None:
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


def test_an_upgrade_has_neither_a_length_nor_an_end() -> None:
    response = Response(101, [("Upgrade", "websocket")])
    assert response.encode() == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def test_an_error_tells_its_reason_in_plain_text() -> None:
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
def test_a_line_break_cannot_be_smuggled_into_a_head(
    first: str, fields: list[tuple[str, str]]
) -> None:
    with pytest.raises(ValueError, match="control character"):
        encode_head(first, fields)


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
def test_a_response_is_its_status_and_its_headers(line: str, status: int) -> None:
    parsed, headers = parse_response(f"{line}\r\nUpgrade: websocket".encode("latin-1"))
    assert (parsed, headers.fields) == (status, (("upgrade", "websocket"),))


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
def test_an_answer_that_is_not_http_1_1_has_status_0(line: bytes) -> None:
    with pytest.raises(HandshakeError, match=r"the server's answer is not HTTP/1\.1") as raised:
        parse_response(line)
    assert raised.value.status == 0


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 OK\r\nUpgrade",
        b"HTTP/1.1 101 OK\r\nUpgrade : websocket",
        b"HTTP/1.1 101 OK\r\nA: \0",
        b"HTTP/1.1 101 OK" + b"\r\nA: b" * (MAX_HEADERS + 1),
    ],
)
def test_an_answer_with_bad_headers_has_status_0_for_no_server_sent_the_400(head: bytes) -> None:
    with pytest.raises(HandshakeError) as raised:
        parse_response(head)
    assert raised.value.status == 0
