"""Registry of the rooms in use: peers join, catch up and leave.

A peer in chat mode joins in two steps. It gets its name at once. It gets live messages
as soon as the store has returned the messages that it missed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress

from chatd import protocol
from chatd.access import costs
from chatd.access.invitations import Invitation
from chatd.announcements import Announcer
from chatd.history import CatchUp, HistoryReader
from chatd.model import RESERVED_FOR, name_key
from chatd.modes import ChatMode, Mode, OpenMode, PlainMode
from chatd.protocol import ChatError
from chatd.rooms import Member, NameTaken, Room
from chatd.storage.store import StoreError
from wsproto_min import Peer, Server

# Rooms of one connection. A room costs memory, so this bounds the memory of a connection.
MAX_ROOMS = 100
# Seconds of one event loop iteration in which expired reservations are removed.
EXPIRY_STEP = 0.002
# Seconds of one event loop iteration in which closed connections leave their rooms.
LEAVING_STEP = 0.002
# Close code for private use (RFC 6455, 7.4.2): the session continues in another connection.
TAKEN_OVER = 4001


class RoomRegistry:
    """Rooms in use, by name. A room exists while it has peers or reserved names.

    Args:
        server: Server with the loop and the groups of the rooms.
        history: Reader for the messages that a joining peer missed.
        max_rooms: Limit of rooms in use; 0 for none.
    """

    def __init__(self, server: Server, history: HistoryReader, max_rooms: int) -> None:
        self._server = server
        self._max_rooms = max_rooms
        self._history = history
        self._rooms: dict[str, Room] = {}
        self._announcer = Announcer(server)
        self._leaving: OrderedDict[OpenMode, None] = (
            OrderedDict()
        )  # closed connections that are still in rooms
        self._expiry_scheduled = False
        self._to_expire: list[Room] = []  # rooms that the current expiry has not visited
        self._reservations_remain = False

    def announce_typing(self, member: Member) -> None:
        """See `Announcer.announce_typing`."""
        self._announcer.announce_typing(member)

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
        return room

    # Joining.

    def join(
        self,
        peer: Peer,
        mode: ChatMode,
        request: protocol.Join,
        invitation: Invitation | None,
        done: Callable[[float], None],
    ) -> None:
        """Let a peer in chat mode join a room, or change the peer's name there.

        An invitation decides the name. The peer receives `joined` when the store has
        answered, and live messages from then on. Then `done` is called with the cost.

        Raises:
            ChatError: `too_many_rooms` or `name_taken`.
        """
        name = request.name if invitation is None else invitation.name
        former_member = mode.members.get(request.room)
        if former_member is None and len(mode.members) >= MAX_ROOMS:
            reason = f"a connection can be in {MAX_ROOMS} rooms at most; leave one first"
            raise ChatError("too_many_rooms", reason, room=request.room)
        session = request.session
        if former_member is not None and name_key(former_member.name) == name_key(name):
            session = former_member.session  # the same name, perhaps in another spelling
        if self._leaving:
            self._leave_early(request.room, name)
        room = self.open(request.room)  # after the leaving, which may close the room
        now = time.monotonic()
        try:
            member, former_peer = room.join(name, session, peer, now, proven=invitation is not None)
        except NameTaken:
            reason = f"the name {name} is taken in the room {request.room}; choose another"
            if invitation is not None:
                reason = f"{name} is already in the room {request.room}; leave it there first"
            raise ChatError("name_taken", reason, room=request.room) from None
        self._announcer.on_change(room)
        if former_member is not None and former_member is not member:
            room.leave(former_member)
        if former_peer is not None and former_peer is not peer:
            self._evict(former_peer, room)
        mode.has_joined = True
        mode.members[room.name] = member
        if invitation is not None:
            mode.tokens[room.name] = request.token
        self._catch_up(peer, mode, member, request, done)

    def join_plain(self, peer: Peer, mode: PlainMode) -> Member:
        """Let a peer in plain mode join its room, before its first message."""
        room, now = mode.room, time.monotonic()
        self._announcer.on_change(room)
        if mode.name is not None:
            if self._leaving:
                self._leave_early(room.name, mode.name)
            with suppress(NameTaken):  # the invited person is in the room already
                mode.member, _ = room.join(mode.name, None, peer, now, proven=True)
                return mode.member
        mode.member = room.join_as_guest(peer, now)
        return mode.member

    def _catch_up(
        self,
        peer: Peer,
        mode: ChatMode,
        member: Member,
        request: protocol.Join,
        done: Callable[[float], None],
    ) -> None:
        """Send `joined` when the store has answered, and let live messages follow."""
        room = member.room

        def respond(result: CatchUp | StoreError) -> float:
            if member.peer is not peer:
                return 0.0  # the peer left, or lost the name, before the store answered
            if isinstance(result, StoreError):
                room.chat_peers.discard(peer)  # present if the peer joined before
                mode.forget(room.name)
                # A client that presented its session can present it again.
                self.leave(member, reserve=request.session == member.session)
                self._history.report_failure(peer, room.name, result)
                return 0.0
            room.chat_peers.add(peer)
            names = room.names_to_send()
            response = protocol.joined(
                room.name,
                member.name,
                member.session,
                names,
                room.count,
                result.messages,
                gap=result.gap,
            )
            peer.send(response)
            return costs.response_cost(len(result.messages), len(response), len(names))

        def finish(result: CatchUp | StoreError) -> None:
            cost = 0.0
            try:
                cost = respond(result)
            finally:
                done(cost)

        self._history.catch_up(room.name, request.after, finish)

    def _evict(self, peer: Peer, room: Room) -> None:
        """Remove a peer from a room because its session joined over another connection."""
        mode: Mode = peer.user_data
        assert isinstance(mode, ChatMode)  # only chat mode has sessions
        mode.forget(room.name)
        room.chat_peers.discard(peer)
        if mode.members:
            reason = f"your session in the room {room.name} continues in another connection"
            peer.send(protocol.error(ChatError("taken_over", reason, room=room.name)))
        else:
            peer.close(TAKEN_OVER, "your session continues in another connection")

    # Leaving.

    def leave(self, member: Member, *, reserve: bool = False) -> None:
        """Remove a member, or reserve its name for its session for RESERVED_FOR seconds."""
        room = member.room
        room.leave(member, reserve_at=time.monotonic() if reserve else None)
        self._announcer.on_change(room)
        self._close_if_empty(room)
        if reserve:
            self._schedule_expiry()

    def leave_all(self, mode: OpenMode) -> None:
        """Let a closed connection leave its rooms; reserve its names in chat mode.

        Many connections may close together, each in MAX_ROOMS rooms. So they leave at the end
        of this iteration and of the next ones, for LEAVING_STEP seconds each.
        """
        self._leaving[mode] = None

    def _leave_now(self, mode: OpenMode) -> None:
        if isinstance(mode, ChatMode):
            for member in mode.members.values():
                self.leave(member, reserve=True)
        else:
            if mode.member is not None:
                self.leave(mode.member)
            self._close_if_empty(mode.room)

    def _leave_early(self, room_name: str, name: str) -> None:
        """Let the closed connection with a name leave before the name is given again."""
        room = self._rooms.get(room_name)
        holder = None if room is None else room.holder(name)
        if holder is not None and holder.user_data in self._leaving:
            del self._leaving[holder.user_data]
            self._leave_now(holder.user_data)

    def _close_if_empty(self, room: Room) -> None:
        if room.is_empty:
            self._announcer.forget(room)
            if self._rooms.get(room.name) is room:  # else another room has the name since
                del self._rooms[room.name]

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
            self._close_if_empty(room)
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
                mode, _ = self._leaving.popitem(last=False)
                self._leave_now(mode)
                if time.monotonic() >= step_end:
                    break
        if self._leaving or self._announcer.end_iteration():
            self._server.call_later(0, _continue)  # in the next iteration


def _continue() -> None:
    """Do nothing: a timer without a function of its own starts the next iteration."""
