"""What the daemon writes about itself: its form, and that it keeps nobody waiting."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.ops import log_handler as journal
from chatd.ops.log_handler import LogHandler, note_in_log, writing
from tests.support import PATIENCE, poll

logger = logging.getLogger("chatd.test")


def written(form: str, tell: Callable[[LogHandler], object]) -> str:
    """Return what stands in the stream after `tell` has told something."""
    stream = io.StringIO()
    with writing(stream, form) as opened:
        tell(opened)
    return stream.getvalue()


def trouble(_: LogHandler) -> None:
    """Log an exception in whose text a terminal would see a colour, and a second line."""
    try:
        raise ValueError("\x1b[31mred\nline")
    except ValueError:
        logger.exception("that failed: %s", "a\nb")


def test_a_text_line_has_time_level_message_and_fields() -> None:
    why = 'say "no"\x1b[0m'
    told = {"address": "127.0.0.1:5", "room": "", "seconds": 1.25, "why": why, "name": "Jürgen"}
    line = written("text", lambda journal: journal.note("connection ended", **told))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info connection ended address=127\.0\.0\.1:5"
        r' room="" seconds=1\.25 why="say \\"no\\"\\u001b\[0m" name="J\\u00fcrgen"\n',
        line,
    ), line


def test_a_json_line_has_the_same_as_one_object() -> None:
    extra = {"fields": {"code": 1000, "why": "\x1b"}}
    told = json.loads(written("json", lambda _: logger.warning("that's %d", 5, extra=extra)))
    time = told.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time), time
    assert told == {"level": "warning", "message": "that's 5", "code": 1000, "why": "\x1b"}


def test_a_traceback_follows_its_line_in_text_and_is_a_field_in_json() -> None:
    first, *trace = written("text", trouble).splitlines()
    assert first.endswith(r" error that failed: a\nb")
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-2:] == [r"ValueError: \x1b[31mred", "line"]
    told = json.loads(written("json", trouble))
    assert told["message"] == "that failed: a\nb"
    assert told["traceback"].endswith("ValueError: \x1b[31mred\nline")


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_whatever_comes_from_the_network_stays_in_its_line_and_prints(text: str) -> None:
    for form in ("text", "json"):
        line = written(form, lambda journal: journal.note(f"said {text}", why=text))
        assert line.endswith("\n")
        assert line[:-1].isprintable(), line


def test_what_is_logged_and_what_is_noted_look_alike_and_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 1793612345.9996
    monkeypatch.setattr(time, "time", lambda: moment)
    numbers = range(3 * journal.LINES_AT_ONCE)

    def tell(opened: LogHandler) -> None:
        for number in numbers:
            how = (opened.note, note_in_log)[number % 2]
            how("number", it=number, message="in a field", self="")

    expected = [
        f'2026-11-02T09:39:05.999Z info number it={number} message="in a field" self=""'
        for number in numbers
    ]
    assert written("text", tell).splitlines() == expected


class Odd:
    """What no line can be made of."""

    def __str__(self) -> str:
        raise ValueError("on purpose")


def test_one_odd_event_does_not_silence_the_others() -> None:
    def tell(opened: LogHandler) -> None:
        logger.warning("of another module", extra={"fields": "are none"})
        opened.note("odd", it=Odd())
        opened.note("usual", it=1)

    lines = [line.partition(" ")[2] for line in written("text", tell).splitlines()]
    assert lines == [
        "warning of another module",
        """error no line can be made of 'odd': ValueError('on purpose')""",
        "info usual it=1",
    ]


def test_what_is_below_information_is_not_written_and_afterwards_nothing() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with writing(stream, "text"):
        logger.debug("detail")
    logger.info("too late")
    assert stream.getvalue() == ""
    assert (root.level, root.handlers) == before


class Stuck(io.StringIO):
    """A stream that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.released.wait(PATIENCE)
        return super().write(text)


@pytest.mark.parametrize("goes_on", [True, False])
def test_who_does_not_read_keeps_nobody_waiting_and_is_told_what_it_missed(
    goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_WAITING", 2)
    stream = Stuck()
    with writing(stream, "text"):
        logger.info("line 0")
        assert stream.entered.wait(PATIENCE)
        for number in range(1, 10):  # of which two wait
            logger.info("line %d", number)
        stream.released.set()
        poll(lambda: stream.getvalue().count("\n") == 3, "those that waited are written")
        if goes_on:
            logger.info("line 10")
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert (
        lines
        == [
            "info line 0",
            "info line 1",
            "info line 2",
            "warning 7 lines were left out: nobody read those before them",
            "info line 10",
        ][: 4 + goes_on]
    )


def test_a_reader_that_has_gone_or_stands_still_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "LAST_LINES", 0.05)
    monkeypatch.setattr(journal, "MAX_WAITING", 2)
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    ended = threading.Event()

    def use() -> None:
        with writing(stream, "text"):
            for _ in range(200):
                logger.info("%s", "x" * 1000)
        ended.set()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert ended.wait(PATIENCE), "it waits for a reader that never reads"
    thread.join()
    os.close(reader)  # what was being written fails, and nobody minds
    poll(lambda: "journal" not in [each.name for each in threading.enumerate()], "its thread ends")
    with suppress(BrokenPipeError):
        stream.close()


def test_a_writer_may_be_closed_twice() -> None:
    stream = io.StringIO()
    writer = LogHandler(stream, "text")
    writer.emit(logging.makeLogRecord({"msg": "once", "levelname": "INFO"}))
    writer.close()
    writer.close()
    assert stream.getvalue().count("once") == 1
