"""Handlers of the client's messages in chat mode, one for each message type.

`QUICK` handlers act at once. `DEFERRED` handlers wait in the work queue, because their
responses come from the message store; each calls `done` with the cost of its response. A new
message type needs a value and a parser in `protocol`, and a handler in one of the two tables.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatd import protocol
from chatd.access import costs
from chatd.access.authorizer import Authorizer
from chatd.access.invitations import Unauthorized
from chatd.access.moderation import Moderation
from chatd.directory import Directory
from chatd.history import Done, HistoryReader
from chatd.joins import Joins, Person
from chatd.model import Kind, name_author, session_author
from chatd.moderator import Moderator
from chatd.modes import ChatMode
from chatd.ops.access_log import AccessLog
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.rooms import Member
from chatd.storage.store import NewMessage
from chatd.storage.write_batcher import WriteBatcher
from wsproto_min import Peer

# Characters from which a client's own session is a secret.
MIN_SESSION = 16


@dataclass(frozen=True, slots=True)
class Services:
    """Parts of the chat that handlers use."""

    rooms: RoomRegistry
    joins: Joins
    history: HistoryReader
    batcher: WriteBatcher
    authorizer: Authorizer
    moderation: Moderation
    moderator: Moderator
    directory: Directory
    access_log: AccessLog


QuickHandler = Callable[[Services, Peer, ChatMode, Any], None]
DeferredHandler = Callable[[Services, Peer, ChatMode, Any, Done], None]


def say(services: Services, peer: Peer, mode: ChatMode, request: protocol.Say) -> None:
    """Give a message to the store; `Delivery` sends it once the store has it."""
    room_name, text, key, ref = request
    member = mode.members.get(room_name) or mode.member(room_name, key=key)
    room = member.room
    if room.typing:
        room.typing.pop(member, None)  # the message replaces it
    if room.count > costs.CHEAP_MEMBERS or not services.moderation.is_empty:
        _check_write(services, mode, member, key)
    new = NewMessage(room_name, member.name, text, key, member.author, Kind.MESSAGE, ref)
    services.batcher.add(peer, new)


def change(services: Services, peer: Peer, mode: ChatMode, request: protocol.Change) -> None:
    """Give a change of a message, or a topic, to the store."""
    kind, room_name, text, key, ref = request
    member = mode.member(room_name, key=key)
    _check_write(services, mode, member, key)
    moderates = room_name in mode.moderated
    new = NewMessage(room_name, member.name, text, key, member.author, kind, ref, moderates)
    services.batcher.add(peer, new)


def _check_write(services: Services, mode: ChatMode, member: Member, key: str | None) -> None:
    """Charge the fan-out of an entry. Raises `ChatError` `muted`."""
    room = member.room
    if room.count > costs.CHEAP_MEMBERS and mode.budget is not None:
        mode.budget.charge_address(costs.fan_out_cost(room.count))
    if services.moderation.is_under("mute", member.author, room.name, time.time()):
        reason = f"a moderator has muted you in the room {room.name}"
        raise ChatError("muted", reason, key=key, room=room.name)


def leave(services: Services, peer: Peer, mode: ChatMode, request: protocol.Leave) -> None:
    """Remove the peer from a room, and free its name unless other peers have it."""
    services.rooms.leave(peer, mode, mode.member(request.room))


def typing(services: Services, peer: Peer, mode: ChatMode, request: protocol.Typing) -> None:
    """Announce to the room that the member is typing."""
    member = mode.member(request.room)
    if not services.moderation.is_under("mute", member.author, request.room, time.time()):
        services.rooms.announce_typing(member, peer)


def ping(services: Services, peer: Peer, mode: ChatMode, request: protocol.Ping) -> None:
    """Answer with `pong`."""
    peer.send(protocol.pong(request.t))


def join(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.Join, done: Done
) -> None:
    """Let the peer join a room if its invitation is valid there and it is not banned."""
    invitation = None
    if request.token is not None or mode.proxy_name is None:
        try:
            invitation = services.authorizer.authorize(request.token, request.room)
        except Unauthorized as error:
            services.access_log.on_join_refused(peer, request.room, str(error))
            raise ChatError("unauthorized", str(error), room=request.room) from None
    session = request.session or ""
    if len(session) < MIN_SESSION:
        session = mode.session or secrets.token_urlsafe(16)
    mode.session = session
    name = mode.proxy_name if invitation is None else invitation.name
    if name is None:
        person = Person(request.name, session_author(session))
    else:
        moderates = invitation is not None and invitation.role == "moderator"
        person = Person(name, name_author(name), is_proven=True, moderates=moderates)
    if services.moderation.is_under("ban", person.author, request.room, time.time()):
        reason = f"you are banned from the room {request.room}"
        services.access_log.on_join_refused(peer, request.room, reason)
        raise ChatError("banned", reason, room=request.room)
    services.joins.join(peer, mode, request, person, done)


def history(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.History, done: Done
) -> None:
    """Send a page of stored messages."""
    mode.member(request.room)
    services.history.send_page(peer, request, done)


def search(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.Search, done: Done
) -> None:
    """Send the messages with a text, in one room or in all rooms of the connection."""
    searched = mode.members if request.room is None else [mode.member(request.room).room.name]
    services.history.search(peer, list(searched), request, done)


def rooms(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.Rooms, done: Done
) -> None:
    """Send the directory of rooms."""
    services.directory.send(peer, mode, done)


def moderate(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.Moderate, done: Done
) -> None:
    """Let a moderator kick, ban or mute a person."""
    member = mode.member(request.room)
    if request.room not in mode.moderated:
        raise ChatError("forbidden", "only moderators can do this", room=request.room)
    services.moderator.act(peer, member, request, done)


QUICK: dict[type[protocol.ClientMessage], QuickHandler] = {
    protocol.Say: say,
    protocol.Change: change,
    protocol.Leave: leave,
    protocol.Typing: typing,
    protocol.Ping: ping,
}
DEFERRED: dict[type[protocol.ClientMessage], DeferredHandler] = {
    protocol.Join: join,
    protocol.History: history,
    protocol.Search: search,
    protocol.Rooms: rooms,
    protocol.Moderate: moderate,
}
