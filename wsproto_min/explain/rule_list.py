"""The rules and their shortest violations, as text for `explain --break`."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from textwrap import wrap

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Role
from wsproto_min.explain.style import COLUMNS
from wsproto_min.explain.verdict import close_code_name
from wsproto_min.rules import RULES
from wsproto_min.testing.violations import (
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    VIOLATIONS,
    Violation,
    find_violation,
)

_ALL = (*VIOLATIONS, *DEFLATE_VIOLATIONS)
_BYTES_PER_LINE = 24


def list_rules() -> Iterator[str]:
    """Yield each rule with its section, its close code and the names of its violations."""
    for rule in RULES:
        yield f"{rule.section}: {close_code_name(rule.close_code)}"
        yield from wrap(rule.sentence, COLUMNS, initial_indent="  ", subsequent_indent="  ")
        names = dict.fromkeys(violation.name for violation in _ALL if violation.rule is rule)
        yield from wrap(
            " ".join(names),
            COLUMNS,
            initial_indent="    ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )


def show_violation(name: str, sender: Role | None) -> Iterator[str]:
    """Yield the shortest input that breaks a rule, in hex, with comments.

    Args:
        name: The violation's name.
        sender: The end that breaks the rule; None for either.

    Raises:
        ValueError: There is no violation of this name; the message suggests similar names.

    """
    try:
        violation = find_violation(name, None if sender is None else sender.value)
    except LookupError as error:
        names = sorted({each.name for each in _ALL})
        near = [each for each in names if each.startswith(name)] or get_close_matches(name, names)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "see --break list"
        raise ValueError(f"{error.args[0]}; {hint}") from None
    rule = violation.rule
    yield f"# {violation.name}, sent by a {violation.sender} ({rule.section})"
    yield f"# {rule.sentence}"
    yield f"# The {violation.role} closes with {close_code_name(rule.close_code)}."
    yield f"# Explain it with: {' '.join(options_for(violation))}"
    for begin in range(0, len(violation.data), _BYTES_PER_LINE):
        yield violation.data[begin : begin + _BYTES_PER_LINE].hex(" ")


def options_for(violation: Violation) -> list[str]:
    """Return the options of `explain` for the connection that the violation assumes."""
    options = ["--role", violation.sender]
    if violation in DEFLATE_VIOLATIONS:
        options.append("--no-context-takeover")
    if violation.rule.close_code is CloseCode.MESSAGE_TOO_BIG:
        options += ["--max-message-size", str(MAX_MESSAGE_SIZE)]
    if violation.rule.close_code is CloseCode.POLICY_VIOLATION:
        options += ["--max-fragments", str(MAX_FRAGMENTS)]
    return options
