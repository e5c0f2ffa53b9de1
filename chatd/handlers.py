"""Handlers of the client's messages in chat mode, one for each message type.

`QUICK` handlers act at once. `DEFERRED` handlers wait in the work queue, because their
responses come from the message store; each calls `done` with the cost of its response. A new
message type needs a value and a parser in `protocol`, and a handler in one of the two tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatd import protocol
from chatd.access import costs
from chatd.access.authorizer import Authorizer
from chatd.access.invitations import Unauthorized
from chatd.history import HistoryReader
from chatd.modes import ChatMode
from chatd.ops.access_log import AccessLog
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.storage.store import NewMessage
from chatd.storage.write_batcher import WriteBatcher
from wsproto_min import Peer


@dataclass(frozen=True, slots=True)
class Services:
    """Parts of the chat that handlers use."""

    rooms: RoomRegistry
    history: HistoryReader
    batcher: WriteBatcher
    authorizer: Authorizer
    access_log: AccessLog


Done = Callable[[float], None]
"""Called once the response is sent, with its cost."""

QuickHandler = Callable[[Services, Peer, ChatMode, Any], None]
DeferredHandler = Callable[[Services, Peer, ChatMode, Any, Done], None]


def say(services: Services, peer: Peer, mode: ChatMode, request: protocol.Say) -> None:
    """Give a message to the store; `Delivery` sends it once the store has it."""
    member = mode.members.get(request.room) or mode.member(request.room, key=request.key)
    room = member.room
    if room.typing:
        room.typing.pop(member, None)  # the message replaces it
    if room.count > costs.CHEAP_MEMBERS and mode.budget is not None:
        mode.budget.charge_address(costs.fan_out_cost(room.count))
    services.batcher.add(peer, NewMessage(room.name, member.name, request.text, request.key))


def leave(services: Services, peer: Peer, mode: ChatMode, request: protocol.Leave) -> None:
    """Remove the peer from a room, and free its name."""
    member = mode.member(request.room)
    mode.forget(request.room)
    member.room.chat_peers.discard(peer)
    services.rooms.leave(member)


def typing(services: Services, peer: Peer, mode: ChatMode, request: protocol.Typing) -> None:
    """Announce to the room that the member is typing."""
    services.rooms.announce_typing(mode.member(request.room))


def ping(services: Services, peer: Peer, mode: ChatMode, request: protocol.Ping) -> None:
    """Answer with `pong`."""
    peer.send(protocol.pong(request.t))


def join(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.Join, done: Done
) -> None:
    """Let the peer join a room if its invitation is valid there."""
    try:
        invitation = services.authorizer.authorize(request.token, request.room)
    except Unauthorized as error:
        services.access_log.on_join_refused(peer, request.room, str(error))
        raise ChatError("unauthorized", str(error), room=request.room) from None
    services.rooms.join(peer, mode, request, invitation, done)


def history(
    services: Services, peer: Peer, mode: ChatMode, request: protocol.History, done: Done
) -> None:
    """Send a page of stored messages."""
    mode.member(request.room)
    services.history.send_page(peer, request, done)


QUICK: dict[type[protocol.ClientMessage], QuickHandler] = {
    protocol.Say: say,
    protocol.Leave: leave,
    protocol.Typing: typing,
    protocol.Ping: ping,
}
DEFERRED: dict[type[protocol.ClientMessage], DeferredHandler] = {
    protocol.Join: join,
    protocol.History: history,
}
