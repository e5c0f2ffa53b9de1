"""The page of the command `tap` in Chromium, beside a chat that goes through the tap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.browser.devtools import Tab
from tests.browser.test_accessibility import FORCED, axe, violations
from tests.browser.test_page import User, Users, url
from tests.support import Client, Daemon, daemon, exchange, handshake
from wsproto_min.codes import Opcode
from wsproto_min.frames import encode_frame

__all__ = ["axe"]  # a fixture

KEY = bytes.fromhex("37fa213d")
LIVE = "document.querySelector('#status').textContent === 'Live'"


class Tap(Daemon):
    """A running tap; `page` is the URL of its page."""

    def __init__(self, running: Daemon) -> None:
        super().__init__(running.process, running.line)
        assert running.process.stdout is not None
        self.page = running.process.stdout.readline().decode().split()[-1]


@pytest.fixture
def tap(chat: Daemon) -> Iterator[Tap]:
    host, port = chat.address
    options = ("--listen", "0", "--web", "0", "--brief")
    with daemon("wsproto_min", "tap", f"ws://{host}:{port}/", *options) as running:
        yield Tap(running)


def watch(users: Users, tap: Tap) -> Tab:
    """Open the page of the tap, and wait for its history."""
    tab = users.open(tap.page).tab
    tab.wait(LIVE)
    return tab


def rows(tab: Tab, text: str) -> str:
    """Return an expression for the rows that contain a text."""
    return (
        "[...document.querySelectorAll('#list > .row')].filter("
        f"(row) => row.textContent.includes({json.dumps(text)}))"
    )


def expand(tab: Tab, text: str) -> None:
    """Expand the only row that contains a text, with the keyboard."""
    row = rows(tab, text)
    tab.wait(f"{row}.length === 1")
    tab.evaluate(f"{row}[0].querySelector('summary').focus()")
    tab.press("Enter")
    tab.wait(f"!!{row}[0].querySelector('.panel')")


def text_of(tab: Tab, selector: str) -> str:
    text: str = tab.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    return text


def break_a_rule(tap: Tap) -> None:
    """Send a message in two fragments, and then a frame with a reserved opcode."""
    with Client(tap.address) as client:
        client.sock.sendall(encode_frame(Opcode.TEXT, b"Hello, ", fin=False, mask=KEY))
        client.sock.sendall(encode_frame(Opcode.PING, b"alive?", mask=KEY))
        client.sock.sendall(encode_frame(Opcode.CONTINUATION, b"tap!", mask=KEY))
        client.sock.sendall(b"\x83\x80" + KEY)
        client.receive_all()


def test_chat_through_the_tap_appears_on_the_page(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    ada = users.join(url(tap, "watched"), "Ada")
    ada.say("Note G is ready.")
    ada.wait_for("Note G is ready.")
    # The client's message, and that of the server to all members.
    tab.wait(f"{rows(tab, 'Note G is ready.')}.length >= 2")
    tab.wait(f"{rows(tab, 'GET /r/watched')}.length === 1")
    sent = f"{rows(tab, 'Note G is ready.')}[0].querySelector('details')"
    assert tab.evaluate(f"{sent}.className").startswith("client data")
    size = tab.evaluate(f"{sent}.querySelector('.size').innerText")
    assert re.fullmatch(r"\d+ bytes, \d+ on the wire", size)
    tab.evaluate(f"{sent}.open = true")
    tab.wait(f"!!{sent}.querySelector('.panel')")
    panel = tab.evaluate(f"{sent}.querySelector('.panel').innerText")
    assert "decompressed from" in panel  # as the browser and chatd have negotiated
    assert '"text":"Note G is ready."' in panel


def test_late_page_shows_the_history(users: Users, tap: Tap) -> None:
    break_a_rule(tap)
    tab = watch(users, tap)
    tab.wait(f"{rows(tab, 'Connection 1 ended: broken')}.length === 1")
    assert tab.evaluate(f"{rows(tab, 'still')}.length") == 0


def test_each_bit_of_the_figure_explains_its_field(users: Users, tap: Tap) -> None:
    break_a_rule(tap)
    tab = watch(users, tap)
    expand(tab, "PING")
    assert tab.evaluate("document.querySelectorAll('.words').length") == 3
    bits = tab.evaluate(
        "[...document.querySelectorAll('.words .bits span')].map((bit) => bit.innerText).join('')"
    )
    assert bits[:16] == f"{0x8986:016b}"
    assert bits[16:48] == f"{int.from_bytes(KEY, 'big'):032b}"
    tab.click(".field[aria-label='opcode, 0x9']")
    detail = text_of(tab, ".detail")
    assert "a Ping: the receiver answers with a Pong" in detail
    assert "Opcodes 3 to 7 and B to F are reserved and must not be sent. (RFC 6455, 5.2)" in detail
    tab.evaluate("document.querySelector('.field-key').focus()")
    tab.press("Enter")
    assert "37 fa 21 3d" in text_of(tab, ".detail")
    # Both parts of the key are marked, in two rows.
    assert tab.evaluate("document.querySelectorAll('.field[aria-pressed=true]').length") == 2
    masked = bytes(byte ^ KEY[index % 4] for index, byte in enumerate(b"alive?"))
    table = text_of(tab, "table")
    for cell in (masked.hex(" "), b"alive?".hex(" "), "alive?"):
        assert cell in table


def test_fragments_are_joined(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    break_a_rule(tap)
    expand(tab, "TEXT 1 of 2")
    panel = text_of(tab, ".panel")
    assert "Fragment 1 of 2 (RFC 6455, 5.4)" in panel
    assert "Joined message: text, 11 bytes\nHello, tap!" in panel
    tab.wait(f"{rows(tab, 'CONTINUATION 2 of 2')}.length === 1")


def test_violation_is_marked_with_rule_byte_and_close_code(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    break_a_rule(tap)
    tab.wait(f"{rows(tab, 'Not explained from here on: the bytes of the client')}.length === 1")
    expand(tab, "opcode 0x3header only")
    violation = text_of(tab, ".violation")
    assert "opcode 0x3 is reserved" in violation
    assert "RFC 6455, 5.2" in violation
    assert "1002 PROTOCOL_ERROR" in violation
    assert "of the client's bytes" in violation
    # Of the fields of byte 0, only the opcode is marked.
    marked = "[...document.querySelectorAll('.field.broken')].map((field) => field.ariaLabel)"
    assert tab.evaluate(marked) == ["opcode, 0x3"]


def test_control_characters_are_escaped_in_texts(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    with Client(tap.address) as client:
        client.send("left \u202e right\n\x1b[31m")
    text = "left \\u202e right"
    expand(tab, text)
    label = f"{rows(tab, text)}[0].querySelector('.text').innerText"
    assert tab.evaluate(label) == f"{text}\\x0a\\x1b[31m"
    assert text_of(tab, ".joined") == f"{text}\n\\x1b[31m"  # keeps its lines


def test_end_of_the_connection_is_described(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    with Client(tap.address):
        pass  # ends its stream without a Close frame
    tab.wait(
        f"{rows(tab, 'The client ended its stream without a Close frame: a browser reports 1006.')}"
        ".length === 1"
    )


def test_body_of_a_refused_handshake_is_shown(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    foreign = b"Origin: http://evil.example\r\n\r\n"
    exchange(tap.address, handshake().removesuffix(b"\r\n") + foreign)
    tab.wait(f"{rows(tab, 'The body of the response: ')}.length === 1")


def test_answer_of_the_tap_itself_is_marked(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    exchange(tap.address, b"GET / HTTP/2\r\n\r\n")
    tab.wait(f"{rows(tab, 'The tap answered 400: the request is not in HTTP/1.1')}.length === 1")


def test_filter_shows_one_connection(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    break_a_rule(tap)
    break_a_rule(tap)
    tab.wait(f"{rows(tab, 'Connection 2 ended')}.length === 1")
    tab.evaluate("filter.value = '2'; filter.dispatchEvent(new Event('change')); filter.value")
    shown = "[...document.querySelectorAll('#list > .row:not([hidden])')]"
    assert tab.evaluate(f"new Set({shown}.map((row) => row.dataset.connection)).size") == 1
    assert tab.evaluate(f"{shown}[0].dataset.connection") == "2"


def test_page_keeps_the_conversation_after_the_tap(users: Users, tap: Tap) -> None:
    tab = watch(users, tap)
    break_a_rule(tap)
    tab.wait(f"{rows(tab, 'Connection 1 ended')}.length === 1")
    tap.stop()
    tab.wait("document.querySelector('#status').textContent === 'The tap has ended'")
    assert tab.evaluate(f"{rows(tab, 'Connection 1 ended')}.length") == 1


@pytest.mark.parametrize("look", ["light", "dark", "phone", "forced colors"])
def test_axe_finds_nothing_in_the_diagram(users: Users, tap: Tap, axe: str, look: str) -> None:
    tab = watch(users, tap)
    if look == "phone":
        tab.resize(400, 860, mobile=True)
    elif look == "forced colors":
        tab.call("Emulation.setEmulatedMedia", features=FORCED)
    else:
        tab.prefer(look)
    assert violations(User(tab), axe) == []
    break_a_rule(tap)
    tab.wait(f"{rows(tab, 'Connection 1 ended')}.length === 1")
    for text in ("TEXT 1 of 2", "opcode 0x3", "GET / HTTP/1.1"):
        tab.evaluate(f"{rows(tab, text)}[0].querySelector('details').open = true")
    tab.wait("document.querySelectorAll('.panel').length === 3")
    tab.evaluate("document.querySelector('.field').click()")
    assert violations(User(tab), axe) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
