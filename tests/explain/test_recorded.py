"""The recorded captures of real clients, explained. Module `record` makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.explain.packets import ETHERNET, SERVER, pcap, tcp_packet
from tests.explain.record import CAPTURES, RECORDERS
from wsproto_min.__main__ import main
from wsproto_min.explain.captures.conversation import Conversation
from wsproto_min.explain.captures.reader import read_capture

Output = pytest.CaptureFixture[str]

GREETING = "Hello from a browser, Hello from a browser, Grüße"
BINARY = {"type": "binary", "data": "010203ff"}
BROWSER_MESSAGES: list[Any] = [GREETING, GREETING, BINARY]
BROWSER = [*BROWSER_MESSAGES, *BROWSER_MESSAGES, 4001, 4001]

# The events of each capture: messages, control frames, close codes.
EXPECTED: dict[str, tuple[str, str, list[Any]]] = {
    "chromium": (
        "2 heads, 8 frames, 6 messages",
        "compression: permessage-deflate",
        BROWSER,
    ),
    "firefox": (
        "2 heads, 8 frames, 6 messages",
        "compression: permessage-deflate",
        BROWSER,
    ),
    "ws": (
        "2 heads, 9 frames, 4 messages",
        "compression: permessage-deflate",
        ["ping", "pong", None, "in two fragments", "in two fragments", BINARY, BINARY, 1000, 1000],
    ),
    "curl": ("2 heads, 1 frame, 0 messages", "compression: no", [1001]),
}


def short(event: dict[str, Any] | None) -> Any:
    if event is None or event["type"] == "binary":
        return event
    return event.get("text") or event.get("code") or event["type"]


def test_recorded_captures_are_those_of_the_script() -> None:
    files = {path.stem for path in CAPTURES.iterdir()}
    assert files == set(RECORDERS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_capture_is_explained(name: str, capsys: Output) -> None:
    path = CAPTURES / f"{name}.pcap"
    assert path.stat().st_size < 5000
    assert main(["explain", "--json", "--file", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    (connection,) = printed["connections"]
    reason, note, events = EXPECTED[name]
    request, response, *frames = connection["seen"]
    assert connection["verdict"] == {"result": "valid", "reason": reason}
    assert request["accept_key"]["accept"] in {
        line["text"].partition(": ")[2] for line in response["lines"]
    }
    assert response["notes"] == [note]
    found = [short(frame["event"]) for frame in frames]
    assert found == events
    senders = {frame["sender"]: frame["masked"] for frame in frames}
    assert senders in ({"client": True, "server": False}, {"server": False})


def test_recorded_streams_in_one_file_are_explained(tmp_path: Path) -> None:
    (found,), _ = read_capture((CAPTURES / "chromium.pcap").read_bytes())
    assert isinstance(found, Conversation)
    streams = {"client then server": found.client.data + found.server.data}
    streams["server then client"] = found.server.data + found.client.data
    streams["client"] = found.client.data
    for name, data in streams.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert main(["explain", "--file", str(path)]) == 0, name


def test_recorded_capture_shows_one_answer_to_a_close(capsys: Output) -> None:
    assert main(["explain", "--file", str(CAPTURES / "ws.pcap")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("Connection 1: 127.0.0.1:")
    assert output.count("The receiver answers with Close 1000") == 1
    assert output.endswith("\nVALID: 2 heads, 9 frames, 4 messages.\n\n")


@pytest.mark.parametrize("option", ["--deflate", "--no-context-takeover", "--role=client"])
def test_capture_with_an_option_that_it_decides_is_refused(option: str, capsys: Output) -> None:
    assert main(["explain", option, "--file", str(CAPTURES / "ws.pcap")]) == 2
    assert "the capture file decides; leave them out" in capsys.readouterr().err


def test_capture_over_the_message_limit_is_broken(capsys: Output) -> None:
    arguments = ["--max-message-size", "10", "--file", str(CAPTURES / "ws.pcap")]
    assert main(["explain", *arguments]) == 1
    output = capsys.readouterr().out
    assert "\nBROKEN at byte " in output
    assert "the client's bytes: " in output
    assert "1009 MESSAGE_TOO_BIG" in output


def test_capture_lists_the_connections_that_it_skips(tmp_path: Path, capsys: Output) -> None:
    others = [
        tcp_packet(("127.0.0.1", port), SERVER, 1, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for port in (1, 2, 3)
    ]
    path = tmp_path / "capture"
    path.write_bytes((CAPTURES / "ws.pcap").read_bytes() + pcap(others, ETHERNET)[24:])
    assert main(["explain", "--file", str(path)]) == 0
    reason = "the first request is not for a WebSocket"
    line = f"Not explained: 127.0.0.1:1 to 127.0.0.1:8765 and 2 others: {reason}.\n"
    assert capsys.readouterr().out.endswith(line)
    path.write_bytes((CAPTURES / "ws.pcap").read_bytes() + pcap(others[:1], ETHERNET)[24:])
    assert main(["explain", "--json", "--file", str(path)]) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert skipped == [{"name": "127.0.0.1:1 to 127.0.0.1:8765", "reason": reason}]
