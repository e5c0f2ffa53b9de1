"""README's lessons: the steps of a message, the rules, the parser to test, the exercises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests import exercises
from tests.solutions.parser import parse
from tests.support import PATIENCE, ROOT
from tests.test_readme import README, example
from wsproto_min import _fast_path as fast
from wsproto_min import connection, frames, messages
from wsproto_min.connection import Connection, Role
from wsproto_min.explain.verdict import close_code_name
from wsproto_min.testing.violations import (
    DEFLATE_RULES,
    DEFLATE_VIOLATIONS,
    RULES,
    VIOLATIONS,
    find_violation,
)

SOLUTIONS = Path(__file__).parent.parent / "solutions"
MODULES = (connection, fast, frames, messages)


def section(title: str) -> str:
    found = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, f"README has no section {title!r}"
    return found


# Read the codec

STEPS = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\n\n)", section("Read the codec"), re.M | re.S)


def test_a_message_takes_ten_steps() -> None:
    assert len(STEPS) == 10


@pytest.mark.parametrize("step", STEPS)
def test_the_functions_that_a_step_names_exist(step: str) -> None:
    names = re.findall(r"`([\w.]+)`", step)
    assert names, step
    for name in names:
        owner, _, attribute = name.rpartition(".")
        holders = [getattr(module, owner, None) if owner else module for module in MODULES]
        assert any(callable(getattr(holder, attribute, None)) for holder in holders), name


def test_the_bytes_of_the_steps_are_those_that_the_codec_takes_and_gives() -> None:
    text = section("Read the codec")
    received = re.search(r"explain ((?:[0-9a-f]{2} ?){11})\n", text)
    assert received
    server = Connection(Role.SERVER)
    for message in server.receive_data(bytes.fromhex(received[1])):
        assert isinstance(message, str)
        server.send(message)
    assert server.data_to_send().hex(" ") in STEPS[-1].replace("\n", " ")


# The rules


def rules_table() -> str:
    lines = ["| section | close code | rule |", "|---|---|---|"]
    for rule in (*RULES, *DEFLATE_RULES):
        standard = "RFC 7692, " if rule.compression else ""
        code = close_code_name(rule.close_code).replace(" ", " `") + "`"
        lines.append(f"| {standard}{rule.section} | {code} | {rule.sentence} |")
    return "\n".join(lines)


def test_the_rules_in_readme_are_those_of_the_table() -> None:
    shown = section("Read the codec").partition("<!-- rules -->\n")[2].strip()
    assert shown == rules_table(), f"README should have:\n{rules_table()}"


def test_every_violation_has_a_name_of_its_own_by_which_it_is_found() -> None:
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        assert re.fullmatch(r"[a-z0-9-]+", violation.name)
        assert find_violation(violation.name, violation.sender) is violation
        assert find_violation(violation.name).name == violation.name


# Test your own parser

PROPERTIES = re.findall(r"^def (test_\w+)", example("own parser"), re.MULTILINE)
FIND = settings(max_examples=400, phases=[Phase.generate], database=None)
PASS = settings(max_examples=15, database=None, deadline=None)


def property_of(
    name: str, parser: Callable[..., object] | None = None, code: str = example("own parser")
) -> Callable[[], None]:
    """Return one of README's properties, of its own parser or another one."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    if parser is not None:
        namespace["parse"] = parser
    test: Callable[[], None] = namespace[name]
    return test


def test_the_naive_parser_has_twelve_lines_and_three_properties() -> None:
    lines = re.search(r"^def parse.*?\n\n", example("own parser"), re.MULTILINE | re.DOTALL)
    assert lines
    assert len(lines[0].strip().splitlines()) == 12
    assert len(PROPERTIES) == 3


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("name", PROPERTIES)
def test_each_property_finds_a_fault_in_the_naive_parser(name: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        FIND(property_of(name))()


@pytest.mark.parametrize(
    ("name", "fault", "cure"),
    [
        (PROPERTIES[0], "6, int.from_bytes(data[2:6]", "10, int.from_bytes(data[2:10]"),
        (PROPERTIES[1], "for data in chunks:", 'for data in [b"".join(chunks)]:'),
    ],
)
def test_a_property_finds_no_fault_but_its_own(name: str, fault: str, cure: str) -> None:
    code = example("own parser")
    assert fault in code
    PASS(property_of(name, code=code.replace(fault, cure)))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_each_property_holds_for_a_parser_without_those_faults(name: str) -> None:
    PASS(property_of(name, parse))()


# Exercises

EXERCISES = re.findall(r"^ {7}(python3 .*)$", section("Exercises"), re.MULTILINE)
PREDICTED = {
    "82 fe 00 05": "1002",  # five bytes, whose length fits into 7 bits
    "88 82 00 00 00 00 03 ee": "1002",  # 1006
    "88 83 00 00 00 00 03 e8 ff": "1007",  # a reason that is not UTF-8
    "81 81 00 00 00 00 e9": "1007",  # the first byte of three
    "82 ff 00 00 00 01 00 00 00 00 00 00 00 00": "1009",  # 4 GiB
}
SOLVED = {
    0: {"HEX": "81 82 01 02 03 04 49 6b"},
    1: {"HEX": "01 02 48 c3 89 00 80 01 a9"},
    2: {"CODE CODE CODE CODE CODE": " ".join(PREDICTED.values())},
    3: {"mine.py": str(SOLUTIONS / "client.py")},
    4: {"mine.py": str(SOLUTIONS / "client.py")},
}


def check(number: int, answers: dict[str, str]) -> tuple[int, str]:
    """Return the status of an exercise's checking command with these answers, and its words."""
    line = EXERCISES[number].replace("python3", sys.executable)
    for place, answer in answers.items():
        assert place in line
        line = line.replace(place, answer)
    done = subprocess.run(
        line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout + done.stderr


def test_there_are_five_exercises() -> None:
    assert len(EXERCISES) == len(SOLVED) == 5


@pytest.mark.parametrize("number", SOLVED)
def test_the_command_of_an_exercise_takes_the_model_solution(number: int) -> None:
    assert check(number, SOLVED[number]) == (0, "solved\n")


@pytest.mark.parametrize(
    ("name", "answer", "complaint"),
    [
        ("mask", "81 82 01 02 03 04 48 69", "it must be one frame, from which the server gets"),
        ("mask", "89 82 01 02 03 04 49 6b", "it must be one frame"),
        ("mask", "01 81 01 02 03 04 49 80 81 01 02 03 04 68", "it must be one frame"),
        ("mask", "81 82 00 00 00 00 48 69", "the key is 00 00 00 00, not 01 02 03 04"),
        ("mask", "81 02 48 69", "broken: a client's frame is not masked"),
        ("mask", "81 82 01 02 03 04 49 6b 83", "broken: opcode 0x3 is reserved"),
        ("mask", "81 82 01 02 03 04 49", "incomplete: the TEXT frame at byte 0 is cut off"),
        ("mask", "81 8", "that is not hex: '8' (line 1, column 4) has half a byte"),
        ("cut", "01 02 48 c3 80 01 a9", "there must be two fragments, and a Ping between them"),
        ("cut", "01 01 48 89 00 80 02 c3 a9", "the first fragment must end within the \u00e9"),
        ("cut", "01 03 48 c3 a9 89 00 80 00", "the first fragment must end within the \u00e9"),
        ("cut", "02 02 48 c3 89 00 80 01 a9", "the client must get the text H\u00e9"),
        ("cut", "01 02 48 c3 89 00 80 01 28", "broken: a text message is not UTF-8"),
        ("cut", "01 02 48 c3 89 00", "incomplete: the server's message waits for its last"),
        ("predict", "1002 1002 1007 1007 1008", "1008 is not what is due for 82 ff 00 00 00 01"),
        ("predict", "1002", "there are 5 frames, so it takes as many codes"),
        ("client", os.devnull, "the client ends without connecting to the URL"),
    ],
)
def test_what_is_wrong_with_another_answer_is_said(
    name: str, answer: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exercises.main([name, *answer.split()]) == 1
    assert capsys.readouterr().out.startswith(complaint)


@pytest.mark.parametrize("arguments", [[], ["mask"], ["moon", "81 00"]])
def test_what_is_no_exercise_is_told_their_names(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exercises.main(arguments) == 2
    names = "mask|cut|predict|client|ping"
    assert capsys.readouterr().err == f"usage: python3 -m tests.exercises {names} ANSWER\n"


def test_the_frames_to_predict_are_in_readme() -> None:
    assert tuple(PREDICTED) == exercises.TO_PREDICT
    text = section("Exercises").replace("\n   ", " ")
    places = [text.index(f"`{data}`") for data in PREDICTED]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("old", "new", "pings", "complaint"),
    [
        ("Opcode.PING", "Opcode.PONG", True, "closes without a Pong to the Ping"),
        ('b"Hello", mask=os.urandom(4)', 'b"Hello"', False, "a client's frame is not masked"),
        ("key = ", "key = 'x' + ", False, "the handshake is refused: header Sec-WebSocket-Key"),
        ("print(message", "print(2 * message", False, "it printed 'HelloHello"),
        ('b"Hello", mask', 'b"hello", mask', False, "must send the text Hello; it sent 'hello'"),
    ],
)
def test_a_client_with_a_fault_is_told_which(
    old: str, new: str, pings: bool, complaint: str, tmp_path: Path
) -> None:
    code = (SOLUTIONS / "client.py").read_text()
    assert old in code
    path = tmp_path / "mine.py"
    path.write_text(code.replace(old, new))
    told = exercises.check_client(str(path), pings=pings)
    assert told is not None
    assert complaint in told
