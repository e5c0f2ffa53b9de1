"""Run a target: `python -m tests.fuzz TARGET [-runs=N] [-max_total_time=SECONDS]`.

Needs `pip install -e '.[test,fuzz]'`. Options with one dash belong to libFuzzer;
`-help=1` lists them. Inputs that reach new code are stored in `.fuzz/TARGET`, and the
next run starts from them. An input that raises is written to `.fuzz/TARGET-crash-...`.

    python -m tests.fuzz keep TARGET FILE...

adds inputs to the corpus that `tests/test_fuzz_corpus.py` replays.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

WORK = Path(".fuzz")
MAX_LENGTH = 2048  # bytes of an input: twice the targets' limit on a message


def main(arguments: list[str]) -> None:
    """Fuzz a target, or add inputs to its corpus."""
    if len(arguments) > 1 and arguments[0] == "keep":
        keep(arguments[1], arguments[2:])
    elif arguments:
        fuzz(arguments[0], arguments[1:])
    else:
        sys.exit(__doc__)


def fuzz(name: str, flags: list[str]) -> None:
    """Fuzz a target with atheris, from its seeds and its corpus. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["wsproto_min", "chatd"]):
        from tests.fuzz.targets import TARGETS, corpus

    if name not in TARGETS:
        sys.exit(f"{name}: unknown target; choose from {', '.join(TARGETS)}")
    known = WORK / f"{name}-seeds"
    grown = WORK / name
    for directory in (known, grown):
        directory.mkdir(parents=True, exist_ok=True)
    for data in (*TARGETS[name].seeds(), *corpus(name)):
        (known / hashlib.sha1(data).hexdigest()).write_bytes(data)
    prefix = f"-artifact_prefix={WORK}/{name}-"
    command = [sys.argv[0], f"-max_len={MAX_LENGTH}", prefix, *flags, str(grown), str(known)]
    atheris.Setup(command, TARGETS[name].check)
    atheris.Fuzz()


def keep(name: str, paths: list[str]) -> None:
    """Add inputs to the corpus of a target, without duplicates."""
    from tests.fuzz.targets import CORPUS

    file = CORPUS / f"{name}.hex"
    lines = dict.fromkeys(file.read_text().splitlines())
    lines |= dict.fromkeys(Path(path).read_bytes().hex() for path in paths)
    file.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
