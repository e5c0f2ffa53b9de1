"""`/healthz` and `/metrics`: how the chat is, for the programs that watch it.

Anybody may ask for its health, which is one word. Metrics tell more, as how
many people are here at night, so they are for this machine: a proxy that passes
on everything it gets must not show them to the world. That a request is not
passed on is taken from three things together, as a proxy may be set up to leave
out one: it comes from a loopback address, addresses this machine by one, and
has no header that proxies add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address

from chatd.access.origin import host_name
from chatd.access.trusted_networks import TrustedNetwork, host_of, is_trusted
from chatd.ops.metrics import CONTENT_TYPE, Metrics, Value, exposition
from chatd.page import check_method
from wsproto_min import HandshakeError, Request, Response, Server

HEALTH = "/healthz"
METRICS = "/metrics"
# What proxies add, by any of which a request is known to be passed on.
_FORWARDING = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


def health(request: Request, *, draining: bool) -> Response:
    """Return 200, or 503 while the server is about to end."""
    check_method(request)
    if draining:
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"draining\n")
    return _answer(HTTPStatus.OK, "text/plain", b"ok\n")


def check_reader(request: Request, address: str, allowed: Sequence[TrustedNetwork]) -> None:
    """Raise `HandshakeError` 403 unless `address` may read the metrics.

    May do so: this machine, and whoever is in the networks `allowed`, where
    `unix` stands for programs that use the Unix socket themselves. They are
    read only: 405 as `check_method` has it.
    """
    check_method(request)
    host = host_of(address)
    if host is None:
        may = False
    elif isinstance(host, str):
        may = host in allowed and not _is_forwarded(request)
    elif host.is_loopback:
        told_apart = is_trusted(host, allowed) or _is_for_loopback(request)
        may = told_apart and not _is_forwarded(request)
    else:
        may = is_trusted(host, allowed)
    if not may:
        raise HandshakeError(
            HTTPStatus.FORBIDDEN,
            "metrics are for programs on this machine; if others should read them, start"
            " chatd with --metrics-from and their address, or unix for the Unix socket",
        )


def _is_forwarded(request: Request) -> bool:
    return any(request.headers.values(name) for name in _FORWARDING)


def _is_for_loopback(request: Request) -> bool:
    name = host_name(request.headers.get("Host") or "")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def metrics_page(
    server: Server, metrics: Metrics, modes: Mapping[str, int], rooms: int
) -> Response:
    """Return the metrics; `modes` are the numbers of open peers in each mode."""
    peers = server.peers
    families: dict[tuple[str, ...], tuple[str, Value]] = {
        ("chatd_connections",): (
            "Connections, those in a handshake or being refused included.",
            len(peers),
        ),
        ("chatd_peers", "mode"): (
            "Open WebSocket connections, in chat mode or in plain mode.",
            {(mode,): number for mode, number in modes.items()},
        ),
        ("chatd_rooms",): ("Rooms where somebody is or a seat is kept.", rooms),
        ("chatd_queue_bytes",): (
            "Bytes that wait for peers who read slowly.",
            sum(peer.write_buffer_size for peer in peers),
        ),
        ("chatd_messages_received_total",): ("Messages that peers have said.", metrics.received),
        ("chatd_messages_delivered_total",): (
            "Messages that peers were given, one for each peer.",
            metrics.delivered,
        ),
        ("chatd_received_bytes_total",): ("Bytes from peers.", server.bytes_received),
        ("chatd_sent_bytes_total",): (
            "Bytes for peers, those in queues included.",
            server.bytes_sent,
        ),
        ("chatd_closes_total", "code", "by"): (
            "Open connections that ended, by close code and who ended them.",
            metrics.closes,
        ),
        ("chatd_refused_total", "status", "reason"): (
            "Connections that were refused, by HTTP status and reason.",
            metrics.refused,
        ),
        ("chatd_turn_seconds",): (
            "How long turns of the loop take, without the time that they wait.",
            metrics.turns,
        ),
        ("chatd_log_failures_total",): (
            "What the log could not store, read or trim.",
            metrics.log_failures,
        ),
        ("chatd_log_commit_seconds",): (
            "How long the log takes to store what was said in a turn.",
            metrics.commits,
        ),
    }
    return _answer(HTTPStatus.OK, CONTENT_TYPE, exposition(families))


def _answer(status: HTTPStatus, content_type: str, body: bytes) -> Response:
    fields = [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Response(status, fields, body)
