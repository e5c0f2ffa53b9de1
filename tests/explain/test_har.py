"""HAR files of browsers."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.explain.test_captures import KEY
from wsproto_min.__main__ import main
from wsproto_min.explain.captures.har import is_har, read_har
from wsproto_min.handshake import accept_key

Output = pytest.CaptureFixture[str]


def headers(**values: str) -> list[dict[str, str]]:
    return [{"name": name.replace("_", "-"), "value": value} for name, value in values.items()]


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry as Chrome writes it, with `changes`."""
    return {
        "request": {
            "method": "GET",
            "url": "ws://a/chat?b=c#d",
            "headers": headers(
                Host="a",
                Upgrade="websocket",
                Connection="Upgrade",
                Sec_WebSocket_Key=KEY,
                Sec_WebSocket_Version="13",
            ),
        },
        "response": {
            "status": 101,
            "statusText": "Switching Protocols",
            "headers": headers(
                Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Accept=accept_key(KEY)
            ),
        },
        "_webSocketMessages": [
            {"type": "send", "time": 1.5, "opcode": 1, "data": "Grüße"},
            {"type": "receive", "time": 2.5, "opcode": 2, "data": "AQID/w=="},
        ],
    } | changes


def har(*entries: Any) -> bytes:
    return json.dumps({"log": {"version": "1.2", "entries": entries}}).encode()


def explain(
    data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: Output, *options: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    status = main(["explain", *options])
    output, errors = capsys.readouterr()
    return status, output or errors


def messages(*values: dict[str, Any]) -> dict[str, Any]:
    return {"_webSocketMessages": list(values)}


def test_har_shows_handshake_and_messages(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    page = {"request": {"method": "GET", "url": "http://a/"}}
    data = har(page, None, entry())
    status, output = explain(b"\xef\xbb\xbf" + data, monkeypatch, capsys)
    assert status == 0
    assert output.startswith("Connection 1: ws://a/chat?b=c#d\n")
    assert "  GET /chat?b=c HTTP/1.1\n" in output
    assert "Message 1: TEXT, client to server\n  7 bytes\n  'Grüße'\n" in output
    assert "Message 2: BINARY, server to client\n  4 bytes\n  01 02 03 ff\n" in output
    assert "VALID: 2 heads, 2 messages; a HAR file has no frames to check.\n" in output


def test_har_as_json_has_the_messages(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    status, output = explain(har(entry()), monkeypatch, capsys, "--json")
    (connection,) = json.loads(output)["connections"]
    assert (status, connection["name"]) == (0, "ws://a/chat?b=c#d")
    assert connection["seen"][2:] == [
        {
            "kind": "message",
            "number": 1,
            "sender": "client",
            "opcode": 1,
            "text": "Grüße",
            "data": "Grüße".encode().hex(),
        },
        {
            "kind": "message",
            "number": 2,
            "sender": "server",
            "opcode": 2,
            "text": None,
            "data": "010203ff",
        },
    ]


def test_har_with_a_wrong_accept_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    response = entry()["response"]
    response["headers"][2]["value"] = "x"
    status, output = explain(har(entry(response=response), entry()), monkeypatch, capsys)
    assert status == 1
    assert "\nREFUSED: " in output
    assert "\nConnection 2: " in output


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"request": {"method": "GET", "url": "ws://a"}}, "1 head"),
        ({"response": {"status": 200, "headers": []}}, "1 head"),
        ({"request": {"url": "wss://a"}, "response": {"status": 101}}, "0 heads"),
    ],
)
def test_har_without_required_headers_has_no_verdict_on_them(
    changes: Any, heads: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    status, output = explain(har(entry(**changes)), monkeypatch, capsys)
    assert status == 0
    assert f"\nVALID: {heads}, 2 messages; " in output


def test_har_error_of_the_browser_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    values = [
        {"type": "receive", "opcode": 9, "data": ""},
        {"type": "receive", "opcode": 3, "data": "?"},
        {"type": "error", "opcode": -1, "data": "One or more reserved bits are on"},
    ]
    status, output = explain(har(entry(**messages(*values))), monkeypatch, capsys)
    assert status == 1
    assert "Message 1: PING, server to client\n" in output
    assert "Message 2: opcode 3, server to client\n" in output
    assert "Error, server to client\n  'One or more reserved" in output
    assert "BROKEN: the browser reports: One or more reserved bits are on.\n" in output


SEND = {"type": "send", "opcode": 2, "data": "AQ=="}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"log": {"entries": [', r"HAR: .* line 1 column 22"),
        (b'{"log": {"entries": ["\xff"]}}', "HAR: .* position 22"),
        (b'{"log": ' + b"[" * 100_000, "HAR: too many nested brackets"),
        (b'{"log": []}', "log.entries is not a list"),
        (har(entry(_webSocketMessages={})), r"entries\[0\]._webSocketMessages is not a list"),
        (har({}, entry(**messages({}))), r"entries\[1\]._webSocketMessages\[0\] has no valid type"),
        (har(entry(**messages(SEND, SEND | {"data": "A"}))), r"Messages\[1\].data is not base64"),
        (har(entry(**messages(SEND | {"opcode": "2"}))), r"Messages\[0\] has no valid type"),
        (har(entry(**messages(SEND | {"opcode": 1e999}))), r"Messages\[0\] has no valid type"),
        (har(entry(request={"headers": 5})), "request.headers is not a list"),
        (har(entry(request={"headers": [{"name": 1}]})), "request.headers has a header without"),
    ],
)
def test_har_that_is_corrupt_is_refused_with_the_place(data: bytes, reason: str) -> None:
    assert is_har(data)
    with pytest.raises(ValueError, match=rf"{reason}.*; export the file again$"):
        read_har(data)


JSON = st.recursive(
    st.sampled_from([None, True, -1, 2, 1.5, "", "send", "error", "ws://a", "\ud800"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["headers", "name", "value", "status", "type", "opcode", "data", "url"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@example({"url": ""}, None, [])
@given(JSON, JSON, st.one_of(JSON, st.lists(JSON)))
def test_har_of_any_values_raises_only_value_error(
    request_: Any, response: Any, values: Any
) -> None:
    data = har(entry(request=request_, response=response, _webSocketMessages=values))
    try:
        text = "".join(each.name for each in read_har(data))
    except ValueError as error:
        text = str(error)
    assert text


def test_har_without_a_websocket_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    status, output = explain(har({}), monkeypatch, capsys)
    assert (status, output.count("\n")) == (2, 1)
    assert "there is no WebSocket connection in it" in output


def test_input_over_the_size_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr("wsproto_min.explain.cli.MAX_CAPTURE_SIZE", 100)
    status, output = explain(har(entry()), monkeypatch, capsys)
    assert status == 2
    assert "input has more than 100 bytes" in output
