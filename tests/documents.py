"""The READMEs and the files of .github: their sections, code blocks, tables and names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import chatd
import wsproto_min
from tests.support import ROOT
from wsproto_min import Server

LEARN, RUN, TEST = "wsproto_min/README.md", "chatd/README.md", "tests/README.md"
CONTRIBUTING, CHANGELOG = ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"
PATHS = ("README.md", LEARN, RUN, TEST, CONTRIBUTING, CHANGELOG, ".github/SECURITY.md")
DOCUMENTS = {path: (ROOT / path).read_text() for path in PATHS}
ALL = "\n".join(DOCUMENTS.values())
PROSE = {
    path: re.sub(r"^```.*?^```", "", text, flags=re.S | re.M) for path, text in DOCUMENTS.items()
}
MODULES = [
    importlib.import_module(info.name)
    for package in (wsproto_min, chatd)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not info.name.endswith("__main__")
    and ".examples" not in info.name
    and ".postgres." not in info.name  # needs the extra postgres
]


def section(path: str, title: str) -> str:
    """Return the text below a heading, up to the next heading of the same level or above."""
    level, _, _ = title.partition(" ")
    found = DOCUMENTS[path].partition(f"\n{title}\n")[2]
    assert found, f"{path} has no section {title!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", found, maxsplit=1, flags=re.MULTILINE)[0]


def block(name: str, language: str = "python") -> str:
    """Return the code block behind the comment `<!-- name -->`."""
    found: list[str] = re.findall(rf"<!-- {name} -->\n```{language}\n(.*?)```", ALL, re.DOTALL)
    assert len(found) == 1, f"there are {len(found)} blocks {name!r}"
    return found[0]


def table(path: str, name: str) -> list[list[str]]:
    """Return the rows of the table behind the comment `<!-- name -->`, without its head."""
    found = DOCUMENTS[path].partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in found.splitlines()]
    assert len(rows) > 2, f"{path} has no table {name!r}"
    return rows[2:]


def code_in(text: str) -> list[str]:
    """Return the inline code of a text, part by part."""
    return re.findall(r"`([^`]+)`", text)


def exists(name: str) -> bool:
    """Return True if a class, function, method or attribute of the packages has this name."""
    owner, _, attribute = name.rpartition(".")
    if not owner:
        return any(hasattr(module, name) for module in MODULES)
    holders = [getattr(module, owner) for module in MODULES if hasattr(module, owner)]
    holders += [module for module in MODULES if module.__name__.endswith(f".{owner}")]
    return any(
        hasattr(holder, attribute) or attribute in inspect.get_annotations(holder)
        for holder in holders
    )


def default_of(name: str) -> Any:
    """Return the default of an argument of `Server`."""
    return inspect.signature(Server).parameters[name].default


def constant(package: ModuleType, name: str) -> Any:
    """Return the value of a constant of a package, in any of its modules."""
    modules = [module for module in MODULES if module.__name__.startswith(package.__name__)]
    values = {getattr(module, name) for module in modules if hasattr(module, name)}
    assert len(values) == 1, name
    return values.pop()
