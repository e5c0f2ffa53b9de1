"""Chromium, controlled over the DevTools protocol through `wsproto_min`'s client.

A `Browser` is one Chromium process with its own profile. `Browser.open` returns a `Tab` in its
own browser context, so two tabs share cookies and storage only on request. The module polls for
conditions (`Tab.wait`) and never sleeps for a fixed time.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser.process import read_url
from tests.needs import need
from tests.support import PATIENCE, poll
from wsproto_min.net.client import Client, connect

MAX_RESPONSE_SIZE = 1 << 26  # bytes; a screenshot is one message
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)

Json = dict[str, Any]


class DevToolsError(Exception):
    """Chromium refused a command, or a script in a page threw an exception."""


class Browser:
    """A running Chromium process."""

    def __init__(self, url: str) -> None:
        self._client: Client = connect(url, max_message_size=MAX_RESPONSE_SIZE, compression=None)
        self._last_id = 0
        self._tabs: dict[str, Tab] = {}

    def call(
        self,
        method: str,
        session: str | None = None,
        *,
        timeout: float = PATIENCE,
        **parameters: object,
    ) -> Json:
        """Send a command and return its result; pass earlier events to their tabs.

        Args:
            method: Name of the command, for example "Target.createTarget".
            session: Session of the tab, None for the browser itself.
            timeout: Seconds to wait for the result.
            parameters: Parameters of the command.

        Raises:
            DevToolsError: Chromium refused the command.
        """
        self._last_id += 1
        command: Json = {"id": self._last_id, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        self._client.send(json.dumps(command))
        deadline = time.monotonic() + timeout
        while True:
            message: Json = json.loads(self._client.recv(max(0.0, deadline - time.monotonic())))
            if message.get("id") == self._last_id:
                break
            tab = self._tabs.get(message.get("sessionId", ""))
            if tab is not None:
                tab.on_event(message["method"], message["params"])
        if "error" in message:
            raise DevToolsError(f"{method}: {message['error']['message']}")
        result: Json = message["result"]
        return result

    def open(self, *, storage_of: Tab | None = None) -> Tab:
        """Open an empty tab; it shares cookies and storage with `storage_of`, if given."""
        if storage_of is None:
            context = self.call("Target.createBrowserContext")["browserContextId"]
        else:
            context = storage_of.context
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        tab = self._tabs[session] = Tab(self, target["targetId"], session, context)
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        # Chromium stops timers and animation frames in a background tab, so emulate the focus.
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return tab

    def close_tab(self, tab: Tab) -> None:
        """Close a tab."""
        del self._tabs[tab.session]
        self.call("Target.closeTarget", targetId=tab.target)


_KEY_CODES = {
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    "ArrowUp": 38,
    "PageUp": 33,
    "k": 75,
    "?": 191,
}


class Tab:
    """A page in Chromium; `console_errors` collects errors and warnings of its console."""

    def __init__(self, browser: Browser, target: str, session: str, context: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.context = context
        self.console_errors: list[str] = []

    def on_event(self, method: str, parameters: Json) -> None:
        """Record an exception, error or warning."""
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console_errors.append(
                details.get("exception", {}).get("description") or details["text"]
            )
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.console_errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            entry = parameters["entry"]
            self.console_errors.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    def call(self, method: str, *, timeout: float = PATIENCE, **parameters: object) -> Json:
        """Send a command for this page; see `Browser.call`."""
        return self.browser.call(method, self.session, timeout=timeout, **parameters)

    def go(self, url: str) -> None:
        """Load a page; raise `DevToolsError` if that fails."""
        response = self.call("Page.navigate", url=url)
        if response.get("errorText"):
            raise DevToolsError(f"{url}: {response['errorText']}")

    def reload(self) -> None:
        """Reload the page, and wait until the next document is complete."""
        self.evaluate("window.stale = true")
        self.call("Page.reload")
        self.wait("!window.stale && document.readyState === 'complete'")

    def evaluate(self, expression: str, *, timeout: float = PATIENCE) -> Any:
        """Return the value of a JavaScript expression, or of its promise, as decoded JSON.

        Raises:
            DevToolsError: The expression threw an exception.
        """
        response = self.call(
            "Runtime.evaluate",
            timeout=timeout,
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in response:
            details = response["exceptionDetails"]
            raise DevToolsError(details.get("exception", {}).get("description", str(details)))
        return response["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; after a timeout fail with the page's text."""

        def is_true() -> bool:
            try:
                return bool(self.evaluate(condition))
            except DevToolsError:  # during navigation there is no document
                return False

        try:
            poll(is_true, condition)
        except AssertionError as error:
            text = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the page shows:\n{text}") from None

    def type(self, text: str) -> None:
        """Insert text at the focus, as a keyboard or an input method does."""
        self.call("Input.insertText", text=text)

    def press(
        self, key: str, *, shift: bool = False, control: bool = False, alt: bool = False
    ) -> None:
        """Press and release a key, for example "Enter" or "ArrowUp"."""
        code = _KEY_CODES[key]
        parameters: Json = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        parameters["modifiers"] = alt * 1 + control * 2 + shift * 8
        text = "\r" if key == "Enter" else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def click(self, selector: str) -> None:
        """Click the centre of an element with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Set the size of the page in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )

    def prefer(self, scheme: str) -> None:
        """Set the preferred colour scheme, "light" or "dark"."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def accessibility_tree(self) -> list[tuple[str, str]]:
        """Return role and name of each element that a screen reader presents."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, path: Path) -> None:
        """Write a screenshot of the page to a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.close_tab(self)


@contextmanager
def chromium(profile: Path, extra: Sequence[str] = ()) -> Iterator[Browser]:
    """Run Chromium with a profile in the directory `profile` and the flags `extra`."""
    program = shutil.which("chromium")
    need(program, "chromium", "apt-get install chromium")
    assert program is not None
    process = subprocess.Popen(
        [program, *FLAGS, *extra, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Browser(read_url(process, "DevTools listening on"))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()
