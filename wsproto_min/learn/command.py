"""The command `learn`: it shows the path and its pages, and checks a file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from wsproto_min.learn.path import STEPS, check_step
from wsproto_min.learn.progress import record, solved_steps

_USAGE = 2
_PIPE_CLOSED = 141  # 128 + SIGPIPE, the status that shells report
_COMMAND = "python3 -m wsproto_min learn"

_INTRODUCTION = f"""\
Build WebSocket yourself, from the first byte to the conformance suite, in
{len(STEPS)} steps. You write one file, my_ws.py, in any style. You need Python and
its standard library. Each step has a page and a checker:

  {_COMMAND} 1                     the page of step 1
  {_COMMAND} 1 check my_ws.py      run and check your file
  {_COMMAND} check my_ws.py        check all steps in their order
"""


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    SIGTERM ends it like Ctrl-C, so that no process of the student is left.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace) -> int:
    try:
        number, file = _parse(options.words)
        if file is None:
            print("\n".join(_page(number) if number else _state()), flush=True)
            return 0
        solved_steps()  # a damaged file is an error before the check
        numbers = [number] if number else range(1, len(STEPS) + 1)
        for each in numbers:
            solved = check_step(each, file, patience=options.patience, show=_show)
            record(each, solved=solved)
            if not solved:
                return 1
        if numbers[-1] < len(STEPS):
            print(f"The next step: {_COMMAND} {numbers[-1] + 1}")
        return 0
    except BrokenPipeError:
        # At exit Python flushes standard output again and would report a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except (ValueError, OSError) as error:
        print(f"wsproto_min: {error}", file=sys.stderr)
        return _USAGE


def _show(line: str) -> None:
    print(line, flush=True)


def _parse(words: list[str]) -> tuple[int | None, Path | None]:
    """Return the step, if there is one, and the file to check, if there is one.

    Raises:
        ValueError: The words have another form, or there is no such step or file.

    """
    number = None
    if words and words[0] != "check":
        text, *words = words
        if not text.isdecimal() or not 1 <= int(text) <= len(STEPS):
            raise ValueError(f"learn {text}: no such step; use a number from 1 to {len(STEPS)}")
        number = int(text)
    if not words:
        return number, None
    if words[0] != "check" or len(words) != 2:
        raise ValueError(f"learn: wrong arguments; use {_COMMAND} N check my_ws.py")
    file = Path(words[1])
    if not file.exists():
        raise ValueError(f"{file}: no such file; write it first, or name another one")
    if not file.is_file():
        raise ValueError(f"{file}: not a regular file; name the file with your program")
    return number, file


def _page(number: int) -> list[str]:
    step = STEPS[number - 1]
    title = f"Step {number} of {len(STEPS)}: {step.title}"
    return [
        title,
        "=" * len(title),
        "",
        step.page,
        "",
        f"Check your file:  {_COMMAND} {number} check my_ws.py",
    ]


def _state() -> list[str]:
    solved = solved_steps()
    following = next((n for n in range(1, len(STEPS) + 1) if n not in solved), None)
    lines = [_INTRODUCTION]
    for number, step in enumerate(STEPS, 1):
        state = "solved" if number in solved else "next" if number == following else ""
        lines.append(f"  {number:>2}  {state:<6}  {step.title}")
    return lines
