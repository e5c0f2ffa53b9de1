"""The chat itself: binds rooms, the log and the page to the server.

In a turn of the server's loop, peers' messages are gathered; when the turn
ends they go to the log together, and what the log has stored is delivered in
its order, to the sender too. So whoever saw a message can ask for all after it.

A connection speaks either chat mode (the subprotocol `chat.v1`, see `wire`), in
any number of rooms, or plain mode: bare text, in the room of its path.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

from chatd import protocol
from chatd.access.authorizer import Authorizer
from chatd.access.connection_limits import DEFAULT_MAX_PEERS, ConnectionLimiter
from chatd.access.invitations import Invitations
from chatd.access.origin import OriginPolicy
from chatd.access.rate_limit import TokenBucket
from chatd.access.trusted_networks import TrustedNetwork
from chatd.model import MAX_TEXT, Message
from chatd.ops.access_log import AccessLog, ConnectionRecord
from chatd.ops.endpoints import HEALTH, METRICS, check_reader, health, metrics_page
from chatd.ops.log_handler import Note, note_in_log
from chatd.ops.metrics import Metrics
from chatd.page import load_page, room_of
from chatd.registry import LiveRoom, RoomRegistry
from chatd.rooms import Member, NameTaken
from chatd.storage.store import MessageStore, NewMessage, Page, StoredMessage, StoreError
from chatd.storage.write_batcher import Said, WriteBatcher
from wsproto_min import (
    CloseCode,
    DeflateParameters,
    Peer,
    Request,
    Response,
    Server,
    accept,
)

# A message of 4,000 characters fits, were every one an escaped surrogate pair.
MAX_MESSAGE_SIZE = 64 << 10
# What a join is answered with: the newest, or what was missed.
NEWEST = 50
MAX_MISSED = 1000
# Bytes of text in any answer, at the most: clients commonly take 1 MiB in one
# message, and that has to hold the names, times and ids of 1000 messages, too.
MAX_ANSWER_TEXT = 1 << 19
# Seconds in which one must have joined where invitations are asked for.
JOIN_TIMEOUT = 10.0
# Seconds between two looks at whether invitations still hold, and at retention.
RECHECK_INTERVAL = 2.0
TRIM_INTERVAL = 60.0
# The same while there is more to remove, so that the chat goes on in between.
TRIM_PAUSE = 0.02
# Rooms that one connection may be in: each costs memory for all.
MAX_ROOMS = 100
# An application's own close code (RFC 6455, section 7.4.2).
TAKEN_OVER = 4001

logger = logging.getLogger("chatd")


class ChatPeer:
    """What the chat knows of a peer in chat mode."""

    __slots__ = ("bucket", "seats", "tokens", "visit")

    def __init__(self, visit: ConnectionRecord) -> None:
        self.visit = visit
        self.bucket: TokenBucket | None = None
        self.seats: dict[str, Member] = {}
        self.tokens: dict[str, str | None] = {}  # that it joined each room with

    def leave(self, room: str) -> None:
        """Forget its seat in a room."""
        del self.seats[room]
        self.tokens.pop(room, None)


class PlainPeer:
    """What the chat knows of a peer in plain mode; it has a seat once it spoke."""

    __slots__ = ("bucket", "live_room", "name", "seat", "token", "visit")

    def __init__(
        self, visit: ConnectionRecord, live_room: LiveRoom, name: str | None, token: str | None
    ) -> None:
        self.visit = visit
        self.bucket: TokenBucket | None = None
        self.live_room = live_room
        self.name = name  # that of its invitation
        self.seat: Member | None = None
        self.token = token


class Chat:
    """A chat server; `server` is what listens and runs.

    `log` keeps the messages; `origins` says which browsers may connect;
    `invitations`, unless None, are asked for. `rate` is how many messages a
    second a peer may send, 0 for any number, and `burst` how many at once.
    `compression` is whether to agree to it. Whom `trusted_proxies` pass on has
    the address that they forward (see `proxy`). `max_peers` and
    `max_per_address` bound the connections (see `limiter`), and `metrics_readers`
    are who else than this machine may read `/metrics` (see `status`). `note` is
    what is told of each connection (see `visits`).
    """

    def __init__(
        self,
        log: Log,
        *,
        origins: OriginPolicy | None = None,
        invitations: Invitations | None = None,
        rate: float = 20.0,
        burst: float = 40.0,
        compression: bool = True,
        trusted_proxies: Sequence[TrustedNetwork] = (),
        max_peers: int = DEFAULT_MAX_PEERS,
        max_per_address: int | None = None,
        metrics_readers: Sequence[TrustedNetwork] = (),
        note: Note = note_in_log,
    ) -> None:
        self._metrics = Metrics()
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=self._on_message,
            on_close=self._on_close,
            on_accept=self._on_accept,
            on_disconnect=self._on_disconnect,
            on_before_flush=self._on_before_flush,
            on_iteration_end=self._metrics.turns.observe,
            max_message_size=MAX_MESSAGE_SIZE,
        )
        self._log = log
        self._authorizer = Authorizer(origins or OriginPolicy(), invitations)
        self._registry = RoomRegistry(self.server)
        self._rate = rate
        self._burst = burst
        self._compression = DeflateParameters.NO_CONTEXT_TAKEOVER if compression else None
        limiter = ConnectionLimiter(max_peers, max_per_address, trusted_proxies)
        self._access_log = AccessLog(limiter, self._metrics, trusted_proxies, note)
        self._metrics_readers = metrics_readers
        self._page = load_page()
        self._batcher = WriteBatcher(log, self._metrics, self._deliver)
        self.server.call_later(0, self._trim)
        if self._authorizer.requires_invitation:
            self.server.call_later(RECHECK_INTERVAL, self._recheck)

    def drain(self, timeout: float) -> None:
        """Make the server's `run` return; any thread or signal handler may ask for it.

        Newcomers are refused, peers get what is queued for them and Close 1001,
        and whoever has not taken that in `timeout` seconds is cut.
        """
        self._access_log.draining = True
        self.server.stop(timeout, accepting=True)

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._access_log.draining

    # What the server calls.

    def _on_accept(self, peer: Peer) -> None:
        peer.user_data = self._access_log.on_accept(peer)

    def _on_request(self, peer: Peer, request: Request) -> Response:
        """Answer a handshake with 101, any other request with a page."""
        visit = peer.user_data
        self._access_log.on_request(visit, peer, request)
        if request.path == HEALTH:
            return health(request, draining=self._access_log.draining)
        if request.path == METRICS:
            self._authorizer.check_origin(request)
            check_reader(request, peer.address, self._metrics_readers)
            return self._tell_metrics()
        self._access_log.admit(visit, peer)
        self._authorizer.check_origin(request)
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        response = accept(
            request, subprotocols=(protocol.SUBPROTOCOL,), compression=self._compression
        )
        if ("Sec-WebSocket-Protocol", protocol.SUBPROTOCOL) in response.headers:
            peer.user_data = ChatPeer(visit)
        else:
            invitation, token = self._authorizer.authorize_request(request, room)
            name = None if invitation is None else invitation.name
            peer.user_data = PlainPeer(visit, self._registry.open(room), name, token)
        return response

    def _on_open(self, peer: Peer) -> None:
        state = peer.user_data
        if isinstance(state, PlainPeer):
            state.live_room.plain.add(peer)
        elif self._authorizer.requires_invitation:
            self.server.call_later(JOIN_TIMEOUT, partial(self._require_joined, peer))

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, bytes):
            peer.fail(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
            return
        state = peer.user_data
        if self._rate:
            now = time.monotonic()
            if state.bucket is None:
                state.bucket = TokenBucket(self._rate, self._burst, now)
            wait = state.bucket.take(now)
            if wait > 0:
                peer.pause_reading(wait)
        if isinstance(state, PlainPeer):
            self._say_plainly(peer, state, message)
            return
        try:
            said = protocol.parse(message)
            if isinstance(said, protocol.Say):
                self._say(peer, state, said)
            elif isinstance(said, protocol.Join):
                self._join(peer, state, said)
            elif isinstance(said, protocol.Leave):
                self._leave(peer, state, said)
            elif isinstance(said, protocol.Typing):
                seat, live_room = self._member(state, said.room)
                live_room.chat.send(protocol.typing(said.room, seat.name), sender=peer)
            elif isinstance(said, protocol.History):
                self._send_history(peer, state, said)
            else:
                peer.send(protocol.pong(said.t))
        except protocol.ChatError as wrong:
            if wrong.code == "unauthorized":
                self._access_log.on_join_refused(peer, wrong.room or "", wrong.message)
            peer.send(protocol.error(wrong))

    def _on_close(self, peer: Peer) -> None:
        state = peer.user_data
        if isinstance(state, PlainPeer):
            if state.seat is not None:
                self._registry.give_up(state.live_room, state.seat)
            self._registry.forget_if_empty(state.live_room)
        else:
            for room, seat in state.seats.items():
                self._registry.give_up(self._registry.open(room), seat, reserve=True)

    def _on_disconnect(self, peer: Peer) -> None:
        state = peer.user_data
        if isinstance(state, ChatPeer):
            self._access_log.on_close(state.visit, peer, "chat", list(state.seats))
        elif isinstance(state, PlainPeer):
            self._access_log.on_close(state.visit, peer, "plain", [state.live_room.room.name])
        elif isinstance(state, ConnectionRecord):
            self._access_log.on_close(state, peer, "", [])

    def _tell_metrics(self) -> Response:
        kinds = Counter(type(peer.user_data) for peer in self.server.peers if peer.is_open)
        modes = {"chat": kinds[ChatPeer], "plain": kinds[PlainPeer]}
        rooms = sum(not live_room.is_empty for live_room in self._registry)
        return metrics_page(self.server, self._metrics, modes, rooms)

    def _on_before_flush(self) -> None:
        self._batcher.flush()
        self._registry.tell_presence()

    # Messages.

    def _say_plainly(self, peer: Peer, state: PlainPeer, text: str) -> None:
        """Take a message in plain mode, where there is no way to say what is wrong."""
        if len(text) > MAX_TEXT:
            peer.close(CloseCode.MESSAGE_TOO_BIG, f"at most {MAX_TEXT} characters")
        elif text:
            live_room = state.live_room
            if state.seat is None:
                state.seat = self._take_plain_seat(peer, state)
            self._batcher.add(peer, NewMessage(live_room.room.name, state.seat.name, text, None))

    def _take_plain_seat(self, peer: Peer, state: PlainPeer) -> Member:
        live_room, now = state.live_room, time.monotonic()
        self._registry.note_change(live_room)
        if state.name is not None:
            try:
                return live_room.room.join(state.name, None, peer, now, proven=True)[0]
            except NameTaken:
                pass  # the same person is here already, and keeps the name there
        return live_room.room.join_as_guest(peer, now)

    def _say(self, peer: Peer, state: ChatPeer, said: protocol.Say) -> None:
        seat, _ = self._member(state, said.room, key=said.key)
        self._batcher.add(peer, NewMessage(said.room, seat.name, said.text, said.key))

    def _deliver(self, said: Said, result: Sequence[StoredMessage] | StoreError) -> None:
        """Deliver what the log has stored, in its order; tell senders of what it has not."""
        if isinstance(result, StoreError):
            self._note_failure(result)
            for peer, entry in said:
                self._refuse(peer, entry)
        else:
            for (peer, entry), stored in zip(said, result, strict=True):
                self._deliver_one(peer, entry, stored)

    def _deliver_one(self, peer: Peer, entry: NewMessage, stored: StoredMessage) -> None:
        live_room = self._registry.find(entry.room)
        in_chat_mode = isinstance(peer.user_data, ChatPeer)
        if in_chat_mode or (live_room is not None and live_room.chat):
            encoded = protocol.message(entry.room, stored.message)
            if in_chat_mode:
                peer.send(protocol.acknowledgement(encoded, entry.key))
            if live_room is not None and not stored.repeated:
                live_room.chat.send(encoded, sender=peer)
        if live_room is not None and not stored.repeated:
            if live_room.plain:
                live_room.plain.send(entry.text, sender=peer)
            # In plain mode the sender gets nothing, in chat mode its acknowledgement.
            self._metrics.delivered += (
                len(live_room.chat) + len(live_room.plain) - (peer in live_room.plain)
            )

    def _refuse(self, peer: Peer, entry: NewMessage) -> None:
        """Tell a sender that the log has not taken its message."""
        if isinstance(peer.user_data, ChatPeer):
            reason = "the message could not be stored and was not sent; try again later"
            peer.send(
                protocol.error(
                    protocol.ChatError("log_failed", reason, key=entry.key, room=entry.room)
                )
            )
        else:
            peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")

    def _send_history(self, peer: Peer, state: ChatPeer, said: protocol.History) -> None:
        self._member(state, said.room)

        def answer(result: Page | StoreError) -> None:
            if isinstance(result, StoreError):
                self._tell_unreadable(peer, said.room, result)
            else:
                messages, cut = _newest_within(result.messages, MAX_ANSWER_TEXT)
                peer.send(protocol.history(said.room, messages, more=result.more or cut))

        self._log.read_before(said.room, said.before, said.limit, answer)

    def _tell_unreadable(self, peer: Peer, room: str, error: StoreError) -> None:
        self._note_failure(error)
        reason = "the log cannot be read; try again later"
        peer.send(protocol.error(protocol.ChatError("log_failed", reason, room=room)))

    def _note_failure(self, error: StoreError) -> None:
        self._metrics.log_failures += 1
        logger.error("%s", error)

    # Rooms.

    def _member(
        self, state: ChatPeer, room: str, *, key: str | None = None
    ) -> tuple[Member, LiveRoom]:
        """Return a peer's seat in a room. Raises `ChatError` `not_joined`."""
        seat = state.seats.get(room)
        if seat is None:
            raise protocol.ChatError(
                "not_joined", f"you are not in the room {room}; join it first", key=key, room=room
            )
        return seat, self._registry.open(room)

    def _join(self, peer: Peer, state: ChatPeer, said: protocol.Join) -> None:
        """Give a peer its seat, then what it has missed, then what comes."""
        invitation = self._authorizer.authorize(said.token, said.room)
        name = said.name if invitation is None else invitation.name
        if len(state.seats) >= MAX_ROOMS and said.room not in state.seats:
            raise protocol.ChatError(
                "too_many_rooms", f"{MAX_ROOMS} rooms are the limit; leave one", room=said.room
            )
        live_room = self._registry.open(said.room)
        former_seat = state.seats.get(said.room)
        session = said.session
        if former_seat is not None and former_seat.name.casefold() == name.casefold():
            session = former_seat.session  # joining again, or writing the name otherwise
        try:
            seat, former = live_room.room.join(
                name, session, peer, time.monotonic(), proven=invitation is not None
            )
        except NameTaken:
            reason = f"the name {name} is taken in the room {said.room}; choose another"
            if invitation is not None:
                reason = f"{name} is in the room {said.room} already; leave it there first"
            raise protocol.ChatError("name_taken", reason, room=said.room) from None
        self._registry.note_change(live_room)
        if former_seat is not None and former_seat is not seat:
            live_room.room.give_up(former_seat)
        if isinstance(former, Peer) and former is not peer:
            self._turn_out(former, said.room)
        state.seats[said.room] = seat
        if invitation is not None:
            state.tokens[said.room] = said.token
        self._catch_up(peer, live_room, seat, said.after)

    def _catch_up(self, peer: Peer, live_room: LiveRoom, seat: Member, after: int | None) -> None:
        """Answer a join with what the log has, and let in what comes after just that."""
        room = live_room.room.name

        def answer(result: Page | StoreError) -> None:
            if seat.member is not peer:
                return  # left, or turned out, meanwhile
            if isinstance(result, StoreError):
                live_room.chat.discard(peer)  # it may have been there before
                peer.user_data.leave(room)
                self._registry.give_up(live_room, seat)
                self._tell_unreadable(peer, room, result)
            else:
                messages, cut = _newest_within(result.messages, MAX_ANSWER_TEXT)
                gap = after is not None and (result.gap or result.more or cut)
                live_room.chat.add(peer)
                names, count = live_room.room.names(), live_room.room.count
                peer.send(
                    protocol.joined(room, seat.name, seat.session, names, count, messages, gap=gap)
                )

        if after is None:
            read = partial(self._log.read_before, room, None, NEWEST)
        else:
            read = partial(self._log.read_after, room, after, MAX_MISSED)
        self._batcher.read(read, answer)

    def _leave(self, peer: Peer, state: ChatPeer, said: protocol.Leave) -> None:
        seat, live_room = self._member(state, said.room)
        state.leave(said.room)
        live_room.chat.discard(peer)
        self._registry.give_up(live_room, seat)

    def _turn_out(self, peer: Peer, room: str) -> None:
        """Take a seat from a connection whose session has come back over another."""
        peer.user_data.leave(room)
        self._registry.open(room).chat.discard(peer)
        if peer.user_data.seats:
            reason = f"your session in the room {room} goes on in another connection"
            peer.send(protocol.error(protocol.ChatError("taken_over", reason, room=room)))
        else:
            peer.close(TAKEN_OVER, "your session goes on in another connection")

    def _require_joined(self, peer: Peer) -> None:
        if peer.is_open and not peer.user_data.seats:
            peer.close(CloseCode.POLICY_VIOLATION, f"nothing joined within {JOIN_TIMEOUT:g} s")

    def _recheck(self) -> None:
        """Close the peers whose invitation has expired or was revoked."""
        self.server.call_later(RECHECK_INTERVAL, self._recheck)  # whatever goes wrong here
        for peer in self.server.peers:
            if not peer.is_open:
                continue
            state = peer.user_data
            in_chat_mode = isinstance(state, ChatPeer)
            for token in state.tokens.values() if in_chat_mode else (state.token,):
                reason = self._authorizer.recheck(token)
                if reason is not None:
                    if in_chat_mode:
                        peer.send(protocol.error(protocol.ChatError("banned", reason)))
                    peer.close(CloseCode.POLICY_VIOLATION, reason)
                    break

    def _trim(self) -> None:
        more = False
        try:
            more = self._log.apply_retention()
        except StoreError as error:
            self._note_failure(error)
        self.server.call_later(TRIM_PAUSE if more else TRIM_INTERVAL, self._trim)


def _newest_within(messages: Sequence[Message], limit: int) -> tuple[Sequence[Message], bool]:
    """Return the newest messages whose texts fit the limit, and whether any did not."""
    size = 0
    for index in range(len(messages) - 1, -1, -1):
        text = messages[index].text
        # In JSON a quotation mark takes two bytes and a control character six.
        size += len(text) * (2 if text.isascii() and text.isprintable() else 6)
        if size > limit:
            return messages[index + 1 :], True
    return messages, False
