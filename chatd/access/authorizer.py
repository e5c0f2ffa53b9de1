"""Authorization of joins and requests by invitation."""

from __future__ import annotations

import math
import time
from contextlib import suppress

from chatd.access.invitations import (
    Invitation,
    Invitations,
    RevocationListUnavailable,
    Unauthorized,
)
from wsproto_min import Request


class Authorizer:
    """Decides which rooms a client may join.

    Args:
        invitations: Invitations to check; None if the chat is open to everybody.
    """

    def __init__(self, invitations: Invitations | None) -> None:
        self._invitations = invitations
        self._rechecked_changes = 0 if invitations is None else invitations.list_changes
        self._next_expiry = math.inf  # of the tokens in use; Unix time in seconds

    @property
    def requires_invitation(self) -> bool:
        """True if a join needs an invitation."""
        return self._invitations is not None

    def authorize(self, token: str | None, room: str) -> Invitation | None:
        """Return the invitation to a room, None if the chat is open to everybody.

        Args:
            token: The client's token, None if it sent none.
            room: Name of the room.

        Raises:
            Unauthorized: The token grants no access to the room.
        """
        if self._invitations is None:
            return None
        invitation = self._invitations.check(token, time.time())
        if not invitation.admits(room):
            raise Unauthorized(f"your invitation is not for the room {room}")
        self._note_expiry(token)
        return invitation

    def authorize_request(
        self, request: Request, room: str
    ) -> tuple[Invitation | None, str | None]:
        """Return the invitation and the token of a request's Authorization header.

        Raises:
            Unauthorized: The header is missing, or its token grants no access to the room.
        """
        scheme, _, credentials = (request.headers.get("Authorization") or "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else None
        try:
            return self.authorize(token, room), token
        except Unauthorized as error:
            if token:
                raise
            hint = "send its token as 'Authorization: Bearer TOKEN'"
            raise Unauthorized(f"{error}; {hint}") from None

    def needs_recheck(self, now: float) -> bool:
        """Return True if a token in use may have become invalid since the last recheck.

        That is so after a change of the revocation list, and once the first token expires.
        The caller must then `recheck` every token in use.

        Args:
            now: Current Unix time in seconds.
        """
        assert self._invitations is not None
        # An unavailable list does not increase the count, so a later call rechecks.
        with suppress(RevocationListUnavailable):
            self._invitations.load_revocations()
        changes = self._invitations.list_changes
        if changes == self._rechecked_changes and now < self._next_expiry:
            return False
        self._rechecked_changes = changes
        self._next_expiry = math.inf  # `recheck` finds the next one
        return True

    def recheck(self, token: str | None) -> str | None:
        """Return the reason for which an earlier token is invalid, None if it is valid.

        A token stays valid while the revocation list is unavailable. Otherwise a
        damaged file would close every connection.
        """
        assert self._invitations is not None
        try:
            self._invitations.check(token, time.time())
        except RevocationListUnavailable:
            self._note_expiry(token)
            return None
        except Unauthorized as error:
            return str(error)
        self._note_expiry(token)
        return None

    def _note_expiry(self, token: str | None) -> None:
        assert self._invitations is not None
        assert token is not None  # a valid token is a text
        self._next_expiry = min(self._next_expiry, self._invitations.expiry(token))
