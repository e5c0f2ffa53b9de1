"""The command `serve`: start the chat server and run it until a signal."""

from __future__ import annotations

import errno
import signal
import ssl
import sys
from argparse import Namespace

from chatd.access.connection_limits import DEFAULT_MAX_PEERS, raise_descriptor_limit
from chatd.access.origin import OriginPolicy
from chatd.app import Chat
from chatd.commands import CommandError, flushed_output, open_invitations
from chatd.ops.log_handler import log_to
from chatd.storage.sqlite import MEMORY, SQLiteStore, default_path
from chatd.storage.store import StoreError

# Prefixes of the hosts that other machines cannot reach.
_LOOPBACK = ("127.", "::1", "localhost")


def serve(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        CommandError: The server cannot start.
    """
    with log_to(sys.stderr, options.log_format):
        path = _prepare_store(options)
        invitations = open_invitations(options) if options.invite_only else None
        context = _load_certificate(options)
        try:
            store = SQLiteStore(
                path, keep_messages=options.keep_messages, keep_days=options.keep_days
            )
        except StoreError as error:
            raise CommandError(str(error)) from None
        try:
            chat = Chat(
                store,
                origins=OriginPolicy(hosts=options.allow_host, origins=options.allow_origin),
                invitations=invitations,
                rate=options.rate_limit,
                burst=2 * options.rate_limit,
                address_rate=options.rate_per_address,
                max_rooms=options.max_rooms,
                compression=not options.no_compression,
                trusted_proxies=options.trusted_proxy,
                max_peers=_limit_peers(options.max_peers),
                max_per_address=options.max_per_address,
                metrics_readers=options.metrics_from,
            )
            location = _listen(chat, options, context)
            _drain_at_signals(chat, options.drain_timeout)
            _announce(options, location, "memory only" if path == MEMORY else path)
            chat.server.run()
        finally:
            store.close()
    return 0


def _announce(options: Namespace, location: str, kept_in: str) -> None:
    try:
        with flushed_output():
            print(f"chatd is ready: {location} (messages in {kept_in}; Ctrl-C stops it)")
            is_open = options.unix is None and not options.invite_only
            if is_open and not options.host.startswith(_LOOPBACK):
                print(
                    f"chatd: everybody who can reach {options.host} can read and write here; use"
                    " --invite-only to admit only invited people"
                )
    except BrokenPipeError as error:
        raise CommandError(f"standard output: cannot write: {error.strerror}") from None


def _drain_at_signals(chat: Chat, timeout: float) -> None:
    """Drain the chat at the first SIGINT or SIGTERM, and stop it at the second."""

    def end(*_: object) -> None:
        if chat.is_draining:
            chat.server.stop(0)
        else:
            chat.drain(timeout)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _limit_peers(requested: int | None) -> int:
    """Return the limit on connections, after raising the limit on file descriptors."""
    possible = raise_descriptor_limit(requested or DEFAULT_MAX_PEERS)
    if requested and possible < requested:
        raise CommandError(
            f"--max-peers {requested}: the system has descriptors for {possible} connections only;"
            " raise its limit (ulimit -Hn) or lower --max-peers"
        )
    return possible if requested is None else requested


def _prepare_store(options: Namespace) -> str:
    """Return the path of the message store; create the default directory."""
    if options.db is not None:
        return str(options.db)
    path = default_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"directory {path.parent}: cannot create: {error.strerror};"
            " choose a file with --db, or --db :memory: to store no messages"
        ) from None
    return str(path)


def _load_certificate(options: Namespace) -> ssl.SSLContext | None:
    certificate, key = options.tls_cert, options.tls_key
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = certificate if key is None else f"{certificate} with the key {key}"
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError:  # its text is for readers of OpenSSL's sources
        raise CommandError(
            f"certificate {files}: not in PEM format, or the key is missing or belongs to another"
            " certificate; check --tls-cert and --tls-key"
        ) from None
    except OSError as error:
        raise CommandError(
            f"certificate {files}: cannot read: {error.strerror}; check --tls-cert and --tls-key"
        ) from None
    return context


def _listen(chat: Chat, options: Namespace, context: ssl.SSLContext | None) -> str:
    """Listen on the address in the options; return the location for the ready line."""
    try:
        if options.unix is not None:
            chat.server.listen_unix(options.unix)
            return f"listening on the Unix socket {options.unix}"
        host, port = chat.server.listen(options.host, options.port, context)
    except OSError as error:
        if options.unix is not None:
            raise CommandError(_explain_unix_error(error, options.unix)) from None
        raise CommandError(_explain_tcp_error(error, options.host, options.port)) from None
    return f"open {_url('https' if context else 'http', host, port)}"


def _explain_unix_error(error: OSError, path: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Unix socket {path}: in use by a server, or not a socket; stop that server, remove"
            " the file or choose another path with --unix"
        )
    reason = error.strerror or error  # "AF_UNIX path too long" has no error number
    return f"Unix socket {path}: cannot listen: {reason}; choose another path with --unix"


def _explain_tcp_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host}: in use, perhaps by another chatd; stop that program or choose"
            " another port with --port (0 picks a free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port}: permission denied; choose a port from 1024 up with --port"
    return f"host {host}: cannot listen: {error.strerror}; choose an address with --host"


def _url(scheme: str, host: str, port: int) -> str:
    """Return the address of the page. A wildcard address becomes a loopback address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
