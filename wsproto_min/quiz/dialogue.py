"""The command `python -m wsproto_min quiz`: questions about frames, from easy to hard.

Each question shows the bytes of one end. The answer is a close code, a byte and a rule, or
`valid` or `incomplete`. After each answer the quiz prints the explanation of `explain`.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator
from random import Random, SystemRandom
from textwrap import wrap

from wsproto_min.connection import Role
from wsproto_min.explain.output import output_style
from wsproto_min.explain.style import COLUMNS, Style, plain, quoted
from wsproto_min.explain.verdict import close_code_name, count
from wsproto_min.quiz.levels import LEVELS
from wsproto_min.quiz.questions import Question, QuestionMaker
from wsproto_min.quiz.score import Score
from wsproto_min.quiz.text import HELP, conditions, explain, rows
from wsproto_min.rules import RULES

_SEEDS = 1_000_000
_OUTPUT_FAILED = 2
_PIPE_CLOSED = 141  # 128 + SIGPIPE, the status that shells report
_COMMAND = "python3 -m wsproto_min"

_CODE = re.compile("[1-4][0-9]{3}")
_NUMBER = re.compile("[0-9]{1,9}")


class _Quit(Exception):
    """The player ends the quiz."""


class Quiz:
    """A dialogue on standard input and standard output.

    Args:
        seed: The seed of the questions.
        level: The first level.
        style: Colours, or `plain`.

    Attributes:
        score: The results so far.
        question: The present question, or None before the first one.

    """

    def __init__(self, seed: int, level: int = 1, style: Style = plain) -> None:
        self.score: Score = Score(level)
        self.question: Question | None = None
        self._seed = seed
        self._style = style
        self._maker = QuestionMaker(Random(seed))

    def run(self) -> None:
        """Ask questions until the player quits or the input ends; print a summary."""
        print(f"Seed {self._seed}. The same answers get the same questions again with:")
        print(f"    {_COMMAND} quiz --seed {self._seed} --level {self.score.level}")
        print("At each prompt, ? explains the answers and q ends the quiz.")
        self._print_level()
        try:
            while True:
                level = self.score.level
                question = self._maker.next_question(level, self.score.missed)
                self.question = question
                self._print_question(question)
                self.score.add(question, self._ask(question))
                print("\n".join(["", *explain(question, self._style)]))
                score = self.score
                print(f"\nScore: {score.right} of {score.questions} right, level {score.level}")
                if score.level != level:
                    self._print_level()
        except _Quit:
            print("\n".join(["", *self._summary()]))

    def _print_level(self) -> None:
        print(f"\nLevel {self.score.level}: {LEVELS[self.score.level]}")

    def _print_question(self, question: Question) -> None:
        way = "client to server" if question.sender is Role.CLIENT else "server to client"
        title = f"Question {self.score.questions + 1}: {way}, {count(len(question.data), 'byte')}"
        print(f"\n{self._style('title', title)}")
        print("\n".join(conditions(question)), end="\n\n")
        print("\n".join(rows(question.data)), end="\n\n")

    def _ask(self, question: Question) -> bool:
        """Ask for all parts of the answer; return True if all of them are right."""
        truth = question.truth
        answer = self._read_first()
        if question.rule is None:
            is_right = self._judge(answer == truth.result, f"the bytes are {truth.result}")
        else:
            meaning = f"the close code is {close_code_name(question.rule.close_code)}"
            is_right = self._judge(answer == str(truth.close_code), meaning)
        if question.rule is None or not answer.isdecimal():
            return is_right
        byte = self._read_number("Byte at which the receiver detects it?", len(question.data) - 1)
        is_right &= self._judge(byte == truth.offset, f"it is byte {truth.offset}")
        for number, rule in enumerate(question.choices, 1):
            text = f"  {number}  {rule.section}: {rule.sentence}"
            print("\n".join(wrap(text, COLUMNS - 2, subsequent_indent="     ")))
        number = self._read_number(f"Rule, 1 to {len(question.choices)}?", len(question.choices), 1)
        right = question.choices.index(question.rule) + 1
        return self._judge(number == right, f"it is rule {right}") and is_right

    def _judge(self, is_right: bool, meaning: str) -> bool:
        word = self._style("good", "right") if is_right else self._style("bad", "wrong")
        print(f"  {word}: {meaning}")
        return is_right

    def _read_first(self) -> str:
        """Return a close code in digits, "valid" or "incomplete"."""
        while True:
            answer = self._read("Close code, valid or incomplete?").lower()
            for word in ("valid", "incomplete"):
                if answer in (word, word[0]):
                    return word
            if _CODE.fullmatch(answer):
                return answer
            print(
                f"  {quoted(answer, 30)} is not an answer:"
                " type a code such as 1002, valid or incomplete"
            )

    def _read_number(self, prompt: str, last: int, first: int = 0) -> int:
        """Return a number from `first` to `last`."""
        while True:
            answer = self._read(prompt)
            if _NUMBER.fullmatch(answer) and first <= int(answer) <= last:
                return int(answer)
            print(f"  {quoted(answer, 30)} is not an answer: type a number from {first} to {last}")

    def _read(self, prompt: str) -> str:
        """Return the next answer, without spaces around it.

        Raises:
            _Quit: The player ends the quiz, or the input ends.

        """
        while True:
            try:
                answer = input(f"{prompt} ").strip()
            except EOFError:
                print()
                raise _Quit from None
            if not sys.stdin.isatty():
                print(quoted(answer, 40)[1:-1])  # a terminal has shown the answer itself
            if answer.lower() == "q":
                raise _Quit
            if answer != "?":
                return answer
            print(HELP)

    def _summary(self) -> Iterator[str]:
        """Yield questions, right answers, the highest level, and the rules that were missed."""
        score = self.score
        yield f"Questions: {score.questions}, right: {score.right}, highest level: {score.highest}"
        missed = [rule for rule in RULES if score.missed[rule.name]]
        if missed:
            yield "Look at these rules again:"
        for rule in missed:
            text = f"  {rule.section}: {rule.sentence}"
            yield from wrap(text, COLUMNS - 2, subsequent_indent="    ")
            yield f"      {_COMMAND} explain --break {score.violations[rule.name]}"


def add_quiz(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to `parser`."""
    parser.description = (
        "Ask about frames: which close code, at which byte, by which rule? The questions become"
        " harder after right answers. Answers come from standard input: ? explains them, q quits."
    )
    parser.epilog = (
        "Exit status: 0 after q or the end of the input; 2 for a usage error, or if the output"
        " cannot be written; 130 after Ctrl-C."
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        metavar="N",
        help="repeat the questions of this seed, if the answers are the same; by default random",
    )
    parser.add_argument(
        "--level",
        type=int,
        choices=LEVELS,
        default=1,
        help="first level (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def _seed(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999999999")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    seed = SystemRandom().randrange(_SEEDS) if options.seed is None else options.seed
    try:
        Quiz(seed, options.level, output_style()).run()
        sys.stdout.flush()
    except OSError as error:
        # At exit Python flushes standard output again and would report a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _PIPE_CLOSED
        print(f"wsproto_min: standard output: {error.strerror}", file=sys.stderr)
        return _OUTPUT_FAILED
    return 0
