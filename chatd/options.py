"""What can be said on the command line, judged before anything is started."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import NoReturn

from chatd.access.connection_limits import DEFAULT_MAX_PEERS, DEFAULT_MAX_PER_ADDRESS
from chatd.access.trusted_networks import TrustedNetwork, parse_network
from chatd.model import MAX_ID, InvalidName, is_room_name, normalize_name
from chatd.ops.log_handler import FORMATTERS
from chatd.storage.sqlite import MEMORY

# A hundred years, for what counts in days.
MAX_DAYS = 36500


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `command` is `serve` or what `other commands` lists.

    Ends the program with status 2 and one line if they make no sense.
    """
    parser = _Parser(prog="chatd", description="A chat for everybody who opens its page.")
    _add_serving(parser)
    commands = parser.add_subparsers(dest="command", title="other commands", metavar="COMMAND")
    invite = commands.add_parser("invite", help="print a link that lets somebody in")
    revoke = commands.add_parser("revoke", help="make somebody's invitations void")
    check = commands.add_parser("check", help="say whether a log is sound; exit status 1 if not")
    export = commands.add_parser("export", help="write the messages as JSON lines")
    _add_inviting(invite)
    export.add_argument("--room", type=_room, help="only those of this room (default: all)")
    for each in (invite, revoke):
        each.add_argument("name", type=_name, metavar="NAME", help="the name in the chat")
    for each in (parser, invite, revoke, check, export):
        each.add_argument(
            "--db",
            type=_file,
            metavar="FILE",
            # A default of the command would undo what stands before the command.
            default=None if each is parser else argparse.SUPPRESS,
            help="keep messages in this file, and the secret of invitations beside it;"
            " :memory: keeps no messages (default: chatd/chat.db in the user's state directory)",
        )
    options = parser.parse_args(arguments)
    if options.command in ("check", "export") and options.db == MEMORY:
        parser.error(f"{options.command} needs a file; what is in memory only its chatd knows")
    options.command = options.command or "serve"
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key needs --tls-cert")
    if options.tls_cert and options.unix is not None:
        parser.error("a Unix socket has no TLS; leave out --tls-cert or --unix")
    return options


def _add_serving(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0 lets in other machines (default: %(default)s)",
    )
    add(
        "--port",
        type=_port,
        default=8765,
        help="the port; 0 picks a free one (default: %(default)s)",
    )
    add("--unix", metavar="PATH", help="listen on a Unix socket instead")
    add("--tls-cert", metavar="FILE", help="serve https with this certificate")
    add("--tls-key", metavar="FILE", help="its key, if not in the same file")
    add("--keep-messages", type=_count, metavar="N", help="keep only the newest N of each room")
    add("--keep-days", type=_positive, metavar="DAYS", help="delete messages older than this")
    add("--invite-only", action="store_true", help="let in only those with an invitation")
    add(
        "--rate-limit",
        type=_rate,
        default=20.0,
        metavar="N",
        help="messages a second that one peer may send, twice as many at once;"
        " 0: any number (default: %(default)g)",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        type=_host,
        metavar="NAME",
        help="a name that this server goes by; repeatable",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        type=_site,
        metavar="URL",
        help="another site whose pages may connect, like https://example.org; repeatable",
    )
    add("--no-compression", action="store_true", help="refuse permessage-deflate")
    add(
        "--trusted-proxy",
        action="append",
        type=_proxy,
        default=[],
        metavar="ADDRESS[/BITS]|unix",
        help="trust the X-Forwarded-For of this proxy; repeatable",
    )
    add(
        "--max-peers",
        type=_cap,
        metavar="N",
        help="connections at the same time, those in their handshake included; 0: any number"
        f" (default: {DEFAULT_MAX_PEERS}, or as many as the process may have descriptors)",
    )
    add(
        "--max-per-address",
        type=_cap,
        metavar="N",
        help="connections from one address, or from one /64 of IPv6; 0: any number"
        f" (default: {DEFAULT_MAX_PER_ADDRESS}, and any number from this machine itself)",
    )
    add(
        "--metrics-from",
        action="append",
        type=_proxy,
        default=[],
        metavar="ADDRESS[/BITS]|unix",
        help="who else may read /metrics than programs of this machine; repeatable",
    )
    add(
        "--log-format",
        choices=tuple(FORMATTERS),
        default="text",
        help="how connections and troubles are noted on standard error (default: %(default)s)",
    )
    add(
        "--drain-timeout",
        type=_rate,
        default=5.0,
        metavar="SECONDS",
        help="how long peers have, when the server ends, to take what is queued for them;"
        " a second signal ends it at once (default: %(default)g)",
    )


def _add_inviting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days",
        type=_positive,
        default=7.0,
        help="how long the link is good for (default: %(default)g)",
    )
    parser.add_argument(
        "--room",
        action="append",
        type=_room,
        default=[],
        help="a room that it is good for; repeatable (default: all)",
    )
    parser.add_argument(
        "--url",
        type=_page,
        default="http://127.0.0.1:8765/",
        help="where the chat is reached (default: %(default)s)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return min(int(text), MAX_ID)


def _cap(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return min(int(text), MAX_ID)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return rate


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days, up to {MAX_DAYS}")
    return number


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name like chat.example.org")
    return text


def _site(text: str) -> str:
    if not re.fullmatch(r"(?i:https?://[^/?#@\s]+)/?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a site like https://example.org")
    return text


def _page(text: str) -> str:
    if not re.fullmatch(r"(?i:https?://[^/?#@\s]+)(?:/[^?#\s]*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a page like https://example.org/")
    return text


def _name(text: str) -> str:
    try:
        return normalize_name(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a file needs a name")
    return text


def _room(text: str) -> str:
    if not is_room_name(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1 to 64 letters, digits, dots, underscores or dashes"
        )
    return text


def _proxy(text: str) -> TrustedNetwork:
    try:
        return parse_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write ADDRESS, ADDRESS/BITS or unix") from None
