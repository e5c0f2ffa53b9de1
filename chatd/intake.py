"""Intake of the peers' messages: charges each one, and serves it now or in its turn.

A message in chat mode is cheap or expensive. The intake serves a cheap one at once. An
expensive one waits in the work queue, and so do the later messages of its peer. Meanwhile the
server does not read from the peer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from chatd import protocol
from chatd.access import costs
from chatd.handlers import DEFERRED, QUICK, Services
from chatd.model import MAX_TEXT
from chatd.modes import ChatMode, OpenMode, PlainMode
from chatd.protocol import ChatError, ClientMessage
from chatd.rooms import Member
from chatd.storage.store import NewMessage, StoreError
from chatd.work_queue import WorkQueue
from wsproto_min import CloseCode, Peer

# Seconds of one event loop iteration after which each peer may send one message more. The next
# ones wait for the next iteration. A server without a limit on the rate reads all.
READING_STEP = 0.005
# Seconds for which a peer is not read while its request waits; it is read at the end of the
# request if that is earlier.
WAITING_PAUSE = 10.0
# Seconds for which a peer is not read while too many messages wait for the store; it is read
# earlier if they have become fewer.
HOLD_PAUSE = 10.0

logger = logging.getLogger("chatd")


class Intake:
    """Charges and serves the messages of all peers.

    Args:
        services: Parts of the chat for the handlers.
        budgets: Budgets of the connections and addresses.
        call_later: Calls a function after some seconds, like `Server.call_later`.
    """

    def __init__(
        self,
        services: Services,
        budgets: costs.Budgets,
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._services = services
        services.batcher.on_full = self._hold
        self._budgets = budgets
        self._work = WorkQueue(call_later)
        self._held: dict[Peer, None] = {}  # peers that wait until the store takes messages
        self._reading_end = 0.0  # of this iteration, from its first message on

    def on_message(self, peer: Peer, message: str | bytes) -> None:
        """Charge a message and serve it, or queue it."""
        if isinstance(message, bytes):
            peer.fail(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
            return
        mode: OpenMode = peer.user_data
        budget = mode.budget
        if budget is None:
            budget = mode.budget = self._budgets.open(peer.address)
        if self._budgets.limit_anything:
            now = time.monotonic()
            wait = budget.charge(costs.message_cost(len(message)), now)
            # Bursts of many peers may come together. The others take turns after READING_STEP.
            if wait > 0 or (self._budgets.limit_connections and self._is_reading_over(now)):
                peer.pause_reading(wait)
        if isinstance(mode, PlainMode):
            self._say_plain(peer, mode, message)
        elif mode.waiting or len(message) > costs.CHEAP_SIZE:
            self._queue(peer, mode, budget, partial(protocol.parse, message))
        else:
            try:
                request = protocol.parse(message)
                handler = QUICK.get(type(request))
                if handler is None or (
                    self._has_large_audience(mode, request) and budget.is_in_debt()
                ):
                    self._queue(peer, mode, budget, lambda: request)
                else:
                    handler(self._services, peer, mode, request)
            except ChatError as error:
                peer.send(protocol.error(error))

    def _hold(self, peer: Peer) -> None:
        """Let a sender wait until the store has taken enough messages."""
        self._held[peer] = None
        peer.pause_reading(HOLD_PAUSE)

    def on_close(self, peer: Peer, mode: OpenMode) -> None:
        """Drop the waiting requests of a closed peer."""
        self._held.pop(peer, None)
        if isinstance(mode, ChatMode) and mode.budget is not None:
            self._work.discard(peer, mode.budget.address)

    def end_iteration(self) -> None:
        """Allow the work of another iteration."""
        self._work.end_iteration()
        self._reading_end = 0.0
        if self._held and not self._services.batcher.is_full:
            held, self._held = self._held, {}
            for peer in held:
                peer.pause_reading(0.0)

    def _is_reading_over(self, now: float) -> bool:
        """Return True if this iteration has processed messages for READING_STEP seconds."""
        if self._reading_end == 0.0:
            self._reading_end = now + READING_STEP
        return now > self._reading_end

    def _has_large_audience(self, mode: ChatMode, request: ClientMessage) -> bool:
        if not isinstance(request, protocol.Say | protocol.Change):
            return False
        member = mode.members.get(request.room)
        return member is not None and member.room.count > costs.CHEAP_MEMBERS

    def _queue(
        self,
        peer: Peer,
        mode: ChatMode,
        budget: costs.Budget,
        parse: Callable[[], ClientMessage],
    ) -> None:
        """Serve a request when its turn has come. Until then the peer is not read."""
        paused = finished = False

        def done(cost: float = 0.0) -> None:
            nonlocal finished
            if finished:  # the request raised an exception after its end
                return
            finished = True
            mode.waiting -= 1
            self._work.done()
            wait = budget.charge(cost) if cost else 0.0
            if (wait > 0 or paused) and not mode.waiting:
                peer.pause_reading(wait)

        def serve() -> None:
            try:
                if not peer.is_open:
                    done()
                    return
                request = parse()
                deferred = DEFERRED.get(type(request))
                if deferred is not None:
                    deferred(self._services, peer, mode, request, done)
                else:
                    QUICK[type(request)](self._services, peer, mode, request)
                    done()
            except ChatError as error:
                peer.send(protocol.error(error))
                done()
            except Exception:
                logger.exception("chat: raised an exception for %s; report this bug", peer.address)
                peer.fail(CloseCode.INTERNAL_ERROR, "internal server error")
                done()

        mode.waiting += 1
        self._work.submit(peer, budget.address, serve)
        if mode.waiting:
            paused = True
            peer.pause_reading(WAITING_PAUSE)

    def _say_plain(self, peer: Peer, mode: PlainMode, text: str) -> None:
        """Give a message in plain mode to the store; report an error only by closing."""
        if len(text) > MAX_TEXT:
            peer.close(CloseCode.MESSAGE_TOO_BIG, f"at most {MAX_TEXT} characters")
        elif text:
            if mode.member is not None:
                self._store_plain(peer, mode, mode.member, text)
                return
            mode.held.append(text)
            if len(mode.held) == 1:
                then = partial(self._store_held, peer, mode)
                self._services.joins.join_plain(peer, mode, then)

    def _store_held(self, peer: Peer, mode: PlainMode, member: Member | StoreError) -> None:
        """Store the messages that a peer has sent before it became a member."""
        held, mode.held = mode.held, []
        if isinstance(member, StoreError):
            peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")
            return
        for text in held:
            self._store_plain(peer, mode, member, text)

    def _store_plain(self, peer: Peer, mode: PlainMode, member: Member, text: str) -> None:
        room, moderation = mode.room.name, self._services.moderation
        if not moderation.is_empty and moderation.is_under(
            "mute", member.author, room, time.time()
        ):
            peer.close(CloseCode.POLICY_VIOLATION, f"muted in the room {room}")
            return
        self._services.batcher.add(peer, NewMessage(room, member.name, text, None, member.author))
