"""client.html under axe, a checker of the accessibility rules WCAG 2.1 A and AA."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.browser.test_page import User, Users, join, say, url
from tests.needs import need
from tests.support import Daemon

FORCED = [{"name": "forced-colors", "value": "active"}]


@pytest.fixture(scope="module")
def axe() -> str:
    package = importlib.util.find_spec("axe_core_python")
    need(package, "axe", "pip install '.[interop]'")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "axe.min.js").read_text()


def violations(user: User, axe: str) -> list[str]:
    """Return the violations that axe finds in the page."""
    user.tab.evaluate(f"{axe}; true")
    result = user.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary'][:300]}"
        for each in result["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("look", ["light", "dark", "phone", "forced colors"])
def test_axe_finds_nothing_in_a_room_and_its_dialogs(
    chat: Daemon, users: Users, axe: str, look: str
) -> None:
    room = look.replace(" ", "-")
    ada = users.join(url(chat, room), "Ada")
    if look == "phone":
        ada.tab.resize(390, 844, mobile=True)
    elif look == "forced colors":
        ada.tab.call("Emulation.setEmulatedMedia", features=FORCED)
    else:
        ada.tab.prefer(look)
    with join(chat, room, "Ben") as ben:
        say(ben, room, "**bold** `code` @Ada https://example.org/\n> quote")
        say(ben, room, "```\ncode\n```\n- one\n- two")
        ada.say("mine")
        ada.say("/topic Tea")
        ada.tab.wait("document.querySelectorAll('.row').length === 3")
        ada.tab.wait("!document.querySelector('.pending')")
        ada.tab.evaluate("toggleReaction(currentRoom, currentRoom.messages[0], '👍')")
        ada.wait_for_text(".reactions", "👍 1")
        ada.tab.evaluate("document.querySelector('.row.own').focus()")
        assert violations(ada, axe) == []
        for opener, dialog in (
            ("openSearch('code')", "#search-dialog"),
            ("openRoomsDialog()", "#rooms-dialog"),
            ("openNameDialog()", "#name-dialog"),
            ("openMemberDialog('Ben', 's12345678901')", "#member-dialog"),
            ("document.querySelector('#help-dialog').showModal()", "#help-dialog"),
        ):
            ada.tab.evaluate(f"{opener}; true")
            ada.tab.wait(f"document.querySelector({json.dumps(dialog)}).open")
            assert violations(ada, axe) == [], dialog
            ada.tab.evaluate(f"document.querySelector({json.dumps(dialog)}).close()")
