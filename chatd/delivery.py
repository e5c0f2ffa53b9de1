"""Delivery of the messages that the store has taken, in the store's order.

In chat mode the sender also receives its message, as the acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatd import protocol
from chatd.modes import ChatMode
from chatd.ops.metrics import Metrics
from chatd.protocol import ChatError
from chatd.rooms import Room
from chatd.storage.store import NewMessage, StoredMessage, StoreError
from chatd.storage.write_batcher import Batch
from chatd.store_monitor import StoreMonitor
from wsproto_min import CloseCode, Peer


class Delivery:
    """Sends stored messages to their rooms, and failures to their senders.

    Args:
        find_room: Returns a room by its name if the room is in use.
        monitor: Receives the results of the store.
        metrics: Counts the deliveries.
    """

    def __init__(
        self, find_room: Callable[[str], Room | None], monitor: StoreMonitor, metrics: Metrics
    ) -> None:
        self._find_room = find_room
        self._monitor = monitor
        self._metrics = metrics

    def deliver(self, batch: Batch, result: Sequence[StoredMessage] | StoreError) -> None:
        """Deliver a batch in the store's order, or report to its senders that it failed."""
        if isinstance(result, StoreError):
            self._monitor.on_error(result)
            for peer, new in batch:
                _reject(peer, new)
        else:
            self._monitor.on_success()
            for (peer, new), stored in zip(batch, result, strict=True):
                self._deliver_one(peer, new, stored)

    def _deliver_one(self, peer: Peer, new: NewMessage, stored: StoredMessage) -> None:
        room = self._find_room(new.room)
        in_chat_mode = isinstance(peer.user_data, ChatMode)
        if in_chat_mode or (room is not None and room.chat_peers):
            encoded = protocol.message(new.room, stored.message)
            if in_chat_mode:
                peer.send(protocol.acknowledgement(encoded, new.key))
            if room is not None and not stored.repeated:
                room.chat_peers.send(encoded, sender=peer)
        if room is not None and not stored.repeated:
            # A sender in chat mode receives its acknowledgement, which counts as a delivery.
            # A sender in plain mode receives nothing.
            delivered = len(room.chat_peers)
            if room.plain_peers:
                room.plain_peers.send(new.text, sender=peer)
                delivered += len(room.plain_peers) - (peer in room.plain_peers)
            self._metrics.messages_delivered += delivered


def _reject(peer: Peer, new: NewMessage) -> None:
    """Report to the sender that the store has not taken its message."""
    if isinstance(peer.user_data, ChatMode):
        reason = "the message could not be stored and was not sent; try again later"
        error = ChatError("log_failed", reason, key=new.key, room=new.room)
        peer.send(protocol.error(error))
    else:
        peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")
