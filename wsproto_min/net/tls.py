"""TLS on a non-blocking socket that a selector watches.

A TLS stream may have to write before it can read on, or read before it can
write on, and holds bytes of its own that no selector sees. `TLSSocket` settles
all that and otherwise behaves like a plain non-blocking socket: it raises
`BlockingIOError`, and `read_waits_for` and `write_waits_for` name the readiness that
it needs then.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE


class TLSSocket:
    """The server's end of a TLS connection; the handshake happens in `recv`."""

    __slots__ = ("_ssl", "read_waits_for", "write_waits_for")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._ssl = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        # Usually what the names suggest; TLS's own messages can turn them round.
        self.read_waits_for = EVENT_READ
        self.write_waits_for = EVENT_WRITE

    @property
    def is_established(self) -> bool:
        """Whether the TLS handshake is done."""
        return self._ssl.version() is not None

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._ssl.fileno()

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes, and nothing at the end of the stream.

        All that TLS has decrypted is taken: a selector cannot know of it.
        """
        chunks: list[bytes] = []
        received = 0
        self.read_waits_for = EVENT_READ
        try:
            while received < size and (not chunks or self._ssl.pending()):
                chunk = self._ssl.recv(size - received)
                if not chunk:
                    return b"".join(chunks)  # if there are any, the end is told again
                chunks.append(chunk)
                received += len(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self.read_waits_for = EVENT_WRITE
        if not chunks:
            raise BlockingIOError
        return b"".join(chunks)

    def send(self, data: bytes | memoryview) -> int:
        """Send what goes without blocking; if nothing does, the same data must come again."""
        self.write_waits_for = EVENT_WRITE
        try:
            return self._ssl.send(data)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        except ssl.SSLWantReadError:
            self.write_waits_for = EVENT_READ
            raise BlockingIOError from None

    def shutdown(self, how: int) -> None:
        """Send close_notify and end the stream; what still arrives is not decrypted."""
        self._notify()
        self._ssl.shutdown(how)

    def close(self) -> None:
        """Send close_notify, as far as that goes now, and close the socket."""
        self._notify()
        self._ssl.close()

    def _notify(self) -> None:
        # It asks for the peer's close_notify too, for which nobody waits here.
        with suppress(OSError, ValueError):
            self._ssl.unwrap()
