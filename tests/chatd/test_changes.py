"""Edits, deletions, reactions, replies and topics: live, after a reconnect, and in the store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.model import MAX_REACTION_KINDS, Kind, Message
from chatd.storage import changes
from chatd.storage.check import export_audit
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import Appended, NewMessage, Page, Refused, StoredMessage
from tests.chat import ChatClient, ServerMessage, open_store, serve_chat
from tests.support import ROOT, RunningServer

ANN, BEN = "s" + "a" * 11, "s" + "b" * 11


@pytest.fixture(scope="module")
def chat() -> Iterator[RunningServer]:
    with serve_chat() as running:
        yield running


def pending(client: ChatClient, *types: str) -> list[ServerMessage]:
    return [each for each in client.receive_pending() if each["type"] in types]


def state(joined: ServerMessage) -> list[dict[str, Any]]:
    """Return the stored messages without ids of other entries, times and names."""
    keep = ("text", "deleted", "reactions", "ref")
    return [
        {name: each[name] for name in keep if name in each} | {"edited": "edited" in each}
        for each in joined["messages"]
    ]


# Live.


def test_edit_reaches_all_and_acknowledges_its_key(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("edit", "Ann")
        ben.join("edit", "Ben")
        said = ann.say("edit", "frist")
        ann.send(type="edit", room="edit", ref=said["id"], text="first", key="k")
        edit = ann.receive_type("edit")
        assert edit.pop("key") == "k"
        assert (edit["ref"], edit["text"], edit["author"]) == (said["id"], "first", said["author"])
        assert pending(ben, "edit") == [edit]
        ann.send(type="edit", room="edit", ref=said["id"], text="first", key="k")
        assert ann.receive_type("edit")["id"] == edit["id"], "a repeated key is stored once"
        assert pending(ben, "edit") == []


def test_changes_of_others_are_refused_with_the_key(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann, ChatClient(chat.address) as ben:
        ann.join("others", "Ann")
        ben.join("others", "Ben")
        number = ann.say("others", "mine")["id"]
        ben.receive_pending()
        for request in (
            {"type": "edit", "ref": number, "text": "yours"},
            {"type": "delete", "ref": number},
        ):
            error = ben.error_for(**request, room="others", key="k")
            assert (error["code"], error["key"]) == ("forbidden", "k")
        error = ben.error_for(type="react", room="others", ref=number + 999, emoji="👍", key="r")
        assert (error["code"], error["key"]) == ("not_found", "r")
        assert state(ben.join("others", "Ben")) == [{"text": "mine", "edited": False}]


@pytest.mark.embedded
def test_client_away_during_changes_gets_them_once_in_order(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("away", "Ann")
        numbers = [ann.say("away", text)["id"] for text in ("one", "two", "three")]
        last = numbers[-1]
        ann.send(type="edit", room="away", ref=numbers[0], text="1")
        ann.send(type="delete", room="away", ref=numbers[1])
        ann.send(type="react", room="away", ref=numbers[2], emoji="👍")
        ann.send(type="topic", room="away", text="  numbers \n here ")
        ann.send(type="say", room="away", text="reply", ref=numbers[0])
        ann.receive_pending()
        with ChatClient(chat.address) as ben:
            joined = ben.join("away", "Ben", after=last)
            assert [each["type"] for each in joined["changes"]] == [
                "edit",
                "delete",
                "react",
                "topic",
            ]
            assert joined["changes"][0]["text"] == "1"
            assert joined["topic"] == "numbers here"
            assert state(joined) == [{"text": "reply", "ref": numbers[0], "edited": False}]
            newest = max(each["id"] for each in (*joined["messages"], *joined["changes"]))
            again = ben.join("away", "Ben", after=newest)
            assert (again["messages"], again["changes"], again["gap"]) == ([], [], False)
        with ChatClient(chat.address) as cem:
            joined = cem.join("away", "Cem")
            assert joined["changes"] == []
            assert state(joined) == [
                {"text": "1", "edited": True},
                {"text": "", "deleted": True, "edited": False},
                {"text": "three", "reactions": {"👍": [ann_author(joined)]}, "edited": False},
                {"text": "reply", "ref": numbers[0], "edited": False},
            ]


def ann_author(joined: ServerMessage) -> str:
    return str(joined["authors"][joined["members"].index("Ann")])


def test_history_pages_around_after_and_from_a_date(chat: RunningServer) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("pages", "Ann")
        said = [ann.say("pages", str(number)) for number in range(20)]

        def page(**place: object) -> tuple[list[int], bool, bool]:
            ann.send(type="history", room="pages", limit=4, **place)
            response = ann.receive_type("history")
            texts = [int(each["text"]) for each in response["messages"]]
            return texts, response["more"], response["more_after"]

        assert page() == ([16, 17, 18, 19], True, False)
        assert page(before=said[4]["id"]) == ([0, 1, 2, 3], False, True)
        assert page(after=said[15]["id"]) == ([16, 17, 18, 19], True, False)
        assert page(after=said[1]["id"]) == ([2, 3, 4, 5], True, True)
        assert page(around=said[10]["id"]) == ([8, 9, 10, 11], True, True)
        assert page(around=said[0]["id"]) == ([0, 1], False, True)
        assert page(date="2020-01-01T00:00:00Z") == ([0, 1, 2, 3], False, True)
        assert page(date="2999-01-01T00:00:00+02:00")[0] == []
        error = ann.error_for(type="history", room="pages", before=1, around=2)
        assert error["message"] == "around must not come with before"
        for date in ("yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"):
            assert ann.error_for(type="history", room="pages", date=date)["code"] == "bad_message"


# In the store.


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with closing(open_store(str(tmp_path / "chat.db"))) as opened:
        yield opened


def append(store: SQLiteStore, *entries: NewMessage) -> list[Appended]:
    results: list[Any] = []
    store.append(entries, results.append)
    assert isinstance(results[0], list), results
    return list(results[0])


def stored(store: SQLiteStore, *entries: NewMessage) -> list[Message]:
    results = append(store, *entries)
    assert all(isinstance(each, StoredMessage) for each in results), results
    return [each.message for each in results if isinstance(each, StoredMessage)]


def say(text: str, author: str = ANN, **fields: Any) -> NewMessage:
    return NewMessage("x", "Ann" if author == ANN else "Ben", text, None, author, **fields)


def change(
    kind: Kind, ref: int | None, text: str = "", author: str = ANN, **fields: Any
) -> NewMessage:
    return say(text, author, kind=kind, ref=ref, **fields)


def read(store: SQLiteStore, after: int | None = None) -> Page:
    pages: list[Any] = []
    if after is None:
        store.read_before("x", None, 100, pages.append)
    else:
        store.read_after("x", after, 100, pages.append)
    assert isinstance(pages[0], Page), pages
    return pages[0]


def refusals(results: list[Appended]) -> list[str]:
    return [each.code for each in results if isinstance(each, Refused)]


def test_refused_change_leaves_the_other_entries_of_its_batch(store: SQLiteStore) -> None:
    (first,) = stored(store, say("first"))
    results = append(
        store,
        say("second"),
        change(Kind.EDIT, first.id, "not mine", BEN),
        change(Kind.EDIT, 12345, "nothing"),
        change(Kind.DELETE, first.id, "", BEN),
        change(Kind.EDIT, first.id, "1st"),
        say("third"),
    )
    not_own = Refused("forbidden", "this is the message of another person")
    assert [each for each in results if isinstance(each, Refused)] == [
        not_own,
        Refused("not_found", "this room has no message with the id in ref; it may be removed"),
        not_own,
    ]
    assert [each.text for each in read(store).messages] == ["1st", "second", "third"]


def test_deleted_text_is_in_no_file_and_cannot_change(store: SQLiteStore, tmp_path: Path) -> None:
    secret = "a text to delete " * 20
    (first,) = stored(store, say(secret))
    stored(store, change(Kind.EDIT, first.id, f"edited {secret}"))
    stored(store, change(Kind.REACT, first.id, "+👍", BEN), change(Kind.DELETE, first.id))
    results = append(
        store,
        change(Kind.EDIT, first.id, "back"),
        change(Kind.REACT, first.id, "+👍"),
        change(Kind.DELETE, first.id),
    )
    assert results == [Refused("not_found", "the message is deleted")] * 3
    (message,) = read(store).messages
    assert (message.text, message.reactions) == ("", "")
    assert [each.text for each in read(store, first.id).messages] == ["", "+👍", ""]
    store.close()
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert not any(b"text to delete" in content for content in files)


def test_moderator_deletes_the_message_of_another_person(store: SQLiteStore) -> None:
    (first,) = stored(store, say("rude"))
    stored(store, change(Kind.DELETE, first.id, "", BEN, moderates=True))
    assert read(store).messages[0].text == ""
    (own,) = stored(store, say("mine", BEN))
    stored(store, change(Kind.DELETE, own.id, "", BEN, moderates=True))
    (act,) = map(json.loads, export_audit(store._database))
    assert (act["action"], act["room"], act["actor"]) == ("delete", "x", "Ben")
    assert (act["name"], act["author"], act["details"]) == ("Ann", ANN, f"message {first.id}")
    results = append(store, say("more"), change(Kind.EDIT, first.id, "x", BEN, moderates=True))
    assert refusals(results) == ["not_found"]


def test_reactions_have_limits_and_each_author_counts_once(store: SQLiteStore) -> None:
    (first,) = stored(store, say("hello"))
    stored(store, *[change(Kind.REACT, first.id, "+👍")] * 3)
    assert json.loads(read(store).messages[0].reactions) == {"👍": [ANN]}
    emoji = [chr(0x1F600 + number) for number in range(MAX_REACTION_KINDS)]
    results = append(store, *(change(Kind.REACT, first.id, f"+{each}", BEN) for each in emoji))
    assert refusals(results) == ["forbidden"]
    stored(store, change(Kind.REACT, first.id, "-👍"))
    assert len(json.loads(read(store).messages[0].reactions)) == MAX_REACTION_KINDS - 1


def test_reactions_of_a_message_are_limited_exactly(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_REACTIONS", 3)
    (first,) = stored(store, say("hello"))
    people = ["s" + letter * 11 for letter in "abcd"]
    results = append(store, *(change(Kind.REACT, first.id, "+👍", each) for each in people))
    assert results[3:] == [Refused("forbidden", "the message has its limit of reactions")]
    assert json.loads(read(store).messages[0].reactions) == {"👍": people[:3]}
    stored(store, *(change(Kind.REACT, first.id, "-👍", each) for each in people[:3]))
    assert read(store).messages[0].reactions == ""


def test_changes_of_a_message_that_retention_removed(tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "chat.db"), keep_messages=2)) as store:
        first, _ = stored(store, say("old"), say("new"))
        (edit,) = stored(store, change(Kind.EDIT, first.id, "old, edited"))
        while store.apply_retention():
            pass
        page = read(store, first.id)
        assert [(each.kind, each.text) for each in page.messages] == [
            (Kind.MESSAGE, "new"),
            (Kind.EDIT, ""),
        ]
        assert page.messages[-1].id == edit.id
        assert refusals(append(store, say("reply", ref=first.id))) == ["not_found"]


def test_key_belongs_to_its_author_whatever_the_name(store: SQLiteStore) -> None:
    (first,) = stored(store, NewMessage("x", "Ann", "one", "k", ANN))
    again = append(store, NewMessage("x", "Anna", "one", "k", ANN))[0]
    assert isinstance(again, StoredMessage)
    assert (again.repeated, again.message.id) == (True, first.id)
    other = append(store, NewMessage("x", "Ann", "two", "k", BEN))[0]
    assert isinstance(other, StoredMessage)
    assert not other.repeated, "a later holder of the name lost its message"


def test_schema_version_2_is_migrated_with_its_messages(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    Path(path).write_bytes((ROOT / "tests/chatd/data/schema-1.db").read_bytes())
    from chatd.storage import sqlite_file

    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"{sqlite_file.schema(2, after=1)} PRAGMA user_version = 2;")
    with closing(open_store(path)) as store:
        pages: list[Any] = []
        store.read_before("tea", None, 10, pages.append)
        assert [(each.author, each.kind) for each in pages[0].messages] == [("", Kind.MESSAGE)] * 3


# A client's list of messages, however it receives the entries.


class Reader:
    """A client that keeps its messages up to date from messages and changes, as the page does."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[str, dict[str, list[str]]]] = {}
        self.last: int | None = None

    def apply(self, entry: Message) -> None:
        self.last = max(self.last or 0, entry.id)
        if entry.kind is Kind.MESSAGE:
            self.messages[entry.id] = (entry.text, json.loads(entry.reactions or "{}"))
            return
        text, reactions = self.messages.get(entry.ref or 0, (None, {}))
        if text is None:
            return  # a change of a message that this client never received
        if entry.kind is Kind.EDIT:
            self.messages[entry.ref or 0] = (entry.text, reactions)
        elif entry.kind is Kind.DELETE:
            self.messages[entry.ref or 0] = ("", {})
        elif entry.kind is Kind.REACT:
            sign, emoji = entry.text[0], entry.text[1:]
            authors = [each for each in reactions.get(emoji, []) if each != entry.author]
            if sign == "+":
                authors = list(dict.fromkeys([*reactions.get(emoji, []), entry.author]))
            changed = {**reactions, emoji: authors}
            kept = {each: people for each, people in changed.items() if people}
            self.messages[entry.ref or 0] = (text, kept)


ACTIONS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from([ANN, BEN])),
    st.tuples(
        st.sampled_from([Kind.EDIT, Kind.DELETE, Kind.REACT]),
        st.sampled_from([ANN, BEN]),
        st.integers(0, 5),
        st.sampled_from(["+👍", "-👍", "+🎉"]),
    ),
    st.just(("catch up",)),
    st.just(("reload",)),
)


@given(st.lists(ACTIONS, max_size=40))
def test_client_state_equals_the_store_after_any_catch_up(actions: list[tuple[Any, ...]]) -> None:
    live, late = Reader(), Reader()
    with closing(open_store()) as store:
        said: list[Message] = []
        for number, (action, *details) in enumerate(actions):
            if action == "reload":
                late = Reader()
            elif action == "catch up":
                page = read(store, late.last)
                for entry in page.messages:
                    late.apply(entry)
            else:
                if action == "say":
                    entry_ = say(f"message {number}", details[0])
                elif said:
                    author, place, reaction = details
                    text = reaction if action is Kind.REACT else f"edit {number}"
                    text = "" if action is Kind.DELETE else text
                    entry_ = change(action, said[place % len(said)].id, text, author)
                else:
                    continue
                for result in append(store, entry_):
                    if isinstance(result, StoredMessage):
                        live.apply(result.message)
                        said += [result.message] * (action == "say")
        for reader in (live, late):
            for entry in read(store, reader.last).messages:
                reader.apply(entry)
        stored = {
            each.id: (each.text, json.loads(each.reactions or "{}"))
            for each in read(store).messages
        }
    assert live.messages == stored
    assert late.messages == stored
