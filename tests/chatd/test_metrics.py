"""`/healthz` and `/metrics`: what they say, in which form, and to whom."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.access.invitations import Invitations
from chatd.access.trusted_networks import parse_proxy
from chatd.app import Chat
from chatd.ops.endpoints import check_reader
from chatd.ops.metrics import BOUNDS, Histogram, Metrics, exposition
from tests.chat import ChatClient, open_store, serve_chat
from tests.chatd.test_app import FailingStore
from tests.support import Address, Client, connect, exchange, poll, reset, serving
from wsproto_min import CloseCode, HandshakeError, Request
from wsproto_min.http import Headers

# A line of the format: name, labels, value (a float as Go and Python have it).
SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? (\S+)'
)


def get(address: Address, path: str, host: str = "localhost") -> tuple[str, str]:
    """Return the head and the body that a path is answered with."""
    answer = exchange(address, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


def parse(text: str) -> dict[str, float]:
    """Read an exposition as strictly as its description has it."""
    samples: dict[str, float] = {}
    announced: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in announced, "a family is told in two places"
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


# The form.


@given(st.lists(st.floats(min_value=0, max_value=10)))
def test_a_histogram_counts_each_duration_in_all_buckets_that_hold_it(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    samples = parse(exposition({("x",): ("Help.", histogram)}).decode())
    for bound in BOUNDS:
        assert samples[f'x_bucket{{le="{bound}"}}'] == sum(each <= bound for each in times)
    assert samples['x_bucket{le="+Inf"}'] == samples["x_count"] == len(times)
    assert samples["x_sum"] == pytest.approx(sum(times))


def test_whatever_codes_peers_close_with_there_are_few_time_series() -> None:
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


# What they say.


@pytest.mark.parametrize("request_line", ["GET /healthz HTTP/1.1", "GET /healthz?x HTTP/1.0"])
def test_a_chat_that_serves_is_healthy_whatever_host_the_watcher_names(request_line: str) -> None:
    with serve_chat() as chat:
        answer = exchange(chat.address, f"{request_line}\r\nX-Forwarded-For: ?\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_they_are_read_only(path: str) -> None:
    with serve_chat() as chat:
        request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert exchange(chat.address, request.encode()).startswith(b"HTTP/1.1 405 ")


def test_messages_are_counted_as_they_come_and_once_for_each_who_gets_them() -> None:
    with (
        serve_chat() as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        Client(chat.address, "/r/tea") as plain,
        Client(chat.address, "/r/tea"),
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        ann.say("tea", "one", key="a")  # to Ann, Ben and the two in plain mode
        ann.say("tea", "one", key="a")  # again: to nobody but Ann
        plain.send("two")  # to all others
        assert [told["text"] for told in ben.messages()] == ["one", "two"]
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


def test_what_the_log_fails_at_is_counted_and_is_no_commit() -> None:
    log = FailingStore()
    with serve_chat(log) as chat, ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("tea", "Ann")
        ann.say("tea", "one", key="a")
        log.fails = True
        assert ann.error_for(type="say", room="tea", text="two", key="b")["code"] == "log_failed"
        assert ben.error_for(type="join", room="tea", name="Ben")["code"] == "log_failed"
        samples = scrape(chat.address)
    assert samples["chatd_log_failures_total"] == 2
    assert samples["chatd_log_commit_seconds_count"] == 1


def test_a_join_without_an_invitation_is_counted(tmp_path: Path) -> None:
    with serve_chat(invitations=Invitations(tmp_path)) as chat, ChatClient(chat.address) as ann:
        for _ in range(2):
            assert ann.error_for(type="join", room="tea", name="Ann")["code"] == "unauthorized"
        samples = scrape(chat.address)
    assert samples['chatd_refused_total{status="none",reason="unauthorized"}'] == 2


def test_ends_are_counted_by_code_and_by_who_ended_it() -> None:
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


def test_refusals_are_counted_by_status_and_reason() -> None:
    with serve_chat(max_per_address=3) as chat:
        get(chat.address, "/nowhere")
        get(chat.address, "/", "evil.example")
        with Client(chat.address), Client(chat.address), Client(chat.address):
            get(chat.address, "/")
        chat.wait_for_peers(0)
        connect(chat.address).close()
        poll(
            lambda: 'reason="no_request"' in get(chat.address, "/metrics")[1],
            "one who says nothing is counted",
        )
        samples = scrape(chat.address)
    found = {key: value for key, value in samples.items() if key.startswith("chatd_refused")}
    assert found == {
        'chatd_refused_total{status="404",reason="not_found"}': 1,
        'chatd_refused_total{status="403",reason="forbidden"}': 1,
        'chatd_refused_total{status="503",reason="max_per_address"}': 1,
        'chatd_refused_total{status="none",reason="no_request"}': 1,
    }


def test_what_slow_readers_have_not_taken_is_told() -> None:
    with serve_chat() as chat, Client(chat.address, receive_buffer=4096) as slow:
        with Client(chat.address) as speaker:
            while not scrape(chat.address)["chatd_queue_bytes"]:
                for _ in range(200):
                    speaker.send("x" * 4000)
        assert isinstance(slow.receive(), str)


# To whom.


LOCAL = ["Host: localhost"]


@pytest.mark.parametrize(
    ("address", "headers", "allowed", "may"),
    [
        ("127.0.0.1:5", LOCAL, [], True),
        ("127.0.0.1:5", ["Host: 127.0.0.1:8765"], [], True),
        ("[::1]:5", ["Host: [::1]:8765"], [], True),
        ("[::ffff:127.0.0.1]:5", LOCAL, [], True),
        # What a proxy on this machine passes on, even one that is not known as one.
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], [], False),
        ("127.0.0.1:5", [*LOCAL, "Forwarded: for=198.51.100.1"], [], False),
        ("127.0.0.1:5", [*LOCAL, "Via: 1.1 a"], [], False),
        ("127.0.0.1:5", [*LOCAL, "X-Real-IP: 198.51.100.1"], [], False),
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-Host: a.example"], [], False),
        ("127.0.0.1:5", ["Host: chat.example"], [], False),
        ("127.0.0.1:5", ["Host: 192.0.2.1"], [], False),
        ("127.0.0.1", [*LOCAL, "X-Forwarded-For: 127.0.0.1"], [], False),
        ("198.51.100.1:5", LOCAL, [], False),
        ("198.51.100.1", LOCAL, [], False),
        ("unix", LOCAL, [], False),
        # Those whom the operator names.
        ("198.51.100.1:5", ["Host: chat.example"], ["198.51.100.0/24"], True),
        ("198.51.100.1", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["198.51.100.1"], True),
        ("203.0.113.1:5", LOCAL, ["198.51.100.0/24"], False),
        ("127.0.0.1:5", LOCAL, ["198.51.100.0/24"], True),
        ("unix", LOCAL, ["unix"], True),
        ("unix", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["unix"], False),
        ("127.0.0.1:5", ["Host: chat.example"], ["unix"], False),
        ("127.0.0.1:5", ["Host: chat.example"], ["127.0.0.1"], True),
        ("127.0.0.1:5", [*LOCAL, "X-Forwarded-For: 198.51.100.1"], ["127.0.0.1"], False),
        ("nowhere", LOCAL, ["unix"], False),
    ],
)
def test_metrics_are_for_this_machine_and_those_whom_the_operator_names(
    address: str, headers: Sequence[str], allowed: Sequence[str], may: bool
) -> None:
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    request = Request("GET", "/metrics", "HTTP/1.1", Headers(fields))
    networks = [parse_proxy(text) for text in allowed]
    if may:
        check_reader(request, address, networks)
    else:
        with pytest.raises(HandshakeError, match="--metrics-from") as caught:
            check_reader(request, address, networks)
        assert caught.value.status == 403


def test_who_comes_through_a_proxy_may_not_read_them_and_a_page_of_elsewhere_neither() -> None:
    proxies = [parse_proxy("127.0.0.1")]
    with serve_chat(trusted_proxies=proxies) as chat:
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        assert exchange(chat.address, request).startswith(b"HTTP/1.1 403 ")
        head, body = get(chat.address, "/metrics", "rebound.example")
        assert head.startswith("HTTP/1.1 403 ")
        assert "--allow-host" in body
        assert scrape(chat.address)


def test_on_a_unix_socket_they_are_for_those_named_only(tmp_path: Path) -> None:
    for readers, status in (([], b"403"), ([parse_proxy("unix")], b"200")):
        log = open_store()
        chat = Chat(log, metrics_readers=readers)
        path = tmp_path / "socket"
        chat.server.listen_unix(str(path))
        with serving(server=chat.server), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 " + status
        log.close()
