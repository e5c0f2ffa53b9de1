"""The checkers of `learn`: right solutions pass, and each classic wrong answer is refused."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.learn.wrong_answers import CLIENT_ANSWERS, SERVER_ANSWERS, WrongAnswer
from wsproto_min.learn.path import STEPS, check_step

HERE = Path(__file__).parent / "solutions"
SERVER = HERE / "my_ws.py"
CLIENT = HERE / "my_client.py"
EARLY = HERE / "early.py"
AT_ONCE = 8  # most wrong answers only wait
SILENCE = 2.0  # seconds without an answer that make an answer wrong
LONGEST = 250  # lines
CLIENT_STEP, SUITE_STEP = 14, 15
WRONG = (*SERVER_ANSWERS, *CLIENT_ANSWERS)


def check(step: int, file: Path, patience: float = 30.0) -> tuple[bool, str]:
    """Return the result and the report of a check."""
    lines: list[str] = []
    solved = check_step(step, file, patience=patience, show=lines.append)
    return solved, "\n".join(lines)


@pytest.fixture(scope="session")
def reports(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[WrongAnswer, Future[tuple[bool, str]]]:
    """Check all wrong answers side by side."""
    threads = ThreadPoolExecutor(AT_ONCE)
    results = {}
    for wrong in WRONG:
        directory = tmp_path_factory.mktemp("wrong")
        is_client = wrong in CLIENT_ANSWERS
        original = CLIENT if is_client else SERVER
        code = original.read_text()
        for old, new in wrong.changes:
            assert old in code, (wrong.name, old)
            code = code.replace(old, new)
        code = code.replace("import sys\n", "import sys\nimport time\n")
        file = directory / original.name
        file.write_text(code)
        if is_client:
            (directory / SERVER.name).write_text(SERVER.read_text())
        results[wrong] = threads.submit(check, wrong.step, file, SILENCE)
    threads.shutdown(wait=False)
    return results


@pytest.mark.parametrize("step", range(1, CLIENT_STEP))
def test_server_solution_passes_step(step: int) -> None:
    solved, report = check(step, SERVER)
    assert solved, report
    assert report.endswith(f"Step {step} is solved.")


def test_client_solution_passes_its_step() -> None:
    solved, report = check(CLIENT_STEP, CLIENT)
    assert solved, report


@pytest.mark.parametrize("step", range(1, 6))
def test_early_solution_passes_the_first_steps(step: int) -> None:
    solved, report = check(step, EARLY)
    assert solved, report


def test_early_solution_fails_at_partial_reads() -> None:
    solved, report = check(6, EARLY, SILENCE)
    assert not solved
    assert "  wrong    frames in single bytes\n" in report


def test_server_may_decline_a_small_window(tmp_path: Path) -> None:
    code = SERVER.read_text()
    assert code.count(" and ours in sizes") == 1
    file = tmp_path / SERVER.name
    file.write_text(code.replace(" and ours in sizes", " and ours == '15'"))
    solved, report = check(13, file)
    assert solved, report


def test_solution_is_short() -> None:
    assert len(SERVER.read_text().splitlines()) <= LONGEST


def test_each_step_has_five_wrong_answers() -> None:
    counts = Counter(wrong.step for wrong in WRONG)
    assert set(counts) == set(range(1, len(STEPS) + 1)) - {SUITE_STEP}
    assert min(counts.values()) >= 5


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.step} {wrong.name}")
def test_wrong_answer_is_refused(
    wrong: WrongAnswer, reports: dict[WrongAnswer, Future[tuple[bool, str]]]
) -> None:
    solved, report = reports[wrong].result()
    assert not solved, report
    problem = " ".join(report.partition("The problem: ")[2].split())
    assert wrong.problem in problem, report
