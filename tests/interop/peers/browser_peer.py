"""A peer with the WebSocket of a browser: `browser_peer.py BROWSER client URL [AUTHORITY]`.

A page does the work. This program serves the page, starts the browser with a new profile, and
prints the report of the page.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.interop import peer_program as program

PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<script>
"use strict";
const socket = new WebSocket(%s, ["tea", "coffee"]);
socket.binaryType = "arraybuffer";
socket.onmessage = ({data}) => {
  if (typeof data !== "string" || !data.startsWith("!")) return socket.send(data);
  const [, name, argument] = /^!(\\w+) ?([^]*)$/.exec(data);
  if (name === "protocol") return socket.send(socket.protocol);
  if (name === "compressed") {
    return socket.send(socket.extensions.includes("deflate") ? "yes" : "no");
  }
  const [, code, reason] = /^(\\d+) ?([^]*)$/.exec(argument);
  return socket.close(Number(code), reason);
};
socket.onclose = ({code, reason}) => {
  fetch("/closed", {method: "POST", body: JSON.stringify([code, reason])});
};
</script>
"""

CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --ignore-certificate-errors --no-proxy-server"
)
FIREFOX_SETTINGS = {
    "app.normandy.enabled": False,
    "app.update.auto": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}


def chromium(profile: Path, page: str, url: str, authority: str | None) -> list[str]:
    """Return the command that opens the page in Chromium."""
    return ["chromium", *CHROMIUM_FLAGS.split(), f"--user-data-dir={profile}", page]


def firefox(profile: Path, page: str, url: str, authority: str | None) -> list[str]:
    """Return the command that opens the page in Firefox."""
    settings = [
        f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in FIREFOX_SETTINGS.items()
    ]
    (profile / "user.js").write_text("\n".join(settings))
    if authority is not None:  # Firefox trusts the certificate of this one server
        address = urlsplit(url)
        pem = ssl.get_server_certificate((address.hostname, address.port), ca_certs=authority)
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
        fingerprint = ":".join(re.findall("..", digest))
        line = f"{address.netloc}:\tOID.2.16.840.1.101.3.4.2.1\t{fingerprint}\t\n"
        (profile / "cert_override.txt").write_text(line)
    return ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile), page]


def webkitgtk(profile: Path, page: str, url: str, authority: str | None) -> list[str]:
    """Return the command that opens the page in WebKitGTK."""
    view = str(Path(__file__).with_name("webkitgtk_view.py"))
    return ["xvfb-run", "--auto-servernum", "/usr/bin/python3", view, page, authority or ""]


VERSIONS = {
    "chromium": ["chromium", "--version"],
    "firefox": ["firefox-esr", "--version"],
    "webkitgtk": ["/usr/bin/python3", str(Path(__file__).with_name("webkitgtk_view.py"))],
}
BROWSERS = {"chromium": chromium, "firefox": firefox, "webkitgtk": webkitgtk}


def handler(page: bytes, report: Callable[[list[object]], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            report(json.loads(body))

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    return Handler


def main() -> None:
    browser = sys.argv.pop(1)
    if sys.argv[1:] == ["version"]:
        output = subprocess.run(VERSIONS[browser], capture_output=True, text=True, check=True)
        match = re.search(r"\d+(\.\d+)+", output.stdout)
        assert match is not None, output.stdout
        print(match[0])
        return
    _, rest = program.arguments("")
    url, authority = rest[0], rest[1] if rest[1:] else None
    reported = threading.Event()

    def report(values: list[object]) -> None:
        program.say_closed(int(str(values[0])), str(values[1]))
        reported.set()

    page = (PAGE % json.dumps(url)).encode()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        HTTPServer(("127.0.0.1", 0), handler(page, report)) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        command = BROWSERS[browser](Path(directory), address, url, authority)
        assert shutil.which(command[0]), f"{command[0]}: not installed"
        process = subprocess.Popen(
            command,
            env={**os.environ, "HOME": directory},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        reported.wait()
        server.shutdown()
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()  # the rest of its process group ends with this program


main()
