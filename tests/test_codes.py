"""Opcodes, close codes, rules and exceptions (RFC 6455, sections 5.2 and 7.4)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import rules
from wsproto_min.codes import NEVER_SENT, CloseCode, Opcode, is_sendable_close_code
from wsproto_min.errors import ConnectionClosed, HandshakeError, ProtocolError, WebSocketError

# IANA's "WebSocket Close Code Number" registry. A library reports the last three to its own
# program and never sends them; 1004 is reserved.
SENDABLE = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
REPORTED = (1005, 1006, 1015)


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
def test_opcode_has_number_of_section_5_2(value: int, name: str, is_control: bool) -> None:
    assert (Opcode(value).name, Opcode(value).is_control) == (name, is_control)


@pytest.mark.parametrize("value", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_opcode_reserved_has_no_name(value: int) -> None:
    with pytest.raises(ValueError, match="not a valid Opcode"):
        Opcode(value)


def test_close_code_enum_is_the_registry() -> None:
    assert {int(code) for code in CloseCode} == {*SENDABLE, *REPORTED}


def test_never_sent_is_the_reserved_code_and_the_reported_ones() -> None:
    assert {1004, *REPORTED} == NEVER_SENT
    assert not any(map(is_sendable_close_code, NEVER_SENT))
    named = re.findall(r"\d{4}", rules.CLOSE_CODE_NEVER_SENT.sentence)
    assert {int(code) for code in named} == NEVER_SENT


@pytest.mark.parametrize("code", [*SENDABLE, 3000, 3001, 3999, 4000, 4001, 4999])
def test_close_code_registered_or_private_is_sendable(code: int) -> None:
    assert is_sendable_close_code(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 1, 999, 1004, *REPORTED, 1016, 1100, 1999, 2000, 2999, 5000, 65535, 65536]
)
def test_close_code_otherwise_is_not_sendable(code: int) -> None:
    assert not is_sendable_close_code(code)


@given(st.integers(0, 65535))
def test_close_code_below_3000_sendable_only_if_registered(code: int) -> None:
    assert is_sendable_close_code(code) == (code in SENDABLE or code // 1000 in (3, 4))


@pytest.mark.parametrize(
    ("kind", "arguments", "text"),
    [
        (ProtocolError, (rules.RESERVED_BIT,), "a reserved bit is set (RFC 6455, 5.2)"),
        (HandshakeError, (400, "header Host is missing"), "header Host is missing"),
        (ConnectionClosed, (1001, "good night"), "1001 good night"),
        (ConnectionClosed, (1006,), "1006"),
    ],
)
def test_error_is_websocket_error_with_readable_text(
    kind: Callable[..., WebSocketError], arguments: tuple[Any, ...], text: str
) -> None:
    error = kind(*arguments)
    assert isinstance(error, WebSocketError)
    assert str(error) == text


def test_protocol_error_takes_code_and_section_from_rule() -> None:
    error = ProtocolError(rules.RESERVED_OPCODE, "opcode 0x3 is reserved")
    assert (error.rule, error.code) == (rules.RESERVED_OPCODE, 1002)
    assert error.problem == "opcode 0x3 is reserved"
    assert error.reason == str(error) == "opcode 0x3 is reserved (RFC 6455, 5.2)"
    assert ProtocolError(rules.MESSAGE_TOO_BIG).code == 1009


def test_rule_table_has_all_constants_with_unique_names() -> None:
    constants = {value for value in vars(rules).values() if isinstance(value, rules.Rule)}
    assert constants == set(rules.RULES)
    assert len({rule.name for rule in constants}) == len(rules.RULES)


def test_rule_problem_fits_the_reason_of_a_close_frame() -> None:
    for rule in rules.RULES:
        assert len(f"{rule.problem} ({rule.section})".encode()) <= 123, rule.name


def test_handshake_error_keeps_headers_of_an_iterator() -> None:
    error = HandshakeError(405, "", iter([("Allow", "GET")]))
    assert [list(error.headers), list(error.headers)] == [[("Allow", "GET")]] * 2
