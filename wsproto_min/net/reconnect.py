"""Reconnection of a client: one connection after the other, with delays between attempts.

    for client in reconnect("ws://127.0.0.1:9001/"):
        with suppress(WebSocketError):
            for message in client:
                print(message)

RFC 6455, section 7.2.3, asks for delays that are random and grow, so that the clients of a
restarted server do not all return at once.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Generator
from http import HTTPStatus
from typing import Any, NoReturn

from wsproto_min.errors import HandshakeError
from wsproto_min.net.client import Client, connect

logger: logging.Logger = logging.getLogger("wsproto_min")

_TEMPORARY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def reconnect(
    url: str, *, first_delay: float = 0.1, max_delay: float = 30.0, **options: Any
) -> Generator[Client, None, NoReturn]:
    """Yield an open client; close it at the next step, and yield another one.

    A delay comes before each attempt except the first. It is random, and its upper limit
    doubles each time. A connection that lasted `max_delay` resets the limit. The logger
    `wsproto_min` gets the reason and the delay at level INFO.

    Args:
        url: As for `connect`.
        first_delay: Upper limit of the first delay, in seconds.
        max_delay: Upper limit of all delays, in seconds.
        options: Further arguments of `connect`.

    Raises:
        ValueError: The URL or an argument is invalid.
        HandshakeError: The server refuses the handshake with status 3xx or 4xx, except 408,
            425 and 429. Another attempt would fail as well.
        ssl.SSLCertVerificationError: The server's certificate is invalid.
    """
    attempts = 0  # since the last connection that lasted
    while True:
        try:
            client = connect(url, **options)
        except ssl.SSLCertVerificationError:
            raise
        except (OSError, HandshakeError) as error:
            if isinstance(error, HandshakeError) and _is_permanent(error.status):
                raise
            reason = str(error)
        else:
            opened_at = time.monotonic()
            try:
                yield client
            finally:
                client.close()
            if time.monotonic() - opened_at >= max_delay:
                attempts = 0
            reason = f"closed: {client.close_code} {client.close_reason}".rstrip()
        # The cap keeps the power of two within the range of float.
        delay = random.uniform(0, min(max_delay, first_delay * 2.0 ** min(attempts, 100)))
        attempts += 1
        logger.info("%s: %s; connecting again in %.1f s", url, reason, delay)
        time.sleep(delay)


def _is_permanent(status: int) -> bool:
    return 300 <= status < 500 and status not in _TEMPORARY
