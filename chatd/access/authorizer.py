"""Who is let in: the origin of a request, and its invitation if one is asked for."""

from __future__ import annotations

import time
from http import HTTPStatus

from chatd.access.invitations import (
    Invitation,
    Invitations,
    RevocationListUnavailable,
    Unauthorized,
)
from chatd.access.origin import OriginPolicy
from chatd.protocol import ChatError
from wsproto_min import HandshakeError, Request


class Authorizer:
    """Judges requests and joins; without `invitations` anybody may join."""

    def __init__(self, origins: OriginPolicy, invitations: Invitations | None) -> None:
        self._origins = origins
        self._invitations = invitations

    @property
    def requires_invitation(self) -> bool:
        """Whether an invitation is asked for."""
        return self._invitations is not None

    def check_origin(self, request: Request) -> None:
        """Raise `HandshakeError` unless the request comes from where it may."""
        self._origins.check(request)

    def authorize(self, token: str | None, room: str) -> Invitation | None:
        """Return the invitation to a room, None if none is asked for.

        Raises `ChatError` `unauthorized`.
        """
        if self._invitations is None:
            return None
        try:
            invitation = self._invitations.check(token, time.time())
        except Unauthorized as reason:
            raise ChatError("unauthorized", str(reason), room=room) from None
        if not invitation.admits(room):
            raise ChatError(
                "unauthorized", f"your invitation is not for the room {room}", room=room
            )
        return invitation

    def authorize_request(
        self, request: Request, room: str
    ) -> tuple[Invitation | None, str | None]:
        """Return the invitation to a room that a request carries, and its token.

        Raises `HandshakeError` 401.
        """
        scheme, _, given = (request.headers.get("Authorization") or "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else None
        try:
            return self.authorize(token, room), token
        except ChatError as wrong:
            how = "" if token else "; send its token as 'Authorization: Bearer TOKEN'"
            raise HandshakeError(
                HTTPStatus.UNAUTHORIZED,
                f"{wrong.message}{how}",
                [("WWW-Authenticate", 'Bearer realm="chatd"')],
            ) from None

    def recheck(self, token: str | None) -> str | None:
        """Return why an invitation does not hold any more, None if it does."""
        assert self._invitations is not None
        try:
            self._invitations.check(token, time.time())
        except RevocationListUnavailable:
            return None  # who is in stays until that can be said again
        except Unauthorized as reason:
            return str(reason)
        return None
