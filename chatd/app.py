"""The chat server: binds the WebSocket server to rooms, message store, access control and page.

The server collects the messages of one event loop iteration and gives them to the
store as one batch. It delivers each message after the store has it, in the store's
order. In chat mode the sender also receives its message. A client that has seen a
message can therefore ask for all later ones.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus

from chatd import protocol
from chatd.access import costs
from chatd.access.authorizer import Authorizer
from chatd.access.connection_limits import DEFAULT_MAX_PEERS, ConnectionLimiter, ServiceUnavailable
from chatd.access.invitations import Invitation, Invitations, Unauthorized
from chatd.access.origin import OriginPolicy
from chatd.access.trusted_networks import TrustedNetwork
from chatd.history import HistoryReader
from chatd.model import DEFAULT_MAX_ROOMS, MAX_TEXT
from chatd.modes import ChatMode, Handshaking, Mode, OpenMode, PlainMode
from chatd.ops.access_log import AccessLog
from chatd.ops.endpoints import (
    HEALTH_PATH,
    METRICS_PATH,
    check_metrics_reader,
    health_response,
    metrics_response,
)
from chatd.ops.metrics import Metrics
from chatd.page import load_page, room_of
from chatd.protocol import ChatError
from chatd.registry import RoomRegistry
from chatd.storage.store import MessageStore, NewMessage, StoredMessage, StoreError
from chatd.storage.write_batcher import Batch, WriteBatcher
from chatd.work_queue import WorkQueue
from wsproto_min import (
    Acceptance,
    CloseCode,
    DeflateParameters,
    HandshakeError,
    Peer,
    Request,
    Response,
    Server,
    accept,
)

# Seconds within which a peer must join a room if the server requires invitations.
JOIN_TIMEOUT = 10.0
# Seconds between two checks of the invitations in use.
RECHECK_INTERVAL = 2.0
# Seconds of a recheck in one event loop iteration.
RECHECK_STEP = 0.002
# Seconds between two runs of retention, and between its steps while more is to be removed.
RETENTION_INTERVAL = 60.0
RETENTION_PAUSE = 0.02
# Seconds between two checks of the files of the message store.
STORE_CHECK_INTERVAL = 0.5
# Seconds of one event loop iteration after which each peer may send one message more. The next
# ones wait for the next iteration. A server without a limit on the rate reads all.
READING_STEP = 0.005
# Seconds for which a peer is not read while its request waits; it is read at the end of the
# request if that is earlier.
WAITING_PAUSE = 30.0

logger = logging.getLogger("chatd")


class Chat:
    """A chat server; `server` listens and runs.

    Args:
        store: Store that keeps the messages.
        origins: Host names and web origins that may connect.
        invitations: Invitations that peers need; None lets everybody in.
        rate: Cost per second that a peer may cause, in small messages; 0 for no limit.
        burst: Cost that a peer may cause at once.
        address_rate: Cost per second that the peers of an address may cause, twice as much
            at once; 0 for no limit, None for 5 times `rate`.
        max_rooms: Limit of rooms in use; 0 for none.
        compression: True to negotiate permessage-deflate.
        trusted_proxies: Networks of the proxies that may forward client addresses.
        max_peers: Limit of connections; 0 for none.
        max_per_address: Limit of connections from one address; 0 for none, None for
            the default.
        metrics_readers: Networks that may read `/metrics`.
    """

    def __init__(
        self,
        store: MessageStore,
        *,
        origins: OriginPolicy | None = None,
        invitations: Invitations | None = None,
        rate: float = 20.0,
        burst: float = 40.0,
        address_rate: float | None = None,
        max_rooms: int = DEFAULT_MAX_ROOMS,
        compression: bool = True,
        trusted_proxies: Sequence[TrustedNetwork] = (),
        max_peers: int = DEFAULT_MAX_PEERS,
        max_per_address: int | None = None,
        metrics_readers: Sequence[TrustedNetwork] = (),
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
            on_iteration_end=self._metrics.iteration_seconds.observe,
            max_message_size=protocol.MAX_MESSAGE_SIZE,
        )
        self._store = store
        self._origins = origins or OriginPolicy()
        self._authorizer = Authorizer(invitations)
        if address_rate is None:
            address_rate = costs.CONNECTIONS_PER_ADDRESS * rate
        self._budgets = costs.Budgets(rate, burst, address_rate, trusted_proxies)
        self._work = WorkQueue(self.server.call_later)
        self._limits_rate = rate > 0
        self._reading_end = 0.0  # of this iteration, from its first message on
        self._compression = DeflateParameters.NO_CONTEXT_TAKEOVER if compression else None
        limiter = ConnectionLimiter(max_peers, max_per_address, trusted_proxies)
        self._access_log = AccessLog(limiter, self._metrics, trusted_proxies)
        self._metrics_readers = metrics_readers
        self._page = load_page()
        self._batcher = WriteBatcher(store, self._deliver, self._metrics.append_seconds.observe)
        self._history = HistoryReader(store, self._batcher, self._on_store_error)
        self._rooms = RoomRegistry(self.server, self._history, max_rooms)
        self._store_error = ""  # the last error in the log, until an append succeeds
        self._store_is_available = True
        store.start(self.server.call_later, self.server.call_soon_threadsafe)
        self.server.call_later(STORE_CHECK_INTERVAL, self._check_store)
        self.server.call_later(0, self._apply_retention)
        self._to_recheck: list[Peer] = []  # peers that the current recheck has not visited
        self._recheck_results: dict[str | None, str | None] = {}  # its results by token
        if self._authorizer.requires_invitation:
            self.server.call_later(RECHECK_INTERVAL, self._recheck)

    def drain(self, timeout: float) -> None:
        """Make the server's `run` return once each peer has the bytes in its write buffer.

        Any thread or signal handler may call this. The server refuses further
        connections, and sends each peer the bytes in its write buffer and Close 1001.

        Args:
            timeout: Seconds after which the server closes the remaining connections.
        """
        self._access_log.draining = True
        self.server.stop(timeout, accepting=True)

    @property
    def is_draining(self) -> bool:
        """True once `drain` was called."""
        return self._access_log.draining

    # Connections.

    def _on_accept(self, peer: Peer) -> None:
        record = self._access_log.on_accept(peer)
        if record is not None:
            peer.user_data = Handshaking(record)

    def _on_request(self, peer: Peer, request: Request) -> Response | Acceptance:
        """Answer a WebSocket handshake with 101, and any other request with a page."""
        mode: Handshaking = peer.user_data
        self._access_log.on_request(mode.record, peer, request)
        if request.path == HEALTH_PATH:
            return health_response(
                request,
                draining=self._access_log.draining,
                store_is_available=self._store_is_available,
            )
        if request.path == METRICS_PATH:
            self._origins.check(request)
            check_metrics_reader(request, peer.address, self._metrics_readers)
            return self._metrics_page()
        self._access_log.admit(mode.record, peer)
        self._origins.check(request)
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        acceptance = accept(
            request, subprotocols=(protocol.SUBPROTOCOL,), compression=self._compression
        )
        if acceptance.options.subprotocol == protocol.SUBPROTOCOL:
            peer.user_data = ChatMode(mode.record)
        else:
            invitation, token = self._authorize_request(request, room)
            name = None if invitation is None else invitation.name
            try:
                opened = self._rooms.open(room)
            except ChatError as error:
                raise ServiceUnavailable("max_rooms", error.message) from None
            peer.user_data = PlainMode(mode.record, opened, name, token)
        return acceptance

    def _authorize_request(
        self, request: Request, room: str
    ) -> tuple[Invitation | None, str | None]:
        """Return the invitation and the token of a request. Raises `HandshakeError` 401."""
        try:
            return self._authorizer.authorize_request(request, room)
        except Unauthorized as error:
            challenge = [("WWW-Authenticate", 'Bearer realm="chatd"')]
            raise HandshakeError(HTTPStatus.UNAUTHORIZED, str(error), challenge) from None

    def _on_open(self, peer: Peer) -> None:
        mode: OpenMode = peer.user_data
        if isinstance(mode, PlainMode):
            mode.room.plain_peers.add(peer)
        elif self._authorizer.requires_invitation:
            self.server.call_later(JOIN_TIMEOUT, partial(self._require_joined, peer, mode))

    def _require_joined(self, peer: Peer, mode: ChatMode) -> None:
        if not mode.has_joined:
            peer.close(CloseCode.POLICY_VIOLATION, f"no room joined within {JOIN_TIMEOUT:g} s")

    def _on_close(self, peer: Peer) -> None:
        mode: OpenMode = peer.user_data
        if isinstance(mode, ChatMode) and mode.budget is not None:
            self._work.discard(peer, mode.budget.address)
        self._rooms.leave_all(mode)

    def _on_disconnect(self, peer: Peer) -> None:
        mode: Mode | None = peer.user_data  # None: `on_accept` refused the connection
        if isinstance(mode, ChatMode):
            self._access_log.on_close(mode.record, peer, "chat", list(mode.members))
        elif isinstance(mode, PlainMode):
            self._access_log.on_close(mode.record, peer, "plain", [mode.room.name])
        elif mode is not None:
            self._access_log.on_close(mode.record, peer, "", [])

    def _metrics_page(self) -> Response:
        kinds = Counter(type(peer.user_data) for peer in self.server.peers if peer.is_open)
        modes = {"chat": kinds[ChatMode], "plain": kinds[PlainMode]}
        rooms = sum(not room.is_empty for room in self._rooms)
        return metrics_response(self.server, self._metrics, modes, rooms, self._store.log_size)

    # Messages of peers.

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, bytes):
            peer.fail(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
            return
        mode: OpenMode = peer.user_data
        if mode.budget is None:
            mode.budget = self._budgets.open(peer.address)
        wait = mode.budget.charge(costs.message_cost(len(message)))
        # Bursts of many peers may come together. The others take turns after READING_STEP.
        if wait > 0 or self._is_reading_over():
            peer.pause_reading(wait)
        if isinstance(mode, PlainMode):
            self._say_plain(peer, mode, message)
        elif mode.waiting or len(message) > costs.CHEAP_SIZE:
            self._queue(peer, mode, mode.budget, partial(protocol.parse, message))
        else:
            try:
                request = protocol.parse(message)
                if self._is_expensive(request):
                    self._queue(peer, mode, mode.budget, lambda: request)
                else:
                    self._serve(peer, mode, request)
            except ChatError as error:
                peer.send(protocol.error(error))

    def _is_reading_over(self) -> bool:
        """Return True if this iteration has processed messages for READING_STEP seconds."""
        if not self._limits_rate:
            return False
        now = time.monotonic()
        if self._reading_end == 0.0:
            self._reading_end = now + READING_STEP
        return now > self._reading_end

    def _is_expensive(self, request: protocol.ClientMessage) -> bool:
        if isinstance(request, protocol.Say):
            room = self._rooms.find(request.room)
            return room is not None and room.count > costs.CHEAP_MEMBERS
        return isinstance(request, protocol.Join | protocol.History)

    def _queue(
        self,
        peer: Peer,
        mode: ChatMode,
        budget: costs.Budget,
        parse: Callable[[], protocol.ClientMessage],
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
                if isinstance(request, protocol.Join):
                    self._join(peer, mode, request, done)
                elif isinstance(request, protocol.History):
                    mode.member(request.room)
                    self._history.send_page(peer, request, done)
                else:
                    self._serve(peer, mode, request)
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

    def _serve(self, peer: Peer, mode: ChatMode, request: protocol.ClientMessage) -> None:
        """Act on a request without a response from the store."""
        if isinstance(request, protocol.Say):
            member = mode.member(request.room, key=request.key)
            member.room.typing.pop(member, None)  # the message replaces it
            assert mode.budget is not None
            mode.budget.charge_address(costs.fan_out_cost(member.room.count))
            new = NewMessage(request.room, member.name, request.text, request.key)
            self._batcher.add(peer, new)
        elif isinstance(request, protocol.Leave):
            self._leave(peer, mode, request)
        elif isinstance(request, protocol.Typing):
            self._rooms.announce_typing(mode.member(request.room))
        elif isinstance(request, protocol.Ping):
            peer.send(protocol.pong(request.t))

    def _say_plain(self, peer: Peer, mode: PlainMode, text: str) -> None:
        """Queue a message in plain mode, which reports an error only by closing."""
        if len(text) > MAX_TEXT:
            peer.close(CloseCode.MESSAGE_TOO_BIG, f"at most {MAX_TEXT} characters")
        elif text:
            member = mode.member or self._rooms.join_plain(peer, mode)
            self._batcher.add(peer, NewMessage(mode.room.name, member.name, text, None))

    def _join(
        self, peer: Peer, mode: ChatMode, request: protocol.Join, done: Callable[[float], None]
    ) -> None:
        try:
            invitation = self._authorizer.authorize(request.token, request.room)
        except Unauthorized as error:
            self._access_log.on_join_refused(peer, request.room, str(error))
            raise ChatError("unauthorized", str(error), room=request.room) from None
        self._rooms.join(peer, mode, request, invitation, done)

    def _leave(self, peer: Peer, mode: ChatMode, request: protocol.Leave) -> None:
        member = mode.member(request.room)
        mode.forget(request.room)
        member.room.chat_peers.discard(peer)
        self._rooms.leave(member)

    # Delivery.

    def _on_before_flush(self) -> None:
        self._metrics.messages_received += self._batcher.flush()
        self._rooms.broadcast_presence()
        self._rooms.broadcast_typing()
        self._work.end_iteration()
        self._reading_end = 0.0

    def _deliver(self, batch: Batch, result: Sequence[StoredMessage] | StoreError) -> None:
        """Deliver a batch in the store's order, or report to its senders that it failed."""
        if isinstance(result, StoreError):
            self._on_store_error(result)
            for peer, new in batch:
                self._reject(peer, new)
        else:
            self._store_error = ""
            for (peer, new), stored in zip(batch, result, strict=True):
                self._deliver_one(peer, new, stored)

    def _deliver_one(self, peer: Peer, new: NewMessage, stored: StoredMessage) -> None:
        room = self._rooms.find(new.room)
        in_chat_mode = isinstance(peer.user_data, ChatMode)
        if in_chat_mode or (room is not None and room.chat_peers):
            encoded = protocol.message(new.room, stored.message)
            if in_chat_mode:
                peer.send(protocol.acknowledgement(encoded, new.key))
            if room is not None and not stored.repeated:
                room.chat_peers.send(encoded, sender=peer)
        if room is not None and not stored.repeated:
            if room.plain_peers:
                room.plain_peers.send(new.text, sender=peer)
            # A sender in chat mode receives its acknowledgement, which counts as a delivery.
            # A sender in plain mode receives nothing.
            self._metrics.messages_delivered += (
                len(room.chat_peers) + len(room.plain_peers) - (peer in room.plain_peers)
            )

    def _reject(self, peer: Peer, new: NewMessage) -> None:
        """Report to the sender that the store has not taken its message."""
        if isinstance(peer.user_data, ChatMode):
            reason = "the message could not be stored and was not sent; try again later"
            error = ChatError("log_failed", reason, key=new.key, room=new.room)
            peer.send(protocol.error(error))
        else:
            peer.close(CloseCode.INTERNAL_ERROR, "the message could not be stored")

    # Timers.

    def _recheck(self) -> None:
        """Recheck the invitations in use if one may have become invalid, for one step."""
        pause = RECHECK_INTERVAL
        try:
            if not self._to_recheck and self._authorizer.needs_recheck(time.time()):
                self._to_recheck = list(self.server.peers)
                self._recheck_results = {}
            step_end = time.monotonic() + RECHECK_STEP
            while self._to_recheck:
                self._recheck_peer(self._to_recheck.pop())
                if self._to_recheck and time.monotonic() >= step_end:
                    pause = 0.0
                    break
        finally:  # also after an exception
            self.server.call_later(pause, self._recheck)

    def _recheck_peer(self, peer: Peer) -> None:
        """Close a peer with an expired or revoked invitation."""
        if not peer.is_open:
            return
        mode: OpenMode = peer.user_data
        tokens = set(mode.tokens.values()) if isinstance(mode, ChatMode) else {mode.token}
        results = self._recheck_results
        for token in tokens - results.keys():
            results[token] = self._authorizer.recheck(token)
        reason = next(filter(None, map(results.get, tokens)), None)
        if reason is not None:
            self._ban(peer, mode, reason)

    def _ban(self, peer: Peer, mode: OpenMode, reason: str) -> None:
        if isinstance(mode, ChatMode):
            peer.send(protocol.error(ChatError("banned", reason)))
        peer.close(CloseCode.POLICY_VIOLATION, reason)

    def _apply_retention(self) -> None:
        """Delete the messages of one step, and schedule the next step."""
        more = False
        try:
            more = self._store.apply_retention()
        except StoreError as error:
            self._on_store_error(error)
        finally:  # also after an exception
            # Pauses between the steps keep the chat responsive while much is removed.
            pause = RETENTION_PAUSE if more else RETENTION_INTERVAL
            self.server.call_later(pause, self._apply_retention)

    def _check_store(self) -> None:
        """Check the files of the store, and schedule the next check."""
        try:
            self._store.check()
        except StoreError as error:
            if self._store_is_available:
                self._on_store_error(error)
            self._store_is_available = False
        else:
            if not self._store_is_available:
                logger.warning("message store: its files are back; chatd stores messages again")
                self._store_error = ""
            self._store_is_available = True
        finally:  # also after an exception
            self.server.call_later(STORE_CHECK_INTERVAL, self._check_store)

    def _on_store_error(self, error: StoreError) -> None:
        """Count a failure, and log it unless the last one was the same."""
        self._metrics.store_failures += 1
        if str(error) != self._store_error:
            self._store_error = str(error)
            logger.error("%s", error)
