"""Tests of connections through HTTP proxies and SOCKS5 proxies, with real sockets."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.net.test_client import (
    Script,
    closed,
    drips,
    read_request,
    refusal,
    responds,
    scripted,
    upgrade,
    url,
)
from tests.net.tunnels import ConnectProxy, SocksProxy, tunnels
from tests.support import PATIENCE, Address, make_certificate, need_ipv6, serving
from wsproto_min import HandshakeError, Peer, Role, connect, reconnect
from wsproto_min.net.proxy import Proxy, find_proxy, open_tunnel, parse_proxy
from wsproto_min.net.socks import open_socks_tunnel
from wsproto_min.net.tcp import connect_tcp
from wsproto_min.net.url import parse_url

VARIABLES = ("ws_proxy", "wss_proxy", "http_proxy", "https_proxy", "socks_proxy", "all_proxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies."""
    for name in (*VARIABLES, "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def proxy_url(address: Address, scheme: str = "http", user: str = "") -> str:
    return f"{scheme}://{user}{address[0]}:{address[1]}"


# HTTP proxies


def test_connect_through_http_proxy_reaches_the_server() -> None:
    seen: list[tuple[Role, bytes]] = []
    with serving() as running, tunnels(begin := ConnectProxy()) as proxy:
        with connect(
            url(running.address),
            proxy=proxy_url(proxy),
            trace=lambda sender, data: seen.append((sender, data)),
        ) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
        (request,) = begin.requests
    target = f"{running.address[0]}:{running.address[1]}"
    assert (request.method, request.target) == ("CONNECT", target)
    assert request.headers.fields == (("host", target),)
    assert seen[0][1].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("user", "credentials"),
    [
        ("Aladdin:open sesame@", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),  # RFC 7617, section 2
        ("Aladdin:open%20sesame@", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ("test:123%C2%A3@", "dGVzdDoxMjPCow=="),  # RFC 7617, section 2.1
        ("name@", "bmFtZTo="),
        (":@", "Og=="),
    ],
)
def test_http_proxy_gets_credentials_the_server_none(user: str, credentials: str) -> None:
    headers: list[str] = []

    def on_open(peer: Peer) -> None:
        assert peer.request is not None
        headers.extend(name for name, _ in peer.request.headers.fields)

    with serving(on_open=on_open) as running, tunnels(begin := ConnectProxy()) as proxy:
        connect(url(running.address), proxy=proxy_url(proxy, user=user)).close()
        assert begin.requests[0].headers.get("Proxy-Authorization") == f"Basic {credentials}"
    assert "proxy-authorization" not in headers


def test_wss_through_proxy_has_tls_with_the_server_inside(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=certificate)
    with (
        serving(ssl_context=context) as running,
        tunnels(begin := ConnectProxy(running.address)) as proxy,
    ):
        address = f"wss://localhost:{running.address[1]}/"
        with connect(address, proxy=proxy_url(proxy), ssl_context=trust) as client:
            client.send("secret")
            assert client.recv(PATIENCE) == "secret"
        assert begin.requests[0].target == f"localhost:{running.address[1]}"
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.example'"):
            connect("wss://other.example/", proxy=proxy_url(proxy), ssl_context=trust)
        assert begin.requests[1].target == "other.example:443"


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("bücher.example", "xn--bcher-kva.example:80"),
        ("[::1]:8080", "[::1]:8080"),
        ("[fe80::1%25eth0]", "[fe80::1]:80"),
    ],
)
def test_http_proxy_resolves_the_name(host: str, target: str) -> None:
    with serving() as running, tunnels(begin := ConnectProxy(running.address)) as proxy:
        with connect(f"ws://{host}/", proxy=proxy_url(proxy)) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
        assert begin.requests[0].target == target


@pytest.mark.parametrize("status", ["HTTP/1.0 200 Connection established", "HTTP/1.1 204 OK"])
def test_http_proxy_any_2xx_opens_the_tunnel(status: str) -> None:
    with serving() as running, tunnels(ConnectProxy(answer=status)) as proxy:
        connect(url(running.address), proxy=proxy_url(proxy)).close()


@pytest.mark.parametrize(
    ("user", "answer", "status", "problem"),
    [
        ("", b"HTTP/1.1 407 No\r\n\r\n", 407, "answered 407; put USER:PASSWORD@ before the host"),
        ("Ann:secret@", b"HTTP/1.1 407 No\r\n\r\n", 407, "answered 407; check the user name"),
        ("Ann:secret@", b"HTTP/1.0 403 No\r\n\r\n", 403, "answered 403 to CONNECT a.example:80;"),
        ("", b"HTTP/1.1 503 No\r\n\r\nbody", 503, "answered 503 to CONNECT a.example:80;"),
        ("", b"HTTP/1.1 302 X\r\nLocation: /\r\n\r\n", 302, "answered 302 to CONNECT"),
        ("", b"HTTP/1.1 101 X\r\n\r\n", 101, "answered 101 to CONNECT"),
        ("", b"HTTP/1.1 200 OK\r\n\r\n<html>", 0, "sent data after its response to CONNECT"),
        ("", b"HTTP/1.1 200 OK\r\n<html>\r\n\r\n", 0, "the response to CONNECT is not HTTP"),
        ("", b"SSH-2.0-OpenSSH\r\n\r\n", 0, "the response to CONNECT is not HTTP"),
        ("", b"HTTP/2 200\r\n\r\n", 0, "the response to CONNECT is not HTTP"),
        ("", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20_000, 0, "the response to CONNECT is not HTTP"),
        ("Ann:secret@", b"HTTP/1.1 2", 0, "closed the connection without a response"),
        ("", b"", 0, "closed the connection without a response to CONNECT"),
    ],
)
def test_http_proxy_refusal_or_lie_raises_and_names_it(
    user: str, answer: bytes, status: int, problem: str
) -> None:
    with scripted(responds(answer)) as address:
        proxy = address.replace("ws://", f"http://{user}")
        error = refusal("ws://a.example/", proxy=proxy)
    shown = address.replace("ws://", "http://").rstrip("/")
    assert error.status == status
    assert error.reason.startswith(f"proxy {shown}: {problem}")
    assert "secret" not in str(error)


def test_http_proxy_garbage_within_the_tunnel_raises() -> None:
    def script(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        read_request(sock)
        sock.sendall(b"<html>\r\n\r\n")

    with scripted(script) as address:
        error = refusal("ws://a.example/", proxy=address.replace("ws", "http", 1))
    assert error.status == 0
    assert error.reason == "the server's response is not HTTP/1.1"


def silent(sock: socket.socket) -> None:
    assert sock.recv(1 << 16)
    assert sock.recv(1 << 16) == b""  # the client has closed


@pytest.mark.parametrize(
    ("scheme", "script"),
    [
        ("http", silent),
        ("http", drips(b"HTTP/1.1 200 OK\r\nA: ", b"x")),
        ("socks5h", silent),
    ],
)
def test_proxy_stalling_times_out_at_open_timeout(scheme: str, script: Script) -> None:
    with scripted(script) as address:
        proxy = address.replace("ws", scheme, 1)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=rf"^proxy {proxy.rstrip('/')}: timed out$"):
            connect("ws://a.example/", proxy=proxy, open_timeout=0.15)
        assert 0.15 <= time.monotonic() - started < 2


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_proxy_unreachable_raises_oserror_and_names_it(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but not listening
        shown = proxy_url(unused.getsockname(), scheme)
        with pytest.raises(ConnectionRefusedError, match=f"proxy {shown}: Connection refused"):
            connect("ws://a.example/", proxy=shown.replace("//", "//Ann:secret@"))


def test_proxy_name_without_address_raises_oserror() -> None:
    with pytest.raises(socket.gaierror, match=r"proxy http://proxy\.invalid:80: "):
        connect("ws://a.example/", proxy="proxy.invalid")


def test_connect_reaches_proxy_and_server_over_ipv6() -> None:
    need_ipv6()
    with serving(host="::1") as running, tunnels(ConnectProxy(running.address[:2])) as proxy:
        address = f"ws://[::1]:{running.address[1]}/"
        with connect(address, proxy=proxy_url(proxy)) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"


def test_failed_tunnel_closes_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def recording(host: str, port: int, deadline: float) -> socket.socket:
        opened.append(connect_tcp(host, port, deadline))
        return opened[-1]

    monkeypatch.setattr("wsproto_min.net.connector.connect_tcp", recording)
    with scripted(responds(b"HTTP/1.1 403 No\r\n\r\n")) as address:
        refusal("ws://a.example/", proxy=address.replace("ws", "http", 1))
    assert [sock.fileno() for sock in opened] == [-1]


# SOCKS5

SOCKS_TARGETS = [
    ("socks5h", "a.example", b"\x03\x09a.example"),
    ("socks5h", "bücher.example", b"\x03\x15xn--bcher-kva.example"),
    ("socks5h", "10.1.2.3", b"\x01\x0a\x01\x02\x03"),
    ("socks5h", "[fe80::1%25lo]", b"\x04\xfe\x80" + bytes(13) + b"\x01"),
    ("socks5", "10.1.2.3", b"\x01\x0a\x01\x02\x03"),
    ("socks5", "localhost", b"\x01\x7f\x00\x00\x01"),
]


@pytest.mark.parametrize(("scheme", "host", "encoded"), SOCKS_TARGETS)
def test_connect_through_socks_proxy_reaches_the_server(
    scheme: str, host: str, encoded: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def ipv4_only(host: str, port: int, *_: object, **options: object) -> list[object]:
        assert not host.endswith(".example"), "the proxy must resolve this name"
        return list(resolve(host, port, socket.AF_INET, socket.SOCK_STREAM))

    monkeypatch.setattr(socket, "getaddrinfo", ipv4_only)
    with serving() as running, tunnels(begin := SocksProxy(running.address)) as proxy:
        with connect(f"ws://{host}:258/", proxy=proxy_url(proxy, scheme)) as client:
            client.send("Hello")
            assert client.recv(PATIENCE) == "Hello"
        assert begin.received == [b"\x05\x01\x00", b"\x05\x01\x00" + encoded + b"\x01\x02"]


def test_socks_proxy_gets_user_name_and_password() -> None:
    with (
        serving() as running,
        tunnels(begin := SocksProxy(running.address, user="Ann", password="ü")) as proxy,
    ):
        address = proxy_url(proxy, "socks5h", "Ann:%C3%BC@")
        connect("ws://a.example/", proxy=address).close()
        assert begin.received[:2] == [b"\x05\x02\x00\x02", b"\x01\x03Ann\x02\xc3\xbc"]
        error = refusal("ws://a.example/", proxy=address.replace("Ann", "Eve"))
        assert error.status == 407
        assert "refused the user name or password" in error.reason
        error = refusal("ws://a.example/", proxy=address.replace("Ann:%C3%BC@", ""))
        assert error.status == 407
        assert "requires another authentication" in error.reason


@pytest.mark.parametrize(
    ("answers", "status", "problem"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], 0, "the response is not SOCKS5"),
        ([b"\x05\xff"], 407, "requires another authentication"),
        ([b"\x05"], 0, "closed the connection within the SOCKS5 handshake"),
        ([b""], 0, "closed the connection within the SOCKS5 handshake"),
        ([b"\x05\x00", b"\x05\x01\x00\x01"], 0, "no connection to a.example:80: general failure"),
        ([b"\x05\x00", b"\x05\x02\x00\x01"], 403, "no connection to a.example:80: the proxy's rul"),
        ([b"\x05\x00", b"\x05\x05\x00\x01"], 0, "a.example:80: connection refused"),
        ([b"\x05\x00", b"\x05\x77\x00\x01"], 0, "a.example:80: error 119"),
        ([b"\x05\x00", b"\x05\x00\x00\x03\x04abc"], 0, "closed the connection within the SOCKS5"),
    ],
)
def test_socks_proxy_refusal_or_lie_raises_and_names_it(
    answers: list[bytes], status: int, problem: str
) -> None:
    def script(sock: socket.socket) -> None:
        for answer in answers:
            assert sock.recv(1 << 10)
            sock.sendall(answer)

    with scripted(script) as address:
        proxy = address.replace("ws", "socks5h", 1).rstrip("/")
        error = refusal("ws://a.example/", proxy=proxy)
    assert (error.status, problem in error.reason) == (status, True), error.reason
    assert error.reason.startswith(f"proxy {proxy}: ")


@pytest.mark.parametrize("bound", [b"\x04" + bytes(18), b"\x03\x05proxy\x00\x00"])
def test_socks_reply_with_any_bound_address_is_skipped(bound: bytes) -> None:
    def begin(sock: socket.socket) -> Address:
        sock.recv(1 << 10)
        sock.sendall(b"\x05\x00")
        sock.recv(1 << 10)
        sock.sendall(b"\x05\x00\x00" + bound)
        return running.address

    with serving() as running, tunnels(begin) as proxy:
        connect("ws://a.example/", proxy=proxy_url(proxy, "socks5h")).close()


@given(
    st.sampled_from(["http", "socks5h"]),
    st.binary()
    | st.builds(lambda line: b"HTTP/1." + line + b"\r\n\r\n", st.binary(max_size=8))
    | st.builds(lambda rest: b"\x05\x00\x05" + rest, st.binary(max_size=12)),
)
def test_proxy_any_answer_opens_a_tunnel_or_raises(scheme: str, answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        tunnel = open_tunnel if scheme == "http" else open_socks_tunnel
        deadline = time.monotonic() + PATIENCE
        with suppress(HandshakeError):
            tunnel(ours, Proxy(scheme, "p", 1), parse_url("ws://a.example/"), deadline)
            assert answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2", b"\x05\x00\x05\x00"))


# Keepalive and reconnection


def test_keepalive_detects_a_proxy_that_stops_forwarding() -> None:
    def script(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        upgrade(sock)
        while sock.recv(1 << 16):  # the Ping gets no Pong
            pass

    with scripted(script) as address:
        proxy = address.replace("ws", "http", 1)
        client = connect("ws://a.example/", proxy=proxy, ping_interval=0.05, ping_timeout=0.05)
        assert closed(client) == (1006, "the server did not answer a Ping within ping_timeout")


def test_reconnect_goes_through_the_proxy_each_time() -> None:
    with serving() as running, tunnels(begin := ConnectProxy()) as proxy:
        clients = reconnect(url(running.address), proxy=proxy_url(proxy), first_delay=0.001)
        for client in itertools.islice(clients, 3):
            assert client.ping(PATIENCE) < PATIENCE
        assert len(begin.requests) == 3


@pytest.mark.parametrize("status", [403, 407])
def test_reconnect_ends_if_the_proxy_refuses_for_good(status: int) -> None:
    with tunnels(ConnectProxy(answer=f"HTTP/1.1 {status} No")) as proxy:
        with pytest.raises(HandshakeError) as raised:
            next(reconnect("ws://a.example/", proxy=proxy_url(proxy)))
        assert raised.value.status == status


# URLs of proxies


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://h", "proxy http://h:80"),
        ("HTTP://H:3128/", "proxy http://h:3128"),
        ("h:3128", "proxy http://h:3128"),
        ("Ann:secret@h", "proxy http://h:80"),
        ("socks5://Ann:s%40cret@h", "proxy socks5://h:1080"),
        ("socks5h://[::1]:9", "proxy socks5h://[::1]:9"),
        ("http://bücher.example", "proxy http://xn--bcher-kva.example:80"),
    ],
)
def test_proxy_url_is_parsed_and_shown_without_password(text: str, shown: str) -> None:
    proxy = parse_proxy(text)
    assert str(proxy) == shown
    assert "cret" not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "https://Ann:secret@h",
        "socks4://Ann:secret@h",
        "ftp://h",
        "http://h/path",
        "http://Ann:secret@h:port",
        "http://Ann:se/cret@h",
        "http://Ann:secret@[h",
        "http://A%3Ann:secret@h",
        "http://Ann:secret@a..b",
        "socks5://Ann:" + "secret" * 43 + "@h",
    ],
)
def test_proxy_url_invalid_raises_without_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(proxy|host) ") as raised:
        connect("ws://127.0.0.1/", proxy=text)
    assert "cret" not in str(raised.value)


def test_proxy_long_password_is_possible_for_http() -> None:
    assert parse_proxy("http://Ann:" + "x" * 1000 + "@h").password == "x" * 1000


def test_proxy_for_unix_socket_raises() -> None:
    with pytest.raises(ValueError, match="proxy: not possible for a Unix socket"):
        connect("ws+unix:/tmp/s", proxy="http://h")


# The environment


@pytest.mark.parametrize(
    ("target", "variables", "expected"),
    [
        ("ws://a.example/", {}, None),
        ("ws://a.example/", {"http_proxy": "http://p"}, "http://p:80"),
        ("ws://a.example/", {"HTTPS_PROXY": "http://p"}, "http://p:80"),
        ("ws://a.example/", {"http_proxy": "http://p", "https_proxy": "q:1"}, "http://q:1"),
        ("wss://a.example/", {"http_proxy": "http://p"}, None),
        ("wss://a.example/", {"http_proxy": "http://p", "https_proxy": "q:1"}, "http://q:1"),
        ("wss://a.example/", {"all_proxy": "socks5://p"}, "socks5://p:1080"),
        ("wss://a.example/", {"https_proxy": "q", "socks_proxy": "p:1"}, "socks5h://p:1"),
        ("wss://a.example/", {"socks_proxy": "http://p:1"}, "socks5h://p:1"),  # macOS
        ("wss://a.example/", {"socks_proxy": "socks5://p:1"}, "socks5://p:1"),
        ("wss://a.example/", {"wss_proxy": "p", "https_proxy": "q"}, "http://p:80"),
        ("ws://a.example/", {"wss_proxy": "p", "ws_proxy": ""}, None),
        ("ws://a.example/", {"http_proxy": "p", "no_proxy": "b.example,.example"}, None),
        ("ws://a.example:81/", {"http_proxy": "p", "no_proxy": "a.example:81"}, None),
        ("ws://a.example:82/", {"http_proxy": "p", "no_proxy": "a.example:81"}, "http://p:80"),
        ("ws://a.example/", {"http_proxy": "p", "no_proxy": "*"}, None),
        ("ws://[2001:db8::1]/", {"http_proxy": "p", "no_proxy": "2001:db8::1"}, None),
        ("ws://127.1.2.3/", {"http_proxy": "p"}, None),
        ("ws://[::1]/", {"http_proxy": "p"}, None),
        ("ws://localhost/", {"http_proxy": "p"}, None),
        ("ws://a.localhost/", {"http_proxy": "p"}, None),
        ("ws://10.0.0.1/", {"http_proxy": "p"}, "http://p:80"),
        ("ws+unix:/tmp/s", {"http_proxy": "p"}, None),
    ],
)
def test_proxy_of_the_environment(
    target: str,
    variables: dict[str, str],
    expected: str | None,
    environment: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    found = find_proxy(parse_url(target), True)
    assert found == (None if expected is None else parse_proxy(expected))
    assert find_proxy(parse_url(target), None) is None


def test_connect_uses_the_proxy_of_the_environment(environment: pytest.MonkeyPatch) -> None:
    with serving() as running, tunnels(begin := ConnectProxy(running.address)) as proxy:
        environment.setenv("http_proxy", proxy_url(proxy))
        connect("ws://a.example/").close()
        connect(url(running.address)).close()
        assert [request.target for request in begin.requests] == ["a.example:80"]
