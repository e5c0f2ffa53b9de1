"""Joining: a peer gets a name in a room, then the messages that it missed.

A peer in chat mode joins in two steps. It gets its name at once. It gets live messages as soon as
the store has returned the messages that it missed. If several nodes share the store, the store
decides about the name first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from secrets import randbelow, token_urlsafe
from typing import NamedTuple

from chatd import protocol
from chatd.access import costs
from chatd.cluster import Cluster
from chatd.history import CatchUp, Done, HistoryReader
from chatd.model import direct_authors, name_author, name_key, session_author
from chatd.modes import ChatMode, Mode, PlainMode
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.rooms import Joined, Member, NameTaken, Room
from chatd.storage.shared import Changed, NameHeld
from chatd.storage.store import StoreError
from wsproto_min import Peer

# Rooms of one connection. A room costs memory, so this bounds the memory of a connection.
MAX_ROOMS = 100
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


class Joins:
    """Lets peers join rooms.

    Args:
        rooms: The rooms in use.
        history: Reader for the messages that a joining peer missed.
        shared: The other nodes; None for the only node.
    """

    def __init__(
        self, rooms: RoomRegistry, history: HistoryReader, shared: Cluster | None = None
    ) -> None:
        self._rooms = rooms
        self._history = history
        self._shared = shared

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
        self._rooms.leave_early(request.room, person.name)
        room = self._rooms.open(request.room)  # after the leaving, which may close the room
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
            self._rooms.close_if_empty(room)
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
        room = self._rooms.open(request.room)
        former_member = mode.members.get(room.name)
        try:
            result = self._give_name(room, peer, person)
        except NameTaken as error:
            self._rooms.close_if_empty(room)
            raise _name_taken(person.name, str(error), room.name) from None
        member = result.member
        member.moderates |= person.moderates
        if person.moderates:
            mode.moderated |= {room.name}
        elif room.name in mode.moderated:
            mode.moderated -= {room.name}
        self._rooms.on_change(room)
        if former_member is not None and former_member is not member:
            self._rooms.forget_connection(former_member.author, peer)
            room.leave(former_member, peer)
        if former_member is not member:
            self._rooms.add_connection(member.author, peer)
        if result.replaced is not None:
            self._evict(result.replaced, member)
        if result.former_name is not None:
            self._rooms.announce_rename(peer, member, result.former_name)
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
            self._rooms.remove(holder, "kicked", f"another person has the name {name} now")
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
                self._rooms.on_change(room)
                then(mode.member)
            else:  # its messages are stored all the same
                then(Member(room, person.name, person.author))
                self._rooms.close_if_empty(room)

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
        self._rooms.on_change(room)
        if mode.name is not None:
            self._rooms.leave_early(room.name, mode.name)
            with suppress(NameTaken):  # a guest of an open chat has the name
                author = name_author(mode.name)
                mode.member = room.join(mode.name, author, peer, now, proven=True).member
                return mode.member
        mode.member = room.join_as_guest(peer, now)
        return mode.member

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
                self._rooms.leave(peer, mode, member, reserve=request.session is not None)
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
        self._rooms.forget_connection(member.author, peer)
        mode.forget(room.name)
        room.chat_peers.discard(peer)
        if mode.members:
            reason = f"your session in the room {room.name} continues in other connections"
            peer.send(protocol.error(ChatError("taken_over", reason, room=room.name)))
        else:
            peer.close(TAKEN_OVER, "your session continues in other connections")


def _guest_author() -> str:
    return session_author(token_urlsafe(16))
