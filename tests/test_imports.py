"""The import rules of the layout: each area imports only the areas below it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import wsproto_min

ROOT = Path(__file__).parent.parent
PUBLIC = "|".join(wsproto_min.__all__)
ASYNCIO_EXAMPLE = "wsproto_min/examples/asyncio_echo.py"

# A rule: the files, and the imports that these files may not have. A pattern matches from
# the beginning; an import reads "module.name" ("import x" reads "x").
COMMANDS = r"wsproto_min\.(tap|learn|quiz|examples)\b"
HYPOTHESIS = r"(wsproto_min\.testing\.strategies|hypothesis)\b"
RULES = [
    (r"wsproto_min/(?!__)\w+\.py", r"wsproto_min\.(net|explain|testing)\b"),
    (r"wsproto_min/(?!__)\w+\.py", r"(socket|selectors|ssl|threading|time|chatd|tests)\b"),
    (r"wsproto_min/((?!__)\w+\.py|net/|explain/|testing/)", COMMANDS),
    (r"wsproto_min/net/", r"wsproto_min\.(explain|testing)\b"),
    (r"wsproto_min/explain/(?!live_trace)", r"wsproto_min\.net\b"),
    (r"wsproto_min/(?!learn/random_traffic|testing/)", HYPOTHESIS),
    (r"wsproto_min/tap/", r"wsproto_min\.(testing|learn|quiz|examples)\b"),
    (r"wsproto_min/learn/", r"wsproto_min\.(net|tap|quiz|examples)\b"),
    (r"wsproto_min/quiz/", r"wsproto_min\.(net|tap|learn|examples)\b"),
    (r"wsproto_min/testing/", r"wsproto_min\.(net|explain)\b"),
    (r"wsproto_min/", r"(chatd|tests)\b"),
    (r"chatd/", rf"(tests\b|wsproto_min\b(?!\.({PUBLIC})$))"),
    (r"chatd/model\.py", r"chatd\b"),
    (r"chatd/protocol/", r"chatd\.(?!(model|protocol)\b)"),
    (r"chatd/storage/", r"chatd\.(?!model\b|storage\b)"),
    (r"chatd/(access|ops)/", r"chatd\.app\b"),
    (r"chatd/(?!storage/postgres/)", r"psycopg\b"),
    (rf"(?!{ASYNCIO_EXAMPLE})", r"asyncio\b"),
]


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import; import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names - {"__future__.annotations"}


FILES = {
    file.relative_to(ROOT).as_posix(): file
    for package in ("wsproto_min", "chatd")
    for file in sorted((ROOT / package).rglob("*.py"))
}


def test_imports_of_each_module_follow_the_layout() -> None:
    wrong = [
        f"{file} imports {name}"
        for file, path in FILES.items()
        for name in sorted(imports(path))
        if any(re.match(own, file) and re.match(other, name) for own, other in RULES)
    ]
    assert not wrong, "imports against the layout:\n" + "\n".join(wrong)


def test_imports_have_no_cycle_not_even_for_annotations() -> None:
    modules = {file.removesuffix(".py").replace("/", "."): path for file, path in FILES.items()}
    graph = {
        module: {
            target
            for name in imports(path)
            for target in (name, name.rpartition(".")[0])
            if target in modules
        }
        for module, path in modules.items()
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def loaded(statements: str, *modules: str) -> str:
    """Run statements in a new process; return those of the modules that they load."""
    code = f"import sys; {statements}; print(*{set(modules)} & sys.modules.keys())"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stderr == ""
    return process.stdout.strip()


def test_import_of_the_protocol_loads_no_socket() -> None:
    statements = (
        "from wsproto_min import Connection; from wsproto_min.server_handshake import accept"
    )
    assert loaded(statements, "socket", "selectors", "ssl", "threading", "json") == ""


def test_server_without_tls_loads_no_ssl() -> None:
    statements = "from wsproto_min import Server; Server(on_message=print).listen('127.0.0.1', 0)"
    assert loaded(statements, "ssl", "json") == ""
    assert loaded("import ssl", "ssl") == "ssl"
