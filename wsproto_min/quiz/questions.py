"""Questions of the quiz: bytes of one end, with the dissector's verdict as the truth.

`QuestionMaker` draws a broken rule, valid bytes or incomplete bytes. The questions depend only on
the `random.Random`, the levels and the subjects that were missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from wsproto_min.connection import Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.verdict import Verdict
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.quiz.levels import LAST_LEVEL, first_level, rules_of
from wsproto_min.quiz.traffic import ValidTraffic
from wsproto_min.quiz.violations import choose_violation, surround
from wsproto_min.rules import RULES, Rule
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE

_CHOICES = 5
_SHARE = 0.2  # of valid and of incomplete bytes, compared with all rules together
_FIRST_BYTES = 24  # an incomplete frame ends within these


@dataclass(frozen=True, slots=True)
class Question:
    """Bytes of one end, and the truth about them.

    Attributes:
        level: The level, from 1.
        sender: The end that sends the bytes.
        data: The bytes.
        compression: True if permessage-deflate is negotiated, without context takeover.
        truth: The dissector's verdict.
        rule: The broken rule, or None.
        violation: The name of a violation of this rule for `explain --break`, or None.
        choices: Five rules, the broken one among them; empty without a broken rule.

    """

    level: int
    sender: Role
    data: bytes
    compression: bool
    truth: Verdict
    rule: Rule | None = None
    violation: str | None = None
    choices: tuple[Rule, ...] = ()

    @property
    def subject(self) -> str:
        """The name of the broken rule, "valid" or "incomplete"."""
        return self.truth.result if self.rule is None else self.rule.name

    @property
    def limited(self) -> bool:
        """True if the receiver has the limits of `wsproto_min.testing.violations`."""
        return self.level == LAST_LEVEL

    def dissector(self) -> Dissector:
        """Return a new dissector that has received the bytes and their end."""
        return _dissector(self.level, self.sender, self.data, self.compression)


class QuestionMaker:
    """Source of questions.

    Args:
        random: The source of all choices.

    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def next_question(self, level: int, missed: Mapping[str, int]) -> Question:
        """Return a question.

        Args:
            level: The level, a key of `LEVELS`.
            missed: Counts of wrong answers by subject. These subjects come more often.

        """
        # A rule that is new at this level comes twice as often as an earlier one.
        weights: dict[Rule | str, float] = {
            rule: 2 if first_level(rule) == level else 1 for rule in rules_of(level)
        }
        weights["valid"] = weights["incomplete"] = _SHARE * sum(weights.values())
        for subject in weights:
            name = subject.name if isinstance(subject, Rule) else subject
            weights[subject] *= 1 + 2 * missed.get(name, 0)
        (subject,) = self._random.choices(list(weights), list(weights.values()))
        compression = level == LAST_LEVEL and self._random.random() < 0.5
        if isinstance(subject, Rule):
            return self._broken(level, subject, compression)
        sender = Role.SERVER if level == 1 else self._random.choice((Role.SERVER, Role.CLIENT))
        make = self._valid if subject == "valid" else self._incomplete
        data = make(level, sender, compression)
        truth = _verdict(_dissector(level, sender, data, compression))
        return Question(level, sender, data, compression, truth)

    def _valid(self, level: int, sender: Role, compression: bool) -> bytes:
        """Return valid frames, perhaps with a Close frame at their end."""
        traffic = ValidTraffic(self._random, sender)
        frames = traffic.frames(level, compression=compression)
        if self._random.random() < 0.3:
            frames = [*frames, traffic.close(level)] if level > 2 else [traffic.close(level)]
        return b"".join(frames)

    def _incomplete(self, level: int, sender: Role, compression: bool) -> bytes:
        """Return valid frames that end within a frame or within a message."""
        traffic = ValidTraffic(self._random, sender)
        *before, last = traffic.frames(level, compression=compression)
        if level > 2 and self._random.random() < 0.5:
            return b"".join([*before, last, *traffic.fragments(level)[:-1]])
        end = self._random.randrange(1, min(len(last), _FIRST_BYTES))
        return b"".join([*before, last[:end]])

    def _broken(self, level: int, rule: Rule, compression: bool) -> Question:
        """Return a question with a violation, as elaborate as the level allows."""
        violation = choose_violation(self._random, rule, level)
        sender = Role(violation.sender)
        choices = self._choices(rule, level)
        # Bytes around a violation may break another rule first.
        return next(
            Question(level, sender, data, compressed, truth, rule, violation.name, choices)
            for data, offset, compressed in surround(
                self._random, violation, level, compression=compression
            )
            if (truth := _verdict(_dissector(level, sender, data, compressed))).offset == offset
            and truth.rule == rule.sentence
        )

    def _choices(self, rule: Rule, level: int) -> tuple[Rule, ...]:
        """Return the rule among others, if possible with its close code, section and level."""

        def difference(other: Rule) -> int:
            return (
                2 * (other.close_code is not rule.close_code)
                + 2 * (other.section != rule.section)
                + (first_level(other) > level)
            )

        others = [each for each in RULES if each is not rule]
        self._random.shuffle(others)
        chosen = [rule, *sorted(others, key=difference)[: _CHOICES - 1]]
        self._random.shuffle(chosen)
        return tuple(chosen)


def _dissector(level: int, sender: Role, data: bytes, compression: bool) -> Dissector:
    limited = level == LAST_LEVEL
    dissector = Dissector(
        sender,
        context=HandshakeContext(DeflateParameters.NO_CONTEXT_TAKEOVER if compression else None),
        max_message_size=MAX_MESSAGE_SIZE if limited else DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS if limited else None,
    )
    dissector.receive_data(data)
    dissector.receive_eof()
    return dissector


def _verdict(dissector: Dissector) -> Verdict:
    """Return the verdict after all events."""
    for _ in dissector.events():
        pass
    return dissector.verdict
