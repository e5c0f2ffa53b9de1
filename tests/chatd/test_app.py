"""The chat with a store that fails, with a slow store, and with large responses."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from chatd import store_monitor
from chatd.app import Chat
from chatd.history import MAX_RESPONSE_TEXT
from chatd.storage import retention
from chatd.storage.store import (
    AppendCallback,
    NewMessage,
    Page,
    ReadCallback,
    StoreError,
)
from tests.chat import (
    ChatClient,
    ServerMessage,
    StoreWithoutFiles,
    open_client,
    open_store,
    serve_chat,
)
from tests.support import PATIENCE, RunningServer, poll, serving
from wsproto_min import ConnectionClosed, Server


class FailingStore(StoreWithoutFiles):
    """A store in memory that fails while `fails` is True."""

    def __init__(self) -> None:
        self.store = open_store()
        self.fails = False
        self.retention_runs = 0

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        if self.fails:
            callback(StoreError("append failed: the disk is full"))
        else:
            self.store.append(messages, callback)

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        if self.fails:
            callback(StoreError("read failed: the disk is broken"))
        else:
            self.store.read_after(room, after, limit, callback)

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        if self.fails:
            callback(StoreError("read failed: the disk is broken"))
        else:
            self.store.read_before(room, before, limit, callback)

    def apply_retention(self) -> bool:
        self.retention_runs += 1
        if self.fails:
            raise StoreError("retention failed: the disk is full")
        return self.store.apply_retention()

    def close(self) -> None:
        self.store.close()


def test_message_rejected_by_the_store_reaches_no_peer(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        open_client(chat.address) as plain,
        open_client(chat.address) as plain_listener,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.say("lobby", "before")
        assert plain.recv(PATIENCE) == plain_listener.recv(PATIENCE) == "before"
        store.fails = True
        for key in ("k1", "k2"):
            error = ann.error_for(type="say", room="lobby", text="lost", key=key)
            assert (error["code"], error["key"], error["room"]) == ("log_failed", key, "lobby")
        assert ann.error_for(type="say", room="lobby", text="lost").get("key") is None
        plain.send("lost")
        with pytest.raises(ConnectionClosed) as closed:
            plain.recv(PATIENCE)
        assert closed.value.code == 1011
        assert closed.value.reason == "the message could not be stored"
        store.fails = False
        again = ann.say("lobby", "after", "k1")
        assert plain_listener.recv(PATIENCE) == "after"
        assert [message["text"] for message in ben.messages()] == ["before", "after"]
        stored = ben.join("lobby", "Ben")["messages"]
        assert [message["text"] for message in stored] == ["before", "after"]
        assert stored[-1]["id"] == again["id"]
    assert {record.getMessage() for record in caplog.records} == {"append failed: the disk is full"}


def test_join_fails_while_the_store_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("lobby", "Ann")
        store.fails = True
        for after in (None, 0):
            error = ben.error_for(type="join", room="lobby", name="Ben", after=after)
            assert (error["code"], error["room"]) == ("log_failed", "lobby")
        assert ben.error_for(type="say", room="lobby", text="x")["code"] == "not_joined"
        error = ann.error_for(type="history", room="lobby")
        assert (error["code"], error["room"]) == ("log_failed", "lobby")
        # A member that joins again and fails is no member any more.
        assert ann.error_for(type="join", room="lobby", name="Ann")["code"] == "log_failed"
        store.fails = False
        assert ben.join("lobby", "Ben")["members"] == ["Ben"]
        ben.say("lobby", "I am in")
        assert ann.messages() == []
        assert ann.join("lobby", "Ann")["members"] == ["Ben", "Ann"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_failed_join_with_session_keeps_the_name_reserved() -> None:
    store = FailingStore()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        with ChatClient(chat.address) as lost:
            session = lost.join("lobby", "Ann")["session"]
        join = {"type": "join", "room": "lobby", "name": "Ann"}
        store.fails = True
        assert ann.error_for(**join, session=session)["code"] == "log_failed"
        store.fails = False
        assert ben.error_for(**join)["code"] == "name_taken"
        assert ann.join("lobby", "Ann", session=session)["session"] == session


def test_retention_continues_after_unexpected_exception(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_monitor, "RETENTION_INTERVAL", 0.01)
    store = FailingStore()
    apply_retention = store.apply_retention

    def fail_once() -> bool:
        if not store.retention_runs:
            store.retention_runs += 1
            raise RuntimeError("a bug of the engine")
        return apply_retention()

    monkeypatch.setattr(store, "apply_retention", fail_once)
    with serve_chat(store):
        poll(lambda: store.retention_runs >= 3, "three runs of retention")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_exception_of_the_store_rejects_messages_and_joins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug of the engine")

    store = FailingStore()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("lobby", "Ann")
        with monkeypatch.context() as patch:
            for method in ("append", "read_before"):
                patch.setattr(store, method, fail)
            error = ann.error_for(type="say", room="lobby", text="lost", key="k1")
            assert (error["code"], error["key"]) == ("log_failed", "k1")
            error = ben.error_for(type="join", room="lobby", name="Ben")
            assert (error["code"], error["room"]) == ("log_failed", "lobby")
        ann.say("lobby", "stored")
        assert ben.join("lobby", "Ben")["messages"][0]["text"] == "stored"
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_retention_continues_after_failures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_monitor, "RETENTION_INTERVAL", 0.01)
    store = FailingStore()
    store.fails = True
    with serve_chat(store) as chat:
        poll(lambda: store.retention_runs >= 3, "three runs of retention")
        store.fails = False
        poll(lambda: store.retention_runs >= 6, "six runs of retention")
        chat.wait_for_peers(0)
    assert {record.getMessage() for record in caplog.records} == {
        "retention failed: the disk is full"
    }


def test_retention_at_start_deletes_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DELETE_LIMIT", 3)
    store = open_store(keep_messages=2)
    store.append(
        [NewMessage("tea", "Ann", str(number), None) for number in range(30)], lambda _: None
    )
    with serve_chat(store) as chat, ChatClient(chat.address) as ben:

        def remaining() -> list[str]:
            return [message["text"] for message in ben.join("tea", "Ben")["messages"]]

        counts: list[int] = []

        def two_remain() -> bool:
            counts.append(len(remaining()))
            return counts[-1] == 2

        poll(two_remain, "two messages remain")
        assert counts == sorted(counts, reverse=True)
        assert remaining() == ["28", "29"]


def test_full_disk_rejects_messages_until_space_is_free(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    with (
        serve_chat(store) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        execute = store._database.execute
        (pages,) = chat.ask(lambda: execute("PRAGMA page_count").fetchone())
        chat.ask(lambda: execute(f"PRAGMA max_page_count = {pages + 2}"))
        accepted: list[str] = []
        rejected: list[str] = []
        for number in range(10):
            key = f"k{number}"
            ann.send(type="say", room="lobby", text="x" * 4000, key=key)
            reply = ann.receive()
            while reply["type"] == "presence":
                reply = ann.receive()
            (accepted if reply["type"] == "message" else rejected).append(key)
        assert accepted, "the first messages fit"
        assert len(rejected) > 5, "the disk was not full"
        chat.ask(lambda: execute("PRAGMA max_page_count = 100000"))
        for key in rejected:
            ann.say("lobby", "x" * 4000, key)
        assert len(ben.messages()) == 10
    assert "full" in caplog.text


# A store that calls back later.


class SlowStore(StoreWithoutFiles):
    """A store that calls back after a random delay of up to `max_delay` seconds.

    An append takes effect at the end of its delay, a read at the beginning. `overlaps`
    counts the appends that began before the previous one had ended.
    """

    def __init__(self, random: random.Random) -> None:
        self.store = open_store()
        self.random = random
        self.server: Server | None = None
        self.max_delay = 0.02
        self.appending = 0
        self.overlaps = 0

    def _call_later(self, callback: Callable[[], None]) -> None:
        assert self.server is not None
        delay = self.random.uniform(0, self.max_delay)
        timer = threading.Timer(delay, self.server.call_soon_threadsafe, [callback])
        timer.daemon = True
        timer.start()

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        self.appending += 1
        self.overlaps += self.appending > 1

        def finish() -> None:
            self.appending -= 1
            self.store.append(messages, callback)

        self._call_later(finish)

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        results: list[Page | StoreError] = []
        self.store.read_after(room, after, limit, results.append)
        self._call_later(lambda: callback(results[0]))

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        results: list[Page | StoreError] = []
        self.store.read_before(room, before, limit, results.append)
        self._call_later(lambda: callback(results[0]))

    def apply_retention(self) -> bool:
        return False

    def close(self) -> None:
        self.store.close()


@contextmanager
def serve_slow_chat(seed: int) -> Iterator[tuple[RunningServer, SlowStore]]:
    store = SlowStore(random.Random(seed))
    chat = Chat(store, rate=0.0)
    store.server = chat.server
    with serving(server=chat.server) as running:
        yield running, store
    store.close()


class Listener:
    """Records one client's messages; fails if an id is missing, repeated or out of order."""

    def __init__(self, client: ChatClient, name: str) -> None:
        self.client = client
        self.name = name
        self.seen: list[int] = []
        self.joined = 0
        self.acknowledged: set[str] = set()

    def handle(self, message: ServerMessage) -> None:
        if message["type"] == "joined":
            assert not message["gap"]
            self.joined += 1
            for each in message["messages"]:
                self.see(each)
        elif message["type"] == "message":
            self.see(message)
            if "key" in message:
                self.acknowledged.add(message["key"])
        else:
            assert message["type"] == "presence", message

    def see(self, message: ServerMessage) -> None:
        last = self.seen[-1] if self.seen else 0
        assert message["id"] > last, f"{self.name} received {message} after id {last}"
        self.seen.append(message["id"])

    def listen_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.handle(self.client.receive())


@pytest.mark.parametrize("seed", range(5))
def test_slow_store_delivers_each_message_once_in_one_order(seed: int) -> None:
    chance = random.Random(seed)
    with serve_slow_chat(seed) as (chat, store), ExitStack() as stack:

        def enter(number: int) -> Listener:
            client = stack.enter_context(ChatClient(chat.address))
            listener = Listener(client, f"n{number}")
            client.send(type="join", room="lobby", name=listener.name, after=0)
            return listener

        def has_joined(listener: Listener) -> Callable[[], bool]:
            return lambda: listener.joined == 1

        def has_seen_all(listener: Listener) -> Callable[[], bool]:
            return lambda: len(listener.seen) == len(sent)

        listeners = [enter(0)]
        listeners[0].listen_until(has_joined(listeners[0]))
        sent: list[str] = []
        for step in range(60):
            if chance.random() < 0.2:
                listeners.append(enter(len(listeners)))
            speaker = chance.choice([each for each in listeners if each.joined] or listeners[:1])
            sent.append(f"key {step}")
            speaker.client.send(type="say", room="lobby", text=str(step), key=sent[-1])
            if chance.random() < 0.3:
                other = chance.choice(listeners)
                if not other.joined:
                    other.listen_until(has_joined(other))
        for listener in listeners:
            listener.listen_until(has_seen_all(listener))
        order = listeners[0].seen
        for listener in listeners:
            assert listener.seen == order, f"{listener.name} received another order"
            assert {each["type"] for each in listener.client.receive_pending()} <= {"presence"}
        assert set().union(*(each.acknowledged for each in listeners)) == set(sent)
        assert store.overlaps == 0, "a batch was appended before the previous one was stored"


def test_slow_store_lets_clients_join_while_others_send() -> None:
    with (
        serve_slow_chat(1) as (chat, store),
        ChatClient(chat.address) as speaker,
        ExitStack() as stack,
    ):
        speaker.join("lobby", "speaker")
        ended = threading.Event()

        def talk() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                speaker.send(type="say", room="lobby", text=str(number), key=str(number))
                while speaker.receive().get("key") != str(number):
                    pass

        plain_clients = [stack.enter_context(open_client(chat.address)) for _ in range(3)]

        def flood() -> None:
            while not ended.is_set():
                for client in plain_clients:
                    client.send("more")
                time.sleep(0.0005)

        threads = [threading.Thread(target=each, daemon=True) for each in (talk, flood)]
        for thread in threads:
            thread.start()
        try:
            for number in range(3):
                newcomer = stack.enter_context(ChatClient(chat.address))
                assert newcomer.join("lobby", f"newcomer {number}")["type"] == "joined"
        finally:
            ended.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert store.overlaps == 0


def test_slow_store_answers_waiting_joins_then_stores_messages() -> None:
    with serve_slow_chat(2) as (chat, store), ExitStack() as stack:
        speaker = stack.enter_context(ChatClient(chat.address))
        speaker.join("lobby", "speaker")
        others = [stack.enter_context(ChatClient(chat.address)) for _ in range(5)]
        store.max_delay = 0.1
        for number, other in enumerate(others):
            speaker.send(type="say", room="lobby", text=str(number), key=str(number))
            other.send(type="join", room="lobby", name=f"n{number}", after=0)
        for number, other in enumerate(others):
            listener = Listener(other, f"n{number}")
            while not (listener.joined and len(listener.seen) == 5):
                listener.handle(other.receive())


@pytest.mark.parametrize("action", ["leave", "close", "rename"])
def test_peer_that_leaves_before_its_join_completes_stays_out(action: str) -> None:
    with (
        serve_slow_chat(3) as (chat, store),
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        store.max_delay = 0.05
        ann.send(type="join", room="lobby", name="Ann")
        if action == "close":
            ann.client.close()
        elif action == "leave":
            ann.send(type="leave", room="lobby")  # read after `joined`
            assert "joined" in [each["type"] for each in ann.receive_pending()]
        else:
            ann.send(type="join", room="lobby", name="Anna")
            assert [ann.receive_type("joined")["name"] for _ in range(2)] == ["Ann", "Anna"]
        joined = ben.join("lobby", "Ben")
        assert joined["members"] == (["Anna", "Ben"] if action == "rename" else ["Ben"])
        ben.say("lobby", "Is anybody here?")
        if action == "leave":
            assert ann.messages() == []


# Limits of a response.


@pytest.mark.parametrize("character", ["\x01", "x", "\U0001f600", '"'])
def test_response_with_long_messages_is_bounded_and_has_a_gap(character: str) -> None:
    store = open_store()
    name = "\U0001f600" * 32
    store.append([NewMessage("lobby", name, character * 4000, None)] * 400, lambda _: None)
    with serve_chat(store) as chat, ChatClient(chat.address) as ann:
        joined = ann.join("lobby", "Ann", after=0)
        assert joined["gap"]
        assert len(joined["messages"]) >= 5
        assert len(json.dumps(joined, ensure_ascii=False).encode()) < 1.1 * MAX_RESPONSE_TEXT
        first, last = joined["messages"][0]["id"], joined["messages"][-1]["id"]
        assert (last - first + 1, last) == (len(joined["messages"]), 400)
        received = len(joined["messages"])
        while True:
            ann.send(type="history", room="lobby", before=first)
            page = ann.receive_type("history")
            assert len(page["messages"]) <= 200
            received += len(page["messages"])
            if not page["more"]:
                break
            assert page["messages"][-1]["id"] == first - 1
            first = page["messages"][0]["id"]
        assert received == 400


def test_join_after_an_id_reports_a_gap_beyond_1000_messages() -> None:
    store = open_store()
    store.append([NewMessage("lobby", "Ben", str(n), None) for n in range(1, 1102)], lambda _: None)
    with serve_chat(store) as chat, ChatClient(chat.address) as ann:
        for after, count, gap in ((101, 1000, False), (100, 1000, True), (1101, 0, False)):
            joined = ann.join("lobby", "Ann", after=after)
            ids = [message["id"] for message in joined["messages"]]
            assert ids == list(range(1102 - count, 1102)), f"after {after}"
            assert joined["gap"] == gap, f"after {after}"
        assert len(ann.join("lobby", "Ann")["messages"]) == 50
