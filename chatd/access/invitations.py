"""Invitations: a name, rooms and an expiry time, signed with HMAC-SHA256.

A token is `PAYLOAD.SIGNATURE`, both in base64url. The payload is a JSON object. The
secret is in a file of mode 0600, created at the first use. A second file, the
revocation list, has the revoked names. For each name it has the time of the revocation,
which makes every earlier invitation for this name invalid.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from chatd.model import name_key

SECRET_FILE = "secret"
REVOCATION_FILE = "revoked"
# The revocation list until it is complete; a rename then replaces the list.
TEMPORARY_REVOCATION_FILE = "revoked.new"
SECRET_SIZE = 32  # bytes, the size of an HMAC-SHA256 digest
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


class Invitations:
    """Issues, checks and revokes invitations.

    `list_changes` counts the changes of the revocation list that were loaded.

    Args:
        directory: Directory of the secret and of the revocation list.

    Raises:
        OSError: The secret cannot be read or created, or the revocation list not read.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._revocation_path = directory / REVOCATION_FILE
        self._secret_path = directory / SECRET_FILE
        self._secret = _load_secret(self._secret_path)
        self._verify = lru_cache(VERIFIED_TOKENS)(self._read_token)  # keeps no exception
        self._revocations: dict[str, float] = {}
        self._revocation_version: tuple[int, int] | None = None
        self.list_changes = 0
        self._logged_error: str | None = None
        self._load_revocations()

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

    def load_revocations(self) -> dict[str, float]:
        """Return the time of revocation by name; read the list if it has changed.

        Raises:
            RevocationListUnavailable: The revocation list cannot be read.
        """
        try:
            revocations = self._load_revocations()
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
        with open(self._secret_path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may revoke at the same time
            revocations = {**self._load_revocations(), name_key(name): now}
            temporary = self._revocation_path.with_name(TEMPORARY_REVOCATION_FILE)
            temporary.write_text(json.dumps(revocations))
            # The user that runs the server must be able to read the list.
            owner = os.fstat(lock.fileno())
            os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.chmod(owner.st_mode & 0o777)
            temporary.replace(self._revocation_path)

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

    def _load_revocations(self) -> dict[str, float]:
        version: tuple[int, int] | None
        try:
            status = self._revocation_path.stat()
            version = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            version = None
        except OSError as error:
            raise _unreadable(self._revocation_path, error) from None
        if version != self._revocation_version:
            self._revocations = _read_revocations(self._revocation_path) if version else {}
            self._revocation_version = version
            self.list_changes += 1
        return self._revocations


def _read_revocations(path: Path) -> dict[str, float]:
    try:
        revocations = json.loads(path.read_text())
        return {name: float(time) for name, time in revocations.items()}
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, TypeError, AttributeError):
        raise OSError(
            f"revocation list {path}: the file is damaged; restore a backup, or remove the file"
            " and revoke its names again"
        ) from None


def _unreadable(path: Path, error: OSError) -> OSError:
    return OSError(f"revocation list {path}: cannot read: {error.strerror}")


def _load_secret(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) < SECRET_SIZE:
            raise OSError(
                f"secret {path}: shorter than {SECRET_SIZE} bytes; remove the file, and chatd"
                " creates another"
            ) from None
        return secret
    with open(descriptor, "wb") as file:
        secret = secrets.token_bytes(SECRET_SIZE)
        file.write(secret)
    return secret


def _encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")  # the decoder ignores excess padding
