"""Authorization of joins and requests by invitation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from chatd.access.invitations import (
    Invitation,
    Invitations,
    RevocationListUnavailable,
    Unauthorized,
)
from chatd.model import direct_authors
from wsproto_min import Request


class Authorizer:
    """Decides which rooms a client may join.

    Args:
        invitations: Invitations to check; None for a chat without any.
        required: True if every join needs an invitation.
    """

    def __init__(self, invitations: Invitations | None, *, required: bool = True) -> None:
        self._invitations = invitations
        self._required = required and invitations is not None
        self._rechecked_changes = 0 if invitations is None else invitations.list_changes
        self._next_expiry = math.inf  # of the tokens in use; Unix time in seconds

    @property
    def requires_invitation(self) -> bool:
        """True if a join needs an invitation."""
        return self._required

    @property
    def has_invitations(self) -> bool:
        """True if clients may present an invitation."""
        return self._invitations is not None

    def authorize(self, token: str | None, room: str) -> Invitation | None:
        """Return the invitation to a room, None for a guest of an open chat.

        An open chat ignores an invalid invitation.

        Args:
            token: The client's token, None if it sent none.
            room: Name of the room.

        Raises:
            Unauthorized: The token grants no access to the room.
        """
        if self._required:
            return self.check(token, room)
        with suppress(Unauthorized):
            return self.check(token, room)
        return None

    def check(self, token: str | None, room: str) -> Invitation:
        """Return the invitation of a token, which must be valid for a room.

        Raises:
            Unauthorized: The token grants no access to the room.
        """
        if self._invitations is None:
            raise Unauthorized("this chat has no invitations")
        invitation = self._invitations.check(token, time.time())
        # A direct room admits its two members only, whatever their invitations are for.
        if not invitation.admits(room) and direct_authors(room) is None:
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
        token = bearer_token(request)
        try:
            return self.authorize(token, room), token
        except Unauthorized as error:
            if token:
                raise
            hint = "send its token as 'Authorization: Bearer TOKEN'"
            raise Unauthorized(f"{error}; {hint}") from None

    def room_filter(self, tokens: Iterable[str | None]) -> Callable[[str], bool]:
        """Return the function that tells whether the holder of tokens may see a room."""
        if not self._required:
            return lambda room: True
        assert self._invitations is not None
        valid = []
        for token in set(tokens):
            with suppress(Unauthorized):
                valid.append(self._invitations.check(token, time.time()))
        return lambda room: any(each.admits(room) for each in valid)

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


def bearer_token(request: Request) -> str | None:
    """Return the token of a request's Authorization header (RFC 6750, section 2.1)."""
    scheme, _, credentials = (request.headers.get("Authorization") or "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None
