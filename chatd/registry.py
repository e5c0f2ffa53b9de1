"""Registry of the rooms in use: peers join, catch up and leave.

A peer in chat mode joins in two steps. It gets its name at once. It gets live messages
as soon as the store has returned the messages that it missed. If several nodes share the store,
the store decides about the name first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from secrets import randbelow, token_urlsafe
from typing import NamedTuple

from chatd import protocol
from chatd.access import costs
from chatd.announcements import Announcer
from chatd.cluster import Cluster
from chatd.history import CatchUp, Done, HistoryReader
from chatd.model import (
    NAMED_MEMBERS,
    RESERVED_FOR,
    direct_authors,
    name_author,
    name_key,
    session_author,
)
from chatd.modes import ChatMode, Mode, OpenMode, PlainMode
from chatd.protocol import ChatError
from chatd.rooms import Joined, Member, NameTaken, Room
from chatd.storage.shared import Changed, NameHeld
from chatd.storage.store import StoreError
from wsproto_min import CloseCode, Peer, Server

# Rooms of one connection. A room costs memory, so this bounds the memory of a connection.
MAX_ROOMS = 100
# Seconds of one event loop iteration in which expired reservations are removed.
EXPIRY_STEP = 0.002
# Seconds of one event loop iteration in which closed connections leave their rooms.
LEAVING_STEP = 0.002
# Close code for private use (RFC 6455, 7.4.2): the session continues in another connection.
TAKEN_OVER = 4001


class Person(NamedTuple):
    """The person behind a join: name, public id, and rights.

    `is_proven` is True if an invitation or a trusted proxy proves the name.
    """

    name: str
    author: str
    is_proven: bool = False
    moderates: bool = False


def _name_taken(name: str, holder: str, room: str) -> ChatError:
    reason = f"the name {name} is taken in the room {room}; choose another"
    if name_key(name) != name_key(holder):
        reason = f"the name {name} looks like {holder} in the room {room}; choose another"
    return ChatError("name_taken", reason, room=room)


class RoomRegistry:
    """Rooms in use, by name. A room exists while it has peers or reserved names.

    Args:
        server: Server with the loop and the groups of the rooms.
        history: Reader for the messages that a joining peer missed.
        max_rooms: Limit of rooms in use; 0 for none.
        shared: The other nodes; None for the only node.
    """

    def __init__(
        self,
        server: Server,
        history: HistoryReader,
        max_rooms: int,
        shared: Cluster | None = None,
    ) -> None:
        self._shared = shared
        self._server = server
        self._max_rooms = max_rooms
        self._history = history
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

    # Joining.

    def join(
        self, peer: Peer, mode: ChatMode, request: protocol.Join, person: Person, done: Done
    ) -> None:
        """Let a peer in chat mode join a room, or change the person's name there.

        The peer receives `joined` when the store has answered, and live entries from then
        on. Then `done` is called with the cost.

        Raises:
            ChatError: `too_many_rooms`, `name_taken` or `forbidden`.
        """
        former_member = mode.members.get(request.room)
        if former_member is None and len(mode.members) >= MAX_ROOMS:
            reason = f"a connection can be in {MAX_ROOMS} rooms at most; leave one first"
            raise ChatError("too_many_rooms", reason, room=request.room)
        if former_member is not None and not person.is_proven:
            person = person._replace(author=former_member.author)  # a change of name
        if person.author not in (direct_authors(request.room) or (person.author,)):
            reason = "a direct room admits its two members only"
            raise ChatError("forbidden", reason, room=request.room)
        if self._leaving:
            self._leave_early(request.room, person.name)
        room = self.open(request.room)  # after the leaving, which may close the room
        if self._shared is None:
            self._join_now(peer, mode, request, person, done)
            return

        def on_claimed(result: Changed | NameHeld | StoreError) -> None:
            try:
                if isinstance(result, StoreError):
                    self._history.report_failure(peer, room.name, result)
                elif isinstance(result, NameHeld):
                    raise _name_taken(person.name, result.holder, room.name)
                elif peer.is_open:
                    self._join_now(peer, mode, request, person, done)
                    return
            except ChatError as error:
                peer.send(protocol.error(error))
            self._close_if_empty(room)
            done(0.0)

        self._shared.members.claim(
            room,
            person.name,
            person.author,
            on_claimed,
            is_proven=person.is_proven,
            moderates=person.moderates,
        )

    def _join_now(
        self, peer: Peer, mode: ChatMode, request: protocol.Join, person: Person, done: Done
    ) -> None:
        """Let a peer join, unless the name is taken on this node."""
        room = self._rooms[request.room]
        former_member = mode.members.get(room.name)
        try:
            result = self._give_name(room, peer, person)
        except NameTaken as error:
            self._close_if_empty(room)
            raise _name_taken(person.name, str(error), room.name) from None
        member = result.member
        member.moderates |= person.moderates
        (mode.moderated.add if person.moderates else mode.moderated.discard)(room.name)
        self._announcer.on_change(room)
        if former_member is not None and former_member is not member:
            self._forget_connection(former_member.author, peer)
            room.leave(former_member, peer)
        if former_member is not member:
            rooms_of = self._connections.setdefault(member.author, {})
            rooms_of[peer] = rooms_of.get(peer, 0) + 1
        if result.replaced is not None:
            self._evict(result.replaced, member)
        if result.former_name is not None:
            self.announce_rename(peer, member, result.former_name)
        mode.has_joined = True
        mode.members[room.name] = member
        if request.token is not None:
            mode.tokens[room.name] = request.token
        self._catch_up(peer, mode, member, request, done)

    def _give_name(self, room: Room, peer: Peer, person: Person) -> Joined:
        now = time.monotonic()
        name, author, is_proven, _ = person
        if self._shared is None:
            return room.join(name, author, peer, now, proven=is_proven)
        holder = room.holder(name)
        if holder is not None and holder.author != author and holder.peers:
            # Another node has removed it, and the notification is on its way.
            room.claims += 1  # keeps the room, which may be empty without the holder
            self.remove(holder, "kicked", f"another person has the name {name} now")
            room.claims -= 1
        return room.join(name, author, peer, now, proven=is_proven, is_granted=True)

    def join_plain(
        self, peer: Peer, mode: PlainMode, then: Callable[[Member | StoreError], None]
    ) -> None:
        """Let a peer in plain mode join its room, before its first message; then call back."""
        if self._shared is None:
            then(self._join_plain_now(peer, mode))
        else:
            person = Person(f"guest-{mode.room.next_guest()}", _guest_author())
            if mode.name is not None:
                person = Person(mode.name, name_author(mode.name), is_proven=True)
            self._claim_plain(peer, mode, person, then)

    def _claim_plain(
        self,
        peer: Peer,
        mode: PlainMode,
        person: Person,
        then: Callable[[Member | StoreError], None],
        attempt: int = 0,
    ) -> None:
        """Claim a name for a peer in plain mode, and guest names until one is free."""
        assert self._shared is not None
        room = mode.room

        def on_claimed(result: Changed | NameHeld | StoreError) -> None:
            if isinstance(result, NameHeld):
                # Nodes count their guests apart, so a random number finds a free name at last.
                number = room.next_guest() if attempt < 3 else randbelow(1_000_000) + 1
                following = Person(f"guest-{number}", _guest_author())
                self._claim_plain(peer, mode, following, then, attempt + 1)
            elif isinstance(result, StoreError):
                then(result)
            elif peer.is_open:
                mode.member = self._give_name(room, peer, person).member
                self._announcer.on_change(room)
                then(mode.member)
            else:  # its messages are stored all the same
                then(Member(room, person.name, person.author))
                self._close_if_empty(room)

        self._shared.members.claim(
            room,
            person.name,
            person.author,
            on_claimed,
            is_proven=person.is_proven,
            moderates=False,
        )

    def _join_plain_now(self, peer: Peer, mode: PlainMode) -> Member:
        room, now = mode.room, time.monotonic()
        self._announcer.on_change(room)
        if mode.name is not None:
            if self._leaving:
                self._leave_early(room.name, mode.name)
            with suppress(NameTaken):  # a guest of an open chat has the name
                author = name_author(mode.name)
                mode.member = room.join(mode.name, author, peer, now, proven=True).member
                return mode.member
        mode.member = room.join_as_guest(peer, now)
        return mode.member

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

    def _forget_connection(self, author: str, peer: Peer) -> None:
        rooms_of = self._connections[author]
        rooms_of[peer] -= 1
        if not rooms_of[peer]:
            del rooms_of[peer]
        if not rooms_of:
            del self._connections[author]

    def _catch_up(
        self,
        peer: Peer,
        mode: ChatMode,
        member: Member,
        request: protocol.Join,
        done: Done,
    ) -> None:
        """Send `joined` when the store has answered, and let live messages follow."""
        room = member.room

        def respond(result: CatchUp | StoreError) -> float:
            if peer not in member.peers:
                return 0.0  # the peer left before the store answered
            if isinstance(result, StoreError):
                # A client that presented its session can present it again.
                self.leave(peer, mode, member, reserve=request.session is not None)
                self._history.report_failure(peer, room.name, result)
                return 0.0
            room.chat_peers.add(peer)
            names = room.names_to_send()
            response = protocol.joined(
                room.name,
                member.name,
                member.author,
                mode.session or "",
                names,
                room.count,
                result.messages,
                result.changes,
                topic=result.topic,
                moderator=room.name in mode.moderated,
                gap=result.gap,
            )
            peer.send(response)
            entries = len(result.messages) + len(result.changes)
            return costs.response_cost(entries, len(response), len(names))

        def finish(result: CatchUp | StoreError) -> None:
            cost = 0.0
            try:
                cost = respond(result)
            finally:
                done(cost)

        self._history.catch_up(room.name, request.after, finish)

    def _evict(self, peer: Peer, member: Member) -> None:
        """Remove a peer from a room because its author has too many connections."""
        mode: Mode = peer.user_data
        room = member.room
        if isinstance(mode, PlainMode):
            peer.close(TAKEN_OVER, "your invitation is in use over newer connections")
            return
        assert isinstance(mode, ChatMode)
        self._forget_connection(member.author, peer)
        mode.forget(room.name)
        room.chat_peers.discard(peer)
        if mode.members:
            reason = f"your session in the room {room.name} continues in other connections"
            peer.send(protocol.error(ChatError("taken_over", reason, room=room.name)))
        else:
            peer.close(TAKEN_OVER, "your session continues in other connections")

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
            self._forget_connection(member.author, peer)
        if self._shared is not None:  # the store reserves the name
            room.leave(member, peer)
            self._shared.members.release(room, member.author, reserve=reserve)
        else:
            room.leave(member, peer, reserve_at=time.monotonic() if reserve else None)
        self._announcer.on_change(room)
        self._close_if_empty(room)
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
            self._close_if_empty(mode.room)

    def _leave_early(self, room_name: str, name: str) -> None:
        """Let the closed connection with a name leave before the name is given again."""
        room = self._rooms.get(room_name)
        holder = None if room is None else room.holder(name)
        for peer in () if holder is None else tuple(holder.peers):
            if peer.user_data in self._leaving:
                del self._leaving[peer.user_data]
                self._leave_now(peer, peer.user_data)

    def _close_if_empty(self, room: Room) -> None:
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
                mode, peer = self._leaving.popitem(last=False)
                self._leave_now(peer, mode)
                if time.monotonic() >= step_end:
                    break
        if self._leaving or self._announcer.end_iteration():
            self._server.call_later(0, _continue)  # in the next iteration


def _guest_author() -> str:
    return session_author(token_urlsafe(16))


def _continue() -> None:
    """Do nothing: a timer without a function of its own starts the next iteration."""
