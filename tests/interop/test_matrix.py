"""Every case of the matrix with every installed peer, in both roles, with and without TLS.

`INTEROP=all` includes the peers that need a toolchain or a browser; `python -m tests.interop`
prints the results as a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.interop.cases import CASES, Case, missing, run
from tests.interop.certificate import Certificate
from tests.interop.link import SESSIONS, Session, SessionType
from tests.interop.peer import Peer
from tests.interop.peers import PEERS
from tests.needs import need

CHOSEN = [peer for peer in PEERS if not peer.is_heavy or os.environ.get("INTEROP") == "all"]
PARAMS = [
    pytest.param(
        peer, kind, scheme, case, id=f"{peer.name}, {kind.side.value}, {scheme}, {case.name}"
    )
    for peer in CHOSEN
    for kind in SESSIONS
    for scheme in ("ws", "wss")
    for case in CASES
    if missing(peer, kind.side, scheme, case) is None
]


class Sessions:
    """The session of the last test, which the next one uses if its settings are the same."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._settings: object = None
        self._session: Session | None = None

    def get(self, peer: Peer, kind: SessionType, certificate: Certificate | None) -> Session:
        settings = (peer.name, kind, certificate)
        if self._session is None or self._settings != settings:
            self.close()
            self._session = self._stack.enter_context(kind(peer, certificate))
            self._settings = settings
        return self._session

    def close(self) -> None:
        self._session = None
        self._stack.close()


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sessions]:
    running = Sessions()
    yield running
    running.close()


@pytest.mark.parametrize(("peer", "kind", "scheme", "case"), PARAMS)
def test_peer_passes(
    peer: Peer,
    kind: SessionType,
    scheme: str,
    case: Case,
    sessions: Sessions,
    request: pytest.FixtureRequest,
) -> None:
    need(peer.is_installed(), peer.name, peer.install)
    certificate = request.getfixturevalue("certificate") if scheme == "wss" else None
    session = sessions.get(peer, kind, certificate)
    if peer.failure(kind.side, scheme, case.name) is None:
        run(session, case)
        return
    with pytest.raises(Exception):  # noqa: B017, PT011 (any failure of the library)
        run(session, case)


def test_expected_failures_name_cases() -> None:
    names = {case.name for case in CASES}
    for peer in PEERS:
        for key in peer.fails:
            assert key in names or key.partition(": ")[2] in names, f"{peer.name}: {key}"
