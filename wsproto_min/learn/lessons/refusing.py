"""Refusing each violation.

A server that accepts invalid frames hides the errors of clients, and two
programs that read one frame differently are a way to attack. So a receiver
answers each violation with a Close frame, and ends the connection (section
7.1.7). The code tells the kind of error:

(figure)

Check a header when you have it, before you wait for the payload. The order
of frames is a rule too: a continuation frame needs a message, and a text or
binary frame must not come within one.

After its Close the server ignores all input. Do not just close the socket:
if unread bytes are in it, the client may lose your Close frame. Half-close
it with shutdown(SHUT_WR) first, and read until the client ends its stream.

The command `explain` shows the shortest frame that breaks a rule, and why:

    python3 -m wsproto_min explain --break opcode-3
    python3 -m wsproto_min explain --role client c1
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from textwrap import wrap

from wsproto_min import rules
from wsproto_min.learn.step import Case, Step
from wsproto_min.learn.violations import refuses_violation, violations_of

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


STEP = Step.from_docstring(
    __doc__,
    [
        Case(violation.name, partial(refuses_violation, violation))
        for violation in violations_of(*_RULES)
    ],
    figure=_rules(),
)
