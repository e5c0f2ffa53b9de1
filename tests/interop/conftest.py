from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.needs import need


class Certificate:
    """A self-signed certificate of 127.0.0.1, and TLS contexts for both ends."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    need(shutil.which("openssl"), "openssl", "apt-get install openssl")
    return Certificate(tmp_path_factory.mktemp("tls"))
