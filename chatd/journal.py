"""What the daemon writes about itself on standard error: a line an event.

Lines are made where the event is and written by a thread of their own: who
reads them, and how slowly, is not to be felt in the chat. When too many wait,
some are left out, and a line says how many.

Whatever came from the network stands in a line with its control characters
escaped. Messages, and tokens, are not in any.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, TextIO

from wsproto_min import printable

# Lines that may wait to be written.
MAX_WAITING = 10_000
# Seconds for which lines gather before they are written together.
GATHER = 0.1
# Seconds that the end of the process waits for the last lines to be read.
LAST_LINES = 1.0

Fields = Mapping[str, object]

# What needs no quotation marks: printable ASCII but space, quotation mark, = and backslash.
_WORD = re.compile(r"[!#-<>-\[\]-~]+")


def fields(**values: object) -> dict[str, Fields]:
    """Return what `extra` of a logging call is to be, for a line with these fields."""
    return {"fields": values}


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info what happened, key=value key="a value"`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line; a traceback has more."""
        words = [_time(record), record.levelname.lower(), printable(record.getMessage())]
        words += [f"{name}={_quote(str(value))}" for name, value in _fields(record).items()]
        line = " ".join(words)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line = "\n".join([line, *map(printable, trace.split("\n"))])
        return line


class Json(logging.Formatter):
    """One JSON object a line: `time`, `level`, `message` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


FORMATS = {"text": Text, "json": Json}


class Writer(logging.Handler):
    """Writes lines to a stream, in a thread; `close` waits a little for the last."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written, or count it if too many wait."""
        if self._lines.qsize() >= MAX_WAITING:
            self._lost += 1
            return
        self._tell_lost()
        self._lines.put(self._line(record))

    def close(self) -> None:
        """Stop, once what waits is written or `LAST_LINES` seconds are over."""
        if not self._closing.is_set():
            self._closing.set()
            self._tell_lost()
            self._lines.put("")  # wakes the thread
            self._thread.join(LAST_LINES)
        super().close()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._lines.empty()):
            lines = [self._lines.get()]
            # To take turns with this thread for each of many lines would slow the loop.
            self._closing.wait(GATHER)
            lines += [self._lines.get_nowait() for _ in range(self._lines.qsize())]
            with suppress(OSError, ValueError):  # whoever read them has gone
                self._stream.write("".join(lines))
                self._stream.flush()

    def _tell_lost(self) -> None:
        """Say in their place how many lines are missing."""
        if self._lost:
            about = f"{self._lost} lines were left out: nobody read those before them"
            record = logging.makeLogRecord({"msg": about, "levelname": "WARNING"})
            self._lines.put(self._line(record))
            self._lost = 0

    def _line(self, record: logging.LogRecord) -> str:
        return f"{self.format(record)}\n"


@contextmanager
def writing(stream: TextIO, form: str) -> Iterator[None]:
    """Write what is logged to a stream, as `text` or `json`, while the block runs."""
    root = logging.getLogger()
    writer = Writer(stream, FORMATS[form]())
    before = root.level
    root.addHandler(writer)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(writer)
        writer.close()


@lru_cache(1024)  # most are the same over and over
def _quote(text: str) -> str:
    """Return a value as it stands behind `=`: in quotation marks unless it is a word."""
    return text if _WORD.fullmatch(text) else json.dumps(text)


def _fields(record: logging.LogRecord) -> Fields:
    found: Any = getattr(record, "fields", {})
    return found if isinstance(found, Mapping) else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
