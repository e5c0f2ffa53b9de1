"""The path: its steps in their order, and the check of one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import wrap

from wsproto_min.explain.style import COLUMNS
from wsproto_min.explain.verdict import count
from wsproto_min.learn.lessons import (
    accept_key,
    client,
    closing,
    compression,
    conformance,
    fragmentation,
    lengths,
    limits,
    many_peers,
    partial_reads,
    refusing,
    request,
    short_frame,
    unmasking,
    utf8,
)
from wsproto_min.learn.program import DEFAULT_PATIENCE, Program, Wrong
from wsproto_min.learn.step import Skipped, Step

STEPS: tuple[Step, ...] = (
    accept_key.STEP,
    request.STEP,
    short_frame.STEP,
    lengths.STEP,
    unmasking.STEP,
    partial_reads.STEP,
    fragmentation.STEP,
    utf8.STEP,
    closing.STEP,
    refusing.STEP,
    limits.STEP,
    many_peers.STEP,
    compression.STEP,
    client.STEP,
    conformance.STEP,
)
"""All steps; the first one has the number 1."""


def check_step(
    number: int,
    file: Path,
    *,
    patience: float = DEFAULT_PATIENCE,
    show: Callable[[str], None] = print,
) -> bool:
    """Run the cases of a step up to the first wrong one; return True if all are right.

    Cases that this machine cannot run are skipped, but not all of them may be.

    Args:
        number: The step's number, from 1.
        file: The student's file.
        patience: Seconds to wait for each answer.
        show: Receives each line of the report.

    """
    step = STEPS[number - 1]
    show(f"Step {number}: {step.title}")
    skipped = 0
    with Program(file, patience=patience, limit=step.limit, restarts=step.restarts) as program:
        for index, case in enumerate(step.cases, 1):
            try:
                case.run(program)
            except Skipped as reason:
                skipped += 1
                show(f"  skipped  {case.name}: {reason}")
            except Wrong as wrong:
                _show_wrong(case.name, wrong, program, show)
                left = len(step.cases) - index
                if left:
                    show(f"{count(left, 'case')} not checked yet.")
                return False
            else:
                show(f"  right    {case.name}")
    if skipped == len(step.cases):
        show(f"Step {number} was not checked.")
        return False
    show(f"Step {number} is solved.")
    return True


def _show_wrong(name: str, wrong: Wrong, program: Program, show: Callable[[str], None]) -> None:
    show(f"  wrong    {name}")
    show("")
    for line in wrap(f"The problem: {wrong.problem}.", COLUMNS, subsequent_indent="  "):
        show(line)
    for line in wrong.details:
        show(line)
    for line in program.errors():
        show(line)
    show("")
