"""Recheck of the invitations in use: closes peers with an expired or revoked invitation."""

from __future__ import annotations

import time

from chatd import protocol
from chatd.access.authorizer import Authorizer
from chatd.modes import ChatMode, Mode, OpenMode, PlainMode
from chatd.protocol import ChatError
from wsproto_min import CloseCode, Peer, Server

# Seconds between two checks of the invitations in use.
RECHECK_INTERVAL = 2.0
# Seconds of a recheck in one event loop iteration.
RECHECK_STEP = 0.002


class InvitationRecheck:
    """Periodic check of the invitations of all open peers.

    Args:
        authorizer: Decides about the invitations.
        server: Server with the peers and the loop.
    """

    def __init__(self, authorizer: Authorizer, server: Server) -> None:
        self._authorizer = authorizer
        self._server = server
        self._remaining: list[Peer] = []  # peers that the current recheck has not visited
        self._results: dict[str | None, str | None] = {}  # its results by token

    def start(self) -> None:
        """Start the checks, if clients may present invitations."""
        if self._authorizer.has_invitations:
            self._server.call_later(RECHECK_INTERVAL, self._recheck)

    def _recheck(self) -> None:
        """Recheck the invitations in use if one may have become invalid, for one step."""
        pause = RECHECK_INTERVAL
        try:
            if not self._remaining and self._authorizer.needs_recheck(time.time()):
                self._remaining = list(self._server.peers)
                self._results = {}
            step_end = time.monotonic() + RECHECK_STEP
            while self._remaining:
                self._recheck_peer(self._remaining.pop())
                if self._remaining and time.monotonic() >= step_end:
                    pause = 0.0
                    break
        finally:  # also after an exception
            self._server.call_later(pause, self._recheck)

    def _recheck_peer(self, peer: Peer) -> None:
        """Close a peer with an expired or revoked invitation."""
        if not peer.is_open:
            return
        mode: Mode = peer.user_data
        if not isinstance(mode, ChatMode | PlainMode):
            return
        tokens = set(mode.tokens.values()) if isinstance(mode, ChatMode) else {mode.token}
        tokens.discard(None)  # a guest of an open chat, or a person that a proxy has signed in
        results = self._results
        for token in tokens - results.keys():
            results[token] = self._authorizer.recheck(token)
        reason = next(filter(None, map(results.get, tokens)), None)
        if reason is not None:
            _ban(peer, mode, reason)


def _ban(peer: Peer, mode: OpenMode, reason: str) -> None:
    if isinstance(mode, ChatMode):
        peer.send(protocol.error(ChatError("banned", reason)))
    peer.close(CloseCode.POLICY_VIOLATION, reason)
