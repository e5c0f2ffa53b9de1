"""Operation of the server: log lines and draining."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chatd.__main__ import main
from chatd.access.invitations import Invitations
from chatd.app import Chat
from chatd.ops.access_log import MAX_LOGGED_ROOMS
from tests.chat import ChatClient, open_client, open_store, serve_chat
from tests.support import (
    PATIENCE,
    Client,
    connect,
    daemon,
    exchange,
    handshake,
    make_certificate,
    poll,
    reset,
    serving,
    tight_listener,
)
from wsproto_min.connection import Close
from wsproto_min.net.server import Server

ALONE = ("--port", "0", "--db", ":memory:", "--rate-limit", "0", "--metrics-from", "127.0.0.1")
HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"
TOKEN = "eyJzZWNyZXQ.token"


def fields_of(line: str) -> dict[str, str]:
    """Return the fields of a text line."""
    found = re.findall(r' ([a-z]+)=("(?:[^"\\]|\\.)*"|\S+)', line)
    return {name: json.loads(value) if value[0] == '"' else value for name, value in found}


def test_log_has_one_line_for_each_connection_that_ends() -> None:
    with daemon("chatd", *ALONE) as running:
        with ChatClient(running.address) as ann:
            ann.join("tea", "Ann")
            ann.join("x", "Ann")
            ann.say("tea", "a secret")
            ann.client.close(4000, "done \x1b[31m")
        with Client(running.address, "/r/plain") as plain:
            plain.send(b"no text")
            plain.receive_all()
        with Client(running.address, "/r/plain") as lost:
            port = lost.sock.getsockname()[1]
            reset(lost.sock)
        request = f"GET /nowhere?invite={TOKEN}#invite={TOKEN} HTTP/1.1\r\nHost: localhost\r\n"
        exchange(running.address, f"{request}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        odd = handshake()[:-2] + b"Sec-WebSocket-Extensions: e\x85vil%s; =\r\n\r\n"
        exchange(running.address, odd % (b"\x85" * 10_000))
        exchange(running.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        poll(
            lambda: connections(running.address) == 1,
            "every other connection has ended",
        )
        status, errors = running.end()
    assert status == 0
    assert "secret" not in errors
    assert TOKEN not in errors
    lines = errors.splitlines()
    ended = [fields_of(line) for line in lines if " info connection ended " in line]
    refused = [fields_of(line) for line in lines if " info connection refused " in line]
    assert len(ended) + len(refused) == len(lines), errors
    assert all(float(each.pop("seconds")) >= 0 for each in ended + refused)
    assert ended[2].pop("address") == f"127.0.0.1:{port}"
    for each in (*ended[:2], *refused):
        assert each.pop("address").startswith("127.0.0.1:")
    assert ended == [
        {"mode": "chat", "room": "tea,x", "code": "4000", "by": "peer", "why": "done \x1b[31m"},
        {
            "mode": "plain",
            "room": "plain",
            "code": "1003",
            "by": "server",
            "why": "this chat takes text messages only",
        },
        {
            "mode": "plain",
            "room": "plain",
            "code": "1006",
            "by": "lost",
            "why": "the stream ended without a Close frame",
        },
    ]
    assert [each["status"] for each in refused] == ["404", "400"]
    assert "\\x85" in refused[1]["why"]
    assert len(errors) < 3000, "the size of a line depends on the request"
    assert errors.isascii()


@pytest.mark.parametrize("tls", [False, True], ids=["plain port", "TLS port"])
def test_client_of_the_wrong_protocol_gets_one_log_line(tls: bool, tmp_path: Path) -> None:
    options = ["--tls-cert", str(make_certificate(tmp_path))] if tls else []
    http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with daemon("chatd", *ALONE, *options) as running:
        with suppress(ConnectionResetError):
            exchange(running.address, http if tls else hello)
        status, errors = running.end()
    assert status == 0
    (line,) = errors.splitlines()
    assert " info connection refused " in line
    assert ("the client did not begin TLS" if tls else "the client began TLS") in line


def connections(address: tuple[str, int]) -> int:
    response = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found = re.search(rb"^chatd_connections (\d+)$", response, re.MULTILINE)
    assert found, response
    return int(found[1])


def test_json_line_is_one_object_with_the_fields() -> None:
    with daemon("chatd", "--log-format", "json", *ALONE) as running:
        with Client(running.address, "/r/tea") as client:
            client.close()
            client.receive_all()
        status, errors = running.end()
    assert status == 0
    values = json.loads(errors)
    assert values.pop("time").endswith("Z")
    assert values.pop("address").startswith("127.0.0.1:")
    assert values.pop("seconds") >= 0
    assert values == {
        "level": "info",
        "message": "connection ended",
        "mode": "plain",
        "room": "tea",
        "code": 1000,
        "by": "peer",
        "why": "",
    }


def test_log_line_names_a_limited_number_of_rooms(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "chatd")
    with serve_chat() as chat, ChatClient(chat.address) as ann:
        for number in range(MAX_LOGGED_ROOMS + 1):
            ann.join(f"r{number}", "Ann")
        ann.client.close()
        chat.wait_for_peers(0)
    [record] = [each for each in caplog.records if each.name == "chatd"]
    rooms = record.__dict__["fields"]["room"]
    assert rooms == ",".join([*(f"r{number}" for number in range(MAX_LOGGED_ROOMS)), "..."])


def test_tokens_never_appear_in_log_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    invitations = Invitations(tmp_path)
    token = invitations.issue("Ann", ["tea"], 1, 0.0)  # expired
    with serve_chat(invitations=invitations) as chat:
        request = handshake("/r/tea?token=" + token)[:-2]
        request += f"Authorization: Bearer {token}\r\n\r\n".encode()
        assert exchange(chat.address, request).startswith(b"HTTP/1.1 401 ")
        with ChatClient(chat.address) as ann:
            assert ann.error_for(type="join", room="tea", name="Ann", token=token)
        chat.wait_for_peers(0)
    # The line of a connection can follow a later connection's join.
    assert sorted(record.getMessage() for record in caplog.records) == [
        "connection ended",
        "connection refused",
        "join refused",
    ]
    for record in caplog.records:
        assert token[:20] not in str(record.__dict__)


# Draining.


def test_draining_refuses_requests_and_changes_the_health() -> None:
    with (
        daemon("chatd", "--drain-timeout", "600", *ALONE) as running,
        Client(running.address) as slow,
        connect(running.address) as early,
    ):
        early.sendall(handshake()[:20])
        assert exchange(running.address, HEALTH).startswith(b"HTTP/1.1 200 ")
        running.process.send_signal(signal.SIGTERM)
        assert slow.sock.recv(2) == b"\x88\x18"  # a Close frame, left unanswered
        assert exchange(running.address, HEALTH).startswith(b"HTTP/1.1 503 ")
        assert exchange(running.address, HEALTH).endswith(b"\r\n\r\ndraining\n")
        response = exchange(running.address, handshake())
        assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 10\r\n" in response
        assert b"\r\nConnection: close\r\n" in response
        assert b"the server is stopping" in response
        early.sendall(handshake()[20:])
        assert early.recv(12) == b"HTTP/1.1 503"
        early.close()
        slow.close()
        assert running.process.wait(PATIENCE) == 0
        assert running.process.stderr is not None
        assert b' by=server why="the server is stopping"' in running.process.stderr.read()
        with pytest.raises(ConnectionRefusedError):
            connect(running.address)


def test_draining_flushes_the_write_buffer_of_a_slow_reader() -> None:
    messages = [f"{number} {'x' * 3900}" for number in range(500)]
    store = open_store()
    chat = Chat(store, rate=0.0)
    with (
        serving(server=chat.server, listener=tight_listener()) as running,
        Client(running.address, receive_buffer=4096) as slow,
        Client(running.address) as quick,
        Client(running.address) as speaker,
    ):
        for message in messages:
            speaker.send(message)
        assert [quick.receive() for _ in messages] == messages
        assert (
            running.ask(lambda: max(peer.write_buffer_size for peer in chat.server.peers))
            > 1_000_000
        )
        chat.drain(PATIENCE)
        assert chat.is_draining
        assert slow.receive_all() == [*messages, Close(1001, "the server is stopping")]
    store.close()


def test_drain_timeout_ends_connections_of_silent_peers() -> None:
    with (
        daemon("chatd", "--drain-timeout", "0.2", *ALONE) as running,
        Client(running.address) as silent,
    ):
        assert running.stop() == (0, "")
        assert silent.receive_all() == [Close(1001, "the server is stopping")]


def test_messages_sent_before_the_end_are_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "chat.db")
    options = ("--port", "0", "--db", path, "--drain-timeout", "0.1")
    with daemon("chatd", *options) as running, open_client(running.address, "/r/tea") as plain:
        plain.send("the last word")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
    assert not Path(f"{path}-wal").exists(), "the store was not closed"
    assert main(["export", "--db", path]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "the last word"


def test_drain_answers_health_checks_and_handshakes_with_503() -> None:
    store = open_store()
    chat = Chat(store)
    with serving(server=chat.server) as running, Client(running.address) as silent:
        chat.drain(PATIENCE)
        assert silent.sock.recv(2) == b"\x88\x18"
        assert exchange(running.address, HEALTH).startswith(b"HTTP/1.1 503 ")
        assert exchange(running.address, handshake()).startswith(b"HTTP/1.1 503 ")
        silent.close()
    store.close()


def test_first_signal_drains_and_second_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Callable[..., None]] = {}
    stops: list[tuple[float, bool]] = []

    def stop(server: Server, grace: float, *, accepting: bool = False) -> None:
        stops.append((grace, accepting))

    monkeypatch.setattr("chatd.serve.signal.signal", handlers.__setitem__)
    monkeypatch.setattr("chatd.app.Server.stop", stop)
    monkeypatch.setattr(
        "chatd.app.Server.run", lambda server: [handlers[signal.SIGTERM]() for _ in range(2)]
    )
    assert main([*ALONE, "--drain-timeout", "7"]) == 0
    assert stops == [(7.0, True), (0, False)]
    assert handlers[signal.SIGINT] is handlers[signal.SIGTERM]
