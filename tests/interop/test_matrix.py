"""Every case of the matrix with every installed peer, in both roles, with and without TLS.

`INTEROP=all` includes the peers that need a toolchain or a browser; `python -m tests.interop`
prints the results as a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.interop.cases import CASES, Case, missing, run
from tests.interop.link import SESSIONS, Session
from tests.interop.peers import PEERS
from tests.needs import need

CHOSEN = [peer for peer in PEERS if not peer.is_heavy or os.environ.get("INTEROP") == "all"]
SETTINGS = [
    (peer, kind, scheme) for peer in CHOSEN for kind in SESSIONS for scheme in ("ws", "wss")
]
PARAMS = [
    pytest.param(setting, case, id=f"{peer.name}, {kind.side.value}, {scheme}, {case.name}")
    for setting in SETTINGS  # the same object for all cases, so that they share a session
    for peer, kind, scheme in [setting]
    for case in CASES
    if missing(peer, kind.side, scheme, case) is None
]


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    peer, kind, scheme = request.param
    need(peer.is_installed(), peer.name, peer.install)
    certificate = request.getfixturevalue("certificate") if scheme == "wss" else None
    with kind(peer, certificate) as running:
        yield running


@pytest.mark.parametrize(("session", "case"), PARAMS, indirect=["session"])
def test_peer_passes(session: Session, case: Case) -> None:
    expected = session.peer.failure(session.side, session.scheme, case.name)
    if expected is None:
        run(session, case)
        return
    with pytest.raises(Exception):  # noqa: B017, PT011 (any failure of the library)
        run(session, case)
