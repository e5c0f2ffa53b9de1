"""The sentence about the end of a connection, and the body of a refused handshake."""

from __future__ import annotations

import pytest

from tests.tap.test_conversation import CLIENT, MASK, SERVER, request, response
from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.frames import encode_frame
from wsproto_min.tap.events import Body, Ended, TapEvent
from wsproto_min.tap.exchange import WebSocketExchange

FIN, RST = "FIN", "RST"
CLOSES = {
    CLIENT: encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK),
    SERVER: encode_frame(Opcode.CLOSE, b"\x03\xe8"),
}
ANSWER = (SERVER, response())
NO_CLOSE = "ended its stream without a Close frame: a browser reports 1006."

Steps = list[tuple[Role, bytes | str]]


def events_of(steps: Steps) -> list[TapEvent]:
    """Return the events after a request: bytes, FIN or RST of an end."""
    events: list[TapEvent] = []
    exchange = WebSocketExchange(1, events.append, None)
    exchange.on_data(CLIENT, request())
    for sender, step in steps:
        if isinstance(step, bytes):
            exchange.on_data(sender, step)
        elif step == FIN:
            exchange.on_eof(sender)
        else:
            exchange.on_reset(sender)
    exchange.on_end()
    return events


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([ANSWER, (CLIENT, CLOSES[CLIENT]), (SERVER, CLOSES[SERVER]), (SERVER, RST)], None),
        ([ANSWER, (SERVER, RST), (CLIENT, RST)], "The server reset the connection."),
        ([ANSWER, (CLIENT, CLOSES[CLIENT]), (SERVER, RST)], "The server reset the connection."),
        ([ANSWER, (CLIENT, FIN), (SERVER, FIN)], f"The client {NO_CLOSE}"),
        ([ANSWER, (SERVER, FIN), (CLIENT, FIN)], f"The server {NO_CLOSE}"),
        (
            [ANSWER, (CLIENT, CLOSES[CLIENT]), (SERVER, FIN)],
            "The Close of the client was not answered.",
        ),
        (
            [ANSWER, (SERVER, CLOSES[SERVER]), (CLIENT, FIN)],
            "The Close of the server was not answered.",
        ),
        ([ANSWER, (CLIENT, b"\x83"), (SERVER, CLOSES[SERVER]), (CLIENT, FIN)], None),
        ([ANSWER, (CLIENT, b"\x83"), (CLIENT, FIN)], None),
        ([ANSWER, (CLIENT, b"\x83"), (SERVER, FIN)], f"The server {NO_CLOSE}"),
        ([ANSWER], "The tap closed the connection."),
        ([ANSWER, (CLIENT, CLOSES[CLIENT])], "The tap closed the connection."),
        ([(SERVER, FIN)], "The server ended its stream before a response."),
        (
            [(SERVER, b"HTTP/1.1 103 Early\r\n\r\n"), (SERVER, RST)],
            "The server reset the connection.",
        ),
        ([(SERVER, b"HTTP/1.1 403 Forbidden\r\n\r\n"), (SERVER, FIN)], None),
        ([(SERVER, b"HTTP/1.1 200 OK\r\n" + b"x" * 17000), (SERVER, FIN)], None),
    ],
)
def test_sentence_names_the_end_that_closed(steps: Steps, sentence: str | None) -> None:
    ended = events_of(steps)[-1]
    assert isinstance(ended, Ended)
    assert ended.ending == sentence


@pytest.mark.parametrize(
    ("parts", "text", "truncated"),
    [
        ([b"Content-Length: 9\r\n\r\nnot today and more"], "not today", False),
        ([b"content-length: 9\r\n\r\nnot", b" today"], "not today", False),
        ([b"X: y\r\n\r\nnot", b" today"], "not today", False),
        ([b"Content-Length: nine\r\n\r\nnot today"], "not today", False),
        ([b"\r\nnot \xff\xe4"], "not \\xff\\xe4", False),
        ([b"Content-Length: 501\r\n\r\n", b"x" * 400, b"x" * 101], "x" * 500, True),
        ([b"Content-Length: 500\r\n\r\n", b"x" * 500], "x" * 500, False),
        ([b"\r\n", b"x" * 600, b"x" * 600], "x" * 500, True),
    ],
)
def test_body_of_a_refusal_is_shown_once(parts: list[bytes], text: str, truncated: bool) -> None:
    first, *others = parts
    steps: Steps = [
        (SERVER, b"HTTP/1.1 103 Early\r\n\r\n"),
        (SERVER, b"HTTP/1.1 403 No\r\n" + first),
        *[(SERVER, other) for other in others],
    ]
    bodies = [event for event in events_of(steps) if isinstance(event, Body)]
    assert bodies == [Body(1, text, truncated)]


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 101 Switching\r\n\r\nframes"],
        [b"HTTP/1.1 40", b"3 No\r\n\r\n"],
    ],
)
def test_response_without_a_body_shows_none(parts: list[bytes]) -> None:
    steps: Steps = [(SERVER, part) for part in parts]
    assert not [event for event in events_of(steps) if isinstance(event, Body)]
