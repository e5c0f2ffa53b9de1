"""The names of websockets in the porting table exist in the installed version."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from tests.documents import LEARN, code_in, table
from tests.needs import need


def test_porting_table_names_exist_in_websockets() -> None:
    spec = importlib.util.find_spec("websockets")
    need(spec, "websockets", "pip install websockets")
    assert spec is not None
    assert spec.origin is not None
    files = [file for file in Path(spec.origin).parent.rglob("*.py") if "legacy" not in file.parts]
    words = set(re.findall(r"\w+", " ".join(file.read_text() for file in files)))
    rows = table(LEARN, "coming from websockets")
    for there, _ in rows:
        for code in code_in(there):
            name = re.sub(r"^for \w+ in |[(=].*$", "", code)
            assert set(name.split(".")) <= words, name
