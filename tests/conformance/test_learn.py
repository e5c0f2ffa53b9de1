"""The last step of the learning path, with the suite itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.test_conformance import INSTALL, KOSOKU
from tests.needs import need
from wsproto_min.learn.lessons import conformance
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case

SOLUTION = Path(__file__).parent.parent / "learn" / "solutions" / "my_ws.py"
LIMIT = 16 << 20
# The other groups need minutes.
SHORT_GROUPS = 7


@pytest.mark.parametrize("case", conformance.STEP.cases[:SHORT_GROUPS], ids=lambda case: case.name)
def test_solution_passes_a_group(case: Case) -> None:
    need(KOSOKU.exists(), "kosoku", INSTALL)
    with Program(SOLUTION, patience=60, limit=LIMIT) as program:
        case.run(program)


def test_wrong_answer_fails_a_group(tmp_path: Path) -> None:
    need(KOSOKU.exists(), "kosoku", INSTALL)
    code = SOLUTION.read_text()
    assert " or rsv & ~allowed" in code
    file = tmp_path / "my_ws.py"
    file.write_text(code.replace(" or rsv & ~allowed", ""))
    reserved_bits = conformance.STEP.cases[2]
    with (
        Program(file, patience=60, limit=LIMIT) as program,
        pytest.raises(Wrong, match="of 7 cases fail") as wrong,
    ):
        reserved_bits.run(program)
    assert "  case 3.1: OK, closing: WRONG CODE" in "\n".join(wrong.value.details)
