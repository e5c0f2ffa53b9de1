"""Checks of the options of the command `tap`, before it starts."""

from __future__ import annotations

import argparse
import io
import os
import ssl
import stat
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from wsproto_min.net.url import DEFAULT_PORTS, WebSocketURL, parse_url
from wsproto_min.tap.proxy import HOST
from wsproto_min.tap.recording import HEADER_SIZE, is_recording

_FORMS = "ws://HOST/PATH or wss://HOST/PATH"


class UsageError(Exception):
    """An option cannot be used; the message says why."""


def upstream_url(url: str) -> WebSocketURL:
    """Parse the URL of the server. Raises `UsageError`."""
    if url.partition(":")[0].lower() not in DEFAULT_PORTS:
        raise UsageError(f"URL: {url!r} is not {_FORMS}")
    try:
        if urlsplit(url).username is not None:
            raise UsageError(
                "URL: has a user name or password; remove both, because the tap passes on the"
                " client's own Authorization header"
            )
        parsed = parse_url(url)
    except ValueError as error:
        # `parse_url` also knows Unix sockets, which the tap does not.
        reason = str(error).replace("ws://HOST/PATH, wss://HOST/PATH or ws+unix:FILE:/PATH", _FORMS)
        raise UsageError(f"URL: {reason}") from None
    return parsed


def trust(options: argparse.Namespace) -> ssl.SSLContext:
    """Return the TLS configuration for the upstream. Raises `UsageError`."""
    if not options.url.lower().startswith("wss:"):
        for option, value in (("--ca", options.ca), ("--insecure", options.insecure)):
            if value:
                raise UsageError(f"{option}: needs a wss:// URL, because ws:// has no certificate")
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot use {options.ca}: {reason}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        print(
            "wsproto_min: warning: --insecure accepts any certificate,"
            " so another server can read and change everything",
            file=sys.stderr,
        )
    return context


def listening(listen: Callable[[int], int], port: int, option: str) -> int:
    """Call `listen` with a port, and return its result. Raises `UsageError`."""
    try:
        return listen(port)
    except OSError as error:
        # The text of the error may repeat the address, so take that of its number.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"cannot listen on {HOST}:{port}: {reason}; select another port with {option}"
        ) from None


def create(path: str) -> io.FileIO:
    """Open an empty file for a recording. Raises `UsageError`.

    An earlier recording is overwritten, any other file is not.
    """
    try:
        if os.path.exists(path) and stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                start = file.read(HEADER_SIZE)
            if start and not is_recording(start):
                raise UsageError(
                    f"--save: {path} exists and is not a recording of the tap;"
                    " use another name, or remove the file"
                )
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
