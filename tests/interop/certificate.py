"""A certificate authority for tests, and a certificate of 127.0.0.1."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Certificate:
    """A certificate of 127.0.0.1, its authority, and TLS contexts for both ends.

    The authority has a certificate of its own, because some libraries reject a server that
    shows the certificate of an authority.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "authority.pem"
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        authority_key = directory / "authority-key.pem"
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        usage = ["-addext", "basicConstraints=critical,CA:FALSE"]
        usage += ["-addext", "extendedKeyUsage=serverAuth"]
        issuer = ["-CA", str(self.authority), "-CAkey", str(authority_key)]
        self._issue("interop tests", self.authority, authority_key)
        self._issue("127.0.0.1", self.certificate, self.key, *names, *usage, *issuer)

    def _issue(self, name: str, certificate: Path, key: Path, *options: str) -> None:
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", f"/CN={name}"]
        command += ["-keyout", str(key), "-out", str(certificate), *options]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)
