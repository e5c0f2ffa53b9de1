"""Types of the command line's values: each function checks a text and returns the value.

Each raises `argparse.ArgumentTypeError` with the reason if the text is invalid.
"""

from __future__ import annotations

import argparse
import math
import re
from urllib.parse import parse_qs, urlsplit

from chatd.access.origin import is_origin
from chatd.access.trusted_networks import TrustedNetwork, parse_network
from chatd.model import MAX_ID, InvalidName, is_room_name, normalize_name
from chatd.protocol import MAX_BAN

# A hundred years.
MAX_DAYS = 36500


def port(text: str) -> int:
    """Return a TCP port."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def count(text: str) -> int:
    """Return a number from 1 up."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return min(int(text), MAX_ID)


def limit(text: str) -> int:
    """Return a number from 0 up; 0 often stands for no limit."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return min(int(text), MAX_ID)


def non_negative(text: str) -> float:
    """Return a rate or a time, which may be 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return number


def seconds(text: str) -> float:
    """Return a time above 0."""
    number = non_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def days(text: str) -> float:
    """Return a time in days."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MAX_DAYS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of days above 0 and up to {MAX_DAYS}"
        )
    return number


def duration(text: str) -> int:
    """Return the seconds of a time such as "30m", "12h" or "7d"."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]] if match else 0
    if not 1 <= seconds <= MAX_BAN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time like 30m, 12h or 7d, up to {MAX_BAN // 86_400}d"
        )
    return seconds


def header(text: str) -> str:
    """Return the name of an HTTP header."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a header name like X-Remote-User")
    return text


def host(text: str) -> str:
    """Return the name of a host."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name like chat.example.org")
    return text


def origin(text: str) -> str:
    """Return the origin of a site or an app."""
    if text.lower() == "null":
        raise argparse.ArgumentTypeError(
            f"{text!r} is the origin of no site; any site can send it, so it cannot be allowed"
        )
    if not (is_origin(text) or is_origin(text.removesuffix("/"))):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an origin like https://example.org or tauri://localhost"
        )
    return text


def page(text: str) -> str:
    """Return the address of a page."""
    if not re.fullmatch(r"(?i:https?://[^/?#@\s]+)(?:/[^?#\s]*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a page like https://example.org/")
    return text


def name(text: str) -> str:
    """Return a normalized name of a user."""
    try:
        return normalize_name(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file(text: str) -> str:
    """Return the name of a file."""
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty")
    return text


def store(text: str) -> str:
    """Return the URL of a PostgreSQL database, which must not have a password."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the URL of a PostgreSQL like postgresql://chatd@db.example.org/chat"
        )
    parts = urlsplit(text)
    if ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query):
        raise argparse.ArgumentTypeError(
            "the URL has a password, which other users of this machine can see; use PGPASSWORD or"
            " a file in PGPASSFILE"
        )
    return text


def node(text: str) -> str:
    """Return the name of a server."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1 to 32 letters, digits, underscores or dashes"
        )
    return text


def room(text: str) -> str:
    """Return the name of a room."""
    if not is_room_name(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1 to 64 letters, digits, dots, underscores or dashes"
        )
    return text


def network(text: str) -> TrustedNetwork:
    """Return a network, or the Unix socket."""
    try:
        return parse_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write ADDRESS, ADDRESS/BITS or unix") from None
