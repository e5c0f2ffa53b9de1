"""The command `serve`: start the chat server and run it until a signal."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import sys
from argparse import Namespace
from collections.abc import Sequence
from urllib.parse import urlsplit

from chatd.access.connection_limits import DEFAULT_MAX_PEERS, raise_descriptor_limit
from chatd.access.invitations import Invitations
from chatd.access.origin import OriginPolicy
from chatd.addresses import ListenError, is_loopback, listen, page_urls
from chatd.app import Chat
from chatd.certificate import Certificate, CertificateError
from chatd.commands import (
    CommandError,
    find_default_store,
    flushed_output,
    need_psycopg,
    open_invitations,
)
from chatd.ops.log_handler import log_to
from chatd.storage.shared import SharedStore
from chatd.storage.sqlite import MEMORY, SQLiteStore
from chatd.storage.store import MessageStore, StoreError

logger = logging.getLogger("chatd")


def serve(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        CommandError: The server cannot start.
    """
    with log_to(sys.stderr, options.log_format):
        if options.store is not None:
            _serve_shared(options)
        else:
            _serve_embedded(options)
    return 0


def _serve_embedded(options: Namespace) -> None:
    path = _prepare_store(options)
    certificate = _load_certificate(options)
    try:
        store = SQLiteStore(path, keep_messages=options.keep_messages, keep_days=options.keep_days)
    except StoreError as error:
        raise CommandError(str(error)) from None
    try:
        invitations = None
        if options.invite_only or path != MEMORY:
            invitations = open_invitations(options)
        chat = _create_chat(store, options, invitations)
        _run(chat, options, certificate, "memory only" if path == MEMORY else path)
    finally:
        store.close()


def _serve_shared(options: Namespace) -> None:
    """Serve as one of several nodes."""
    need_psycopg()
    from chatd.storage.postgres.store import PostgresStore

    certificate = _load_certificate(options)
    try:
        store = PostgresStore(
            options.store,
            name=options.node or socket.gethostname().partition(".")[0],
            timeout=options.store_timeout,
            keep_messages=options.keep_messages,
            keep_days=options.keep_days,
        )
    except StoreError as error:
        raise CommandError(str(error)) from None
    promise = "acknowledged messages survive a failover"
    if not store.is_synchronous:
        promise = "a failover may lose the last moments: synchronous_standby_names is empty"
    try:
        chat = _create_chat(store, options, Invitations(store), shared=store)
        _run(chat, options, certificate, f"{store.place}; {promise}")
        chat.finish()
    finally:
        store.close()


def _run(chat: Chat, options: Namespace, certificate: Certificate | None, kept_in: str) -> None:
    """Listen, and serve until a signal."""
    _reload_at_hangup(chat, certificate)
    urls = _listen(chat, options, certificate.context if certificate else None)
    _drain_at_signals(chat, options.drain_timeout)
    _announce(options, urls, kept_in)
    chat.server.run()


def _create_chat(
    store: MessageStore,
    options: Namespace,
    invitations: Invitations | None,
    shared: SharedStore | None = None,
) -> Chat:
    try:
        return Chat(
            store,
            shared=shared,
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
            total_write_buffer_limit=options.max_write_buffers << 20,
            write_timeout=options.write_timeout,
            total_unfinished_limit=options.max_unfinished << 20,
            max_pending_handshakes=options.max_handshakes,
            invite_only=options.invite_only,
            name_header=options.name_header,
            directory=not options.no_directory,
        )
    except OSError as error:  # from socketpair(), which wakes the event loop
        raise CommandError(
            f"event loop: cannot create its sockets: {error.strerror}; allow this process Unix"
            " sockets (AF_UNIX) and more file descriptors"
        ) from None


def _announce(options: Namespace, urls: Sequence[str], kept_in: str) -> None:
    """Print the ready line, and a warning if other machines have free access.

    Args:
        options: The options.
        urls: Addresses of the page; none for a Unix socket.
        kept_in: Place of the messages.
    """
    if sys.stdout is None:  # a service manager may close it
        return
    try:
        with flushed_output():
            location = f"listening on the Unix socket {options.unix}"
            if urls:
                location = f"open {' or '.join(urls)}"
            print(f"chatd is ready: {location} (messages in {kept_in}; Ctrl-C stops it)")
            reachable = [url for url in urls if not is_loopback(urlsplit(url).hostname or "")]
            if reachable and not options.invite_only:
                print(
                    f"chatd: everybody who can reach {reachable[0]} can read and write here; use"
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


def _reload_at_hangup(chat: Chat, certificate: Certificate | None) -> None:
    """Read the certificate again at each SIGHUP. The default action would end the process."""

    def reload() -> None:
        if certificate is None:
            logger.info("SIGHUP: ignored, because chatd has no certificate to read again")
            return
        try:
            certificate.reload()
        except CertificateError as error:
            logger.error("%s; the previous certificate stays in use", error)
        else:
            logger.info("SIGHUP: the certificate was read again, for all new connections")

    # The event loop calls `reload`, because a signal handler must not interrupt a log handler.
    signal.signal(signal.SIGHUP, lambda *_: chat.server.call_soon_threadsafe(reload))


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
    path = find_default_store()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"directory {path.parent}: cannot create: {error.strerror};"
            " choose a file with --db, or --db :memory: to store no messages"
        ) from None
    return str(path)


def _load_certificate(options: Namespace) -> Certificate | None:
    if not options.tls_cert:
        return None
    try:
        return Certificate(options.tls_cert, options.tls_key)
    except CertificateError as error:
        raise CommandError(str(error)) from None


def _listen(chat: Chat, options: Namespace, context: ssl.SSLContext | None) -> list[str]:
    """Listen as the options demand; return the addresses of the page, none for a Unix socket."""
    if options.unix is None:
        try:
            listening = listen(
                chat.server, options.host, options.port, context, reuse_port=options.reuse_port
            )
        except ListenError as error:
            raise CommandError(_explain_tcp_error(error)) from None
        return page_urls("https" if context else "http", listening)
    try:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        chat.server.listen_unix(options.unix)
    except OSError as error:
        raise CommandError(_explain_unix_error(error, options.unix)) from None
    return []


def _explain_unix_error(error: OSError, path: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Unix socket {path}: in use by a server, or not a socket; stop that server, remove"
            " the file or choose another path with --unix"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return (
            f"Unix socket {path}: Unix sockets are not available to this process; listen on TCP"
            " with --host and --port, or allow the address family AF_UNIX"
        )
    reason = error.strerror or error  # "AF_UNIX path too long" has no error number
    return f"Unix socket {path}: cannot listen: {reason}; choose another path with --unix"


def _explain_tcp_error(error: ListenError) -> str:
    host, port, cause = error.host, error.port, error.cause
    if cause.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host}: in use, perhaps by another chatd; stop that program or choose"
            " another port with --port (0 picks a free one)"
        )
    if cause.errno == errno.EACCES:
        return f"port {port}: permission denied; choose a port from 1024 up with --port"
    reason = str(cause.strerror).partition(" (while")[0]  # socket.create_server() adds the address
    return f"host {host}: cannot listen: {reason}; choose an address with --host"
