"""The lines that the tap prints."""

from __future__ import annotations

import pytest

from tests.tap.tapping import Prints
from tests.tap.test_conversation import CLIENT, MASK, SERVER, request, response
from wsproto_min.codes import Opcode
from wsproto_min.explain.style import coloured, plain
from wsproto_min.explain.verdict import Verdict
from wsproto_min.frames import encode_frame
from wsproto_min.tap.events import Body, Ended, Exchanged, Opened, Refused, TapEvent, Unexplained
from wsproto_min.tap.exchange import WebSocketExchange
from wsproto_min.tap.printer import Printer

Output = pytest.CaptureFixture[str]


def show(printer: Printer, *events: TapEvent) -> None:
    for event in events:
        printer(event)


def chat(printer: Printer) -> None:
    """Let a client send a text message and a broken frame."""
    exchange = WebSocketExchange(7, printer, None)
    exchange.on_data(CLIENT, request())
    exchange.on_data(SERVER, response())
    exchange.on_data(CLIENT, encode_frame(Opcode.TEXT, b"Hello", mask=MASK))
    exchange.on_eof(SERVER)
    exchange.on_reset(CLIENT)
    exchange.on_data(CLIENT, b"\x83")
    exchange.on_end()


def test_frames_are_printed_as_explain_prints_them(capsys: Output) -> None:
    chat(Printer(Prints(), plain, brief=False))
    output = capsys.readouterr().out
    assert "connection 7, client to server\nHandshake: the request, " in output
    assert "connection 7, server to client\nHandshake: the response, " in output
    assert "\nFrame 1: TEXT, client to server\n\n          0    " in output
    assert "    masked     7f   9f   4d   51   58\n" in output
    assert (
        "\nBROKEN at byte 151: opcode 0x3 is reserved (RFC 6455, 5.2).\n"
        "  The rule: Opcodes 3 to 7 and B to F are reserved and must not be sent.\n"
        "  The receiver sends a Close with 1002 PROTOCOL_ERROR (7.1.7).\n"
        "  The tap passes further bytes of the client on without an explanation.\n"
    ) in output
    assert "\nconnection 7 ended\nBROKEN at byte 151 in the client's bytes: " in output


def test_brief_form_has_few_lines_for_each_frame(capsys: Output) -> None:
    chat(Printer(Prints(), plain, brief=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("7 > handshake request, ")
    assert "7 > TEXT, 11 bytes: FIN=1 RSV=000 MASK=1 key=37fa213d length=5" in lines
    assert "7 >     'Hello'" in lines
    assert "7 ! The tap passes further bytes of the client on without an explanation." in lines
    assert sum("opcode 0x3 is reserved" in line for line in lines) == 2  # frame and end


def test_brief_form_has_the_verdict_on_a_refused_head_once(capsys: Output) -> None:
    exchange = WebSocketExchange(1, Printer(Prints(), plain, brief=True), None)
    exchange.on_data(CLIENT, request())
    exchange.on_data(SERVER, b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert capsys.readouterr().out.count("REFUSED") == 1


def test_plain_http_is_one_line(capsys: Output) -> None:
    printer = Printer(Prints(), plain, brief=False)
    show(printer, Exchanged(2, "GET", "/style.css", 200), Exchanged(3, "GET", "/" * 99, None))
    show(printer, Exchanged(4, "GET", "/x", None, "its head is longer than 16384 bytes"))
    show(printer, Exchanged(5, "GET", "/x", None, "x" * 99), Unexplained(6))
    first, second, third, fourth, fifth = capsys.readouterr().out.splitlines()
    assert first == "connection 2: GET /style.css: 200"
    assert second.endswith("//...: no response")
    assert len(second) == 80
    assert third == (
        "connection 4: GET /x: response not understood: its head is longer than 16384 bytes"
    )
    assert fourth.startswith("connection 5: GET /x: response not understood: xxx")
    assert fifth == "connection 6: further bytes of the client are not explained"


def test_text_of_the_network_cannot_control_the_terminal(capsys: Output) -> None:
    printer = Printer(Prints(), plain, brief=False)
    evil = "\x1b]0;owned\x07\u202e"
    show(
        printer,
        Opened(1, "127.0.0.1:5000", f"/{evil}"),
        Exchanged(1, "GET", f"/{evil}", 200),
        Refused(1, 400, evil),
        Refused(1, 502, evil, f"GET /{evil}"),
        Body(1, evil, True),
    )
    output, errors = capsys.readouterr()
    assert (output + errors).replace("\n", "").isprintable()


def test_refusals_name_their_status(capsys: Output) -> None:
    printer = Printer(Prints(), plain, brief=False)
    show(printer, Refused(4, 400, "no HTTP"))
    show(printer, Refused(5, 502, "cannot connect to ws://h/: gone", "GET /x"))
    output, errors = capsys.readouterr()
    assert output == (
        "connection 4: the tap answered 400: no HTTP\n"
        "connection 5: GET /x: the tap answered 502: cannot connect to ws://h/: gone\n"
    )
    assert errors == "wsproto_min: connection 5: cannot connect to ws://h/: gone\n"


@pytest.mark.parametrize(
    ("brief", "expected"),
    [
        (False, "  The body of the response:\n    not \\x1b[31m\n    today\n    ...\n\n"),
        (True, "3 <     not \\x1b[31m\n3 <     today\n3 <     ...\n"),
    ],
)
def test_body_of_a_refusal_is_escaped(capsys: Output, brief: bool, expected: str) -> None:
    show(Printer(Prints(), plain, brief=brief), Body(3, "not \x1b[31m\r\ntoday", True))
    assert capsys.readouterr().out == expected


def test_whole_body_has_no_dots(capsys: Output) -> None:
    show(Printer(Prints(), plain, brief=True), Body(3, "today", False))
    assert capsys.readouterr().out == "3 <     today\n"


@pytest.mark.parametrize("brief", [False, True])
def test_colours_come_from_the_style(capsys: Output, brief: bool) -> None:
    chat(Printer(Prints(), coloured, brief=brief))
    assert "\x1b[1;31mBROKEN\x1b[0m" in capsys.readouterr().out


def test_end_gives_the_verdict(capsys: Output) -> None:
    events: list[TapEvent] = []
    other = WebSocketExchange(1, events.append, None)
    other.on_data(CLIENT, request())
    other.on_data(SERVER, response())
    other.on_end()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    show(Printer(Prints(), plain, brief=True), ended)
    assert capsys.readouterr().out == (
        "connection 1 ended\nVALID: 2 heads, 0 frames, 0 messages.\n"
        "  The tap closed the connection.\n\n"
    )


def test_end_after_both_closes_is_the_verdict_alone(capsys: Output) -> None:
    show(Printer(Prints(), plain, brief=True), Ended(1, Verdict("valid", "fine")))
    assert capsys.readouterr().out == "connection 1 ended\nVALID: fine.\n\n"
