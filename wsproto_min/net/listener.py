"""Listening sockets: how they are opened, and how connections are accepted."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import weakref
from contextlib import suppress
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, cast

from wsproto_min.net.context import ServerContext
from wsproto_min.net.frame_trace import FrameTrace, TracedSocket
from wsproto_min.net.session import Session
from wsproto_min.net.tls import TLSSocket

if TYPE_CHECKING:
    import ssl

# Length of the kernel's queue of new connections; the kernel limits it to net.core.somaxconn.
BACKLOG = 1024
# Maximum number of connections that one iteration accepts, so that open connections do not wait.
ACCEPTS_PER_ITERATION = 64
# A failed accept() costs about 10% of a handshake. Accept one connection per iteration, and
# more only after SINGLE_ACCEPTS iterations in a row found one.
SINGLE_ACCEPTS = 4
# Seconds without accepting after the process has run out of descriptors or memory.
ACCEPT_PAUSE = 0.5

# Free ports to try for a name with several addresses.
PORT_ATTEMPTS = 10

# Errors for an address, or an address family, that this machine does not have.
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

logger: logging.Logger = logging.getLogger("wsproto_min")


def open_tcp_listeners(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return a listening TCP socket for each address of `host`, all with the same port.

    Args:
        host: Name or address of a local interface. "::" accepts IPv6 and IPv4, "" listens on
            all interfaces. A name may have addresses that this machine does not have, for
            example without IPv6, but not all of them.
        port: Port from 0 to 65535; 0 picks a free one.
        reuse_port: Share the port with other sockets that have SO_REUSEPORT.

    Raises:
        OSError: An address is invalid or in use, or none is an address of this machine.
        ValueError: The system does not have SO_REUSEPORT.

    """
    if not 0 <= port < 1 << 16:  # getaddrinfo() would take a larger port modulo 65536
        raise OSError(errno.EINVAL, "port: out of range; use a number from 0 to 65535")
    flags = socket.AI_PASSIVE
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # from the IDNA codec
        raise OSError(errno.EINVAL, "host: not a valid name; use a host name or address") from None
    addresses = list(dict.fromkeys((info[0], info[4]) for info in infos))  # without repetitions
    for _ in range(PORT_ATTEMPTS if port == 0 else 1):
        try:
            return _listen_on_all(addresses, port, reuse_port=reuse_port)
        except OSError as error:  # another address may have the free port in use
            failure = error
            if error.errno != errno.EADDRINUSE:
                break
    raise failure


def _listen_on_all(
    addresses: list[tuple[Any, Any]], port: int, *, reuse_port: bool
) -> list[socket.socket]:
    """Listen on all addresses that this machine has, with the port of the first if it is 0."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for family, (address, _, *rest) in addresses:
            try:
                alone = len(addresses) == 1
                sock = _listen(family, (address, port, *rest), alone=alone, reuse_port=reuse_port)
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                failure = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
        if failure is not None and not sockets:
            raise failure
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen(
    family: int, address: tuple[Any, ...], *, alone: bool, reuse_port: bool
) -> socket.socket:
    is_any = family == socket.AF_INET6 and address[0] == "::"
    dual = is_any and alone and socket.has_dualstack_ipv6()
    sock = socket.create_server(
        address, family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=dual
    )
    # Accepted sockets inherit the option. Each iteration writes once for each peer, so
    # Nagle's algorithm would only add delay.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def open_unix_listener(path: str) -> socket.socket:
    """Return a listening Unix socket for its owner and group (mode 0660).

    Replaces a stale socket file, on which no server listens.

    Raises:
        OSError: The path is unusable. With EADDRINUSE: a server answers there, or the file
            is not a socket. Or the system has no Unix sockets.

    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("Unix socket: this system has none; listen on a TCP port")
    _remove_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o117)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    return sock


def _remove_stale_socket(path: str) -> None:
    """Remove a socket file that no server listens on."""
    in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        except BlockingIOError:  # a live server with a full queue
            raise in_use from None
        else:
            raise in_use


class Listener:
    """A listening socket in the event loop, which starts a session for each connection.

    Args:
        context: The server's shared state.
        sock: A listening socket; the listener closes it.
        ssl_context: TLS configuration, or None for plain TCP.

    """

    def __init__(
        self, context: ServerContext, sock: socket.socket, ssl_context: ssl.SSLContext | None
    ) -> None:
        sock.setblocking(False)
        self._context = context
        self._socket = sock
        self._ssl_context = ssl_context
        self._socket_file = _identify_socket_file(sock)
        self._successes = 0  # consecutive iterations that accepted a connection
        self._paused = False
        self._closed = False
        context.loop.register(sock, EVENT_READ, self)
        # The end of `run` closes listeners. If the server never runs, the collector does.
        weakref.finalize(self, sock.close)

    def on_ready(self, events: int) -> None:
        """Accept waiting connections, up to a limit."""
        accepted = False
        for _ in range(1 if self._successes < SINGLE_ACCEPTS else ACCEPTS_PER_ITERATION):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                self._successes = 0
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause(error)
                    return
                continue  # the client has gone (ECONNABORTED and others, see accept(2))
            self._start_session(sock, address)
            accepted = True
        self._successes = self._successes + 1 if accepted else 0

    def _start_session(self, sock: socket.socket, address: tuple[str, int] | str | bytes) -> None:
        stream: socket.socket | TLSSocket = sock
        name = _format_address(address)
        to = self._context.trace
        trace = FrameTrace(name, to) if to is not None and to.isEnabledFor(logging.DEBUG) else None
        try:
            sock.setblocking(False)
            if self._ssl_context is not None:
                stream = TLSSocket(sock, self._ssl_context, trace)
            elif trace is not None:
                stream = cast(socket.socket, TracedSocket(sock, trace))
            session = Session(self._context, stream, name)
        except OSError:  # the client has gone, or the loop cannot watch one more socket
            stream.close()
            return
        except BaseException:  # KeyboardInterrupt can come at any line
            stream.close()
            raise
        # The request has often come already: answer it one iteration earlier.
        session.transport.on_ready(EVENT_READ)

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a while, because a ready listener would keep the loop busy."""
        logger.warning(
            "accept: %s; raise the limit on descriptors or memory; the server tries again in %g s",
            error,
            ACCEPT_PAUSE,
        )
        self._paused = True
        self._context.loop.unregister(self._socket)
        self._context.loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._paused = False
            self._context.loop.register(self._socket, EVENT_READ, self)

    def close(self) -> None:
        """Close the socket, and remove its file if it is a Unix socket.

        A file that another server has put in its place stays.
        """
        self._closed = True
        if not self._paused:
            self._context.loop.unregister(self._socket)
        # An open socket keeps the inode of its file, so no other file can have its number.
        if self._socket_file and self._socket_file == _identify_socket_file(self._socket):
            with suppress(OSError):
                os.unlink(self._socket.getsockname())
        self._socket.close()


def _identify_socket_file(sock: socket.socket) -> tuple[int, int] | None:
    """Return device and inode of the file at a Unix socket's path, or None without a file."""
    if sock.family == getattr(socket, "AF_UNIX", None):  # Windows has no AF_UNIX
        with suppress(OSError, ValueError):  # ValueError: an abstract name has no file
            status = os.stat(sock.getsockname())
            return status.st_dev, status.st_ino
    return None


def _format_address(address: tuple[str, int] | str | bytes) -> str:
    """Return "host:port", with an IPv6 host in brackets, or "unix"."""
    if not isinstance(address, tuple):  # bytes: the abstract name of a Unix client
        return "unix"
    host, port = address[:2]
    if host.startswith("::ffff:") and "." in host:  # an IPv4 client of a dual-stack socket
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
