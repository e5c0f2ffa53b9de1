"""The certificate of a running server: SIGHUP reads it again."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from chatd.certificate import Certificate, CertificateError
from tests.support import (
    PATIENCE,
    Address,
    Client,
    Daemon,
    connect,
    daemon,
    exchange,
    make_certificate,
    poll,
)
from wsproto_min import connect as open_connection

ALONE = ("--port", "0", "--db", ":memory:")


def renew(file: Path, kind: str = "EC") -> str:
    """Write another certificate with its key to `file`; return the certificate."""
    directory = file.parent / "new"
    directory.mkdir(exist_ok=True)
    if kind == "EC":
        new = make_certificate(directory)
    else:
        files = f"-subj /CN=localhost -out {directory}/c -keyout {directory}/k"
        subprocess.run(
            f"openssl req -x509 -nodes -newkey rsa:2048 -days 2 {files}".split(),
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        new = directory / "both.pem"
        new.write_bytes((directory / "c").read_bytes() + (directory / "k").read_bytes())
    text = new.read_text()
    new.replace(file)
    return text.partition("-----END CERTIFICATE-----")[0].strip()


def served(address: Address, name: str | None = "localhost") -> str:
    """Return the certificate that a new connection receives."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(address) as sock, context.wrap_socket(sock, server_hostname=name) as stream:
        certificate = stream.getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate).partition("-----END")[0].strip()


def hang_up(running: Daemon) -> None:
    running.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("kind", ["EC", "RSA"])
@pytest.mark.parametrize("name", ["localhost", None], ids=["with SNI", "without SNI"])
def test_hangup_gives_new_connections_the_new_certificate(
    kind: str, name: str | None, tmp_path: Path
) -> None:
    file = make_certificate(tmp_path)
    with daemon("chatd", "--tls-cert", str(file), *ALONE) as running:
        before = served(running.address, name)
        trusted = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        url = f"wss://localhost:{running.address[1]}/r/tea"
        with open_connection(url, ssl_context=trusted) as first:
            new = renew(file, kind)
            assert served(running.address, name) == before != new
            hang_up(running)
            poll(lambda: served(running.address, name) == new, "the new certificate is served")
            assert first.ping(PATIENCE) > 0  # the open connection continues
        status, errors = running.end()
        assert status == 0
        assert errors.count("SIGHUP: the certificate was read again") == 1


@pytest.mark.parametrize(
    "content", [None, "", "Dear Ann", "certificate only", "encrypted key", "foreign key"]
)
def test_hangup_with_an_unusable_file_keeps_the_certificate(
    content: str | None, tmp_path: Path
) -> None:
    file = make_certificate(tmp_path)
    with daemon("chatd", "--tls-cert", str(file), *ALONE) as running:
        before = served(running.address)
        os.unlink(file)
        if content == "certificate only":
            file.write_bytes((tmp_path / "certificate.pem").read_bytes())
        elif content == "encrypted key":
            encrypt = f"openssl ec -in {tmp_path}/key.pem -aes128 -passout pass:secret"
            key = subprocess.run(encrypt.split(), check=True, capture_output=True).stdout
            file.write_bytes((tmp_path / "certificate.pem").read_bytes() + key)
        elif content == "foreign key":
            certificate = (tmp_path / "certificate.pem").read_bytes()
            make_certificate(tmp_path)
            file.write_bytes(certificate + (tmp_path / "key.pem").read_bytes())
        elif content is not None:
            file.write_text(content)
        hang_up(running)
        assert served(running.address) == served(running.address) == before
        status, errors = running.stop()
        assert status == 0
        assert errors.count("\n") == 1, errors
        assert f" error certificate {file}: " in errors
        assert "; the previous certificate stays in use" in errors


def test_hangup_without_a_certificate_has_no_effect() -> None:
    with daemon("chatd", *ALONE) as running, Client(running.address) as client:
        for _ in range(3):
            hang_up(running)
            client.send("still here")
            assert exchange(running.address, b"GET /healthz HTTP/1.1\r\n\r\n").endswith(b"ok\n")
        running.process.send_signal(signal.SIGTERM)
        hang_up(running)  # and while the server drains
        client.receive_all()
        assert running.process.wait(PATIENCE) == 0


def test_reload_after_a_failed_reload_uses_the_new_files(tmp_path: Path) -> None:
    file = make_certificate(tmp_path)
    certificate = Certificate(str(file))
    content = file.read_bytes()
    file.write_text("")
    with pytest.raises(CertificateError, match="not in PEM format"):
        certificate.reload()
    file.write_bytes(content)
    certificate.reload()
