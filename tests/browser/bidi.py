"""Client for WebDriver BiDi, the protocol of browsers for automation (W3C), for Firefox.

Firefox prints the address of its WebSocket when it starts with `--remote-debugging-port`. A
command has an id, which its response repeats; events have none.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser.process import read_url
from tests.needs import need
from tests.support import PATIENCE, poll
from wsproto_min.net.client import connect

Json = dict[str, Any]

MAX_MESSAGE_SIZE = 64 << 20
# Code points of keys (WebDriver, section 17.4.2).
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "ArrowUp": "\ue013"}


class BiDiError(Exception):
    """Firefox refused a command, or a script raised an exception."""


class Firefox:
    """A running Firefox."""

    def __init__(self, url: str) -> None:
        self._client = connect(f"{url}/session", max_message_size=MAX_MESSAGE_SIZE)
        self._last_id = 0
        self.log: list[str] = []  # errors in the consoles of all pages
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])

    def call(self, method: str, **parameters: object) -> Json:
        """Send a command and return its result.

        Raises:
            BiDiError: Firefox refused the command.
        """
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": parameters}
        self._client.send(json.dumps(command))
        deadline = time.monotonic() + PATIENCE
        while True:
            message: Json = json.loads(self._client.recv(max(0.0, deadline - time.monotonic())))
            if message.get("id") == self._last_id:
                break
            if message.get("method") == "log.entryAdded":
                entry = message["params"]
                if entry["level"] == "error":
                    self.log.append(str(entry["text"]))
        if message["type"] == "error":
            raise BiDiError(f"{method}: {message['message']}")
        result: Json = message["result"]
        return result

    def open(self) -> Page:
        """Open a tab with cookies and storage of its own."""
        user = self.call("browser.createUserContext")["userContext"]
        context = self.call("browsingContext.create", type="tab", userContext=user)["context"]
        return Page(self, context)


class Page:
    """A tab of Firefox."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def go(self, url: str) -> None:
        """Load a page, and wait until it is complete."""
        self._firefox.call(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def reload(self) -> None:
        """Load the page again, and wait until it is complete."""
        self._firefox.call("browsingContext.reload", context=self._context, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression as decoded JSON.

        Raises:
            BiDiError: The expression threw an exception.
        """
        response = self._firefox.call(
            "script.evaluate",
            expression=f"JSON.stringify({expression})",
            target={"context": self._context},
            awaitPromise=True,
        )
        if response["type"] == "exception":
            raise BiDiError(response["exceptionDetails"]["text"])
        value = response["result"].get("value")
        return None if value is None else json.loads(value)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; fail with the page's text."""
        try:
            poll(lambda: bool(self.evaluate(f"Boolean({condition})")), condition)
        except AssertionError as error:
            text = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the page shows:\n{text}") from None

    def press(self, keys: str) -> None:
        """Press and release each character, or one key of KEYS."""
        actions = []
        for value in [KEYS[keys]] if keys in KEYS else keys:
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._firefox.call(
            "input.performActions",
            context=self._context,
            actions=[{"type": "key", "id": "keyboard", "actions": actions}],
        )

    def click(self, selector: str) -> None:
        """Click the centre of an element with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        actions = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._firefox.call(
            "input.performActions",
            context=self._context,
            actions=[{"type": "pointer", "id": "mouse", "actions": actions}],
        )


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    """Run Firefox with a profile in the directory `profile`."""
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    need(program, "firefox", "apt-get install firefox-esr")
    assert program is not None
    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--no-remote",
            "--profile",
            str(profile),
            "--remote-debugging-port",
            "0",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"HOME": str(profile), "PATH": "/usr/bin:/bin", "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
    )
    try:
        yield Firefox(read_url(process, "WebDriver BiDi listening on"))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()
