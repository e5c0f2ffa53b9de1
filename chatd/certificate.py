"""The server's TLS certificate, which can be replaced while the server runs.

`ssl.SSLContext.load_cert_chain` must not be called twice for this purpose. A context holds one
certificate for each type of key, so an old certificate with an elliptic-curve key would hide a new
one with an RSA key. A failure between certificate and key would leave the context unusable. So a
reload makes a new context, and each later handshake switches to the newest context.
"""

from __future__ import annotations

import ssl


class CertificateError(Exception):
    """A certificate that cannot be used; the message is one line with the remedy."""


class Certificate:
    """Certificate and key, read from their files.

    Attributes:
        context: The TLS configuration for the listening sockets. It stays the same object.

    Args:
        certificate: File of the certificate chain, in PEM format.
        key: File of the private key; None if the first file has it too.

    Raises:
        CertificateError: A file cannot be read, or the files do not fit together.
    """

    def __init__(self, certificate: str, key: str | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self.context = self._newest = self._load()
        # OpenSSL calls the callback in each handshake, also without the extension (RFC 6066, 3).
        self.context.sni_callback = self._use_newest

    def reload(self) -> None:
        """Read the files again, for all later handshakes.

        Raises:
            CertificateError: As above; the certificate so far stays in use.
        """
        self._newest = self._load()

    def _use_newest(
        self, stream: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        stream.context = self._newest

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        files = self._certificate + (f" with the key {self._key}" if self._key else "")
        try:
            # Without a password, OpenSSL asks the terminal for one, and the event loop waits.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except ssl.SSLError:  # its text is for readers of OpenSSL's sources
            raise CertificateError(
                f"certificate {files}: not in PEM format, or the key is missing, encrypted or"
                " belongs to another certificate; check --tls-cert and --tls-key"
            ) from None
        except OSError as error:
            raise CertificateError(
                f"certificate {files}: cannot read: {error.strerror}; check --tls-cert and"
                " --tls-key"
            ) from None
        return context
