"""Log lines on standard error: their formats, and the thread that writes them.

The event loop only puts each `logging.LogRecord` into a queue. The thread of a
`QueueListener` formats the records and writes the lines. So a slow or stalled reader of
standard error does not slow the chat. A full queue drops records, and one line says
how many.

Fields can hold text from the network, so the formats escape control characters.
Callers keep chat messages and tokens out of records.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import TextIO

MAX_QUEUED_RECORDS = 10_000
# Seconds for which records gather in the queue before the listener writes them.
GATHER_INTERVAL = 0.1
# Lines that the listener formats without a pause. A write lets the thread of the event
# loop run, but each switch between threads costs more than the format of a line.
LINES_PER_WRITE = 32
# Seconds for which the end of the process waits for the last lines.
CLOSE_TIMEOUT = 1.0

# Values without quotation marks: printable ASCII except space, `"`, `=` and backslash.
_BARE_VALUE = re.compile(r"[!#-<>-\[\]-~]+")

_Queue = SimpleQueue[logging.LogRecord | None]


def escape_control_characters(text: str) -> str:
    r"""Return `text` with an escape for each character that can steer a terminal.

    >>> escape_control_characters("red: \x1b[31m, right to left: \u202e")
    'red: \\x1b[31m, right to left: \\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class TextFormatter(logging.Formatter):
    """Format `2026-01-31T12:00:00.000Z info message key=value key="a value"`.

    The keys and values come from the record's attribute `fields`, a mapping.
    A traceback follows on lines of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        level = record.levelname.lower()
        words = [_timestamp(record.created), level, escape_control_characters(record.getMessage())]
        words += [f"{name}={_quote(str(value))}" for name, value in _fields(record).items()]
        line = " ".join(words)
        if record.exc_text:
            line = "\n".join([line, *map(escape_control_characters, record.exc_text.split("\n"))])
        return line


class JSONFormatter(logging.Formatter):
    """Format of one JSON object: `time`, `level`, `message`, the fields, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        values = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_text:
            values["traceback"] = record.exc_text
        return json.dumps(values, default=str)


FORMATTERS: Mapping[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JSONFormatter}


class BoundedQueueHandler(QueueHandler):
    """Queue handler that never waits: it drops a record if the queue is full."""

    queue: _Queue

    def __init__(self, queue: _Queue) -> None:
        super().__init__(queue)
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a record that later changes of its arguments do not affect.

        Only arguments and a traceback become text here. The listener does the rest.
        """
        if record.args or record.exc_info:
            record = copy.copy(record)  # other handlers see the original
            with suppress(Exception):  # the listener meets the same error and reports it
                record.msg, record.args = record.getMessage(), None
            if record.exc_info:
                record.exc_text = _traceback_formatter.formatException(record.exc_info)
                record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as dropped."""
        if self.queue.qsize() >= MAX_QUEUED_RECORDS:
            self._dropped += 1
            return
        self.report_dropped()
        self.queue.put(record)

    def report_dropped(self) -> None:
        """Queue a warning with the number of records dropped since the last warning."""
        if self._dropped:
            message = f"log queue: full, {self._dropped} lines dropped; read standard error faster"
            self.queue.put(logging.makeLogRecord({"msg": message, "levelname": "WARNING"}))
            self._dropped = 0


class LineListener(QueueListener):
    """Queue listener that writes lines to a stream itself, without a handler.

    A handler holds its lock during a stalled write, and `logging.shutdown` waits for
    the locks of all handlers.
    """

    queue: _Queue

    def __init__(self, queue: _Queue, formatter: logging.Formatter, stream: TextIO) -> None:
        super().__init__(queue)
        self._formatter = formatter
        self._write = _unbuffered_write(stream)
        self._lines: list[str] = []
        self._stopping = threading.Event()

    def dequeue(self, block: bool) -> logging.LogRecord:
        """Return the next record; if the queue is empty, let records gather first.

        A thread that wakes up for every record slows the event loop.
        """
        if not self.queue.empty():
            return super().dequeue(block)
        self._write_lines()
        record = super().dequeue(block)
        self._stopping.wait(GATHER_INTERVAL)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """Format a record."""
        with suppress(Exception):  # because an exception ends the thread
            self._lines.append(f"{self._format(record)}\n")
        if len(self._lines) >= LINES_PER_WRITE:
            self._write_lines()

    def stop(self) -> None:
        """Wait until the lines of all queued records are written."""
        self._stopping.set()
        super().stop()
        self._write_lines()

    def _format(self, record: logging.LogRecord) -> str:
        try:
            return self._formatter.format(record)
        except Exception as error:  # raised by a field or an argument
            problem = f"log record {record.msg!r}: cannot be formatted: {error!r}"
            values = {"created": record.created, "levelname": "ERROR", "msg": problem}
            return self._formatter.format(logging.makeLogRecord(values))

    def _write_lines(self) -> None:
        if self._lines:
            with suppress(OSError, ValueError):  # the stream is closed or broken
                self._write("".join(self._lines))
            self._lines.clear()


@contextmanager
def log_to(stream: TextIO, log_format: str) -> Iterator[None]:
    """Write all log records of level `info` and above to a stream while the block runs.

    Args:
        stream: The destination. Nothing is closed at the end.
        log_format: A key of `FORMATTERS`.
    """
    queue: _Queue = SimpleQueue()
    handler = BoundedQueueHandler(queue)
    listener = LineListener(queue, FORMATTERS[log_format](), stream)
    root = logging.getLogger()
    level = root.level
    listener.start()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with _lean_records():
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.report_dropped()
        # stop() waits for the last write, which can stall, so a daemon thread calls stop().
        stopper = threading.Thread(target=listener.stop, daemon=True)
        stopper.start()
        stopper.join(CLOSE_TIMEOUT)


@contextmanager
def _lean_records() -> Iterator[None]:
    """Leave out of log records the thread and the process, which no line shows.

    See "Optimization" in Python's logging HOWTO.
    """
    switches = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    try:
        yield
    finally:
        logging.logThreads, logging.logProcesses, logging.logMultiprocessing = switches


def _unbuffered_write(stream: TextIO) -> Callable[[str], object]:
    """Return a function that writes text to the file of a stream without a buffer.

    A buffered stream holds its lock during a stalled write. At its end, the interpreter
    waits for the lock of standard error.
    """
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream in memory
        return stream.write
    writable = select.poll()
    writable.register(descriptor, select.POLLOUT)

    def write(text: str) -> None:
        data = text.encode(stream.encoding, "backslashreplace")
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another process has made the file non-blocking
                writable.poll()

    return write


_traceback_formatter = logging.Formatter()


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}  # another library can use the name


@lru_cache(1024)
def _quote(text: str) -> str:
    """Return a value in quotation marks unless it is a bare value."""
    return text if _BARE_VALUE.fullmatch(text) else json.dumps(text)


def _timestamp(seconds: float) -> str:
    """Return a time of the Unix epoch in RFC 3339 with milliseconds."""
    return f"{_format_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(1)
def _format_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
