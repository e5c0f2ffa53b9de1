"""What the daemon writes about itself on standard error: a line an event.

An event is only put aside where it is; a thread of its own makes it a line and
writes it: who reads it, and how slowly, is not to be felt in the chat. When too many
wait, some are left out, and a line says how many.

Whatever came from the network stands in a line with its control characters
escaped. Messages, and tokens, are not in any.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from typing import NamedTuple, Protocol, TextIO

from wsproto_min.explain.style import printable

# Events that may wait to be written.
MAX_WAITING = 10_000
# Seconds for which events gather before they are written together.
GATHER = 0.1
# So many lines are made, 5 us each, before the chat may go on.
LINES_AT_ONCE = 8
# Seconds that the end of the process waits for the last lines to be read.
LAST_LINES = 1.0

# What needs no quotation marks: printable ASCII but space, quotation mark, = and backslash.
_WORD = re.compile(r"[!#-<>-\[\]-~]+")


class Event(NamedTuple):
    """What one line tells; `moment` is in seconds since 1970."""

    moment: float
    level: str
    message: str
    fields: Mapping[str, object] = {}
    traceback: str = ""


class Note(Protocol):
    """What is told of an event, with fields."""

    def __call__(self, message: str, /, **fields: object) -> None:
        """Tell it, at the level of information."""


def note_in_log(message: str, /, **fields: object) -> None:
    """Tell of an event as `logging` does, for whoever listens there."""
    logging.getLogger("chatd").info(message, extra={"fields": fields})


def text_line(event: Event) -> str:
    """Return `2026-01-31T12:00:00.000Z info what happened key=value key="a value"`.

    A traceback has more lines.
    """
    words = [_time(event.moment), event.level, printable(event.message)]
    words += [f"{name}={_quote(str(value))}" for name, value in event.fields.items()]
    line = " ".join(words)
    if event.traceback:
        line = "\n".join([line, *map(printable, event.traceback.split("\n"))])
    return line


def json_line(event: Event) -> str:
    """Return one JSON object: `time`, `level`, `message` and the fields."""
    told = {
        "time": _time(event.moment),
        "level": event.level,
        "message": event.message,
        **event.fields,
    }
    if event.traceback:
        told["traceback"] = event.traceback
    return json.dumps(told, default=str)


FORMATS = {"text": text_line, "json": json_line}


class LogHandler(logging.Handler):
    """Writes events to a stream in a form of `FORMATS`, in a thread.

    They come from `logging`, and quicker from `note`: to make a record and look up
    which line of the code it is from would be a tenth of a connection's work.
    `close` waits a little for the last to be written.
    """

    def __init__(self, stream: TextIO, form: str) -> None:
        super().__init__()
        self._line = FORMATS[form]
        self._stream = stream
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def note(self, message: str, /, **fields: object) -> None:
        """Have an event written, at the level of information."""
        self._put(Event(time.time(), "info", message, fields))

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        fields = getattr(record, "fields", None)
        if not isinstance(fields, Mapping):  # another module's extra may have that name
            fields = {}
        traceback = _formatter.formatException(record.exc_info) if record.exc_info else ""
        level = record.levelname.lower()
        self._put(Event(record.created, level, record.getMessage(), fields, traceback))

    def close(self) -> None:
        """Stop, once what waits is written or `LAST_LINES` seconds are over."""
        if not self._closing.is_set():
            self._tell_lost()
            self._events.put(None)  # the last
            self._closing.set()
            self._thread.join(LAST_LINES)
        super().close()

    def _put(self, event: Event) -> None:
        """Keep an event for the thread, or count it if too many wait."""
        if self._events.qsize() >= MAX_WAITING:
            self._lost += 1
            return
        self._tell_lost()
        self._events.put(event)

    def _tell_lost(self) -> None:
        """Say in their place how many lines are missing."""
        if self._lost:
            about = f"{self._lost} lines were left out: nobody read those before them"
            self._events.put(Event(time.time(), "warning", about))
            self._lost = 0

    def _run(self) -> None:
        events: list[Event | None] = []
        while None not in events:
            events = [self._events.get()]
            # To take turns with this thread for each of many lines would slow the loop.
            self._closing.wait(GATHER)
            events += [self._events.get_nowait() for _ in range(self._events.qsize())]
            lines = []
            for number, event in enumerate(events):
                if number % LINES_AT_ONCE == 0:
                    time.sleep(0)
                if event is not None:
                    lines.append(self._make_line(event))
            with suppress(OSError, ValueError):  # whoever read them has gone
                self._stream.write("".join(lines))
                self._stream.flush()

    def _make_line(self, event: Event) -> str:
        try:
            return f"{self._line(event)}\n"
        except Exception as error:  # a field's; one odd event must not silence the others
            odd = f"no line can be made of {event.message!r}: {error!r}"
            return f"{self._line(Event(event.moment, 'error', odd))}\n"


@contextmanager
def writing(stream: TextIO, form: str) -> Iterator[LogHandler]:
    """Write what is logged or noted to a stream, in a form of `FORMATS`, while the block runs."""
    root = logging.getLogger()
    journal = LogHandler(stream, form)
    before = root.level
    root.addHandler(journal)
    root.setLevel(logging.INFO)
    try:
        yield journal
    finally:
        root.setLevel(before)
        root.removeHandler(journal)
        journal.close()


_formatter = logging.Formatter()


@lru_cache(1024)  # most are the same over and over
def _quote(text: str) -> str:
    """Return a value as it stands behind `=`: in quotation marks unless it is a word."""
    return text if _WORD.fullmatch(text) else json.dumps(text)


def _time(moment: float) -> str:
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03}Z"


@lru_cache(1)  # many events are of the same
def _second(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")
