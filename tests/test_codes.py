"""RFC 6455, sections 5.2 and 7.4, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min.codes import CloseCode, Opcode, is_sendable_close_code
from wsproto_min.errors import ConnectionClosed, HandshakeError, ProtocolError, WebSocketError

# IANA's "WebSocket Close Code Number" registry; the last three are for an API only.
SENDABLE = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
API_ONLY = (1005, 1006, 1015)


@pytest.mark.parametrize(
    ("value", "name", "is_control"),
    [
        (0x0, "CONTINUATION", False),
        (0x1, "TEXT", False),
        (0x2, "BINARY", False),
        (0x8, "CLOSE", True),
        (0x9, "PING", True),
        (0xA, "PONG", True),
    ],
)
def test_an_opcode_has_the_number_that_section_5_2_gives(
    value: int, name: str, is_control: bool
) -> None:
    assert (Opcode(value).name, Opcode(value).is_control) == (name, is_control)


@pytest.mark.parametrize("value", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_a_reserved_opcode_has_no_name(value: int) -> None:
    with pytest.raises(ValueError, match="not a valid Opcode"):
        Opcode(value)


def test_the_close_codes_are_those_of_the_registry() -> None:
    assert {int(code) for code in CloseCode} == {*SENDABLE, *API_ONLY}


@pytest.mark.parametrize("code", [*SENDABLE, 3000, 3001, 3999, 4000, 4001, 4999])
def test_a_defined_or_private_close_code_may_be_sent(code: int) -> None:
    assert is_sendable_close_code(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 1, 999, 1004, *API_ONLY, 1016, 1100, 1999, 2000, 2999, 5000, 65535, 65536]
)
def test_any_other_close_code_may_not_be_sent(code: int) -> None:
    assert not is_sendable_close_code(code)


@given(st.integers(0, 65535))
def test_below_3000_only_what_the_registry_defines_may_be_sent(code: int) -> None:
    assert is_sendable_close_code(code) == (code in SENDABLE or code // 1000 in (3, 4))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProtocolError("a reserved bit is set"), "a reserved bit is set"),
        (HandshakeError(400, "header Host is missing"), "header Host is missing"),
        (ConnectionClosed(1001, "good night"), "1001 good night"),
        (ConnectionClosed(1006), "1006"),
    ],
)
def test_every_exception_is_a_web_socket_error_that_reads_as_a_sentence(
    error: WebSocketError, text: str
) -> None:
    assert isinstance(error, WebSocketError)
    assert str(error) == text


def test_a_protocol_error_calls_for_1002_unless_it_says_otherwise() -> None:
    assert ProtocolError("").code == 1002
    assert ProtocolError("", CloseCode.MESSAGE_TOO_BIG).code == 1009


def test_the_headers_of_a_handshake_error_outlive_the_iterator_they_came_in() -> None:
    error = HandshakeError(405, "", iter([("Allow", "GET")]))
    assert [list(error.headers), list(error.headers)] == [[("Allow", "GET")]] * 2
