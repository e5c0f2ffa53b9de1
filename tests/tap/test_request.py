"""Changes to the head of a request."""

from __future__ import annotations

import pytest

from wsproto_min.http_reader import parse_request
from wsproto_min.net.url import parse_url
from wsproto_min.tap.request import forwarded_head, names_this_machine


def forwarded(*lines: str, upstream: str = "ws://chat.example:8765/") -> list[str]:
    """Return the lines of the head for the upstream, without the first one."""
    head = "\r\n".join(["GET /x HTTP/1.1", *lines]).encode()
    sent = forwarded_head(head, parse_request(head), parse_url(upstream))
    first, *rest = sent.decode().split("\r\n")
    assert first == "GET /x HTTP/1.1"
    assert rest[-2:] == ["", ""]
    return rest[:-2]


@pytest.mark.parametrize(
    ("upstream", "host", "origin"),
    [
        ("ws://chat.example:8765/r", "chat.example:8765", "http://chat.example:8765"),
        ("ws://chat.example/", "chat.example", "http://chat.example"),
        ("wss://chat.example/", "chat.example", "https://chat.example"),
        ("ws://[::1]:9/", "[::1]:9", "http://[::1]:9"),
    ],
)
def test_own_host_and_origin_become_the_upstreams(upstream: str, host: str, origin: str) -> None:
    sent = forwarded(
        "HOST:localhost:8766", "origin: HTTP://LOCALHOST:8766", "upgrade: WebSocket",
        "Connection: keep-alive, Upgrade", upstream=upstream,
    )  # fmt: skip
    assert sent == [
        f"HOST: {host}",
        f"origin: {origin}",
        "upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
    ]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8766", "http://127.0.0.1:3000"),
        ("127.0.0.1:8766", "http://localhost:8766"),
        ("127.0.0.1:8766", "https://127.0.0.1:8766"),
        ("127.0.0.1:8766", "null"),
    ],
)
def test_origin_of_another_page_stays(host: str, origin: str) -> None:
    sent = forwarded(f"Host: {host}", f"Origin: {origin}", "Upgrade: websocket")
    assert sent[:2] == ["Host: chat.example:8765", f"Origin: {origin}"]


def test_host_of_another_site_stays_with_its_origin() -> None:
    lines = ["Host: evil.example:8766", "Origin: http://evil.example:8766", "Upgrade: websocket"]
    assert forwarded(*lines) == lines


@pytest.mark.parametrize("hosts", [[], ["Host: localhost", "Host: localhost"]])
def test_missing_or_repeated_host_stays(hosts: list[str]) -> None:
    lines = [*hosts, "Upgrade: websocket", "Origin: http://localhost"]
    assert forwarded(*lines) == lines


def test_plain_request_gets_connection_close() -> None:
    sent = forwarded("Host: h", "Connection: keep-alive", "X-Other:  kept ", "Upgrade: h2c")
    assert sent == ["Host: h", "X-Other:  kept ", "Upgrade: h2c", "Connection: close"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "10.0.0.1:80", "[::1]:8766", "[::1]"])
def test_names_of_this_machine(host: str) -> None:
    assert names_this_machine(host)


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example:80", "[x]", "::1"])
def test_names_of_other_machines(host: str) -> None:
    assert not names_this_machine(host)
