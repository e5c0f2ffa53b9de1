"""Log lines: their formats, the bounded queue, and readers that are slow or gone."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.ops import log_handler
from chatd.ops.log_handler import FORMATTERS, escape_control_characters, log_to
from tests.support import PATIENCE, ROOT, poll

logger = logging.getLogger("chatd.test")


def lines_of(log_format: str, log: Callable[[], object]) -> str:
    """Return the lines that `log` causes on a stream."""
    stream = io.StringIO()
    with log_to(stream, log_format):
        log()
    return stream.getvalue()


def log_fields(message: str, /, **fields: object) -> None:
    logger.info(message, extra={"fields": fields})


def log_traceback() -> None:
    """Log an exception with a terminal's colour code and a line break in its text."""
    try:
        raise ValueError("\x1b[31mred\nline")
    except ValueError:
        logger.exception("that failed: %s", "a\nb")


# Formats.


def test_text_line_has_time_level_message_and_fields() -> None:
    fields = {
        "address": "127.0.0.1:5",
        "room": "",
        "seconds": 1.25,
        "why": 'say "no"\x1b[0m',
        "name": "Jürgen",
    }
    line = lines_of("text", lambda: log_fields("connection ended", **fields))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info connection ended address=127\.0\.0\.1:5"
        r' room="" seconds=1\.25 why="say \\"no\\"\\u001b\[0m" name="J\\u00fcrgen"\n',
        line,
    ), line


def test_json_line_has_time_level_message_and_fields() -> None:
    extra = {"fields": {"code": 1000, "why": "\x1b"}}
    line = lines_of("json", lambda: logger.warning("that's %d", 5, extra=extra))
    values = json.loads(line)
    time = values.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time), time
    assert values == {"level": "warning", "message": "that's 5", "code": 1000, "why": "\x1b"}


def test_traceback_follows_text_line_and_is_a_json_field() -> None:
    first, *trace = lines_of("text", log_traceback).splitlines()
    assert first.endswith(r" error that failed: a\nb")
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-2:] == [r"ValueError: \x1b[31mred", "line"]
    values = json.loads(lines_of("json", log_traceback))
    assert values["message"] == "that failed: a\nb"
    assert values["traceback"].endswith("ValueError: \x1b[31mred\nline")


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_text_from_the_network_stays_in_one_printable_line(text: str) -> None:
    for log_format in FORMATTERS:
        line = lines_of(log_format, lambda: log_fields(f"text {text}", why=text))
        assert line.endswith("\n")
        assert line[:-1].isprintable(), line


def test_time_is_rounded_down_to_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1793612345.9996, "msg": "x", "levelname": "INFO"})
    assert FORMATTERS["text"]().format(record) == "2026-11-02T09:39:05.999Z info x"


def test_escape_keeps_printable_text_and_escapes_the_rest() -> None:
    assert escape_control_characters("Grüße 😀") == "Grüße 😀"
    assert escape_control_characters("\x1b[31m\u202e\n") == r"\x1b[31m\u202e\n"


# Records.


def test_lines_keep_the_order_of_records_and_all_field_names() -> None:
    numbers = range(3 * log_handler.LINES_PER_WRITE)

    def log() -> None:
        for number in numbers:
            log_fields("number", it=number, message="in a field", self="")

    lines = [line.partition(" ")[2] for line in lines_of("text", log).splitlines()]
    assert lines == [f'info number it={each} message="in a field" self=""' for each in numbers]


def test_line_shows_arguments_as_they_were_when_logged() -> None:
    names = ["Ann"]

    def log() -> None:
        logger.info("names: %s", names)
        names.clear()

    assert lines_of("text", log).endswith(" info names: ['Ann']\n")


def test_other_handlers_receive_the_original_record(caplog: pytest.LogCaptureFixture) -> None:
    lines_of("text", log_traceback)
    (record,) = caplog.records
    assert (record.msg, record.args) == ("that failed: %s", ("a\nb",))
    assert record.exc_info is not None


class Unprintable:
    """A value that no format can turn into text."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


class UnprintableError(Exception):
    """An error that cannot be shown either."""

    def __repr__(self) -> str:
        raise self


def test_unprintable_record_does_not_end_the_listener(capsys: pytest.CaptureFixture[str]) -> None:
    def log() -> None:
        logger.warning("of another module", extra={"fields": "not a mapping"})
        log_fields("odd", it=Unprintable(ValueError("on purpose")))
        log_fields("very odd", it=Unprintable(UnprintableError()))
        # Only the handler under test gets this record, because pytest's handlers raise.
        handler = logging.getLogger().handlers[-1]
        values = {"msg": "argument %d", "args": ("x",), "levelname": "INFO"}
        handler.handle(logging.makeLogRecord(values))
        log_fields("usual", it=1)

    lines = [line.partition(" ")[2] for line in lines_of("text", log).splitlines()]
    assert lines == [
        "warning of another module",
        """error log record 'odd': cannot be formatted: ValueError('on purpose')""",
        "error log record 'argument %d': cannot be formatted: TypeError("
        "'%d format: a real number is required, not str')",
        "info usual it=1",
    ]
    assert capsys.readouterr() == ("", ""), "logging reported the error on standard error"


def test_debug_records_and_later_records_are_not_written() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    switches = (logging.logThreads, logging.logProcesses, logging.logMultiprocessing)
    with log_to(stream, "text"):
        logger.debug("detail")
    logger.info("too late")
    assert stream.getvalue() == ""
    assert (root.level, root.handlers) == before
    assert (logging.logThreads, logging.logProcesses, logging.logMultiprocessing) == switches


# Slow, stalled and closed readers.


class StalledStream(io.StringIO):
    """A stream with writes that wait until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.released.wait(PATIENCE)
        return super().write(text)


@pytest.mark.parametrize("continues", [True, False])
def test_full_queue_drops_records_and_reports_their_number(
    continues: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_handler, "MAX_QUEUED_RECORDS", 2)
    monkeypatch.setattr(log_handler, "GATHER_INTERVAL", 0.01)
    stream = StalledStream()
    with log_to(stream, "text"):
        logger.info("line 0")
        assert stream.entered.wait(PATIENCE)
        for number in range(1, 10):  # the queue holds two of them
            logger.info("line %d", number)
        stream.released.set()
        poll(lambda: stream.getvalue().count("\n") == 3, "the queued lines are written")
        if continues:
            logger.info("line 10")
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert (
        lines
        == [
            "info line 0",
            "info line 1",
            "info line 2",
            "warning log queue: full, 7 lines dropped; read standard error faster",
            "info line 10",
        ][: 4 + continues]
    )


def test_stalled_or_closed_reader_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_handler, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(log_handler, "MAX_QUEUED_RECORDS", 2)
    before = threading.active_count()
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    ended = threading.Event()

    def use() -> None:
        with log_to(stream, "text"):
            for _ in range(200):
                logger.info("%s", "x" * 1000)
        ended.set()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert ended.wait(PATIENCE), "log_to waits for a reader that never reads"
    thread.join()
    os.close(reader)  # the write fails, and the listener goes on
    poll(lambda: threading.active_count() == before, "the threads end")
    with suppress(BrokenPipeError):
        stream.close()


def test_lines_reach_a_slow_reader_of_a_nonblocking_stream() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as lines:

        def use() -> None:
            with log_to(stream, "text"):
                for number in range(3000):  # more than a pipe holds
                    logger.info("%d %s", number, "x" * 50)
                time.sleep(0.3)  # the reader is late
                reading.set()
            stream.close()

        reading = threading.Event()
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        assert reading.wait(PATIENCE)
        received = [int(line.split()[2]) for line in lines]
        thread.join()
    assert received == list(range(3000))


def test_process_ends_although_standard_error_is_stalled() -> None:
    script = (
        "import logging, sys\n"
        "from chatd.ops import log_handler\n"
        "log_handler.CLOSE_TIMEOUT = 0.1\n"
        "with log_handler.log_to(sys.stderr, 'text'):\n"
        "    for _ in range(200): logging.info('x' * 1000)\n"
    )
    # With a buffered standard error, the interpreter takes the lock of the buffer at its end.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, stderr=writer
        )
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    finally:
        os.close(reader)
        os.close(writer)
