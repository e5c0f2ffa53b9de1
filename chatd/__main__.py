"""The command line: `python -m chatd` serves, other commands see to invitations and the log."""

from __future__ import annotations

import errno
import io
import itertools
import os
import signal
import ssl
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatd.access.connection_limits import DEFAULT_MAX_PEERS, descriptors_for
from chatd.access.invitations import SECRET_NAME, Invitations
from chatd.access.origin import OriginPolicy
from chatd.app import Chat
from chatd.ops.log_handler import Note, writing
from chatd.options import parse_arguments
from chatd.storage.check import check_store, count_messages, export_store, open_read_only
from chatd.storage.sqlite import MEMORY, SQLiteStore, default_path
from chatd.storage.store import StoreError
from wsproto_min.explain.style import printable

# What is wrong with a log is told in so many lines at the most.
MAX_TOLD = 100

LOOPBACK = ("127.", "::1", "localhost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status, 2 if it cannot start."""
    options = parse_arguments(arguments)
    commands = {
        "serve": serve,
        "invite": invite,
        "revoke": revoke,
        "check": check,
        "export": export,
    }
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name of a file may be in any script
            stream.reconfigure(errors="backslashreplace")
    try:
        return commands[options.command](options)
    except StartError as error:
        print(f"chatd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read what a command prints has seen enough
        return 1
    except KeyboardInterrupt:  # before it serves; from then on it ends in good order
        return 128 + signal.SIGINT


class StartError(Exception):
    """Why the command cannot do its work and what to do about it, in one line."""


def serve(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    with writing(sys.stderr, options.log_format) as journal:
        return _serve(options, journal.note)


def _serve(options: Namespace, note: Note) -> int:
    path = _prepare_log(options)
    invitations = _open_invitations(options) if options.invite_only else None
    context = _load_certificate(options)
    try:
        log = SQLiteStore(path, keep_messages=options.keep_messages, keep_days=options.keep_days)
    except StoreError as error:
        raise StartError(str(error)) from None
    try:
        chat = Chat(
            log,
            origins=OriginPolicy(hosts=options.allow_host, origins=options.allow_origin),
            invitations=invitations,
            rate=options.rate_limit,
            burst=2 * options.rate_limit,
            compression=not options.no_compression,
            trusted_proxies=options.trusted_proxy,
            max_peers=_cap_peers(options.max_peers),
            max_per_address=options.max_per_address,
            metrics_readers=options.metrics_from,
            note=note,
        )
        ready = _listen(chat, options, context)
        _drain_at_signals(chat, options.drain_timeout)
        kept = "memory only" if path == MEMORY else path
        is_open = options.unix is None and invitations is None
        try:
            with _output():
                print(f"chatd is ready: {ready} (messages in {kept}; Ctrl-C stops it)")
                if is_open and not options.host.startswith(LOOPBACK):
                    who = "whoever can reach this machine at that address can read and write here"
                    print(f"chatd: {who}; --invite-only lets in only whom you invite")
        except BrokenPipeError as error:
            raise StartError(f"cannot write to standard output: {error.strerror}") from None
        chat.server.run()
    finally:
        log.close()
    return 0


def invite(options: Namespace) -> int:
    """Print a link that lets somebody in."""
    invitations = _find_invitations(options)
    token = invitations.issue(options.name, options.room, options.days, time.time())
    path = f"r/{options.room[0]}" if options.room else ""
    print(f"{options.url.rstrip('/')}/{path}#invite={token}")
    return 0


def revoke(options: Namespace) -> int:
    """Make all invitations void that somebody has had so far."""
    try:
        _find_invitations(options).revoke(options.name, time.time())
    except OSError as error:
        raise StartError(f"{options.name} is not revoked: {error}") from None
    print(f"all invitations for {options.name} are void from now on")
    return 0


def check(options: Namespace) -> int:
    """Say whether a log is sound; return 1 if it is not."""
    path = str(options.db or default_path())
    try:
        with open_read_only(path) as database, _output():
            wrong = list(itertools.islice(check_store(database), MAX_TOLD + 1))
            for each in wrong[:MAX_TOLD]:
                print(each)
            if not wrong:
                messages, rooms = count_messages(database)
                print(f"{path} is sound: {messages} messages in {rooms} rooms")
                return 0
    except StoreError as error:
        print(f"chatd: {printable(str(error))}", file=sys.stderr)
        return 1
    more = "at least " if len(wrong) > MAX_TOLD else ""
    print(
        f"chatd: {path} is not sound, in {more}{len(wrong[:MAX_TOLD])} places; stop the chatd that"
        " uses it and put a backup in its place, or save with export what can still be read",
        file=sys.stderr,
    )
    return 1


def export(options: Namespace) -> int:
    """Write the messages as JSON lines."""
    try:
        with open_read_only(str(options.db or default_path())) as database, _output():
            for line in export_store(database, options.room):
                print(line)
    except StoreError as error:
        raise StartError(printable(str(error))) from None
    return 0


@contextmanager
def _output() -> Iterator[None]:
    """Have what the block prints written. Raises `StartError`, or `BrokenPipeError` as it is."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise StartError(f"cannot write to standard output: {error.strerror}") from None


def _drain_at_signals(chat: Chat, timeout: float) -> None:
    """End the chat in good order at the first SIGINT or SIGTERM, at once at a second."""

    def end(*_: object) -> None:
        if chat.is_draining:
            chat.server.stop(0)
        else:
            chat.drain(timeout)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _cap_peers(wanted: int | None) -> int:
    """Return how many connections there may be, having seen to their descriptors."""
    possible = descriptors_for(wanted or DEFAULT_MAX_PEERS)
    if wanted and possible < wanted:
        raise StartError(
            f"the system allows descriptors for {possible} connections only; raise that (ulimit"
            " -Hn) or lower --max-peers"
        )
    return possible if wanted is None else wanted


def _prepare_log(options: Namespace) -> str:
    """Return where the log is to be, making the directory of the default one."""
    if options.db is not None:
        return str(options.db)
    path = default_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"cannot make {path.parent} for the log: {error.strerror};"
            " choose a file with --db, or --db :memory: to keep nothing"
        ) from None
    return str(path)


def _find_invitations(options: Namespace) -> Invitations:
    """Return the invitations of the log that was named, which a server must have begun."""
    if options.db is not None and options.db != MEMORY:
        database = Path(options.db).absolute()
        if not database.exists():
            raise StartError(
                f"there is no log {database}; give --db as the server was given it, which must"
                " have been started once"
            )
        if not database.with_name(SECRET_NAME).exists():
            raise StartError(
                f"there is no secret of invitations in {database.parent}; start the server of this"
                " log once with --invite-only"
            )
    return _open_invitations(options)


def _open_invitations(options: Namespace) -> Invitations:
    """Return the invitations whose secret lies in the directory of the log."""
    in_memory = options.db is None or options.db == MEMORY
    directory = default_path().parent if in_memory else Path(options.db).absolute().parent
    try:
        return Invitations(directory)
    except OSError as error:
        reason = error.strerror or error
        raise StartError(f"cannot use the secret of invitations in {directory}: {reason}") from None


def _listen(chat: Chat, options: Namespace, context: ssl.SSLContext | None) -> str:
    """Listen as the options say; return how to reach the chat."""
    try:
        if options.unix is not None:
            chat.server.listen_unix(options.unix)
            return f"listening on the Unix socket {options.unix}"
        host, port = chat.server.listen(options.host, options.port, context)
    except OSError as error:
        if options.unix is not None:
            raise StartError(_explain_unix(error, options.unix)) from None
        raise StartError(_explain(error, options.host, options.port)) from None
    return f"open {_url('https' if context else 'http', host, port)}"


def _load_certificate(options: Namespace) -> ssl.SSLContext | None:
    certificate, key = options.tls_cert, options.tls_key
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = certificate if key is None else f"{certificate} with the key {key}"
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError:  # its own words are OpenSSL's
        raise StartError(
            f"cannot use the certificate {files}: it is none in PEM format,"
            " or its key is missing or another's; see --tls-cert and --tls-key"
        ) from None
    except OSError as error:
        raise StartError(f"cannot read the certificate {files}: {error.strerror}") from None
    return context


def _explain_unix(error: OSError, path: str) -> str:
    """Return why listening on a Unix socket failed and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"{path} is taken, by another server or by a file that is no socket;"
            " stop or remove that, or choose another path with --unix"
        )
    reason = error.strerror or error  # "AF_UNIX path too long" has no number
    return f"cannot listen on {path}: {reason}; choose another path with --unix"


def _explain(error: OSError, host: str, port: int) -> str:
    """Return why listening failed and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken, perhaps by another chatd;"
            " stop that or choose another with --port (0 picks a free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights; choose one from 1024 up with --port"
    return f"cannot listen on {host}: {error.strerror}; choose an address with --host"


def _url(scheme: str, host: str, port: int) -> str:
    """Return the page's address; the wildcard addresses are reached as this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


if __name__ == "__main__":
    sys.exit(main())
