"""The page's server: headers, origin checks, history and events in JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support import PATIENCE, RunningServer, exchange
from tests.tap.test_conversation import CLIENT, DEFLATE, MASK, SERVER, request, response
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.figure import figure_fields
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.frames import encode_frame
from wsproto_min.net.client import Client, connect
from wsproto_min.tap import web
from wsproto_min.tap.event_json import SHOWN_BYTES, event_to_json
from wsproto_min.tap.events import Body, Exchanged, Opened, Refused, TapEvent, Unexplained
from wsproto_min.tap.exchange import WebSocketExchange
from wsproto_min.tap.web import WebPage

Json = dict[str, Any]


@contextmanager
def page_server() -> Iterator[tuple[WebPage, RunningServer]]:
    page = WebPage("ws://chat.example/")
    running = RunningServer(page.server, ("127.0.0.1", page.listen(0)))
    running.thread.start()
    try:
        yield page, running
    finally:
        page.server.stop(0.1)
        running.thread.join(PATIENCE)
    assert running.error is None


def open_events(running: RunningServer, **options: Any) -> Client:
    return connect(f"ws://127.0.0.1:{running.address[1]}/events", **options)


def show(running: RunningServer, page: WebPage, *events: TapEvent) -> None:
    """Pass events to the page in the thread of its server."""

    def call() -> bool:
        for event in events:
            page(event)
        return True

    assert running.ask(call)


def receive(client: Client) -> Json:
    event: Json = json.loads(client.recv(PATIENCE))
    return event


def events_of(parts: list[tuple[Role, bytes]], extension: str = "") -> list[Json]:
    """Return the JSON of the events after a handshake."""
    events: list[TapEvent] = []
    exchange = WebSocketExchange(1, events.append, None)
    exchange.on_data(CLIENT, request(extension))
    exchange.on_data(SERVER, response(extension))
    for sender, data in parts:
        exchange.on_data(sender, data)
    exchange.on_end()
    found: list[Json] = json.loads(json.dumps([event_to_json(event) for event in events]))
    return found


def get(address: tuple[str, int], target: str = "/", host: str = "", method: str = "GET") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: {host or '127.0.0.1'}\r\n\r\n"
    return exchange(address, head.encode())


def test_page_is_one_file_with_a_strict_policy() -> None:
    with page_server() as (_, running):
        head, _, html = get(running.address).partition(b"\r\n\r\n")
        assert get(running.address, method="HEAD") == head + b"\r\n\r\n"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Content-Type-Options: nosniff" in head
    policy = re.findall(rb"Content-Security-Policy: (.*)\r\n", head)[0].decode()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for name in ("script", "style"):
        (body,) = re.findall(f"<{name}>(.*?)</{name}>".encode(), html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    text = html.decode()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!['"]?data:)""", text)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\bon\w+=\"", text)


@pytest.mark.parametrize(
    ("target", "host", "method", "status"),
    [
        ("/other", "", "GET", 404),
        ("/", "", "POST", 405),
        ("/", "evil.example:8767", "GET", 403),
        ("/events", "", "GET", 400),
    ],
)
def test_other_requests_are_refused(target: str, host: str, method: str, status: int) -> None:
    with page_server() as (_, running):
        answer = get(running.address, target, host, method)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_page_of_another_site_may_not_connect(origin: str) -> None:
    with page_server() as (_, running), pytest.raises(HandshakeError) as caught:
        open_events(running, origin=origin)
    assert caught.value.status == 403


def test_own_page_and_local_programs_may_connect() -> None:
    with page_server() as (_, running):
        for origin in (f"http://127.0.0.1:{running.address[1]}", None):
            with open_events(running, origin=origin) as client:
                assert receive(client)["type"] == "hello"
                client.send("ignored")


def test_late_page_gets_the_history_and_then_live_events() -> None:
    with page_server() as (page, running):
        show(running, page, Exchanged(1, "GET", "/early", 200))
        with open_events(running) as client:
            hello = receive(client)
            assert hello == {
                "type": "hello",
                "upstream": "ws://chat.example/",
                "address": "",
                "dropped": 0,
            }
            assert receive(client)["target"] == "/early"
            show(running, page, Exchanged(2, "GET", "/live", 200))
            assert receive(client)["target"] == "/live"


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_EVENTS", 3), ("MAX_HISTORY_SIZE", 400)], ids=["events", "bytes"]
)
def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(web, limit, value)
    with page_server() as (page, running):
        for number in range(10):
            show(running, page, Exchanged(number, "GET", "/", 200))
        with open_events(running) as client:
            dropped = receive(client)["dropped"]
            kept = [receive(client)["connection"] for _ in range(10 - dropped)]
    assert 3 <= len(kept) <= 4
    assert kept == list(range(dropped, 10))


def test_large_history_fits_into_the_write_buffer() -> None:
    text = "/" + "x" * 100_000
    with page_server() as (page, running):
        show(running, page, *[Exchanged(1, "GET", text, 200)] * 200)
        with open_events(running) as client:
            count = 200 - receive(client)["dropped"]
            assert count > 150
            threading.Event().wait(0.01)  # the server fills its write buffer
            for _ in range(count):
                assert receive(client)["target"] == text


def test_frame_has_the_fields_of_the_figure_with_rules() -> None:
    data = encode_frame(Opcode.TEXT, b"Hello", mask=MASK)
    frame = events_of([(CLIENT, data)])[2]
    assert (frame["type"], frame["sender"], frame["name"]) == ("frame", "client", "TEXT")
    assert (frame["data"], frame["header_size"], frame["size"]) == (data.hex(), 6, 11)
    assert (frame["message_size"], frame["event"]["text"]) == (5, "Hello")
    expected = figure_fields(FrameFields(data))
    assert [field["name"] for field in frame["fields"]] == [field.name for field in expected]
    assert "".join(field["bits"] for field in frame["fields"]) == "".join(
        f"{byte:08b}" for byte in data
    )
    opcode = frame["fields"][4]
    assert (opcode["bits"], opcode["begin"], opcode["value"]) == ("0001", 4, "0x1")
    assert opcode["rules"][0] == {
        "section": "RFC 6455, 5.2",
        "sentence": "Opcodes 3 to 7 and B to F are reserved and must not be sent.",
    }
    assert opcode["section"] == "RFC 6455, 5.2"


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_large_payload_is_truncated(opcode: Opcode) -> None:
    frame = events_of([(SERVER, encode_frame(opcode, b"x" * 100_000))])[2]
    assert len(frame["payload"]) == 2 * SHOWN_BYTES
    assert len(frame["data"]) == 2 * (10 + SHOWN_BYTES)
    assert (frame["length"], frame["message_size"], frame["missing"]) == (100_000, 100_000, 0)
    shown = frame["event"].get("text") or bytes.fromhex(frame["event"]["data"]).decode()
    assert shown == "x" * SHOWN_BYTES


def test_compressed_message_is_shown_decompressed() -> None:
    sender = Connection(SERVER, compression=DeflateParameters.DEFAULT, compression_threshold=0)
    sender.send("again and again and again")
    frame = events_of([(SERVER, sender.data_to_send())], DEFLATE)[2]
    assert (frame["compressed"], frame["event"]["text"]) == (True, "again and again and again")
    assert frame["wire_size"] < frame["message_size"] == 25
    assert frame["fields"][-1]["rules"][0]["section"] == "RFC 7692, 7.2.2"


def test_fragments_name_their_message() -> None:
    parts = [
        encode_frame(Opcode.TEXT, b"one ", fin=False),
        encode_frame(Opcode.PING, b""),
        encode_frame(Opcode.CONTINUATION, b"message"),
    ]
    first, ping, last = events_of([(SERVER, b"".join(parts))])[2:5]
    assert (first["fragment"], first["last"], first["event"]) == (1, False, None)
    assert (ping["fragment"], ping["message_name"], ping["last"]) == (None, None, False)
    assert (last["fragment"], last["last"], last["message_name"]) == (2, True, "TEXT")
    assert (last["event"]["text"], last["message_size"]) == ("one message", 11)


def test_violation_has_its_rule_and_byte() -> None:
    frame, stopped, ended = events_of([(CLIENT, b"\x83\x00")])[2:]
    for event in (frame, stopped):
        verdict = event["verdict"]
        assert (verdict["close_code"], verdict["section"]) == (1002, "RFC 6455, 5.2")
        assert verdict["offset"] == len(request())
    assert (stopped["type"], stopped["sender"]) == ("stopped", "client")
    assert (ended["type"], ended["verdict"]["result"]) == ("ended", "broken")
    assert ended["ending"] == "The tap closed the connection."


@pytest.mark.parametrize(
    ("data", "last"),
    [
        ("81", "opcode"),
        ("81fe", "payload len"),
        ("81fe00", "extended length"),
        ("81ff0000", "extended length"),
        ("818137", "masking key"),
        ("8882 00000000 03e8", "payload, masked"),
        ("0001 41", "payload"),
        ("c101 41", "payload"),
        ("8901 41", "payload"),
    ],
)
def test_figure_ends_with_the_last_field_that_arrived(data: str, last: str) -> None:
    fields = figure_fields(FrameFields(bytes.fromhex(data)))
    assert fields[-1].name == last
    assert "".join(field.bits for field in fields) == "".join(
        f"{byte:08b}" for byte in bytes.fromhex(data)
    )


def test_events_without_frames_have_their_fields() -> None:
    assert event_to_json(Opened(1, "127.0.0.1:5", "/x")) == {
        "type": "opened",
        "connection": 1,
        "client": "127.0.0.1:5",
        "target": "/x",
    }
    assert event_to_json(Refused(2, 502, "gone"))["type"] == "refused"
    assert event_to_json(Exchanged(3, "GET", "/", None))["status"] is None
    assert event_to_json(Unexplained(3)) == {"type": "unexplained", "connection": 3}
    assert event_to_json(Body(3, "no", False)) == {
        "type": "body",
        "connection": 3,
        "text": "no",
        "truncated": False,
    }


def test_head_has_its_lines_and_the_accept_key() -> None:
    head, answer = events_of([])[:2]
    assert (head["type"], head["kind"], head["sender"]) == ("head", "request", "client")
    assert head["lines"][0]["text"] == "GET / HTTP/1.1"
    assert head["accept_key"]["accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (answer["kind"], answer["verdict"]) == ("response", None)
