"""The origin policy, the paths of the HTTP side and the page's content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from functools import partial

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
    """Return the status and reason of the refusal, 0 and an empty reason without one."""
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
def test_policy_allows_addresses_localhost_and_machine_name(host: str) -> None:
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
def test_policy_refuses_other_host_names_and_names_the_option(host: str) -> None:
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
def test_malformed_host_gets_400_and_is_not_echoed(host: str) -> None:
    for origin in (None, "http://localhost"):
        for upgrade in (True, False):
            assert refusal(host, origin, upgrade=upgrade) == (
                400,
                "header Host must be a name or an address, with an optional port",
            )


def test_allowed_host_matches_in_any_case_and_with_final_dot() -> None:
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
        ("localhost", "https://localhost"),  # behind a proxy that terminates TLS
        ("localhost:443", "https://localhost"),
        ("localhost", "https://localhost:443"),
        ("[::1]:8765", "http://[::1]:8765"),
        ("[2001:DB8::A]", "http://[2001:db8::a]"),
    ],
)
def test_page_of_this_server_may_connect(host: str, origin: str) -> None:
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
def test_page_of_another_site_gets_403_and_the_option(host: str, origin: str) -> None:
    status, reason = refusal(host, origin)
    assert status == 403
    assert f"--allow-origin {origin}" in reason
    assert refusal(host, origin, upgrade=False) == (0, ""), "the page itself has no origin limit"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", "http://evil.example/localhost"),
        ("localhost", "http://localhost@evil.example"),
        ("localhost", "http://evil.example#localhost"),
        ("localhost", ""),
        ("localhost", "localhost"),
        ("localhost", "//localhost"),
        ("localhost", "http://"),
        ("localhost", "tauri:localhost"),
        ("localhost", "file:///home/ann/page.html"),
        ("localhost", "\x80" * 16_000),
        ("localhost", "http://" + "x" * 16_000),
        ("localhost", "x" * 16_000 + "://localhost"),
    ],
)
def test_malformed_origin_gets_403_and_is_not_echoed(host: str, origin: str) -> None:
    assert refusal(host, origin) == (
        403,
        "header Origin must have the form SCHEME://HOST, with an optional port",
    )
    assert refusal(host, origin, upgrade=False) == (0, ""), "the page itself has no origin limit"


@pytest.mark.parametrize("origin", ["null", "NULL"])
def test_page_with_opaque_origin_gets_403_and_the_reason(origin: str) -> None:
    status, reason = refusal("localhost", origin)
    assert status == 403
    assert reason == (
        "header Origin: a page with an opaque origin, such as a local file, may not connect,"
        " because every site can send null; open the page at the address of this server"
    )
    assert refusal("localhost", origin, upgrade=False) == (0, "")


APPS = [
    "tauri://localhost",
    "capacitor://localhost",
    "ionic://localhost",
    "app://.",
    "app://bundle:8080",
    "chrome-extension://cjpalhdlnbpafiamejdnhcphjbkeiagm",
    "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
    "vscode-webview://0abc",
    "file://",
]


@pytest.mark.parametrize("origin", APPS)
def test_app_origin_is_refused_with_its_option_and_allowed(origin: str) -> None:
    for host in ("localhost", "localhost:8080", "chat.example"):
        status, reason = refusal(host, origin, hosts=("chat.example",))
        assert status == 403
        assert reason.endswith(f"--allow-origin {origin}")
        allows = partial(refusal, host, hosts=("chat.example",), origins=(origin,))
        assert allows(origin) == allows(origin.upper()) == (0, "")
        for other in {*APPS, "null", "https://localhost:1"} - {origin}:
            assert allows(other)[0] == 403


def test_allowed_origins_match_with_default_port_and_in_any_case() -> None:
    origins = ("https://example.org/", "HTTP://Other.example:8080", "http://third.example:80")
    for origin in (
        *("https://example.org", "https://EXAMPLE.org", "https://example.org:443"),
        *("http://other.example:8080", "http://third.example"),
    ):
        assert refusal("localhost", origin, origins=origins) == (0, "")
    for origin in ("http://example.org", "https://example.org:444", "https://x.example.org"):
        assert refusal("localhost", origin, origins=origins)[0] == 403
    assert refusal("localhost", "null", origins=("null",)) == (0, "")


@pytest.mark.parametrize(("method", "allowed"), [("GET", True), ("HEAD", True), ("POST", False)])
def test_page_of_another_site_may_only_read(method: str, allowed: bool) -> None:
    headers = Headers([("Host", "localhost"), ("Origin", "http://evil.example")])
    request = Request(method, "/", "1.1", headers)
    if allowed:
        OriginPolicy().check(request)
    else:
        with pytest.raises(HandshakeError, match=r"pages of 'http://evil\.example' may not"):
            OriginPolicy().check(request)


def test_request_with_no_or_two_host_headers_gets_400() -> None:
    status, reason = refusal(None, None)
    assert (status, reason) == (400, "header Host is missing")
    headers = Headers([("Host", "localhost"), ("Host", "evil.example")])
    with pytest.raises(HandshakeError, match="Host must not be repeated"):
        OriginPolicy().check(Request("GET", "/", "1.1", headers))


# The page.


@pytest.mark.parametrize("target", ["/", "/r/kitchen", "/?room=x"])
def test_page_is_served_for_every_room(target: str) -> None:
    with serve_chat() as chat:
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        response = exchange(chat.address, request.encode())
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.endswith(load_page().body)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("POST /", 405), ("DELETE /r/x", 405), ("GET /r/", 404), ("GET /r/a/b", 404), ("GET /x", 404)],
)
def test_other_paths_get_404_and_other_methods_405(request_line: str, status: int) -> None:
    with serve_chat() as chat:
        request = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        assert exchange(chat.address, request.encode()).startswith(f"HTTP/1.1 {status} ".encode())


def policy() -> dict[str, str]:
    """Return the page's Content-Security-Policy by directive."""
    headers = Headers(load_page().headers)
    directives = (headers.get("Content-Security-Policy") or "").split("; ")
    return {name: value for name, _, value in (each.partition(" ") for each in directives)}


@pytest.mark.parametrize("element", ["script", "style"])
def test_page_policy_has_hash_of_inline_element(element: str) -> None:
    html = (ROOT / "client.html").read_bytes()
    assert load_page().body == html
    # The browser does not run the service worker's part as a script of the page.
    html = re.sub(rb'<script type="text/plain".*?</script>', b"", html, flags=re.DOTALL)
    opened, closed = f"<{element}".encode(), f"</{element}>".encode()
    assert html.count(opened) == html.count(closed) == 1
    inside = html[html.index(opened + b">") + len(opened) + 1 : html.index(closed)]
    digest = base64.b64encode(hashlib.sha256(inside).digest()).decode()
    assert policy()[f"{element}-src"] == f"'sha256-{digest}'"


def test_page_has_no_inline_handlers_and_no_external_files() -> None:
    html = (ROOT / "client.html").read_text()
    assert not re.search(r"<[^>]+\s(on\w+|style)=", html), (
        "the policy has no hash for inline handlers"
    )
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html), (
        "the policy forbids loading files"
    )
