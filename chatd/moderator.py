"""Acts of moderators: kick, ban and mute, their effect on members, and their announcement."""

from __future__ import annotations

import time
from collections.abc import Sequence

from chatd import protocol
from chatd.access.moderation import Moderation
from chatd.cluster import Cluster
from chatd.history import Done
from chatd.model import ALL_ROOMS, Sanction
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.rooms import Member, Room
from chatd.storage.store import Act, MessageStore, StoreError
from chatd.store_monitor import StoreMonitor
from wsproto_min import Peer


class Moderator:
    """Stores the acts of moderators, and applies all sanctions.

    Args:
        store: Message store with the sanctions and the audit log.
        monitor: Receives the failures of the store.
        moderation: The sanctions in force.
        rooms: The rooms in use.
        cluster: The other nodes, which announce and apply acts too.
    """

    def __init__(
        self,
        store: MessageStore,
        monitor: StoreMonitor,
        moderation: Moderation,
        rooms: RoomRegistry,
        cluster: Cluster | None = None,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._monitor = monitor
        self._moderation = moderation
        self._rooms = rooms

    def act(self, peer: Peer, member: Member, request: protocol.Moderate, done: Done) -> None:
        """Store an act of a moderator in its room, then apply and announce it.

        Raises:
            ChatError: `forbidden` if the person is a moderator too; `not_found` if a person to
                remove is not in the room.
        """
        room, author = member.room, request.author
        target = room.find_author(author)
        if target is not None and target.moderates:
            raise ChatError("forbidden", f"{target.name} is a moderator too", room=room.name)
        if target is None and request.action == "kick":
            raise ChatError("not_found", "this person is not in the room", room=room.name)
        name = author if target is None else target.name
        until = None if request.seconds is None else time.time() + request.seconds

        def finish(error: StoreError | None) -> None:
            if error is not None:
                self._monitor.on_error(error)
                reason = "the act could not be stored; try again later"
                peer.send(protocol.error(ChatError("log_failed", reason, room=room.name)))
            else:
                sanctions = self._store.changed_sanctions()
                if sanctions is not None:
                    self._moderation.load(sanctions)
                notice = protocol.moderated(
                    room.name, request.action, name, member.name, request.seconds
                )
                room.chat_peers.send(notice)
                self._remove(room, author, request.action)
                if self._cluster is not None:
                    self._cluster.announce(room.name, notice)
                    if request.action == "kick":
                        self._cluster.members.expel(room.name, author)
            done(0.0)

        self._store.moderate(
            Act(request.action, room.name, name, author, member.name, until), finish
        )

    def load(self, sanctions: Sequence[Sanction]) -> None:
        """Load all sanctions, and remove the members that are banned."""
        self._moderation.load(sanctions)
        now = time.time()
        for each in sanctions:
            if each.action == "ban" and (each.until is None or now < each.until):
                found = self._rooms.find(each.room)
                rooms = list(self._rooms) if each.room == ALL_ROOMS else [found] if found else []
                for room in rooms:
                    self._remove(room, each.author, "ban")

    def _remove(self, room: Room, author: str, action: str) -> None:
        target = room.find_author(author)
        if target is None:
            return
        if action == "ban":
            self._rooms.remove(target, "banned", f"you are banned from the room {room.name}")
        elif action == "kick":
            reason = f"a moderator has removed you from the room {room.name}"
            self._rooms.remove(target, "kicked", reason)
