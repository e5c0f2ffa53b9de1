"""Tests of redirects of the opening handshake, with real sockets."""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.net.test_client import arrives, read_request, refusal, scripted, url
from tests.net.tunnels import ConnectProxy, tunnels
from tests.support import PATIENCE, make_certificate, serving
from wsproto_min import (
    Acceptance,
    HandshakeError,
    Peer,
    Request,
    Response,
    Role,
    Server,
    accept,
    connect,
    reconnect,
)
from wsproto_min.net.redirects import next_url
from wsproto_min.net.url import parse_url

Respond = Callable[[Peer, Request], Response | Acceptance]


def to(location: str, status: int = 302) -> Response:
    return Response(status, [("Location", location)], b"moved\n")


def table(responses: dict[str, Response], requests: list[Request] | None = None) -> Respond:
    """Return an `on_request` that redirects the paths of the table and accepts the others."""

    def on_request(peer: Peer, request: Request) -> Response | Acceptance:
        if requests is not None:
            requests.append(request)
        return responses.get(request.path) or accept(request)

    return on_request


def echoed(address: str, **options: Any) -> str | bytes:
    with connect(address, **options) as client:
        client.send("Hello")
        return client.recv(PATIENCE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_connect_follows_redirect_with_each_status(status: int) -> None:
    requests: list[Request] = []
    respond = table({"/": to("/there?a=b", status)}, requests)
    with serving(on_request=respond) as running:
        assert echoed(url(running.address)) == "Hello"
    assert [request.target for request in requests] == ["/", "/there?a=b"]
    keys = {request.headers.get("Sec-WebSocket-Key") for request in requests}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/x", "ws://h.example:81/x"),
        ("x", "ws://h.example:81/a/x"),
        ("../x", "ws://h.example:81/x"),
        ("?q", "ws://h.example:81/a/b?q"),
        ("", "ws://h.example:81/a/b?old"),
        ("//other.example/x", "ws://other.example/x"),
        ("ws://other.example", "ws://other.example/"),
        ("wss://h.example/", "wss://h.example/"),
        ("http://other.example:82/x", "ws://other.example:82/x"),
        ("https://h.example/x", "wss://h.example/x"),
        ("/x#fragment", "ws://h.example:81/x"),
        ("/a b", "ws://h.example:81/a%20b"),
        ("/%20", "ws://h.example:81/%20"),
        # UTF-8 in a header is read as Latin-1.
        ("ws://bücher.example/ü".encode().decode("latin-1"), "ws://bücher.example/%C3%BC"),
    ],
)
def test_redirect_location_is_resolved(location: str, expected: str) -> None:
    url = parse_url("ws://h.example:81/a/b?old")
    assert next_url(url, to(location)) == parse_url(expected)


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("ws+unix:/run/secret.sock:/", "only ws, wss, http and https are possible"),
        ("file:///etc/passwd", "only ws, wss, http and https are possible"),
        ("ws://Ann:secret@h/", "has user information"),
        ("ws://a..b/", "not a valid name"),
        ("ws://[::1/", "Invalid IPv6 URL"),
        ("ws://h:x/", "[Pp]ort"),
    ],
)
def test_redirect_to_invalid_location_raises(location: str, problem: str) -> None:
    with serving(on_request=table({"/": to(location, 307)})) as running:
        error = refusal(url(running.address))
    assert error.status == 307
    assert re.match(rf"redirect 307 to {re.escape(repr(location))}: .*{problem}", error.reason)


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=255))
    | st.text(st.sampled_from("wshtp:/[]@?#%.\\-12xü"))
)
@example("//[")
@example("//\u2100/")
@example("ws://h:99999/")
@example("wss:h/x")
def test_redirect_any_location_is_a_url_or_an_error(location: str) -> None:
    old = parse_url("wss://h.example/a/b")
    with suppress(HandshakeError):
        new = next_url(old, to(location))
        assert new is not None
        assert new.scheme == "wss"
        assert parse_url(f"wss://{new.authority}{new.target}") == new


@pytest.mark.parametrize(
    "response",
    [
        Response(302, [], b"moved\n"),
        Response(302, [("Location", "/a"), ("Location", "/b")], b"moved\n"),
        Response(300, [("Location", "/a")], b"moved\n"),
        Response(304, [("Location", "/a")], b"moved\n"),
        Response(403, [("Location", "/a")], b"moved\n"),
    ],
)
def test_response_without_one_target_is_a_refusal(response: Response) -> None:
    with serving(on_request=table({"/": response})) as running:
        error = refusal(url(running.address))
    assert error.status == response.status
    assert error.reason == f"the server answered {response.status}: moved"


@pytest.mark.parametrize("location", ["/", "/a", "/b"])
def test_redirect_loop_ends_with_an_error(location: str) -> None:
    requests: list[Request] = []
    responses = {"/": to(location), "/a": to("/b"), "/b": to("/a", 308)}
    with serving(on_request=table(responses, requests)) as running:
        error = refusal(url(running.address))
    assert error.reason == "redirects: over 10 in a row; check the server for a loop"
    assert error.status in (302, 308)
    assert len(requests) == 11


@pytest.mark.parametrize(("limit", "followed"), [(3, True), (2, False), (0, False)])
def test_max_redirects_limits_their_number(limit: int, followed: bool) -> None:
    responses = {"/": to("/1"), "/1": to("/2"), "/2": to("/3")}
    with serving(on_request=table(responses)) as running:
        if followed:
            assert echoed(url(running.address), max_redirects=limit) == "Hello"
        else:
            error = refusal(url(running.address), max_redirects=limit)
            assert error.status == 302
            assert (error.reason == "the server answered 302: moved") is (limit == 0)


def test_redirect_keeps_options_and_traces_both_handshakes() -> None:
    requests: list[Request] = []
    heads: list[bytes] = []
    with serving(on_request=table({"/": to("/x")}, requests)) as running:
        connect(
            url(running.address),
            subprotocols=["chat"],
            origin="http://a.example",
            headers=[("Authorization", "Bearer x"), ("cookie", "a=b"), ("X", "y")],
            trace=lambda sender, data: heads.append(data) if sender is Role.SERVER else None,
        ).close()
    for request in requests:
        assert request.headers.get("Authorization") == "Bearer x"
        assert request.headers.get("Cookie") == "a=b"
        assert request.headers.get("Origin") == "http://a.example"
        assert request.headers.tokens("Sec-WebSocket-Protocol") == ["chat"]
    assert [head.split()[1] for head in heads[:2]] == [b"302", b"101"]


def test_redirect_to_another_origin_drops_credentials() -> None:
    requests: list[Request] = []
    back: dict[str, Response] = {}
    with (
        serving(on_request=table(back, requests)) as second,
        serving(on_request=table({"/": to(f"{url(second.address)}x")}, requests)) as first,
    ):
        back["/x"] = to(f"{url(first.address)}y")
        connect(
            url(first.address),
            headers=[("AUTHORIZATION", "Bearer x"), ("Cookie", "a=b"), ("X", "y")],
        ).close()
    assert [request.target for request in requests] == ["/", "/x", "/y"]
    assert [request.headers.get("X") for request in requests] == ["y"] * 3
    # The way back to the first origin does not bring the credentials back.
    for name, value in (("Authorization", "Bearer x"), ("Cookie", "a=b")):
        assert [request.headers.get(name) for request in requests] == [value, None, None]
    assert [request.headers.get("Host") for request in requests] == [
        f"127.0.0.1:{running.address[1]}" for running in (first, second, first)
    ]


def test_redirect_from_ws_to_wss_is_followed_and_back_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=certificate)
    requests: list[Request] = []
    down: dict[str, Response] = {}
    with serving(on_request=table(down, requests), ssl_context=context) as secure:
        location = f"https://localhost:{secure.address[1]}/x"
        with serving(on_request=table({"/": to(location, 301)})) as plain:
            headers = [("Cookie", "a=b")]
            assert echoed(url(plain.address), ssl_context=trust, headers=headers) == "Hello"
            assert requests[0].headers.get("Cookie") is None
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(url(plain.address))
            down["/x"] = to(url(plain.address), 308)
            error = refusal(f"wss://localhost:{secure.address[1]}/x", ssl_context=trust)
    assert error.status == 308
    assert error.reason.endswith(
        "leads from wss to ws; connect to the new URL if TLS is not needed"
    )


@pytest.mark.parametrize("location", ["/x", "ws://localhost/x", "http://localhost:80/x"])
def test_redirect_within_a_unix_socket_stays_there(location: str, tmp_path: Path) -> None:
    server = Server(on_message=Peer.send, on_request=table({"/": to(location)}))
    server.listen_unix(str(tmp_path / "socket"))
    with serving(server=server):
        assert echoed(f"ws+unix:{tmp_path}/socket") == "Hello"


@pytest.mark.parametrize("location", ["ws://h/x", "wss://localhost/x", "ws://localhost:81/x"])
def test_redirect_away_from_a_unix_socket_raises(location: str, tmp_path: Path) -> None:
    server = Server(on_message=Peer.send, on_request=table({"/": to(location)}))
    server.listen_unix(str(tmp_path / "socket"))
    with serving(server=server):
        error = refusal(f"ws+unix:{tmp_path}/socket")
    assert error.reason.endswith("leads away from the Unix socket; connect to the new URL")


def test_redirect_to_an_idn_host_asks_for_its_a_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def to_loopback(host: str, *arguments: Any, **options: Any) -> Any:
        looked_up.append(host)
        return resolve("127.0.0.1", *arguments, **options)

    responses: dict[str, Response] = {}
    with serving(on_request=table(responses, requests)) as running:
        monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
        port = running.address[1]
        location = f"ws://bücher.example:{port}/x".encode().decode("latin-1")
        responses["/"] = to(location)
        assert echoed(url(running.address)) == "Hello"
    assert looked_up == ["127.0.0.1", "xn--bcher-kva.example"]
    assert requests[1].headers.get("Host") == f"xn--bcher-kva.example:{port}"


def test_redirect_closes_the_first_socket_and_reads_no_body() -> None:
    def script(sock: socket.socket) -> None:
        read_request(sock)
        location = url(running.address).encode()
        sock.sendall(b"HTTP/1.1 302 X\r\nContent-Length: 9\r\nLocation: %b\r\n\r\n" % location)
        assert arrives(sock, PATIENCE)
        assert sock.recv(1) == b""

    with serving() as running, scripted(script) as address:
        assert echoed(address) == "Hello"


def test_open_timeout_includes_all_redirects() -> None:
    with serving(on_request=table({"/": to("/")})) as running:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(url(running.address), open_timeout=0.1, max_redirects=1_000_000)
        assert time.monotonic() - started < 2


def test_redirect_and_proxy_work_together_and_with_reconnect() -> None:
    with (
        serving(on_request=table({"/": to("ws://b.example/x")})) as running,
        tunnels(begin := ConnectProxy(running.address)) as (host, port),
    ):
        proxy = f"http://{host}:{port}"
        clients = reconnect("ws://a.example/", proxy=proxy, first_delay=0.001)
        for client in itertools.islice(clients, 2):
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
        targets = [request.target for request in begin.requests]
    assert targets == ["a.example:80", "b.example:80"] * 2


def test_reconnect_ends_at_a_redirect_loop() -> None:
    with (
        serving(on_request=table({"/": to("/")})) as running,
        pytest.raises(HandshakeError, match="over 10 in a row"),
    ):
        next(reconnect(url(running.address)))
