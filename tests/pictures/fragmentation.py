"""State diagram of fragmentation (RFC 6455, section 5.4).

The transitions are found by giving every kind of data frame to a real `MessageAssembler` in both
of its states. The layout only knows the places of the arrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from textwrap import wrap

from tests.pictures.canvas import MAX_COLUMNS, Box, Canvas
from tests.pictures.picture import Picture
from wsproto_min.codes import Opcode
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame
from wsproto_min.messages import MessageAssembler
from wsproto_min.rules import Rule

_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION)
_RULE_WIDTH = 32  # of the box of a rule

Kind = tuple[Opcode, bool]
"""Opcode and FIN of a data frame."""
State = bool
"""True while a message is under way."""
Target = State | Rule
Table = Mapping[tuple[State, Target], list[Kind]]
"""Kinds of frames by state, and by next state or broken rule."""

_NAMES: Mapping[State, str] = {
    False: "no message",
    True: "message under way",
}


def fragmentation_table(
    make: Callable[[], MessageAssembler] = MessageAssembler,
) -> Table:
    """Return the effects of all data frames in both states.

    Args:
        make: Makes an assembler.

    """
    table: dict[tuple[State, Target], list[Kind]] = {}
    for first in (None, Opcode.TEXT, Opcode.BINARY):
        for kind in ((opcode, fin) for opcode in _DATA for fin in (True, False)):
            assembler = make()
            if first is not None:
                assembler.receive_frame(Frame(first, b"", fin=False))
            before = not assembler.idle
            target: Target
            try:
                assembler.receive_frame(Frame(kind[0], b"", fin=kind[1]))
                target = not assembler.idle
            except ProtocolError as error:
                target = error.rule
            kinds = table.setdefault((before, target), [])
            if kind not in kinds:
                kinds.append(kind)
    return table


def describe(kinds: Iterable[Kind]) -> str:
    """Return kinds of frames in a few words.

    Raises:
        ValueError: The kinds are no combination of some opcodes and some values of FIN.

    """
    opcodes = [opcode for opcode in _DATA if {(opcode, True), (opcode, False)} & {*kinds}]
    fins = sorted({fin for _, fin in kinds})
    if {*kinds} != {(opcode, fin) for opcode in opcodes for fin in fins}:
        raise ValueError(f"frames {[*kinds]}: no label for these together")
    text = " or ".join(opcode.name.lower() for opcode in opcodes)
    return text if len(fins) == 2 else f"{text}, FIN={fins[0]:d}"


def _loop(canvas: Canvas, box: Box, label: str) -> None:
    """Draw an arrow from a state to itself, above its box."""
    left, right, row = box.left + 5, box.right - 4, box.top - 2
    canvas.arrow((right, box.top), (right, row), (left, row), (left, box.top))
    canvas.label((box.left + (box.width - len(label)) // 2, row - 1), label)


def _between(canvas: Canvas, begin: Box, end: Box, label: str) -> None:
    """Draw an arrow between the two states: the upper one goes to the right."""
    row = begin.top + 1
    label_row = row - 1
    ends = begin.right, end.left
    if begin.left > end.left:
        row, label_row = row + 2, row + 3
        ends = begin.left, end.right
    canvas.arrow((ends[0], row), (ends[1], row))
    canvas.label((min(ends) + (max(ends) - min(ends) - len(label)) // 2 + 1, label_row), label)


def _down(canvas: Canvas, begin: Box, end: Box, label: str) -> None:
    """Draw an arrow from a state to the rule below it."""
    column = begin.left + begin.width // 2
    canvas.arrow((column, begin.bottom), (column, end.top))
    if begin.left < MAX_COLUMNS // 2:
        canvas.label((column + 2, begin.bottom + 2), label)
    else:
        canvas.label_before((column - 2, begin.bottom + 2), label)


def fragmentation_picture(table: Table | None = None) -> Picture:
    """Return the state diagram.

    Args:
        table: The transitions; by default those of `MessageAssembler`.

    Raises:
        ValueError: The layout has no place for a transition, or the code does not have one of the
            transitions that the layout expects.

    """
    table = fragmentation_table() if table is None else table
    broken = [(state, target) for state, target in table if isinstance(target, Rule)]
    moves = {change for change in table if change not in broken}
    expected = list(product((False, True), repeat=2))
    if moves != {*expected} or sorted(state for state, _ in broken) != [False, True]:
        raise ValueError(f"transitions {sorted(moves, key=str)}, rules {broken}: not the layout's")
    canvas = Canvas()
    boxes = {
        False: canvas.box((11, 3), 17, ("", _NAMES[False], "")),
        True: canvas.box((54, 3), 21, ("", _NAMES[True], "")),
    }
    canvas.label((0, 5), "start")
    canvas.arrow((5, 5), (11, 5))
    for before, after in expected:
        label = describe(table[before, after])
        if before == after:
            _loop(canvas, boxes[before], label)
        else:
            _between(canvas, boxes[before], boxes[after], label)
    for state, rule in broken:
        assert isinstance(rule, Rule)
        problem = wrap(rule.problem, _RULE_WIDTH - 4)
        lines = (f"violation: close code {rule.close_code:d}", *problem)
        left = boxes[state].left + (boxes[state].width - _RULE_WIDTH) // 2
        left = min(max(left, 0), MAX_COLUMNS - _RULE_WIDTH)
        below = canvas.box((left, 12), _RULE_WIDTH, lines, "violation")
        _down(canvas, boxes[state], below, describe(table[state, rule]))
    sentences = [
        f"{_NAMES[before]}: {describe(kinds)} "
        + (f"is a violation, {target.problem}" if isinstance(target, Rule) else "leads to ")
        + ("" if isinstance(target, Rule) else _NAMES[target])
        for (before, target), kinds in table.items()
    ]
    title = "The states of a message in fragments"
    return Picture("fragmentation", title, ". ".join(sentences) + ".", canvas)
