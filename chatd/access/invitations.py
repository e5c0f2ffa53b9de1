"""Invitations: a name, rooms and an expiry, signed with HMAC-SHA256.

A token is `PAYLOAD.SIGNATURE`, both in base64url; the payload is JSON. The
secret lies in a file of mode 0600, made at first use, and so does the list of
names whose invitations were revoked, with the time: what was issued before
then is void.
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
from pathlib import Path

# Of the files.
SECRET_NAME = "secret"
REVOKED_NAME = "revoked"
NEW_REVOKED_NAME = "revoked.new"  # until it is written whole
SECRET_SIZE = 32  # bytes: as many as the hash gives
DAY = 86400.0  # seconds

logger = logging.getLogger("chatd")


class Unauthorized(Exception):
    """An invitation is missing, forged, expired or revoked; the text is for a person."""


class RevocationListUnavailable(Unauthorized):
    """Nobody can say whether an invitation holds: the list of the revoked is not readable."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whom an invitation is for; no `rooms` stands for all of them."""

    name: str
    rooms: tuple[str, ...]

    def admits(self, room: str) -> bool:
        """Return whether it is good for a room."""
        return not self.rooms or room in self.rooms


class Invitations:
    """Issues, checks and revokes invitations; `directory` holds its two files.

    Raises `OSError` if the secret can be neither read nor made, or the list of the
    revoked not read.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._revoked_path = directory / REVOKED_NAME
        self._secret_path = directory / SECRET_NAME
        self._secret = _load_secret(self._secret_path)
        self._revoked: dict[str, float] = {}
        self._revoked_version: tuple[int, int] | None = None
        self._trouble: str | None = None  # with that list, as was logged
        self._revoked_names()

    def issue(self, name: str, rooms: Sequence[str], days: float, now: float) -> str:
        """Return a token for `name`, good for some days from `now` (seconds of the epoch)."""
        fields = {"name": name, "rooms": list(rooms), "issued": now, "expires": now + days * DAY}
        payload = _base64(json.dumps(fields, separators=(",", ":")).encode())
        return f"{payload}.{self._sign(payload)}"

    def check(self, token: str | None, now: float) -> Invitation:
        """Return what a token grants at `now`. Raises `Unauthorized`, perhaps `RevocationListUnavailable`."""
        if not token:
            raise Unauthorized("this chat is by invitation only; open the link that you were sent")
        payload, _, signature = token.partition(".")
        # The signature is that of the payload as it is spelled here: base64 has
        # several spellings for the same bytes, an invitation has one.
        if not hmac.compare_digest(signature.encode(), self._sign(payload).encode()):
            raise Unauthorized("the invitation is not genuine; ask for a new link")
        fields = json.loads(_unbase64(payload))
        if now >= fields["expires"]:
            raise Unauthorized("the invitation has expired; ask for a new link")
        try:
            revoked = self._revoked_names().get(fields["name"].casefold())
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("nobody with an invitation is let in: %s", error)
            raise RevocationListUnavailable(
                "invitations cannot be checked at the moment; tell whoever runs this chat"
            ) from None
        if revoked is not None and fields["issued"] <= revoked:
            raise Unauthorized("the invitation was revoked; ask whoever runs this chat")
        return Invitation(fields["name"], tuple(fields["rooms"]))

    def revoke(self, name: str, now: float) -> None:
        """Make all invitations void that were issued to `name` until `now`.

        Raises `OSError` if the list of the revoked cannot be read or written.
        """
        with open(self._secret_path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it, too
            revoked = {**self._revoked_names(), name.casefold(): now}
            temporary = self._revoked_path.with_name(NEW_REVOKED_NAME)
            temporary.write_text(json.dumps(revoked))
            # Whoever runs the server reads it, whoever revokes.
            owner = os.fstat(lock.fileno())
            os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.chmod(owner.st_mode & 0o777)
            temporary.replace(self._revoked_path)

    def _sign(self, payload: str) -> str:
        return _base64(hmac.digest(self._secret, payload.encode(), hashlib.sha256))

    def _revoked_names(self) -> dict[str, float]:
        """Return when names were revoked, read again if another process has written.

        Raises `OSError`.
        """
        try:
            found = self._revoked_path.stat()
        except FileNotFoundError:
            return {}
        version = (found.st_mtime_ns, found.st_ino)
        if version != self._revoked_version:
            self._revoked = _read_revoked(self._revoked_path)
            self._revoked_version = version
            self._trouble = None
        return self._revoked


def _read_revoked(path: Path) -> dict[str, float]:
    try:
        revoked = json.loads(path.read_text())
        return {name: float(when) for name, when in revoked.items()}
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise OSError(
            f"{path}, the list of the revoked, is damaged; put a backup in its place, or remove"
            " it and revoke again whom it named"
        ) from None


def _load_secret(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
        if len(secret) < SECRET_SIZE:
            raise OSError(f"{path} holds no secret; remove it to have a new one made") from None
        return secret
    with open(descriptor, "wb") as file:
        secret = secrets.token_bytes(SECRET_SIZE)
        file.write(secret)
    return secret


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")  # more than are due do not matter
