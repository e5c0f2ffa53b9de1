"""Registry of the rooms in use, and of the connections of their members; peers leave here.

`joins` lets peers join.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from chatd import protocol
from chatd.announcements import Announcer
from chatd.cluster import Cluster
from chatd.model import (
    NAMED_MEMBERS,
    RESERVED_FOR,
)
from chatd.modes import ChatMode, Mode, OpenMode
from chatd.protocol import ChatError
from chatd.rooms import Member, Room
from wsproto_min import CloseCode, Peer, Server

# Seconds of one event loop iteration in which expired reservations are removed.
EXPIRY_STEP = 0.002
# Seconds of one event loop iteration in which closed connections leave their rooms.
LEAVING_STEP = 0.002


class RoomRegistry:
    """Rooms in use, by name. A room exists while it has peers or reserved names.

    Args:
        server: Server with the loop and the groups of the rooms.
        max_rooms: Limit of rooms in use; 0 for none.
        shared: The other nodes; None for the only node.
    """

    def __init__(
        self,
        server: Server,
        max_rooms: int,
        shared: Cluster | None = None,
    ) -> None:
        self._shared = shared
        self._server = server
        self._max_rooms = max_rooms
        self._rooms: dict[str, Room] = {}
        self._announcer = Announcer(server, None if shared is None else shared.announce)
        self._connections: dict[str, dict[Peer, int]] = {}  # by author; numbers of rooms
        # Closed connections that are still in rooms.
        self._leaving: OrderedDict[OpenMode, Peer] = OrderedDict()
        self._expiry_scheduled = False
        self._to_expire: list[Room] = []  # rooms that the current expiry has not visited
        self._reservations_remain = False

    def on_change(self, room: Room) -> None:
        """Announce the changes of a room's members soon."""
        self._announcer.on_change(room)

    def announce_typing(self, member: Member, peer: Peer) -> None:
        """See `Announcer.announce_typing`."""
        self._announcer.announce_typing(member, peer)

    def connections(self, author: str) -> Sequence[Peer]:
        """Return the peers in chat mode that have joined a room as an author."""
        return tuple(self._connections.get(author, ()))

    def __iter__(self) -> Iterator[Room]:
        """Iterate over the rooms in use."""
        return iter(self._rooms.values())

    def find(self, name: str) -> Room | None:
        """Return a room if it is in use."""
        return self._rooms.get(name)

    def open(self, name: str) -> Room:
        """Return a room; create it if necessary.

        Raises:
            ChatError: `too_many_rooms` if the server has `max_rooms` already.
        """
        room = self._rooms.get(name)
        if room is None:
            if self._max_rooms and len(self._rooms) >= self._max_rooms:
                reason = f"the server has its limit of {self._max_rooms} rooms; use another room"
                raise ChatError("too_many_rooms", reason, room=name)
            room = self._rooms[name] = Room(name, self._server.group(), self._server.group())
            if self._shared is not None:
                self._shared.follow(name)
        return room

    # Connections of authors.

    def announce_rename(self, peer: Peer | None, member: Member, former_name: str) -> None:
        """Tell the room of a new name, in a large room only the member's other connections."""
        room = member.room
        notice = protocol.renamed(room.name, former_name, member.name, member.author)
        if room.count <= NAMED_MEMBERS:
            room.chat_peers.send(notice, sender=peer)
        else:
            for other in member.peers:
                if other is not peer and other in room.chat_peers:
                    other.send(notice)

    def add_connection(self, author: str, peer: Peer) -> None:
        """Record that a peer in chat mode has joined a room as an author."""
        rooms_of = self._connections.setdefault(author, {})
        rooms_of[peer] = rooms_of.get(peer, 0) + 1

    def forget_connection(self, author: str, peer: Peer) -> None:
        """Record that a peer has left a room."""
        rooms_of = self._connections[author]
        rooms_of[peer] -= 1
        if not rooms_of[peer]:
            del rooms_of[peer]
        if not rooms_of:
            del self._connections[author]

    # Leaving.

    def leave(self, peer: Peer, mode: ChatMode, member: Member, *, reserve: bool = False) -> None:
        """Let a peer in chat mode leave a room.

        The name of a member without other peers is freed, or reserved for RESERVED_FOR seconds.
        """
        mode.forget(member.room.name)
        member.room.chat_peers.discard(peer)
        self._leave(peer, member, reserve=reserve)

    def remove(self, member: Member, code: str, reason: str) -> None:
        """Remove a member with all its peers from a room, and tell them the reason."""
        room = member.room
        for peer in tuple(member.peers):
            mode: Mode = peer.user_data
            if isinstance(mode, ChatMode):
                self.leave(peer, mode, member)
                peer.send(protocol.error(ChatError(code, reason, room=room.name)))
            else:
                peer.close(CloseCode.POLICY_VIOLATION, reason)

    def remove_stale(self, member: Member) -> None:
        """Remove a member of this node that a moderator of another node has removed."""
        if self._shared is not None and self._shared.is_lost:
            return  # its connections are about to be closed
        reason = f"a moderator has removed you from the room {member.room.name}"
        self.remove(member, "kicked", reason)

    def _leave(self, peer: Peer, member: Member, *, reserve: bool = False) -> None:
        room = member.room
        if isinstance(peer.user_data, ChatMode):
            self.forget_connection(member.author, peer)
        if self._shared is not None:  # the store reserves the name
            room.leave(member, peer)
            self._shared.members.release(room, member.author, reserve=reserve)
        else:
            room.leave(member, peer, reserve_at=time.monotonic() if reserve else None)
        self._announcer.on_change(room)
        self.close_if_empty(room)
        if reserve and self._shared is None:
            self._schedule_expiry()

    def leave_all(self, peer: Peer, mode: OpenMode) -> None:
        """Let a closed connection leave its rooms; reserve its names in chat mode.

        Many connections may close together, each in MAX_ROOMS rooms. So they leave at the end
        of this iteration and of the next ones, for LEAVING_STEP seconds each.
        """
        self._leaving[mode] = peer

    def _leave_now(self, peer: Peer, mode: OpenMode) -> None:
        if isinstance(mode, ChatMode):
            for member in mode.members.values():
                self._leave(peer, member, reserve=True)
        else:
            if mode.member is not None and peer in mode.member.peers:
                self._leave(peer, mode.member)
            self.close_if_empty(mode.room)

    def leave_early(self, room_name: str, name: str) -> None:
        """Let the closed connection with a name leave before the name is given again."""
        if not self._leaving:
            return
        room = self._rooms.get(room_name)
        holder = None if room is None else room.holder(name)
        for peer in () if holder is None else tuple(holder.peers):
            if peer.user_data in self._leaving:
                del self._leaving[peer.user_data]
                self._leave_now(peer, peer.user_data)

    def close_if_empty(self, room: Room) -> None:
        """Forget a room without peers, reservations and claims of this node."""
        if room.is_empty:
            self._announcer.forget(room)
            if self._rooms.get(room.name) is room:  # else another room has the name since
                del self._rooms[room.name]
                if self._shared is not None:
                    self._shared.unfollow(room.name)

    def _schedule_expiry(self) -> None:
        if not self._expiry_scheduled:
            self._expiry_scheduled = True
            self._server.call_later(RESERVED_FOR, self._expire_reservations)

    def _expire_reservations(self) -> None:
        """Remove expired reservations for up to EXPIRY_STEP seconds of this iteration."""
        now = time.monotonic()
        if not self._to_expire:
            self._to_expire = list(self)
            self._reservations_remain = False
        while self._to_expire:
            room = self._to_expire.pop()
            if room.expire_reservations(now):
                self._reservations_remain = True
            self.close_if_empty(room)
            if self._to_expire and time.monotonic() >= now + EXPIRY_STEP:
                self._server.call_later(0, self._expire_reservations)
                return
        self._expiry_scheduled = False
        if self._reservations_remain:
            self._schedule_expiry()

    # Iterations.

    def end_iteration(self) -> None:
        """Let closed connections leave, then announce the changes of this iteration.

        A room gets the changes of many closed connections together.
        """
        if self._leaving:
            step_end = time.monotonic() + LEAVING_STEP
            while self._leaving:
                mode, peer = self._leaving.popitem(last=False)
                self._leave_now(peer, mode)
                if time.monotonic() >= step_end:
                    break
        if self._leaving or self._announcer.end_iteration():
            self._server.call_later(0, _continue)  # in the next iteration


def _continue() -> None:
    """Do nothing: a timer without a function of its own starts the next iteration."""
