"""A node without its engine, or without notifications: nobody waits, and nothing is lost."""

from __future__ import annotations

import json
import logging
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from chatd.storage import write_batcher
from tests.chat import ChatClient
from tests.scale.conftest import running_nodes
from tests.scale.engine import Engine
from tests.scale.test_two_nodes import wait_for
from tests.support import PATIENCE, RunningServer, poll
from wsproto_min.errors import ConnectionClosed

# Seconds for which the engine stops; CHATD_STORM=1 is the complete test.
STOP = 60.0 if float(os.environ.get("CHATD_STORM", "0")) >= 1 else 8.0
SESSION = "0123456789abcdef"


@contextmanager
def stopped(server: Engine) -> Iterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def get(node: RunningServer, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{node.address[1]}{path}", timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def metric(node: RunningServer, name: str) -> float:
    for line in get(node, "/metrics")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")


def pongs(client: ChatClient, seconds: float) -> list[float]:
    """Return the seconds that each of many pongs took."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        client.send(type="ping", t=started)
        wait_for(client, "pong", t=started)
        times.append(time.monotonic() - started)
        time.sleep(0.01)
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def test_stopped_engine_delays_no_pong_and_loses_nothing(
    server: Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batcher, "MAX_PENDING", 20)
    monkeypatch.setattr("chatd.storage.postgres.engine_state.LOST_TIMEOUT", 1000.0)
    with (
        running_nodes(url, 1, timeout=3 * STOP) as (node,),
        ChatClient(node.address) as watcher,
        ChatClient(node.address) as ann,
    ):
        ann.join("tea", "Ann")
        before = p99(pongs(watcher, 2.0))
        with stopped(server):
            for number in range(200):
                ann.send(type="say", room="tea", text=f"text {number}", key=f"key {number}")
            during = p99(pongs(watcher, STOP))
            assert metric(node, "chatd_store_waiting_messages") <= 20 + 1
        print(f"pong p99 {before * 1e3:.2f} ms before, {during * 1e3:.2f} ms while stopped")
        assert during < max(0.1, 5 * before)  # a loop that waits would take seconds
        ids = [wait_for(ann, "message", key=f"key {number}")["id"] for number in range(200)]
        assert ids == list(range(1, 201))


def test_deadline_fails_the_sender_and_a_retry_is_stored_once(
    server: Engine, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chatd")
    with running_nodes(url, 1, timeout=1.0) as (node,), ChatClient(node.address) as ann:
        ann.join("tea", "Ann", session=SESSION)
        with stopped(server):
            ann.send(type="say", room="tea", text="once", key="k")
            error = wait_for(ann, "error")
            assert (error["code"], error["key"]) == ("log_failed", "k")
            assert "may or may not be stored" in error["message"]
            joining = ChatClient(node.address)
            joining.send(type="join", room="tea", name="Ben")
            assert wait_for(joining, "error")["code"] == "log_failed"
            joining.client.close()
        ann.send(type="say", room="tea", text="once", key="k")
        end = time.monotonic() + PATIENCE
        while (answer := ann.receive())["type"] != "message":
            assert time.monotonic() < end
            if answer["type"] == "error":
                ann.send(type="say", room="tea", text="once", key="k")
        assert (answer["id"], answer["text"]) == (1, "once")
        poll(
            lambda: "connected again" in caplog.text,
            "the log tells that the engine is back",
        )
    assert caplog.text.count("lost:") == caplog.text.count("connected again") == 1
    rows = server.execute("SELECT count(*) FROM chatd.messages", database=url.rpartition("/")[2])
    assert rows == [(1,)]


def test_lost_engine_makes_the_node_unready_then_closes_peers(
    server: Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = "chatd.storage.postgres.engine_state"
    monkeypatch.setattr(f"{state}.READY_TIMEOUT", 1.5)
    monkeypatch.setattr(f"{state}.LOST_TIMEOUT", 3.0)
    with running_nodes(url, 1, timeout=1.0) as (node,), ChatClient(node.address) as ann:
        ann.join("tea", "Ann", session=SESSION)
        assert get(node, "/readyz") == (200, "ready\n")
        with stopped(server):
            poll(lambda: get(node, "/readyz")[0] == 503, "the node is not ready")
            assert get(node, "/healthz")[0] == 200
            with pytest.raises(ConnectionClosed) as closed:
                wait_for(ann, "nothing")
            assert closed.value.code == 1012
        poll(lambda: get(node, "/readyz")[0] == 200, "the node is ready again")
        with ChatClient(node.address) as again:
            assert again.join("tea", "Ann", session=SESSION)["name"] == "Ann"


def test_notifications_carry_the_entries(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        gaps = metric(nodes[1], "chatd_store_gaps_total")
        for number in range(50):
            ann.say("tea", f"text {number}")
            wait_for(ben, "message", text=f"text {number}")
        assert metric(nodes[1], "chatd_store_gaps_total") == gaps
        assert metric(nodes[1], "chatd_store_poll_repairs_total") == 0
        assert 'chatd_store_notifications_total{kind="entries"} 50' in get(nodes[1], "/metrics")[1]


def test_polls_repair_suppressed_notifications(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from chatd.storage.postgres.notifications import Notifier

    with (
        running_nodes(url, 2) as nodes,
        ChatClient(nodes[0].address) as ann,
        ChatClient(nodes[1].address) as ben,
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        monkeypatch.setattr(Notifier, "send", lambda *_: None)
        for number in range(5):
            ann.say("tea", f"text {number}")
            assert wait_for(ben, "message")["text"] == f"text {number}"
        assert metric(nodes[1], "chatd_store_poll_repairs_total") >= 3
        ann.send(type="leave", room="tea")
        assert wait_for(ben, "presence", count=1)["left"] == ["Ann"]
    assert "notifications do not arrive" in caplog.text


def test_deaf_listener_connects_again(
    server: Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatd.storage.postgres.engine_state.READY_TIMEOUT", 3.0)
    with (
        running_nodes(url, 2) as nodes,
        ChatClient(nodes[0].address) as ann,
        ChatClient(nodes[1].address) as ben,
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        place = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s"
        name = url.rpartition("/")[2]
        poll(
            lambda: server.execute(f"SELECT count(*) {place}", name) == [(2,)],
            "both nodes listen",
        )
        server.execute(f"SELECT pg_terminate_backend(pid) {place}", name)
        ann.say("tea", "after")
        assert wait_for(ben, "message")["text"] == "after"
        poll(
            lambda: all(get(node, "/readyz")[0] == 200 for node in nodes),
            "both nodes hear their own notifications again",
        )
        ann.say("tea", "later")
        assert wait_for(ben, "message")["text"] == "later"


def test_entries_too_large_for_a_notification_arrive(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        long = "\U0001f600" * 4000
        ann.say("tea", "before")
        ann.say("tea", long)
        ann.say("tea", "after")
        received = [wait_for(ben, "message")["text"] for _ in range(3)]
        assert received == ["before", long, "after"]


def test_key_too_long_payload_of_a_batch_arrives_whole(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        texts = [f"{number} {'x' * 900}" for number in range(100)]
        for number, text in enumerate(texts):
            ann.client.send(
                json.dumps({"type": "say", "room": "tea", "text": text, "key": f"k{number}"})
            )
        assert [wait_for(ben, "message")["text"] for _ in texts] == texts


def test_other_schema_version_is_refused(
    server: Engine, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from chatd.__main__ import main
    from chatd.storage.postgres.store import PostgresStore

    PostgresStore(url).close()
    server.execute("UPDATE chatd.meta SET version = 2", database=url.rpartition("/")[2])
    for command in ([], ["check"], ["export"], ["invite", "Ann"], ["bans"]):
        assert main([*command, "--store", url]) == (1 if command == ["check"] else 2)
        assert "schema version 2 instead of 1" in capsys.readouterr().err
