"""The command `learn`: its pages, the state of the path, and its reports."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, poll
from wsproto_min.__main__ import main
from wsproto_min.connection import Close, Event, Ping, Pong
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.heads import split_parts
from wsproto_min.explain.style import COLUMNS
from wsproto_min.learn import program
from wsproto_min.learn.answers import compare, describe, encoded
from wsproto_min.learn.client_frames import masked, message, rows, shown_parts
from wsproto_min.learn.hints import find_hint
from wsproto_min.learn.path import STEPS, check_step
from wsproto_min.learn.progress import FILE_NAME
from wsproto_min.learn.violations import completed
from wsproto_min.testing.violations import VIOLATIONS, Violation

Output = pytest.CaptureFixture[str]

SOLUTION = Path(__file__).parent / "solutions" / "my_ws.py"


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def learn(*arguments: str) -> int:
    return main(["learn", *arguments])


# Pages


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_page_is_plain_text_with_a_figure(number: int, capsys: Output) -> None:
    assert learn(str(number)) == 0
    page = capsys.readouterr().out
    title = STEPS[number - 1].title
    assert page.startswith(f"Step {number} of {len(STEPS)}: {title}\n=====")
    assert page.endswith(
        f"\nCheck your file:  python3 -m wsproto_min learn {number} check my_ws.py\n"
    )
    assert max(map(len, page.splitlines())) <= COLUMNS
    assert "(figure)" not in page
    assert "\n    " in page or "\n  " in page


def test_titles_are_different() -> None:
    assert len({step.title for step in STEPS}) == len(STEPS)


# The state of the path


def test_state_begins_with_step_1(capsys: Output) -> None:
    assert learn() == 0
    output = capsys.readouterr().out
    assert output.startswith("Build WebSocket yourself, ")
    assert f"   1  next    {STEPS[0].title}\n   2          {STEPS[1].title}\n" in output


def test_state_shows_solved_steps(capsys: Output) -> None:
    assert learn("1", "check", str(SOLUTION)) == 0
    assert capsys.readouterr().out.endswith(
        "Step 1 is solved.\nThe next step: python3 -m wsproto_min learn 2\n"
    )
    assert learn("3", "check", str(SOLUTION)) == 0
    capsys.readouterr()
    assert learn() == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()[-15:-11]]
    assert states == ["solved", "next", "solved", "Lengths"]


def test_state_forgets_a_step_that_fails(capsys: Output) -> None:
    Path(FILE_NAME).write_text(json.dumps({"solved": [1, 2]}))
    Path("mine.py").write_text("print('wrong')")
    assert learn("1", "check", "mine.py") == 1
    assert json.loads(Path(FILE_NAME).read_text()) == {"solved": [2]}
    assert "The problem: for the key dGhlIHNhbXBsZSBub25jZQ==" in capsys.readouterr().out


def test_state_of_a_finished_path_has_no_next_step(capsys: Output) -> None:
    Path(FILE_NAME).write_text(json.dumps({"solved": [*range(1, len(STEPS) + 1)]}))
    assert learn() == 0
    assert "next" not in capsys.readouterr().out.partition("   1  solved")[2]


def test_check_of_all_steps_ends_at_the_first_problem(capsys: Output) -> None:
    code = SOLUTION.read_text().replace("101 Switching", "200 Switching")
    Path("my_ws.py").write_text(code)
    assert learn("check", "my_ws.py") == 1
    output = capsys.readouterr().out
    assert "Step 1 is solved.\nStep 2: " in output
    assert "Step 3" not in output


# Reports


def test_patience_limits_a_check(capsys: Output) -> None:
    Path("my_ws.py").write_text("import time\ntime.sleep(60)")
    assert learn("1", "check", "my_ws.py", "--patience", "0.3") == 1
    output = capsys.readouterr().out
    assert "The problem: the program does not end within 0.3 seconds.\n" in output
    assert output.endswith("3 cases not checked yet.\n")
    assert learn("2", "check", "my_ws.py", "--patience", "0.3") == 1
    assert "the program does not accept connections on port 2" in capsys.readouterr().out


def test_report_has_the_last_lines_of_standard_error(capsys: Output) -> None:
    Path("my_ws.py").write_text("raise ValueError('red: \\x1b[31m')")
    assert learn("2", "check", "my_ws.py") == 1
    output = capsys.readouterr().out
    assert "The problem: the program ends with status 1; it must go on to serve.\n" in output
    assert "The program has ended with status 1.\n" in output
    assert "    ValueError: red: \\x1b[31m\n" in output


def test_report_shows_the_figure_of_a_wrong_frame(capsys: Output) -> None:
    code = SOLUTION.read_text().replace("frame(opcode, payload, rsv1", "frame(2, payload, rsv1")
    Path("my_ws.py").write_text(code)
    assert learn("3", "check", "my_ws.py") == 1
    output = capsys.readouterr().out
    assert "The checker sent 11 bytes:\n  TEXT, 5 bytes: 'Hello'\n" in output
    assert "\n       0  81 85 00 00 00 00 48 65 6c 6c 6f\n" in output
    assert "Frame 1: BINARY, server to client\n" in output
    assert "A right answer is, in 7 bytes:\n       0  81 05 48 65 6c 6c 6f\n" in output
    assert max(map(len, output.splitlines())) <= COLUMNS


def test_report_shows_an_incomplete_frame(capsys: Output) -> None:
    code = SOLUTION.read_text().replace("header + key +", "header[:1] + key +")
    Path("my_ws.py").write_text(code)
    assert learn("3", "check", "my_ws.py", "--patience", "0.5") == 1
    output = capsys.readouterr().out
    problem = "the server's frame is not complete: of its payload of 72 bytes, 4 bytes have come"
    assert problem in " ".join(output.split())
    assert "\nFrame 1: TEXT, server to client\n" in output
    assert "payload: 4 of 72 bytes" in output


def test_program_in_another_language_is_run_itself(capsys: Output) -> None:
    file = Path("my_ws")
    file.write_text(f"#!{sys.executable}\n" + SOLUTION.read_text())
    file.chmod(0o700)
    assert learn("1", "check", "my_ws") == 0
    assert learn("3", "check", "my_ws") == 0


def test_check_that_could_not_run_is_not_solved(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # no kosoku beside it
    number = len(STEPS)
    assert learn(str(number), "check", str(SOLUTION)) == 1
    output = capsys.readouterr().out
    assert "  skipped  group 1: install kosoku: python3 -m pip install kosoku\n" in output
    assert output.endswith(f"Step {number} was not checked.\n")


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program that takes the place of kosoku; its report is in the file `result`."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    program = tmp_path / "kosoku"
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"shutil.copy({str(tmp_path / 'result')!r}, sys.argv[2] + '/index.json')\n"
        f"shutil.copy({str(tmp_path / 'case')!r}, sys.argv[2] + '/case.json')\n"
    )
    program.chmod(0o700)
    details = {
        "description": "A frame.",
        "result": "Too late.",
        "resultClose": "Clean",
        "remoteCloseCode": 1000,
    }
    (tmp_path / "case").write_text(json.dumps(details))
    monkeypatch.setattr(sys, "executable", str(python))
    return tmp_path / "result"


def report(**behaviors: str) -> str:
    cases = {
        case: {"behavior": behavior, "behaviorClose": "OK", "reportfile": "case.json"}
        for case, behavior in behaviors.items()
    }
    return json.dumps({"server": cases})


def test_suite_with_right_verdicts_is_solved(suite: Path, capsys: Output) -> None:
    suite.write_text(report(a="OK", b="NON-STRICT", c="INFORMATIONAL"))
    assert learn(str(len(STEPS)), "check", str(SOLUTION)) == 0
    assert capsys.readouterr().out.endswith(f"Step {len(STEPS)} is solved.\n")


def test_suite_with_failed_cases_names_ten(suite: Path, capsys: Output) -> None:
    suite.write_text(report(right="OK", **{f"c{number}": "FAILED" for number in range(12)}))
    assert learn(str(len(STEPS)), "check", str(SOLUTION)) == 1
    output = capsys.readouterr().out
    details = "    A frame.\n    Too late.\n    Clean; your close code: 1000\n"
    assert "The problem: 12 of 13 cases fail.\n  case c0: FAILED, closing: OK\n" in output
    assert f"  case c9: FAILED, closing: OK\n{details}  and 2 more\n" in output
    suite.write_text(report(c0="UNCLEAN"))
    assert learn(str(len(STEPS)), "check", str(SOLUTION)) == 1
    output = capsys.readouterr().out
    assert f"1 of 1 cases fail.\n  case c0: UNCLEAN, closing: OK\n{details}\n" in output


def test_suite_without_a_report_is_a_problem(suite: Path, capsys: Output) -> None:
    assert learn(str(len(STEPS)), "check", str(SOLUTION)) == 1
    output = capsys.readouterr().out
    assert "The problem: the suite has no result.\n" in output
    assert "FileNotFoundError" in output


# Usage


def test_closed_pipe_returns_141_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert learn() == 141


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["0"], "learn 0: no such step; use a number from 1 to 15"),
        (["16"], "learn 16: no such step; use a number from 1 to 15"),
        (["first"], "learn first: no such step"),
        (["1", "test", "my_ws.py"], "learn: wrong arguments; use "),
        (["1", "check"], "learn: wrong arguments; use "),
        (["1", "check", "a", "b"], "learn: wrong arguments; use "),
        (["1", "check", "absent.py"], "absent.py: no such file; write it first"),
        (["1", "check", "."], ".: not a regular file"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], problem: str, capsys: Output) -> None:
    assert learn(*arguments) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "0", "3601", "soon"])
def test_invalid_patience_is_status_2(text: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        learn("1", "check", str(SOLUTION), "--patience", text)
    assert ended.value.code == 2
    assert f"'{text}' is not a number of seconds up to 3600" in capsys.readouterr().err


def test_sigterm_ends_the_program_too() -> None:
    code = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    Path("my_ws.py").write_text(code)
    command = [sys.executable, "-m", "wsproto_min", "learn", "2", "check", "my_ws.py"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as checker:
        poll(lambda: Path("pid").exists() and Path("pid").read_text(), "the program runs")
        checker.send_signal(signal.SIGTERM)
    assert checker.returncode == 130
    poll(lambda: not is_running(int(Path("pid").read_text())), "the program ends")


def test_interrupt_during_the_start_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_ws.py").write_text("import time\ntime.sleep(60)")
    started: list[subprocess.Popen[bytes]] = []
    popen: Any = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        signal.raise_signal(signal.SIGINT)  # the constructor has not returned
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), program.Program(Path("my_ws.py"), patience=1) as mine:
        mine.output_of("accept")
    assert started[0].returncode == -signal.SIGKILL


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_file_that_cannot_be_run_is_a_problem(capsys: Output) -> None:
    Path("my_ws").write_text("no program")
    assert learn("1", "check", "my_ws") == 1
    assert "The problem: the file cannot be run: " in capsys.readouterr().out


def test_processes_of_the_program_end_with_it(capsys: Output) -> None:
    code = "import subprocess, sys\nprint(subprocess.Popen(['sleep', '60']).pid)"
    Path("my_ws.py").write_text(code)
    with program.Program(Path("my_ws.py"), patience=30) as mine:
        pid = int(mine.output_of("accept", "x"))
    poll(lambda: not is_running(pid), "the process of the program ends")


def test_program_runs_without_unix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert runpy.run_path(program.__file__)["resource"] is None
    monkeypatch.delattr(os, "killpg")
    monkeypatch.setattr(program, "resource", None)
    assert learn("1", "check", str(SOLUTION)) == 0
    assert learn("3", "check", str(SOLUTION)) == 0


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"solved": "12"}',
        '{"solved": [1.9]}',
        "no JSON",
        "[]",
        '{"solved": 1}',
        '{"solved": ["a"]}',
        "{}",
    ],
)
def test_damaged_state_is_refused(content: str, capsys: Output) -> None:
    Path(FILE_NAME).write_text(content)
    assert learn() == 2
    error = capsys.readouterr().err
    assert error == f"wsproto_min: {FILE_NAME}: not a list of solved steps; delete the file\n"


# Parts of the checkers


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_completed_violation_is_a_whole_frame_or_large(violation: Violation) -> None:
    if violation.sender == "client":
        data = completed(violation.data)
        assert data.startswith(violation.data)
        last = FrameFields(data[list(split_parts(data))[-1].begin :])
        assert not last.remaining or last.size > 4096
        assert last.fin or last.is_control


def test_answers_are_described_and_encoded() -> None:
    cases: list[tuple[Event, str, str]] = [
        ("Hi", "the text 'Hi' of 2 bytes", "81 02 48 69"),
        (b"\x00", "the binary message 00 of 1 byte", "82 01 00"),
        (Pong(b"p"), "a Pong with the payload 'p'", "8a 01 70"),
        (Ping(b""), "a Ping with the payload ''", "89 00"),
        (Close(1000, "x"), "a Close with 1000 NORMAL_CLOSURE", "88 03 03 e8 78"),
        (Close(1005), "a Close without a code", "88 00"),
    ]
    for event, description, data in cases:
        assert describe(event) == description
        assert encoded(event).hex(" ") == data


@pytest.mark.parametrize(
    ("found", "right", "sentence"),
    [
        ("abc", "abd", "byte 2 of the payload is 63, not 64"),
        (b"ab", b"abc", "1 byte is missing at the end"),
        (b"a", b"abc", "2 bytes are missing at the end"),
        ("abcd", "abc", "1 byte too many at the end"),
        ("abc", b"abc", ""),
        (b"", Close(1000), ""),
        (Close(1000), "", ""),
    ],
)
def test_compare_names_the_first_difference(found: Event, right: Event, sentence: str) -> None:
    assert compare(found, right) == sentence


def test_shown_parts_describe_requests_and_frames() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + message("Hel", key=bytes(4), fin=False)
    data += masked(9, key=bytes(4)) + b"\x80\xfe"
    assert list(shown_parts(data)) == [
        "    b'GET / HTTP/1.1\\r\\n'",
        "    b'Host: a\\r\\n'",
        "    b'\\r\\n'",
        "  TEXT, FIN 0, 3 bytes: 'Hel'",
        "       0  01 83 00 00 00 00 48 65 6c",
        "  PING, 0 bytes",
        "       0  89 80 00 00 00 00",
        "  CONTINUATION, a length that is cut",
        "       0  80 fe",
    ]
    many = list(shown_parts(message("x") * 10))
    assert many[0] == "  2 parts before the last 8"
    assert len(many) == 17


@pytest.mark.parametrize(
    ("frame", "right", "sent", "hint"),
    [
        ("81 02 4869", "Hi", b"", None),
        ("81 02 4869", b"Hi", b"", "the server's opcode is 0x1, not 0x2"),
        (
            "81 02 4869",
            "Ho",
            b"",
            "is wrong: byte 1 of the payload is 69, not 6f",
        ),
        ("81 02 4869", "ab", bytes.fromhex("8182 00000000 4869"), "without unmasking"),
        ("81 04 f2c80400", "Hi", b"", "the server's message is compressed, but RSV1 is 0"),
        ("01 01 48", "Hi", b"", None),
        ("82 01 48", b"Hi", b"", None),
        ("c1 02 789c", "Hi", b"", "begins with a zlib header"),
        ("c1 02 0000", "Hi", b"", None),
        ("89 00", "Hi", b"", None),
        ("81 02 48", "Hi", b"", None),
        ("81 00", None, b"", None),
    ],
)
def test_hint_names_a_frequent_cause(
    frame: str, right: Event | None, sent: bytes, hint: str | None
) -> None:
    found = find_hint(FrameFields(bytes.fromhex(frame)), right, sent)
    assert found is hint is None or (hint is not None and found is not None and hint in found)


def test_peak_memory_of_no_process_is_unknown() -> None:
    with program.Program(SOLUTION, patience=30) as mine:
        assert mine.peak_memory() == 0


def test_port_with_a_listener_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports = [listener.getsockname()[1], closed.getsockname()[1]]
        choices = iter(ports)
        monkeypatch.setattr(random, "choice", lambda ports: next(choices))
        assert program.free_port() == ports[1]


def test_rows_shorten_long_data() -> None:
    assert list(rows(bytes(81)))[-2:] == [
        "      60  " + " ".join(["00"] * 20),
        "          and 1 more",
    ]


def test_random_traffic_is_skipped_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    lines: list[str] = []
    assert check_step(8, SOLUTION, show=lines.append)
    assert any("  skipped  random messages" in line for line in lines)
    assert lines[-1] == "Step 8 is solved."
