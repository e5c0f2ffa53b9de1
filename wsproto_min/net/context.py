"""State that all peers and listeners of one server share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD
from wsproto_min.http import Request, Response
from wsproto_min.messages import MessageChunk
from wsproto_min.net.connection_age import ConnectionAge
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.message_budget import MessageBudget
from wsproto_min.net.peer import Peer
from wsproto_min.net.pings import PendingPings
from wsproto_min.net.timers import CoarseTimers
from wsproto_min.net.write_buffer import (
    DEFAULT_HIGH_MARK,
    DEFAULT_LOW_MARK,
    WriteBudget,
    check_marks,
)
from wsproto_min.net.write_coalescer import WriteCoalescer
from wsproto_min.server_handshake import Acceptance, Deferred


def _ignore(peer: Peer) -> None:
    pass


class PendingHandshake(Protocol):
    """A session with an incomplete opening handshake."""

    def on_too_many_handshakes(self) -> None:
        """End the connection, and leave `pending_handshakes`."""


@dataclass(slots=True, eq=False, repr=False)
class ServerContext:
    """Options of a server (see `Server`), its event loop, and its peers.

    Attributes:
        pending_handshakes: Sessions with an incomplete handshake, the oldest first.
        peers: All peers that have a socket.
        closed: Peers for which `on_close` is to be called.
        disconnected: Peers for which `on_disconnect` is to be called.
        bytes_received: Bytes received from all peers, after TLS decryption.

    """

    on_request: Callable[[Peer, Request], Response | Acceptance | Deferred]
    on_open: Callable[[Peer], None]
    on_message: Callable[[Peer, str | bytes], None]
    max_message_size: int
    max_fragments: int | None
    write_buffer_limit: int
    open_timeout: float
    close_timeout: float
    compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD
    ping_interval: float | None = None
    ping_timeout: float = 20.0
    control_rate_limit: float = 100.0
    total_write_buffer_limit: int = 256 << 20
    write_timeout: float = 60.0
    total_unfinished_limit: int = 128 << 20
    max_pending_handshakes: int = 1024
    max_body_size: int = 0
    max_connection_age: float | None = None
    trace: logging.Logger | None = None
    on_accept: Callable[[Peer], None] = _ignore
    on_chunk: Callable[[Peer, MessageChunk], None] | None = None
    on_drained: Callable[[Peer], None] | None = None
    write_high_mark: int = DEFAULT_HIGH_MARK
    write_low_mark: int = DEFAULT_LOW_MARK
    loop: EventLoop = field(default_factory=EventLoop)
    timers: CoarseTimers = field(init=False)
    write_budget: WriteBudget = field(init=False)
    message_budget: MessageBudget = field(init=False)
    pings: PendingPings = field(init=False)
    connection_age: ConnectionAge | None = None
    pending_handshakes: dict[PendingHandshake, None] = field(default_factory=dict)
    write_coalescer: WriteCoalescer = field(default_factory=WriteCoalescer)
    peers: set[Peer] = field(default_factory=set)
    closed: list[Peer] = field(default_factory=list)
    disconnected: list[Peer] = field(default_factory=list)
    bytes_received: int = 0

    def __post_init__(self) -> None:
        """Create the timers and the limits for all peers."""
        self.timers = CoarseTimers(self.loop)
        self.message_budget = MessageBudget(self.total_unfinished_limit)
        marks = check_marks(self.write_high_mark, self.write_low_mark, self.write_buffer_limit)
        self.write_budget = WriteBudget(
            self.total_write_buffer_limit, self.write_timeout, self.timers, marks
        )
        self.pings = PendingPings(self.timers)
        if self.max_connection_age is not None:
            self.connection_age = ConnectionAge(self.timers, self.max_connection_age)
