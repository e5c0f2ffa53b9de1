"""The secret and the revocation list in the shared store, for the operator's commands."""

from __future__ import annotations

from collections.abc import Mapping

from chatd.storage.postgres.connection import Connection, open_for_command
from chatd.storage.postgres.notifications import format_payload, notify
from chatd.storage.store import StoreError


class StoredInvitations:
    """Source of invitations; see `access.invitations.InvitationSource`.

    Args:
        url: URL of the database.

    Raises:
        OSError: The store cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.list_changes = 1
        try:
            with open_for_command(url) as database:
                (secret,) = database.execute("SELECT secret FROM meta", ()).fetchone()
                rows = database.execute("SELECT name, at FROM revocations", ())
                self._revocations: dict[str, float] = dict(rows)
        except StoreError as error:
            raise OSError(str(error)) from None
        self.secret = bytes(secret)

    def load_revocations(self) -> Mapping[str, float]:
        """Return the time of revocation by name."""
        return self._revocations

    def revoke(self, key: str, now: float, /) -> None:
        """Add a name to the revocation list, and let all nodes read it."""
        try:
            with open_for_command(self._url) as database:
                _revoke(database, key, now)
        except StoreError as error:
            raise OSError(str(error)) from None


def _revoke(database: Connection, key: str, now: float) -> None:
    with database:
        database.execute("BEGIN")
        database.execute(
            "INSERT INTO revocations VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET at = excluded.at",
            (key, now),
        )
        database.execute("UPDATE meta SET revocations = revocations + 1", ())
    notify([format_payload("poll", "operator", 0)], database)
