"""What is to be said in the end of some bytes, and the rule behind a broken one.

The words and the close code are those of the exception that the codec raised. The
rule in full comes from the table of violations: it is the one whose example makes
this codec say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Literal

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError, ProtocolError
from wsproto_min.testing.violations import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
    Rule,
    Violation,
)

_SECTION = re.compile(r" \((RFC \d+, [\d.]+)\)")
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the bytes.

    `section` has the number of its RFC before it, and `rule` the sentence that was
    broken. `offset` is the byte at which that could be told, from 0. `needs` are
    the bytes that are missing, `at_least` whether there may be more. `close_code`
    is what the receiver of a broken frame sends, `status` the HTTP answer to a
    request that is refused.
    """

    result: Literal["valid", "incomplete", "broken", "refused"]
    reason: str
    section: str | None = None
    rule: str | None = None
    offset: int | None = None
    needs: int | None = None
    at_least: bool = False
    close_code: int | None = None
    status: int | None = None


def broken(error: ProtocolError, offset: int) -> Verdict:
    """Return the verdict on a rule broken at the byte `offset`."""
    rule = find_rule(error)
    section, reason = _split_section(error.reason)
    if rule is not None:  # it has the section more exactly
        section = f"RFC {7692 if rule.compression else 6455}, {rule.section}"
    return Verdict(
        "broken",
        reason,
        section,
        None if rule is None else rule.sentence,
        offset,
        close_code=error.code,
    )


def refused(error: HandshakeError, offset: int, *, by_server: bool) -> Verdict:
    """Return the verdict on a head that does not open a connection."""
    section, reason = _split_section(error.reason)
    return Verdict(
        "refused",
        reason,
        section or f"RFC 6455, {'4.2.1' if by_server else '4.1'}",
        offset=offset,
        status=int(error.status) if by_server else None,
    )


def incomplete(reason: str, needs: int, *, at_least: bool) -> Verdict:
    """Return the verdict on bytes that break no rule and end too early."""
    return Verdict("incomplete", reason, needs=needs, at_least=at_least)


def close_code_name(code: int) -> str:
    """Return a close code with its name, if it has one (section 7.4.1).

    >>> close_code_name(1002), close_code_name(4000)
    ('1002 PROTOCOL_ERROR', '4000')
    """
    try:
        return f"{code} {CloseCode(code).name}"
    except ValueError:
        return str(code)


def status_name(status: int) -> str:
    """Return an HTTP status with its phrase, if it has one.

    >>> status_name(426), status_name(299)
    ('426 Upgrade Required', '299')
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def find_rule(error: ProtocolError) -> Rule | None:
    """Return the rule of the table that an error of this codec is about, if any.

    >>> find_rule(ProtocolError("opcode 0x3 is reserved (RFC 6455, 5.2)")).sentence
    'Opcodes 3 to 7 and B to F are reserved; nobody may send them yet.'
    """
    rules = _rules_by_reason()
    return rules.get(error.reason) or rules.get(_without_numbers(error.reason))


@cache
def _rules_by_reason() -> dict[str, Rule]:
    """Return the rules by what this codec says of their examples.

    Each stands there with the numbers of its example (a close code, a limit) and
    without them, for all others.
    """
    found: dict[str, Rule] = {}
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        reason = str(judge(violation).error)
        found.setdefault(reason, violation.rule)
        found.setdefault(_without_numbers(reason), violation.rule)
    return found


def judge(violation: Violation) -> Connection:
    """Return a connection as the table presumes it that has received `violation`."""
    connection = Connection(
        Role(violation.role),
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
        compression=DeflateParameters.NO_CONTEXT_TAKEOVER if violation.rule.compression else None,
    )
    list(connection.receive_data(violation.data))
    return connection


def _without_numbers(reason: str) -> str:
    return _NUMBER.sub("#", reason)


def _split_section(reason: str) -> tuple[str | None, str]:
    """Return the section that a reason names, if any, and the reason without it."""
    found = _SECTION.search(reason)
    return (found[1] if found else None), _SECTION.sub("", reason)
