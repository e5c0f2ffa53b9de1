"""The checkers of `learn`: right solutions pass, and each classic wrong answer is refused."""

from __future__ import annotations

import sys
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
Reports = dict[WrongAnswer, Future[tuple[bool, str]]]
WRONG = (*SERVER_ANSWERS, *CLIENT_ANSWERS)


def check(step: int, file: Path, patience: float = 30.0) -> tuple[bool, str]:
    """Return the result and the report of a check."""
    lines: list[str] = []
    solved = check_step(step, file, patience=patience, show=lines.append)
    return solved, "\n".join(lines)


def write_changed(directory: Path, *changes: tuple[str, str], client: bool = False) -> Path:
    """Write the solutions with changes, each in the one of them that has the old text."""
    files = [CLIENT, SERVER] if client else [SERVER]
    codes = {file.name: file.read_text() for file in files}
    for old, new in changes:
        name = next((name for name, code in codes.items() if old in code), None)
        assert name is not None, old
        codes[name] = codes[name].replace(old, new)
    for name, code in codes.items():
        (directory / name).write_text(code.replace("import sys\n", "import sys\nimport time\n"))
    return directory / files[0].name


@pytest.fixture(scope="session")
def reports(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[WrongAnswer, Future[tuple[bool, str]]]:
    """Check all wrong answers side by side."""
    threads = ThreadPoolExecutor(AT_ONCE)
    results = {}
    for wrong in WRONG:
        directory = tmp_path_factory.mktemp("wrong")
        file = write_changed(directory, *wrong.changes, client=wrong in CLIENT_ANSWERS)
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


OWN_PING = (
    "self.opened, self.ending = True,",
    "self.unsent += frame(PING, b'own') if ' 101 ' in response else b''\n"
    "                self.opened, self.ending = True,",
)
# Other right answers: the step, and the change of the solution.
ALSO_RIGHT = {
    "small window declined": (13, (" and ours in sizes", " and ours == '15'")),
    "socket closed after a refusal": (2, ("self.sock.shutdown(socket.SHUT_WR)", "raise OSError")),
    "Pings of the server": (3, OWN_PING),
    "Pings of the server, and fragments": (7, OWN_PING),
    "Pings of the server, and closing": (9, OWN_PING),
    "empty Close answered with 1000": (9, ("payload[:2])", "payload[:2] or b'\\x03\\xe8')")),
    "reason sent back": (9, ("frame(CLOSE, payload[:2])", "frame(CLOSE, payload)")),
    "Ping and Pong of the client": (
        14,
        (
            'sock.sendall(frame(TEXT, b"Hello"',
            'sock.sendall(frame(PING, b"", os.urandom(4)) + frame(PONG, b"", os.urandom(4)))\n'
            '    sock.sendall(frame(TEXT, b"Hello"',
        ),
    ),
}


@pytest.mark.parametrize("name", ALSO_RIGHT)
def test_other_right_answer_passes(name: str, tmp_path: Path) -> None:
    step, change = ALSO_RIGHT[name]
    file = write_changed(tmp_path, change, client=step == CLIENT_STEP)
    solved, report = check(step, file)
    assert solved, report


def test_solution_is_short() -> None:
    assert len(SERVER.read_text().splitlines()) <= LONGEST


def test_each_step_has_five_wrong_answers() -> None:
    counts = Counter(wrong.step for wrong in WRONG)
    assert set(counts) == set(range(1, len(STEPS) + 1)) - {SUITE_STEP}
    assert min(counts.values()) >= 5


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.step} {wrong.name}")
def test_wrong_answer_is_refused(wrong: WrongAnswer, reports: Reports) -> None:
    if wrong.name == "bomb decompressed" and sys.platform != "linux":
        pytest.skip("only Linux tells the memory of a process")
    solved, report = reports[wrong].result()
    assert not solved, report
    problem = " ".join(report.partition("The problem: ")[2].split())
    assert wrong.problem in problem, report
