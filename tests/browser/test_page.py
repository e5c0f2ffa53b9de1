"""The page in a real Chromium, against a real daemon: what a person sees and does."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.devtools import Browser, Tab, chromium
from tests.support import ROOT, Daemon, command, daemon
from wsproto_min.net.client import Client, connect

# The texts of the messages on the screen, each without its time.
TEXTS = (
    "[...document.querySelectorAll('#list .bubble')].map("
    "(bubble) => [...bubble.childNodes].slice(0, -1).map((node) => node.textContent).join(''))"
)
CONNECTED = "document.querySelector('#status').textContent === 'Connected'"
SCREEN = (1200, 800)
AT_THE_END = "document.querySelector('#jump').hidden"


class Person:
    """Somebody at a tab of their own."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def give_name(self, name: str) -> None:
        """Answer the page's question."""
        self.tab.wait("document.activeElement.id === 'name'")
        self.tab.evaluate("document.activeElement.select()")
        self.tab.type(name)
        self.tab.press("Enter")

    def wait_until_inside(self) -> None:
        self.tab.wait(f"{CONNECTED} && !document.querySelector('#ask').open")

    def say(self, text: str) -> None:
        """Type a message, or a command, and press Enter."""
        self.tab.evaluate("document.querySelector('#message').focus()")
        self.tab.type(text)
        self.tab.press("Enter")

    def texts(self) -> list[str]:
        texts: list[str] = self.tab.evaluate(TEXTS)
        return texts

    def wait_for(self, *texts: str) -> None:
        """Wait until exactly these messages are on the screen and all are confirmed."""
        self.tab.wait(
            f"JSON.stringify({TEXTS}) === JSON.stringify({json.dumps(texts)})"
            " && !document.querySelector('.pending')"
        )

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.tab.wait(
            f"document.querySelector({json.dumps(selector)})?.textContent"
            f".includes({json.dumps(text)})"
        )


class Crowd:
    """Brings people to a page, and sees to it that no console has had to complain."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.tabs: list[Tab] = []

    def open(self, url: str, *, beside: Person | None = None) -> Person:
        """Open a tab; `beside` somebody it shares what they have stored."""
        tab = self.browser.open(beside=None if beside is None else beside.tab)
        self.tabs.append(tab)
        tab.resize(*SCREEN)
        tab.go(url)
        return Person(tab)

    def join(self, url: str, name: str) -> Person:
        """Let somebody enter."""
        person = self.open(url)
        person.give_name(name)
        person.wait_until_inside()
        return person

    def close(self) -> list[str]:
        """Close all tabs; return what their consoles said."""
        complaints = []
        for tab in self.tabs:
            tab.evaluate("1")  # what was said until now has arrived with the answer
            complaints += tab.complaints
            tab.close()
        return complaints


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def chat() -> Iterator[Daemon]:
    """One daemon for all tests that use rooms of their own."""
    with daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as running:
        yield running


@pytest.fixture
def crowd(browser: Browser) -> Iterator[Crowd]:
    crowd = Crowd(browser)
    yield crowd
    # A server that is away is the only thing that a console may speak of.
    complaints = [text for text in crowd.close() if "net::ERR_CONNECTION_" not in text]
    assert complaints == []


def url(chat: Daemon, room: str = "lobby") -> str:
    host, port = chat.address
    return f"http://{host}:{port}/" + ("" if room == "lobby" else f"r/{room}")


def run_chatd(*arguments: str) -> str:
    """Run a command to its end; return what it prints."""
    return subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def join(chat: Daemon, room: str, name: str) -> Client:
    """Join with our own client, as a program would."""
    host, port = chat.address
    client = connect(f"ws://{host}:{port}/", subprotocols=["chat.v1"])
    client.send(json.dumps({"type": "join", "room": room, "name": name}))
    return client


def tell(client: Client, room: str, text: str) -> None:
    client.send(json.dumps({"type": "say", "room": room, "text": text, "key": text[:64]}))


def stored(chat: Daemon, room: str) -> list[tuple[str, str]]:
    """Return the names and texts that the log has of a room, 50 at the most."""
    with join(chat, room, f"auditor {secrets.token_hex(4)}") as client:
        while True:
            answer: dict[str, Any] = json.loads(client.recv(10.0))
            assert answer["type"] != "error", answer
            if answer["type"] == "joined":
                return [(each["name"], each["text"]) for each in answer["messages"]]


# Talking.


def test_two_people_talk(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "two"), "Ada")
    grace = crowd.join(url(chat, "two"), "Grace")
    ada.wait_for_text("#members", "Grace")
    ada.tab.type("Hello")
    grace.wait_for_text("#typing", "Ada is typing")
    ada.tab.press("Enter")
    grace.wait_for("Hello")
    grace.wait_for_text("#typing", "")
    grace.say("Hello, Ada")
    for person in (ada, grace):
        person.wait_for("Hello", "Hello, Ada")
        person.wait_for_text(".day", "Today")
    owned = "[...document.querySelectorAll('#list .row')].map((r) => r.classList.contains('own'))"
    assert ada.tab.evaluate(owned) == [True, False]
    assert grace.tab.evaluate(owned) == [False, True]
    assert "✓" in ada.tab.evaluate("document.querySelector('.own .meta').textContent")
    assert ada.tab.evaluate(
        "!isNaN(Date.parse(document.querySelector('time').dateTime))"
        " && document.querySelector('time').title.length > 10"
    )
    assert ada.tab.evaluate("!!document.querySelector('.mention')"), "she was named"


def test_a_name_that_is_taken_asks_for_another(chat: Daemon, crowd: Crowd) -> None:
    crowd.join(url(chat, "taken"), "Ada")
    other = crowd.open(url(chat, "taken"))
    other.give_name("ADA")
    other.wait_for_text("#complaint", "The name “ADA” is taken in taken")
    other.give_name("Ada Two")
    other.wait_until_inside()
    assert not other.tab.evaluate("document.querySelector('#complaint').textContent")
    other.wait_for_text("#members", "Ada Two")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (" ", "at least one character"),
        ("x" * 33, "at most 32 characters"),
        ("a\u202eb", "invisible characters"),
    ],
    ids=["empty", "too long", "direction"],
)
def test_a_name_that_cannot_be_is_refused_with_a_sentence(
    chat: Daemon, crowd: Crowd, name: str, complaint: str
) -> None:
    somebody = crowd.open(url(chat, "names"))
    somebody.give_name(name)
    somebody.wait_for_text("#complaint", complaint)


def test_a_reload_keeps_name_and_history(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "reload"), "Ada")
    ada.say("one")
    ada.say("two")
    ada.wait_for("one", "two")
    ada.tab.reload()
    ada.wait_until_inside()
    ada.wait_for("one", "two")
    ada.say("three")
    ada.wait_for("one", "two", "three")
    assert stored(chat, "reload") == [("Ada", text) for text in ("one", "two", "three")]


def test_a_name_is_remembered_by_the_next_tab(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "first"), "Ada")
    second = crowd.open(url(chat, "second"), beside=ada)
    second.wait_until_inside()
    second.wait_for_text("#members", "Ada")


def test_what_others_write_stays_text(chat: Daemon, crowd: Crowd) -> None:
    texts = [
        '<img src=x onerror="document.title=1">',
        "<script>document.title = 1</script>",
        "javascript:alert(1)",
        "[a](javascript:alert(1)) data:text/html,<b>b</b>",
        "see https://example.org/a_(b)?c=d&e#f, (http://example.org/x) and https://",
    ]
    ada = crowd.join(url(chat, "text"), "Ada")
    with join(chat, "text", "<b>Eve</b>") as eve:
        for text in texts:
            tell(eve, "text", text)
        ada.wait_for(*texts)
    assert ada.tab.evaluate("document.querySelector('#list .who bdi').textContent") == "<b>Eve</b>"
    assert ada.tab.evaluate("document.querySelectorAll('#list :is(img, script, b)').length") == 0
    links = "[...document.querySelectorAll('#list a')].map((a) => [a.href, a.rel, a.target])"
    assert ada.tab.evaluate(links) == [
        ["https://example.org/a_(b)?c=d&e#f", "noopener noreferrer", "_blank"],
        ["http://example.org/x", "noopener noreferrer", "_blank"],
    ]
    assert ada.tab.evaluate("document.title") == "text · chatd"


def test_commands_do_what_help_says(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "commands"), "Ada")
    ada.say("/help")
    ada.wait_for_text("#notice", "/me TEXT")
    ada.say("/me waves")
    ada.wait_for("Ada waves")
    ada.say("//me is text")
    ada.say("/dance")
    ada.wait_for_text("#notice", "There is no command /dance")
    assert ada.tab.evaluate("document.querySelector('#message').value") == "/dance"
    ada.tab.evaluate("document.querySelector('#message').select()")
    ada.say("/nick Ada L")
    ada.wait_for_text("#you", "Ada L")
    ada.wait_for_text("#count", "1")
    ada.say("/join elsewhere")
    ada.wait_for_text("h1", "elsewhere")
    ada.wait_for_text("#members", "Ada L")
    assert ada.tab.evaluate("location.pathname") == "/r/elsewhere"
    ada.say("/leave")
    ada.wait_for_text("h1", "commands")
    assert ada.tab.evaluate("location.pathname") == "/r/commands"
    assert ada.tab.evaluate("document.querySelector('#message').value") == ""
    ada.say("/leave")
    ada.wait_for_text("#notice", "only room")


def test_a_new_name_that_is_taken_leaves_the_old_one(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "nick"), "Ada")
    with join(chat, "nick", "Grace"):
        ada.wait_for_text("#members", "Grace")
        ada.say("/nick Grace")
        ada.wait_for_text("#complaint", "The name “Grace” is taken in nick")
        ada.tab.press("Escape")
        ada.say("still me")
        ada.wait_for("still me")
    assert stored(chat, "nick") == [("Ada", "still me")]


def test_a_text_that_is_too_long_stays_in_the_box(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "long"), "Ada")
    ada.say("ä" * 4001)
    ada.wait_for_text("#notice", "1 characters too long")
    assert ada.tab.evaluate("document.querySelector('#message').value.length") == 4001
    ada.tab.evaluate("document.querySelector('#message').select()")
    ada.tab.type("x" * 2000)
    ada.tab.press("Enter", shift=True)
    ada.say("y" * 1999)
    ada.wait_for("x" * 2000 + "\n" + "y" * 1999)


def test_what_is_said_elsewhere_is_counted_and_marked(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "here"), "Ada")
    ada.say("/join there")
    ada.wait_for_text("h1", "there")
    with join(chat, "here", "Grace") as grace:
        ada.tab.wait("document.querySelectorAll('#rooms li').length === 2")
        tell(grace, "here", "one")
        tell(grace, "here", "two for Ada")
        ada.tab.wait("document.title === '(2) there · chatd'")
        ada.wait_for_text("#rooms .mentioned .badge", "2 unread")
        ada.tab.click("#rooms .unread a")
        ada.wait_for("one", "two for Ada")
        ada.tab.wait("document.title === 'here · chatd'")
    divider = "document.querySelector('.new').nextElementSibling.nextElementSibling.textContent"
    assert ada.tab.evaluate(divider).startswith("one")
    ada.tab.evaluate("history.back()")
    ada.wait_for_text("h1", "there")


# A server that comes and goes.


def test_nothing_is_lost_or_doubled_when_the_server_is_killed(crowd: Crowd, tmp_path: Path) -> None:
    database = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", *database) as first:
        ada = crowd.join(url(first, "kill"), "Ada")
        grace = crowd.join(url(first, "kill"), "Grace")
        grace.say("before")
        ada.wait_for("before")
        first.stop(signal.SIGKILL)
    ada.wait_for_text("#status", "The chat server cannot be reached; trying again in")
    assert ada.tab.evaluate("document.querySelector('#retry').hidden") is False
    meanwhile = [f"meanwhile {number}" for number in range(5)]
    for text in meanwhile:
        ada.say(text)
    assert ada.tab.evaluate("document.querySelectorAll('.pending').length") == 5
    grace.say("me too")
    port = str(first.address[1])
    with daemon("chatd", "--port", port, *database) as second:
        for person in (ada, grace):
            person.wait_until_inside()
            person.tab.wait(f"{TEXTS}.length === 7 && !document.querySelector('.pending')")
        log = stored(second, "kill")
        assert [text for name, text in log if name == "Ada"] == meanwhile
        assert sorted(log) == sorted(
            [("Grace", "before"), ("Grace", "me too"), *(("Ada", text) for text in meanwhile)]
        )
        for person in (ada, grace):
            assert person.texts() == [text for _, text in log]
        second.stop(signal.SIGKILL)
    ada.wait_for_text("#status", "trying again in")
    ada.say("over a reload")
    with daemon("chatd", "--port", port, *database) as third:
        ada.tab.reload()
        ada.wait_until_inside()
        expected = [*(text for _, text in log), "over a reload"]
        ada.wait_for(*expected)
        assert stored(third, "kill") == [*log, ("Ada", "over a reload")]


def test_a_tab_whose_session_goes_on_in_another_says_so_and_stays_away(
    chat: Daemon, crowd: Crowd
) -> None:
    ada = crowd.join(url(chat, "moved"), "Ada")
    ada.wait_for_text("#members", "Ada")
    rooms = ada.tab.evaluate("sessionStorage.getItem('chatd.rooms')")
    copy = crowd.open("about:blank", beside=ada)
    # What a browser does when a tab is duplicated.
    script = f"location.port && sessionStorage.setItem('chatd.rooms', {json.dumps(rooms)})"
    copy.tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    copy.tab.go(url(chat, "moved"))
    copy.wait_until_inside()
    ada.wait_for_text("#status", "This chat goes on in another tab or window.")
    ada.tab.click("#retry")
    ada.wait_until_inside()
    copy.wait_for_text("#status", "This chat goes on in another tab or window.")


# Long logs.


def test_ten_thousand_messages_are_scrolled_through_without_a_jump(
    chat: Daemon, crowd: Crowd
) -> None:
    number = 10_000
    with join(chat, "big", "Grace") as grace:
        for start in range(0, number, 500):
            for index in range(start, start + 500):
                tell(grace, "big", f"message {index}" + " word" * (index % 40))
            grace.send(json.dumps({"type": "ping", "t": start}))
            while json.loads(grace.recv(10.0)).get("t") != start:
                pass
    ada = crowd.join(url(chat, "big"), "Ada")
    ada.tab.wait(f"{AT_THE_END} && {TEXTS}.at(-1).startsWith('message 9999')")
    assert not ada.tab.evaluate("document.querySelector('.new')"), "on a first visit all is old"
    # Scroll up to the first message, and look in each frame how far what is read has moved.
    ada.tab.evaluate(
        """
        new Promise((done, fail) => {
          const log = document.querySelector('#log'), list = document.querySelector('#list');
          window.most = 0;
          window.jump = 0;
          let row, place;
          const step = () => {
            window.most = Math.max(window.most, list.children.length);
            if (row?.isConnected) {
              const moved = Math.abs(row.getBoundingClientRect().bottom - place);
              window.jump = Math.max(window.jump, moved);
            }
            const first = list.querySelector('.bubble').textContent;
            if (log.scrollTop === 0 && first.startsWith('message 0')) return done();
            log.scrollTop -= 10000;
            const rows = [...list.children];
            row = rows.find((each) => each.getBoundingClientRect().bottom > 100);
            place = row.getBoundingClientRect().bottom;
            requestAnimationFrame(() => requestAnimationFrame(step));
          };
          step();
        })
        """,
        within=60.0,
    )
    assert ada.tab.evaluate("window.jump") < 2
    assert ada.tab.evaluate("window.most") <= 450
    assert ada.texts()[:2] == ["message 0", "message 1 word"]
    ada.tab.wait("document.querySelector('#top').textContent === 'This is where big begins.'")
    with join(chat, "big", "Linus") as linus:
        tell(linus, "big", "news")
        ada.wait_for_text("#jump", "1 new")
        assert ada.texts()[0] == "message 0", "the reader is not there, and stays where she is"
        ada.tab.click("#jump")
        ada.tab.wait(f"{AT_THE_END} && {TEXTS}.at(-1) === 'news'")


# Invitations.


def test_an_invitation_opens_the_chat_and_a_forged_one_does_not(
    crowd: Crowd, tmp_path: Path
) -> None:
    database = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", "--invite-only", *database) as chat:
        arguments = ("invite", "Ada", *database, "--url", url(chat))
        link = run_chatd(*arguments).split()[-1]
        ada = crowd.open(link)
        ada.wait_until_inside()
        ada.wait_for_text("#you", "Ada")
        assert "invite" not in ada.tab.evaluate("location.href")
        ada.say("I was let in")
        ada.wait_for("I was let in")
        ada.tab.reload()
        ada.wait_until_inside()
        ada.wait_for("I was let in")

        head, _, signature = link.rpartition(".")
        forged = crowd.open(f"{head}.{signature[::-1]}")
        forged.wait_for_text("#top", "Your invitation does not open this room.")
        forged.wait_for_text("#top", "Ask whoever invited you for a new link")

        stranger = crowd.open(url(chat))
        stranger.give_name("Eve")
        stranger.wait_for_text("#top", "This chat is by invitation only.")
        assert stranger.texts() == []

        crowd.open(link).wait_for_text("#top", "Ada is in lobby already")
        run_chatd("revoke", "Ada", *database)
        ada.wait_for_text("#notice", "The invitation was revoked")
        ada.wait_for_text("#status", "Not let in")


# Where the page comes from, and what it looks like.


def test_the_page_opened_from_disk_finds_the_server(
    chat: Daemon, crowd: Crowd, tmp_path: Path
) -> None:
    page = shutil.copy(ROOT / "client.html", tmp_path)
    person = crowd.open(f"file://{page}?port={chat.address[1]}")
    person.give_name("Ada")
    person.wait_until_inside()
    assert person.tab.evaluate("location.href") == url(chat)


def test_the_page_opened_from_disk_says_how_to_start_a_server(crowd: Crowd, tmp_path: Path) -> None:
    page = shutil.copy(ROOT / "client.html", tmp_path)
    with socket.socket() as nobody:  # has the port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        person = crowd.open(f"file://{page}?port={nobody.getsockname()[1]}")
        person.wait_for_text("#status", "start one with: python3 -m chatd")


def test_a_phone_needs_no_horizontal_scrolling(chat: Daemon, crowd: Crowd) -> None:
    room = "a-long-name-of-a-room-with-as-many-characters-as-are-allowed-yes"
    ada = crowd.open("about:blank")
    ada.tab.resize(390, 844, mobile=True)
    ada.tab.go(url(chat, room))
    ada.give_name("W" * 32)
    ada.wait_until_inside()
    with join(chat, room, "M" * 32) as grace:
        tell(grace, room, "m" * 500)
        tell(grace, room, "/me " + "w" * 300 + " https://example.org/" + "x" * 300)
        ada.tab.wait(f"{TEXTS}.length === 2")
        ada.say("/help")
        ada.wait_for_text("#notice", "/me")
        overflowing = (
            "[...document.querySelectorAll('html, body, main, header, #log, #list, #composer')]"
            ".filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.outerHTML)"
        )
        assert ada.tab.evaluate("document.documentElement.clientWidth") == 390
        assert ada.tab.evaluate(overflowing) == []
        assert ada.tab.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert ada.tab.evaluate(
            "[...document.querySelectorAll('input, textarea')]"
            ".every((each) => parseFloat(getComputedStyle(each).fontSize) >= 16)"
        ), "smaller ones make a phone zoom in"
        # Rooms and members are drawers here, closed by Escape.
        ada.tab.click("#show-people")
        ada.tab.wait("getComputedStyle(document.querySelector('#people')).visibility === 'visible'")
        ada.tab.press("Escape")
        ada.tab.wait("getComputedStyle(document.querySelector('#people')).visibility === 'hidden'")
        ada.tab.click("#show-rooms")
        ada.tab.wait("document.querySelector('#side').contains(document.activeElement)")


def test_a_screen_reader_meets_names_and_roles(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.open(url(chat, "spoken"))
    ada.tab.wait("document.querySelector('#ask').open")
    assert ("textbox", "Name") in ada.tab.accessible()
    ada.give_name("Ada")
    ada.wait_until_inside()
    ada.say("Hello")
    ada.wait_for("Hello")
    met = ada.tab.accessible()
    for role, name in [
        ("textbox", "Message"),
        ("button", "Send"),
        ("log", "Messages"),
        ("navigation", "Rooms"),
        ("list", "Rooms"),
        ("complementary", "Members"),
        ("list", "Members"),
        ("textbox", "Join a room"),
        ("heading", "spoken"),
        ("main", ""),
    ]:
        assert (role, name) in met
    assert any(role == "status" for role, _ in met)
    assert any(role == "link" and name.startswith("spoken") for role, name in met)


def test_all_is_reached_by_keyboard(chat: Daemon, crowd: Crowd) -> None:
    ada = crowd.join(url(chat, "keys"), "Ada")
    ada.tab.wait("document.activeElement.id === 'message'")
    reached = set()
    for _ in range(20):
        ada.tab.press("Tab")
        reached.add(ada.tab.evaluate("document.activeElement.id || document.activeElement.href"))
    assert {"message", "log", "enter-room", "rename", url(chat, "keys")} <= reached
    ada.tab.press("Escape")
    ada.tab.wait("document.activeElement.id === 'message'")
