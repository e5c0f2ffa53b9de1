"""client.html in Firefox, over WebDriver BiDi."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser.bidi import Firefox, Page, firefox
from tests.browser.test_page import TEXTS
from tests.support import Daemon, daemon


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with firefox(tmp_path_factory.mktemp("profile")) as running:
        yield running
        assert running.log == []


@pytest.fixture(scope="module")
def chat() -> Iterator[Daemon]:
    with daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as running:
        yield running


def join(browser: Firefox, chat: Daemon, room: str, name: str) -> Page:
    """Open a tab and join a room."""
    host, port = chat.address
    page = browser.open()
    page.go(f"http://{host}:{port}/r/{room}")
    page.wait("document.activeElement.id === 'name-input'")
    page.press(name)
    page.press("Enter")
    page.wait("document.querySelector('#status').textContent === 'Connected'")
    return page


def say(page: Page, text: str) -> None:
    page.evaluate("document.querySelector('#message-input').focus()")
    page.press(text)
    page.press("Enter")


def wait_for(page: Page, *texts: str) -> None:
    """Wait until the page shows exactly these messages and none of them is pending."""
    page.wait(
        f"JSON.stringify({TEXTS}) === JSON.stringify({json.dumps(texts)})"
        " && !document.querySelector('.pending')"
    )


def test_two_people_talk_edit_and_react_in_firefox(browser: Firefox, chat: Daemon) -> None:
    ada = join(browser, chat, "fox", "Ada")
    ben = join(browser, chat, "fox", "Ben")
    say(ada, "frist")
    wait_for(ben, "frist")
    wait_for(ada, "frist")
    ada.press("ArrowUp")
    ada.wait("document.querySelector('#message-input').value === 'frist'")
    ada.evaluate("setInput('')")
    ada.press("first")
    ada.press("Enter")
    wait_for(ben, "first (edited)")
    ben.evaluate("document.querySelector('.row').focus()")
    ben.wait("document.querySelector('#toolbar [aria-label=React]')")
    ben.click("#toolbar [aria-label=React]")
    ben.wait("document.querySelector('#reaction-picker')")
    ben.click("#reaction-picker button")
    ada.wait("document.querySelector('.reactions')?.textContent.includes('👍 1')")
    ada.reload()
    ada.wait("document.querySelector('#status').textContent === 'Connected'")
    wait_for(ada, "first (edited)")
    ada.wait("document.querySelector('.reactions')?.textContent.includes('👍 1')")


def test_search_and_rooms_dialog_work_in_firefox(browser: Firefox, chat: Daemon) -> None:
    ada = join(browser, chat, "fox-search", "Ada")
    say(ada, "a needle in the hay")
    wait_for(ada, "a needle in the hay")
    say(ada, "/search NEEDLE")
    ada.wait("document.querySelector('#search-results mark')?.textContent === 'needle'")
    ada.press("Escape")
    ada.click("#find-room")
    ada.wait("document.querySelector('#rooms-dialog').open")
    ada.press("another")
    ada.press("Enter")
    ada.wait("document.querySelector('#room-title').textContent === 'another'")
