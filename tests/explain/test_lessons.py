"""Lessons in wsproto_min/README.md and tests/README.md: steps, rules and parser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.solutions.parser import parse
from tests.support import ROOT
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
