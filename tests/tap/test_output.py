"""The thread that writes the output of the tap."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.support import PATIENCE
from wsproto_min.tap import output
from wsproto_min.tap.output import Output

Capture = pytest.CaptureFixture[str]


class Gate:
    """A stream that waits in its first write until `opened` is set."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.text = ""

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


class Failing:
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def never_called() -> None:
    raise AssertionError("the output failed")


def test_texts_go_to_their_streams_in_order(capsys: Capture) -> None:
    out = Output(never_called)
    out.write("one")
    out.write_error("problem")
    out.write("two")
    assert out.close(PATIENCE)
    assert capsys.readouterr() == ("one\ntwo\n", "problem\n")


def test_full_queue_drops_and_counts_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_QUEUED", 3)
    gate = Gate()
    monkeypatch.setattr(sys, "stdout", gate)
    out = Output(never_called)
    out.write("0")
    assert gate.reached.wait(PATIENCE)
    for number in range(1, 9):
        out.write(f"{number}")
    assert not out.close(0)
    gate.opened.set()
    assert out.close(PATIENCE)
    assert gate.text == ("0\n1\n2\n3\n5 events not shown, because the output is read too slowly\n")


def test_failing_standard_output_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Failing())
    failed = threading.Event()
    out = Output(failed.set)
    out.write("one")
    out.write("two")
    assert failed.wait(PATIENCE)
    assert out.close(PATIENCE)
    assert out.error is not None


def test_failing_standard_error_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "stderr", Failing())
    out = Output(never_called)
    out.write_error("problem")
    out.write("one")
    assert out.close(PATIENCE)
    assert capsys.readouterr().out == "one\n"
