"""The WebSocket of a browser against our servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from tests.interop.certificate import Certificate
from tests.needs import need
from tests.support import daemon, serving
from wsproto_min import (
    Acceptance,
    Close,
    DeflateParameters,
    Peer,
    Request,
    Response,
    Server,
    accept,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --ignore-certificate-errors --no-proxy-server"
)
# Seconds; a browser may start slowly.
PATIENCE = 60.0

# Each step records its results in `seen`; the page sends `seen` to the server at the end.
PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<script>
"use strict";
const ECHO = "%(echo)s", OURS = `ws://${location.host}`;
const seen = {};

const opened = (url, ...protocols) => new Promise((resolve, reject) => {
  const socket = new WebSocket(url, ...protocols);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => resolve(socket);
  socket.onerror = () => reject(new Error(`cannot connect to ${url}`));
});
const next = (socket) => new Promise((resolve, reject) => {
  socket.onmessage = (event) => resolve(event.data);
  socket.onclose = (event) => reject(new Error(`closed: ${event.code} ${event.reason}`));
});
const closed = (socket) => new Promise((resolve) => {
  socket.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
});
const same = (a, b) => typeof a === "string" ? a === b
  : typeof b !== "string" && a.byteLength === b.byteLength
    && new Uint8Array(a).every((byte, index) => byte === new Uint8Array(b)[index]);

const MIB = 1 << 20;
const random = new Uint8Array(MIB);
for (let start = 0; start < MIB; start += 65536) {
  crypto.getRandomValues(random.subarray(start, start + 65536));
}
const MESSAGES = {
  "text": "Hello",
  "text once more": "Hello",
  "binary": Uint8Array.from({length: 256}, (_, index) => index),
  "empty text": "",
  "empty binary": new Uint8Array(0),
  "unicode": "Zażółć gęślą jaźń, 日本語, 👩‍👩‍👧",
  "1 MiB of text": "a line of text\\n".repeat(MIB / 15),
  "1 MiB of random bytes": random,
  "the same once more": random,
  "a last text": "bye",
};

async function exchange(url) {
  const socket = await opened(url), wrong = [];
  for (const [name, message] of Object.entries(MESSAGES)) {
    socket.send(message);
    if (!same(message, await next(socket))) wrong.push(name);
  }
  const end = closed(socket);
  socket.close(4321, "fünf");
  return [socket.extensions.split(";")[0], wrong, ...await end];
}

async function run() {
  seen.echo = await exchange(ECHO);
  seen.uncompressed = await exchange(`${OURS}/uncompressed`);
  const chosen = await opened(OURS, ["water", "coffee"]);
  seen.subprotocol = chosen.protocol;
  chosen.send("close 4000 weil es sein muß");
  seen.closed = await closed(chosen);
  try {
    await opened(`${OURS}/nowhere`);
    seen.refused = false;
  } catch {
    seen.refused = true;
  }
}
run().catch((error) => { seen.error = String(error); }).finally(async () => {
  (await opened(OURS)).send("seen " + JSON.stringify(seen));
});
</script>
"""


class Ours:
    """A server of the page and of the steps for which the echo server has no option."""

    def __init__(self, echo: str) -> None:
        self.seen: Queue[Any] = Queue()
        self._page = (PAGE % {"echo": echo}).encode()
        self.closed: list[Close | None] = []
        self.server = Server(
            on_request=self._on_request, on_message=self._on_message, on_close=self._on_close
        )

    def _on_request(self, peer: Peer, request: Request) -> Response | Acceptance:
        if request.path == "/nowhere":
            return Response(HTTPStatus.FORBIDDEN)
        if not request.wants_websocket:
            return Response(HTTPStatus.OK, [("Content-Type", "text/html")], self._page)
        compression = None if request.path == "/uncompressed" else DeflateParameters.DEFAULT
        return accept(request, subprotocols=["tea", "coffee"], compression=compression)

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith("seen "):
            self.seen.put(json.loads(message.removeprefix("seen ")))
        elif isinstance(message, str) and message.startswith("close "):
            code, _, reason = message.removeprefix("close ").partition(" ")
            peer.close(int(code), reason)
        else:
            peer.send(message)

    def _on_close(self, peer: Peer) -> None:
        assert peer.connection is not None
        self.closed.append(peer.connection.close_received)


@contextmanager
def chromium(profile: Path, url: str) -> Iterator[None]:
    """Open a page in a new browser."""
    assert CHROMIUM is not None
    arguments = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", url]
    with subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group of this browser


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_chromium_exchanges_messages_and_close_frames(
    tmp_path: Path, request: pytest.FixtureRequest, tls: bool
) -> None:
    need(CHROMIUM, "Chromium", "apt-get install chromium")
    arguments = ["--compress-from", "0"]
    if tls:
        certificate: Certificate = request.getfixturevalue("certificate")
        arguments += ["--tls-cert", str(certificate.certificate)]
        arguments += ["--tls-key", str(certificate.key)]
    with daemon("wsproto_min", "echo", "--port", "0", *arguments) as echo:
        scheme = "wss" if tls else "ws"
        ours = Ours(f"{scheme}://127.0.0.1:{echo.address[1]}/")
        with serving(server=ours.server) as running:
            port = running.address[1]
            with chromium(tmp_path / "profile", f"http://127.0.0.1:{port}/"):
                try:
                    seen = ours.seen.get(timeout=PATIENCE)
                except Empty:
                    pytest.fail(f"the page reported nothing within {PATIENCE:g} s")
        assert echo.stop() == (0, "")
    # The echo server's Close frame has no reason; this Close frame went to our own server.
    assert ours.closed[0] == Close(4321, "fünf")
    assert seen == {
        "echo": ["permessage-deflate", [], 4321, "", True],
        "uncompressed": ["", [], 4321, "", True],
        "subprotocol": "coffee",
        "closed": [4000, "weil es sein muß", True],
        "refused": True,
    }
