"""curl requests the page from chatd and sends handshakes that chatd refuses.

The curl of Debian 12 is built without WebSocket support, so these tests use HTTP only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.certificate import Certificate
from tests.interop.support import chatd_on
from tests.needs import need
from tests.support import PATIENCE, ROOT, daemon

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def curl(*arguments: str) -> tuple[str, str, bytes]:
    """Return status, content type and body (with --head, the head)."""
    need(shutil.which("curl"), "curl", "apt-get install curl")
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(PATIENCE)]
    command += ["--write-out", "\n%{http_code}\n%{content_type}", *arguments]
    result = subprocess.run(command, capture_output=True, check=False, timeout=2 * PATIENCE)
    assert result.returncode == 0, result.stderr.decode()
    body, status, kind = result.stdout.rsplit(b"\n", 2)
    return status.decode(), kind.decode(), body


@pytest.fixture(scope="module", params=["", "TLS"], ids=["plain", "TLS"])
def chatd(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield curl's arguments for chatd; the last one is the URL without its path."""
    arguments, trust, scheme = [], [], "http"
    if request.param:
        certificate: Certificate = request.getfixturevalue("certificate")
        arguments += ["--tls-cert", str(certificate.certificate)]
        arguments += ["--tls-key", str(certificate.key)]
        trust += ["--cacert", str(certificate.authority)]
        scheme = "https"
    with daemon("chatd", "--port", "0", "--db", ":memory:", *arguments) as running:
        url = f"{scheme}://127.0.0.1:{running.address[1]}"
        assert f" {url}/ " in running.line
        yield [*trust, url]
        assert running.stop() == (0, "")


@pytest.mark.parametrize("path", ["/", "/r/tea", "/?a=b"])
def test_curl_gets_the_page(chatd: list[str], path: str) -> None:
    page = (ROOT / "client.html").read_bytes()
    assert curl(*chatd[:-1], chatd[-1] + path) == ("200", "text/html; charset=utf-8", page)


def test_curl_head_gets_the_content_length(chatd: list[str]) -> None:
    size = (ROOT / "client.html").stat().st_size
    status, _, head = curl("--head", *chatd[:-1], chatd[-1] + "/")
    assert status == "200"
    assert f"\r\nContent-Length: {size}\r\n".encode() in head


@pytest.mark.parametrize(
    ("arguments", "path", "status", "sentence"),
    [
        ([], "/nowhere", "404", "no such page"),
        (["--request", "DELETE"], "/", "405", "only GET and HEAD are allowed here"),
        (["--data", "x" * 100_000], "/", "405", "only GET and HEAD are allowed here"),
        (["--http1.0"], "/", "400", "a WebSocket handshake needs HTTP/1.1"),
        (["--header", "Sec-WebSocket-Version: 8"], "/", "426", "must be 13"),
        (["--header", "Sec-WebSocket-Key: short"], "/", "400", "must be 16 bytes in base64"),
        (["--header", "Connection: keep-alive"], "/", "400", "must include 'Upgrade'"),
        (["--header", "Origin: http://evil.example"], "/", "403", "may not connect"),
        (["--header", "Host: evil.example"], "/", "403", "is not a name of this server"),
    ],
)
def test_curl_bad_request_gets_status_and_explanation(
    chatd: list[str], arguments: list[str], path: str, status: str, sentence: str
) -> None:
    given = {header.partition(":")[0] for header in arguments}
    for name, value in HANDSHAKE.items():
        if name not in given:
            arguments = [*arguments, "--header", f"{name}: {value}"]
    got, kind, body = curl("--http1.1", *arguments, *chatd[:-1], chatd[-1] + path)
    assert (got, kind) == (status, "text/plain; charset=utf-8")
    assert sentence in body.decode()
    assert body.count(b"\n") == 1


def test_curl_gets_the_page_over_a_unix_socket(tmp_path: Path) -> None:
    page = (ROOT / "client.html").read_bytes()
    path = tmp_path / "chatd.sock"
    with chatd_on(path):
        assert curl("--unix-socket", str(path), "http://localhost/")[2] == page
