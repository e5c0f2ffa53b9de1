"""Chat mode from end to end: join, messages, catch-up, presence, both modes in one room."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chatd import announcements, joins, registry, rooms, work_queue
from chatd.model import NAMED_MEMBERS, session_author
from chatd.registry import RoomRegistry
from chatd.rooms import Room
from chatd.storage.store import NewMessage
from tests import support
from tests.chat import ChatClient, ServerMessage, open_client, open_store, serve_chat
from tests.support import PATIENCE, RunningServer, daemon, poll
from wsproto_min import ConnectionClosed
from wsproto_min.net.client import Client


@pytest.fixture
def chat() -> Iterator[RunningServer]:
    with serve_chat() as running:
        yield running


@contextmanager
def one_iteration(chat: RunningServer) -> Iterator[None]:
    """Make one event loop iteration receive everything that the block sends."""
    entered, released = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        released.wait(PATIENCE)

    chat.server.call_soon_threadsafe(hold)
    assert entered.wait(PATIENCE)
    try:
        yield
    finally:
        released.set()


def texts(messages: list[ServerMessage]) -> list[str]:
    return [message["text"] for message in messages]


def close_of(client: Client) -> tuple[int, str]:
    """Return the code and reason of the Close frame, which must come next."""
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(PATIENCE)
    return caught.value.code, caught.value.reason


# Join and say.


def test_joined_has_name_session_members_and_newest_messages(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        joined = ann.join("lobby", " Ann ")
        session = joined.pop("session")
        assert len(session) >= 22, "22 base64 characters hold 128 bits"
        assert joined == {
            "type": "joined",
            "room": "lobby",
            "name": "Ann",
            "author": session_author(session),
            "members": ["Ann"],
            "authors": [session_author(session)],
            "count": 1,
            "topic": "",
            "moderator": False,
            "messages": [],
            "changes": [],
            "gap": False,
        }
        for number in range(60):
            ann.say("lobby", str(number))
        joined = ben.join("lobby", "Ben")
        assert (joined["members"], joined["count"]) == (["Ann", "Ben"], 2)
        assert texts(joined["messages"]) == [str(number) for number in range(10, 60)]
        assert "key" not in str(joined["messages"])
        assert not joined["gap"]


def test_message_reaches_all_with_key_only_for_sender(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        message = ann.say("lobby", "hé\0llo", "my own")
        assert message.pop("key") == "my own"
        assert ben.receive_type("message") == message
        assert message.keys() == {"type", "room", "id", "time", "name", "author", "text"}
        assert (message["room"], message["name"], message["text"]) == ("lobby", "Ann", "hé\0llo")
        ann.send(type="say", room="lobby", text="without a key")
        assert "key" not in ann.receive_type("message")
        assert ben.receive_type("message")["text"] == "without a key"


def test_message_repeated_with_its_key_is_delivered_once(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        first = ann.say("lobby", "once", "k")
        assert ann.say("lobby", "once", "k") == first
        with one_iteration(chat):
            for _ in range(3):
                ann.send(type="say", room="lobby", text="twice", key="l")
        assert len({ann.receive_type("message")["id"] for _ in range(3)}) == 1
        ann.say("lobby", "end")
        assert texts(ben.messages()) == ["once", "twice", "end"]
        assert [plain.recv(PATIENCE) for _ in range(3)] == ["once", "twice", "end"]


def test_empty_text_gets_error_in_chat_mode_only(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        plain.send("")
        error = ann.error_for(type="say", room="lobby", text="", key="k")
        assert error == {
            "type": "error",
            "code": "bad_message",
            "message": "text must not be empty",
            "key": "k",
            "room": "lobby",
        }
        ann.say("lobby", "not empty")
        assert texts(ben.messages()) == ["not empty"]


def test_invalid_message_gets_error_and_connection_stays_open(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        for text, code, word in (
            ("hello", "bad_message", "JSON"),
            ('{"type":"shout"}', "bad_message", "type"),
            ('{"type":"say","room":"lobby","text":5}', "bad_message", "text"),
            (json.dumps({"type": "say", "room": "lobby", "text": "x" * 4001}), "too_long", "4,001"),
            ("[" * 40_000, "bad_message", "JSON"),
        ):
            ann.client.send(text)
            message = ann.receive_type("error")
            assert message["code"] == code, message
            assert word in message["message"]
        ann.say("lobby", "x" * 4000)
        assert texts(ben.messages()) == ["x" * 4000]


@pytest.mark.embedded
def test_request_without_join_gets_not_joined(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ben.join("lobby", "Ben")
        ann.join("elsewhere", "Ann")
        for kind in ("say", "history", "leave", "typing"):
            error = ann.error_for(type=kind, room="lobby", text="x", key="k")
            assert (error["code"], error["room"]) == ("not_joined", "lobby")
            assert error.get("key") == ("k" if kind == "say" else None)
        assert [message["type"] for message in ben.receive_pending()] == ["presence"]


def test_ping_before_join_gets_pong_with_same_t(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        for t in (None, 0, -1.5, 12345678901234567890, "word", ""):
            ann.send(type="ping", t=t)
            assert ann.receive() == {"type": "pong", "t": t}


@pytest.mark.embedded
def test_typing_reaches_other_members_in_chat_mode(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        ChatClient(chat.address) as cem,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        cem.join("elsewhere", "Cem")
        ann.receive_pending()
        ann.send(type="typing", room="lobby")
        assert ann.receive_pending() == []
        assert ben.receive_type("typing") == {"type": "typing", "room": "lobby", "name": "Ann"}
        ann.say("lobby", "typed")
        assert plain.recv(PATIENCE) == "typed"
        assert [message["type"] for message in cem.receive_pending()] == ["presence"]


def test_typing_of_one_second_reaches_the_room_together(chat: RunningServer) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(chat.address)) for _ in range(10)]
        for number, client in enumerate(clients):
            client.join("lobby", f"n{number}")
        reader = clients[0]
        reader.receive_pending()
        start = time.monotonic()
        for _ in range(40):
            with one_iteration(chat):
                for client in clients[1:]:
                    client.send(type="typing", room="lobby")
        seconds = []
        for _ in range(2):
            seen = {reader.receive_type("typing")["name"] for _ in range(announcements.MAX_TYPING)}
            assert len(seen) == announcements.MAX_TYPING
            seconds.append(time.monotonic() - start)
        assert seconds[1] > announcements.TYPING_INTERVAL, seconds
        assert reader.receive_pending() == []


def test_typing_before_a_say_or_a_leave_is_not_announced(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "TYPING_INTERVAL", 0.2)
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.send(type="typing", room="lobby")
        assert ben.receive_type("typing")["name"] == "Ann"
        ann.send(type="typing", room="lobby")
        ann.say("lobby", "typed")
        assert ben.receive_type("message")["text"] == "typed"
        ann.send(type="typing", room="lobby")
        ann.send(type="leave", room="lobby")
        time.sleep(0.3)
        assert [each["type"] for each in ben.receive_pending()] == ["presence"]


def test_binary_message_is_closed_with_1003(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.client.send(b"\x00")
        assert ann.receive_close() == (1003, "this chat takes text messages only")


def test_message_over_size_limit_is_closed_with_1009(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann")
        emoji = json.dumps("😀" * 4000)
        assert len(emoji) > 48_000
        ann.client.send(f'{{"type":"say","room":"lobby","text":{emoji}}}')
        assert ann.receive_type("message")["text"] == "😀" * 4000
        ann.client.send(" " * (1 << 16) + "x")
        assert ann.receive_close()[0] == 1009


# Rooms and names.


def test_connection_joins_rooms_under_different_names(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("one", "Ann")
        ann.join("two", "Anna")
        ben.join("two", "Ann")
        assert ann.say("one", "to one")["name"] == "Ann"
        assert ann.say("two", "to two")["name"] == "Anna"
        assert [(each["room"], each["text"]) for each in ben.messages()] == [("two", "to two")]
        ben.say("two", "heard")
        assert [(each["room"], each["text"]) for each in ann.messages()] == [("two", "heard")]
        ann.send(type="leave", room="two")
        ben.say("two", "are you there?")
        assert ann.messages() == []
        assert ann.error_for(type="say", room="two", text="no")["code"] == "not_joined"
        ann.say("one", "still in one")


def test_join_beyond_max_rooms_gets_too_many_rooms(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "MAX_ROOMS", 2)
    with ChatClient(chat.address) as ann:
        ann.join("one", "Ann")
        ann.join("two", "Ann")
        error = ann.error_for(type="join", room="three", name="Ann")
        assert (error["code"], error["room"]) == ("too_many_rooms", "three")
        assert ann.join("two", "Anna")["name"] == "Anna"
        ann.send(type="leave", room="one")
        ann.join("three", "Ann")


def test_join_with_other_spelling_of_taken_name_fails(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("lobby", "Weiß")
        for name in ("Weiß", "WEISS", " weiss ", "\uff37eiss"):
            error = ben.error_for(type="join", room="lobby", name=name)
            assert (error["code"], error["room"]) == ("name_taken", "lobby")
        assert ben.error_for(type="say", room="lobby", text="x")["code"] == "not_joined"
        ben.join("elsewhere", "weiss")
        ann.send(type="leave", room="lobby")
        ann.receive_pending()
        assert ben.join("lobby", "weiss")["members"] == ["weiss"]


def test_join_again_with_other_name_renames_member(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ben.join("lobby", "Ben")
        session = ann.join("lobby", "Ann")["session"]
        assert ben.receive_pending()
        assert ann.join("lobby", "Anna")["members"] == ["Ben", "Anna"]
        assert ben.receive_type("renamed")["from"] == "Ann"
        presence = ben.receive_type("presence")
        assert (presence["joined"], presence["left"], presence["count"]) == (["Anna"], ["Ann"], 2)
        assert ann.say("lobby", "renamed")["name"] == "Anna"
        assert texts(ben.messages()) == ["renamed"]
        assert ann.error_for(type="join", room="lobby", name="ben")["code"] == "name_taken"
        assert ann.say("lobby", "still me")["name"] == "Anna"
        with ChatClient(chat.address) as other:
            assert other.join("lobby", "Anna", session=session)["members"] == ["Ben", "Anna"]
        again = ann.join("lobby", "ANNA")
        assert again["name"] == "ANNA"
        presence = [each for each in ben.receive_pending() if each["type"] == "presence"][-1]
        assert "ANNA" in presence["joined"]
        assert "Anna" in presence["left"]


# Reconnect and history.


def test_rejoin_gets_missed_messages_and_reserved_name(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ben:
        ben.join("lobby", "Ben")
        ann = ChatClient(chat.address)
        session = ann.join("lobby", "Ann")["session"]
        last = ben.say("lobby", "before")["id"]
        ann.client.close()
        poll(
            lambda: len(chat.ask(lambda: chat.server.peers)) == 1,
            "the server has closed Ann's connection",
        )
        presence = ben.receive_type("presence")
        while presence["left"] != ["Ann"]:
            presence = ben.receive_type("presence")
        for number in range(70):
            ben.say("lobby", str(number))
        with ChatClient(chat.address) as other:
            error = other.error_for(type="join", room="lobby", name="ann")
            assert error["code"] == "name_taken", "the name is reserved"
        with ChatClient(chat.address) as back:
            joined = back.join("lobby", "Ann", session=session, after=last)
            assert joined["session"] == session
            assert texts(joined["messages"]) == [str(number) for number in range(70)]
            assert not joined["gap"]
            ben.say("lobby", "live")
            assert texts(back.messages()) == ["live"]


@pytest.mark.embedded
def test_reserved_name_is_free_after_timeout(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "RESERVED_FOR", 0.05)
    monkeypatch.setattr(registry, "RESERVED_FOR", 0.05)
    with ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.join("empty", "Ann")
    with ChatClient(chat.address) as ben:
        deadline = time.monotonic() + PATIENCE
        ben.send(type="join", room="lobby", name="Ann")
        while (message := ben.receive())["type"] != "joined":
            assert message["code"] == "name_taken"
            assert time.monotonic() < deadline
            ben.send(type="join", room="lobby", name="Ann")
        assert message["members"] == ["Ann"]


def test_empty_rooms_close_when_reservations_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "RESERVED_FOR", 0.05)
    monkeypatch.setattr(registry, "RESERVED_FOR", 0.05)
    opened: list[str] = []
    registries: list[RoomRegistry] = []
    original = RoomRegistry.open

    def spy(self: RoomRegistry, name: str) -> Room:
        opened.append(name)
        registries.append(self)
        return original(self, name)

    monkeypatch.setattr(RoomRegistry, "open", spy)
    with serve_chat() as chat:
        for number in range(3):
            with ChatClient(chat.address) as ann:
                ann.join(f"room-{number}", "Ann")
        with open_client(chat.address, "/r/plain") as plain:
            plain.send("a word")
        poll(lambda: chat.ask(lambda: list(registries[0])) == [], "every room is closed")
    assert set(opened) == {"room-0", "room-1", "room-2", "plain"}


def test_room_emptied_and_reopened_in_one_iteration_is_one_room(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ben,
        ChatClient(chat.address) as cy,
        ChatClient(chat.address) as dora,
    ):
        silent = support.Client(chat.address, "/r/tea")
        ben.join("tea", "Ben")
        cy.receive_pending()
        with one_iteration(chat):  # the loop handles these events in this order
            silent.sock.close()
            ben.send(type="leave", room="tea")
            cy.send(type="join", room="tea", name="Cy")
        cy.receive_type("joined")
        assert dora.join("tea", "Dora")["members"] == ["Cy", "Dora"]
        cy.say("tea", "hello")
        assert texts(dora.messages()) == ["hello"]


def test_connections_of_one_session_all_receive_everything(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as phone,
        ChatClient(chat.address) as desktop,
        ChatClient(chat.address) as ben,
    ):
        ben.join("one", "Ben")
        session = phone.join("one", "Ann")["session"]
        ben.receive_pending()
        assert desktop.join("one", "Ann", session=session)["members"] == ["Ben", "Ann"]
        assert ben.receive_pending() == [], "presence did not change"
        said = phone.say("one", "from the phone")
        assert texts(desktop.messages()) == ["from the phone"]
        assert desktop.say("one", "from the desktop")["author"] == said["author"]
        assert texts(phone.messages()) == ["from the desktop"]
        phone.send(type="leave", room="one")
        phone.receive_pending()
        assert texts(ben.receive_pending()) == ["from the phone", "from the desktop"]
        ben.say("one", "still there")
        assert texts(desktop.messages()) == ["still there"]


def test_seventeenth_connection_replaces_the_oldest(chat: RunningServer) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(chat.address)) for _ in range(18)]
        session = clients[0].join("one", "Ann")["session"]
        clients[0].join("two", "Ann")
        for each in clients[1:17]:
            each.join("one", "Ann", session=session)
        error = clients[0].receive_type("error")
        assert (error["code"], error["room"]) == ("taken_over", "one")
        assert clients[0].error_for(type="say", room="one", text="x")["code"] == "not_joined"
        clients[0].say("two", "still in two")
        clients[17].join("one", "Ann", session=session)
        assert clients[1].receive_close()[0] == 4001


def test_rename_is_told_to_the_room_and_to_other_connections(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as phone,
        ChatClient(chat.address) as desktop,
        ChatClient(chat.address) as ben,
    ):
        ben.join("one", "Ben")
        joined = phone.join("one", "Ann")
        desktop.join("one", "Ann", session=joined["session"])
        ben.receive_pending()
        phone.join("one", "Anna")
        for client in (ben, desktop):
            pending = {each["type"]: each for each in client.receive_pending()}
            renamed = pending["renamed"]
            assert (renamed["from"], renamed["name"]) == ("Ann", "Anna")
            assert renamed["author"] == joined["author"]
        assert desktop.say("one", "x")["name"] == "Anna"


def test_session_of_the_client_is_adopted_if_long_enough(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        session = "x" * 16
        assert ann.join("one", "Ann", session=session)["session"] == session
        assert ann.join("two", "Ann")["author"] == session_author(session)
        assert ben.join("one", "Ben", session="x" * 15)["session"] != "x" * 15


def test_history_pages_reach_the_first_message_without_gap(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann")
        ann.join("elsewhere", "Ann")
        for number in range(25):
            ann.say("lobby", str(number))
            ann.say("elsewhere", "in between")
        pages, before = [], None
        while True:
            ann.send(type="history", room="lobby", before=before, limit=10)
            found = ann.receive_type("history")
            assert found["room"] == "lobby"
            pages.append(texts(found["messages"]))
            if not found["more"]:
                break
            before = found["messages"][0]["id"]
        numbers = list(map(str, range(25)))
        assert pages == [numbers[15:], numbers[5:15], numbers[:5]]
        ann.send(type="history", room="lobby", before=1)
        assert ann.receive_type("history")["messages"] == []


def test_join_after_removed_messages_reports_gap() -> None:
    store = open_store(keep_messages=3)
    store.append(
        [NewMessage("lobby", "Ben", str(number), None) for number in range(9)], lambda _: None
    )
    while store.apply_retention():
        pass
    with serve_chat(store) as chat, ChatClient(chat.address) as ann:
        for after, expected, gap in ((2, "678", True), (6, "678", False), (9, "", False)):
            joined = ann.join("lobby", "Ann", after=after)
            assert ("".join(texts(joined["messages"])), joined["gap"]) == (expected, gap)
        joined = ann.join("lobby", "Ann", after=1000)
        assert ("".join(texts(joined["messages"])), joined["gap"]) == ("678", True)
        assert not ann.join("lobby", "Ann")["gap"], "a join without an id has no gap"


# Both modes in one room.


@pytest.mark.embedded
def test_chat_mode_and_plain_mode_share_a_room(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ann,
        open_client(chat.address, "/r/mixed") as first,
        open_client(chat.address, "/r/mixed", subprotocols=("other", "unknown")) as second,
    ):
        ann.join("mixed", "Ann")
        ann.receive_pending()
        ann.say("mixed", "from chat mode")
        first.send('{"type":"join"} is only text')
        assert first.recv(PATIENCE) == "from chat mode"
        message = ann.receive_type("message")
        assert (message["name"], message["text"]) == ("guest-1", '{"type":"join"} is only text')
        presence = ann.receive_type("presence")
        assert (presence["joined"], presence["count"]) == (["guest-1"], 2)
        second.send("a second guest")
        assert ann.receive_type("message")["name"] == "guest-2"
        assert [second.recv(PATIENCE) for _ in range(2)] == ["from chat mode", message["text"]]
        assert first.recv(PATIENCE) == "a second guest"
        joined = ann.join("mixed", "Ann")
        assert joined["members"] == ["Ann", "guest-1", "guest-2"]
        assert [message["name"] for message in joined["messages"]] == ["Ann", "guest-1", "guest-2"]
        ann.receive_pending()
        first.close()
        presence = ann.receive_type("presence")
        assert (presence["joined"], presence["left"], presence["count"]) == ([], ["guest-1"], 2)


def test_plain_listener_is_no_member_before_first_message(chat: RunningServer) -> None:
    with open_client(chat.address), ChatClient(chat.address) as ann:
        joined = ann.join("lobby", "guest-1")
        assert (joined["members"], joined["count"]) == (["guest-1"], 1)
        with open_client(chat.address) as speaker:
            speaker.send("I")
            assert ann.receive_type("message")["name"] == "guest-2"


def test_plain_message_over_4000_characters_closes_with_1009(chat: RunningServer) -> None:
    with open_client(chat.address) as speaker, open_client(chat.address) as listener:
        speaker.send("😀" * 4000)
        speaker.send("x" * 4001)
        assert close_of(speaker) == (1009, "at most 4000 characters")
        assert listener.recv(PATIENCE) == "😀" * 4000


@pytest.mark.parametrize("seed", range(3))
def test_readers_in_both_modes_see_one_order(chat: RunningServer, seed: int) -> None:
    chance = random.Random(seed)
    with ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(chat.address)) for _ in range(8)]
        plains = [stack.enter_context(open_client(chat.address)) for _ in range(4)]
        for number, client in enumerate(clients):
            client.join("lobby", f"n{number}")
        speakers: list[ChatClient | Client] = [*clients, *plains]
        sent: dict[ChatClient | Client, list[str]] = {each: [] for each in speakers}
        for number in range(300):
            speaker = chance.choice(speakers)
            sent[speaker].append(str(number))
            if isinstance(speaker, ChatClient):
                speaker.send(type="say", room="lobby", text=str(number), key=str(number))
            else:
                speaker.send(str(number))
        orders = []
        for client in clients:
            received: list[str] = []
            while len(received) < 300:
                message = client.receive()
                if message["type"] == "message":
                    received.append(message["text"])
                    assert ("key" in message) == (message["text"] in sent[client])
            orders.append(received)
        for received in orders:
            assert received == orders[0]
        for own in sent.values():
            assert [text for text in orders[0] if text in own] == own
        for plain in plains:
            expected = [text for text in orders[0] if text not in sent[plain]]
            assert [plain.recv(PATIENCE) for _ in expected] == expected


# Presence.


@pytest.mark.embedded
def test_presence_of_one_iteration_is_one_message(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "STEP", PATIENCE)  # all joins in one iteration
    with ExitStack() as stack:
        ann, *others = (stack.enter_context(ChatClient(chat.address)) for _ in range(6))
        ann.join("lobby", "Ann")
        ann.receive_pending()
        with one_iteration(chat):
            for number, other in enumerate(others):
                other.send(type="join", room="lobby", name=f"n{number}")
        presence = ann.receive_type("presence")
        names = {f"n{number}" for number in range(5)}
        assert (set(presence["joined"]), presence["left"], presence["count"]) == (names, [], 6)
        with one_iteration(chat):
            for other in others[:4]:
                other.send(type="leave", room="lobby")
        presence = ann.receive_type("presence")
        assert (presence["joined"], presence["count"]) == ([], 2)
        assert set(presence["left"]) == names - {"n4"}
        assert ann.receive_pending() == []


@pytest.mark.embedded
def test_member_back_in_same_iteration_causes_no_presence(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.receive_pending()
        with one_iteration(chat):
            ben.send(type="leave", room="lobby")
            ben.send(type="join", room="lobby", name="Ben")
        assert ben.receive_type("joined")["members"] == ["Ann", "Ben"]
        assert ann.receive_pending() == []


@pytest.mark.embedded
def test_names_sent_within_iteration_are_corrected_at_its_end(chat: RunningServer) -> None:
    with ExitStack() as stack:
        ann, ben, cem, dan = (stack.enter_context(ChatClient(chat.address)) for _ in range(4))
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        ann.receive_pending()
        with one_iteration(chat):
            ben.send(type="leave", room="lobby")
            cem.send(type="join", room="lobby", name="Cem")
            dan.send(type="join", room="lobby", name="Ben")
        for client in (ann, cem):
            known = {"Ann", "Ben"} if client is ann else set()
            pending = client.receive_pending()
            for each in pending:
                if each["type"] == "joined":
                    known = set(each["members"])
                else:
                    known = known - set(each["left"]) | set(each["joined"])
            assert known == {"Ann", "Ben", "Cem"}, pending


def test_large_room_presence_has_only_a_count_and_is_rare(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (NAMED_MEMBERS, announcements.PRESENCE_INTERVAL) == (200, 1.0)
    interval = 0.2
    monkeypatch.setattr(announcements, "PRESENCE_INTERVAL", interval)
    with ExitStack() as stack:
        first = stack.enter_context(ChatClient(chat.address))
        first.join("lobby", "first")
        for number in range(199):
            client = stack.enter_context(ChatClient(chat.address))
            joined = client.join("lobby", f"n{number}")
        assert (len(joined["members"]), joined["count"]) == (200, 200)
        pending = first.receive_pending()
        assert {name for each in pending for name in each["joined"]} >= {"n0", "n198"}
        start = time.monotonic()
        for number in range(30):
            client = stack.enter_context(ChatClient(chat.address))
            joined = client.join("lobby", f"late {number}")
            assert (joined["members"], joined["count"]) == ([], 201 + number)
        presence: list[ServerMessage] = []
        while not presence or presence[-1]["count"] < 230:
            presence.append(first.receive_type("presence"))
            assert presence[-1].keys() == {"type", "room", "count"}
        elapsed = time.monotonic() - start
        assert len(presence) <= elapsed / interval + 2, f"{len(presence)} in {elapsed:.2f} s"


def test_presence_lists_all_members_once_a_room_has_shrunk(
    chat: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (rooms, announcements):
        monkeypatch.setattr(module, "NAMED_MEMBERS", 2)
    monkeypatch.setattr(announcements, "PRESENCE_INTERVAL", 0.0)
    with ExitStack() as stack:
        ann, ben, cem, dan = (stack.enter_context(ChatClient(chat.address)) for _ in range(4))
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        cem.join("lobby", "Cem")
        assert dan.join("lobby", "Dan")["members"] == []
        assert "joined" not in ann.receive_pending()[-1]
        ben.send(type="leave", room="lobby")
        ben.receive_pending()
        cem.send(type="leave", room="lobby")
        cem.receive_pending()
        for client in (ann, dan):
            presence = client.receive_pending()[-1]
            assert (presence["joined"], presence["left"]) == (["Ann", "Dan"], ["Ben"])
            assert presence["count"] == 2


# Rate limit and restart.


def test_flood_is_slowed_without_loss_or_delay_for_others() -> None:
    with (
        serve_chat(rate=160.0, burst=40.0) as chat,
        ChatClient(chat.address) as flooder,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        start = time.monotonic()  # the bucket is full before the join
        flooder.join("lobby", "flooder")
        ann.join("lobby", "Ann")
        ben.join("lobby", "Ben")
        for number in range(120):
            flooder.send(type="say", room="lobby", text=str(number), key=str(number))
        for number in range(10):
            sent_at = time.monotonic()
            ann.send(type="say", room="lobby", text="quick", key=f"quick {number}")
            while ann.receive().get("key") != f"quick {number}":
                pass
            assert time.monotonic() - sent_at < 0.5, "the flood delayed another peer"
        flood: list[str] = []
        while len(flood) < 120:
            message = ben.receive()
            if message.get("name") == "flooder":
                flood.append(message["text"])
        elapsed = time.monotonic() - start
        assert flood == [str(number) for number in range(120)]
        # The burst of 40 includes the join; the other 81 messages pass at 160 per second.
        assert 0.5 <= elapsed < 2, f"{elapsed:.2f} s"
        own = [each for each in flooder.messages() if each["name"] == "flooder"]
        assert [each["key"] for each in own] == flood


@pytest.mark.parametrize("mode", ["chat", "plain"])
def test_peer_within_burst_is_not_slowed(mode: str) -> None:
    with (
        serve_chat(rate=0.5, burst=20.0, address_rate=0.0) as chat,
        ChatClient(chat.address) as ann,
        open_client(chat.address) as plain,
    ):
        ann.join("lobby", "Ann")
        for number in range(18):
            if mode == "chat":
                ann.say("lobby", str(number))
            else:
                plain.send(str(number))
                assert ann.receive_type("message")["text"] == str(number)


def test_rate_limit_option_sets_rate_and_0_disables_it() -> None:
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "0") as running,
        ChatClient(running.address) as ann,
    ):
        ann.join("lobby", "Ann")
        for number in range(2000):
            ann.send(type="say", room="lobby", text=str(number))
        assert texts(ann.messages()) == [str(number) for number in range(2000)]
    with (
        daemon("chatd", "--port", "0", "--db", ":memory:", "--rate-limit", "16") as running,
        ChatClient(running.address) as ann,
    ):
        ann.join("lobby", "Ann")
        start = time.monotonic()
        for number in range(36):
            ann.say("lobby", str(number))
        # The burst is 32 messages, including the join. The others pass at 16 per second.
        assert 0.2 <= time.monotonic() - start < 3


def test_restarted_daemon_continues_after_kill(tmp_path: Any) -> None:
    arguments = ("--port", "0", "--db", str(tmp_path / "chat.db"))
    with daemon("chatd", *arguments) as running, ChatClient(running.address) as ann:
        session = ann.join("lobby", "Ann")["session"]
        last = ann.say("lobby", "one", "k1")["id"]
        ann.say("lobby", "two", "k2")
        running.process.kill()
    with daemon("chatd", *arguments) as running, ChatClient(running.address) as ann:
        joined = ann.join("lobby", "Ann", after=last, session=session)
        assert (joined["session"], texts(joined["messages"])) == (session, ["two"])
        assert ann.say("lobby", "two", "k2")["id"] == joined["messages"][0]["id"]
        assert ann.say("lobby", "three")["id"] > joined["messages"][0]["id"]
