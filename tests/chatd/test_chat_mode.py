"""Chat mode from end to end: joining, saying, missing nothing, and both modes in a room."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chatd import registry, rooms
from chatd.registry import RoomRegistry
from chatd.rooms import Room
from chatd.storage.store import NewMessage
from tests import support
from tests.chat import Talker, Told, chatting, open_client, open_log
from tests.support import PATIENCE, RunningServer, daemon, poll
from wsproto_min import ConnectionClosed
from wsproto_min.net.client import Client


@pytest.fixture
def chat() -> Iterator[RunningServer]:
    with chatting() as running:
        yield running


@contextmanager
def one_turn(chat: RunningServer) -> Iterator[None]:
    """Let all that is sent in the block reach the server in one turn of its loop."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait(PATIENCE)

    chat.server.call_soon_threadsafe(hold)
    assert entered.wait(PATIENCE)
    try:
        yield
    finally:
        leave.set()


def texts(messages: list[Told]) -> list[str]:
    return [message["text"] for message in messages]


def end_of(client: Client) -> tuple[int, str]:
    """Return how the server closes a connection in plain mode, after nothing else."""
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(PATIENCE)
    return caught.value.code, caught.value.reason


# Joining and saying.


def test_a_newcomer_is_told_its_name_its_session_who_is_there_and_what_was_said_last(
    chat: RunningServer,
) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        joined = ann.join("lobby", " Ann ")
        assert joined.pop("session")
        assert joined == {
            "type": "joined",
            "room": "lobby",
            "name": "Ann",
            "members": ["Ann"],
            "count": 1,
            "messages": [],
            "gap": False,
        }
        for number in range(60):
            ann.say("lobby", str(number))
        joined = ben.join("lobby", "Ben")
        assert (joined["members"], joined["count"]) == (["Ann", "Ben"], 2)
        assert texts(joined["messages"]) == [str(number) for number in range(10, 60)]
        assert "key" not in str(joined["messages"])
        assert not joined["gap"]


def test_a_message_goes_to_all_with_the_key_to_its_sender_alone(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        told = ann.say("lobby", "hé\0llo", "my own")
        assert told.pop("key") == "my own"
        assert ben.hear_next("message") == told
        assert told.keys() == {"type", "room", "id", "time", "name", "text"}
        assert (told["room"], told["name"], told["text"]) == ("lobby", "Ann", "hé\0llo")
        ann.tell(type="say", room="lobby", text="without a key")
        assert "key" not in ann.hear_next("message")
        assert ben.hear_next("message")["text"] == "without a key"


def test_a_message_said_again_is_acknowledged_again_and_reaches_nobody_else(
    chat: RunningServer,
) -> None:
    with (
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        first = ann.say("lobby", "once", "k")
        assert ann.say("lobby", "once", "k") == first
        with one_turn(chat):
            for _ in range(3):
                ann.tell(type="say", room="lobby", text="twice", key="l")
        assert len({ann.hear_next("message")["id"] for _ in range(3)}) == 1
        ann.say("lobby", "end")
        assert texts(ben.messages()) == ["once", "twice", "end"]
        assert [plain.recv(PATIENCE) for _ in range(3)] == ["once", "twice", "end"]


def test_an_empty_text_is_refused_where_that_can_be_told(chat: RunningServer) -> None:
    with (
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        plain.send("")
        refused = ann.refusal(type="say", room="lobby", text="", key="k")
        assert refused == {
            "type": "error",
            "code": "bad_message",
            "message": "text must not be empty",
            "key": "k",
            "room": "lobby",
        }
        ann.say("lobby", "not empty")
        assert texts(ben.messages()) == ["not empty"]


def test_what_is_said_badly_is_answered_and_the_connection_stays(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        for said, code, word in (
            ("hello", "bad_message", "JSON"),
            ('{"type":"shout"}', "bad_message", "type"),
            ('{"type":"say","room":"lobby","text":5}', "bad_message", "text"),
            (json.dumps({"type": "say", "room": "lobby", "text": "x" * 4001}), "too_long", "4,001"),
            ("[" * 50_000, "bad_message", "JSON"),
        ):
            ann.client.send(said)
            told = ann.hear_next("error")
            assert told["code"] == code, told
            assert word in told["message"]
        ann.say("lobby", "x" * 4000)
        assert texts(ben.messages()) == ["x" * 4000]


def test_without_a_seat_one_is_told_to_join_first(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ben.join("lobby", "Ben")
        ann.join("elsewhere", "Ann")
        for kind in ("say", "history", "leave", "typing"):
            refused = ann.refusal(type=kind, room="lobby", text="x", key="k")
            assert (refused["code"], refused["room"]) == ("not_joined", "lobby")
            assert refused.get("key") == ("k" if kind == "say" else None)
        assert [told["type"] for told in ben.settle()] == ["presence"]


def test_a_ping_is_answered_with_the_same_t_before_joining_too(chat: RunningServer) -> None:
    with Talker(chat.address) as ann:
        for t in (None, 0, -1.5, 12345678901234567890, "word", ""):
            ann.tell(type="ping", t=t)
            assert ann.hear() == {"type": "pong", "t": t}


def test_typing_is_told_to_the_others_in_chat_mode(chat: RunningServer) -> None:
    with (
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
        Talker(chat.address) as cem,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        cem.join("elsewhere", "Cem")
        ann.settle()
        ann.tell(type="typing", room="lobby")
        assert ann.settle() == []
        assert ben.hear_next("typing") == {"type": "typing", "room": "lobby", "name": "Ann"}
        ann.say("lobby", "typed")
        assert plain.recv(PATIENCE) == "typed"
        assert [told["type"] for told in cem.settle()] == ["presence"]


def test_binary_is_refused_with_1003(chat: RunningServer) -> None:
    with Talker(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.client.send(b"\x00")
        assert ann.hear_end() == (1003, "this chat takes text messages only")


def test_a_message_too_large_for_any_text_is_refused_with_1009(chat: RunningServer) -> None:
    with Talker(chat.address) as ann:
        ann.join("lobby", "Ann")
        emoji = json.dumps("😀" * 4000)
        assert len(emoji) > 48_000
        ann.client.send(f'{{"type":"say","room":"lobby","text":{emoji}}}')
        assert ann.hear_next("message")["text"] == "😀" * 4000
        ann.client.send(" " * (1 << 16) + "x")
        assert ann.hear_end()[0] == 1009


# Several rooms, names, leaving.


def test_one_connection_may_be_in_several_rooms_under_several_names(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("one", "Ann")
        ann.join("two", "Anna")
        ben.join("two", "Ann")
        assert ann.say("one", "to one")["name"] == "Ann"
        assert ann.say("two", "to two")["name"] == "Anna"
        assert [(each["room"], each["text"]) for each in ben.messages()] == [("two", "to two")]
        ben.say("two", "heard")
        assert [(each["room"], each["text"]) for each in ann.messages()] == [("two", "heard")]
        ann.tell(type="leave", room="two")
        ben.say("two", "are you there?")
        assert ann.messages() == []
        assert ann.refusal(type="say", room="two", text="no")["code"] == "not_joined"
        ann.say("one", "still in one")


def test_so_many_rooms_and_no_more(chat: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_ROOMS", 2)
    with Talker(chat.address) as ann:
        ann.join("one", "Ann")
        ann.join("two", "Ann")
        refused = ann.refusal(type="join", room="three", name="Ann")
        assert (refused["code"], refused["room"]) == ("too_many_rooms", "three")
        assert ann.join("two", "Anna")["name"] == "Anna"
        ann.tell(type="leave", room="one")
        ann.join("three", "Ann")


def test_a_name_is_taken_in_its_room_in_any_way_of_writing(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("lobby", "Weiß")
        for name in ("Weiß", "WEISS", " weiss ", "\uff37eiss"):
            refused = ben.refusal(type="join", room="lobby", name=name)
            assert (refused["code"], refused["room"]) == ("name_taken", "lobby")
        assert ben.refusal(type="say", room="lobby", text="x")["code"] == "not_joined"
        ben.join("elsewhere", "weiss")
        ann.tell(type="leave", room="lobby")
        ann.settle()
        assert ben.join("lobby", "weiss")["members"] == ["weiss"]


def test_joining_again_under_another_name_renames(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ben.join("lobby", "Ben")
        session = ann.join("lobby", "Ann")["session"]
        assert ben.settle()
        assert ann.join("lobby", "Anna")["members"] == ["Ben", "Anna"]
        told = ben.hear_next("presence")
        assert (told["joined"], told["left"], told["count"]) == (["Anna"], ["Ann"], 2)
        assert ann.say("lobby", "renamed")["name"] == "Anna"
        assert texts(ben.messages()) == ["renamed"]
        assert ann.refusal(type="join", room="lobby", name="ben")["code"] == "name_taken"
        assert ann.say("lobby", "still me")["name"] == "Anna"
        with Talker(chat.address) as other:
            assert other.join("lobby", "Ann", session=session)["session"] != session
        again = ann.join("lobby", "ANNA")
        assert again["name"] == "ANNA"
        presence = [told for told in ben.settle() if told["type"] == "presence"]
        assert ("ANNA" in presence[-1]["joined"], "Anna" in presence[-1]["left"]) == (True, True)


# Coming back.


def test_after_a_cut_exactly_what_was_missed_comes_and_the_name_with_the_session(
    chat: RunningServer,
) -> None:
    with Talker(chat.address) as ben:
        ben.join("lobby", "Ben")
        ann = Talker(chat.address)
        session = ann.join("lobby", "Ann")["session"]
        last = ben.say("lobby", "before")["id"]
        ann.client.close()
        poll(lambda: len(chat.ask(lambda: chat.server.peers)) == 1, "Ann is gone")
        told = ben.hear_next("presence")
        while told["left"] != ["Ann"]:
            told = ben.hear_next("presence")
        for number in range(70):
            ben.say("lobby", str(number))
        with Talker(chat.address) as other:
            refused = other.refusal(type="join", room="lobby", name="ann")
            assert refused["code"] == "name_taken", "the name is kept for her"
        with Talker(chat.address) as back:
            joined = back.join("lobby", "Ann", session=session, after=last)
            assert joined["session"] == session
            assert texts(joined["messages"]) == [str(number) for number in range(70)]
            assert not joined["gap"]
            ben.say("lobby", "live")
            assert texts(back.messages()) == ["live"]


def test_a_name_is_free_when_nobody_came_back_in_time(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "RESERVED_FOR", 0.05)
    monkeypatch.setattr(registry, "RESERVED_FOR", 0.05)
    with Talker(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.join("empty", "Ann")
    with Talker(chat.address) as ben:
        deadline = time.monotonic() + PATIENCE
        ben.tell(type="join", room="lobby", name="Ann")
        while (told := ben.hear())["type"] != "joined":
            assert told["code"] == "name_taken"
            assert time.monotonic() < deadline
            ben.tell(type="join", room="lobby", name="Ann")
        assert told["members"] == ["Ann"]


def test_empty_rooms_are_forgotten_when_their_reservations_have_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "RESERVED_FOR", 0.05)
    monkeypatch.setattr(registry, "RESERVED_FOR", 0.05)
    opened: list[str] = []
    original = RoomRegistry.open

    def spy(self: RoomRegistry, name: str) -> Room:
        opened.append(name)
        seen.append(self)
        return original(self, name)

    seen: list[RoomRegistry] = []
    monkeypatch.setattr(RoomRegistry, "open", spy)
    with chatting() as chat:
        for number in range(3):
            with Talker(chat.address) as ann:
                ann.join(f"room-{number}", "Ann")
        with open_client(chat.address, "/r/plain") as plain:
            plain.send("a word")
        poll(lambda: chat.ask(lambda: list(seen[0])) == [], "all rooms are forgotten")
    assert set(opened) == {"room-0", "room-1", "room-2", "plain"}


def test_a_room_that_is_opened_anew_in_the_turn_that_empties_it_is_one_room(
    chat: RunningServer,
) -> None:
    with Talker(chat.address) as ben, Talker(chat.address) as cy, Talker(chat.address) as dora:
        silent = support.Client(chat.address, "/r/tea")
        ben.join("tea", "Ben")
        cy.settle()
        with one_turn(chat):  # whose events are acted on in the order in which they came
            silent.sock.close()
            ben.tell(type="leave", room="tea")
            cy.tell(type="join", room="tea", name="Cy")
        cy.hear_next("joined")
        assert dora.join("tea", "Dora")["members"] == ["Cy", "Dora"]
        cy.say("tea", "hello")
        assert texts(dora.messages()) == ["hello"]


def test_a_session_goes_on_in_another_connection_and_the_old_one_is_told(
    chat: RunningServer,
) -> None:
    with (
        Talker(chat.address) as old,
        Talker(chat.address) as new,
        Talker(chat.address) as ben,
    ):
        ben.join("one", "Ben")
        sessions = {room: old.join(room, "Ann")["session"] for room in ("one", "two")}
        assert len(set(sessions.values())) == 2
        ben.settle()
        assert new.join("one", "Ann", session=sessions["one"])["members"] == ["Ben", "Ann"]
        assert ben.settle() == [], "nobody came and nobody went"
        told = old.hear_next("error")
        assert (told["code"], told["room"]) == ("taken_over", "one")
        assert old.refusal(type="say", room="one", text="x")["code"] == "not_joined"
        old.say("two", "still in two")
        ben.say("one", "to the new one")
        assert texts(new.messages()) == ["to the new one"]
        assert old.messages() == []
        new.join("two", "Ann", session=sessions["two"])
        assert old.hear_end() == (4001, "your session continues in another connection")
        assert new.say("two", "all mine")["name"] == "Ann"


def test_history_is_paged_backward_to_its_beginning_without_a_gap(chat: RunningServer) -> None:
    with Talker(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.join("elsewhere", "Ann")
        for number in range(25):
            ann.say("lobby", str(number))
            ann.say("elsewhere", "in between")
        pages, before = [], None
        while True:
            ann.tell(type="history", room="lobby", before=before, limit=10)
            found = ann.hear_next("history")
            assert found["room"] == "lobby"
            pages.append(texts(found["messages"]))
            if not found["more"]:
                break
            before = found["messages"][0]["id"]
        numbers = list(map(str, range(25)))
        assert pages == [numbers[15:], numbers[5:15], numbers[:5]]
        ann.tell(type="history", room="lobby", before=1)
        assert ann.hear_next("history")["messages"] == []


def test_who_missed_what_retention_removed_is_told_of_the_gap() -> None:
    log = open_log(keep_messages=3)
    log.append(
        [NewMessage("lobby", "Ben", str(number), None) for number in range(9)], lambda _: None
    )
    log.apply_retention()
    with chatting(log) as chat, Talker(chat.address) as ann:
        for after, expected, gap in ((2, "678", True), (6, "678", False), (9, "", False)):
            joined = ann.join("lobby", "Ann", after=after)
            assert ("".join(texts(joined["messages"])), joined["gap"]) == (expected, gap)
        joined = ann.join("lobby", "Ann", after=1000)
        assert ("".join(texts(joined["messages"])), joined["gap"]) == ("678", True)
        assert not ann.join("lobby", "Ann")["gap"], "nothing particular was asked for"


# Both modes in one room.


def test_both_modes_meet_in_a_room_each_in_its_own_way(chat: RunningServer) -> None:
    with (
        Talker(chat.address) as ann,
        open_client(chat.address, "/r/mixed") as first,
        open_client(chat.address, "/r/mixed", subprotocols=("other", "unknown")) as second,
    ):
        ann.join("mixed", "Ann")
        ann.settle()
        ann.say("mixed", "from chat mode")
        first.send('{"type":"join"} is only text')
        assert first.recv(PATIENCE) == "from chat mode"
        message = ann.hear_next("message")
        assert (message["name"], message["text"]) == ("guest-1", '{"type":"join"} is only text')
        told = ann.hear_next("presence")
        assert (told["joined"], told["count"]) == (["guest-1"], 2)
        second.send("a second guest")
        assert ann.hear_next("message")["name"] == "guest-2"
        assert [second.recv(PATIENCE) for _ in range(2)] == ["from chat mode", message["text"]]
        assert first.recv(PATIENCE) == "a second guest"
        joined = ann.join("mixed", "Ann")
        assert joined["members"] == ["Ann", "guest-1", "guest-2"]
        assert [message["name"] for message in joined["messages"]] == ["Ann", "guest-1", "guest-2"]
        ann.settle()
        first.close()
        told = ann.hear_next("presence")
        assert (told["joined"], told["left"], told["count"]) == ([], ["guest-1"], 2)


def test_a_listener_in_plain_mode_is_no_member_until_it_speaks(chat: RunningServer) -> None:
    with open_client(chat.address), Talker(chat.address) as ann:
        joined = ann.join("lobby", "guest-1")
        assert (joined["members"], joined["count"]) == (["guest-1"], 1)
        with open_client(chat.address) as speaker:
            speaker.send("I")
            assert ann.hear_next("message")["name"] == "guest-2"


def test_plain_mode_has_the_same_limit_of_length_and_is_closed_beyond_it(
    chat: RunningServer,
) -> None:
    with open_client(chat.address) as speaker, open_client(chat.address) as listener:
        speaker.send("😀" * 4000)
        speaker.send("x" * 4001)
        assert end_of(speaker) == (1009, "at most 4000 characters")
        assert listener.recv(PATIENCE) == "😀" * 4000


@pytest.mark.parametrize("seed", range(3))
def test_all_readers_have_one_order_whoever_speaks_and_in_whatever_mode(
    chat: RunningServer, seed: int
) -> None:
    chance = random.Random(seed)
    with ExitStack() as stack:
        talkers = [stack.enter_context(Talker(chat.address)) for _ in range(8)]
        plains = [stack.enter_context(open_client(chat.address)) for _ in range(4)]
        for number, talker in enumerate(talkers):
            talker.join("lobby", f"n{number}")
        speakers: list[Talker | Client] = [*talkers, *plains]
        said: dict[Talker | Client, list[str]] = {each: [] for each in speakers}
        for number in range(300):
            speaker = chance.choice(speakers)
            said[speaker].append(str(number))
            if isinstance(speaker, Talker):
                speaker.tell(type="say", room="lobby", text=str(number), key=str(number))
            else:
                speaker.send(str(number))
        orders = []
        for talker in talkers:
            heard: list[str] = []
            while len(heard) < 300:
                told = talker.hear()
                if told["type"] == "message":
                    heard.append(told["text"])
                    assert ("key" in told) == (told["text"] in said[talker])
            orders.append(heard)
        for heard in orders:
            assert heard == orders[0]
        for own in said.values():
            assert [text for text in orders[0] if text in own] == own
        for plain in plains:
            expected = [text for text in orders[0] if text not in said[plain]]
            assert [plain.recv(PATIENCE) for _ in expected] == expected


# Presence.


def test_who_comes_and_goes_in_a_turn_is_told_together(chat: RunningServer) -> None:
    with ExitStack() as stack:
        ann, *others = (stack.enter_context(Talker(chat.address)) for _ in range(6))
        ann.join("lobby", "Ann")
        ann.settle()
        with one_turn(chat):
            for number, other in enumerate(others):
                other.tell(type="join", room="lobby", name=f"n{number}")
        told = ann.hear_next("presence")
        names = {f"n{number}" for number in range(5)}
        assert (set(told["joined"]), told["left"], told["count"]) == (names, [], 6)
        with one_turn(chat):
            for other in others[:4]:
                other.tell(type="leave", room="lobby")
        told = ann.hear_next("presence")
        assert (told["joined"], set(told["left"]), told["count"]) == ([], names - {"n4"}, 2)
        assert ann.settle() == []


def test_who_is_back_in_the_same_turn_was_never_away(chat: RunningServer) -> None:
    with Talker(chat.address) as ann, Talker(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.settle()
        with one_turn(chat):
            ben.tell(type="leave", room="lobby")
            ben.tell(type="join", room="lobby", name="Ben")
        assert ben.hear_next("joined")["members"] == ["Ann", "Ben"]
        assert ann.settle() == []


def test_a_list_given_in_the_middle_of_a_turn_is_set_right_at_its_end(chat: RunningServer) -> None:
    with ExitStack() as stack:
        ann, ben, cem, dan = (stack.enter_context(Talker(chat.address)) for _ in range(4))
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.settle()
        with one_turn(chat):
            ben.tell(type="leave", room="lobby")
            cem.tell(type="join", room="lobby", name="Cem")
            dan.tell(type="join", room="lobby", name="Ben")
        for talker in (ann, cem):
            known = {"Ann", "Ben"} if talker is ann else set()
            told = talker.settle()
            for each in told:
                if each["type"] == "joined":
                    known = set(each["members"])
                else:
                    known = known - set(each["left"]) | set(each["joined"])
            assert known == {"Ann", "Ben", "Cem"}, told


def test_a_crowd_is_told_numbers_alone_and_seldom(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (rooms.NAMED_MEMBERS, registry.PRESENCE_INTERVAL) == (200, 1.0)
    interval = 0.2
    monkeypatch.setattr(registry, "PRESENCE_INTERVAL", interval)
    with ExitStack() as stack:
        first = stack.enter_context(Talker(chat.address))
        first.join("lobby", "first")
        for number in range(199):
            talker = stack.enter_context(Talker(chat.address))
            joined = talker.join("lobby", f"n{number}")
        assert (len(joined["members"]), joined["count"]) == (200, 200)
        told = first.settle()
        assert {name for each in told for name in each["joined"]} >= {"n0", "n198"}
        start = time.monotonic()
        for number in range(30):
            talker = stack.enter_context(Talker(chat.address))
            joined = talker.join("lobby", f"late {number}")
            assert (joined["members"], joined["count"]) == ([], 201 + number)
        presence: list[Told] = []
        while not presence or presence[-1]["count"] < 230:
            presence.append(first.hear_next("presence"))
            assert presence[-1].keys() == {"type", "room", "count"}
        elapsed = time.monotonic() - start
        assert len(presence) <= elapsed / interval + 2, f"{len(presence)} in {elapsed:.2f} s"


# Speed.


def test_a_flood_is_slowed_and_nothing_of_it_dropped_and_nobody_else_waits() -> None:
    with (
        chatting(rate=80.0) as chat,
        Talker(chat.address) as flooder,
        Talker(chat.address) as ann,
        Talker(chat.address) as ben,
    ):
        flooder.join("lobby", "flooder")
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        start = time.monotonic()
        for number in range(200):
            flooder.tell(type="say", room="lobby", text=str(number), key=str(number))
        for number in range(10):
            said = time.monotonic()
            ann.tell(type="say", room="lobby", text="quick", key=f"quick {number}")
            while ann.hear().get("key") != f"quick {number}":
                pass
            assert time.monotonic() - said < 0.5, "she waited with the flooder"
        flood: list[str] = []
        while len(flood) < 200:
            told = ben.hear()
            if told.get("name") == "flooder":
                flood.append(told["text"])
        elapsed = time.monotonic() - start
        assert flood == [str(number) for number in range(200)]
        # 40 at once and the others at 80 a second, of which the join was one.
        assert 1.98 <= elapsed < 3, f"{elapsed:.2f} s"
        own = [each for each in flooder.messages() if each["name"] == "flooder"]
        assert [each["key"] for each in own] == flood


@pytest.mark.parametrize("mode", ["chat", "plain"])
def test_who_stays_within_the_burst_is_not_slowed(mode: str) -> None:
    with (
        chatting(rate=0.5, burst=20.0) as chat,
        Talker(chat.address) as ann,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        for number in range(18):
            if mode == "chat":
                ann.say("lobby", str(number))
            else:
                plain.send(str(number))
                assert ann.hear_next("message")["text"] == str(number)


def test_a_limit_of_0_is_none_and_the_option_sets_it() -> None:
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as running,
        Talker(running.address) as ann,
    ):
        ann.join("lobby", "Ann")
        for number in range(2000):
            ann.tell(type="say", room="lobby", text=str(number))
        assert texts(ann.messages()) == [str(number) for number in range(2000)]
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "4") as running,
        Talker(running.address) as ann,
    ):
        ann.join("lobby", "Ann")
        start = time.monotonic()
        for number in range(10):
            ann.say("lobby", str(number))
        # 8 at once, and then 4 a second.
        assert 0.4 <= time.monotonic() - start < 3


def test_a_daemon_goes_on_where_the_last_one_was_killed(tmp_path: Any) -> None:
    arguments = ("--port", "0", "--db", str(tmp_path / "chat.db"))
    with daemon("chatd", *arguments) as running, Talker(running.address) as ann:
        ann.join("lobby", "Ann")
        last = ann.say("lobby", "one", "k1")["id"]
        ann.say("lobby", "two", "k2")
        running.process.kill()
    with daemon("chatd", *arguments) as running, Talker(running.address) as ann:
        joined = ann.join("lobby", "Ann", after=last)
        assert texts(joined["messages"]) == ["two"]
        assert ann.say("lobby", "two", "k2")["id"] == joined["messages"][0]["id"]
        assert ann.say("lobby", "three")["id"] > joined["messages"][0]["id"]
