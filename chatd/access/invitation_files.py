"""The files of invitations: the secret that signs them, and the revocation list.

The secret is in a file of mode 0600, created at the first use. The revocation list is beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path

SECRET_FILE = "secret"
REVOCATION_FILE = "revoked"
# The revocation list until it is complete; a rename then replaces the list.
TEMPORARY_REVOCATION_FILE = "revoked.new"
SECRET_SIZE = 32  # bytes, the size of an HMAC-SHA256 digest


class InvitationFiles:
    """The secret and the revocation list in a directory.

    `list_changes` counts the changes of the revocation list that were loaded.

    Args:
        directory: The directory, created if necessary.

    Raises:
        OSError: The secret cannot be read or created, or the revocation list not read.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._revocation_path = directory / REVOCATION_FILE
        self._secret_path = directory / SECRET_FILE
        self.secret = _load_secret(self._secret_path)
        self._revocations: dict[str, float] = {}
        self._revocation_version: tuple[int, int] | None = None
        self.list_changes = 0
        self.load_revocations()

    def revoke(self, key: str, now: float, /) -> None:
        """Add a name to the revocation list."""
        with open(self._secret_path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may revoke at the same time
            revocations = {**self.load_revocations(), key: now}
            temporary = self._revocation_path.with_name(TEMPORARY_REVOCATION_FILE)
            temporary.write_text(json.dumps(revocations))
            # The user that runs the server must be able to read the list.
            owner = os.fstat(lock.fileno())
            os.chown(temporary, owner.st_uid, owner.st_gid)
            temporary.chmod(owner.st_mode & 0o777)
            temporary.replace(self._revocation_path)

    def load_revocations(self) -> dict[str, float]:
        """Return the time of revocation by name; read the list if it has changed."""
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
