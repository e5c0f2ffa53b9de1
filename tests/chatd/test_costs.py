"""Cost of requests: budgets of connections and addresses, and the queue of expensive ones."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from chatd import announcements, app, intake, registry, rooms, work_queue
from chatd.access import address_buckets, costs
from chatd.access.address_buckets import AddressBuckets
from chatd.access.costs import Budgets
from chatd.access.invitations import Invitations
from chatd.access.rate_limit import TokenBucket
from chatd.access.trusted_networks import parse_network
from chatd.history import HistoryReader
from chatd.intake import Intake
from chatd.protocol import MAX_MESSAGE_SIZE, History
from chatd.registry import RoomRegistry
from chatd.rooms import Room
from chatd.storage.store import NewMessage
from chatd.work_queue import WorkQueue
from tests.benchmarks.client import masked_frame
from tests.chat import ChatClient, bare_peer, open_client, open_store, serve_chat
from tests.support import PATIENCE, Client, exchange, poll, read_to_end
from tests.support import connect as tcp_connect
from wsproto_min import DeflateParameters, HandshakeError
from wsproto_min.net.client import connect
from wsproto_min.net.peer import Peer

# Costs.


def test_message_cost_grows_with_the_size_after_decompression() -> None:
    assert [costs.message_cost(size) for size in (0, 2048, 4096)] == [1, 1, 2]
    assert 20 < costs.message_cost(MAX_MESSAGE_SIZE) < 30


def test_response_cost_counts_messages_characters_and_names() -> None:
    assert costs.response_cost(0, 0) == 0
    assert costs.response_cost(200, 81920, 100) == 4 + 10 + 2


def test_fan_out_is_free_up_to_200_members() -> None:
    assert [costs.fan_out_cost(members) for members in (1, 200, 2000)] == [0, 0, 10]


# Budgets.


def test_connections_of_one_address_share_its_budget() -> None:
    budgets = Budgets(20, 40, 100, ())
    first = budgets.open("203.0.113.7:1")
    assert first.charge(60) == pytest.approx(1.0, abs=0.01)
    second = budgets.open("203.0.113.7:2")
    other = budgets.open("203.0.113.8:1")
    assert second.address is first.address is not other.address
    assert other.charge(40) == 0


def test_new_connection_of_address_in_debt_has_no_burst() -> None:
    budgets = Budgets(20, 40, 100, ())
    before = budgets.open("203.0.113.7:1")
    budgets.open("203.0.113.7:2").charge(300)
    assert budgets.open("203.0.113.7:3").charge(1) == pytest.approx(0.05, abs=0.01)
    assert before.charge(1) == 0


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        ("[2001:db8::1]:1", "[2001:db8::ffff]:2", True),
        ("[2001:db8::1]:1", "[2001:db8:0:0:ff00::1]:2", True),
        ("[2001:db8::1]:1", "[2001:db8:0:1::1]:2", False),
        ("203.0.113.7", "203.0.113.7:80", True),
        ("[::ffff:203.0.113.7]:1", "203.0.113.7:2", True),
    ],
)
def test_addresses_of_one_network_share_a_budget(one: str, two: str, shared: bool) -> None:
    budgets = Budgets(20, 40, 100, ())
    assert (budgets.open(one).address is budgets.open(two).address) is shared


def test_trusted_proxies_and_unix_have_no_address_budget() -> None:
    budgets = Budgets(20, 40, 100, [parse_network("10.0.0.0/8")])
    assert [budgets.open(each).address for each in ("10.0.0.1:5", "unix", "nonsense")] == [None] * 3
    assert budgets.open("unix").charge(60) > 0


def test_budgets_without_rates_limit_nothing() -> None:
    budget = Budgets(0, 0, 0, ()).open("203.0.113.7:1")
    assert (budget.charge(1e9), budget.address) == (0, None)


@pytest.mark.parametrize("address_rate", [0, 0.5, 100])
@pytest.mark.parametrize("rate", [0, 0.5, 20])
def test_budgets_limit_what_has_a_rate(rate: float, address_rate: float) -> None:
    budgets = Budgets(rate, 40, address_rate, ())
    assert budgets.limit_connections is (rate > 0)
    assert budgets.limit_anything is (rate > 0 or address_rate > 0)
    budget = budgets.open("203.0.113.7:1")
    assert (budget.address is not None) is (address_rate > 0)
    assert (budget.charge(1000) > 0) is (rate > 0)


def test_debt_of_an_address_is_bounded() -> None:
    budget = Budgets(20, 40, 100, ()).open("203.0.113.7:1")
    budget.charge_address(1e9)
    assert budget.address is not None
    assert budget.address.wait(time.monotonic()) <= 2


def test_handshakes_of_an_address_wait_then_fail() -> None:
    budgets = Budgets(20, 40, 10, [parse_network("10.0.0.0/8")])
    waits = [budgets.charge_handshake(f"203.0.113.7:{port}") for port in range(60)]
    assert waits[:20] == [0] * 20
    assert waits[20:39] == pytest.approx([(number + 1) / 10 for number in range(19)], abs=0.05)
    assert set(waits[41:]) == {math.inf}
    for address in ("203.0.113.8:1", "10.0.0.1:1", "unix"):
        assert budgets.charge_handshake(address) == 0
    # Only messages charge the budget of the address.
    budget = budgets.open("203.0.113.7:1").address
    assert budget is not None
    assert budget.level(time.monotonic()) == pytest.approx(19, abs=0.5)


def test_handshakes_without_an_address_rate_are_free() -> None:
    assert Budgets(20, 40, 0, ()).charge_handshake("203.0.113.7:1") == 0


@pytest.mark.parametrize("used", [False, True])
def test_number_of_address_budgets_is_bounded(monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    monkeypatch.setattr(address_buckets, "MAX_ADDRESSES", 100)
    budgets = Budgets(20, 40, 100, ())
    for number in range(1000):
        budgets.charge_handshake(f"203.0.{number >> 8}.{number & 255}:1")
        budget = budgets.open(f"203.0.{number >> 8}.{number & 255}:1")
        if used:
            budget.charge(100)
        assert max(len(budgets._addresses), len(budgets._handshakes)) <= 100


def address_of(number: int) -> str:
    return f"203.0.{number >> 8}.{number & 255}:1"


@pytest.mark.parametrize("debt", [20.0, 250.0])
def test_full_bucket_is_forgotten_before_one_in_use(
    monkeypatch: pytest.MonkeyPatch, debt: float
) -> None:
    monkeypatch.setattr(address_buckets, "MAX_ADDRESSES", 100)
    buckets = AddressBuckets(100, ())
    in_use = [buckets.find(address_of(number), 0.0) for number in range(40)]
    for bucket in in_use:
        assert bucket is not None
        bucket.take(0.0, debt)
    for number in range(40, 101):
        buckets.find(address_of(number), 0.0)
    assert [buckets.find(address_of(number), 0.0) for number in range(40)] == in_use
    assert len(buckets) == 41


def test_oldest_half_is_forgotten_if_all_buckets_are_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_buckets, "MAX_ADDRESSES", 100)
    buckets = AddressBuckets(100, ())
    for number in range(101):
        bucket = buckets.find(address_of(number), 0.0)
        assert bucket is not None
        bucket.take(0.0, 300)
    assert len(buckets) == 51
    for number in range(50, 100):
        bucket = buckets.find(address_of(number), 0.0)
        assert bucket is not None
        assert bucket.level(0.0) == -100, f"the debt of address {number} is forgotten"
    assert len(buckets) == 51


# The queue.


class FakeLoop:
    """Timers and a clock that a test controls; `call_later` is that of a loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.queue = WorkQueue(lambda seconds, call: self.timers.append((seconds, call)))
        self.log: list[str] = []

    def submit(self, name: str, peer: Peer, address: TokenBucket | None = None) -> None:
        def job() -> None:
            self.log.append(name)
            self.queue.done()

        self.queue.submit(peer, address, job)

    def monotonic(self) -> float:
        return self.now

    def iterate(self) -> None:
        self.queue.end_iteration()
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    """Return a loop whose clock is that of the queue."""
    fake = FakeLoop()
    monkeypatch.setattr(work_queue, "time", fake)
    return fake


def test_queue_starts_a_request_at_once_if_it_is_idle(loop: FakeLoop) -> None:
    loop.submit("a", bare_peer())
    assert (loop.log, loop.timers) == (["a"], [])


def test_queue_alternates_addresses_and_peers_in_order(
    loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "STEP", -1.0)
    one, two = (TokenBucket(1, 1, loop.now) for _ in range(2))
    ann, ben, cem = bare_peer(), bare_peer(), bare_peer()
    for name, peer, address in (
        ("ann 1", ann, one),
        ("ann 2", ann, one),
        ("ben 1", ben, one),
        ("cem 1", cem, two),
        ("cem 2", cem, two),
        ("cem 3", cem, two),
    ):
        loop.submit(name, peer, address)
    assert loop.log == []
    monkeypatch.setattr(work_queue, "STEP", PATIENCE)
    loop.iterate()
    assert loop.log == ["ann 1", "cem 1", "ben 1", "cem 2", "ann 2", "cem 3"]


def test_queue_waits_while_the_address_is_in_debt(loop: FakeLoop) -> None:
    poor, rich = TokenBucket(20, 1, loop.now, level=-1), TokenBucket(20, 1, loop.now)
    loop.submit("poor", bare_peer(), poor)
    loop.submit("rich", bare_peer(), rich)
    assert loop.log == ["rich"]
    [(seconds, _)] = loop.timers
    assert seconds == pytest.approx(0.05)
    loop.now += 0.06
    loop.iterate()
    assert loop.log == ["rich", "poor"]


def test_queue_forgets_the_requests_of_closed_peers(loop: FakeLoop) -> None:
    poor = TokenBucket(20, 1, loop.now, level=-1)
    peer = bare_peer()
    loop.submit("x", peer, poor)
    loop.queue.discard(peer, poor)
    assert loop.queue._in_debt == {}
    loop.now += 0.06
    loop.iterate()
    assert loop.log == []


def test_queue_bounds_the_requests_that_wait_for_the_store(loop: FakeLoop) -> None:
    started: list[None] = []
    for _ in range(10):
        loop.queue.submit(bare_peer(), None, partial(started.append, None))
    assert len(started) == work_queue.MAX_IN_PROGRESS
    loop.queue.done()
    loop.iterate()
    assert len(started) == work_queue.MAX_IN_PROGRESS + 1


# The server.


@contextmanager
def counted_pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """List the number of pages of history that each iteration serves."""
    pages = [0]
    send_page = HistoryReader.send_page
    end_iteration = WorkQueue.end_iteration

    def count(self: HistoryReader, peer: Peer, request: History, *rest: Any) -> None:
        pages[-1] += 1
        send_page(self, peer, request, *rest)

    def end(self: WorkQueue) -> None:
        pages.append(0)
        end_iteration(self)

    with monkeypatch.context() as patched:
        patched.setattr(HistoryReader, "send_page", count)
        patched.setattr(WorkQueue, "end_iteration", end)
        yield pages


@pytest.mark.parametrize("compression", [None, DeflateParameters.DEFAULT])
def test_history_requests_are_spread_over_iterations(
    monkeypatch: pytest.MonkeyPatch, compression: DeflateParameters | None
) -> None:
    monkeypatch.setattr(work_queue, "STEP", 1e-6)
    store = open_store()
    store.append([NewMessage("lobby", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    with counted_pages(monkeypatch) as pages, serve_chat(store) as chat, ExitStack() as stack:
        url = f"ws://127.0.0.1:{chat.address[1]}/"
        clients = []
        for number in range(4):
            client = stack.enter_context(
                connect(url, subprotocols=("chat.v1",), compression=compression)
            )
            client.send(json.dumps({"type": "join", "room": "lobby", "name": f"n{number}"}))
            clients.append(client)
        for client in clients:
            for _ in range(39):
                client.send('{"type":"history","room":"lobby"}')
        for client in clients:
            kinds = [json.loads(client.recv(PATIENCE))["type"] for _ in range(40)]
            assert "history" in kinds
    assert sum(pages) == 4 * 39
    assert max(pages) == 1


def test_bursts_of_messages_are_spread_over_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "READING_STEP", -1.0)
    counts = [0]
    on_message, end_iteration = Intake.on_message, WorkQueue.end_iteration

    def count(self: Intake, peer: Peer, message: str | bytes) -> None:
        counts[-1] += 1
        on_message(self, peer, message)

    def end(self: WorkQueue) -> None:
        counts.append(0)
        end_iteration(self)

    monkeypatch.setattr(Intake, "on_message", count)
    monkeypatch.setattr(WorkQueue, "end_iteration", end)
    with serve_chat(rate=20.0, burst=40.0) as chat, Client(chat.address, "/r/x") as ann:
        frames = b"".join(masked_frame(b"x") for _ in range(30))
        ann.sock.sendall(frames)
        poll(lambda: sum(counts) == 30, "the server has processed all messages")
    assert max(counts) <= 2  # one when the peer is read, one at the end of its pause


def test_history_is_charged_by_messages_and_bytes() -> None:
    store = open_store()
    store.append([NewMessage("lobby", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    with serve_chat(store, rate=100.0, burst=100.0) as chat, ChatClient(chat.address) as ann:
        start = time.monotonic()  # before the budget begins to recover
        ann.send(type="join", room="lobby", name="Ann")
        for _ in range(5):
            ann.send(type="history", room="lobby")
        ann.send(type="ping", t=1)
        while ann.receive() != {"type": "pong", "t": 1}:
            pass
        # A join and 5 pages cost 20 each; the first 100 are free.
        assert 0.1 < time.monotonic() - start < 2


def test_reconnecting_client_waits_for_the_budget_of_its_address() -> None:
    store = open_store()
    store.append([NewMessage("lobby", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    with serve_chat(store, rate=20.0, burst=40.0) as chat:
        start = time.monotonic()
        for number in range(13):  # a cost of 20 each; the address has 200 at once
            with ChatClient(chat.address) as ann:
                ann.join("lobby", f"n{number}", after=0)
        assert time.monotonic() - start > 0.3


def test_cheap_messages_pass_while_their_address_is_in_debt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_buckets, "MAX_WAIT", 0.3)
    store = open_store()
    store.append([NewMessage("lobby", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    with (
        serve_chat(store, rate=1000.0, burst=40.0, address_rate=1.0) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.send(type="ping", t=0)
        assert ann.receive() == {"type": "pong", "t": 0}  # a budget from before the debt
        ben.send(type="join", room="lobby", name="Ben")
        ben.send(type="history", room="lobby")
        poll(lambda: ben.receive_type("joined"), "joined")
        start = time.monotonic()
        for number in range(10):
            ann.send(type="ping", t=number)
            assert ann.receive() == {"type": "pong", "t": number}
        assert time.monotonic() - start < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "[" + "0.1," * 12_000 + "1]",
        "[" + ",".join(["9" * 4000] * 12) + "]",
        json.dumps({"type": "say", "room": "lobby", "text": "x" * 40_000}),
    ],
    ids=["floats", "large integers", "too long"],
)
def test_large_json_waits_while_its_address_is_in_debt(text: str) -> None:
    with serve_chat(rate=1000.0, burst=1000.0, address_rate=50.0) as chat:
        start = time.monotonic()
        # 24 each; the address has 100 at once, and 50 a second.
        for _ in range(6):
            with ChatClient(chat.address) as ann:
                ann.client.send(text)
                assert ann.receive_type("error")["code"] in ("bad_message", "too_long")
        assert time.monotonic() - start > 0.3


def test_say_to_a_large_room_is_charged_to_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "CHEAP_MEMBERS", 2)
    with (
        serve_chat(rate=1000.0, burst=1000.0, address_rate=20.0) as chat,
        ChatClient(chat.address) as ann,
        ExitStack() as stack,
    ):
        for number in range(4):
            stack.enter_context(ChatClient(chat.address)).join("lobby", f"n{number}")
        ann.join("lobby", "Ann")
        start = time.monotonic()
        for number in range(13):  # 1 for the message and 2.5 for 5 members
            ann.say("lobby", str(number))
        assert time.monotonic() - start > 0.3


def test_budget_is_in_debt_until_its_address_has_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = costs.Budget(None, TokenBucket(2.0, 10.0, now))
    assert not budget.is_in_debt()
    budget.charge_address(14.0)
    assert budget.is_in_debt()
    now = 2.0
    assert not budget.is_in_debt()
    assert not costs.Budget(None, None).is_in_debt()


def test_forwarded_addresses_have_their_own_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_buckets, "MAX_WAIT", 0.6)
    store = open_store()
    store.append([NewMessage("lobby", "Ben", "x" * 3000, None)] * 70, lambda _: None)
    trusted = [parse_network("127.0.0.0/8")]
    with serve_chat(
        store, rate=1000.0, burst=40.0, address_rate=4.0, trusted_proxies=trusted
    ) as chat:

        def join(client: str) -> float:
            start = time.monotonic()
            with open_client(
                chat.address, subprotocols=("chat.v1",), headers=[("X-Forwarded-For", client)]
            ) as ann:
                ann.send('{"type":"join","room":"lobby","name":"Ann","after":0}')
                while json.loads(ann.recv(PATIENCE))["type"] != "joined":
                    pass
                ann.send('{"type":"leave","room":"lobby"}')
            return time.monotonic() - start

        first = [join(f"203.0.113.{number}") for number in range(5)]
        assert max(first) < 1
        assert join("203.0.113.0") > 0.5


def test_request_of_a_closed_peer_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_buckets, "MAX_WAIT", 0.3)
    with (
        counted_pages(monkeypatch) as pages,
        serve_chat(rate=1000.0, burst=1000.0, address_rate=1.0) as chat,
        ChatClient(chat.address) as ann,
    ):
        ann.join("lobby", "Ann")
        for _ in range(5):
            ann.send(type="history", room="lobby")
        assert ann.receive_type("history")
        [peer] = chat.server.peers
        chat.server.call_soon_threadsafe(peer.abort)
        poll(lambda: not chat.server.peers, "the server has closed the peer")
        served = sum(pages)
        time.sleep(0.4)  # the longest debt of an address
        assert sum(pages) == served < 5


def test_exception_in_a_queued_request_closes_only_its_peer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with (
        serve_chat() as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("lobby", "Ann")
        with monkeypatch.context() as patched:
            patched.setattr(HistoryReader, "send_page", fail)
            ann.send(type="history", room="lobby")
            assert ann.receive_close()[0] == 1011
        ben.join("lobby", "Ben")
        ben.send(type="history", room="lobby")
        ben.receive_type("history")
    assert "ZeroDivisionError" in caplog.text


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def test_page_requests_over_the_rate_wait_or_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_buckets, "MAX_WAIT", 0.3)
    answers: list[bytes] = []
    with serve_chat(rate=20.0, burst=40.0, address_rate=20.0) as chat, ExitStack() as stack:
        start = time.monotonic()
        # 40 at once, 20 a second and at most 6 that wait.
        sockets = [stack.enter_context(tcp_connect(chat.address)) for _ in range(100)]
        for sock in sockets:
            with suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(HEALTH + b"\r\n")
        for sock in sockets:
            try:
                answers.append(read_to_end(sock))
            except ConnectionResetError:
                answers.append(b"")
        elapsed = time.monotonic() - start  # the server may accept the last connection late
        served = sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
        assert 40 <= served <= 40 + 6 + 20 * elapsed + 1
        assert answers.count(b"") == 100 - served > 0
        time.sleep(0.1)
        metrics = exchange(chat.address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        label = b'chatd_refused_total{status="none",reason="rate_per_address"} %d\n'
        assert label % (100 - served) in metrics


def test_forwarded_requests_over_the_rate_get_503() -> None:
    trusted = [parse_network("127.0.0.0/8")]
    request = HEALTH + b"X-Forwarded-For: 203.0.113.7\r\n\r\n"
    with serve_chat(rate=20.0, burst=40.0, address_rate=2.0, trusted_proxies=trusted) as chat:
        answers = [exchange(chat.address, request) for _ in range(20)]
        other = exchange(chat.address, request.replace(b"113.7", b"113.8"))
    assert answers[0].startswith(b"HTTP/1.1 200 ")
    assert answers[-1].startswith(b"HTTP/1.1 503 ")
    assert b"too many connections from one address in a short time" in answers[-1]
    assert other.startswith(b"HTTP/1.1 200 ")


def test_burst_of_connections_is_read_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REQUESTS_PER_ITERATION", 2)
    pauses: list[float] = []

    class AcceptedPeer:
        address = "203.0.113.7:1"
        pause_reading = pauses.append

    store = open_store()
    for rate, expected in ((20.0, [0.0005, 0.001]), (0.0, [])):
        pauses.clear()
        chat = app.Chat(store, rate=rate)
        for _ in range(5):
            chat._on_accept(cast(Peer, AcceptedPeer()))
        assert pauses == expected
        chat._on_before_flush()
        chat._on_accept(cast(Peer, AcceptedPeer()))
        assert pauses == expected
    store.close()


def test_rooms_in_total_are_limited_in_both_modes() -> None:
    with serve_chat(max_rooms=3) as chat, ChatClient(chat.address) as ann:
        for number in range(3):
            ann.join(f"room-{number}", "Ann")
        error = ann.error_for(type="join", room="room-3", name="Ann")
        assert (error["code"], error["room"]) == ("too_many_rooms", "room-3")
        with pytest.raises(HandshakeError) as caught:
            open_client(chat.address, "/r/room-3")
        assert caught.value.status == 503
        with open_client(chat.address, "/r/room-2"):
            ann.send(type="leave", room="room-0")
            ann.join("room-3", "Ann")


def test_expiry_of_reservations_is_spread_over_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rooms, registry):
        monkeypatch.setattr(module, "RESERVED_FOR", 0.05)
    monkeypatch.setattr(registry, "EXPIRY_STEP", -1.0)
    visits = [0]
    expire, end_iteration = Room.expire_reservations, WorkQueue.end_iteration

    def count(self: Room, now: float) -> int:
        visits[-1] += 1
        return expire(self, now)

    def end(self: WorkQueue) -> None:
        visits.append(0)
        end_iteration(self)

    monkeypatch.setattr(Room, "expire_reservations", count)
    monkeypatch.setattr(WorkQueue, "end_iteration", end)
    with serve_chat(max_rooms=5) as chat, ChatClient(chat.address) as ben:
        with ChatClient(chat.address) as ann:
            for number in range(5):
                ann.join(f"room-{number}", "Ann")
        poll(lambda: sum(visits) >= 5, "all rooms were visited")
        ben.join("another", "Ben")  # there is a place again
    assert max(visits) == 1


@contextmanager
def counted_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Iterator[list[int]]:
    """List the number of calls of a method in each iteration."""
    counts = [0]
    method, end_iteration = getattr(owner, name), WorkQueue.end_iteration

    def count(*arguments: Any, **options: Any) -> Any:
        counts[-1] += 1
        return method(*arguments, **options)

    def end(self: WorkQueue) -> None:
        counts.append(0)
        end_iteration(self)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, count)
        patched.setattr(WorkQueue, "end_iteration", end)
        yield counts


def test_closing_burst_is_spread_and_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LEAVING_STEP", -1.0)
    rooms_of_all = [f"room-{number}" for number in range(4)]
    with serve_chat() as chat, ExitStack() as stack:
        for number in range(6):
            client = stack.enter_context(ChatClient(chat.address))
            for room in rooms_of_all:
                client.join(room, f"n{number}")
        burst = list(chat.server.peers)
        reader = stack.enter_context(ChatClient(chat.address))
        for room in rooms_of_all:
            reader.join(room, "reader")
        reader.receive_pending()
        with counted_calls(monkeypatch, RoomRegistry, "_leave_now") as leaves:

            def abort_all() -> None:
                for peer in burst:
                    peer.abort()

            chat.ask(abort_all)
            presence = [reader.receive_type("presence") for _ in rooms_of_all]
        assert (sum(leaves), max(leaves)) == (6, 1)
        assert [each["room"] for each in presence] == rooms_of_all
        for each in presence:
            assert (sorted(each["left"]), each["count"]) == ([f"n{n}" for n in range(6)], 1)
        assert reader.receive_pending() == []


def test_join_after_the_last_peer_has_closed_is_in_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve_chat() as chat, ExitStack() as stack:
        plain = stack.enter_context(open_client(chat.address, "/r/solo"))
        plain.send("My name is guest-1.")
        [peer] = chat.server.peers
        poll(lambda: peer.user_data.member, "the peer is a member")
        with monkeypatch.context() as patched:
            patched.setattr(RoomRegistry, "end_iteration", lambda registry: None)  # nobody leaves
            chat.ask(peer.abort)
            ann = stack.enter_context(ChatClient(chat.address))
            ann.join("solo", "guest-1")
        ben = stack.enter_context(ChatClient(chat.address))
        assert ben.join("solo", "Ben")["members"] == ["guest-1", "Ben"]
        ben.say("solo", "Hello")
        assert ann.receive_type("message")["text"] == "Hello"


def test_presence_of_many_rooms_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "PRESENCE_RECEIVERS", 1)
    with (
        serve_chat() as chat,
        ChatClient(chat.address) as reader,
        ChatClient(chat.address) as ann,
    ):
        for number in range(5):
            ann.join(f"room-{number}", "Ann")
            reader.join(f"room-{number}", "reader")
        reader.receive_pending()
        with counted_calls(monkeypatch, Room, "take_changes") as announced:
            [peer] = (each for each in chat.server.peers if "Ann" in names_of(each))
            chat.ask(peer.abort)
            for number in range(5):
                assert reader.receive_type("presence")["room"] == f"room-{number}"
        assert (sum(announced), max(announced)) == (5, 1)


def names_of(peer: Peer) -> set[str]:
    """Return the names of a peer in chat mode."""
    return {member.name for member in peer.user_data.members.values()}


@pytest.mark.parametrize("plain", [False, True])
def test_name_of_a_closed_connection_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    invitations = Invitations(tmp_path)
    token = invitations.issue("Ann", [], 7, time.time())
    bearer = [("Authorization", f"Bearer {token}")]
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as reader:
        reader.join("lobby", "x", token=invitations.issue("Ben", [], 7, time.time()))
        with ChatClient(chat.address) as ann:
            ann.join("lobby", "x", token=token)
            # Closed connections stay in their rooms from here on.
            monkeypatch.setattr(RoomRegistry, "end_iteration", lambda self: None)
            [peer] = (each for each in chat.server.peers if "Ann" in names_of(each))
            chat.ask(peer.abort)
        if plain:
            with open_client(chat.address, "/r/lobby", headers=bearer) as again:
                again.send("from Ann")
                assert reader.receive_type("message")["name"] == "Ann"
        else:
            with ChatClient(chat.address) as again_in_chat:
                assert again_in_chat.join("lobby", "x", token=token)["name"] == "Ann"
