"""Each load runs small against our servers and rivals; the client detects wrong output."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import loads, parsing
from tests.benchmarks.__main__ import main
from tests.benchmarks.measure import Variant, Wrong
from tests.benchmarks.servers import (
    INSTALL_CC,
    ROOT,
    Program,
    chatd,
    chatd_chat,
    chatd_without_log,
    echo,
    floor,
    has_cc,
    hubs,
    load,
    nats,
    rivals,
)
from tests.needs import need

pytestmark = pytest.mark.skipif(
    not hasattr(select, "epoll") or not Path("/proc/self/schedstat").exists(),
    reason="needs epoll and /proc/PID/schedstat of Linux",
)

SMALL = "--peers 4 --senders 2 --window 3"
# Enough messages to split reads, with several senders in one loop iteration.
LARGE = "--peers 4 --senders 4 --window 4000"
AT_RATE = "--peers 12 --senders 12 --rate 1000"

# A room that changes the second message; `send(peer, text)` sends to all others.
SERVER = """
from wsproto_min import Server
count = 0
def send(peer, text):
    room.send(text, sender=peer)
def on_message(peer, text):
    global count
    count += 1
    if count == 2:
        {change}
    else:
        send(peer, text)
server = Server(on_open=lambda peer: room.add(peer), on_message=on_message)
room = server.group()
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""
# A room of chat.v1. The tests replace the words in capitals.
CHAT_SERVER = """
import json
from wsproto_min import Server
count = 0
def on_message(peer, text):
    global count
    say = json.loads(text)
    if say["type"] == "join":
        peer.send(JOINED)
        return
    count += 1
    for member in members:
        owner = member is peer
        message = {"type": "message", "id": ID, "text": say["text"]}
        if KEY:
            message["key"] = say["key"]
        member.send(json.dumps(message, separators=(",", ":")))
members = []
server = Server(on_open=members.append, on_message=on_message, subprotocols=["chat.v1"])
print("ready: ws://%s:%s/" % server.listen("127.0.0.1", 0), flush=True)
server.run()
"""
JOINED = '{"type":"joined"}'
# HTTP without WebSocket.
REFUSES = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
print("ready: ws://127.0.0.1:%s/" % server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def compiler() -> None:
    """Skip the tests without a compiler."""
    need(has_cc(), "cc", INSTALL_CC)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (chatd(), SMALL),
        (chatd(), LARGE),
        (chatd(), "--peers 20 --rooms 5 --senders 10 --window 10"),
        (chatd(), AT_RATE),
        (chatd_without_log(), SMALL),
        (chatd_chat(), SMALL),
        (chatd_chat(), AT_RATE),
        (floor("chat"), LARGE),
        (floor("chat"), AT_RATE),
        (floor("echo"), "--echo --peers 3"),
        (echo(), "--echo --peers 1"),
        (echo(), "--echo --peers 3"),
        *((each, SMALL) for each in (*rivals("chat"), *hubs(), nats())),
        *((each, "--echo --peers 3") for each in rivals("echo")),
    ],
    ids=lambda value: value.name if isinstance(value, Program) else value,
)
def test_load_receives_each_message_once(program: Program, options: str) -> None:
    if program.name in ("ws", "NATS") and not program.is_installed():
        pytest.skip(program.install_hint)  # also in CI, which installs neither
    need(program.is_installed(), program.name, program.install_hint)
    figures = load(program, f"{options} --seconds 0.1")
    assert figures["deliveries"] >= figures["messages"] > 0
    assert figures["per_second"] > 0
    assert figures["server_core"] > 0
    assert figures["client_core"] > 0
    assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]


def test_load_measures_handshakes() -> None:
    assert load(chatd(), "--handshakes --seconds 0.1")["per_second"] > 0


def test_load_measures_idle_peers() -> None:
    figures = load(chatd_chat(), "--idle --peers 200 --seconds 0.1")
    assert 0 < figures["memory"] < 100


def test_load_answers_pings_of_idle_peers() -> None:
    server = SERVER.replace("Server(", "Server(ping_interval=0.05, ping_timeout=0.2, ")
    program = Program("pings", (sys.executable, "-c", server.format(change="pass")))
    # Without Pongs the server closes the connections, which the client reports.
    assert load(program, "--idle --peers 2 --seconds 1")["pings"] > 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("room.send(text)", "peer 0: received its own message 1"),
        ("send(peer, text); send(peer, text)", "received message 1 of peer 0, expected 2"),
        ("pass", "no delivery within 1 s: 1 of 2 are missing"),
        ("send(peer, 'x' * 64)", "received x{64}, which differs from what was sent"),
        ("send(peer, text[:-1] + 'x')", r"received @a\S+x, which differs from what was sent"),
        ("send(peer, text + '.')", r"received @a\S+, which differs from what was sent"),
        ("send(peer, '@aaaa' + 'aaaaaaaj' + text[13:])", "message 9 of peer 0, expected 1"),
        ("send(peer, '@aaab' + text[5:])", "a message of peer 1, which is not in its room"),
        ("room.send(text.encode(), sender=peer)", "received a frame that begins with 82"),
        ("send(peer, text * 1000)", "received @a\\S+, which differs from what was sent"),
        ("peer.close()", "peer 0: received a frame that begins with 88"),
        ("raise SystemExit", "peer [01]: (the server closed the connection|Connection reset)"),
    ],
)
def test_load_detects_wrong_delivery(change: str, complaint: str) -> None:
    program = Program("wrong", (sys.executable, "-c", SERVER.format(change=change)))
    with pytest.raises(Wrong, match=complaint):
        load(program, "--peers 2 --window 1 --seconds 0.1 --patience 1")


@pytest.mark.parametrize(
    ("joined", "number", "key", "complaint"),
    [
        ('{"type":"error","code":"name_taken"}', "count", "owner", 'received {"type":"error"'),
        (JOINED, "min(count, 3)", "owner", "peer [01]: received id 3 after 3"),
        (JOINED, "count", "True", "the key of a message belongs to its sender alone"),
        (JOINED, "count", "False", "the key of a message belongs to its sender alone"),
        (JOINED, "'x'", "owner", "peer [01]: received id 0 after 0"),
    ],
)
def test_load_detects_wrong_chat(joined: str, number: str, key: str, complaint: str) -> None:
    server = CHAT_SERVER.replace("JOINED", repr(joined)).replace("ID", number)
    program = Program("chat", (sys.executable, "-c", server.replace("KEY", key)), speaks=["--chat"])
    with pytest.raises(Wrong, match=complaint):
        load(program, "--peers 2 --window 1 --seconds 0.1 --patience 1")


def test_load_refused_handshake_shows_the_response() -> None:
    program = Program("refuses", (sys.executable, "-c", REFUSES))
    with pytest.raises(Wrong, match=r"handshake: the server answered HTTP/1\.0 501"):
        load(program, SMALL)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--peers 2", "--port and one of --window"),
        ("--window 0", "--window 0: expected a number from 1 to"),
        ("--window 1 --senders 101", "--senders, --peers, --rooms: expected plain rooms"),
        ("--window 1 --peers 1", "--peers 1: each room needs a second peer"),
    ],
)
def test_load_wrong_options_are_errors(options: str, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        load(floor("chat"), options)


def test_start_benchmark_measures_a_server() -> None:
    start = loads.rooms(quick=True)[-1]
    assert 0 < start.contenders[0].run().value < 10


def test_against_commit_measures_both_checkouts(capsys: pytest.CaptureFixture[str]) -> None:
    def worktrees() -> str:
        words = ["git", "-C", str(ROOT), "worktree", "list"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    before = worktrees()
    arguments = ["fan-out to 10 peers", "--only", "chatd", "--quick", "--runs", "1"]
    assert main([*arguments, "--against", "HEAD", "--python", sys.executable]) == 0
    output = capsys.readouterr().out
    assert "\n| chatd | " in output
    assert "\n| chatd, at " in output
    assert "\n| chatd, CPython 3." in output
    assert "\n| ws | " not in output
    assert worktrees() == before


def test_parsing_runs_under_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["codec, 64 B", "--only", "wsproto_min", "--quick", "--runs", "1"]
    assert main([*arguments, "--against", "HEAD", "--python", sys.executable]) == 0
    output = capsys.readouterr().out
    assert "\n| wsproto_min, at " in output
    assert "\n| wsproto_min, CPython 3." in output


def test_parsing_error_of_a_variant_is_shown(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module' >&2\nexit 1\n")
    python.chmod(0o700)
    (benchmark, *_) = parsing.benchmarks(quick=True)
    vary = benchmark.contenders[0].vary
    assert vary is not None
    with pytest.raises(Wrong, match="codec: no module"):
        vary(Variant("elsewhere", str(python), Path("/"))).run()


def test_against_unknown_commit_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fan-out", "--against", "no-commit"])
    assert "git rev-parse: fatal" in capsys.readouterr().err
