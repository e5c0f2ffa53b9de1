"""Run the interop matrix and print its table: `python -m tests.interop [--all] [PEER ...]`."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.cases import CASES, missing, run
from tests.interop.certificate import Certificate
from tests.interop.link import SESSIONS, SessionType
from tests.interop.peer import Feature, Peer, PeerError, Side
from tests.interop.peers import PEERS
from tests.support import ROOT

README = ROOT / "tests/README.md"
MARK = "<!-- interop -->\n"
SCHEMES = ("ws", "wss")

Findings = dict[str, dict[str, set[Side]]]
"""Reasons, with the cases or features and the sides that they apply to."""


@dataclass
class Result:
    """Results of a peer."""

    peer: Peer
    version: str = ""
    run: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    passed: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    # Failed cases of the library with their sides, by reason.
    failures: Findings = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    surprises: list[str] = field(default_factory=list)


def run_peer(peer: Peer, certificate: Certificate) -> Result:
    """Run all cases of a peer."""
    result = Result(peer)
    try:
        result.version = peer.version()
    except PeerError as error:
        result.surprises.append(str(error))
        return result
    for kind in SESSIONS:
        for scheme in SCHEMES:
            run_session(result, kind, None if scheme == "ws" else certificate)
    report(f"{peer.name} {result.version}: {sum(result.passed.values())} passed")
    return result


def run_session(result: Result, kind: SessionType, certificate: Certificate | None) -> None:
    """Run the cases of a peer in one role, with or without TLS."""
    peer, side = result.peer, kind.side
    with kind(peer, certificate) as session:
        for case in CASES:
            if missing(peer, side, session.scheme, case) is not None:
                continue
            result.run[side] += 1
            expected = peer.failure(side, session.scheme, case.name)
            name = f"{peer.name}, {side.value}, {session.scheme}, {case.name}"
            try:
                run(session, case)
            except Exception as error:
                if expected is None:
                    result.surprises.append(f"{name}: {type(error).__name__}: {error}")
                else:
                    result.failures[expected][case.name].add(side)
            else:
                result.passed[side] += 1
                if expected is not None:
                    result.surprises.append(f"{name}: passes; remove it from `fails`")


def table(results: Iterable[Result]) -> list[str]:
    """Return the lines of the Markdown table."""
    lines = ["| peer | version | language | its server | its client | fails | does not have |"]
    lines.append("|---|---|---|---|---|---|---|")
    for result in results:
        peer = result.peer
        counts = [count(result, side) for side in Side]
        found = [join(result.failures), join(lacking(peer))]
        cells = [peer.name, f"`{result.version}`", peer.language, *counts, *found]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return [line.replace("|  |", "| |") for line in lines]


def count(result: Result, side: Side) -> str:
    """Return a cell such as "44 of 46"."""
    if result.peer.lack(side, Feature.ROLE) is not None:
        return "none"
    return f"{result.passed[side]} of {result.run[side]}"


def lacking(peer: Peer) -> Findings:
    """Return the missing features of a peer."""
    found: Findings = defaultdict(lambda: defaultdict(set))
    for key, reason in peer.lacks.items():
        side, feature = key if isinstance(key, tuple) else (None, key)
        if feature is Feature.ROLE:
            continue  # the cell of the role says it
        found[reason][feature.value] |= set(Side) if side is None else {side}
    return found


def join(findings: Findings) -> str:
    """Return findings as one cell: "Ping from us (server), Ping from the peer: REASON"."""
    texts = []
    for reason, names in findings.items():
        parts = [
            name if len(sides) > 1 else f"{name} ({next(iter(sides)).value})"
            for name, sides in names.items()
        ]
        texts.append(f"{', '.join(parts)}: {reason}")
    return "; ".join(texts)


def write(lines: list[str]) -> None:
    """Replace the table in README.md."""
    text = README.read_text()
    start = text.index(MARK) + len(MARK)
    end = text.index("\n\n", start)
    README.write_text(text[:start] + "\n".join(lines) + text[end:])


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Return 1 if a case has an unexpected result."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help="names of peers")
    parser.add_argument("--all", action="store_true", help="include browsers and toolchains")
    parser.add_argument(
        "--install", action="store_true", help="print the commands that install absent peers"
    )
    parser.add_argument("--write", action="store_true", help="write the table to README.md")
    options = parser.parse_args()
    unknown = set(options.peers) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers: {', '.join(unknown)}")
    chosen = [
        peer
        for peer in PEERS
        if (peer.name in options.peers if options.peers else options.all or not peer.is_heavy)
    ]
    absent = [peer for peer in chosen if not peer.is_installed()]
    if options.install:
        commands = (peer.install.partition(" (")[0] for peer in absent)
        print("\n".join(dict.fromkeys(commands)))
        return 0
    present = [peer for peer in chosen if peer not in absent]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as threads:
        certificate = Certificate(Path(directory))
        results = list(threads.map(lambda peer: run_peer(peer, certificate), present))
    lines = table(results)
    if options.write:
        write(lines)
    print("\n".join(lines))
    for peer in absent:
        report(f"{peer.name}: not installed; {peer.install}")
    surprises = [line for result in results for line in result.surprises]
    for line in surprises:
        report(re.sub(r"\s*\n\s*", " / ", line))
    return 1 if surprises or absent else 0


if __name__ == "__main__":
    sys.exit(main())
