"""Who may reach the chat through a browser, and what the page allows itself."""

from __future__ import annotations

import base64
import hashlib
import re
import socket

import pytest

from chatd.access.origin import OriginPolicy
from chatd.page import load_page
from tests.chat import serve_chat
from tests.support import ROOT, exchange
from wsproto_min import HandshakeError, Headers, Request

MACHINE = socket.gethostname()


def refusal(
    host: str | None,
    origin: str | None,
    *,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    upgrade: bool = True,
) -> tuple[int, str]:
    """Return the status and reason of a refusal, 0 if there is none."""
    fields = {"Host": host, "Origin": origin, "Upgrade": "websocket" if upgrade else None}
    headers = Headers([(name, value) for name, value in fields.items() if value is not None])
    try:
        OriginPolicy(hosts=hosts, origins=origins).check(Request("GET", "/", "1.1", headers))
    except HandshakeError as error:
        return error.status, error.reason
    return 0, ""


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8765",
        "LocalHost:8765",
        "localhost.",
        "localhost.:80",
        "127.0.0.1",
        "127.0.0.1:8765",
        "192.0.2.7:1",
        "[::1]",
        "[::1]:8765",
        "[2001:DB8::A]",
        MACHINE,
        f"{MACHINE.upper()}:8765",
    ],
)
def test_this_server_goes_by_addresses_localhost_and_the_name_of_the_machine(host: str) -> None:
    assert refusal(host, None) == (0, "")
    assert refusal(host, None, upgrade=False) == (0, "")
    assert refusal(host, f"http://{host}") == (0, "")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8765",
        "127.1",
        "2130706433",
        "0x7f000001",
        "notlocalhost",
        "x" * 253,
    ],
)
def test_a_name_that_dns_could_rebind_is_refused_with_the_option_that_allows_it(host: str) -> None:
    for origin in (None, f"http://{host}", "http://localhost"):
        for upgrade in (True, False):
            status, reason = refusal(host, origin, upgrade=upgrade)
            assert status == 403, f"{host} with {origin}"
            assert "--allow-host" in reason


@pytest.mark.parametrize(
    "host",
    [
        *("", ":8765", "localhost:x", "localhost:123456", "localhost@evil.example"),
        *("localhost evil.example", "[::1]evil.example", "[::1", "ÿþ", 'evil"x= y'),
        *("x" * 254, "\x80" * 16_000, "[" + "1" * 16_000 + "]"),
    ],
)
def test_what_is_no_host_is_refused_and_not_repeated(host: str) -> None:
    for origin in (None, "http://localhost"):
        for upgrade in (True, False):
            assert refusal(host, origin, upgrade=upgrade) == (
                400,
                "header Host is not a name or an address, with its port",
            )


def test_names_can_be_allowed_in_any_case_and_with_or_without_a_dot() -> None:
    for host in ("chat.example", "Chat.Example:443", "chat.example.", "chat.example.:8765"):
        assert refusal(host, f"https://{host}", hosts=("CHAT.example.",)) == (0, "")
    assert refusal("x.chat.example", None, hosts=("chat.example",))[0] == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8765", "http://localhost:8765"),
        ("localhost:8765", "HTTP://LOCALHOST:8765"),
        ("LOCALHOST:8765", "http://localhost:8765"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "http://localhost:80"),
        ("localhost", "https://localhost"),  # behind a proxy that ends TLS
        ("localhost:443", "https://localhost"),
        ("localhost", "https://localhost:443"),
        ("[::1]:8765", "http://[::1]:8765"),
        ("[2001:DB8::A]", "http://[2001:db8::a]"),
    ],
)
def test_a_page_of_this_server_may_connect(host: str, origin: str) -> None:
    assert refusal(host, origin) == (0, "")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8765", "http://localhost"),
        ("localhost:8765", "http://localhost:8766"),
        ("localhost:8765", "http://127.0.0.1:8765"),
        ("127.0.0.1:8765", "http://localhost:8765"),
        ("localhost", "http://localhost:443"),
        ("localhost", "https://localhost:80"),
        ("localhost", "http://evil.example"),
        ("localhost", "http://localhost.evil.example"),
        ("[::1]:8765", "http://[::2]:8765"),
        ("localhost", "http://localhost:port"),
        ("localhost", "http://[::1"),
    ],
)
def test_any_other_page_is_refused_with_the_option_that_allows_it(host: str, origin: str) -> None:
    status, reason = refusal(host, origin)
    assert status == 403
    assert f"--allow-origin {origin}" in reason
    assert refusal(host, origin, upgrade=False) == (0, ""), "the page itself is for everybody"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", "http://evil.example/localhost"),
        ("localhost", "http://localhost@evil.example"),
        ("localhost", "http://evil.example#localhost"),
        ("localhost", "null"),
        ("localhost", "NULL"),
        ("localhost", ""),
        ("localhost", "localhost"),
        ("localhost", "//localhost"),
        ("localhost", "file://"),
        ("localhost", "file://localhost"),
        ("localhost", "chrome-extension://localhost"),
        ("localhost", "http://"),
        ("localhost", "\x80" * 16_000),
        ("localhost", "http://" + "x" * 16_000),
    ],
)
def test_a_page_of_no_site_is_refused_and_what_it_calls_itself_not_repeated(
    host: str, origin: str
) -> None:
    status, reason = refusal(host, origin)
    assert status == 403
    assert reason.startswith("pages that are no site's, such as files on a disk, may not connect")
    assert len(reason) < 200
    assert refusal(host, origin, upgrade=False) == (0, ""), "the page itself is for everybody"


def test_further_origins_can_be_allowed_and_only_these() -> None:
    origins = ("https://example.org/", "HTTP://Other.example:8080", "http://third.example:80")
    for origin in (
        *("https://example.org", "https://EXAMPLE.org", "https://example.org:443"),
        *("http://other.example:8080", "http://third.example"),
    ):
        assert refusal("localhost", origin, origins=origins) == (0, "")
    for origin in ("http://example.org", "https://example.org:444", "https://x.example.org"):
        assert refusal("localhost", origin, origins=origins)[0] == 403
    assert refusal("localhost", "null", origins=("null",)) == (0, "")


def test_a_request_without_host_or_with_two_is_refused() -> None:
    status, reason = refusal(None, None)
    assert (status, reason) == (400, "header Host is missing")
    headers = Headers([("Host", "localhost"), ("Host", "evil.example")])
    with pytest.raises(HandshakeError, match="Host must not be repeated"):
        OriginPolicy().check(Request("GET", "/", "1.1", headers))


# The page.


@pytest.mark.parametrize("target", ["/", "/r/kitchen", "/?room=x"])
def test_the_page_is_at_every_room(target: str) -> None:
    with serve_chat() as chat:
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = exchange(chat.address, request.encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(load_page().body)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("POST /", 405), ("DELETE /r/x", 405), ("GET /r/", 404), ("GET /r/a/b", 404), ("GET /x", 404)],
)
def test_nothing_else_is_there(request_line: str, status: int) -> None:
    with serve_chat() as chat:
        request = f"{request_line} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert exchange(chat.address, request.encode()).startswith(f"HTTP/1.1 {status} ".encode())


def policy() -> dict[str, str]:
    """Return the page's Content-Security-Policy by directive."""
    headers = Headers(load_page().headers)
    directives = (headers.get("Content-Security-Policy") or "").split("; ")
    return {name: value for name, _, value in (each.partition(" ") for each in directives)}


@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_has_the_hash_of_the_very_bytes_between_the_tags(element: str) -> None:
    html = (ROOT / "client.html").read_bytes()
    assert load_page().body == html
    opened, closed = f"<{element}".encode(), f"</{element}>".encode()
    assert html.count(opened) == html.count(closed) == 1
    inside = html[html.index(opened + b">") + len(opened) + 1 : html.index(closed)]
    digest = base64.b64encode(hashlib.sha256(inside).digest()).decode()
    assert policy()[f"{element}-src"] == f"'sha256-{digest}'"


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    html = (ROOT / "client.html").read_text()
    assert not re.search(r"<[^>]+\s(on\w+|style)=", html), "inline handlers have no hash"
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html), "it loads nothing"
