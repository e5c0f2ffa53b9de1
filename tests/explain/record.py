"""Record the captures in tests/explain/captures: python -m tests.explain.record [NAME ...]

Needs Linux, root (a packet socket), and the programs: Chromium, Firefox, curl, Node.js with `ws`
(npm install --prefix DIRECTORY ws, then NODE_PATH=DIRECTORY/node_modules). Each client talks to
the echo server or to chatd on the loopback interface.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.explain.packets import ETHERNET, pcap
from tests.support import PATIENCE, daemon, poll

CAPTURES = Path(__file__).parent / "captures"
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_LINK_HEADER = 14  # bytes
_BROWSER_TIME = 60.0  # seconds, for a cold start

_PAGE = """<!doctype html><script>
const socket = new WebSocket("%s");
socket.binaryType = "arraybuffer";
let seen = 0;
socket.onopen = () => {
  socket.send("Hello from a browser, Hello from a browser, Grüße");
  socket.send("Hello from a browser, Hello from a browser, Grüße");
  socket.send(Uint8Array.of(1, 2, 3, 255));
};
socket.onmessage = () => { seen += 1; if (seen === 3) socket.close(4001, "done"); };
</script>
"""
_NODE = """
const { WebSocket } = require("ws");
const socket = new WebSocket(process.argv[1]);
let seen = 0;
socket.on("open", () => {
  socket.ping("are you there");
  socket.send("in two ", { fin: false });
  socket.send("fragments", { fin: true });
  socket.send(Buffer.from([1, 2, 3, 255]));
});
socket.on("message", () => { seen += 1; if (seen === 2) socket.close(1000, "bye"); });
"""


def main(names: list[str]) -> None:
    """Record all captures, or those of `names`."""
    CAPTURES.mkdir(exist_ok=True)
    for name, record in RECORDERS.items():
        if not names or name in names:
            data = record()
            (CAPTURES / f"{name}.pcap").write_bytes(data)
            print(f"{name}.pcap: {len(data)} bytes")


class Recorder:
    """The TCP packets of one port on the loopback interface."""

    def __init__(self, port: int) -> None:
        self._port = port.to_bytes(2, "big")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.05)
        self._stopped = threading.Event()
        self.packets: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                frame, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            packet = frame[_LINK_HEADER:]
            # The interface shows each packet twice: as it leaves, and as it arrives.
            if address[2] == _OUTGOING and packet[9:10] == b"\x06":
                header = 4 * (packet[0] & 0x0F)
                if self._port in (packet[header : header + 2], packet[header + 2 : header + 4]):
                    self.packets.append(packet)

    def stop(self) -> bytes:
        """Return the pcap file of all packets."""
        self._stopped.set()
        self._thread.join()
        self._socket.close()
        return pcap(self.packets, ETHERNET)

    def wait_for_end(self) -> None:
        """Wait until both ends of a connection have sent FIN."""
        poll(lambda: len(self._ends()) >= 2, "both ends send FIN")

    def _ends(self) -> set[bytes]:
        return {packet[20:22] for packet in self.packets if packet[4 * (packet[0] & 15) + 13] & 1}


@contextmanager
def echo_server() -> Iterator[int]:
    """Yield the port of an echo server that compresses all messages."""
    with daemon("wsproto_min", "echo", "--port", "0", "--compress-from", "0") as running:
        yield running.address[1]
        running.stop()


def record_chromium() -> bytes:
    def start(page: Path, profile: str) -> list[str]:
        program = shutil.which("chromium") or "google-chrome"
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
            " --disable-background-networking --disable-component-update --disable-sync"
            " --no-proxy-server"
        )
        return [program, *flags.split(), f"--user-data-dir={profile}", page.as_uri()]

    return _record_browser(start)


def record_firefox() -> bytes:
    def start(page: Path, profile: str) -> list[str]:
        program = shutil.which("firefox-esr") or "firefox"
        return [program, "--headless", "--no-remote", "--profile", profile, page.as_uri()]

    return _record_browser(start)


def _record_browser(start: Callable[[Path, str], list[str]]) -> bytes:
    with echo_server() as port, TemporaryDirectory() as directory:
        page = Path(directory) / "page.html"
        page.write_text(_PAGE % f"ws://127.0.0.1:{port}/chat")
        profile = Path(directory) / "profile"
        profile.mkdir()
        recorder = Recorder(port)
        environment = os.environ | {"HOME": directory}
        with (Path(directory) / "log").open("w") as log:
            browser = subprocess.Popen(
                start(page, str(profile)),
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            try:
                deadline = time.monotonic() + _BROWSER_TIME
                while len(recorder._ends()) < 2 and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)  # the browser's own group
                browser.wait()
        return recorder.stop()


def record_ws() -> bytes:
    with echo_server() as port:
        recorder = Recorder(port)
        url = f"ws://127.0.0.1:{port}/"
        subprocess.run(["node", "-e", _NODE, url], check=True, timeout=PATIENCE)
        recorder.wait_for_end()
        return recorder.stop()


def record_curl() -> bytes:
    """Record a handshake of curl; a Close frame of chatd ends it when chatd stops."""
    with daemon("chatd", "--port", "0", "--db", ":memory:") as running:
        port = running.address[1]
        recorder = Recorder(port)
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(b"recorded by curl").decode(),
        }
        command = ["curl", "--silent", "--http1.1", "--noproxy", "*", "--max-time", "10"]
        for name, value in headers.items():
            command += ["--header", f"{name}: {value}"]
        curl = subprocess.Popen([*command, f"http://127.0.0.1:{port}/r/tea"])
        try:
            poll(lambda: any(b" 101 " in packet for packet in recorder.packets), "status 101")
            running.stop()
            curl.wait(PATIENCE)
        finally:
            curl.kill()
            curl.wait()
        recorder.wait_for_end()
        return recorder.stop()


RECORDERS = {
    "chromium": record_chromium,
    "firefox": record_firefox,
    "ws": record_ws,
    "curl": record_curl,
}

if __name__ == "__main__":
    main(sys.argv[1:])
