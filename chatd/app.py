"""The chat server: binds the WebSocket server to rooms, message store, access control and page.

`Chat` opens and closes connections. `Intake` and `handlers` serve the messages of peers, and
`Delivery` sends the stored ones. `StoreMonitor` and `InvitationRecheck` have the timers.

The server collects the messages of one event loop iteration and gives them to the
store as one batch. It delivers each message after the store has it, in the store's
order. In chat mode the sender also receives its message. A client that has seen a
message can therefore ask for all later ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from chatd import protocol
from chatd.access import costs
from chatd.access.authorizer import Authorizer
from chatd.access.connection_limits import (
    DEFAULT_MAX_HANDSHAKES,
    DEFAULT_MAX_PEERS,
    DEFAULT_MAX_UNFINISHED,
    DEFAULT_MAX_WRITE_BUFFERS,
    DEFAULT_WRITE_TIMEOUT,
    ConnectionLimiter,
    ServiceUnavailable,
)
from chatd.access.invitations import Invitation, Invitations, Unauthorized
from chatd.access.moderation import Moderation
from chatd.access.origin import OriginPolicy
from chatd.access.proxy_names import ProxyNames
from chatd.access.trusted_networks import TrustedNetwork
from chatd.cluster import Cluster
from chatd.delivery import Delivery
from chatd.directory import Directory
from chatd.feed import Feed
from chatd.handlers import Services
from chatd.history import HistoryReader
from chatd.intake import Intake
from chatd.joins import Joins
from chatd.model import DEFAULT_MAX_ROOMS, direct_authors, name_author
from chatd.moderator import Moderator
from chatd.modes import ChatMode, Handshaking, Mode, OpenMode, PlainMode, PostMode
from chatd.ops.access_log import AccessLog
from chatd.ops.endpoints import (
    HEALTH_PATH,
    METRICS_PATH,
    READY_PATH,
    check_metrics_reader,
    health_response,
    metrics_response,
    ready_response,
)
from chatd.ops.metrics import Metrics
from chatd.page import (
    SERVICE_WORKER_PATH,
    check_method,
    is_post_path,
    load_page,
    load_service_worker,
    post_room,
    room_of,
)
from chatd.posts import MAX_BODY, Posts, check_not_banned
from chatd.protocol import ChatError
from chatd.recheck import InvitationRecheck
from chatd.registry import RoomRegistry
from chatd.shared_members import SharedMembers
from chatd.storage.shared import SharedStore
from chatd.storage.store import MessageStore
from chatd.storage.write_batcher import WriteBatcher
from chatd.store_monitor import StoreMonitor
from wsproto_min import (
    Acceptance,
    CloseCode,
    Deferred,
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
# Connections of one event loop iteration from which the server reads at once, and seconds
# between the first reads of the others. A server without a limit on the rate reads all.
REQUESTS_PER_ITERATION = 8
REQUEST_INTERVAL = 0.0005


class Chat:
    """A chat server; `server` listens and runs.

    Args:
        store: Store that keeps the messages.
        origins: Host names and web origins that may connect.
        invitations: Invitations that peers may present; None for a chat without any.
        invite_only: True if every peer needs an invitation, unless there are none.
        name_header: Header in which a trusted proxy gives the name of a person that has signed
            in there.
        directory: True to list the rooms for peers.
        shared: The store, if several nodes share it.
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
        total_write_buffer_limit: As for `Server`, like the next three.
        write_timeout: Seconds.
        total_unfinished_limit: Bytes.
        max_pending_handshakes: Number of connections.
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
        total_write_buffer_limit: int = DEFAULT_MAX_WRITE_BUFFERS << 20,
        write_timeout: float = DEFAULT_WRITE_TIMEOUT,
        total_unfinished_limit: int = DEFAULT_MAX_UNFINISHED << 20,
        max_pending_handshakes: int = DEFAULT_MAX_HANDSHAKES,
        invite_only: bool = True,
        name_header: str | None = None,
        directory: bool = True,
        shared: SharedStore | None = None,
    ) -> None:
        self._metrics = Metrics()
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=lambda peer, message: self._intake.on_message(peer, message),
            on_close=self._on_close,
            on_accept=self._on_accept,
            on_disconnect=self._on_disconnect,
            on_before_flush=self._on_before_flush,
            on_iteration_end=self._metrics.iteration_seconds.observe,
            max_message_size=protocol.MAX_MESSAGE_SIZE,
            max_body_size=MAX_BODY,
            total_write_buffer_limit=total_write_buffer_limit,
            write_timeout=write_timeout,
            total_unfinished_limit=total_unfinished_limit,
            max_pending_handshakes=max_pending_handshakes,
        )
        self._store = store
        self._origins = origins or OriginPolicy()
        self._authorizer = Authorizer(invitations, required=invite_only)
        self._proxy_names = ProxyNames(name_header, trusted_proxies)
        moderation = Moderation()
        self._compression = DeflateParameters.NO_CONTEXT_TAKEOVER if compression else None
        limiter = ConnectionLimiter(max_peers, max_per_address, trusted_proxies)
        self._access_log = AccessLog(limiter, self._metrics, trusted_proxies)
        self._metrics_readers = metrics_readers
        self._page = load_page()
        self._service_worker = load_service_worker()
        call_later = self.server.call_later
        self._monitor = StoreMonitor(
            store, self._metrics, call_later, lambda sanctions: self._moderator.load(sanctions)
        )
        delivery = Delivery(
            lambda: self._rooms,
            self._monitor,
            self._metrics,
            may_be_stored=shared is not None,
        )
        self._shared = shared
        self._cluster = None if shared is None else self._open_cluster(shared, delivery)
        feed = None if self._cluster is None else self._cluster.feed
        self._batcher = WriteBatcher(
            store,
            delivery.deliver if feed is None else feed.deliver,
            self._metrics.append_seconds.observe,
            is_bounded=feed is not None,
        )
        history = HistoryReader(store, feed or self._batcher, self._monitor.on_error)
        self._rooms = RoomRegistry(self.server, max_rooms, self._cluster)
        if address_rate is None:
            address_rate = costs.CONNECTIONS_PER_ADDRESS * rate
        self._budgets = costs.Budgets(rate, burst, address_rate, trusted_proxies)
        self._moderator = Moderator(store, self._monitor, moderation, self._rooms, self._cluster)
        self._moderation = moderation
        services = Services(
            self._rooms,
            Joins(self._rooms, history, self._cluster),
            history,
            self._batcher,
            self._authorizer,
            moderation,
            self._moderator,
            Directory(self._rooms, store, self._monitor, self._authorizer, is_public=directory),
            self._access_log,
        )
        self._posts = Posts(self._authorizer, moderation, self._batcher, rate)
        self._accepted = 0  # connections of this iteration
        self._intake = Intake(services, self._budgets, call_later)
        store.start(call_later, self.server.call_soon_threadsafe)
        self._monitor.start()
        InvitationRecheck(self._authorizer, self.server).start()

    def _open_cluster(self, shared: SharedStore, delivery: Delivery) -> Cluster:
        call_later = self.server.call_later
        feed = Feed(shared, delivery, call_later)
        members = SharedMembers(
            shared,
            call_later,
            lambda name: self._rooms.find(name),
            lambda room: self._rooms.on_change(room),
            lambda member, former: self._rooms.announce_rename(None, member, former),
            lambda member: self._rooms.remove_stale(member),
        )
        cluster = Cluster(shared, self.server, feed, members, lambda name: self._rooms.find(name))
        shared.subscribe(cluster)
        return cluster

    def finish(self) -> None:
        """Give the messages that still wait to the store, after the server's `run`."""
        self._batcher.drain()

    def drain(self, timeout: float) -> None:
        """Make the server's `run` return once each peer has the bytes in its write buffer.

        Any thread or signal handler may call this. The server refuses further
        connections, and sends each peer the bytes in its write buffer and Close 1001.

        Args:
            timeout: Seconds after which the server closes the remaining connections.
        """
        self._access_log.draining = True
        if self._cluster is not None:
            self._cluster.members.keeps_names = True
        self.server.stop(timeout, accepting=True)

    @property
    def is_draining(self) -> bool:
        """True once `drain` was called."""
        return self._access_log.draining

    # Connections.

    def _on_accept(self, peer: Peer) -> None:
        wait = self._budgets.charge_handshake(peer.address)
        if wait == math.inf:
            self._access_log.abort(peer, "rate_per_address")
            return
        record = self._access_log.on_accept(peer)
        if record is None:
            return
        peer.user_data = Handshaking(record)
        if self._budgets.limit_connections:
            # A burst of connections is spread over iterations too.
            surplus = self._accepted - REQUESTS_PER_ITERATION
            self._accepted += 1
            wait = max(wait, surplus * REQUEST_INTERVAL)
        if wait > 0:
            peer.pause_reading(wait)

    def _on_request(self, peer: Peer, request: Request) -> Response | Acceptance | Deferred:
        """Answer a WebSocket handshake with 101, a POST with its message's id, else a page."""
        mode: Handshaking = peer.user_data
        accepted_from = peer.address
        self._access_log.on_request(mode.record, peer, request)
        if peer.address != accepted_from:
            self._check_forwarded_rate(peer.address)
        if request.path == HEALTH_PATH:
            return health_response(
                request,
                draining=self._access_log.draining,
                store_is_available=self._monitor.store_is_available,
            )
        if request.path == READY_PATH:
            return ready_response(
                request, draining=self._access_log.draining, problem=self._readiness()
            )
        if request.path == METRICS_PATH:
            self._origins.check(request)
            check_metrics_reader(request, peer.address, self._metrics_readers)
            return self._metrics_page()
        self._access_log.admit(mode.record, peer)
        self._origins.check(request)
        if request.method == "POST" and is_post_path(request.path):
            room = post_room(request)
            peer.user_data = PostMode(mode.record, room)
            return self._posts.receive(peer, request, room)
        if request.path == SERVICE_WORKER_PATH:
            check_method(request)
            return self._service_worker
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        acceptance = accept(
            request, subprotocols=(protocol.SUBPROTOCOL,), compression=self._compression
        )
        if acceptance.options.subprotocol == protocol.SUBPROTOCOL:
            peer.user_data = ChatMode(mode.record, self._proxy_names.name(request, accepted_from))
        else:
            if direct_authors(room) is not None:
                reason = "a direct room is for its two members in chat mode"
                raise HandshakeError(HTTPStatus.FORBIDDEN, reason)
            name = self._proxy_names.name(request, accepted_from)
            token = None
            if name is None:
                invitation, token = self._authorize_request(request, room)
                name = None if invitation is None else invitation.name
            if name is not None:
                check_not_banned(self._moderation, name_author(name), room)
            try:
                opened = self._rooms.open(room)
            except ChatError as error:
                raise ServiceUnavailable("max_rooms", error.message) from None
            peer.user_data = PlainMode(mode.record, opened, name, token)
        return acceptance

    def _readiness(self) -> str | None:
        if not self._monitor.store_is_available:
            return "message store failed"
        return None if self._shared is None else self._shared.readiness()

    def _check_forwarded_rate(self, address: str) -> None:
        if self._budgets.charge_handshake(address) == math.inf:
            reason = "too many connections from one address in a short time; try again later"
            raise ServiceUnavailable("rate_per_address", reason)

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
        self._intake.on_close(peer, mode)
        self._rooms.leave_all(peer, mode)

    def _on_disconnect(self, peer: Peer) -> None:
        mode: Mode | None = peer.user_data  # None: `on_accept` refused the connection
        if isinstance(mode, ChatMode):
            self._access_log.on_close(mode.record, peer, "chat", list(mode.members))
        elif isinstance(mode, PlainMode):
            self._access_log.on_close(mode.record, peer, "plain", [mode.room.name])
        elif isinstance(mode, PostMode):
            self._access_log.on_close(mode.record, peer, "post", [mode.room])
        elif mode is not None:
            self._access_log.on_close(mode.record, peer, "", [])

    def _metrics_page(self) -> Response:
        kinds = Counter(type(peer.user_data) for peer in self.server.peers if peer.is_open)
        modes = {"chat": kinds[ChatMode], "plain": kinds[PlainMode]}
        rooms = sum(not room.is_empty for room in self._rooms)
        shared = {} if self._cluster is None else self._cluster.metrics()
        return metrics_response(
            self.server, self._metrics, modes, rooms, self._store.log_size, shared
        )

    def _on_before_flush(self) -> None:
        self._metrics.messages_received += self._batcher.flush()
        self._rooms.end_iteration()
        self._intake.end_iteration()
        self._accepted = 0
