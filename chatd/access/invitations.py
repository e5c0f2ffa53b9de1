"""Invitations: a name, rooms and an expiry time, signed with HMAC-SHA256.

A token is `PAYLOAD.SIGNATURE`, both in base64url. The payload is a JSON object. The
secret comes with the revocation list, which has the revoked names. For each name it has the time
of the revocation, which makes every earlier invitation for this name invalid.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from chatd.access.invitation_files import InvitationFiles
from chatd.model import name_key

DAY = 86400.0  # seconds
# Genuine tokens whose content is kept. A genuine token is small, because an operator issued it.
VERIFIED_TOKENS = 10_000

logger = logging.getLogger("chatd")


class Unauthorized(Exception):
    """A missing, forged, expired or revoked invitation; the message is for the user."""


class RevocationListUnavailable(Unauthorized):
    """The revocation list cannot be read: chatd refuses new joins; open connections stay."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """The content of a token: the user's name and the rooms; empty `rooms` means all rooms.

    `role` is "moderator", "bot" or "".
    """

    name: str
    rooms: tuple[str, ...]
    role: str = ""

    def admits(self, room: str) -> bool:
        """Return True if the invitation is valid for a room."""
        return not self.rooms or room in self.rooms


class Claims(NamedTuple):
    """The content of a genuine token; `issued` and `expires` are Unix times in seconds."""

    invitation: Invitation
    issued: float
    expires: float


class InvitationSource(Protocol):
    """Place of the secret and of the revocation list."""

    @property
    def secret(self) -> bytes:
        """The secret that signs invitations."""

    @property
    def list_changes(self) -> int:
        """Number of the changes of the revocation list that were loaded."""

    def load_revocations(self) -> Mapping[str, float]:
        """Return the time of revocation by `model.name_key`. Raises `OSError`."""

    def revoke(self, key: str, now: float, /) -> None:
        """Add a name to the revocation list. Raises `OSError`."""


class Invitations:
    """Issues, checks and revokes invitations.

    Args:
        source: The secret and the revocation list, or the directory of their files.

    Raises:
        OSError: The secret cannot be read or created, or the revocation list not read.
    """

    def __init__(self, source: Path | InvitationSource) -> None:
        self._source = InvitationFiles(source) if isinstance(source, Path) else source
        self._secret = self._source.secret
        self._verify = lru_cache(VERIFIED_TOKENS)(self._read_token)  # keeps no exception
        self._logged_error: str | None = None

    @property
    def list_changes(self) -> int:
        """Number of the changes of the revocation list that were loaded."""
        return self._source.list_changes

    def issue(
        self, name: str, rooms: Sequence[str], days: float, now: float, role: str = ""
    ) -> str:
        """Return the token of an invitation.

        Args:
            name: The user's name in the chat.
            rooms: Rooms that the user may join; empty for all rooms.
            days: Validity in days.
            now: Current Unix time in seconds.
            role: See `Invitation`.
        """
        fields = {"name": name, "rooms": list(rooms), "issued": now, "expires": now + days * DAY}
        if role:
            fields["role"] = role
        payload = _encode_base64(json.dumps(fields, separators=(",", ":")).encode())
        return f"{payload}.{self._sign(payload)}"

    def check(self, token: str | None, now: float) -> Invitation:
        """Return the invitation of a token.

        Args:
            token: The token, None or empty if the client sent none.
            now: Current Unix time in seconds.

        Raises:
            Unauthorized: The token is missing, forged, expired or revoked.
            RevocationListUnavailable: The revocation list cannot be read.
        """
        if not token:
            raise Unauthorized("this chat is by invitation only; open the link that you were sent")
        claims = self._verify(token)
        if now >= claims.expires:
            raise Unauthorized("the invitation has expired; ask for a new link")
        revoked_at = self.load_revocations().get(name_key(claims.invitation.name))
        if revoked_at is not None and claims.issued <= revoked_at:
            raise Unauthorized("the invitation was revoked; ask the operator of this chat")
        return claims.invitation

    def expiry(self, token: str) -> float:
        """Return the Unix time, in seconds, at which a genuine token expires."""
        return self._verify(token).expires

    def load_revocations(self) -> Mapping[str, float]:
        """Return the time of revocation by name; read the list if it has changed.

        Raises:
            RevocationListUnavailable: The revocation list cannot be read.
        """
        try:
            revocations = self._source.load_revocations()
        except OSError as error:
            if str(error) != self._logged_error:
                self._logged_error = str(error)
                logger.error("%s; chatd refuses new joins", error)
            raise RevocationListUnavailable(
                "invitations cannot be checked at the moment; tell the operator of this chat"
            ) from None
        self._logged_error = None
        return revocations

    def revoke(self, name: str, now: float) -> None:
        """Revoke all invitations that were issued for a name up to now.

        Args:
            name: The name, in upper or lower case.
            now: Current Unix time in seconds.

        Raises:
            OSError: The revocation list cannot be read or written.
        """
        self._source.revoke(name_key(name), now)

    def _read_token(self, token: str) -> Claims:
        payload, _, signature = token.partition(".")
        # Base64 has several spellings for the same bytes. The signature covers the text,
        # so an invitation has exactly one token.
        if not hmac.compare_digest(signature.encode(), self._sign(payload).encode()):
            raise Unauthorized("the invitation is not genuine; ask for a new link")
        fields = json.loads(_decode_base64(payload))
        invitation = Invitation(fields["name"], tuple(fields["rooms"]), fields.get("role", ""))
        return Claims(invitation, fields["issued"], fields["expires"])

    def _sign(self, payload: str) -> str:
        return _encode_base64(hmac.digest(self._secret, payload.encode(), hashlib.sha256))


def _encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")  # the decoder ignores excess padding
