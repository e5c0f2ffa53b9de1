"""Delivery of the entries that the store has taken, in the store's order.

In chat mode the sender also receives its entry, as the acknowledgement. A sender of a POST
request receives its response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

from chatd import protocol
from chatd.model import Kind, Message, direct_authors
from chatd.modes import ChatMode, PostMode
from chatd.ops.metrics import Metrics
from chatd.protocol import ChatError
from chatd.rooms import Room
from chatd.storage.store import Appended, NewMessage, Refused, StoredMessage, StoreError
from chatd.storage.write_batcher import Batch
from chatd.store_monitor import StoreMonitor
from wsproto_min import CloseCode, Peer, Response

_NOT_STORED = "the message could not be stored and was not sent; try again later"
_MAY_BE_STORED = "the message may or may not be stored; send it again with the same key"


class Rooms(Protocol):
    """The rooms in use."""

    def find(self, name: str) -> Room | None:
        """Return a room if it is in use."""

    def connections(self, author: str) -> Sequence[Peer]:
        """Return the peers that have joined a room as an author."""


class Delivery:
    """Sends stored entries to their rooms, and failures to their senders.

    Args:
        rooms: Returns the rooms in use.
        monitor: Receives the results of the store.
        metrics: Counts the deliveries.
        may_be_stored: True if the store may have an entry although its append failed.
    """

    def __init__(
        self,
        rooms: Callable[[], Rooms],
        monitor: StoreMonitor,
        metrics: Metrics,
        *,
        may_be_stored: bool = False,
    ) -> None:
        self._failure = _MAY_BE_STORED if may_be_stored else _NOT_STORED
        self._rooms = rooms
        self._monitor = monitor
        self._metrics = metrics

    def deliver(self, batch: Batch, result: Sequence[Appended] | StoreError) -> None:
        """Deliver a batch in the store's order, or report to its senders that it failed."""
        if isinstance(result, StoreError):
            self._monitor.on_error(result)
            for peer, new in batch:
                _reject(peer, new, "log_failed", self._failure)
        else:
            self._monitor.on_success()
            for (peer, new), stored in zip(batch, result, strict=True):
                if isinstance(stored, Refused):
                    _reject(peer, new, stored.code, stored.reason)
                else:
                    self._deliver_one(peer, new, stored)

    def _deliver_one(self, peer: Peer, new: NewMessage, stored: StoredMessage) -> None:
        room = self._rooms().find(new.room)
        mode = peer.user_data
        in_chat_mode = isinstance(mode, ChatMode)
        if in_chat_mode or (room is not None and room.chat_peers):
            encoded = protocol.message(new.room, stored.message)
            if in_chat_mode:
                peer.send(protocol.acknowledgement(encoded, new.key))
            if room is not None and not stored.repeated:
                room.chat_peers.send(encoded, sender=peer)
        if isinstance(mode, PostMode):
            _confirm(peer, stored)
        if stored.repeated:
            return
        if room is not None:
            # A sender in chat mode receives its acknowledgement, which counts as a delivery.
            # A sender in plain mode receives nothing.
            delivered = len(room.chat_peers)
            if room.plain_peers and new.kind is Kind.MESSAGE:
                room.plain_peers.send(stored.message.text, sender=peer)
                delivered += len(room.plain_peers) - (peer in room.plain_peers)
            self._metrics.messages_delivered += delivered
        if new.room[0] == "@" and new.kind is Kind.MESSAGE:
            self.notify_direct(new.room, new.name, new.author)

    def deliver_foreign(self, name: str, message: Message) -> None:
        """Deliver an entry that another node has stored."""
        room = self._rooms().find(name)
        if room is None:
            return
        if room.chat_peers:
            room.chat_peers.send(protocol.message(name, message))
        if room.plain_peers and message.kind is Kind.MESSAGE:
            room.plain_peers.send(message.text)
            self._metrics.messages_delivered += len(room.plain_peers)
        self._metrics.messages_delivered += len(room.chat_peers)

    def notify_direct(self, room: str, name: str, sender: str) -> None:
        """Tell the other member's connections that are not in the direct room of a message."""
        notice = protocol.direct(room, name, sender)
        for author in direct_authors(room) or ():
            if author != sender:
                for peer in self._rooms().connections(author):
                    if room not in peer.user_data.members:
                        peer.send(notice)


def _confirm(peer: Peer, stored: StoredMessage) -> None:
    """Answer a POST request with the id of its message; 200 if the store had it already."""
    status = HTTPStatus.OK if stored.repeated else HTTPStatus.CREATED
    peer.respond(Response.json({"id": stored.message.id, "time": stored.message.time}, status))


def _reject(peer: Peer, new: NewMessage, code: str, reason: str) -> None:
    """Report to the sender that the store has not taken its message."""
    mode = peer.user_data
    if isinstance(mode, ChatMode):
        peer.send(protocol.error(ChatError(code, reason, key=new.key, room=new.room)))
    elif isinstance(mode, PostMode):
        peer.respond(Response.text(f"{reason}\n", HTTPStatus.SERVICE_UNAVAILABLE))
    else:
        peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")
