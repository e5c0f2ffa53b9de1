"""Refusing each violation.

A server that accepts invalid frames hides the errors of clients, and two
programs that read one frame differently are a way to attack. So a receiver
answers each violation with a Close frame, and ends the connection (section
7.1.7). The code tells the kind of error:

(figure)

Check a header when you have it, before you wait for the payload. The order
of frames is a rule too: a continuation frame needs a message, and a text or
binary frame must not come within one. The registered codes that a Close may
carry are 1000 to 1003 and 1007 to 1014, and 3000 to 4999 are free for all.

After its Close the server ignores all input. Do not just close the socket:
if unread bytes are in it, the system resets the connection, and the client
may lose your Close frame. Half-close it with shutdown(SHUT_WR) first, and
read until the client ends its stream. A time limit, such as settimeout, helps
against a client that never does.

The command `explain` shows the shortest frame that breaks a rule, and why:

    python3 -m wsproto_min explain --break opcode-3
    python3 -m wsproto_min explain --role client c1
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from textwrap import wrap

from wsproto_min import rules
from wsproto_min.codes import CloseCode
from wsproto_min.learn.client_frames import close_frame, fragments
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.step import Case, Step
from wsproto_min.learn.violations import refuses_violation, violations_of

_VALID = (*range(1000, 1004), *range(1007, 1015), 3000, 4999)
_BEHIND = 1 << 20  # bytes
_RULES = (
    rules.RESERVED_BIT,
    rules.RESERVED_OPCODE,
    rules.CLIENT_MASKS,
    rules.SHORTEST_LENGTH,
    rules.LENGTH_TOP_BIT,
    rules.FRAGMENTED_CONTROL,
    rules.LONG_CONTROL,
    rules.NOTHING_TO_CONTINUE,
    rules.MESSAGE_NOT_ENDED,
    rules.CLOSE_PAYLOAD,
    rules.CLOSE_CODE_RANGE,
    rules.CLOSE_CODE_NEVER_SENT,
    rules.CLOSE_REASON_NOT_UTF8,
)


def _rules() -> Iterator[str]:
    for rule in _RULES:
        section = rule.section.removeprefix("RFC 6455, ")
        indent = " " * 13
        yield from wrap(
            f"{rule.close_code:d} {section:<6} {rule.sentence}",
            76,
            initial_indent="  ",
            subsequent_indent=indent,
        )


def _accepts_code(code: int, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(close_frame(code))
        exchange.expect_close(code)


def _refuses_header(data: bytes, program: Program) -> None:
    """Send frames, the last one without its payload; expect a Close with 1002."""
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(data)
        exchange.expect_close(CloseCode.PROTOCOL_ERROR)


def _refuses_with_more_behind(program: Program) -> None:
    """Send many bytes behind a violation; expect that the connection is not reset."""
    with Exchange(program) as exchange:
        exchange.open()
        with exchange.sending(b"\x83" + bytes(_BEHIND)):
            exchange.expect_close(CloseCode.PROTOCOL_ERROR)
        exchange.check_no_reset()


# The header of a frame of 300 bytes from a client, without its first byte.
_REST_OF_HEADER = bytes.fromhex("fe 01 2c 00 00 00 00")

STEP = Step.from_docstring(
    __doc__,
    [
        *(
            Case(violation.name, partial(refuses_violation, violation))
            for violation in violations_of(*_RULES)
        ),
        Case(
            "continuation without a message, before its payload",
            partial(_refuses_header, b"\x80" + _REST_OF_HEADER),
        ),
        Case(
            "text within a message, before its payload",
            partial(_refuses_header, fragments("Hello", 2)[0] + b"\x81" + _REST_OF_HEADER),
        ),
        Case("many bytes behind a violation", _refuses_with_more_behind),
        *(Case(f"close code {code} is valid", partial(_accepts_code, code)) for code in _VALID),
    ],
    figure=_rules(),
)
