"""Take the README's screenshot: a small chat with three users.

usage: python -m tests.browser.screenshot FILE.png [--dark] [--phone]

Reduce its colours before a commit: pngquant --force --strip --nofs --output FILE.png 64 FILE.png
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.browser.devtools import chromium
from tests.browser.test_page import CONNECTED, User, join, say, url
from tests.support import daemon

ROOM = "engines"
SCREEN = (1200, 760)  # CSS pixels
PHONE = (390, 780)
BEFORE = (
    ("Grace", "Hello! The new relay is in. No moths this time."),
    ("Charles", "Hello Grace. And the engine?"),
    ("Grace", "It runs without a stop. My notes: https://example.org/notes/relay"),
)
OWN = ("Note G computes the Bernoulli numbers now.", "Can someone check the table?")
AFTER = (
    ("Grace", "Ada, the table is right up to B8. I will check the rest after lunch."),
    ("Charles", "/me polishes the brass"),
)


def take_screenshot(path: Path, scheme: str, *, phone: bool) -> None:
    """Write a screenshot of the chat, seen by Ada, to a PNG file."""
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as chat,
        # Chromium's child processes may still write when the main process has ended.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium(Path(profile)) as browser,
        join(chat, ROOM, "Grace") as grace,
        join(chat, ROOM, "Charles") as charles,
        join(chat, "lobby", "Mary") as mary,
    ):
        clients = {"Grace": grace, "Charles": charles}
        ada = User(browser.open())
        ada.tab.resize(*(PHONE if phone else SCREEN), mobile=phone)
        ada.tab.prefer(scheme)
        ada.tab.go(url(chat))
        ada.enter_name("Ada")
        ada.wait_until_joined()
        ada.say(f"/join {ROOM}")
        count = 0

        def wait_for_message() -> None:
            ada.tab.wait(
                f"{CONNECTED} && document.querySelectorAll('#message-list .row').length === {count}"
                " && !document.querySelector('.pending')"
            )

        for name, text in BEFORE:
            count += 1
            say(clients[name], ROOM, text)
            wait_for_message()
        for text in OWN:
            count += 1
            ada.say(text)
            wait_for_message()
        for name, text in AFTER:
            count += 1
            say(clients[name], ROOM, text)
            wait_for_message()
        say(mary, "lobby", "Tea is ready.")
        ada.tab.wait("!!document.querySelector('#room-list .unread')")
        grace.send(json.dumps({"type": "typing", "room": ROOM}))
        ada.wait_for_text("#typing-indicator", "Grace is typing")
        ada.tab.screenshot(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, metavar="FILE.png")
    parser.add_argument("--dark", action="store_true", help="prefer the dark colour scheme")
    parser.add_argument("--phone", action="store_true", help="use the screen of a phone")
    options = parser.parse_args()
    take_screenshot(options.path, "dark" if options.dark else "light", phone=options.phone)


if __name__ == "__main__":
    main()
