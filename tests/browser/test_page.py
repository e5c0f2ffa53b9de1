"""client.html in Chromium, with a chatd process as its server."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.browser.devtools import Browser, Tab
from tests.support import ROOT, Daemon, command, daemon
from wsproto_min.net.client import Client, connect

# JavaScript expressions. The texts of the rendered messages, without their times:
TEXTS = (
    "[...document.querySelectorAll('#message-list .bubble')].map("
    "(bubble) => [...bubble.childNodes].slice(0, -1).map((node) => node.textContent).join(''))"
)
CONNECTED = "document.querySelector('#status').textContent === 'Connected'"
AT_LATEST = "document.querySelector('#jump-to-latest').hidden"

SCREEN = (1200, 800)  # CSS pixels


class User:
    """A chat user with a tab."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def enter_name(self, name: str) -> None:
        """Fill in the name dialog and submit it."""
        self.tab.wait("document.activeElement.id === 'name-input'")
        self.tab.evaluate("document.activeElement.select()")
        self.tab.type(name)
        self.tab.press("Enter")

    def wait_until_joined(self) -> None:
        self.tab.wait(f"{CONNECTED} && !document.querySelector('#name-dialog').open")

    def say(self, text: str) -> None:
        """Type a message or a command and press Enter."""
        self.tab.evaluate("document.querySelector('#message-input').focus()")
        self.tab.type(text)
        self.tab.press("Enter")

    def texts(self) -> list[str]:
        texts: list[str] = self.tab.evaluate(TEXTS)
        return texts

    def wait_for(self, *texts: str) -> None:
        """Wait until the page shows exactly these messages and none of them is pending."""
        self.tab.wait(
            f"JSON.stringify({TEXTS}) === JSON.stringify({json.dumps(texts)})"
            " && !document.querySelector('.pending')"
        )

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element contains a text."""
        self.tab.wait(
            f"document.querySelector({json.dumps(selector)})?.textContent"
            f".includes({json.dumps(text)})"
        )


class Users:
    """Creates the users of a test and collects the errors in their consoles."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.tabs: list[Tab] = []

    def open(self, url: str, *, storage_of: User | None = None) -> User:
        """Open a tab; it shares its storage with the tab of `storage_of`, if given."""
        tab = self.browser.open(storage_of=None if storage_of is None else storage_of.tab)
        self.tabs.append(tab)
        tab.resize(*SCREEN)
        tab.go(url)
        return User(tab)

    def join(self, url: str, name: str) -> User:
        """Open a tab and join the room of the URL."""
        user = self.open(url)
        user.enter_name(name)
        user.wait_until_joined()
        return user

    def close(self) -> list[str]:
        """Close all tabs; return the errors in their consoles."""
        errors = []
        for tab in self.tabs:
            tab.evaluate("1")  # events arrive before the response
            errors += tab.console_errors
            tab.close()
        return errors


def url(chat: Daemon, room: str = "lobby") -> str:
    host, port = chat.address
    return f"http://{host}:{port}/" + ("" if room == "lobby" else f"r/{room}")


def run_chatd(*arguments: str) -> str:
    """Run a chatd command; return its standard output."""
    return subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def join(chat: Daemon, room: str, name: str) -> Client:
    """Join a room with a chat.v1 client that has no page.

    It answers Pings at any time: a test on a slow machine may not read for longer than the
    server waits.
    """
    host, port = chat.address
    address = f"ws://{host}:{port}/"
    client = connect(address, subprotocols=["chat.v1"], background_reads=True)
    client.send(json.dumps({"type": "join", "room": room, "name": name}))
    return client


def say(client: Client, room: str, text: str) -> None:
    client.send(json.dumps({"type": "say", "room": room, "text": text, "key": text[:64]}))


def say_many(client: Client, room: str, texts: Sequence[str]) -> None:
    """Send messages, and wait until the server has stored them."""
    for start in range(0, len(texts), 500):
        for text in texts[start : start + 500]:
            say(client, room, text)
        client.send(json.dumps({"type": "ping", "t": start}))
        while json.loads(client.recv(10.0)).get("t") != start:
            pass


def stored_messages(chat: Daemon, room: str) -> list[tuple[str, str]]:
    """Return the names and texts of the newest 50 messages in the message store."""
    with join(chat, room, f"auditor {secrets.token_hex(4)}") as client:
        while True:
            message: dict[str, Any] = json.loads(client.recv(10.0))
            assert message["type"] != "error", message
            if message["type"] == "joined":
                return [(each["name"], each["text"]) for each in message["messages"]]


# Messages, names, commands.


def test_page_with_two_users_delivers_their_messages(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "two"), "Ada")
    grace = users.join(url(chat, "two"), "Grace")
    ada.wait_for_text("#member-list", "Grace")
    ada.tab.type("Hello")
    grace.wait_for_text("#typing-indicator", "Ada is typing")
    ada.tab.press("Enter")
    grace.wait_for("Hello")
    grace.wait_for_text("#typing-indicator", "")
    grace.say("Hello, Ada")
    for user in (ada, grace):
        user.wait_for("Hello", "Hello, Ada")
        user.wait_for_text(".date-divider", "Today")
    own = (
        "[...document.querySelectorAll('#message-list .row')]"
        ".map((row) => row.classList.contains('own'))"
    )
    assert ada.tab.evaluate(own) == [True, False]
    assert grace.tab.evaluate(own) == [False, True]
    assert "✓" in ada.tab.evaluate("document.querySelector('.own .meta').textContent")
    assert ada.tab.evaluate(
        "!isNaN(Date.parse(document.querySelector('time').dateTime))"
        " && document.querySelector('time').title.length > 10"
    )
    assert ada.tab.evaluate("!!document.querySelector('.mentions-me')"), "the text mentions Ada"


def test_name_dialog_with_taken_name_asks_again(chat: Daemon, users: Users) -> None:
    users.join(url(chat, "taken"), "Ada")
    other = users.open(url(chat, "taken"))
    other.enter_name("ADA")
    other.wait_for_text("#name-error", "The name “ADA” is taken in taken")
    other.enter_name("Ada Two")
    other.wait_until_joined()
    assert not other.tab.evaluate("document.querySelector('#name-error').textContent")
    other.wait_for_text("#member-list", "Ada Two")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (" ", "at least one character"),
        ("x" * 33, "at most 32 characters"),
        ("a\u202eb", "invisible characters"),
    ],
    ids=["empty", "too long", "direction"],
)
def test_name_dialog_with_invalid_name_shows_the_reason(
    chat: Daemon, users: Users, name: str, problem: str
) -> None:
    user = users.open(url(chat, "names"))
    user.enter_name(name)
    user.wait_for_text("#name-error", problem)


def test_page_after_reload_keeps_name_and_history(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "reload"), "Ada")
    ada.say("one")
    ada.say("two")
    ada.wait_for("one", "two")
    ada.tab.reload()
    ada.wait_until_joined()
    ada.wait_for("one", "two")
    ada.say("three")
    ada.wait_for("one", "two", "three")
    assert stored_messages(chat, "reload") == [("Ada", text) for text in ("one", "two", "three")]


def test_page_in_another_tab_remembers_the_name(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "first"), "Ada")
    second = users.open(url(chat, "second"), storage_of=ada)
    second.wait_until_joined()
    second.wait_for_text("#member-list", "Ada")


def test_page_with_html_in_messages_shows_it_as_text(chat: Daemon, users: Users) -> None:
    texts = [
        '<img src=x onerror="document.title=1">',
        "<script>document.title = 1</script>",
        "javascript:alert(1)",
        "[a](javascript:alert(1)) data:text/html,<b>b</b>",
        "see https://example.org/a_(b)?c=d&e#f, (http://example.org/x) and https://",
    ]
    ada = users.join(url(chat, "text"), "Ada")
    with join(chat, "text", "<b>Eve</b>") as eve:
        for text in texts:
            say(eve, "text", text)
        ada.wait_for(*texts)
    sender = "document.querySelector('#message-list .sender bdi').textContent"
    assert ada.tab.evaluate(sender) == "<b>Eve</b>"
    elements = "document.querySelectorAll('#message-list :is(img, script, b)').length"
    assert ada.tab.evaluate(elements) == 0
    links = (
        "[...document.querySelectorAll('#message-list a')].map((a) => [a.href, a.rel, a.target])"
    )
    assert ada.tab.evaluate(links) == [
        ["https://example.org/a_(b)?c=d&e#f", "noopener noreferrer", "_blank"],
        ["http://example.org/x", "noopener noreferrer", "_blank"],
    ]
    assert ada.tab.evaluate("document.title") == "text · chatd"


def test_commands_have_the_effects_listed_in_help(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "commands"), "Ada")
    ada.say("/help")
    ada.wait_for_text("#notice", "/me TEXT")
    ada.say("/me waves")
    ada.wait_for("Ada waves")
    ada.say("//me is text")
    ada.say("/dance")
    ada.wait_for_text("#notice", "Unknown command /dance")
    assert ada.tab.evaluate("document.querySelector('#message-input').value") == "/dance"
    ada.tab.evaluate("document.querySelector('#message-input').select()")
    ada.say("/nick Ada L")
    ada.wait_for_text("#profile", "Ada L")
    ada.wait_for_text("#member-count", "1")
    ada.say("/join elsewhere")
    ada.wait_for_text("h1", "elsewhere")
    ada.wait_for_text("#member-list", "Ada L")
    assert ada.tab.evaluate("location.pathname") == "/r/elsewhere"
    ada.say("/leave")
    ada.wait_for_text("h1", "commands")
    assert ada.tab.evaluate("location.pathname") == "/r/commands"
    assert ada.tab.evaluate("document.querySelector('#message-input').value") == ""
    ada.say("/leave")
    ada.wait_for_text("#notice", "only room")
    for action in ("message", "ignore", "kick", "ban"):
        ada.tab.evaluate("document.querySelector('#message-input').select()")
        ada.say(f"/{action}")
        ada.wait_for_text("#notice", "Add the name of a member")
        assert ada.tab.evaluate("document.querySelector('#message-input').value") == f"/{action}"


def test_nick_command_with_taken_name_keeps_the_old_name(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "nick"), "Ada")
    with join(chat, "nick", "Grace"):
        ada.wait_for_text("#member-list", "Grace")
        ada.say("/nick Grace")
        ada.wait_for_text("#name-error", "The name “Grace” is taken in nick")
        ada.tab.press("Escape")
        ada.say("still me")
        ada.wait_for("still me")
    assert stored_messages(chat, "nick") == [("Ada", "still me")]


def test_composer_with_too_long_text_keeps_it(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "long"), "Ada")
    ada.say("ä" * 4001)
    ada.wait_for_text("#notice", "The message has 4,001 characters; the limit is 4,000.")
    assert ada.tab.evaluate("document.querySelector('#message-input').value.length") == 4001
    ada.tab.evaluate("document.querySelector('#message-input').select()")
    ada.tab.type("x" * 2000)
    ada.tab.press("Enter", shift=True)
    ada.say("y" * 1999)
    ada.wait_for("x" * 2000 + "\n" + "y" * 1999)


def test_room_list_with_unread_messages_shows_count_and_mark(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "here"), "Ada")
    ada.say("/join there")
    ada.wait_for_text("h1", "there")
    with join(chat, "here", "Grace") as grace:
        ada.tab.wait("document.querySelectorAll('#room-list li').length === 2")
        say(grace, "here", "one")
        say(grace, "here", "two for Ada")
        ada.tab.wait("document.title === '(2) there · chatd'")
        ada.wait_for_text("#room-list .has-mention .badge", "2 unread")
        ada.tab.click("#room-list .unread a")
        ada.wait_for("one", "two for Ada")
        ada.tab.wait("document.title === 'here · chatd'")
    bubble = "document.querySelector('.unread-divider').nextElementSibling.nextElementSibling"
    assert ada.tab.evaluate(f"{bubble}.textContent").startswith("one")
    ada.tab.evaluate("history.back()")
    ada.wait_for_text("h1", "there")


# Reconnection.


def test_page_after_server_kill_sends_each_message_once(users: Users, tmp_path: Path) -> None:
    database = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", *database) as first:
        ada = users.join(url(first, "kill"), "Ada")
        grace = users.join(url(first, "kill"), "Grace")
        grace.say("before")
        ada.wait_for("before")
        first.stop(signal.SIGKILL)
    ada.wait_for_text("#status", "Cannot reach the chat server; retrying in")
    assert ada.tab.evaluate("document.querySelector('#retry').hidden") is False
    offline_texts = [f"meanwhile {number}" for number in range(5)]
    for text in offline_texts:
        ada.say(text)
    assert ada.tab.evaluate("document.querySelectorAll('.pending').length") == 5
    grace.say("me too")
    port = str(first.address[1])
    with daemon("chatd", "--port", port, *database) as second:
        for user in (ada, grace):
            user.wait_until_joined()
            user.tab.wait(f"{TEXTS}.length === 7 && !document.querySelector('.pending')")
        stored = stored_messages(second, "kill")
        assert [text for name, text in stored if name == "Ada"] == offline_texts
        assert sorted(stored) == sorted(
            [("Grace", "before"), ("Grace", "me too"), *(("Ada", text) for text in offline_texts)]
        )
        for user in (ada, grace):
            assert user.texts() == [text for _, text in stored]
        second.stop(signal.SIGKILL)
    ada.wait_for_text("#status", "retrying in")
    ada.say("over a reload")
    with daemon("chatd", "--port", port, *database) as third:
        ada.tab.reload()
        ada.wait_until_joined()
        expected = [*(text for _, text in stored), "over a reload"]
        ada.wait_for(*expected)
        assert stored_messages(third, "kill") == [*stored, ("Ada", "over a reload")]


def test_two_tabs_of_one_person_share_the_name(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "tabs"), "Ada")
    second = users.open(url(chat, "tabs"), storage_of=ada)
    second.wait_until_joined()
    with join(chat, "tabs", "Ben") as ben:
        say(ben, "tabs", "to both")
        ada.wait_for("to both")
        second.wait_for("to both")
        second.say("from the second")
        ada.wait_for("to both", "from the second")
        own = "document.querySelectorAll('.row.own').length"
        assert ada.tab.evaluate(own) == second.tab.evaluate(own) == 1
        assert ada.tab.evaluate("document.querySelector('#member-count').textContent") == (
            "Members 2"
        )
        ada.tab.evaluate("location.href = 'about:blank'")
        second.say("still here")
        second.wait_for("to both", "from the second", "still here")


def test_reopened_tab_has_name_rooms_drafts_and_unsent_texts(users: Users, tmp_path: Path) -> None:
    arguments = ("--db", str(tmp_path / "chat.db"), "--rate-limit", "0")
    with daemon("chatd", "--port", "0", *arguments) as chat:
        ada = users.join(url(chat, "home"), "Ada")
        ada.say("/join other")
        ada.wait_for_text("#room-title", "other")
        ada.wait_until_joined()
        ada.tab.evaluate("setInput('a draft')")
        port = chat.address[1]
        chat.process.kill()
        chat.process.wait()
        ada.wait_for_text("#status", "Cannot reach")
        ada.tab.evaluate("setInput('')")
        ada.say("said while offline")
        ada.tab.evaluate("setInput('a draft')")
        second = users.open("about:blank", storage_of=ada)
        users.tabs.remove(ada.tab)
        ada.tab.close()
        with daemon("chatd", "--port", str(port), *arguments) as again:
            second.tab.go(url(again, "other"))
            second.wait_until_joined()
            second.wait_for("said while offline")
            assert second.tab.evaluate("document.querySelector('#message-input').value") == (
                "a draft"
            )
            rooms = "[...document.querySelectorAll('#room-list bdi')].map((e) => e.textContent)"
            assert second.tab.evaluate(rooms) == ["home", "other"]


# Long histories.


def test_scrolling_through_10000_messages_moves_no_row(chat: Daemon, users: Users) -> None:
    number = 10_000
    with join(chat, "big", "Grace") as grace:
        say_many(
            grace, "big", [f"message {index}" + " word" * (index % 40) for index in range(number)]
        )
    ada = users.join(url(chat, "big"), "Ada")
    ada.tab.wait(f"{AT_LATEST} && {TEXTS}.at(-1).startsWith('message 9999')")
    divider = "document.querySelector('.unread-divider')"
    assert not ada.tab.evaluate(divider), "on a first visit no message is unread"
    # Scroll up to the first message. After each step, measure the movement of a visible row.
    ada.tab.evaluate(
        """
        new Promise((resolve) => {
          const log = document.querySelector('#message-log');
          const list = document.querySelector('#message-list');
          window.maxRows = 0;
          window.maxMovement = 0;
          let row, bottom;
          const step = () => {
            window.maxRows = Math.max(window.maxRows, list.children.length);
            if (row?.isConnected) {
              const movement = Math.abs(row.getBoundingClientRect().bottom - bottom);
              window.maxMovement = Math.max(window.maxMovement, movement);
            }
            const first = list.querySelector('.bubble').textContent;
            if (log.scrollTop === 0 && first.startsWith('message 0')) return resolve();
            log.scrollTop -= 10000;
            const rows = [...list.children];
            row = rows.find((each) => each.getBoundingClientRect().bottom > 100);
            bottom = row.getBoundingClientRect().bottom;
            requestAnimationFrame(() => requestAnimationFrame(step));
          };
          step();
        })
        """,
        timeout=60.0,
    )
    assert ada.tab.evaluate("window.maxMovement") < 2
    assert ada.tab.evaluate("window.maxRows") <= 450
    assert ada.texts()[:2] == ["message 0", "message 1 word"]
    history_status = "document.querySelector('#history-status').textContent"
    ada.tab.wait(f"{history_status} === 'This is the start of big.'")
    with join(chat, "big", "Linus") as linus:
        say(linus, "big", "news")
        ada.wait_for_text("#jump-to-latest", "1 new")
        assert ada.texts()[0] == "message 0", "a message at the end must not scroll the page"
        ada.tab.click("#jump-to-latest")
        ada.tab.wait(f"{AT_LATEST} && {TEXTS}.at(-1) === 'news'")


# Invitations.


def test_invite_only_chat_accepts_only_genuine_invitations(users: Users, tmp_path: Path) -> None:
    database = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", "--invite-only", *database) as chat:
        arguments = ("invite", "Ada", *database, "--url", url(chat))
        link = run_chatd(*arguments).split()[-1]
        ada = users.open(link)
        ada.wait_until_joined()
        ada.wait_for_text("#profile", "Ada")
        assert "invite" not in ada.tab.evaluate("location.href")
        ada.say("Hello from an invited user")
        ada.wait_for("Hello from an invited user")
        ada.tab.reload()
        ada.wait_until_joined()
        ada.wait_for("Hello from an invited user")

        head, _, signature = link.rpartition(".")
        forged = users.open(f"{head}.{signature[::-1]}")
        forged.wait_for_text("#history-status", "Your invitation does not open this room.")
        forged.wait_for_text("#history-status", "Ask for a new invitation link")

        uninvited = users.open(url(chat))
        uninvited.enter_name("Eve")
        uninvited.wait_for_text("#history-status", "This chat is by invitation only.")
        assert uninvited.texts() == []

        phone = users.open(link)
        phone.wait_until_joined()
        phone.wait_for("Hello from an invited user")
        assert phone.tab.evaluate("document.querySelector('#member-count').textContent") == (
            "Members 1"
        )
        run_chatd("revoke", "Ada", *database)
        ada.wait_for_text("#notice", "The invitation was revoked")
        ada.wait_for_text("#status", "Access refused")


# Start from a file, small screens, accessibility.


def test_page_opened_from_disk_finds_the_server(chat: Daemon, users: Users, tmp_path: Path) -> None:
    page = shutil.copy(ROOT / "client.html", tmp_path)
    user = users.open(f"file://{page}?port={chat.address[1]}")
    user.enter_name("Ada")
    user.wait_until_joined()
    assert user.tab.evaluate("location.href") == url(chat)


def test_page_without_server_shows_the_start_command(users: Users, tmp_path: Path) -> None:
    page = shutil.copy(ROOT / "client.html", tmp_path)
    with socket.socket() as unused:  # a bound socket that does not listen keeps the port closed
        unused.bind(("127.0.0.1", 0))
        user = users.open(f"file://{page}?port={unused.getsockname()[1]}")
        user.wait_for_text("#status", "start one with: python3 -m chatd")


def test_page_on_a_phone_needs_no_horizontal_scrolling(chat: Daemon, users: Users) -> None:
    room = "a-long-name-of-a-room-with-as-many-characters-as-are-allowed-yes"
    ada = users.open("about:blank")
    ada.tab.resize(390, 844, mobile=True)
    ada.tab.go(url(chat, room))
    ada.enter_name("W" * 32)
    ada.wait_until_joined()
    with join(chat, room, "M" * 32) as grace:
        say(grace, room, "m" * 500)
        say(grace, room, "/me " + "w" * 300 + " https://example.org/" + "x" * 300)
        ada.tab.wait(f"{TEXTS}.length === 2")
        ada.say("/help")
        ada.wait_for_text("#notice", "/me")
        selector = "html, body, main, header, #message-log, #message-list, #composer"
        overflowing = (
            f"[...document.querySelectorAll('{selector}')]"
            ".filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.outerHTML)"
        )
        assert ada.tab.evaluate("document.documentElement.clientWidth") == 390
        assert ada.tab.evaluate(overflowing) == []
        assert ada.tab.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert ada.tab.evaluate(
            "[...document.querySelectorAll('input, textarea')]"
            ".every((each) => parseFloat(getComputedStyle(each).fontSize) >= 16)"
        ), "a phone zooms in on an input with a smaller font"
        # Room list and members are drawers; Escape closes them.
        visibility = "getComputedStyle(document.querySelector('#member-panel')).visibility"
        ada.tab.click("#show-members")
        ada.tab.wait(f"{visibility} === 'visible'")
        ada.tab.press("Escape")
        ada.tab.wait(f"{visibility} === 'hidden'")
        ada.tab.click("#show-rooms")
        ada.tab.wait("document.querySelector('#sidebar').contains(document.activeElement)")


def test_accessibility_tree_has_names_and_roles(chat: Daemon, users: Users) -> None:
    ada = users.open(url(chat, "spoken"))
    ada.tab.wait("document.querySelector('#name-dialog').open")
    assert ("textbox", "Name") in ada.tab.accessibility_tree()
    ada.enter_name("Ada")
    ada.wait_until_joined()
    ada.say("Hello")
    ada.wait_for("Hello")
    tree = ada.tab.accessibility_tree()
    for role, name in [
        ("textbox", "Message"),
        ("button", "Send"),
        ("log", "Messages"),
        ("navigation", "Rooms"),
        ("list", "Rooms"),
        ("complementary", "Members"),
        ("list", "Members"),
        ("button", "Find or create a room"),
        ("button", "Search messages"),
        ("heading", "spoken"),
        ("main", ""),
    ]:
        assert (role, name) in tree
    assert any(role == "status" for role, _ in tree)
    assert any(role == "link" and name.startswith("spoken") for role, name in tree)


def test_tab_key_reaches_every_control(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "keys"), "Ada")
    ada.tab.wait("document.activeElement.id === 'message-input'")
    reached = set()
    for _ in range(30):
        ada.tab.press("Tab")
        reached.add(ada.tab.evaluate("document.activeElement.id || document.activeElement.href"))
    expected = {"message-input", "message-log", "find-room", "change-name", url(chat, "keys")}
    assert expected <= reached
    ada.tab.press("Escape")
    ada.tab.wait("document.activeElement.id === 'message-input'")


# Older browsers and errors.


def open_with_script(users: Users, script: str, address: str) -> User:
    """Open a page in which `script` runs first."""
    user = users.open("about:blank")
    user.tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    user.tab.go(address)
    return user


def test_page_without_url_can_parse_shows_links(chat: Daemon, users: Users) -> None:
    old = open_with_script(users, "delete URL.canParse", url(chat, "old"))
    old.enter_name("Ada")
    old.wait_until_joined()
    for text in ("before", "see https://example.org/a", "see https://[", "after"):
        old.say(text)
    texts = ["before", "see https://example.org/a", "see https://[", "after"]
    old.wait_for(*texts)
    old.tab.reload()
    old.wait_for(*texts)
    assert old.tab.evaluate("document.querySelectorAll('#message-list a').length") == 1


def test_page_uses_no_css_that_older_browsers_ignore() -> None:
    style = (ROOT / "client.html").read_text().partition("<style>")[2].partition("</style>")[0]
    rules = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    assert "light-dark(" not in rules


def test_page_with_an_error_in_one_row_shows_the_others(chat: Daemon, users: Users) -> None:
    script = """
        const matchAll = String.prototype.matchAll;
        String.prototype.matchAll = function (...rest) {
          if (this.includes("broken")) throw new Error("this row fails");
          return matchAll.apply(this, rest);
        };
    """
    ada = open_with_script(users, script, url(chat, "row"))
    ada.enter_name("Ada")
    ada.wait_until_joined()
    with join(chat, "row", "Grace") as grace:
        for text in ("one", "broken", "two"):
            say(grace, "row", text)
        ada.wait_for("one", "broken", "two")
        ada.say("three")
        ada.wait_for("one", "broken", "two", "three")
    ada.tab.evaluate("1")
    assert len(ada.tab.console_errors) == 1, "the console has the error of the row, once"
    ada.tab.console_errors.clear()


# The composer.


@pytest.mark.parametrize(
    "composing", ["isComposing: true", "keyCode: 229"], ids=["standard", "Safari"]
)
def test_enter_that_ends_a_composition_sends_nothing(
    chat: Daemon, users: Users, composing: str
) -> None:
    ada = users.join(url(chat, f"ime-{len(composing)}"), "Ada")
    for key in ("Enter", "Escape"):
        ada.tab.evaluate(
            "document.querySelector('#message-input').value = 'にほん';"
            "document.querySelector('#notice').hidden = false;"
            "document.querySelector('#message-input').dispatchEvent(new KeyboardEvent('keydown',"
            f" {{ key: '{key}', {composing}, bubbles: true, cancelable: true }}))"
        )
        assert ada.tab.evaluate("document.querySelector('#message-input').value") == "にほん"
        assert not ada.tab.evaluate("document.querySelector('#notice').hidden")
    assert ada.texts() == []


INPUT = "document.querySelector('#message-input').value"


def test_draft_after_reload_is_in_the_input(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "draft"), "Ada")
    ada.say("/join other")
    ada.wait_for_text("h1", "other")
    ada.tab.type("a draft for other")
    ada.tab.click("#room-list a[href$=draft]")
    ada.wait_for_text("h1", "draft")
    ada.tab.evaluate("document.querySelector('#message-input').focus()")
    ada.tab.type("one\ntwo")
    ada.tab.reload()
    ada.wait_until_joined()
    assert ada.tab.evaluate(INPUT) == "one\ntwo"
    ada.tab.click("#room-list a[href$=other]")
    ada.wait_for_text("h1", "other")
    assert ada.tab.evaluate(INPUT) == "a draft for other"
    ada.tab.evaluate("document.querySelector('#message-input').focus()")
    ada.tab.press("Enter")
    ada.wait_for("a draft for other")
    ada.tab.reload()
    ada.wait_until_joined()
    assert ada.tab.evaluate(INPUT) == "", "a sent message is no draft"


def go_offline(user: User) -> None:
    """End the page's connection, and keep it from connecting again."""
    user.tab.evaluate(
        "window.WebSocket = class { static CONNECTING = 0; static OPEN = 1; close() {} };"
        " disconnect()"
    )


@pytest.mark.parametrize("way", ["command", "button"])
def test_leave_with_unsent_text_asks_first(chat: Daemon, users: Users, way: str) -> None:
    ada = users.join(url(chat, f"{way}-home"), "Ada")
    room = f"{way}-unsent"
    ada.say(f"/join {room}")
    ada.wait_for_text("h1", room)
    ada.wait_for_text("#member-list", "Ada")
    if way == "command":
        go_offline(ada)
        ada.say("not sent")
    else:
        ada.tab.evaluate("document.querySelector('#message-input').focus()")
        ada.tab.type("not sent")

    def leave() -> None:
        if way == "command":
            ada.say("/leave")
        else:
            ada.tab.click("#room-list .current .leave-room")

    leave()
    ada.wait_for_text("#question", f"Leave {room} and discard a message?")
    ada.wait_for_text("#question-details", "not sent")
    ada.tab.press("Escape")
    ada.tab.wait("!document.querySelector('#question-dialog').open")
    assert ada.tab.evaluate("document.querySelector('h1').textContent") == room
    assert ada.texts() == ["not sent"] or ada.tab.evaluate(INPUT) == "not sent"
    leave()
    ada.tab.wait("document.querySelector('#question-dialog').open")
    ada.tab.click("#accept")
    ada.wait_for_text("h1", f"{way}-home")
    assert ada.tab.evaluate("document.querySelectorAll('#room-list li').length") == 1


# Lost networks.


def advance_clock(user: User, seconds: float) -> None:
    """Let the page's clock jump."""
    user.tab.evaluate(
        f"{{ const now = Date.now; Date.now = () => now.call(Date) + {1000 * seconds}; }}"
    )


def test_page_that_goes_offline_shows_it_at_once(users: Users, tmp_path: Path) -> None:
    with daemon("chatd", "--port", "0", "--db", str(tmp_path / "chat.db")) as chat:
        ada = users.join(url(chat, "offline"), "Ada")
        event = "dispatchEvent(new Event('offline')), document.querySelector('#status').textContent"
        assert "This device is offline" in ada.tab.evaluate(event)
        ada.tab.wait(CONNECTED)  # the server is on this machine, so it still answers
        chat.process.send_signal(signal.SIGSTOP)
        ada.tab.evaluate("dispatchEvent(new Event('offline'))")
        assert ada.tab.evaluate("document.body.dataset.connection") == "disconnected"
        ada.wait_for_text("#status", "Cannot reach the chat server")
        chat.process.send_signal(signal.SIGCONT)
        ada.wait_until_joined()


@pytest.mark.parametrize(("pending", "silence"), [(False, 11), (True, 4)], ids=["idle", "sending"])
def test_page_with_silent_network_notices_within_16_s(
    users: Users, tmp_path: Path, pending: bool, silence: int
) -> None:
    with daemon("chatd", "--port", "0", "--db", str(tmp_path / "chat.db")) as chat:
        ada = users.join(url(chat, "silent"), "Ada")
        chat.process.send_signal(signal.SIGSTOP)
        if pending:
            ada.say("Is anyone there?")
        advance_clock(ada, silence)
        ada.tab.wait("pingSentAt > lastReceivedAt")
        assert ada.tab.evaluate(CONNECTED), "a busy server has 5 s to answer"
        advance_clock(ada, 5)
        ada.wait_for_text("#status", "Cannot reach the chat server")
        chat.process.send_signal(signal.SIGCONT)
        ada.wait_until_joined()
        if pending:
            ada.wait_for("Is anyone there?")


# Unread messages.

# True while the divider is in the upper half of the message log.
DIVIDER_IN_VIEW = """(() => {
  const divider = document.querySelector('.unread-divider');
  if (!divider) return false;
  const log = document.querySelector('#message-log').getBoundingClientRect();
  const { top } = divider.getBoundingClientRect();
  return top > log.top - 5 && top < log.top + log.height / 2;
})()"""
FIRST_UNREAD = (
    "document.querySelector('.unread-divider').parentElement.querySelector('.bubble')"
    ".firstChild.textContent"
)


@pytest.mark.parametrize("absence", ["offline", "other room", "hidden", "reload"])
@pytest.mark.parametrize("number", [30, 450, 1300])
def test_missed_messages_show_divider_and_count(
    chat: Daemon, users: Users, absence: str, number: int
) -> None:
    room = f"{absence.replace(' ', '-')}-{number}"
    ada = users.join(url(chat, room), "Ada")
    with join(chat, room, "Grace") as grace:
        say(grace, room, "read")
        ada.wait_for("read")
        if absence == "offline":
            ada.tab.evaluate("window.RealSocket = WebSocket")
            go_offline(ada)
        elif absence == "other room":
            ada.say(f"/join {room}-not")
            ada.wait_for_text("h1", f"{room}-not")
        elif absence == "hidden":
            ada.tab.evaluate(
                "window.away = true; Object.defineProperty(document, 'hidden', { get: () => away })"
            )
        else:
            ada.tab.go("about:blank")
            ada.tab.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        say_many(grace, room, [f"missed {index}" for index in range(number)])
    if absence == "offline":
        ada.tab.evaluate("window.WebSocket = RealSocket; disconnect()")
    elif absence == "other room":
        ada.tab.wait(f"document.title === '({number}) {room}-not · chatd'")
        ada.tab.evaluate(f"enterRoom({json.dumps(room)})")
    elif absence == "hidden":
        ada.tab.wait(f"document.title.startsWith('({number})')")
        ada.tab.evaluate("away = false; document.dispatchEvent(new Event('visibilitychange'))")
    else:
        ada.tab.go(url(chat, room))
    ada.wait_for_text("#jump-to-latest", f"{number} new")
    ada.tab.wait(DIVIDER_IN_VIEW)
    assert ada.tab.evaluate(FIRST_UNREAD) == "missed 0"
    ada.tab.click("#jump-to-latest")
    ada.tab.wait(f"{AT_LATEST} && {TEXTS}.at(-1) === 'missed {number - 1}'")
    ada.tab.wait(f"document.title === '{room} · chatd'")


def test_scroll_event_before_a_jump_does_not_stop_it(chat: Daemon, users: Users) -> None:
    with join(chat, "jump", "Grace") as grace:
        say_many(grace, "jump", [f"message {index}" for index in range(100)])
    ada = users.join(url(chat, "jump"), "Ada")
    ada.tab.wait(f"{TEXTS}.at(-1) === 'message 99'")
    ada.tab.evaluate("messageLog.scrollTop = 500")
    ada.tab.wait(f"!{AT_LATEST}")
    # The event of the scroll arrives after the click, and before the page is rendered.
    ada.tab.evaluate(
        "messageLog.scrollTop = 600; document.querySelector('#jump-to-latest').click()"
    )
    ada.tab.wait(AT_LATEST)
    below = "messageLog.scrollHeight - messageLog.scrollTop - messageLog.clientHeight"
    assert ada.tab.evaluate(below) < 2


def test_row_of_a_sender_with_a_wrong_clock_shows_stored_time(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "clock"), "Ada")
    shown = (
        "[...document.querySelectorAll('#message-list time')]"
        ".map((time) => [time.textContent, time.dateTime, time.title])"
    )
    for hours in (1.5, -49.5):
        advance_clock(ada, 3600 * hours)
        ada.say(f"from a clock {hours} hours ahead")
    ada.tab.wait(f"{TEXTS}.length === 2 && !document.querySelector('.pending')")
    before = ada.tab.evaluate(shown)
    ada.tab.reload()
    ada.tab.wait(f"{TEXTS}.length === 2")
    assert before == ada.tab.evaluate(shown)


# Memory.


def measure_memory(user: User) -> tuple[int, float]:
    """Return the page's DOM nodes and its heap in MB, after garbage collection."""
    user.tab.call("HeapProfiler.collectGarbage")
    user.tab.call("Performance.enable")
    metrics = user.tab.call("Performance.getMetrics")["metrics"]
    values = {metric["name"]: metric["value"] for metric in metrics}
    return int(values["Nodes"]), values["JSHeapUsedSize"] / 1e6


def test_scrolling_up_releases_rows_outside_the_window(chat: Daemon, users: Users) -> None:
    with join(chat, "release", "Grace") as grace:
        say_many(grace, "release", [f"message {index}" for index in range(20_000)])
    ada = users.join(url(chat, "release"), "Ada")
    ada.tab.wait(AT_LATEST)
    first = "document.querySelector('#message-list .bubble')?.firstChild.textContent"
    ada.tab.evaluate(
        f"""
        new Promise((resolve) => {{
          const step = () => {{
            if ({first} === 'message 0') return resolve();
            document.querySelector('#message-log').scrollTop = 0;
            requestAnimationFrame(step);
          }};
          step();
        }})
        """,
        timeout=120.0,
    )
    rows = ada.tab.evaluate("document.querySelector('#message-list').children.length")
    nodes, heap = measure_memory(ada)
    assert nodes < 5000
    assert heap < 60
    assert ada.tab.evaluate("currentRoom.messages.filter(({ row }) => row).length") == rows


# Changes of name.


def names_in_rooms(user: User) -> list[str]:
    names: list[str] = user.tab.evaluate("[...rooms.values()].map((room) => room.ownName)")
    return names


@pytest.mark.parametrize("is_reserved", [False, True], ids=["member", "reserved"])
def test_nick_with_a_name_taken_in_one_room_changes_none(
    chat: Daemon, users: Users, is_reserved: bool
) -> None:
    names = [f"nick-{is_reserved}-{number}".lower() for number in range(6)]
    ada = users.join(url(chat, names[0]), "Ada")
    for name in names[1:]:
        ada.say(f"/join {name}")
        ada.wait_for_text("h1", name)
        ada.wait_for_text("#member-list", "Ada")
    with join(chat, names[3], "Grace") as grace:
        ada.tab.wait(f"rooms.get('{names[3]}').memberCount === 2")
        if is_reserved:  # the page does not know a name that waits for its owner
            grace.close()
            ada.tab.wait(f"rooms.get('{names[3]}').memberCount === 1")
        ada.say("/nick Grace")
        ada.wait_for_text("#name-error", f"The name “Grace” is taken in {names[3]}")
        ada.tab.press("Escape")
        ada.tab.wait("nameChange === null")
        assert names_in_rooms(ada) == ["Ada"] * 6
        assert ada.tab.evaluate("localStorage.getItem('chatd.name')") == '"Ada"'
        ada.wait_for_text("#profile", "Ada")
        ada.say("/nick Hedy")
        ada.tab.wait("[...rooms.values()].every((room) => room.ownName === 'Hedy')")
        ada.wait_for_text("#profile", "Hedy")


def test_nick_while_offline_changes_the_name_after_joining(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "nick-offline"), "Ada")
    ada.say("/join nick-offline-2")
    ada.wait_for_text("#member-list", "Ada")
    ada.tab.wait("[...rooms.values()].every((room) => room.state === 'joined')")
    with join(chat, "nick-offline", "Grace") as grace:
        ada.tab.wait("rooms.get('nick-offline').memberCount === 2")
        ada.tab.evaluate("window.RealSocket = WebSocket")
        go_offline(ada)
        ada.say("/nick Hedy")
        ada.tab.evaluate("window.WebSocket = RealSocket; disconnect()")
        ada.tab.wait("[...rooms.values()].every((room) => room.ownName === 'Hedy')")
        ada.tab.wait("nameChange === null")
        go_offline(ada)
        grace.send(json.dumps({"type": "join", "room": "nick-offline", "name": "Linus"}))
        ada.say("/nick linus")
        ada.tab.evaluate("window.WebSocket = RealSocket; disconnect()")
        ada.wait_for_text("#name-error", "The name “linus” is taken in nick-offline.")
        ada.tab.wait("nameChange === null")
        assert names_in_rooms(ada) == ["Hedy", "Hedy"]


# Large rooms.


def test_room_that_shrinks_from_505_members_lists_names(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "shrink"), "Ada")
    others = []
    try:
        others = [join(chat, "shrink", f"member {number}") for number in range(504)]
        ada.wait_for_text("#member-count", "505")
        ada.wait_for_text("#unlisted-members", "too many members")
        late = users.join(url(chat, "shrink"), "Late")
        late.wait_for_text("#unlisted-members", "too many members")
    finally:
        for each in others[3:]:
            each.close()
    expected = ["Ada", "Late", "member 0", "member 1", "member 2"]
    for user in (ada, late):
        user.tab.wait(
            "JSON.stringify([...document.querySelectorAll('#member-list bdi')]"
            f".map((each) => each.textContent)) === JSON.stringify({json.dumps(expected)})"
        )
        user.wait_for_text("#member-count", "5")
        assert user.tab.evaluate("document.querySelector('#unlisted-members').hidden")
    for each in others[:3]:
        each.close()


# Phones, font sizes and forced colours.


def test_enter_on_a_touch_screen_starts_a_new_line(chat: Daemon, users: Users) -> None:
    ada = users.open("about:blank")
    ada.tab.resize(390, 844, mobile=True)
    ada.tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    ada.tab.go(url(chat, "touch"))
    ada.enter_name("Ada")
    ada.wait_until_joined()
    assert ada.tab.evaluate("matchMedia('(pointer: coarse)').matches")
    assert ada.tab.evaluate("document.querySelector('#message-input').enterKeyHint") == "enter"
    ada.say("one")
    ada.tab.type("two")
    ada.tab.click("#composer button")
    ada.wait_for("one\ntwo")
    focused = "document.activeElement.id"
    assert ada.tab.evaluate(focused) == "message-input", "the on-screen keyboard stays open"


def test_page_with_larger_browser_font_enlarges_all_text(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "font"), "Ada")
    ada.say("Hello")
    ada.wait_for("Hello")
    sizes = (
        "[...document.querySelectorAll('body, body *')]"
        ".map((each) => parseFloat(getComputedStyle(each).fontSize))"
    )
    small = ada.tab.evaluate(sizes)
    ada.tab.call("Page.setFontSizes", fontSizes={"standard": 28})
    ada.tab.wait("getComputedStyle(document.documentElement).fontSize === '28px'")
    for before, after in zip(small, ada.tab.evaluate(sizes), strict=True):
        assert after == pytest.approx(before * 28 / 16, rel=0.01)


def test_page_in_forced_colors_shows_every_state(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "forced"), "Ada")
    ada.say("/join forced-2")
    ada.wait_for_text("h1", "forced-2")
    with join(chat, "forced-2", "Grace") as grace:
        say(grace, "forced-2", "for Ada")
        say(grace, "forced-2", "for all")
        ada.wait_for("for Ada", "for all")
    ada.tab.call(
        "Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}]
    )
    ada.tab.wait("matchMedia('(forced-colors: active)').matches")
    ada.tab.evaluate(
        """
        window.look = (selector) => {
          const element = document.querySelector(selector);
          const { backgroundColor, borderColor, borderWidth } = getComputedStyle(element);
          return JSON.stringify([backgroundColor, borderColor, borderWidth]);
        }
        """
    )
    dot = ada.tab.evaluate("look('#connection-dot')")
    ada.tab.evaluate("document.body.dataset.connection = 'disconnected'")
    assert dot != ada.tab.evaluate("look('#connection-dot')")
    canvas = "getComputedStyle(document.body).backgroundColor"
    assert json.loads(dot)[0] != ada.tab.evaluate(canvas)
    other_room = ada.tab.evaluate("look('#room-list li:not(.current)')")
    assert ada.tab.evaluate("look('#room-list .current')") != other_room
    other_row = ada.tab.evaluate("look('.row:not(.mentions-me) .bubble')")
    assert ada.tab.evaluate("look('.mentions-me .bubble')") != other_row


# Names of other languages, and their colours.


def test_name_with_a_zero_width_non_joiner_is_accepted(chat: Daemon, users: Users) -> None:
    name = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"  # Ali Reza in Persian
    user = users.join(url(chat, "persian"), name)
    user.wait_for_text("#member-list", name)
    user.say("/nick a\u200cb")  # these letters do not join
    user.wait_for_text("#name-error", "invisible")
    user.tab.press("Escape")
    user.tab.wait("nameChange === null")
    user.wait_for_text("#profile", name)
    user.say("/nick Ali")
    user.wait_for_text("#member-list", "Ali")


def test_names_of_guests_have_clearly_different_hues(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "hues"), "Ada")
    hues = ada.tab.evaluate(
        "[...Array(9).keys()].map((index) => Number("
        "createAvatar(currentRoom, `guest-${index + 1}`, '').style.getPropertyValue('--hue')))"
    )
    assert len(set(hues)) == 9
    assert all(hue % 30 == 0 for hue in hues)
    for one, other in itertools.pairwise(hues):
        assert 90 <= (one - other) % 360 <= 270
