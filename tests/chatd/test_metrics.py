"""The endpoints `/healthz` and `/metrics`: format, values and access."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.access.invitations import Invitations
from chatd.access.trusted_networks import parse_network
from chatd.app import Chat
from chatd.ops.access_log import describe_close
from chatd.ops.endpoints import check_metrics_reader
from chatd.ops.metrics import BUCKET_BOUNDS, Histogram, Metrics, format_exposition
from tests.chat import ChatClient, open_store, serve_chat
from tests.chatd.test_app import FailingStore
from tests.support import Address, Client, connect, exchange, poll, reset, serving
from wsproto_min import Close, CloseCode, Connection, HandshakeError, Opcode, Request, Role
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.http import Headers

# A sample line: name, labels, value.
SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? (\S+)'
)


def get(address: Address, path: str, host: str = "localhost") -> tuple[str, str]:
    """Return the head and the body of the response for a path."""
    response = exchange(address, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = response.decode().partition("\r\n\r\n")
    return head, body


def parse(text: str) -> dict[str, float]:
    """Parse an exposition strictly by the description of its format."""
    samples: dict[str, float] = {}
    announced: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in announced, "a metric has two TYPE lines"
            announced[name] = kind
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        family = list(announced)[-1]
        if announced[family] == "histogram":
            assert re.fullmatch(rf"{family}_(bucket|sum|count)", found[1]), line
        else:
            assert found[1] == family, line
            assert (announced[family] == "counter") == family.endswith("_total"), line
        key = found[1] + (found[2] or "")
        assert key not in samples, line
        samples[key] = float(found[3])
    return samples


def scrape(address: Address) -> dict[str, float]:
    head, body = get(address, "/metrics")
    assert head.startswith("HTTP/1.1 200 OK\r\n"), head
    assert "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    return parse(body)


# Format.


@given(st.lists(st.floats(min_value=0, max_value=10)))
def test_histogram_buckets_are_cumulative(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    samples = parse(format_exposition({("x",): ("Help.", histogram)}).decode())
    for bound in BUCKET_BOUNDS:
        assert samples[f'x_bucket{{le="{bound}"}}'] == sum(each <= bound for each in times)
    assert samples['x_bucket{le="+Inf"}'] == samples["x_count"] == len(times)
    assert samples["x_sum"] == pytest.approx(sum(times))


def test_describe_close_with_a_reasoned_reply_names_the_server() -> None:
    connection = Connection(Role.SERVER)
    assert describe_close(connection)[0] == "lost"
    connection.close(1000)
    reply = encode_close(1000, "the client's reason")
    connection.receive_data(encode_frame(Opcode.CLOSE, reply, mask=bytes(4)))
    assert connection.next_event() == Close(1000, "the client's reason")
    assert describe_close(connection) == ("server", Close(1000))


def test_describe_close_with_the_peers_first_close_names_it() -> None:
    connection = Connection(Role.SERVER)
    close = encode_frame(Opcode.CLOSE, encode_close(1000, "bye"), mask=bytes(4))
    connection.receive_data(close)
    assert connection.next_event() == Close(1000, "bye")
    assert describe_close(connection) == ("peer", Close(1000, "bye"))


def test_unregistered_close_codes_of_peers_share_one_label() -> None:
    metrics = Metrics()
    for code in range(3000, 5000):
        metrics.count_close(code, "peer")
    metrics.count_close(1000, "peer")
    metrics.count_close(4001, "server")
    metrics.count_close(CloseCode.ABNORMAL_CLOSURE, "lost")
    assert metrics.closes == {
        ("other", "peer"): 2000,
        ("1000", "peer"): 1,
        ("4001", "server"): 1,
        ("1006", "lost"): 1,
    }


# Values.


@pytest.mark.parametrize("request_line", ["GET /healthz HTTP/1.1", "GET /healthz?x HTTP/1.0"])
def test_health_is_ok_for_any_host_and_forwarded_requests(request_line: str) -> None:
    with serve_chat() as chat:
        response = exchange(chat.address, f"{request_line}\r\nX-Forwarded-For: ?\r\n\r\n".encode())
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.endswith(b"\r\n\r\nok\n")


def test_absolute_target_is_answered_as_its_host_and_path() -> None:
    with serve_chat() as chat:
        host = f"127.0.0.1:{chat.address[1]}"
        for target, header, status in (
            (f"http://{host}/healthz", host, 200),
            (f"HTTP://{host}/r/tea?x", "evil.example", 200),  # the header Host is ignored
            ("http://evil.example/r/tea", host, 403),
        ):
            request = f"GET {target} HTTP/1.1\r\nHost: {header}\r\n\r\n"
            response = exchange(chat.address, request.encode())
            assert response.startswith(f"HTTP/1.1 {status} ".encode()), (target, response[:300])


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_endpoints_refuse_post(path: str) -> None:
    with serve_chat() as chat:
        request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        assert exchange(chat.address, request.encode()).startswith(b"HTTP/1.1 405 ")


def test_messages_count_once_received_and_once_per_receiver() -> None:
    with (
        serve_chat() as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        Client(chat.address, "/r/tea") as plain,
        Client(chat.address, "/r/tea"),
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        ann.say("tea", "one", key="a")  # delivered to Ann, Ben and both plain peers
        ann.say("tea", "one", key="a")  # a repeated key, acknowledged to Ann only
        plain.send("two")  # delivered to the three other peers
        assert [message["text"] for message in ben.messages()] == ["one", "two"]
        samples = scrape(chat.address)
    assert samples["chatd_messages_received_total"] == 3
    assert samples["chatd_messages_delivered_total"] == 4 + 3
    assert samples['chatd_peers{mode="chat"}'] == samples['chatd_peers{mode="plain"}'] == 2
    assert samples["chatd_connections"] == 5
    assert samples["chatd_rooms"] == 1
    assert samples["chatd_log_commit_seconds_count"] == 3
    assert samples["chatd_turn_seconds_count"] > 3
    assert samples["chatd_received_bytes_total"] > 4 * 150
    assert samples["chatd_sent_bytes_total"] > 4 * 100


def test_store_failures_count_and_are_not_commits() -> None:
    store = FailingStore()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("tea", "Ann")
        ann.say("tea", "one", key="a")
        store.fails = True
        assert ann.error_for(type="say", room="tea", text="two", key="b")["code"] == "log_failed"
        assert ben.error_for(type="join", room="tea", name="Ben")["code"] == "log_failed"
        samples = scrape(chat.address)
    assert samples["chatd_log_failures_total"] == 2
    assert samples["chatd_log_commit_seconds_count"] == 1


def test_join_without_invitation_counts_as_refused(tmp_path: Path) -> None:
    with serve_chat(invitations=Invitations(tmp_path)) as chat, ChatClient(chat.address) as ann:
        for _ in range(2):
            assert ann.error_for(type="join", room="tea", name="Ann")["code"] == "unauthorized"
        samples = scrape(chat.address)
    assert samples['chatd_refused_total{status="none",reason="unauthorized"}'] == 2


def test_closes_count_by_code_and_closing_side() -> None:
    with serve_chat() as chat:
        with Client(chat.address) as leaver:
            leaver.close(4321)
            leaver.receive_all()
        with Client(chat.address) as wrong:
            wrong.send(b"binary")
            wrong.receive_all()
        reset(Client(chat.address).sock)
        chat.wait_for_peers(0)
        samples = scrape(chat.address)
    assert samples['chatd_closes_total{code="other",by="peer"}'] == 1
    assert samples['chatd_closes_total{code="1003",by="server"}'] == 1
    assert samples['chatd_closes_total{code="1006",by="lost"}'] == 1
    assert sum(value for key, value in samples.items() if key.startswith("chatd_closes")) == 3


def test_refusals_count_by_status_and_reason() -> None:
    with serve_chat(max_per_address=3) as chat:
        get(chat.address, "/nowhere")
        get(chat.address, "/", "evil.example")
        with Client(chat.address), Client(chat.address), Client(chat.address):
            get(chat.address, "/")
        chat.wait_for_peers(0)
        connect(chat.address).close()
        poll(
            lambda: 'reason="no_request"' in get(chat.address, "/metrics")[1],
            "the silent connection is counted",
        )
        samples = scrape(chat.address)
    found = {key: value for key, value in samples.items() if key.startswith("chatd_refused")}
    assert found == {
        'chatd_refused_total{status="404",reason="not_found"}': 1,
        'chatd_refused_total{status="403",reason="forbidden"}': 1,
        'chatd_refused_total{status="503",reason="max_per_address"}': 1,
        'chatd_refused_total{status="none",reason="no_request"}': 1,
    }


def test_queue_bytes_include_write_buffers_of_slow_readers() -> None:
    with serve_chat() as chat, Client(chat.address, receive_buffer=4096) as slow:
        with Client(chat.address) as speaker:
            while not scrape(chat.address)["chatd_queue_bytes"]:
                for _ in range(200):
                    speaker.send("x" * 4000)
        assert isinstance(slow.receive(), str)


# Access.


LOCAL = ["Host: localhost"]


@pytest.mark.parametrize(
    ("address", "headers", "networks", "allowed"),
    [
        # No network is allowed by default, and loopback is no exception.
        ("127.0.0.1:5", LOCAL, [], False),
        ("[::1]:5", ["Host: [::1]:8765"], [], False),
        ("198.51.100.1:5", LOCAL, [], False),
        ("unix", LOCAL, [], False),
        # This machine, directly.
        ("127.0.0.1:5", LOCAL, ["127.0.0.1"], True),
        ("127.0.0.1:5", ["Host: 127.0.0.1:8765"], ["127.0.0.0/8"], True),
        ("[::1]:5", ["Host: [::1]:8765"], ["::1"], True),
        ("[::ffff:127.0.0.1]:5", LOCAL, ["127.0.0.1"], True),
        ("unix", LOCAL, ["unix"], True),
        ("127.0.0.1:5", LOCAL, ["198.51.100.0/24", "unix", "::1"], False),
        ("unix", LOCAL, ["127.0.0.1"], False),
        # This machine, through a proxy.
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["127.0.0.1"], False),
        ("127.0.0.1:5", [*LOCAL, "Forwarded: for=198.51.100.1"], ["127.0.0.1"], False),
        ("127.0.0.1:5", [*LOCAL, "Via: 1.1 a"], ["127.0.0.1"], False),
        ("127.0.0.1:5", [*LOCAL, "X-Real-IP: 198.51.100.1"], ["127.0.0.1"], False),
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-Host: a.example"], ["127.0.0.1"], False),
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-Proto: https"], ["127.0.0.1"], False),
        ("127.0.0.1:5", ["Host: chat.example"], ["127.0.0.1"], False),
        ("127.0.0.1:5", ["Host: 192.0.2.1"], ["127.0.0.1"], False),
        ("127.0.0.1:5", ["Host:"], ["127.0.0.1"], False),
        ("127.0.0.1", [*LOCAL, "X-Forwarded-For: 127.0.0.1"], ["127.0.0.1"], False),
        ("unix", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["unix"], False),
        ("unix", ["Host: chat.example"], ["unix"], False),
        # Other machines, directly, through a trusted proxy and through an unknown one.
        ("198.51.100.1:5", ["Host: chat.example"], ["198.51.100.0/24"], True),
        ("198.51.100.1", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["198.51.100.1"], True),
        ("[2001:db8::1]", [*LOCAL, "X-Forwarded-For: 2001:db8::1"], ["2001:db8::1"], True),
        ("198.51.100.1:5", [*LOCAL, "X-Forwarded-For: 192.0.2.1"], ["198.51.100.1"], False),
        ("[2001:db8::1]:5", [*LOCAL, "Via: 1.1 a"], ["2001:db8::1"], False),
        ("203.0.113.1:5", LOCAL, ["198.51.100.0/24"], False),
        ("nowhere", LOCAL, ["unix"], False),
    ],
)
def test_metrics_allow_direct_clients_of_allowed_networks(
    address: str, headers: Sequence[str], networks: Sequence[str], allowed: bool
) -> None:
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    request = Request("GET", "/metrics", "HTTP/1.1", Headers(fields))
    readers = [parse_network(text) for text in networks]
    if allowed:
        check_metrics_reader(request, address, readers)
    else:
        with pytest.raises(HandshakeError, match="--metrics-from") as caught:
            check_metrics_reader(request, address, readers)
        assert caught.value.status == 403


def test_metrics_refuse_http_1_0_which_nginx_sends() -> None:
    request = Request("GET", "/metrics", "HTTP/1.0", Headers([("Host", "localhost")]))
    with pytest.raises(HandshakeError, match="a proxy has forwarded its request"):
        check_metrics_reader(request, "127.0.0.1:5", [parse_network("127.0.0.1")])


def test_metrics_refuse_clients_of_proxies_and_foreign_hosts() -> None:
    proxies = [parse_network("127.0.0.1")]
    with serve_chat(trusted_proxies=proxies) as chat:
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        assert exchange(chat.address, request).startswith(b"HTTP/1.1 403 ")
        head, body = get(chat.address, "/metrics", "rebound.example")
        assert head.startswith("HTTP/1.1 403 ")
        assert "--allow-host" in body
        assert scrape(chat.address)


def test_metrics_on_unix_socket_need_the_network_unix(tmp_path: Path) -> None:
    for readers, status in (([], b"403"), ([parse_network("unix")], b"200")):
        store = open_store()
        chat = Chat(store, metrics_readers=readers)
        path = tmp_path / "socket"
        chat.server.listen_unix(str(path))
        with serving(server=chat.server), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 " + status
        store.close()
