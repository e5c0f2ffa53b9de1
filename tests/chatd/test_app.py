"""The chat against logs that fail, and against one that answers later."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chatd import app
from chatd.app import Chat
from chatd.storage import retention
from chatd.storage.store import NewMessage, Page, StoredMessage, StoreError
from tests.chat import Talker, Told, chatting, open_client, open_log
from tests.support import PATIENCE, RunningServer, poll, serving
from wsproto_min import ConnectionClosed


class FailingLog:
    """A log that can be told to fail."""

    def __init__(self) -> None:
        self.log = open_log()
        self.fails = False
        self.trims = 0

    def _ask(
        self, ask: Callable[[Callable[[Any], None]], None], done: Callable[[Any], None]
    ) -> None:
        if self.fails:
            done(StoreError("the log failed: the disk is full"))
        else:
            ask(done)

    def append(
        self,
        entries: Sequence[NewMessage],
        done: Callable[[Sequence[StoredMessage] | StoreError], None],
    ) -> None:
        self._ask(lambda done: self.log.append(entries, done), done)

    def read_after(
        self, room: str, seen: int, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        self._ask(lambda done: self.log.read_after(room, seen, limit, done), done)

    def read_before(
        self, room: str, end: int | None, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        self._ask(lambda done: self.log.read_before(room, end, limit, done), done)

    def apply_retention(self) -> bool:
        self.trims += 1
        if self.fails:
            raise StoreError("the log cannot be trimmed: the disk is full")
        return self.log.apply_retention()

    def close(self) -> None:
        self.log.close()


def test_what_the_log_does_not_take_is_refused_to_its_sender_and_delivered_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailingLog()
    with (
        chatting(log) as chat,
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
        open_client(chat.address) as plain,
        open_client(chat.address) as plain_listener,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.say("lobby", "before")
        assert plain.recv(PATIENCE) == plain_listener.recv(PATIENCE) == "before"
        log.fails = True
        for key in ("k1", "k2"):
            refused = ann.refusal(type="say", room="lobby", text="lost", key=key)
            assert (refused["code"], refused["key"], refused["room"]) == (
                "log_failed",
                key,
                "lobby",
            )
        assert ann.refusal(type="say", room="lobby", text="lost").get("key") is None
        plain.send("lost")
        with pytest.raises(ConnectionClosed) as closed:
            plain.recv(PATIENCE)
        assert (closed.value.code, closed.value.reason) == (
            1011,
            "the message could not be stored",
        )
        log.fails = False
        again = ann.say("lobby", "after", "k1")
        assert plain_listener.recv(PATIENCE) == "after"
        assert [told["text"] for told in ben.messages()] == ["before", "after"]
        stored = ben.join("lobby", "Ben")["messages"]
        assert [message["text"] for message in stored] == ["before", "after"]
        assert stored[-1]["id"] == again["id"]
    assert {record.getMessage() for record in caplog.records} == {
        "the log failed: the disk is full"
    }


def test_who_cannot_be_told_what_was_said_does_not_get_in_and_may_try_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailingLog()
    with chatting(log) as chat, Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("lobby", "Ann")
        log.fails = True
        for after in (None, 0):
            refused = ben.refusal(type="join", room="lobby", name="Ben", after=after)
            assert (refused["code"], refused["room"]) == ("log_failed", "lobby")
        assert ben.refusal(type="say", room="lobby", text="x")["code"] == "not_joined"
        refused = ann.refusal(type="history", room="lobby")
        assert (refused["code"], refused["room"]) == ("log_failed", "lobby")
        # One who is in and joins again is out, and hears no more.
        assert ann.refusal(type="join", room="lobby", name="Ann")["code"] == "log_failed"
        log.fails = False
        assert ben.join("lobby", "Ben")["members"] == ["Ben"]
        ben.say("lobby", "I am in")
        assert ann.messages() == []
        assert ann.join("lobby", "Ann")["members"] == ["Ben", "Ann"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_trimming_goes_on_after_it_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "RETENTION_INTERVAL", 0.01)
    log = FailingLog()
    log.fails = True
    with chatting(log) as chat:
        poll(lambda: log.trims >= 3, "three trims")
        log.fails = False
        poll(lambda: log.trims >= 6, "six trims")
        chat.wait_for_peers(0)
    assert {record.getMessage() for record in caplog.records} == {
        "the log cannot be trimmed: the disk is full"
    }


def test_what_is_too_much_when_it_starts_is_removed_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "DELETE_LIMIT", 3)
    log = open_log(keep_messages=2)
    log.append(
        [NewMessage("tea", "Ann", str(number), None) for number in range(30)], lambda _: None
    )
    with chatting(log) as chat, Talker(chat.address) as ben:

        def kept() -> list[str]:
            return [told["text"] for told in ben.join("tea", "Ben")["messages"]]

        numbers: list[int] = []

        def two_are_left() -> bool:
            numbers.append(len(kept()))
            return numbers[-1] == 2

        poll(two_are_left, "two are left")
        assert numbers == sorted(numbers, reverse=True)
        assert kept() == ["28", "29"]


def test_a_full_disk_refuses_messages_until_there_is_room_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = open_log()
    with (
        chatting(log) as chat,
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        execute = log._database.execute
        (pages,) = chat.ask(lambda: execute("PRAGMA page_count").fetchone())
        chat.ask(lambda: execute(f"PRAGMA max_page_count = {pages + 2}"))
        accepted: list[str] = []
        refused: list[str] = []
        for number in range(10):
            key = f"k{number}"
            ann.tell(type="say", room="lobby", text="x" * 4000, key=key)
            told = ann.hear()
            while told["type"] == "presence":
                told = ann.hear()
            (accepted if told["type"] == "message" else refused).append(key)
        assert accepted, "there was some room"
        assert len(refused) > 5, "no message was ever too much"
        chat.ask(lambda: execute("PRAGMA max_page_count = 100000"))
        for key in refused:
            ann.say("lobby", "x" * 4000, key)
        assert len(ben.messages()) == 10
    assert "full" in caplog.text


# A log that answers later.


class LaterLog:
    """A log whose every answer comes from another thread, after a while of its own choice.

    What it keeps, it keeps when asked; only the answers take their time, those of
    reads as of appends. `hold` lets none out until it is cleared.
    """

    def __init__(self, random: random.Random) -> None:
        self.log = open_log()
        self.random = random
        self.server: Any = None
        self.longest = 0.02
        self.appending = 0
        self.overlaps = 0

    def _later(self, answer: Callable[[], None]) -> None:
        timer = threading.Timer(
            self.random.uniform(0, self.longest), self.server.call_soon_threadsafe, [answer]
        )
        timer.daemon = True
        timer.start()

    def append(
        self,
        entries: Sequence[NewMessage],
        done: Callable[[Sequence[StoredMessage] | StoreError], None],
    ) -> None:
        self.appending += 1
        self.overlaps += self.appending > 1

        def answer() -> None:
            self.appending -= 1
            # Stored at the last moment: whoever reads before does not see it.
            self.log.append(entries, done)

        self._later(answer)

    def read_after(
        self, room: str, seen: int, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        answers: list[Page | StoreError] = []
        self.log.read_after(room, seen, limit, answers.append)
        self._later(lambda: done(answers[0]))

    def read_before(
        self, room: str, end: int | None, limit: int, done: Callable[[Page | StoreError], None]
    ) -> None:
        answers: list[Page | StoreError] = []
        self.log.read_before(room, end, limit, answers.append)
        self._later(lambda: done(answers[0]))

    def apply_retention(self) -> bool:
        return False

    def close(self) -> None:
        self.log.close()


@contextmanager
def chatting_later(seed: int) -> Iterator[tuple[RunningServer, LaterLog]]:
    log = LaterLog(random.Random(seed))
    chat = Chat(log, rate=0.0)
    log.server = chat.server
    with serving(server=chat.server) as running:
        yield running, log
    log.close()


class Listener:
    """What one client has heard of a room, and whether it could be."""

    def __init__(self, talker: Talker, name: str) -> None:
        self.talker = talker
        self.name = name
        self.seen: list[int] = []
        self.joined = 0
        self.acknowledged: set[str] = set()

    def hear(self, told: Told) -> None:
        if told["type"] == "joined":
            assert not told["gap"]
            self.joined += 1
            for each in told["messages"]:
                self.see(each)
        elif told["type"] == "message":
            self.see(told)
            if "key" in told:
                self.acknowledged.add(told["key"])
        else:
            assert told["type"] == "presence", told

    def see(self, message: Told) -> None:
        last = self.seen[-1] if self.seen else 0
        assert message["id"] > last, f"{self.name} has seen {last} and is told {message}"
        self.seen.append(message["id"])

    def hear_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.hear(self.talker.hear())


@pytest.mark.parametrize("seed", range(5))
def test_with_a_log_that_answers_later_everybody_sees_every_message_once_and_in_order(
    seed: int,
) -> None:
    chance = random.Random(seed)
    with chatting_later(seed) as (chat, log), ExitStack() as stack:

        def enter(number: int) -> Listener:
            talker = stack.enter_context(Talker(chat.address))
            listener = Listener(talker, f"n{number}")
            talker.tell(type="join", room="lobby", name=listener.name, after=0)
            return listener

        listeners = [enter(0)]
        listeners[0].hear_until(lambda: listeners[0].joined == 1)
        said: list[str] = []
        for step in range(60):
            if chance.random() < 0.2:
                listeners.append(enter(len(listeners)))
            speaker = chance.choice([each for each in listeners if each.joined] or listeners[:1])
            said.append(f"key {step}")
            speaker.talker.tell(type="say", room="lobby", text=str(step), key=said[-1])
            if chance.random() < 0.3:
                other = chance.choice(listeners)
                if not other.joined:
                    other.hear_until(lambda other=other: other.joined == 1)  # type: ignore[misc]
        for listener in listeners:
            listener.hear_until(lambda each=listener: len(each.seen) == len(said))  # type: ignore[misc]
        order = listeners[0].seen
        for listener in listeners:
            assert listener.seen == order, f"{listener.name} saw another order"
            assert [told for told in listener.talker.settle() if told["type"] != "presence"] == []
        assert set().union(*(each.acknowledged for each in listeners)) == set(said)
        assert log.overlaps == 0, "a batch was given before the last one was answered"


def test_while_others_talk_without_end_a_log_that_answers_later_lets_newcomers_in() -> None:
    with (
        chatting_later(1) as (chat, log),
        Talker(chat.address) as speaker,
        ExitStack() as stack,
    ):
        speaker.join("lobby", "speaker")
        ended = threading.Event()

        def talk() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                speaker.tell(type="say", room="lobby", text=str(number), key=str(number))
                told = speaker.hear()
                while told.get("key") != str(number):
                    told = speaker.hear()

        flood = [stack.enter_context(open_client(chat.address)) for _ in range(3)]

        def flow() -> None:
            while not ended.is_set():
                for client in flood:
                    client.send("and on")
                time.sleep(0.0005)

        threads = [threading.Thread(target=each, daemon=True) for each in (talk, flow)]
        for thread in threads:
            thread.start()
        try:
            for number in range(3):
                newcomer = stack.enter_context(Talker(chat.address))
                assert newcomer.join("lobby", f"newcomer {number}")["type"] == "joined"
        finally:
            ended.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert log.overlaps == 0


def test_joins_that_wait_are_answered_together_and_then_the_messages_that_waited_for_them() -> None:
    with chatting_later(2) as (chat, log), ExitStack() as stack:
        speaker = stack.enter_context(Talker(chat.address))
        speaker.join("lobby", "speaker")
        others = [stack.enter_context(Talker(chat.address)) for _ in range(5)]
        log.longest = 0.1
        for number, other in enumerate(others):
            speaker.tell(type="say", room="lobby", text=str(number), key=str(number))
            other.tell(type="join", room="lobby", name=f"n{number}", after=0)
        for other in others:
            listener = Listener(other, "somebody")
            listener.hear_until(lambda each=listener: each.joined and len(each.seen) == 5)  # type: ignore[misc]


@pytest.mark.parametrize("leaves", ["leave", "close", "rename"])
def test_who_leaves_before_the_log_answers_the_join_is_not_let_in(leaves: str) -> None:
    with (
        chatting_later(3) as (chat, log),
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
    ):
        log.longest = 0.05
        ann.tell(type="join", room="lobby", name="Ann")
        if leaves == "close":
            ann.client.close()
        elif leaves == "leave":
            ann.tell(type="leave", room="lobby")
        else:
            ann.tell(type="join", room="lobby", name="Anna")
            assert ann.hear_next("joined")["name"] == "Anna"
        joined = ben.join("lobby", "Ben")
        assert joined["members"] == (["Anna", "Ben"] if leaves == "rename" else ["Ben"])
        ben.say("lobby", "who is here?")
        if leaves == "leave":
            assert ann.settle() == []


# What is too much for one answer.


@pytest.mark.parametrize("character", ["\x01", "x", "\U0001f600", '"'])
def test_an_answer_fits_into_one_message_of_a_client_however_much_was_said(character: str) -> None:
    log = open_log()
    entries = [NewMessage("lobby", "\U0001f600" * 32, character * 4000, None) for _ in range(400)]
    log.append(entries, lambda _: None)
    with chatting(log) as chat, Talker(chat.address) as ann:
        # The client breaks off at 1 MiB.
        joined = ann.join("lobby", "Ann", after=0)
        assert joined["gap"]
        assert len(joined["messages"]) >= 20
        first, last = joined["messages"][0]["id"], joined["messages"][-1]["id"]
        assert (last - first + 1, last) == (len(joined["messages"]), 400)
        seen = len(joined["messages"])
        while True:
            ann.tell(type="history", room="lobby", before=first)
            found = ann.hear_next("history")
            assert len(found["messages"]) <= 200
            seen += len(found["messages"])
            if not found["more"]:
                break
            assert found["messages"][-1]["id"] == first - 1
            first = found["messages"][0]["id"]
        assert seen == 400


def test_only_what_was_missed_within_the_limit_comes_and_the_gap_is_told() -> None:
    log = open_log()
    log.append([NewMessage("lobby", "Ben", str(n), None) for n in range(1, 1102)], lambda _: None)
    with chatting(log) as chat, Talker(chat.address) as ann:
        for after, count, gap in ((101, 1000, False), (100, 1000, True), (1101, 0, False)):
            joined = ann.join("lobby", "Ann", after=after)
            ids = [message["id"] for message in joined["messages"]]
            assert ids == list(range(1102 - count, 1102)), f"after {after}"
            assert joined["gap"] == gap, f"after {after}"
        assert len(ann.join("lobby", "Ann")["messages"]) == 50
