"""Lessons in wsproto_min/README.md and tests/README.md: steps, rules, parser and exercises."""

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
from wsproto_min import _fast_path, connection, frames, messages
from wsproto_min.connection import Connection, Role
from wsproto_min.explain.verdict import close_code_name
from wsproto_min.rules import RULES
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS, VIOLATIONS, find_violation

SOLUTIONS = Path(__file__).parent.parent / "solutions"
MODULES = (connection, _fast_path, frames, messages)


def section(path: str, title: str) -> str:
    """Return the text of a section of a Markdown file."""
    text = (ROOT / path).read_text()
    found = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, f"{path} has no section {title!r}"
    return found


# From bytes to a message

PATH = section("wsproto_min/README.md", "From bytes to a message")
STEPS = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\n\n)", PATH, re.MULTILINE | re.DOTALL)


def test_steps_of_a_message_are_ten() -> None:
    assert len(STEPS) == 10


@pytest.mark.parametrize("step", STEPS)
def test_step_names_existing_functions(step: str) -> None:
    names = re.findall(r"`([\w.]+)`", step)
    assert names, step
    for name in names:
        owner, _, attribute = name.rpartition(".")
        holders = [getattr(module, owner, None) if owner else module for module in MODULES]
        assert any(callable(getattr(holder, attribute, None)) for holder in holders), name


def test_steps_show_the_bytes_that_a_connection_sends() -> None:
    received = re.search(r"explain ((?:[0-9a-f]{2} ?){11})\n", PATH)
    assert received
    server = Connection(Role.SERVER)
    server.receive_data(bytes.fromhex(received[1]))
    message = server.next_event()
    assert isinstance(message, str)
    server.send(message)
    assert server.data_to_send().hex(" ") in STEPS[-1].replace("\n", " ")


# Rules


def rules_table() -> str:
    lines = ["| section | close code | rule |", "|---|---|---|"]
    for rule in RULES:
        code = close_code_name(rule.close_code).replace(" ", " `") + "`"
        lines.append(f"| {rule.section} | {code} | {rule.sentence} |")
    return "\n".join(lines)


def test_rules_table_matches_the_rules() -> None:
    text = section("wsproto_min/README.md", "Rules")
    shown = text.partition("<!-- rules -->\n")[2].partition("\n\n")[0].strip()
    assert shown == rules_table(), f"wsproto_min/README.md should have:\n{rules_table()}"


def test_violation_names_are_unique_for_each_sender() -> None:
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        assert re.fullmatch(r"[a-z0-9-]+", violation.name)
        assert find_violation(violation.name, violation.sender) is violation
        assert find_violation(violation.name).name == violation.name


# Test your own parser


def own_parser() -> str:
    """Return the example's Python code."""
    text = section("tests/README.md", "Test your own parser")
    found = re.search(r"<!-- own parser -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, "tests/README.md has no example 'own parser'"
    return found[1]


OWN_PARSER = own_parser()
PROPERTIES = re.findall(r"^def (test_\w+)", OWN_PARSER, re.MULTILINE)
FIND = settings(max_examples=400, phases=[Phase.generate], database=None)
PASS = settings(max_examples=15, database=None, deadline=None)


def property_of(
    name: str, parser: Callable[..., object] | None = None, code: str = OWN_PARSER
) -> Callable[[], None]:
    """Return a property of the example, for the example's parser or for `parser`."""
    namespace: dict[str, Any] = {}
    # Hypothesis looks for the source of a property in its file, so name no file that exists.
    exec(compile(code, "<tests/README.md>", "exec"), namespace)
    if parser is not None:
        namespace["parse"] = parser
    test: Callable[[], None] = namespace[name]
    return test


def test_own_parser_has_twelve_lines_and_three_properties() -> None:
    lines = re.search(r"^def parse.*?\n\n", OWN_PARSER, re.MULTILINE | re.DOTALL)
    assert lines
    assert len(lines[0].strip().splitlines()) == 12
    assert len(PROPERTIES) == 3


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_finds_a_bug_in_own_parser(name: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        FIND(property_of(name))()


@pytest.mark.parametrize(
    ("name", "bug", "correction"),
    [
        (PROPERTIES[0], "6, int.from_bytes(data[2:6]", "10, int.from_bytes(data[2:10]"),
        (PROPERTIES[1], "for data in chunks:", 'for data in [b"".join(chunks)]:'),
    ],
)
def test_property_finds_only_its_own_bug(name: str, bug: str, correction: str) -> None:
    assert bug in OWN_PARSER
    PASS(property_of(name, code=OWN_PARSER.replace(bug, correction)))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_holds_for_the_solution(name: str) -> None:
    PASS(property_of(name, parse))()


# Exercises

TASKS = section("wsproto_min/README.md", "Exercises")
COMMANDS = re.findall(r"^ {7}(python3 .*)$", TASKS, re.MULTILINE)
PREDICTED = {
    "82 fe 00 05": "1002",  # a 16-bit length of 5 bytes
    "88 82 00 00 00 00 03 ee": "1002",  # close code 1006
    "88 83 00 00 00 00 03 e8 ff": "1007",  # a reason that is not UTF-8
    "81 81 00 00 00 00 e9": "1007",  # the first byte of a character of three
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
    """Run the command of an exercise with answers; return its status and output."""
    line = COMMANDS[number].replace("python3", sys.executable)
    for place, answer in answers.items():
        assert place in line
        line = line.replace(place, answer)
    done = subprocess.run(
        line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout + done.stderr


def test_exercises_are_five() -> None:
    assert len(COMMANDS) == len(SOLVED) == 5


@pytest.mark.parametrize("number", SOLVED)
def test_exercise_command_accepts_the_solution(number: int) -> None:
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
        ("mask", "81 82 01 02 03 04 49", "incomplete: the TEXT frame at byte 0 is incomplete"),
        ("mask", "81 8", "the answer is not hex: '8' (line 1, column 4) has an odd number"),
        ("split", "01 02 48 c3 80 01 a9", "there must be two fragments, and a Ping between"),
        ("split", "01 01 48 89 00 80 02 c3 a9", "the first fragment must end within the \u00e9"),
        ("split", "01 03 48 c3 a9 89 00 80 00", "the first fragment must end within the \u00e9"),
        ("split", "02 02 48 c3 89 00 80 01 a9", "the client must get the text H\u00e9"),
        ("split", "01 02 48 c3 89 00 80 01 28", "broken: a text message is not UTF-8"),
        ("split", "01 02 48 c3 89 00", "incomplete: the server's message waits for its last"),
        ("predict", "1002 1002 1007 1007 1008", "1008 is not the close code for 82 ff 00 00 00"),
        ("predict", "1002", "there are 5 frames; give one close code for each"),
        ("client", os.devnull, "the client exits without connecting to the URL"),
    ],
)
def test_exercise_wrong_answer_gets_its_problem(
    name: str, answer: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exercises.main([name, *answer.split()]) == 1
    assert capsys.readouterr().out.startswith(complaint)


@pytest.mark.parametrize("arguments", [[], ["mask"], ["moon", "81 00"]])
def test_exercise_wrong_arguments_print_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exercises.main(arguments) == 2
    names = "mask|split|predict|client|ping"
    assert capsys.readouterr().err == f"usage: python3 -m tests.exercises {names} ANSWER\n"


def test_exercise_predict_shows_its_frames_in_order() -> None:
    assert tuple(PREDICTED) == exercises.TO_PREDICT
    text = TASKS.replace("\n   ", " ")
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
        (" and not frame.remaining", "", False, "closes after a part of a frame"),
        ("frame.fin and ", "", True, "closes after a fragment with FIN 0"),
        ("if frame.fin and", "if message == b'Hello' and", True, "closes after a fragment with"),
        ("while (frame := decoder", "if (frame := decoder", False, "without a Close frame after a"),
        ("mask=os.urandom(4)", "mask=bytes(4)", False, "masks with 00 00 00 00; choose"),
        ("mask=os.urandom(4)", "mask=b'mask'", False, "masks two frames with one key; choose"),
    ],
)
def test_exercise_client_with_a_bug_gets_its_problem(
    old: str, new: str, pings: bool, complaint: str, tmp_path: Path
) -> None:
    code = (SOLUTIONS / "client.py").read_text()
    assert old in code
    path = tmp_path / "mine.py"
    path.write_text(code.replace(old, new))
    problem = exercises.check_client(str(path), pings=pings)
    assert problem is not None
    assert complaint in problem
