"""Endpoints for monitoring: `/healthz`, `/readyz` and `/metrics`.

Every client may read the health, which is one word. Metrics reveal more, such as the
number of people at night. A proxy on this machine must not publish them by accident. A
request that nginx forwards with a bare `proxy_pass` can equal the request of a local
program in every byte. So only the networks that the operator names may read the metrics,
and a loopback address is no exception. The requests of these networks must be direct: a
header that proxies add, HTTP/1.0 or a public Host header shows a proxy between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address

from chatd.access.origin import host_name
from chatd.access.trusted_networks import TrustedNetwork, is_trusted, parse_host, strip_port
from chatd.ops.metrics import CONTENT_TYPE, Metrics, Value, format_exposition
from chatd.page import check_method
from wsproto_min import HandshakeError, Request, Response, Server

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"
# Headers that proxies add; any of them marks a forwarded request.
_PROXY_HEADERS = (
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
)


def health_response(request: Request, *, draining: bool, store_is_available: bool) -> Response:
    """Return the response to a health check: 200, or 503.

    The response is 503 while the server drains, and while a file of the store is missing.
    """
    check_method(request)
    if draining:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"draining\n")
    if not store_is_available:
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"message store failed\n")
    return _response(HTTPStatus.OK, "text/plain", b"ok\n")


def ready_response(request: Request, *, draining: bool, problem: str | None) -> Response:
    """Return the response to a readiness check: 200, or 503 with the reason.

    A balancer sends new clients to another node while the response is 503.
    """
    check_method(request)
    if draining:
        problem = "draining"
    status = HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE
    return _response(status, "text/plain", f"{problem or 'ready'}\n".encode())


def check_metrics_reader(
    request: Request, address: str, networks: Sequence[TrustedNetwork]
) -> None:
    """Check that a client may read the metrics.

    Args:
        request: The request.
        address: Address of the client, as in `Peer.address`. An address without a port is
            the one that a trusted proxy has forwarded.
        networks: Networks that may read the metrics. `unix` stands for direct clients of
            the Unix socket.

    Raises:
        HandshakeError: 403 if the client may not read them, 405 for another method than
            GET and HEAD.
    """
    check_method(request)
    host = parse_host(address)
    if host is None or not is_trusted(host, networks):
        allowed = False
    elif isinstance(host, str) or host.is_loopback:
        allowed = not _is_forwarded(request) and _has_loopback_host(request)
    else:
        allowed = strip_port(address) == address or not _is_forwarded(request)
    if not allowed:
        raise HandshakeError(
            HTTPStatus.FORBIDDEN,
            "metrics: this client may not read them, or a proxy has forwarded its request; to"
            " allow a direct client, start chatd with --metrics-from and its address, for"
            " example 127.0.0.1, or unix for the Unix socket",
        )


def _is_forwarded(request: Request) -> bool:
    """Return True if a request shows signs of a proxy; nginx sends HTTP/1.0 by default."""
    return request.version == "HTTP/1.0" or any(map(request.headers.values, _PROXY_HEADERS))


def _has_loopback_host(request: Request) -> bool:
    name = host_name(request.headers.get("Host") or "")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def metrics_response(
    server: Server,
    metrics: Metrics,
    peers_by_mode: Mapping[str, int],
    rooms: int,
    store_log_size: int,
    shared: Mapping[tuple[str, ...], tuple[str, Value]],
) -> Response:
    """Return the response with all metrics.

    Args:
        server: The server of the chat.
        metrics: The counters of the chat.
        peers_by_mode: Number of open peers in the modes `chat` and `plain`.
        rooms: Number of rooms with a peer or a reserved name.
        store_log_size: Bytes in the write-ahead log of the message store.
        shared: Metrics of a shared store.
    """
    peers = server.peers
    values: dict[tuple[str, ...], tuple[str, Value]] = {
        ("chatd_connections",): (
            "Connections, including those in a handshake or being refused.",
            len(peers),
        ),
        ("chatd_peers", "mode"): (
            "Open WebSocket connections by mode.",
            {(mode,): number for mode, number in peers_by_mode.items()},
        ),
        ("chatd_rooms",): ("Rooms in use.", rooms),
        ("chatd_queue_bytes",): (
            "Bytes in the write buffers of all peers.",
            sum(peer.write_buffer_size for peer in peers),
        ),
        ("chatd_messages_received_total",): (
            "Messages given to the store.",
            metrics.messages_received,
        ),
        ("chatd_messages_delivered_total",): (
            "Messages delivered to peers, counted once for each receiver.",
            metrics.messages_delivered,
        ),
        ("chatd_received_bytes_total",): (
            "Bytes received from peers.",
            server.bytes_received,
        ),
        ("chatd_sent_bytes_total",): (
            "Bytes sent to peers, including bytes in write buffers.",
            server.bytes_sent,
        ),
        ("chatd_closes_total", "code", "by"): (
            "Open connections that ended, by close code and closing side.",
            metrics.closes,
        ),
        ("chatd_refused_total", "status", "reason"): (
            "Refused connections, by HTTP status and reason.",
            metrics.refusals,
        ),
        ("chatd_turn_seconds",): (
            "Duration of event loop iterations, without the time spent waiting.",
            metrics.iteration_seconds,
        ),
        ("chatd_log_failures_total",): (
            "Failed operations of the message store.",
            metrics.store_failures,
        ),
        ("chatd_log_commit_seconds",): (
            "Duration of appends to the message store, one for each iteration with messages.",
            metrics.append_seconds,
        ),
        ("chatd_store_wal_bytes",): (
            "Bytes in the write-ahead log of the message store.",
            store_log_size,
        ),
    }
    return _response(HTTPStatus.OK, CONTENT_TYPE, format_exposition({**values, **shared}))


def _response(status: HTTPStatus, content_type: str, body: bytes) -> Response:
    headers = [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Response(status, headers, body)
