"""Tests of the quiz: the questions, the levels and the dialogue."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from random import Random

import pytest

from tests.support import PATIENCE, ROOT
from wsproto_min import rules
from wsproto_min.__main__ import main
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import COLUMNS, coloured, plain
from wsproto_min.explain.verdict import Verdict
from wsproto_min.quiz.dialogue import Quiz
from wsproto_min.quiz.levels import LAST_LEVEL, LEVELS, first_level
from wsproto_min.quiz.questions import Question, QuestionMaker
from wsproto_min.quiz.score import Score
from wsproto_min.quiz.text import rows
from wsproto_min.quiz.traffic import ValidTraffic
from wsproto_min.quiz.violations import split_frames
from wsproto_min.rules import RULES
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE, find_violation

SEEDS = (1, 2, 3, 4, 5)
QUESTIONS = [
    maker.next_question(level, {})
    for seed in SEEDS
    for level in LEVELS
    for maker in [QuestionMaker(Random(f"{seed} {level}"))]
    for _ in range(12)
]


# Questions


def verdict(dissector: Dissector) -> Verdict:
    assert len(list(dissector.events())) >= 0
    return dissector.verdict


def new_dissector(question: Question) -> Dissector:
    """Return a dissector with the conditions that the question states."""
    limits = {"max_message_size": MAX_MESSAGE_SIZE, "max_fragments": MAX_FRAGMENTS}
    compression = DeflateParameters.NO_CONTEXT_TAKEOVER if question.compression else None
    dissector = Dissector(
        question.sender,
        context=HandshakeContext(compression),
        **(limits if question.level == LAST_LEVEL else {}),
    )
    dissector.receive_data(question.data)
    dissector.receive_eof()
    return dissector


def test_questions_have_the_verdict_of_a_new_dissector() -> None:
    assert len(QUESTIONS) == 300
    for question in QUESTIONS:
        truth = verdict(new_dissector(question))
        assert question.truth == truth == verdict(question.dissector()), question
        assert (question.rule is not None) == (truth.result == "broken"), question
        if question.rule is not None:
            assert truth.rule == question.rule.sentence
            assert truth.close_code == question.rule.close_code


def test_questions_of_each_level_have_all_three_results() -> None:
    found = {(question.level, question.truth.result) for question in QUESTIONS}
    assert found == {
        (level, each) for level in LEVELS for each in ("valid", "incomplete", "broken")
    }


def test_question_of_a_rule_waits_for_its_level() -> None:
    for question in QUESTIONS:
        if question.rule is not None:
            assert first_level(question.rule) <= question.level, question


def test_question_of_the_first_level_is_one_frame_of_a_server() -> None:
    for question in QUESTIONS:
        frames = len(list(split_frames(question.data)))
        if question.level == 1:
            assert question.sender is Role.SERVER
        if question.level < 3 and question.rule is None:
            assert frames == 1
    later = [question for question in QUESTIONS if question.level > 1]
    assert {question.sender for question in later} == set(Role)


def test_broken_byte_is_often_in_the_middle() -> None:
    for level in LEVELS:
        broken = [each for each in QUESTIONS if each.level == level and each.rule is not None]
        inner = [each for each in broken if each.truth.offset != len(each.data) - 1]
        assert len(inner) > len(broken) / 4, level
        after_frames = [each for each in broken if (each.truth.offset or 0) > 12]
        assert (len(after_frames) > len(broken) / 4) == (level > 2), level


@pytest.mark.parametrize("level", LEVELS)
def test_each_rule_of_a_level_occurs_soon(level: int) -> None:
    maker = QuestionMaker(Random(1))
    expected = {rule for rule in RULES if first_level(rule) <= level}
    found = {maker.next_question(level, {}).rule for _ in range(150)}
    assert found == expected | {None}


def test_missed_subject_comes_more_often() -> None:
    def share(missed: dict[str, int], subject: str) -> int:
        maker = QuestionMaker(Random(1))
        return sum(maker.next_question(2, missed).subject == subject for _ in range(80))

    for subject in (rules.CLOSE_PAYLOAD.name, "valid", "incomplete"):
        assert share({subject: 3}, subject) > 1.5 * share({}, subject)


def test_choices_have_the_right_rule_exactly_once() -> None:
    places = set()
    for question in QUESTIONS:
        if question.rule is None:
            assert question.choices == ()
        else:
            assert len(set(question.choices)) == len(question.choices) == 5
            places.add(question.choices.index(question.rule))
    assert places == set(range(5))


def test_choices_are_plausible() -> None:
    for question in QUESTIONS:
        if question.rule is not None and question.rule.section == "RFC 6455, 5.2":
            near = {question.rule.section, "RFC 6455, 5.2"}
            assert sum(choice.section in near for choice in question.choices) >= 4


def test_violation_of_a_question_can_be_printed() -> None:
    for question in QUESTIONS:
        if question.violation is not None:
            assert find_violation(question.violation, question.sender.value).rule is question.rule


@pytest.mark.parametrize("sender", list(Role))
def test_valid_traffic_is_accepted(sender: Role) -> None:
    random = Random(1)
    traffic = ValidTraffic(random, sender)
    receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
    for number in range(40):
        connection = Connection(receiver, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
        level = number % LAST_LEVEL + 1
        frames = traffic.frames(level, compression=level == LAST_LEVEL)
        for frame in [*frames, traffic.close(level)]:
            assert list(split_frames(frame)) == [frame]
            connection.receive_data(frame)
        assert list(iter(connection.next_event, None))
        assert connection.error is None
        assert connection.close_received is not None


# Levels


def with_result(result: str) -> Question:
    return next(each for each in QUESTIONS if each.truth.result == result)


def test_score_rises_after_three_and_falls_after_two() -> None:
    score = Score(2)
    question = with_result("valid")
    levels = []
    for is_right in (True, True, False, True, True, True, False, True, False, False, False, False):
        score.add(question, is_right)
        levels.append(score.level)
    assert levels == [2, 2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 1]
    assert (score.highest, score.questions, score.right) == (3, 12, 6)


def test_score_stays_between_the_first_and_the_last_level() -> None:
    score = Score(1)
    for is_right, level in ((False, 1), (True, LAST_LEVEL)):
        for _ in range(20):
            score.add(with_result("broken"), is_right)
        assert score.level == level


def test_missed_rule_is_forgotten_after_as_many_right_answers() -> None:
    score = Score(1)
    question = with_result("broken")
    for is_right in (False, False, True):
        score.add(question, is_right)
    assert score.missed == {question.subject: 1}
    score.add(question, True)
    score.add(question, True)
    assert not score.missed


# Dialogue

Player = Callable[[Question, str], str]


def perfect(question: Question, prompt: str) -> str:
    """Return the right answer to a prompt."""
    if prompt.startswith("Close"):
        return str(question.truth.close_code or question.truth.result)
    if prompt.startswith("Byte"):
        return str(question.truth.offset)
    assert question.rule is not None
    return str(question.choices.index(question.rule) + 1)


def wrong(question: Question, prompt: str) -> str:
    """Return a wrong answer to a prompt."""
    if prompt.startswith("Close"):
        return "1000" if question.rule is None or len(question.data) % 2 else "valid"
    if prompt.startswith("Byte"):
        return str(0 if question.truth.offset else len(question.data) - 1)
    return "1" if perfect(question, prompt) != "1" else "2"


def play(
    monkeypatch: pytest.MonkeyPatch, player: Player, questions: int, seed: int = 1, level: int = 1
) -> Quiz:
    """Let a player answer a number of questions, then quit."""
    quiz = Quiz(seed, level)

    def answer(prompt: str) -> str:
        assert quiz.question is not None
        print(prompt)
        return "q" if quiz.score.questions == questions else player(quiz.question, prompt)

    monkeypatch.setattr("builtins.input", answer)
    quiz.run()
    return quiz


def run_quiz(monkeypatch: pytest.MonkeyPatch, lines: Iterable[str], *arguments: str) -> int:
    """Run the command with lines on its standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["quiz", *arguments])


def test_perfect_player_reaches_the_last_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiz = play(monkeypatch, perfect, 3 * LAST_LEVEL)
    assert (quiz.score.level, quiz.score.right) == (LAST_LEVEL, 3 * LAST_LEVEL)
    output = capsys.readouterr().out
    for level, content in LEVELS.items():
        assert f"\nLevel {level}: {content}\n" in output
    assert "wrong" not in output
    assert output.endswith("\nQuestions: 15, right: 15, highest level: 5\n")


def test_player_who_is_always_wrong_stays_at_the_first_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiz = play(monkeypatch, wrong, 20)
    assert (quiz.score.highest, quiz.score.right) == (1, 0)
    output = capsys.readouterr().out
    assert output.count("\nLevel ") == 1
    assert " right: " not in output.partition("Questions:")[0]
    names = re.findall(r"^      python3 -m wsproto_min explain --break (\S+)$", output, re.M)
    assert len(names) > 2
    for name in names:
        assert main(["explain", "--break", name]) == 0
        assert find_violation(name).rule.sentence.split()[0] in output


@pytest.mark.parametrize("level", LEVELS)
def test_dialogue_fits_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    play(monkeypatch, wrong, 8, level=level)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= COLUMNS


def test_same_seed_gives_the_same_dialogue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dialogue(seed: int) -> str:
        assert run_quiz(monkeypatch, ["v", "i", "1002"] * 4, "--seed", str(seed)) == 0
        return capsys.readouterr().out

    assert dialogue(7) == dialogue(7)
    assert dialogue(7).splitlines()[3:] != dialogue(8).splitlines()[3:]


def test_random_seed_is_printed_and_repeats_the_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_quiz(monkeypatch, ["v", "v", "q"], "--level", "4")
    output = capsys.readouterr().out
    arguments = re.search(r"^    python3 -m wsproto_min quiz (.*)$", output, re.MULTILINE)
    assert arguments
    run_quiz(monkeypatch, ["v", "v", "q"], *arguments[1].split())
    assert capsys.readouterr().out == output


def test_explanation_is_the_output_of_explain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explained: list[Question] = []

    def player(question: Question, prompt: str) -> str:
        if question not in explained:
            explained.append(question)
        return perfect(question, prompt)

    play(monkeypatch, player, 12, level=3)
    output = capsys.readouterr().out
    shortened = 0
    for question in explained:
        dissector = new_dissector(question)
        events = list(dissector.events())
        lines = [line for event in events[-2:] for line in render(event, plain)]
        assert "\n".join([*lines, *render_verdict(dissector.verdict)]) in output
        shortened += len(events) > 2
    assert output.count(" before, not shown)\n") == shortened > 0


def test_limits_and_compression_are_stated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, perfect, 10, level=LAST_LEVEL)
    output = capsys.readouterr().out
    assert output.count("up to 1024 bytes in up to 16 fragments.\n") == 11
    assert "\npermessage-deflate is negotiated, without context takeover.\n" in output
    play(monkeypatch, perfect, 0)
    assert "\nNo extension is negotiated.\n\n" in capsys.readouterr().out


def test_wrong_inputs_are_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = QuestionMaker(Random(3)).next_question(1, {})
    assert first.rule is rules.RESERVED_OPCODE
    number = str(first.choices.index(first.rule) + 1)
    last = len(first.data) - 1
    lines = ["", "\x1b[31m", "999", "5000", "1002", "-1", str(last + 1), "9" * 5000, "0"]
    run_quiz(monkeypatch, [*lines, "0", "6", number, "q"], "--seed", "3")
    output = capsys.readouterr().out
    assert output.count("is not an answer: type a code such as 1002, valid or incomplete\n") == 4
    assert output.count(f"is not an answer: type a number from 0 to {last}\n") == 3
    assert output.count("is not an answer: type a number from 1 to 5\n") == 2
    assert "\x1b" not in output
    assert "Score: 1 of 1 right, level 1\n" in output


@pytest.mark.parametrize("before", [[], ["1002"], ["1002", "0"]])
def test_question_mark_explains_the_answers_at_each_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: list[str]
) -> None:
    run_quiz(monkeypatch, [*before, "?", " Q "], "--seed", "3")
    assert capsys.readouterr().out.count("  second        the position of the byte at") == 1


@pytest.mark.parametrize("end", [[], ["q"]])
@pytest.mark.parametrize("before", [[], ["1002"], ["1002", "0"], ["valid"]])
def test_end_at_each_prompt_prints_the_summary(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: list[str],
    end: list[str],
) -> None:
    assert run_quiz(monkeypatch, [*before, *end], "--seed", "3") == 0
    *_, summary = capsys.readouterr().out.partition("\nQuestions: ")
    answered = int(before == ["valid"])
    assert summary.startswith(f"{answered}, right: 0, highest level: 1\n")
    assert ("Look at these rules again:" in summary) == bool(answered)


def test_first_answers_have_short_forms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def player(question: Question, prompt: str) -> str:
        answer = perfect(question, prompt)
        return {"valid": "V", "incomplete": "i"}.get(answer, answer)

    quiz = play(monkeypatch, player, 20)
    assert quiz.score.right == 20
    assert "the bytes are incomplete\n" in capsys.readouterr().out


def test_terminal_shows_an_answer_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: "q")
    Quiz(1, style=coloured).run()
    output = capsys.readouterr().out
    assert "\nq\n" not in output
    assert "\n\x1b[1mQuestion 1: " in output


def test_equal_rows_are_shortened_and_stay_countable() -> None:
    data = bytes([0x82, 0x7E, 0x04, 0x00]) + b"a" * 1024 + b"\x89\x00"
    assert list(rows(data)) == [
        "         0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19",
        "     0  82 7e 04 00 " + " ".join(["61"] * 16),
        "    20  " + " ".join(["61"] * 20),
        "   ...  equal rows up to byte 1019",
        "  1020  " + " ".join(["61"] * 8) + " 89 00",
    ]
    assert len(list(rows(b"a" * 40))) == 3


@pytest.mark.parametrize("arguments", [["--seed", "x"], ["--level", "6"]])
def test_usage_error_has_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quiz", *arguments])
    assert caught.value.code == 2


def test_ctrl_c_has_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["quiz"]) == 128 + signal.SIGINT


def test_reader_that_goes_away_has_status_141(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run_quiz(monkeypatch, ["q"], "--seed", "1") == 141


def test_full_disk_has_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_quiz(monkeypatch, ["q"], "--seed", "1") == 2
    assert capsys.readouterr().err == "wsproto_min: standard output: No space left on device\n"


def test_quiz_runs_as_a_process_with_bytes_that_are_no_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsproto_min", "quiz", "--seed", "1"],
        input=b"\xff\xfe\nvalid\n",
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"is not an answer" in done.stdout
    assert b"Questions: 1, " in done.stdout
