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

from chatd import wire
from chatd.auth import Invitations
from chatd.batches import Batches, Said
from chatd.caps import DEFAULT_MAX_PEERS, Caps
from chatd.gate import Gate
from chatd.halls import Hall, Halls
from chatd.journal import Note, note_in_log
from chatd.limits import TokenBucket
from chatd.log import Entry, Log, LogError, Slice, Stored
from chatd.metrics import Metrics
from chatd.origin import OriginPolicy
from chatd.page import load_page, room_of
from chatd.proxy import Proxy
from chatd.rooms import NameTaken, Seat
from chatd.status import HEALTH, METRICS, check_reader, health, metrics_page
from chatd.visits import Visit, Visits
from wsproto_min import (
    WITHOUT_TAKEOVER,
    CloseCode,
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

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.bucket: TokenBucket | None = None
        self.seats: dict[str, Seat] = {}
        self.tokens: dict[str, str | None] = {}  # that it joined each room with

    def leave(self, room: str) -> None:
        """Forget its seat in a room."""
        del self.seats[room]
        self.tokens.pop(room, None)


class PlainPeer:
    """What the chat knows of a peer in plain mode; it has a seat once it spoke."""

    __slots__ = ("bucket", "hall", "name", "seat", "token", "visit")

    def __init__(self, visit: Visit, hall: Hall, name: str | None, token: str | None) -> None:
        self.visit = visit
        self.bucket: TokenBucket | None = None
        self.hall = hall
        self.name = name  # that of its invitation
        self.seat: Seat | None = None
        self.token = token


class Chat:
    """A chat server; `server` is what listens and runs.

    `log` keeps the messages; `origins` says which browsers may connect;
    `invitations`, unless None, are asked for. `rate` is how many messages a
    second a peer may send, 0 for any number, and `burst` how many at once.
    `compression` is whether to agree to it. Whom `trusted_proxies` pass on has
    the address that they forward (see `proxy`). `max_peers` and
    `max_per_address` bound the connections (see `caps`), and `metrics_readers`
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
        trusted_proxies: Sequence[Proxy] = (),
        max_peers: int = DEFAULT_MAX_PEERS,
        max_per_address: int | None = None,
        metrics_readers: Sequence[Proxy] = (),
        note: Note = note_in_log,
    ) -> None:
        self._metrics = Metrics()
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=self._on_message,
            on_close=self._on_close,
            on_accept=self._on_accept,
            on_gone=self._on_gone,
            on_turn_end=self._on_turn_end,
            on_turn_done=self._metrics.turns.observe,
            max_message_size=MAX_MESSAGE_SIZE,
        )
        self._log = log
        self._gate = Gate(origins or OriginPolicy(), invitations)
        self._halls = Halls(self.server)
        self._rate = rate
        self._burst = burst
        self._deflate = WITHOUT_TAKEOVER if compression else None
        caps = Caps(max_peers, max_per_address, trusted_proxies)
        self._visits = Visits(caps, self._metrics, trusted_proxies, note)
        self._metrics_readers = metrics_readers
        self._page = load_page()
        self._batches = Batches(log, self._metrics, self._deliver)
        self.server.call_later(0, self._trim)
        if self._gate.asks:
            self.server.call_later(RECHECK_INTERVAL, self._recheck)

    def drain(self, timeout: float) -> None:
        """Make the server's `run` return; any thread or signal handler may ask for it.

        Newcomers are refused, peers get what is queued for them and Close 1001,
        and whoever has not taken that in `timeout` seconds is cut.
        """
        self._visits.draining = True
        self.server.stop(timeout, accepting=True)

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._visits.draining

    # What the server calls.

    def _on_accept(self, peer: Peer) -> None:
        peer.state = self._visits.arrive(peer)

    def _on_request(self, peer: Peer, request: Request) -> Response:
        """Answer a handshake with 101, any other request with a page."""
        visit = peer.state
        self._visits.identify(visit, peer, request)
        if request.path == HEALTH:
            return health(request, draining=self._visits.draining)
        if request.path == METRICS:
            self._gate.check_origin(request)
            check_reader(request, peer.address, self._metrics_readers)
            return self._tell_metrics()
        self._visits.admit(visit, peer)
        self._gate.check_origin(request)
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        response = accept(request, subprotocols=(wire.SUBPROTOCOL,), deflate=self._deflate)
        if ("Sec-WebSocket-Protocol", wire.SUBPROTOCOL) in response.headers:
            peer.state = ChatPeer(visit)
        else:
            invitation, token = self._gate.authorize_request(request, room)
            name = None if invitation is None else invitation.name
            peer.state = PlainPeer(visit, self._halls.open(room), name, token)
        return response

    def _on_open(self, peer: Peer) -> None:
        state = peer.state
        if isinstance(state, PlainPeer):
            state.hall.plain.add(peer)
        elif self._gate.asks:
            self.server.call_later(JOIN_TIMEOUT, partial(self._require_joined, peer))

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, bytes):
            peer.fail(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
            return
        state = peer.state
        if self._rate:
            now = time.monotonic()
            if state.bucket is None:
                state.bucket = TokenBucket(self._rate, self._burst, now)
            wait = state.bucket.take(now)
            if wait > 0:
                peer.pause(wait)
        if isinstance(state, PlainPeer):
            self._say_plainly(peer, state, message)
            return
        try:
            said = wire.parse(message)
            if isinstance(said, wire.Say):
                self._say(peer, state, said)
            elif isinstance(said, wire.Join):
                self._join(peer, state, said)
            elif isinstance(said, wire.Leave):
                self._leave(peer, state, said)
            elif isinstance(said, wire.Typing):
                seat, hall = self._seat(state, said.room)
                hall.chat.send(wire.typing(said.room, seat.name), sender=peer)
            elif isinstance(said, wire.History):
                self._send_history(peer, state, said)
            else:
                peer.send(wire.pong(said.t))
        except wire.WireError as wrong:
            if wrong.code == "unauthorized":
                self._visits.note_uninvited(peer, wrong.room or "", wrong.message)
            peer.send(wire.error(wrong))

    def _on_close(self, peer: Peer) -> None:
        state = peer.state
        if isinstance(state, PlainPeer):
            if state.seat is not None:
                self._halls.give_up(state.hall, state.seat)
            self._halls.forget_if_empty(state.hall)
        else:
            for room, seat in state.seats.items():
                self._halls.give_up(self._halls.open(room), seat, reserve=True)

    def _on_gone(self, peer: Peer) -> None:
        state = peer.state
        if isinstance(state, ChatPeer):
            self._visits.depart(state.visit, peer, "chat", list(state.seats))
        elif isinstance(state, PlainPeer):
            self._visits.depart(state.visit, peer, "plain", [state.hall.room.name])
        elif isinstance(state, Visit):
            self._visits.depart(state, peer, "", [])

    def _tell_metrics(self) -> Response:
        kinds = Counter(type(peer.state) for peer in self.server.peers if peer.is_open)
        modes = {"chat": kinds[ChatPeer], "plain": kinds[PlainPeer]}
        rooms = sum(not hall.is_empty for hall in self._halls)
        return metrics_page(self.server, self._metrics, modes, rooms)

    def _on_turn_end(self) -> None:
        self._batches.store()
        self._halls.tell_presence()

    # Messages.

    def _say_plainly(self, peer: Peer, state: PlainPeer, text: str) -> None:
        """Take a message in plain mode, where there is no way to say what is wrong."""
        if len(text) > wire.MAX_TEXT:
            peer.close(CloseCode.MESSAGE_TOO_BIG, f"at most {wire.MAX_TEXT} characters")
        elif text:
            hall = state.hall
            if state.seat is None:
                state.seat = self._take_plain_seat(peer, state)
            self._batches.add(peer, Entry(hall.room.name, state.seat.name, text, None))

    def _take_plain_seat(self, peer: Peer, state: PlainPeer) -> Seat:
        hall, now = state.hall, time.monotonic()
        self._halls.note_change(hall)
        if state.name is not None:
            try:
                return hall.room.take_seat(state.name, None, peer, now, proven=True)[0]
            except NameTaken:
                pass  # the same person is here already, and keeps the name there
        return hall.room.take_guest_seat(peer, now)

    def _say(self, peer: Peer, state: ChatPeer, said: wire.Say) -> None:
        seat, _ = self._seat(state, said.room, key=said.key)
        self._batches.add(peer, Entry(said.room, seat.name, said.text, said.key))

    def _deliver(self, said: Said, result: Sequence[Stored] | LogError) -> None:
        """Deliver what the log has stored, in its order; tell senders of what it has not."""
        if isinstance(result, LogError):
            self._note_failure(result)
            for peer, entry in said:
                self._refuse(peer, entry)
        else:
            for (peer, entry), stored in zip(said, result, strict=True):
                self._deliver_one(peer, entry, stored)

    def _deliver_one(self, peer: Peer, entry: Entry, stored: Stored) -> None:
        hall = self._halls.find(entry.room)
        in_chat_mode = isinstance(peer.state, ChatPeer)
        if in_chat_mode or (hall is not None and hall.chat):
            encoded = wire.message(entry.room, stored.message)
            if in_chat_mode:
                peer.send(wire.acknowledgement(encoded, entry.key))
            if hall is not None and not stored.repeated:
                hall.chat.send(encoded, sender=peer)
        if hall is not None and not stored.repeated:
            if hall.plain:
                hall.plain.send(entry.text, sender=peer)
            # In plain mode the sender gets nothing, in chat mode its acknowledgement.
            self._metrics.delivered += len(hall.chat) + len(hall.plain) - (peer in hall.plain)

    def _refuse(self, peer: Peer, entry: Entry) -> None:
        """Tell a sender that the log has not taken its message."""
        if isinstance(peer.state, ChatPeer):
            reason = "the message could not be stored and was not sent; try again later"
            peer.send(
                wire.error(wire.WireError("log_failed", reason, key=entry.key, room=entry.room))
            )
        else:
            peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")

    def _send_history(self, peer: Peer, state: ChatPeer, said: wire.History) -> None:
        self._seat(state, said.room)

        def answer(result: Slice | LogError) -> None:
            if isinstance(result, LogError):
                self._tell_unreadable(peer, said.room, result)
            else:
                messages, cut = _newest_within(result.messages, MAX_ANSWER_TEXT)
                peer.send(wire.history(said.room, messages, more=result.more or cut))

        self._log.before(said.room, said.before, said.limit, answer)

    def _tell_unreadable(self, peer: Peer, room: str, error: LogError) -> None:
        self._note_failure(error)
        reason = "the log cannot be read; try again later"
        peer.send(wire.error(wire.WireError("log_failed", reason, room=room)))

    def _note_failure(self, error: LogError) -> None:
        self._metrics.log_failures += 1
        logger.error("%s", error)

    # Rooms.

    def _seat(self, state: ChatPeer, room: str, *, key: str | None = None) -> tuple[Seat, Hall]:
        """Return a peer's seat in a room. Raises `WireError` `not_joined`."""
        seat = state.seats.get(room)
        if seat is None:
            raise wire.WireError(
                "not_joined", f"you are not in the room {room}; join it first", key=key, room=room
            )
        return seat, self._halls.open(room)

    def _join(self, peer: Peer, state: ChatPeer, said: wire.Join) -> None:
        """Give a peer its seat, then what it has missed, then what comes."""
        invitation = self._gate.authorize(said.token, said.room)
        name = said.name if invitation is None else invitation.name
        if len(state.seats) >= MAX_ROOMS and said.room not in state.seats:
            raise wire.WireError(
                "too_many_rooms", f"{MAX_ROOMS} rooms are the limit; leave one", room=said.room
            )
        hall = self._halls.open(said.room)
        former_seat = state.seats.get(said.room)
        session = said.session
        if former_seat is not None and former_seat.name.casefold() == name.casefold():
            session = former_seat.session  # joining again, or writing the name otherwise
        try:
            seat, former = hall.room.take_seat(
                name, session, peer, time.monotonic(), proven=invitation is not None
            )
        except NameTaken:
            reason = f"the name {name} is taken in the room {said.room}; choose another"
            if invitation is not None:
                reason = f"{name} is in the room {said.room} already; leave it there first"
            raise wire.WireError("name_taken", reason, room=said.room) from None
        self._halls.note_change(hall)
        if former_seat is not None and former_seat is not seat:
            hall.room.give_up(former_seat)
        if isinstance(former, Peer) and former is not peer:
            self._turn_out(former, said.room)
        state.seats[said.room] = seat
        if invitation is not None:
            state.tokens[said.room] = said.token
        self._catch_up(peer, hall, seat, said.after)

    def _catch_up(self, peer: Peer, hall: Hall, seat: Seat, after: int | None) -> None:
        """Answer a join with what the log has, and let in what comes after just that."""
        room = hall.room.name

        def answer(result: Slice | LogError) -> None:
            if seat.member is not peer:
                return  # left, or turned out, meanwhile
            if isinstance(result, LogError):
                hall.chat.discard(peer)  # it may have been there before
                peer.state.leave(room)
                self._halls.give_up(hall, seat)
                self._tell_unreadable(peer, room, result)
            else:
                messages, cut = _newest_within(result.messages, MAX_ANSWER_TEXT)
                gap = after is not None and (result.gap or result.more or cut)
                hall.chat.add(peer)
                names, count = hall.room.names(), hall.room.count
                peer.send(
                    wire.joined(room, seat.name, seat.session, names, count, messages, gap=gap)
                )

        if after is None:
            read = partial(self._log.before, room, None, NEWEST)
        else:
            read = partial(self._log.after, room, after, MAX_MISSED)
        self._batches.read(read, answer)

    def _leave(self, peer: Peer, state: ChatPeer, said: wire.Leave) -> None:
        seat, hall = self._seat(state, said.room)
        state.leave(said.room)
        hall.chat.discard(peer)
        self._halls.give_up(hall, seat)

    def _turn_out(self, peer: Peer, room: str) -> None:
        """Take a seat from a connection whose session has come back over another."""
        peer.state.leave(room)
        self._halls.open(room).chat.discard(peer)
        if peer.state.seats:
            reason = f"your session in the room {room} goes on in another connection"
            peer.send(wire.error(wire.WireError("taken_over", reason, room=room)))
        else:
            peer.close(TAKEN_OVER, "your session goes on in another connection")

    def _require_joined(self, peer: Peer) -> None:
        if peer.is_open and not peer.state.seats:
            peer.close(CloseCode.POLICY_VIOLATION, f"nothing joined within {JOIN_TIMEOUT:g} s")

    def _recheck(self) -> None:
        """Close the peers whose invitation has expired or was revoked."""
        self.server.call_later(RECHECK_INTERVAL, self._recheck)  # whatever goes wrong here
        for peer in self.server.peers:
            if not peer.is_open:
                continue
            state = peer.state
            in_chat_mode = isinstance(state, ChatPeer)
            for token in state.tokens.values() if in_chat_mode else (state.token,):
                reason = self._gate.still_holds(token)
                if reason is not None:
                    if in_chat_mode:
                        peer.send(wire.error(wire.WireError("banned", reason)))
                    peer.close(CloseCode.POLICY_VIOLATION, reason)
                    break

    def _trim(self) -> None:
        more = False
        try:
            more = self._log.trim()
        except LogError as error:
            self._note_failure(error)
        self.server.call_later(TRIM_PAUSE if more else TRIM_INTERVAL, self._trim)


def _newest_within(
    messages: Sequence[wire.Message], limit: int
) -> tuple[Sequence[wire.Message], bool]:
    """Return the newest messages whose texts fit the limit, and whether any did not."""
    size = 0
    for index in range(len(messages) - 1, -1, -1):
        text = messages[index].text
        # In JSON a quotation mark takes two bytes and a control character six.
        size += len(text) * (2 if text.isascii() and text.isprintable() else 6)
        if size > limit:
            return messages[index + 1 :], True
    return messages, False
