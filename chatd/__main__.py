"""The command line: `python -m chatd` serves the chat and its page."""

from __future__ import annotations

import argparse
import errno
import signal
import ssl
import sys
from collections.abc import Sequence
from typing import NoReturn

from chatd.app import Chat
from chatd.proxy import Proxy, parse_proxy


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _proxy(text: str) -> Proxy:
    try:
        return parse_proxy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write ADDRESS, ADDRESS/BITS or unix") from None


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="chatd",
        description="A chat for everybody who opens its page.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=8765,
        help="the port; 0 picks a free one (default: %(default)s)",
    )
    parser.add_argument("--unix", metavar="PATH", help="listen on a Unix socket instead")
    parser.add_argument("--tls-cert", metavar="FILE", help="serve https with this certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    parser.add_argument("--no-compression", action="store_true", help="do not agree to it")
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        type=_proxy,
        default=[],
        metavar="ADDRESS[/BITS]|unix",
        help="believe the X-Forwarded-For of who connects from there; repeatable",
    )
    options = parser.parse_args(arguments)
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key needs --tls-cert")
    if options.tls_cert and options.unix is not None:
        parser.error("a Unix socket has no TLS; leave out --tls-cert or --unix")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status, 2 if it cannot start."""
    options = _parse_arguments(arguments)
    chat = Chat(compression=not options.no_compression, trusted_proxies=options.trusted_proxy)
    context = None
    if options.tls_cert:
        try:
            context = _load_certificate(options.tls_cert, options.tls_key)
        except OSError as error:
            print(_explain_tls(error, options.tls_cert, options.tls_key), file=sys.stderr)
            return 2
    try:
        if options.unix is not None:
            chat.server.listen_unix(options.unix)
            ready = f"listening on the Unix socket {options.unix}"
        else:
            host, port = chat.server.listen(options.host, options.port, context)
            ready = f"open {_url('https' if context else 'http', host, port)}"
    except OSError as error:
        if options.unix is not None:
            print(_explain_unix(error, options.unix), file=sys.stderr)
        else:
            print(_explain(error, options.host, options.port), file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: chat.server.stop())
    print(f"chatd is ready: {ready} (Ctrl-C stops it)", flush=True)
    chat.server.run()
    return 0


def _load_certificate(certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def _explain_tls(error: OSError, certificate: str, key: str | None) -> str:
    """Return one line on why the certificate could not be loaded and what to do."""
    files = certificate if key is None else f"{certificate} with the key {key}"
    if isinstance(error, ssl.SSLError):  # its own words are OpenSSL's
        return (
            f"chatd: cannot use the certificate {files}: it is none in PEM format,"
            " or its key is missing or another's; see --tls-cert and --tls-key"
        )
    return f"chatd: cannot read the certificate {files}: {error.strerror}"


def _explain_unix(error: OSError, path: str) -> str:
    """Return one line on why listening on a Unix socket failed and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"chatd: {path} is taken, by another server or by a file that is no socket;"
            " stop or remove that, or choose another path with --unix"
        )
    reason = error.strerror or error  # "AF_UNIX path too long" has no number
    return f"chatd: cannot listen on {path}: {reason}; choose another path with --unix"


def _explain(error: OSError, host: str, port: int) -> str:
    """Return one line on why listening failed and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"chatd: port {port} on {host} is taken, perhaps by another chatd;"
            " stop that or choose another with --port (0 picks a free one)"
        )
    if error.errno == errno.EACCES:
        return f"chatd: port {port} needs more rights; choose one from 1024 up with --port"
    return f"chatd: cannot listen on {host}: {error.strerror}; choose an address with --host"


def _url(scheme: str, host: str, port: int) -> str:
    """Return the page's address; the wildcard addresses are reached as this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


if __name__ == "__main__":
    sys.exit(main())
