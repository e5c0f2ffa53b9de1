"""Chromium driven over the DevTools protocol, through `wsproto_min.connect`.

A `Browser` is one process with a profile of its own; `Browser.open` gives a
`Tab` in a context that shares cookies and storage with no other unless told.
Nothing here sleeps for a guessed time: `Tab.wait` asks until what is expected
is so.
"""

from __future__ import annotations

import base64
import json
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needs import need
from tests.support import PATIENCE, poll
from wsproto_min.net.client import Client, connect

# A cold start on a busy machine.
START_WITHIN = 30.0
MAX_ANSWER = 1 << 26  # bytes; a screenshot is one message
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
    """Chromium refused a command, or a script in a page threw."""


class Browser:
    """A running Chromium."""

    def __init__(self, url: str) -> None:
        self._socket: Client = connect(url, max_message_size=MAX_ANSWER, compression=None)
        self._number = 0
        self._tabs: dict[str, Tab] = {}

    def call(
        self,
        method: str,
        session: str | None = None,
        *,
        within: float = PATIENCE,
        **parameters: object,
    ) -> Json:
        """Give a command; return its result, having noted the events that came before it."""
        self._number += 1
        command: Json = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        self._socket.send(json.dumps(command))
        deadline = time.monotonic() + within
        while True:
            message: Json = json.loads(self._socket.recv(max(0.0, deadline - time.monotonic())))
            if message.get("id") == self._number:
                break
            tab = self._tabs.get(message.get("sessionId", ""))
            if tab is not None:
                tab.on_event(message["method"], message["params"])
        if "error" in message:
            raise DevToolsError(f"{method}: {message['error']['message']}")
        result: Json = message["result"]
        return result

    def open(self, *, beside: Tab | None = None) -> Tab:
        """Open an empty tab, sharing storage with the tab `beside` if there is one."""
        if beside is None:
            context = self.call("Target.createBrowserContext")["browserContextId"]
        else:
            context = beside.context
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        tab = self._tabs[session] = Tab(self, target["targetId"], session, context)
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        # A tab behind another is to paint and to tick as one in front.
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return tab

    def forget(self, tab: Tab) -> None:
        """Close a tab."""
        del self._tabs[tab.session]
        self.call("Target.closeTarget", targetId=tab.target)


class Tab:
    """One page; `complaints` gathers what its console was told of errors and violations."""

    def __init__(self, browser: Browser, target: str, session: str, context: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.context = context
        self.complaints: list[str] = []

    def on_event(self, method: str, parameters: Json) -> None:
        """Note an event."""
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(
                details.get("exception", {}).get("description") or details["text"]
            )
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            entry = parameters["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    def call(self, method: str, *, within: float = PATIENCE, **parameters: object) -> Json:
        """Give a command to this page."""
        return self.browser.call(method, self.session, within=within, **parameters)

    def go(self, url: str) -> None:
        """Load another page."""
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise DevToolsError(f"{url}: {answer['errorText']}")

    def reload(self) -> None:
        """Load the page again; what it knew in scripts is gone when this returns."""
        self.evaluate("window.stale = true")
        self.call("Page.reload")
        self.wait("!window.stale && document.readyState === 'complete'")

    def evaluate(self, expression: str, *, within: float = PATIENCE) -> Any:
        """Return the value of a JavaScript expression, which JSON must be able to carry."""
        answer = self.call(
            "Runtime.evaluate",
            within=within,
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise DevToolsError(details.get("exception", {}).get("description", str(details)))
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression holds; fail with what the page shows if never."""

        def holds() -> bool:
            try:
                return bool(self.evaluate(condition))
            except DevToolsError:  # the page is between two documents
                return False

        try:
            poll(holds, condition)
        except AssertionError as error:
            shown = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the page shows:\n{shown}") from None

    def type(self, text: str) -> None:
        """Put text where the focus is, as a keyboard or an input method does."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key by its name in the DOM."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        parameters: Json = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        parameters["modifiers"] = 8 if shift else 0
        text = "\r" if key == "Enter" else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Give the page a screen of so many CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )

    def prefer(self, scheme: str) -> None:
        """Prefer the colour scheme `light` or `dark`."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def accessible(self) -> list[tuple[str, str]]:
        """Return role and name of what a screen reader meets."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, path: Path) -> None:
        """Write what the page looks like to a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.forget(self)


@contextmanager
def chromium(profile: Path, extra: Sequence[str] = ()) -> Iterator[Browser]:
    """Run Chromium with a new profile in the directory `profile`."""
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
        yield Browser(_devtools_url(process))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _devtools_url(process: subprocess.Popen[bytes]) -> str:
    """Return the address that Chromium prints when it is ready."""
    assert process.stderr is not None
    printed = b""
    deadline = time.monotonic() + START_WITHIN
    while True:
        found = re.search(rb"DevTools listening on (ws://\S+)\s", printed)
        if found:
            return found[1].decode()
        left = deadline - time.monotonic()
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, left))
        data = process.stderr.read1(4096) if ready else b""  # type: ignore[attr-defined]
        assert data, f"chromium did not start: {printed.decode(errors='replace')}"
        printed += data
