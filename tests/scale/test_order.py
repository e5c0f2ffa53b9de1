"""The order of a room on all nodes: each test fails with one of the errors of a first design."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from chatd.model import Kind
from chatd.storage.store import NewMessage, StoredMessage
from tests.chat import ChatClient
from tests.scale.engine import Engine
from tests.scale.test_two_nodes import SESSION, wait_for
from tests.support import PATIENCE, RunningServer, poll

AUTHOR = "s12345678901"


def open_store(url: str) -> Any:
    """Return a store that answers at once, because it is not started."""
    from chatd.storage.postgres.store import PostgresStore

    return PostgresStore(url)


def say(text: str, key: str | None = None, room: str = "x", **fields: Any) -> NewMessage:
    return NewMessage(room, fields.pop("name", "Ann"), text, key, AUTHOR, **fields)


def append(store: Any, *messages: NewMessage) -> list[Any]:
    results: list[Any] = []
    store.append(messages, results.append)
    assert isinstance(results[0], list), results[0]
    return list(results[0])


def test_batch_with_a_repeated_key_acknowledges_stored_entries(url: str) -> None:
    store = open_store(url)
    (first,) = append(store, say("one", "k", name="Ann"))
    results = append(store, say("new", "n"), say("other", "k", name="Anna"), say("last", "l"))
    assert [(each.message.id, each.repeated) for each in results] == [
        (2, False),
        (1, True),
        (3, False),
    ]
    assert results[1].message == first.message, "the stored name and text"
    found: list[Any] = []
    store.read_after("x", 0, 10, found.append)
    assert [(each.id, each.text) for each in found[0].messages] == [
        (1, "one"),
        (2, "new"),
        (3, "last"),
    ]
    store.close()


def test_repeated_edit_is_acknowledged_with_its_text(url: str) -> None:
    store = open_store(url)
    append(store, say("one"))
    edit = say("two", "e", kind=Kind.EDIT, ref=1)
    (stored,) = append(store, edit)
    (again,) = append(store, edit)
    assert again == StoredMessage(stored.message, repeated=True)
    store.close()


@pytest.mark.parametrize("kind", [Kind.MESSAGE, Kind.TOPIC])
def test_batches_with_rooms_in_any_order_never_deadlock(
    server: Engine, url: str, kind: Kind
) -> None:
    """Both batches must lock room "a" first; otherwise each gets a room that the other needs."""
    import psycopg

    stores = [open_store(url) for _ in range(2)]
    append(stores[0], *(say("first", None, room) for room in "amz"))
    threads = [
        threading.Thread(
            target=append, args=(store, *(say("t", None, room, kind=kind) for room in rooms))
        )
        for store, rooms in zip(stores, ("amz", "zma"), strict=True)
    ]
    with psycopg.connect(url) as holder:
        holder.execute("SELECT 1 FROM chatd.rooms WHERE room = 'm' FOR UPDATE")
        for thread in threads:
            thread.start()
        poll(
            lambda: (
                server.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE wait_event_type = 'Lock' AND datname = %s",
                    url.rpartition("/")[2],
                )
                == [(2,)]
            ),
            "both batches wait",
        )
    for thread in threads:
        thread.join(6 * PATIENCE)
        assert not thread.is_alive()
    time.sleep(1.0)  # the engine reports its statistics once a second
    for store in stores:
        store.close()
    name = url.rpartition("/")[2]
    rows = server.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = %s", name)
    assert rows == [(0,)]
    counts = server.execute("SELECT min(last), max(last) FROM chatd.rooms", database=name)
    assert counts == [(3, 3)]


def test_lost_notification_leaves_no_hole(
    nodes: list[RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatd.cluster import Cluster

    receive = Cluster.on_entries

    def lose_one(self: Cluster, room: str, last: int, entries: Any) -> None:
        if last != 2:
            receive(self, room, last, entries)

    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        monkeypatch.setattr(Cluster, "on_entries", lose_one)
        for text in ("one", "two", "three"):
            ann.say("tea", text)
        assert [wait_for(ben, "message")["text"] for _ in range(3)] == ["one", "two", "three"]


def test_own_message_waits_for_earlier_ones_of_other_nodes(
    nodes: list[RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatd.cluster import Cluster

    with (
        ChatClient(nodes[0].address) as ann,
        ChatClient(nodes[1].address) as ben,
        ChatClient(nodes[1].address) as cem,
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        cem.join("tea", "Cem")
        monkeypatch.setattr(Cluster, "on_entries", lambda *_: None)
        ann.say("tea", "first")
        ben.send(type="say", room="tea", text="second", key="k")
        for client in (ben, cem):
            assert [wait_for(client, "message")["text"] for _ in range(2)] == ["first", "second"]


def test_join_waits_for_what_the_client_has_seen_elsewhere(
    nodes: list[RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has not heard of the last entries yet, so they must not come after `joined`."""
    from chatd.cluster import Cluster

    with (
        ChatClient(nodes[0].address) as ann,
        ChatClient(nodes[1].address) as ben,
    ):
        ann.join("tea", "Ann", session=SESSION)
        ben.join("tea", "Ben")
        monkeypatch.setattr(Cluster, "on_entries", lambda *_: None)
        monkeypatch.setattr(Cluster, "on_last", lambda *_: None)
        seen = [ann.say("tea", f"text {number}")["id"] for number in range(5)]
        with ChatClient(nodes[1].address) as moved:
            joined = moved.join("tea", "Ann", session=SESSION, after=seen[-1])
            assert (joined["messages"], joined["gap"]) == ([], False)
            monkeypatch.undo()
            ann.say("tea", "later")
            assert wait_for(moved, "message")["text"] == "later"


def test_acknowledgement_never_comes_before_joined(
    nodes: list[RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatd.storage.postgres import reads

    read = reads.with_last

    def read_slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return read(*arguments)

    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        for number in range(3):
            ann.say("tea", f"text {number}")
        monkeypatch.setattr(reads, "with_last", read_slowly)
        ben.send(type="join", room="tea", name="Ben", after=1)
        ben.send(type="say", room="tea", text="hi", key="k")
        kinds = []
        while "message" not in kinds:
            kinds.append(ben.receive()["type"])
        assert kinds.index("joined") < kinds.index("message"), kinds


def test_own_message_read_before_its_answer_comes_once(
    nodes: list[RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node's message makes this node read, while its own append has no answer yet."""
    from chatd.storage.postgres.writer import append as write

    is_written, may_answer = threading.Event(), threading.Event()

    def answer_late(*arguments: Any) -> Any:
        result = write(*arguments)
        is_written.set()
        may_answer.wait(PATIENCE)
        return result

    with (
        ChatClient(nodes[0].address) as ann,
        ChatClient(nodes[1].address) as ben,
        ChatClient(nodes[0].address) as cem,
    ):
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        cem.join("tea", "Cem")
        monkeypatch.setattr("chatd.storage.postgres.store.append", answer_late)
        ann.send(type="say", room="tea", text="own", key="k")
        assert is_written.wait(PATIENCE)
        monkeypatch.undo()
        ben.send(type="say", room="tea", text="foreign")
        for text in ("own", "foreign"):
            assert wait_for(ben, "message")["text"] == text
        time.sleep(0.3)  # the node of Ann reads now
        may_answer.set()
        for client in (ann, cem):
            received = [wait_for(client, "message") for _ in range(2)]
            assert [each["text"] for each in received] == ["own", "foreign"]
        assert [each for each in ann.receive_pending() if each["type"] == "message"] == []
