"""The opening handshake from both sides (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.client_handshake import (
    MAX_INTERIM_RESPONSES,
    ClientHandshake,
    upgrade_request,
    validate_response,
)
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import HandshakeResult, NegotiatedOptions, accept_key, parse_extensions
from wsproto_min.http import Headers, Request, Response, error_response
from wsproto_min.http_reader import parse_request
from wsproto_min.server_handshake import Acceptance, Deferred, ServerHandshake, accept
from wsproto_min.testing.raw_frame import parse_frame_notation
from wsproto_min.testing.strategies import chunkings

# RFC 6455, section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

Fields = list[tuple[str, str]]

REQUEST: Fields = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Origin", "http://example.com"),
    ("Sec-WebSocket-Protocol", "chat, superchat"),
    ("Sec-WebSocket-Version", "13"),
]
RESPONSE: Fields = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Accept", ACCEPT),
]


def request(fields: Fields = REQUEST, method: str = "GET", version: str = "HTTP/1.1") -> Request:
    return Request(method, "/chat", version, Headers(fields))


def altered(fields: Fields, name: str, *values: str) -> Fields:
    """Return the fields with other values for `name`, or without it."""
    kept = [field for field in fields if field[0] != name]
    assert len(kept) < len(fields), f"no {name} to alter"
    return kept + [(name, value) for value in values]


def refusal(request: Request) -> HandshakeError:
    with pytest.raises(HandshakeError) as raised:
        accept(request)
    return raised.value


# The server (section 4.2)


def test_accept_key_of_section_1_3() -> None:
    assert accept_key(KEY) == ACCEPT


def test_accept_request_of_section_1_2_gives_its_response() -> None:
    head = (
        b"GET /chat HTTP/1.1\r\n"
        b"Host: server.example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Origin: http://example.com\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Version: 13"
    )
    assert accept(parse_request(head), subprotocols=["chat"]).response.encode() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get"])
def test_accept_other_method_is_405_with_allow(method: str) -> None:
    error = refusal(request(method=method))
    assert error.status == 405
    assert error.reason == "a WebSocket handshake must use the method GET"
    assert error.headers == (("Allow", "GET"),)


def test_accept_http_1_0_is_400() -> None:
    error = refusal(request(version="HTTP/1.0"))
    assert (error.status, error.reason) == (400, "a WebSocket handshake needs HTTP/1.1")


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Host", 400, "header Host is missing"),
        ("Upgrade", 400, "header Upgrade must include 'websocket'"),
        ("Connection", 400, "header Connection must include 'Upgrade'"),
        ("Sec-WebSocket-Version", 426, "header Sec-WebSocket-Version must be 13"),
        ("Sec-WebSocket-Key", 400, "header Sec-WebSocket-Key is missing"),
    ],
)
def test_accept_missing_header_is_named(name: str, status: int, reason: str) -> None:
    error = refusal(request(altered(REQUEST, name)))
    assert (error.status, error.reason) == (status, reason)


@pytest.mark.parametrize("name", ["Host", "Sec-WebSocket-Version", "Sec-WebSocket-Key"])
def test_accept_repeated_header_is_named(name: str) -> None:
    (value,) = (value for field, value in REQUEST if field == name)
    error = refusal(request(altered(REQUEST, name, value, value)))
    assert (error.status, error.reason) == (400, f"header {name} must not be repeated")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Content-Length", ["5"]),
        ("content-length", ["00"]),
        ("Content-Length", ["+0"]),
        ("Content-Length", [""]),
        ("Content-Length", ["0, 0"]),
        ("Content-Length", ["0", "0"]),
        ("Transfer-Encoding", ["chunked"]),
        ("transfer-encoding", ["identity"]),
        ("Transfer-Encoding", [""]),
    ],
)
def test_accept_request_with_a_body_is_400(name: str, values: list[str]) -> None:
    error = refusal(request([*REQUEST, *((name, value) for value in values)]))
    repeated = f"header {name} must not be repeated"
    reason = repeated if len(values) > 1 else "a WebSocket handshake must not have a body"
    assert (error.status, error.reason) == (400, reason)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://example.org", 101),
        ("HTTPS://EXAMPLE.ORG", 101),
        ("tauri://localhost", 101),
        (None, 101),
        ("http://example.org", 403),
        ("https://example.org:8443", 403),
        ("https://example.org.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_accept_origin_of_another_site_is_403(origin: str | None, status: int) -> None:
    origins = ["https://Example.org/", "tauri://localhost"]
    fields = altered(REQUEST, "Origin", *([] if origin is None else [origin]))
    if status == 101:
        assert accept(request(fields), origins=origins).response.status == 101
        assert ServerHandshake(origins=origins)._respond(request(fields))
    else:
        with pytest.raises(HandshakeError):
            ServerHandshake(origins=origins)._respond(request(fields))
        with pytest.raises(HandshakeError) as raised:
            accept(request(fields), origins=origins)
        error = raised.value
        assert (error.status, error.reason) == (
            403,
            f"header Origin: pages of {origin!r} may not connect",
        )


def test_accept_without_origins_allows_every_site() -> None:
    fields = altered(REQUEST, "Origin", "https://a.example", "https://b.example")
    assert accept(request(fields)).response.status == 101
    with pytest.raises(HandshakeError, match="must not be repeated"):
        accept(request(fields), origins=["https://a.example"])
    with pytest.raises(HandshakeError, match="may not connect"):
        accept(request(), origins=[])


def test_accept_content_length_0_is_no_body() -> None:
    assert accept(request([*REQUEST, ("Content-Length", "0")])).response.status == 101


@pytest.mark.parametrize("name", ["Origin", "Sec-WebSocket-Protocol"])
def test_accept_optional_header_may_be_missing(name: str) -> None:
    assert accept(request(altered(REQUEST, name))).response.status == 101


@pytest.mark.parametrize("version", ["8", "7", "0", "14", "", "13, 8", "013", "13.0"])
def test_accept_other_version_is_426_with_supported_one(version: str) -> None:
    error = refusal(request(altered(REQUEST, "Sec-WebSocket-Version", version)))
    assert error.status == 426
    assert ("Sec-WebSocket-Version", "13") in error.headers
    assert ("Upgrade", "websocket") in error.headers  # RFC 9110, section 15.5.22


@pytest.mark.parametrize(
    "key",
    [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",  # no padding
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25j",  # 15 bytes
        "dGhlIHNhbXBsZSBub25jZSE=",  # 17 bytes
        "dGhlIHNhbXBsZSBub25jZQ== ,",
        "dGhlIHNhbXBsZSBub25j ZQ==",
        "dGhlIHNhbXBsZSBub25jZ!==",
        "dGhlIHNhbXBsZSBub25j\u00e9Q==",
        "________________________",  # the URL-safe alphabet is another
        "AAAA" * 1000,
    ],
)
def test_accept_key_not_16_bytes_in_base64_is_400(key: str) -> None:
    error = refusal(request(altered(REQUEST, "Sec-WebSocket-Key", key)))
    assert error.status == 400
    assert error.reason == "header Sec-WebSocket-Key must be 16 bytes in base64"


@given(st.binary(max_size=40))
def test_accept_key_is_valid_only_with_16_bytes(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    fields = altered(REQUEST, "Sec-WebSocket-Key", key)
    if len(nonce) == 16:
        assert ("Sec-WebSocket-Accept", accept_key(key)) in accept(request(fields)).response.headers
    else:
        assert refusal(request(fields)).status == 400


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Upgrade", ["WebSocket"]),
        ("Upgrade", ["WEBSOCKET"]),
        ("Upgrade", ["h2c, websocket"]),
        ("Upgrade", ["h2c", "websocket"]),
        ("Upgrade", [",websocket\t,"]),
        ("Connection", ["upgrade"]),
        ("Connection", ["keep-alive, Upgrade"]),
        ("Connection", ["UPGRADE,keep-alive"]),
        ("Connection", ["keep-alive", "upgrade"]),
    ],
)
def test_accept_token_in_any_case_place_and_line(name: str, values: list[str]) -> None:
    assert accept(request(altered(REQUEST, name, *values))).response.status == 101


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upgrade", "websockets"),
        ("Upgrade", "web socket"),
        ("Upgrade", "websocket/13"),
        ("Upgrade", "h2c"),
        ("Upgrade", ""),
        ("Connection", "close"),
        ("Connection", "keep-alive"),
        ("Connection", "upgraded"),
        ("Connection", "up grade"),
        ("Connection", ""),
    ],
)
def test_accept_partial_token_is_400(name: str, value: str) -> None:
    error = refusal(request(altered(REQUEST, name, value)))
    assert error.status == 400
    assert name in error.reason


@given(st.permutations(REQUEST), st.randoms(use_true_random=False))
def test_accept_ignores_order_and_case_of_headers(fields: Fields, randoms: random.Random) -> None:
    mixed = [
        ("".join(randoms.choice((c.lower(), c.upper())) for c in name), value)
        for name, value in fields
    ]
    assert accept(request(mixed), subprotocols=["chat"]) == accept(request(), subprotocols=["chat"])


@pytest.mark.parametrize(
    ("spoken", "offered", "chosen"),
    [
        ([], ["chat"], None),
        (["chat"], [], None),
        (["chat"], ["superchat"], None),
        (["chat"], ["Chat"], None),  # subprotocols are case-sensitive
        (["chat"], ["superchat, chat"], "chat"),
        (["chat"], ["superchat", "chat"], "chat"),
        (["superchat", "chat"], ["chat, superchat"], "superchat"),  # the server prefers
        (["a", "chat"], ["chat, superchat"], "chat"),
    ],
)
def test_accept_chooses_the_first_own_subprotocol_offered(
    spoken: list[str], offered: list[str], chosen: str | None
) -> None:
    acceptance = accept(
        request(altered(REQUEST, "Sec-WebSocket-Protocol", *offered)), subprotocols=spoken
    )
    values = Headers(acceptance.response.headers).values("Sec-WebSocket-Protocol")
    assert values == ([] if chosen is None else [chosen])
    assert acceptance.options.subprotocol == chosen


NAMES = st.sampled_from([name for name, _ in REQUEST] + ["Cookie"])
SUSPECTS = st.sampled_from(["", ",", "websocket", "Upgrade", "13", KEY, "\u00e9", "=" * 24, "\t"])


@given(
    st.lists(st.tuples(NAMES, SUSPECTS | st.text(st.characters(max_codepoint=255), max_size=8))),
    st.sampled_from(["GET", "POST", ""]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0"]),
)
def test_accept_arbitrary_headers_give_a_response_or_reason(
    fields: Fields, method: str, version: str
) -> None:
    for candidate in (fields, REQUEST + fields):
        try:
            acceptance = accept(request(candidate, method, version), subprotocols=["chat"])
            verdict, reason = int(acceptance.response.status), "accepted"
        except HandshakeError as error:
            verdict, reason = error.status, error.reason
        assert reason
        assert verdict == 101 if reason == "accepted" else verdict in (400, 405, 426), reason


# The client (section 4.1)


def test_upgrade_request_has_all_fields_of_section_4_1() -> None:
    data = upgrade_request(
        "server.example.com:8080",
        "/chat?room=1",
        KEY,
        subprotocols=["chat", "superchat"],
        headers=[("Origin", "http://example.com")],
    )
    assert data == (
        b"GET /chat?room=1 HTTP/1.1\r\n"
        b"Host: server.example.com:8080\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Origin: http://example.com\r\n"
        b"\r\n"
    )


def test_upgrade_request_without_subprotocols_has_no_header() -> None:
    assert b"Protocol" not in upgrade_request("a", "/", KEY)


def check(fields: Fields, subprotocols: Sequence[str] = (), status: int = 101) -> str | None:
    options = validate_response(Response(status, fields), KEY, subprotocols=subprotocols)
    assert options.compression is None
    return options.subprotocol


def test_validate_response_accepts_example_of_section_1_3() -> None:
    assert check(RESPONSE) is None


def test_validate_response_accepts_an_offered_subprotocol() -> None:
    fields = [*RESPONSE, ("Sec-WebSocket-Protocol", "chat")]
    assert check(fields, ["superchat", "chat"]) == "chat"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Upgrade", ["WebSocket"]),
        ("Connection", ["upgrade"]),
        ("Connection", ["keep-alive, UPGRADE"]),
        ("Connection", ["keep-alive", "Upgrade"]),
    ],
)
def test_validate_response_accepts_tokens_in_any_case(name: str, values: list[str]) -> None:
    assert check(altered(RESPONSE, name, *values)) is None


@pytest.mark.parametrize("status", [100, 200, 301, 401, 426, 503])
def test_validate_response_other_status_keeps_its_headers(status: int) -> None:
    with pytest.raises(HandshakeError, match=f"the server answered {status}") as raised:
        check([("Location", "/elsewhere")], status=status)
    assert raised.value.status == status
    assert raised.value.headers == (("location", "/elsewhere"),)


OTHER_ACCEPT = accept_key("AAAAAAAAAAAAAAAAAAAAAA==")
NOT_THE_KEYS = "the response's Sec-WebSocket-Accept does not fit the key"
NOT_OFFERED = "the server chose a subprotocol that was not offered"


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("Upgrade", [], "the response's Upgrade must be 'websocket'"),
        ("Upgrade", [""], "the response's Upgrade must be 'websocket'"),
        ("Upgrade", ["h2c"], "the response's Upgrade must be 'websocket'"),
        ("Upgrade", ["h2c, websocket"], "the response's Upgrade must be 'websocket'"),
        ("Connection", [], "the response's Connection must include 'Upgrade'"),
        ("Connection", ["close"], "the response's Connection must include 'Upgrade'"),
        ("Sec-WebSocket-Accept", [], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [""], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [ACCEPT.lower()], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [OTHER_ACCEPT], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [KEY], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [ACCEPT, ACCEPT], NOT_THE_KEYS),
    ],
)
def test_validate_response_names_the_broken_rule(name: str, values: list[str], rule: str) -> None:
    headers = altered(RESPONSE, name, *values)
    with pytest.raises(HandshakeError) as raised:
        check(headers)
    assert (raised.value.status, raised.value.reason) == (101, f"{rule} (RFC 6455, 4.1)")
    assert raised.value.headers == Headers(headers).fields


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        (
            [("Sec-WebSocket-Extensions", "permessage-deflate")],
            "the server uses an extension that was not offered: permessage-deflate",
        ),
        ([("Sec-WebSocket-Protocol", "other")], NOT_OFFERED),
        ([("Sec-WebSocket-Protocol", "Chat")], NOT_OFFERED),
        ([("Sec-WebSocket-Protocol", "")], NOT_OFFERED),
        ([("Sec-WebSocket-Protocol", "chat, superchat")], NOT_OFFERED),
        ([("Sec-WebSocket-Protocol", "chat")] * 2, "the server chose more than one subprotocol"),
    ],
)
def test_validate_response_refuses_options_not_offered(extra: Fields, rule: str) -> None:
    with pytest.raises(HandshakeError) as raised:
        check(RESPONSE + extra, ["chat", "superchat"])
    assert raised.value.reason == f"{rule} (RFC 6455, 4.1)"


def test_validate_response_accepts_empty_extensions() -> None:
    assert check([*RESPONSE, ("Sec-WebSocket-Extensions", "")]) is None


# Extensions (section 9.1, and RFC 7692, section 5)

EXTENSIONS = "Sec-WebSocket-Extensions"


def extended(*lines: str) -> Request:
    return request([*REQUEST, *((EXTENSIONS, line) for line in lines)])


def extensions_of(acceptance: Acceptance) -> str | None:
    return Headers(acceptance.response.headers).get(EXTENSIONS)


@pytest.mark.parametrize(
    ("lines", "extensions"),
    [
        ([], []),
        (["", " , ,"], []),
        (["foo"], [("foo", [])]),
        (["foo, bar; baz"], [("foo", []), ("bar", [("baz", None)])]),
        (["foo", "bar"], [("foo", []), ("bar", [])]),
        (["foo;a=1;b"], [("foo", [("a", "1"), ("b", None)])]),
        (["foo\t;  a =\t1 ;b"], [("foo", [("a", "1"), ("b", None)])]),
        (['foo; a="1"'], [("foo", [("a", "1")])]),
        (['foo; a="\\1\\0"'], [("foo", [("a", "10")])]),
        (["foo; a=1; a=2"], [("foo", [("a", "1"), ("a", "2")])]),
        (["XfooX; XaX=X1X"], [("XfooX", [("XaX", "X1X")])]),
    ],
)
def test_parse_extensions_keeps_order_over_lines(
    lines: list[str], extensions: list[tuple[str, list[tuple[str, str | None]]]]
) -> None:
    assert parse_extensions(Headers([(EXTENSIONS, line) for line in lines])) == extensions


MALFORMED = [
    "foo bar",
    "foo;",
    "foo; ;a",
    "; a",
    "=1",
    "f\u00f6\u00f6",
    "foo; a=",
    "foo; =1",
    "foo; a b",
    "foo; a=1 2",
    "foo; a=1=2",
    'foo; a="',
    'foo; a=""',
    'foo; a="1 2"',
    'foo; a="1,2"',
    'foo; a="1;2"',
    '"foo"',
    "foo/1",
    # Only spaces and tabs may surround a name or a value.
    "foo\xa0",
    "foo;\xa0a",
    "foo; a\x85=1",
    "foo; a=\xa01",
]


@pytest.mark.parametrize("line", MALFORMED)
def test_parse_extensions_malformed_is_400_and_fails_a_client(line: str) -> None:
    error = refusal(extended("permessage-deflate", line))
    assert error.status == 400
    name = line.partition(";")[0].strip(" \t")
    assert error.reason in (
        "header Sec-WebSocket-Extensions is malformed",
        f"extension {name!r} has a malformed parameter",
    )
    with pytest.raises(HandshakeError, match="malformed") as raised:
        validate_response(
            Response(101, [*RESPONSE, (EXTENSIONS, line)]),
            KEY,
            compression=DeflateParameters.DEFAULT,
        )
    assert raised.value.status == 101
    assert raised.value.headers[-1] == (EXTENSIONS.lower(), line)


def test_parse_extensions_error_shortens_a_long_name() -> None:
    with pytest.raises(HandshakeError) as raised:
        parse_extensions(Headers([(EXTENSIONS, f"{'a' * 49}bc; =")]))
    assert raised.value.reason == f"extension '{'a' * 49}b' has a malformed parameter"


@pytest.mark.parametrize(
    ("lines", "negotiated"),
    [
        (["permessage-deflate"], DeflateParameters.DEFAULT),
        (
            ["foo", "permessage-deflate; server_max_window_bits=10"],
            DeflateParameters(False, False, 10),
        ),
        (['permessage-deflate; server_max_window_bits="10"'], DeflateParameters(False, False, 10)),
        # The server accepts the first acceptable offer (RFC 7692, 5.1).
        (["permessage-deflate; x, permessage-deflate"], DeflateParameters.DEFAULT),
        (
            [
                "permessage-deflate; server_max_window_bits=16",
                "permessage-deflate; server_max_window_bits=9",
            ],
            DeflateParameters(False, False, 9),
        ),
        (
            ["permessage-deflate; client_no_context_takeover, permessage-deflate"],
            DeflateParameters(False, True),
        ),
        (["permessage-deflate; client_max_window_bits"], DeflateParameters.DEFAULT),
        (["permessage-deflate; x"], None),
        (["Permessage-Deflate"], None),
        (["x-webkit-deflate-frame"], None),
        ([], None),
    ],
)
def test_accept_answers_the_first_acceptable_offer(
    lines: list[str], negotiated: DeflateParameters | None
) -> None:
    acceptance = accept(extended(*lines), compression=DeflateParameters.DEFAULT)
    header = None if negotiated is None else negotiated.to_header()
    assert extensions_of(acceptance) == header
    assert acceptance.options.compression == negotiated


def test_accept_without_compression_declines_all_offers() -> None:
    acceptance = accept(extended("permessage-deflate"), compression=None)
    assert extensions_of(acceptance) is None
    assert acceptance.options == NegotiatedOptions()


def test_accept_negotiates_compression_by_default() -> None:
    acceptance = accept(extended("permessage-deflate"))
    assert acceptance.options.compression == DeflateParameters.NO_CONTEXT_TAKEOVER


def test_accept_adds_further_headers() -> None:
    acceptance = accept(request(), headers=[("Set-Cookie", "a=b")])
    assert acceptance.response.headers[-1] == ("Set-Cookie", "a=b")


def test_accept_returns_the_negotiated_options() -> None:
    acceptance = accept(
        extended("permessage-deflate; client_max_window_bits"),
        subprotocols=["superchat"],
        compression=DeflateParameters(True, True, 12, 11),
    )
    assert acceptance.options == NegotiatedOptions(
        "superchat", DeflateParameters(True, True, 12, 11)
    )


def test_response_with_unknown_extension_negotiates_nothing() -> None:
    acceptance = accept(request(), headers=[(EXTENSIONS, "x-its-own")])
    assert acceptance.options == NegotiatedOptions()


def test_accept_puts_extensions_last() -> None:
    acceptance = accept(
        request([*REQUEST, (EXTENSIONS, "permessage-deflate")]),
        compression=DeflateParameters.DEFAULT,
    )
    assert acceptance.response.headers[3:] == [("Sec-WebSocket-Extensions", "permessage-deflate")]


NOT_REQUESTED = "the server uses an extension that was not offered: permessage-deflate"
UNFIT = "the server's permessage-deflate does not fit the offer"


@pytest.mark.parametrize(
    ("offer", "extensions", "rule"),
    [
        (None, "permessage-deflate", NOT_REQUESTED),
        (
            DeflateParameters.DEFAULT,
            "x-foo",
            "the server uses an extension that was not offered: x-foo",
        ),
        (DeflateParameters.DEFAULT, "permessage-deflate, permessage-deflate", NOT_REQUESTED),
        (DeflateParameters.DEFAULT, "permessage-deflate; x", UNFIT),
        (DeflateParameters.DEFAULT, "permessage-deflate; server_max_window_bits=7", UNFIT),
        (DeflateParameters.DEFAULT, "permessage-deflate; client_max_window_bits", UNFIT),
        (DeflateParameters.NO_CONTEXT_TAKEOVER, "permessage-deflate", UNFIT),
    ],
)
def test_validate_response_refuses_an_unfit_extension(
    offer: DeflateParameters | None, extensions: str, rule: str
) -> None:
    with pytest.raises(HandshakeError) as raised:
        validate_response(
            Response(101, [*RESPONSE, (EXTENSIONS, extensions)]), KEY, compression=offer
        )
    assert raised.value.reason == f"{rule} (RFC 6455, 4.1)"


@pytest.mark.parametrize("extensions", [None, "", "permessage-deflate; client_max_window_bits=9"])
def test_validate_response_accepts_a_fit_or_no_extension(extensions: str | None) -> None:
    lines = [] if extensions is None else [(EXTENSIONS, extensions)]
    negotiated = validate_response(
        Response(101, [*RESPONSE, *lines]), KEY, compression=DeflateParameters.DEFAULT
    ).compression
    assert negotiated == (DeflateParameters(client_max_window_bits=9) if extensions else None)


def test_upgrade_request_offers_compression() -> None:
    sent = upgrade_request("a", "/", KEY, compression=DeflateParameters.DEFAULT)
    line = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    assert line in sent
    assert b"Extensions" not in upgrade_request("a", "/", KEY)


# Both sides, without I/O


SUBPROTOCOLS = st.lists(
    st.sampled_from(["chat", "Chat", "superchat", "chat.v1", "v2"]), unique=True
)


@given(st.data(), st.binary(min_size=16, max_size=16), SUBPROTOCOLS, SUBPROTOCOLS)
def test_handshake_of_any_chunking_agrees_on_a_subprotocol(
    data: st.DataObject, nonce: bytes, offered: list[str], spoken: list[str]
) -> None:
    key = base64.b64encode(nonce).decode()
    client = ClientHandshake("a", "/", key=key, subprotocols=offered)
    server = ServerHandshake(subprotocols=spoken)
    frame = bytes.fromhex("81 02 6869")  # a frame in the same read

    def deliver(sent: bytes, to: ClientHandshake | ServerHandshake) -> HandshakeResult:
        result = None
        chunks = data.draw(chunkings(sent))
        for index, chunk in enumerate(chunks):
            to.receive_data(chunk)
            result = to.next_result()
            if result is not None:
                assert result.trailing_data + b"".join(chunks[index + 1 :]) == frame
                return result
        raise AssertionError(f"no result for {sent!r}")

    accepted = deliver(client.data_to_send() + frame, server)
    assert accepted.error is None
    assert accepted.connection is not None
    assert accepted.connection.role is Role.SERVER
    opened = deliver(server.data_to_send() + frame, client)
    assert opened.error is None
    assert opened.connection is not None
    assert opened.connection.role is Role.CLIENT
    chosen = next((name for name in spoken if name in offered), None)
    assert accepted.subprotocol == opened.subprotocol == chosen
    assert accepted.compression == opened.compression == DeflateParameters.NO_CONTEXT_TAKEOVER


def server_result(data: bytes, **options: Any) -> tuple[HandshakeResult, bytes]:
    """Return the outcome of a server's handshake and the bytes that it sends."""
    server = ServerHandshake(**options)
    server.receive_data(data)
    result = server.next_result()
    assert result is not None
    return result, server.data_to_send()


OPENING = upgrade_request("a", "/", KEY)


def test_server_handshake_refusal_has_error_and_response() -> None:
    result, sent = server_result(OPENING.replace(b"13", b"12"))
    assert result.connection is None
    assert result.error is not None
    assert result.error.status == 426
    assert result.request is not None
    assert result.response == error_response(result.error)
    assert sent.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")


def test_server_handshake_result_has_request_and_response() -> None:
    result, sent = server_result(OPENING + b"trailing")
    assert result.request is not None
    assert result.request.target == "/"
    assert result.response is not None
    assert result.response.encode() == sent
    assert result.trailing_data == b"trailing"


def test_server_handshake_malformed_request_is_400() -> None:
    result, sent = server_result(b"hello\r\n\r\n")
    assert (result.request, result.connection) == (None, None)
    assert result.error is not None
    assert sent.startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_server_handshake_skips_an_empty_line_at_the_start() -> None:
    result, sent = server_result(b"\r\n" + OPENING)
    assert result.connection is not None
    assert sent.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16", "the client began TLS on a port without TLS; use ws:// or http://"),
        (
            b"\x16\x03\x01\x02\x00\x01",
            "the client began TLS on a port without TLS; use ws:// or http://",
        ),
        (b"\x80\x2e\x01\x03\x01", "the first bytes are not an HTTP request"),  # SSL 2.0
        (b"\x81\x85\x37\xfa\x21\x3d", "the first bytes are not an HTTP request"),  # a frame
    ],
)
def test_server_handshake_other_protocol_is_400_at_once(data: bytes, reason: str) -> None:
    result, sent = server_result(data)
    assert result.error is not None
    assert result.error.reason == reason
    assert sent.startswith(b"HTTP/1.1 400 ")


def test_server_handshake_eof_within_the_head_is_an_error() -> None:
    server = ServerHandshake()
    server.receive_data(b"GET / HTT")
    assert server.next_result() is None
    server.receive_eof()
    result = server.next_result()
    assert result is not None
    assert result.error is not None
    assert (result.error.status, result.error.reason) == (400, "the request ended within its head")


def test_server_handshake_sends_its_response_once() -> None:
    server = ServerHandshake()
    assert server.data_to_send() == b""
    server.receive_data(OPENING)
    assert server.next_result() is not None
    assert server.data_to_send().startswith(b"HTTP/1.1 101 ")
    assert server.data_to_send() == b""


def test_server_handshake_respond_may_return_a_page() -> None:
    page = Response(200, [("Content-Type", "text/plain")], b"hi")
    for method, body in (("GET", b"hi"), ("HEAD", b"")):
        result, sent = server_result(
            f"{method} / HTTP/1.1\r\n\r\n".encode(), respond=lambda request: page
        )
        assert (result.response, result.error, result.connection) == (page, None, None)
        assert result.request is not None
        assert result.request.method == method
        assert sent == page.encode(head_only=True) + body


def test_server_handshake_refused_head_request_has_no_body() -> None:
    _, sent = server_result(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert sent.endswith(b"\r\n\r\n")


def test_server_handshake_respond_with_a_bare_101_is_an_error() -> None:
    reason = r"^response: status 101 by itself; return accept\(\.\.\.\) instead$"
    with pytest.raises(ValueError, match=reason):
        server_result(OPENING, respond=lambda request: Response(101))


def test_server_handshake_passes_limits_to_the_connection() -> None:
    result, _ = server_result(OPENING, max_message_size=3)
    connection = result.connection
    assert connection is not None
    connection.receive_data(bytes.fromhex("81 84"))
    connection.receive_data(bytes(4))
    connection.next_event()
    assert connection.error is not None
    assert connection.error.code == 1009


def accepted(**options: Any) -> Connection:
    """Return the connection of a server."""
    opening = upgrade_request("a", "/", KEY, compression=DeflateParameters.DEFAULT)
    result, _ = server_result(opening, **options)
    assert result.connection is not None
    return result.connection


def opened(**options: Any) -> Connection:
    """Return the connection of a client whose offer a server accepts."""
    client = ClientHandshake("a", "/", key=KEY, **options)
    request = parse_request(client.data_to_send()[:-4])
    client.receive_data(accept(request, compression=DeflateParameters.DEFAULT).response.encode())
    result = client.next_result()
    assert result is not None
    assert result.connection is not None
    return result.connection


@pytest.mark.parametrize("make", [accepted, opened])
def test_handshake_passes_its_options_to_the_connection(make: Callable[..., Connection]) -> None:
    limits: list[tuple[dict[str, int], int | None]] = [
        ({"max_message_size": 3}, 1009),
        ({"max_fragments": 2}, 1008),
        ({}, None),
    ]
    for limit, code in limits:
        connection = make(**limit)
        masked = connection.role is Role.SERVER
        notation = "01 02 . 6161 | 00 02 . 6161 | 80 00 ."
        connection.receive_data(parse_frame_notation(notation, masked=masked))
        while connection.next_event() is not None:
            pass
        assert (connection.error and connection.error.code) == code
    for threshold, compressed in ((10, True), (100, False)):
        connection = make(compression_threshold=threshold)
        connection.send("a" * 50)
        assert bool(connection.data_to_send()[0] & 0x40) is compressed
    connection = make(compression=None)
    connection.send("a" * 1000)
    assert connection.data_to_send()[0] == 0x81


def client_result(data: bytes, *, eof: bool = False) -> HandshakeResult | None:
    client = ClientHandshake("a", "/", key=KEY)
    client.receive_data(data)
    if eof:
        client.receive_eof()
    return client.next_result()


def test_client_handshake_sends_its_request_once() -> None:
    client = ClientHandshake("a", "/chat", key=KEY, compression=None)
    assert client.data_to_send() == upgrade_request("a", "/chat", KEY)
    assert client.data_to_send() == b""
    headers = [("Authorization", "Bearer x")]
    client = ClientHandshake("a", "/", key=KEY, compression=None, headers=headers)
    assert client.data_to_send() == upgrade_request("a", "/", KEY, headers=headers)


def test_client_handshake_key_is_random_by_default() -> None:
    requests = {ClientHandshake("a", "/").data_to_send() for _ in range(10)}
    assert len(requests) == 10


def test_client_handshake_refusal_keeps_response_and_body() -> None:
    result = client_result(b"HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\nno entry")
    assert result is not None
    assert result.error is not None
    assert (result.error.status, result.connection) == (403, None)
    assert result.response == Response(403, (("a", "b"),))
    assert result.trailing_data == b"no entry"


@pytest.mark.parametrize(
    ("data", "eof", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False, "the server's response is not HTTP/1.1"),
        (b"x" * 20_000, False, "the head of the server's response is too long"),
        (b"HTTP/1.1 101", True, "the server closed the connection without a response"),
    ],
)
def test_client_handshake_without_a_response_has_status_0(
    data: bytes, eof: bool, reason: str
) -> None:
    result = client_result(data, eof=eof)
    assert result is not None
    assert result.error is not None
    assert (result.error.status, result.error.reason) == (0, reason)
    assert (result.response, result.connection) == (None, None)


def test_client_handshake_incomplete_response_needs_more_data() -> None:
    assert client_result(b"HTTP/1.1 101") is None


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("number", [1, MAX_INTERIM_RESPONSES])
@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_client_handshake_skips_interim_responses(status: int, number: int, step: int) -> None:
    interim = b"HTTP/1.1 %d X\r\nLink: </a>\r\n\r\n" % status
    final = accept(parse_request(upgrade_request("a", "/", KEY)[:-4])).response.encode()
    data = interim * number + final + b"trailing"
    client = ClientHandshake("a", "/", key=KEY)
    results = []
    for start in range(0, len(data) - len(b"trailing"), step):
        client.receive_data(data[start : start + step])
        results.append(client.next_result())
    *earlier, result = results
    assert set(earlier) <= {None}
    assert result is not None
    assert result.connection is not None
    assert result.response is not None
    assert result.response.status == 101


def test_client_handshake_refusal_after_interim_has_its_status() -> None:
    result = client_result(b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 403 No\r\n\r\nno entry")
    assert result is not None
    assert result.error is not None
    assert (result.error.status, result.trailing_data) == (403, b"no entry")


def test_client_handshake_interim_responses_have_a_limit() -> None:
    interim = b"HTTP/1.1 103 X\r\n\r\n"
    assert client_result(interim * MAX_INTERIM_RESPONSES) is None
    result = client_result(interim * (MAX_INTERIM_RESPONSES + 1))
    assert result is not None
    assert result.error is not None
    expected = (0, "the server sent over 10 interim responses")
    assert (result.error.status, result.error.reason) == expected


@pytest.mark.parametrize("status", ["099", "000"])
def test_client_handshake_status_below_100_is_final(status: str) -> None:
    result = client_result(f"HTTP/1.1 {status} X\r\n\r\n".encode())
    assert result is not None
    assert result.error is not None
    assert result.error.status == int(status)


# Bodies of plain HTTP requests, and decisions that come later.

POST = b"POST /say HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def keep(request: Request) -> Response:
    return Response(200, body=request.body)


@given(st.data())
def test_server_handshake_body_chunked_anyhow_is_the_same(data: st.DataObject) -> None:
    server = ServerHandshake(keep, max_body_size=5)
    results: list[HandshakeResult] = []
    for chunk in data.draw(chunkings(POST + b"hello, and more")):
        server.receive_data(chunk)
        results += [result] if (result := server.next_result()) and not results else []
    assert results[0].response == Response(200, body=b"hello")


def test_server_handshake_body_ignored_without_a_limit() -> None:
    result, _ = server_result(POST, respond=keep)
    assert result.response == Response(200)


def test_server_handshake_eof_within_the_body_is_an_error() -> None:
    server = ServerHandshake(keep, max_body_size=5)
    server.receive_data(POST + b"hell")
    assert server.next_result() is None
    assert server.unfinished_size == 4
    server.receive_eof()
    result = server.next_result()
    assert result is not None
    assert result.error is not None
    assert (result.error.status, result.error.reason) == (400, "the request ended within its body")


@pytest.mark.parametrize(
    ("early", "interim"), [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"h", b"")]
)
def test_server_handshake_asks_for_a_body_not_begun(early: bytes, interim: bytes) -> None:
    server = ServerHandshake(keep, max_body_size=5)
    server.receive_data(POST.replace(b"Host", b"Expect: 100-continue\r\nHost") + early)
    assert server.next_result() is None
    assert server.data_to_send() == interim
    server.receive_data(b"hello"[len(early) :])
    assert server.next_result() is not None
    assert server.data_to_send().startswith(b"HTTP/1.1 200 ")


def test_server_handshake_deferred_is_decided_once() -> None:
    server = ServerHandshake(lambda request: Deferred())
    server.decide(Response(404))  # no request yet
    server.receive_data(POST)
    assert (server.next_result(), server.is_deferred) == (None, True)
    server.receive_data(b"hello")
    assert server.next_result() is None
    server.decide(Response(201))
    server.decide(Response(500))
    result = server.next_result()
    assert result is not None
    assert result.response == Response(201)


def test_server_handshake_deferred_may_be_refused() -> None:
    server = ServerHandshake(lambda request: Deferred())
    server.receive_data(OPENING)
    assert server.next_result() is None
    server.decide(HandshakeError(401, "authenticate first"))
    result = server.next_result()
    assert result is not None
    assert result.error is not None
    assert server.data_to_send().startswith(b"HTTP/1.1 401 ")


def test_server_handshake_respond_of_a_wrong_type_raises() -> None:
    for wrong in (None, b"HTTP/1.1 200 OK"):
        answers: Any = iter([wrong])
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=f"response: is {kind}; return an Acceptance, Response"):
            server_result(OPENING, respond=lambda request, answers=answers: next(answers))
