"""Options and commands of the command line, validated before anything starts."""

from __future__ import annotations

import argparse
import sqlite3
import ssl
import sys
from collections.abc import Sequence
from typing import NoReturn

import chatd
from chatd import option_values as values
from chatd.access.connection_limits import (
    DEFAULT_MAX_HANDSHAKES,
    DEFAULT_MAX_PEERS,
    DEFAULT_MAX_PER_ADDRESS,
    DEFAULT_MAX_UNFINISHED,
    DEFAULT_MAX_WRITE_BUFFERS,
    DEFAULT_WRITE_TIMEOUT,
)
from chatd.access.costs import CONNECTIONS_PER_ADDRESS
from chatd.model import DEFAULT_MAX_ROOMS
from chatd.ops.log_handler import FORMATTERS
from chatd.storage.sqlite import MEMORY

VERSION = (
    f"chatd {chatd.__version__} (Python {sys.version.split()[0]},"
    f" SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION})"
)
DEFAULT_HOST = "127.0.0.1"
DEFAULT_STORE_TIMEOUT = 10.0  # seconds
# Commands that work on a message store with messages.
STORE_COMMANDS = ("check", "export", "ban", "unban", "bans", "erase")


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line.

    Args:
        arguments: The words of the command line; None for those of the process.

    Returns:
        One attribute for each option. `command` is `serve` or one of the others.

    Raises:
        SystemExit: An argument is invalid (status 2), or `--help` was given (status 0).
    """
    parser = _Parser(
        prog="chatd",
        description="Serve a chat, or manage its invitations and messages.",
        exit_on_error=False,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=VERSION, help="print the versions and exit"
    )
    _add_serve_options(parser)
    commands = parser.add_subparsers(dest="command", title="other commands", metavar="COMMAND")
    invite = commands.add_parser("invite", help="print an invitation link")
    revoke = commands.add_parser("revoke", help="revoke all invitations of a name")
    check = commands.add_parser(
        "check", help="check the message store; exit status 1 if it is damaged"
    )
    export = commands.add_parser("export", help="print the messages as JSON lines")
    _add_invite_options(invite)
    export.add_argument(
        "--room", type=values.room, help="print only this room (default: all rooms)"
    )
    export.add_argument(
        "--audit", action="store_true", help="print the audit log instead of the messages"
    )
    migrate = commands.add_parser(
        "migrate", help="copy a message store from a file to a PostgreSQL; repeatable"
    )
    ban = commands.add_parser("ban", help="keep a person out, and close their connections")
    unban = commands.add_parser("unban", help="end the bans of a person")
    bans = commands.add_parser("bans", help="list the bans and mutes in force")
    erase = commands.add_parser("erase", help="remove the texts of a person's messages for good")
    for each in (ban, unban):
        each.add_argument("--room", type=values.room, help="only this room (default: all rooms)")
    for each in (invite, revoke, ban, unban, erase):
        each.add_argument(
            "name", type=values.name, metavar="NAME", help="the user's name in the chat"
        )
    ban.add_argument(
        "duration",
        type=values.duration,
        nargs="?",
        metavar="DURATION",
        help="such as 30m, 12h or 7d (default: until unban)",
    )
    for each in (parser, invite, revoke, check, export, migrate, ban, unban, bans, erase):
        each.add_argument(
            "--store",
            type=values.store,
            metavar="URL",
            default=None if each is parser else argparse.SUPPRESS,
            help="PostgreSQL that several servers share, instead of a file:"
            " postgresql://USER@HOST/DATABASE. The password comes from PGPASSWORD or PGPASSFILE",
        )
        each.add_argument(
            "--db",
            type=values.file,
            metavar="FILE",
            # A default here would overwrite a --db before the command.
            default=None if each is parser else argparse.SUPPRESS,
            help="database file of the messages; the invitation files are beside it. :memory:"
            " stores no messages (default: chat.db in $STATE_DIRECTORY, or in the user's"
            " state directory)",
        )
    try:
        options = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        # argparse takes the value of an unknown option for the command.
        unknown = _find_unknown_option(arguments) if error.argument_name == "COMMAND" else None
        parser.error(f"unknown option {unknown!r}" if unknown else str(error))
    if options.command in STORE_COMMANDS and options.db == MEMORY:
        parser.error(f"{options.command} needs a file; --db :memory: exists only inside its chatd")
    options.command = options.command or "serve"
    if options.command == "migrate":
        if options.store is None:
            parser.error("migrate needs --store URL, the PostgreSQL that receives the messages")
    elif options.store is not None and options.db is not None:
        parser.error("--store and --db exclude each other; choose one of them")
    options.host = options.host or [DEFAULT_HOST]
    if options.name_header and not options.trusted_proxy:
        parser.error("--name-header needs --trusted-proxy, because other clients could forge it")
    if options.reuse_port and options.store is None:
        parser.error("--reuse-port needs --store, because servers that share a port share messages")
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key needs --tls-cert")
    if options.tls_cert and options.unix is not None:
        parser.error("TLS on a Unix socket is not supported; leave out --tls-cert or --unix")
    return options


def _find_unknown_option(arguments: Sequence[str] | None) -> str | None:
    """Return the first option before the command that does not exist, None without one."""
    parser = _Parser(prog="chatd", add_help=False)
    _add_serve_options(parser)
    parser.add_argument("--db")
    parser.add_argument("--store")
    _, rest = parser.parse_known_args(arguments)
    return next((word.partition("=")[0] for word in rest if word.startswith("-")), None)


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--host",
        action="append",
        help="address or name to listen on; 0.0.0.0 for all addresses of this machine, :: for those"
        f" of IPv6 too; repeatable (default: {DEFAULT_HOST})",
    )
    add(
        "--port",
        type=values.port,
        default=8765,
        help="TCP port; 0 picks a free one (default: %(default)s)",
    )
    add(
        "--reuse-port",
        action="store_true",
        help="share the port with other servers on this machine, one for each core, for example;"
        " needs --store",
    )
    add(
        "--node",
        type=values.node,
        metavar="NAME",
        help="name of this server among those that share the store (default: the host name)",
    )
    add(
        "--store-timeout",
        type=values.seconds,
        default=DEFAULT_STORE_TIMEOUT,
        metavar="SECONDS",
        help="time in which the PostgreSQL must answer; then senders get an error and send again"
        " (default: %(default)g)",
    )
    add("--unix", metavar="PATH", help="listen on a Unix socket instead of TCP")
    add("--tls-cert", metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    add("--tls-key", metavar="FILE", help="key of the certificate, if in another file (PEM)")
    add(
        "--keep-messages",
        type=values.count,
        metavar="N",
        help="keep the newest N messages of each room",
    )
    add("--keep-days", type=values.days, metavar="DAYS", help="delete messages older than this")
    add("--invite-only", action="store_true", help="require an invitation from every user")
    add(
        "--name-header",
        type=values.header,
        metavar="HEADER",
        help="header in which a trusted proxy gives the name of a user that has signed in there,"
        " for example X-Remote-User; needs --trusted-proxy",
    )
    add("--no-directory", action="store_true", help="do not list the rooms for users")
    add(
        "--rate-limit",
        type=values.non_negative,
        default=20.0,
        metavar="N",
        help="messages per second from one peer, twice as many at once; 0 for no limit"
        " (default: %(default)g)",
    )
    add(
        "--rate-per-address",
        type=values.non_negative,
        metavar="N",
        help="messages, and new connections, per second from one address or one IPv6 /64 network,"
        " twice as many at once; 0 for no limit"
        f" (default: {CONNECTIONS_PER_ADDRESS} times --rate-limit)",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        type=values.host,
        metavar="NAME",
        help="another host name of this server; repeatable",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        type=values.origin,
        metavar="ORIGIN",
        help="another site or app with pages that may connect, like https://example.org or"
        " tauri://localhost; repeatable",
    )
    add("--no-compression", action="store_true", help="do not negotiate permessage-deflate")
    add(
        "--trusted-proxy",
        action="append",
        type=values.network,
        default=[],
        metavar="ADDRESS[/BITS]|unix",
        help="trust the X-Forwarded-For of this proxy; repeatable",
    )
    add(
        "--max-peers",
        type=values.limit,
        metavar="N",
        help="connections at the same time, including handshakes; 0 for no limit"
        f" (default: {DEFAULT_MAX_PEERS}, or fewer if file descriptors are limited)",
    )
    add(
        "--max-per-address",
        type=values.limit,
        metavar="N",
        help="connections from one address or one IPv6 /64 network; 0 for no limit"
        f" (default: {DEFAULT_MAX_PER_ADDRESS}, and no limit for this machine)",
    )
    add(
        "--max-rooms",
        type=values.limit,
        default=DEFAULT_MAX_ROOMS,
        metavar="N",
        help="rooms in use at the same time; 0 for no limit (default: %(default)s)",
    )
    add(
        "--max-handshakes",
        type=values.count,
        default=DEFAULT_MAX_HANDSHAKES,
        metavar="N",
        help="connections with an incomplete handshake; beyond it the oldest is closed"
        " (default: %(default)s)",
    )
    add(
        "--max-write-buffers",
        type=values.count,
        default=DEFAULT_MAX_WRITE_BUFFERS,
        metavar="MIB",
        help="memory for bytes that peers have yet to take, in MiB; beyond it the slowest peers are"
        " closed (default: %(default)s)",
    )
    add(
        "--max-unfinished",
        type=values.count,
        default=DEFAULT_MAX_UNFINISHED,
        metavar="MIB",
        help="memory for incomplete messages of all peers, in MiB; beyond it the oldest are closed"
        " (default: %(default)s)",
    )
    add(
        "--write-timeout",
        type=values.seconds,
        default=DEFAULT_WRITE_TIMEOUT,
        metavar="SECONDS",
        help="time in which a slow peer must take some bytes (default: %(default)g)",
    )
    add(
        "--metrics-from",
        action="append",
        type=values.network,
        default=[],
        metavar="ADDRESS[/BITS]|unix",
        help="let this network read /metrics, for example 127.0.0.1; repeatable",
    )
    add(
        "--log-format",
        choices=tuple(FORMATTERS),
        default="text",
        help="format of the log on standard error (default: %(default)s)",
    )
    add(
        "--drain-timeout",
        type=values.non_negative,
        default=5.0,
        metavar="SECONDS",
        help="time for peers to receive queued messages at the end; a second signal skips it"
        " (default: %(default)g)",
    )


def _add_invite_options(parser: argparse.ArgumentParser) -> None:
    roles = parser.add_mutually_exclusive_group()
    roles.add_argument(
        "--moderator",
        dest="role",
        action="store_const",
        const="moderator",
        default="",
        help="let the user kick, mute and ban others, and delete their messages",
    )
    roles.add_argument(
        "--bot",
        dest="role",
        action="store_const",
        const="bot",
        help="print the token for a program that sends messages by POST, instead of a link",
    )
    parser.add_argument(
        "--days",
        type=values.days,
        default=7.0,
        help="days for which the link is valid (default: %(default)g)",
    )
    parser.add_argument(
        "--room",
        action="append",
        type=values.room,
        default=[],
        help="room that the user may join; repeatable (default: all rooms)",
    )
    parser.add_argument(
        "--url",
        type=values.page,
        default="http://127.0.0.1:8765/",
        help="address of the chat's page (default: %(default)s)",
    )
