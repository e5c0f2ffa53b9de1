"""Levels of the quiz, and the rules that each level asks about."""

from __future__ import annotations

from collections.abc import Mapping

from wsproto_min import rules
from wsproto_min.rules import RULES, Rule

LEVELS: Mapping[int, str] = {
    1: "one short frame of a server",
    2: "one frame of either side, with more rules",
    3: "several frames, fragments, and Pings between them",
    4: "long lengths, UTF-8 across fragments, Close codes",
    5: "compressed messages and the receiver's limits",
}
"""The levels with their contents."""

LAST_LEVEL = max(LEVELS)

# The level from which on a rule is asked. All other rules begin at the last level.
_FIRST_LEVELS: dict[Rule, int] = {
    rules.RESERVED_BIT: 1,
    rules.RESERVED_OPCODE: 1,
    rules.SERVER_DOES_NOT_MASK: 1,
    rules.FRAGMENTED_CONTROL: 1,
    rules.LONG_CONTROL: 1,
    rules.CLIENT_MASKS: 2,
    rules.SHORTEST_LENGTH: 2,
    rules.LENGTH_TOP_BIT: 2,
    rules.NOTHING_TO_CONTINUE: 2,
    rules.CLOSE_PAYLOAD: 2,
    rules.MESSAGE_NOT_ENDED: 3,
    rules.TEXT_NOT_UTF8: 4,
    rules.CLOSE_CODE_RANGE: 4,
    rules.CLOSE_CODE_NEVER_SENT: 4,
    rules.CLOSE_REASON_NOT_UTF8: 4,
}


def first_level(rule: Rule) -> int:
    """Return the level from which on a rule is asked."""
    return _FIRST_LEVELS.get(rule, LAST_LEVEL)


def rules_of(level: int) -> list[Rule]:
    """Return the rules that a level asks about, in the order of the table."""
    return [rule for rule in RULES if first_level(rule) <= level]
