"""Level and results of a player of the quiz."""

from __future__ import annotations

from collections import Counter

from wsproto_min.quiz.levels import LAST_LEVEL
from wsproto_min.quiz.questions import Question

_RIGHT_TO_RISE = 3  # right answers in a row
_WRONG_TO_FALL = 2  # wrong answers in a row


class Score:
    """Level and results of a player.

    Args:
        level: The first level, a key of `LEVELS`.

    Attributes:
        level: The present level.
        highest: The highest level so far.
        questions: The number of questions that were answered.
        right: The number of questions of which all parts were right.
        missed: For each subject that was missed, the number of right answers that it needs.
        violations: For the rules among them, the name of the last violation.

    """

    def __init__(self, level: int) -> None:
        self.level: int = level
        self.highest: int = level
        self.questions: int = 0
        self.right: int = 0
        self.missed: Counter[str] = Counter()
        self.violations: dict[str, str | None] = {}
        self._in_a_row = 0  # right answers, or wrong ones as a negative number

    def add(self, question: Question, is_right: bool) -> None:
        """Record an answer; change the level after several equal results in a row."""
        self.questions += 1
        self.right += is_right
        subject = question.subject
        if is_right:
            self._in_a_row = max(self._in_a_row, 0) + 1
            self.missed -= Counter([subject])  # this operator keeps positive counts only
        else:
            self._in_a_row = min(self._in_a_row, 0) - 1
            self.missed[subject] += 1
            self.violations[subject] = question.violation
        if self._in_a_row == _RIGHT_TO_RISE or self._in_a_row == -_WRONG_TO_FALL:
            self.level += 1 if is_right else -1
            self.level = min(max(self.level, 1), LAST_LEVEL)
            self.highest = max(self.highest, self.level)
            self._in_a_row = 0
