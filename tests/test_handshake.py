"""The opening handshake from both sides: RFC 6455, section 4."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import (
    NegotiatedOptions,
    accept,
    accept_key,
    agreement,
    parse_extensions,
    upgrade_request,
    validate_response,
)
from wsproto_min.http import Headers, HeadReader, Request, Response, parse_request, parse_response
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
    """Return the fields with those values for one of them, or without it if there are none."""
    kept = [field for field in fields if field[0] != name]
    assert len(kept) < len(fields), f"no {name} to alter"
    return kept + [(name, value) for value in values]


def refusal(request: Request) -> HandshakeError:
    with pytest.raises(HandshakeError) as raised:
        accept(request)
    return raised.value


# The server (section 4.2)


def test_the_key_of_section_1_3_has_the_answer_of_section_1_3() -> None:
    assert accept_key(KEY) == ACCEPT


def test_the_request_of_section_1_2_has_the_answer_of_section_1_2() -> None:
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
    assert accept(parse_request(head), subprotocols=["chat"]).encode() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get"])
def test_another_method_than_get_is_405_and_told_which_is_allowed(method: str) -> None:
    error = refusal(request(method=method))
    assert error.status == 405
    assert error.reason == "a WebSocket handshake must use the method GET"
    assert error.headers == (("Allow", "GET"),)


def test_http_1_0_is_400() -> None:
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
def test_the_refusal_names_the_header_that_is_missing(name: str, status: int, reason: str) -> None:
    error = refusal(request(altered(REQUEST, name)))
    assert (error.status, error.reason) == (status, reason)


@pytest.mark.parametrize("name", ["Host", "Sec-WebSocket-Version", "Sec-WebSocket-Key"])
def test_the_refusal_names_the_header_that_is_repeated(name: str) -> None:
    (value,) = (value for field, value in REQUEST if field == name)
    error = refusal(request(altered(REQUEST, name, value, value)))
    assert (error.status, error.reason) == (400, f"header {name} must not be repeated")


@pytest.mark.parametrize("name", ["Origin", "Sec-WebSocket-Protocol"])
def test_what_is_optional_may_be_missing(name: str) -> None:
    assert accept(request(altered(REQUEST, name))).status == 101


@pytest.mark.parametrize("version", ["8", "7", "0", "14", "", "13, 8", "013", "13.0"])
def test_another_version_is_426_and_told_which_is_spoken(version: str) -> None:
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
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key: str) -> None:
    error = refusal(request(altered(REQUEST, "Sec-WebSocket-Key", key)))
    assert error.status == 400
    assert error.reason == "header Sec-WebSocket-Key must be 16 bytes in base64"


@given(st.binary(max_size=40))
def test_a_key_is_taken_exactly_if_it_is_16_bytes(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    fields = altered(REQUEST, "Sec-WebSocket-Key", key)
    if len(nonce) == 16:
        assert ("Sec-WebSocket-Accept", accept_key(key)) in accept(request(fields)).headers
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
def test_a_token_is_found_in_any_case_at_any_place_on_any_line(
    name: str, values: list[str]
) -> None:
    assert accept(request(altered(REQUEST, name, *values))).status == 101


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
def test_half_a_token_is_none(name: str, value: str) -> None:
    error = refusal(request(altered(REQUEST, name, value)))
    assert error.status == 400
    assert name in error.reason


@given(st.permutations(REQUEST), st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_case_of_the_headers_matters(
    fields: Fields, randoms: random.Random
) -> None:
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
        (["chat"], ["Chat"], None),  # names of subprotocols have a case
        (["chat"], ["superchat, chat"], "chat"),
        (["chat"], ["superchat", "chat"], "chat"),
        (["superchat", "chat"], ["chat, superchat"], "superchat"),  # the server prefers
        (["a", "chat"], ["chat, superchat"], "chat"),
    ],
)
def test_the_subprotocol_is_the_first_that_the_server_speaks_of_those_offered(
    spoken: list[str], offered: list[str], chosen: str | None
) -> None:
    answer = accept(
        request(altered(REQUEST, "Sec-WebSocket-Protocol", *offered)), subprotocols=spoken
    )
    values = Headers(answer.headers).values("Sec-WebSocket-Protocol")
    assert values == ([] if chosen is None else [chosen])


NAMES = st.sampled_from([name for name, _ in REQUEST] + ["Cookie"])
SUSPECTS = st.sampled_from(["", ",", "websocket", "Upgrade", "13", KEY, "\u00e9", "=" * 24, "\t"])


@given(
    st.lists(
        st.tuples(NAMES, SUSPECTS | st.text(st.characters(max_codepoint=255), max_size=8))
    ),
    st.sampled_from(["GET", "POST", ""]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0"]),
)
def test_arbitrary_headers_are_accepted_or_refused_with_a_sentence(
    fields: Fields, method: str, version: str
) -> None:
    for candidate in (fields, REQUEST + fields):
        try:
            answer = accept(request(candidate, method, version), subprotocols=["chat"])
            verdict, reason = int(answer.status), "accepted"
        except HandshakeError as error:
            verdict, reason = error.status, error.reason
        assert reason
        assert verdict == 101 if reason == "accepted" else verdict in (400, 405, 426), reason


# The client (section 4.1)


def test_the_clients_request_has_what_section_4_1_demands_and_what_it_was_told() -> None:
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


def test_a_client_without_subprotocols_does_not_mention_them() -> None:
    assert b"Protocol" not in upgrade_request("a", "/", KEY)


def check(fields: Fields, subprotocols: Sequence[str] = (), status: int = 101) -> str | None:
    agreed = validate_response(status, Headers(fields), KEY, subprotocols=subprotocols)
    assert agreed.compression is None
    return agreed.subprotocol


def test_the_answer_of_section_1_3_is_taken() -> None:
    assert check(RESPONSE) is None


def test_an_offered_subprotocol_is_taken() -> None:
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
def test_the_answers_tokens_may_be_in_any_case(name: str, values: list[str]) -> None:
    assert check(altered(RESPONSE, name, *values)) is None


@pytest.mark.parametrize("status", [100, 200, 301, 401, 426, 503])
def test_another_status_than_101_is_given_back_with_its_headers(status: int) -> None:
    with pytest.raises(HandshakeError, match=f"the server answered {status}") as raised:
        check([("Location", "/elsewhere")], status=status)
    assert raised.value.status == status
    assert raised.value.headers == (("location", "/elsewhere"),)


OTHER_ACCEPT = accept_key("AAAAAAAAAAAAAAAAAAAAAA==")
NOT_THE_KEYS = "the answer's Sec-WebSocket-Accept does not fit the key"
NOT_OFFERED = "the server chose a subprotocol that was not offered"


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("Upgrade", [], "the answer's Upgrade must be 'websocket'"),
        ("Upgrade", [""], "the answer's Upgrade must be 'websocket'"),
        ("Upgrade", ["h2c"], "the answer's Upgrade must be 'websocket'"),
        ("Upgrade", ["h2c, websocket"], "the answer's Upgrade must be 'websocket'"),
        ("Connection", [], "the answer's Connection must include 'Upgrade'"),
        ("Connection", ["close"], "the answer's Connection must include 'Upgrade'"),
        ("Sec-WebSocket-Accept", [], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [""], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [ACCEPT.lower()], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [OTHER_ACCEPT], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [KEY], NOT_THE_KEYS),
        ("Sec-WebSocket-Accept", [ACCEPT, ACCEPT], NOT_THE_KEYS),
    ],
)
def test_an_answer_that_breaks_a_rule_is_refused_with_the_rule(
    name: str, values: list[str], rule: str
) -> None:
    answer = altered(RESPONSE, name, *values)
    with pytest.raises(HandshakeError) as raised:
        check(answer)
    assert (raised.value.status, raised.value.reason) == (101, f"{rule} (RFC 6455, 4.1)")
    assert raised.value.headers == Headers(answer).fields


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
def test_an_answer_with_what_was_not_offered_is_refused(extra: Fields, rule: str) -> None:
    with pytest.raises(HandshakeError) as raised:
        check(RESPONSE + extra, ["chat", "superchat"])
    assert raised.value.reason == f"{rule} (RFC 6455, 4.1)"


def test_an_empty_list_of_extensions_uses_none() -> None:
    assert check([*RESPONSE, ("Sec-WebSocket-Extensions", "")]) is None


# Extensions (section 9.1, and RFC 7692, section 5)

EXTENSIONS = "Sec-WebSocket-Extensions"


def extended(*lines: str) -> Request:
    return request([*REQUEST, *((EXTENSIONS, line) for line in lines)])


def answered(response: Response) -> str | None:
    return Headers(response.headers).get(EXTENSIONS)


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
def test_extensions_are_read_with_their_parameters_in_order_over_all_lines(
    lines: list[str], extensions: list[tuple[str, list[tuple[str, str | None]]]]
) -> None:
    assert parse_extensions(Headers([(EXTENSIONS, line) for line in lines])) == extensions


ILL_FORMED = [
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
    # Only spaces and tabs may stand around a name or a value.
    "foo\xa0",
    "foo;\xa0a",
    "foo; a\x85=1",
    "foo; a=\xa01",
]


@pytest.mark.parametrize("line", ILL_FORMED)
def test_a_list_of_extensions_that_breaks_the_grammar_is_400_and_fails_a_client(line: str) -> None:
    error = refusal(extended("permessage-deflate", line))
    assert error.status == 400
    name = line.partition(";")[0].strip(" \t")
    assert error.reason in (
        "header Sec-WebSocket-Extensions is ill-formed",
        f"extension {name!r} has an ill-formed parameter",
    )
    with pytest.raises(HandshakeError, match="ill-formed") as raised:
        validate_response(
            101,
            Headers([*RESPONSE, (EXTENSIONS, line)]),
            KEY,
            compression=DeflateParameters.DEFAULT,
        )
    assert raised.value.status == 101
    assert raised.value.headers[-1] == (EXTENSIONS.lower(), line)


def test_of_the_name_of_an_ill_formed_extension_no_more_than_its_beginning_is_repeated() -> None:
    with pytest.raises(HandshakeError) as raised:
        parse_extensions(Headers([(EXTENSIONS, f"{'a' * 49}bc; =")]))
    assert raised.value.reason == f"extension '{'a' * 49}b' has an ill-formed parameter"


@pytest.mark.parametrize(
    ("lines", "agreed"),
    [
        (["permessage-deflate"], DeflateParameters.DEFAULT),
        (
            ["foo", "permessage-deflate; server_max_window_bits=10"],
            DeflateParameters(False, False, 10),
        ),
        (['permessage-deflate; server_max_window_bits="10"'], DeflateParameters(False, False, 10)),
        # The first offer that can be agreed to is (RFC 7692, 5.1).
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
def test_a_server_answers_the_first_offer_that_it_can_agree_to(
    lines: list[str], agreed: DeflateParameters | None
) -> None:
    response = accept(extended(*lines), compression=DeflateParameters.DEFAULT)
    assert answered(response) == (None if agreed is None else agreed.encode())
    assert agreement(response).compression == agreed


def test_a_server_that_wishes_no_compression_declines_all_offers() -> None:
    response = accept(extended("permessage-deflate"))
    assert answered(response) is None
    assert agreement(response) == NegotiatedOptions()


def test_what_was_agreed_is_read_from_the_answer() -> None:
    response = accept(
        extended("permessage-deflate; client_max_window_bits"),
        subprotocols=["superchat"],
        compression=DeflateParameters(True, True, 12, 11),
    )
    assert agreement(response) == NegotiatedOptions(
        "superchat", DeflateParameters(True, True, 12, 11)
    )


def test_an_extension_that_an_application_answers_by_itself_is_not_taken_for_compression() -> None:
    assert agreement(Response(101, [*RESPONSE, (EXTENSIONS, "x-its-own")])) == NegotiatedOptions()


def test_what_was_agreed_of_compression_is_the_last_line_of_the_answer() -> None:
    answer = accept(
        request([*REQUEST, (EXTENSIONS, "permessage-deflate")]),
        compression=DeflateParameters.DEFAULT,
    )
    assert answer.headers[3:] == [("Sec-WebSocket-Extensions", "permessage-deflate")]


UNASKED = "the server uses an extension that was not offered: permessage-deflate"
UNFIT = "the server's permessage-deflate does not fit the offer"


@pytest.mark.parametrize(
    ("offer", "answer", "rule"),
    [
        (None, "permessage-deflate", UNASKED),
        (
            DeflateParameters.DEFAULT,
            "x-foo",
            "the server uses an extension that was not offered: x-foo",
        ),
        (DeflateParameters.DEFAULT, "permessage-deflate, permessage-deflate", UNASKED),
        (DeflateParameters.DEFAULT, "permessage-deflate; x", UNFIT),
        (DeflateParameters.DEFAULT, "permessage-deflate; server_max_window_bits=7", UNFIT),
        (DeflateParameters.DEFAULT, "permessage-deflate; client_max_window_bits", UNFIT),
        (DeflateParameters.NO_CONTEXT_TAKEOVER, "permessage-deflate", UNFIT),
    ],
)
def test_a_client_refuses_an_extension_that_does_not_fit_its_offer(
    offer: DeflateParameters | None, answer: str, rule: str
) -> None:
    with pytest.raises(HandshakeError) as raised:
        validate_response(101, Headers([*RESPONSE, (EXTENSIONS, answer)]), KEY, compression=offer)
    assert raised.value.reason == f"{rule} (RFC 6455, 4.1)"


@pytest.mark.parametrize("answer", [None, "", "permessage-deflate; client_max_window_bits=9"])
def test_a_client_takes_what_fits_its_offer_or_that_it_was_declined(answer: str | None) -> None:
    lines = [] if answer is None else [(EXTENSIONS, answer)]
    agreed = validate_response(
        101, Headers([*RESPONSE, *lines]), KEY, compression=DeflateParameters.DEFAULT
    ).compression
    assert agreed == (DeflateParameters(client_max_window_bits=9) if answer else None)


def test_an_offer_of_compression_stands_in_the_request() -> None:
    sent = upgrade_request("a", "/", KEY, compression=DeflateParameters.DEFAULT)
    line = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    assert line in sent
    assert b"Extensions" not in upgrade_request("a", "/", KEY)


# Both


SUBPROTOCOLS = st.lists(
    st.sampled_from(["chat", "Chat", "superchat", "chat.v1", "v2"]), unique=True
)


@given(st.data(), st.binary(min_size=16, max_size=16), SUBPROTOCOLS, SUBPROTOCOLS)
def test_what_a_client_asks_and_a_server_answers_they_agree_on_however_it_arrives(
    data: st.DataObject, nonce: bytes, offered: list[str], spoken: list[str]
) -> None:
    key = base64.b64encode(nonce).decode()
    frame = bytes.fromhex("81 02 6869")  # what may come in the same read

    def arrives(sent: bytes) -> bytes:
        buffer = HeadReader()
        whole = b""
        for chunk in data.draw(chunkings(sent)):
            if whole:
                whole += chunk
            elif (found := buffer.receive_data(chunk)) is not None:
                head, whole = found
                whole = b"." + whole
        assert whole == b"." + frame
        return head

    head = arrives(upgrade_request("a", "/", key, subprotocols=offered) + frame)
    answer = accept(parse_request(head), subprotocols=spoken)
    status, headers = parse_response(arrives(answer.encode() + frame))
    chosen = validate_response(status, headers, key, subprotocols=offered).subprotocol
    assert chosen == next((name for name in spoken if name in offered), None)
