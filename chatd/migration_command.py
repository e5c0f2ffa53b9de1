"""The command `migrate`: copy a message store from a file to a PostgreSQL."""

from __future__ import annotations

import os
import secrets
from argparse import Namespace
from pathlib import Path

from chatd.access.invitation_files import SECRET_FILE, InvitationFiles
from chatd.commands import CommandError, find_default_store, flushed_output, need_psycopg
from chatd.storage.check import open_read_only
from chatd.storage.sqlite_file import SCHEMA_VERSION, lock_file, schema_version
from chatd.storage.store import StoreError


def migrate(options: Namespace) -> int:
    """Copy a store, and compare the copy with it."""
    need_psycopg()
    from chatd.storage.postgres.check import count_shared_messages
    from chatd.storage.postgres.connection import create, open_for_command, place_of
    from chatd.storage.postgres.migration import migrate as copy

    path = os.path.realpath(str(options.db or find_default_store()))
    place = place_of(options.store)
    try:
        if not Path(path).exists():
            raise CommandError(f"message store {path}: no such file; choose another with --db")
        lock = lock_file(path)
        try:
            create(options.store, secrets.token_bytes(32))
            with open_read_only(path) as source, open_for_command(options.store) as target:
                version = schema_version(source, path)
                if version != SCHEMA_VERSION:
                    raise CommandError(
                        f"message store {path}: schema version {version} instead of"
                        f" {SCHEMA_VERSION}; start the server of this chatd once on it"
                    )
                secret, revocations = _read_invitations(Path(path).parent)
                with flushed_output():
                    copy(source, path, target, revocations, secret, print)
                    messages, rooms = count_shared_messages(target)
                    print(f"{place} has {messages} messages in {rooms} rooms, equal to {path}")
        finally:
            os.close(lock)
    except StoreError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"message store {path}: {error.strerror or error}") from None
    return 0


def _read_invitations(directory: Path) -> tuple[bytes | None, dict[str, float]]:
    """Return the secret and the revocation list beside a store, None and {} without them."""
    if not (directory / SECRET_FILE).exists():
        return None, {}
    files = InvitationFiles(directory)
    return files.secret, files.load_revocations()
