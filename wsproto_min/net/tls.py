"""Server-side TLS on a non-blocking socket.

A TLS stream may have to write before it can read, or read before it can write. It also
holds decrypted bytes that no selector sees. `TLSSocket` hides both, and otherwise behaves
like a plain non-blocking socket. After a `BlockingIOError` its attributes `read_waits_for`
and `write_waits_for` name the event to wait for.

Module `ssl` takes about 10 ms to load. So this module loads it inside functions: a server without
TLS never does, and a caller with an `SSLContext` has done so already.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, cast

from wsproto_min.net.frame_trace import Trace, TracedSocket

if TYPE_CHECKING:
    import ssl

# Reasons of OpenSSL for bytes that are not TLS.
_NOT_TLS = {"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"}


def describe_failure(error: OSError) -> str | None:
    """Return a sentence about a failed TLS handshake, or None if the connection broke."""
    reason = getattr(error, "reason", None)  # only an ssl.SSLError has one, possibly None
    if not reason:
        return None
    if reason in _NOT_TLS:
        return "the client did not begin TLS on a port with TLS; use wss:// or https://"
    return f"the TLS handshake failed: {reason.lower().replace('_', ' ')}"


class TLSSocket:
    """Server end of a TLS connection; the TLS handshake happens inside `recv`.

    `read_waits_for` and `write_waits_for` are events of `selectors`: the readiness that
    the next `recv` or `send` needs. TLS renegotiation and key updates can swap them.
    """

    __slots__ = ("_ssl", "read_waits_for", "write_waits_for")

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, trace: Trace | None = None
    ) -> None:
        # For a client that has gone, wrap_socket() raises and leaves its socket open. Raise first.
        sock.getpeername()
        self._ssl = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        if trace is not None:  # between TLS and this class, where bytes are not encrypted
            self._ssl = cast("ssl.SSLSocket", TracedSocket(self._ssl, trace))
        self.read_waits_for: int = EVENT_READ
        self.write_waits_for: int = EVENT_WRITE

    @property
    def is_established(self) -> bool:
        """True once the TLS handshake is complete."""
        return self._ssl.version() is not None

    def fileno(self) -> int:
        """Return the file descriptor for a selector."""
        return self._ssl.fileno()

    def recv(self, size: int) -> bytes:
        """Return up to `size` decrypted bytes; `b""` at the end of the stream.

        Reads until TLS holds no decrypted bytes, because a selector does not report them.

        Raises:
            BlockingIOError: No bytes are available; wait for `read_waits_for`.
            OSError: The TLS handshake or the connection failed.
        """
        from ssl import SSLWantReadError, SSLWantWriteError

        chunks: list[bytes] = []
        received = 0
        self.read_waits_for = EVENT_READ
        try:
            while received < size and (not chunks or self._ssl.pending()):
                chunk = self._ssl.recv(size - received)
                if not chunk:
                    return b"".join(chunks)  # after some bytes, the next call reports the end
                chunks.append(chunk)
                received += len(chunk)
        except SSLWantReadError:
            pass
        except SSLWantWriteError:
            self.read_waits_for = EVENT_WRITE
        if not chunks:
            raise BlockingIOError
        return b"".join(chunks)

    def send(self, data: bytes | memoryview) -> int:
        """Send as many bytes as fit without blocking; return their number.

        Raises:
            BlockingIOError: Nothing was sent; wait for `write_waits_for`, then pass the
                same data again.
            OSError: The connection failed.
        """
        from ssl import SSLWantReadError, SSLWantWriteError

        self.write_waits_for = EVENT_WRITE
        try:
            return self._ssl.send(data)
        except SSLWantWriteError:
            raise BlockingIOError from None
        except SSLWantReadError:
            self.write_waits_for = EVENT_READ
            raise BlockingIOError from None

    def shutdown(self, how: int) -> None:
        """Send close_notify and shut the socket down; later input is not decrypted."""
        self._send_close_notify()
        self._ssl.shutdown(how)

    def close(self) -> None:
        """Send close_notify if the socket takes it at once, and close the socket."""
        self._send_close_notify()
        self._ssl.close()

    def _send_close_notify(self) -> None:
        # unwrap() also asks for the peer's close_notify and raises because it is missing.
        with suppress(OSError, ValueError):
            self._ssl.unwrap()
