"""Moderation: kick, ban, mute, the operator's commands, the audit log, and names from a proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatd.__main__ import main
from chatd.access.invitations import Invitations
from chatd.access.moderation import Moderation
from chatd.access.trusted_networks import parse_network
from chatd.model import Kind, Sanction, direct_authors, name_author, session_author
from chatd.storage import moderation
from chatd.storage.check import export_audit
from chatd.storage.moderation import erase_messages, read_sanctions, write_act
from chatd.storage.sqlite import SQLiteStore
from chatd.storage.store import Act, AppendCallback, NewMessage, Page, ReadCallback, StoreError
from tests.chat import ChatClient, StoreWithoutFiles, open_client, open_store, serve_chat
from tests.support import PATIENCE, RunningServer, exchange, poll
from wsproto_min import ConnectionClosed, HandshakeError

SESSION = "the session of Ben"
BEN = session_author(SESSION)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "chat.db")


@pytest.fixture
def invitations(tmp_path: Path) -> Invitations:
    return Invitations(tmp_path)


@pytest.fixture
def chat(path: str, invitations: Invitations) -> Iterator[RunningServer]:
    with serve_chat(open_store(path), invitations=invitations, invite_only=False) as running:
        yield running


@pytest.fixture
def mia(chat: RunningServer, invitations: Invitations) -> Iterator[ChatClient]:
    with ChatClient(chat.address) as client:
        token = invitations.issue("Mia", [], 7, time.time(), "moderator")
        assert client.join("x", "Mia", token=token)["moderator"]
        yield client


def join_as_ben(client: ChatClient) -> None:
    joined = client.join("x", "Ben", session=SESSION)
    assert (joined["author"], joined["moderator"]) == (BEN, False)


def test_kicked_member_leaves_and_may_come_back(chat: RunningServer, mia: ChatClient) -> None:
    with ChatClient(chat.address) as ben, ChatClient(chat.address) as phone:
        join_as_ben(ben)
        join_as_ben(phone)
        mia.receive_pending()
        mia.send(type="kick", room="x", author=BEN)
        notice = mia.receive_type("moderated")
        assert (notice["action"], notice["name"], notice["by"]) == ("kick", "Ben", "Mia")
        for client in (ben, phone):
            kinds = [each["type"] for each in client.receive_pending()]
            assert "error" in kinds
            assert client.error_for(type="say", room="x", text="x")["code"] == "not_joined"
        join_as_ben(ben)


def test_banned_person_stays_out_until_the_ban_ends(chat: RunningServer, mia: ChatClient) -> None:
    with ChatClient(chat.address) as ben:
        join_as_ben(ben)
        mia.send(type="ban", room="x", author=BEN, seconds=3600)
        codes = [each["code"] for each in ben.receive_pending() if each["type"] == "error"]
        assert codes == ["banned"]
        for name in ("Ben", "Benjamin"):
            error = ben.error_for(type="join", room="x", name=name, session=SESSION)
            assert (error["code"], error["room"]) == ("banned", "x")
        assert ben.join("y", "Ben", session=SESSION), "the ban is for one room"
        mia.receive_pending()
        mia.send(type="unban", room="x", author=BEN)
        mia.receive_type("moderated")
        join_as_ben(ben)


def test_muted_person_reads_but_changes_nothing(chat: RunningServer, mia: ChatClient) -> None:
    with ChatClient(chat.address) as ben:
        join_as_ben(ben)
        number = ben.say("x", "before")["id"]
        mia.send(type="mute", room="x", author=BEN, seconds=600)
        ben.receive_pending()
        for request in (
            {"type": "say", "text": "x"},
            {"type": "edit", "ref": number, "text": "x"},
            {"type": "react", "ref": number, "emoji": "👍"},
            {"type": "topic", "text": "x"},
        ):
            error = ben.error_for(**request, room="x", key="k")
            assert (error["code"], error["key"]) == ("muted", "k")
        mia.receive_pending()
        mia.say("x", "do you read this")
        assert ben.receive_type("message")["text"] == "do you read this"
        mia.send(type="unmute", room="x", author=BEN)
        assert [each["action"] for each in ben.receive_pending()] == ["unmute"]
        ben.say("x", "after")


def test_members_and_moderators_cannot_be_moderated_by_others(
    chat: RunningServer, mia: ChatClient, invitations: Invitations
) -> None:
    with ChatClient(chat.address) as ben, ChatClient(chat.address) as max_:
        join_as_ben(ben)
        mias = name_author("Mia")
        for kind in ("kick", "ban", "mute", "unban", "unmute"):
            error = ben.error_for(type=kind, room="x", author=mias)
            assert (error["code"], error["message"]) == ("forbidden", "only moderators can do this")
        token = invitations.issue("Max", [], 7, time.time(), "moderator")
        max_.join("x", "Max", token=token)
        assert max_.error_for(type="ban", room="x", author=mias)["code"] == "forbidden"
        plain = invitations.issue("Mia", [], 7, time.time())  # the same name, without the role
        with ChatClient(chat.address) as phone:
            assert not phone.join("x", "Mia", token=plain)["moderator"]
            assert phone.error_for(type="kick", room="x", author=BEN)["code"] == "forbidden"
        assert max_.error_for(type="ban", room="x", author=mias)["code"] == "forbidden"
        nobody = session_author("nobody")
        assert max_.error_for(type="kick", room="x", author=nobody)["code"] == "not_found"
        assert max_.error_for(type="kick", room="x", author="Ben")["code"] == "bad_message"


def test_plain_and_post_senders_obey_sanctions(
    chat: RunningServer, mia: ChatClient, invitations: Invitations
) -> None:
    token = invitations.issue("Ben", [], 7, time.time())
    headers = [("Authorization", f"Bearer {token}")]
    author = name_author("Ben")
    with open_client(chat.address, "/r/x", headers=headers) as plain:
        plain.send("hello")
        assert mia.receive_type("message")["author"] == author
        mia.send(type="mute", room="x", author=author)
        mia.receive_type("moderated")
        plain.send("again")
        with pytest.raises(ConnectionClosed) as caught:
            plain.recv(PATIENCE)
        assert caught.value.code == 1008
    mia.send(type="ban", room="x", author=author)
    mia.receive_type("moderated")
    with pytest.raises(HandshakeError) as refused:
        open_client(chat.address, "/r/x", headers=headers)
    assert refused.value.status == 403


def test_ban_closes_plain_connections_with_1008(
    chat: RunningServer, mia: ChatClient, invitations: Invitations, path: str
) -> None:
    token = invitations.issue("Ben", [], 7, time.time())
    headers = [("Authorization", f"Bearer {token}")]
    with open_client(chat.address, "/r/x", headers=headers) as plain:
        plain.send("hello")  # makes the client a member
        assert mia.receive_type("message")["text"] == "hello"
        assert main(["ban", "Ben", "--db", path]) == 0
        with pytest.raises(ConnectionClosed) as caught:
            plain.recv(PATIENCE)
        assert caught.value.code == 1008


def test_operator_commands_act_on_a_running_server(
    chat: RunningServer, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatClient(chat.address) as ben:
        join_as_ben(ben)
        ben.say("x", "my secret")
        assert main(["ban", "BEN", "2h", "--db", path]) == 0
        assert "banned from all rooms until" in capsys.readouterr().out
        errors: list[Any] = []

        def is_removed() -> bool:
            errors.extend(each for each in ben.receive_pending() if each["type"] == "error")
            return bool(errors)

        poll(is_removed, "the server has removed Ben")
        assert errors[0]["code"] == "banned"
        error = ben.error_for(type="join", room="other", name="B", session=SESSION)
        assert error["code"] == "banned"
        assert main(["bans", "--db", path]) == 0
        assert capsys.readouterr().out.startswith("ban BEN in all rooms until ")
        assert main(["unban", "Ben", "--db", path]) == 0
        assert main(["unban", "Ben", "--db", path]) == 2
        assert "not banned" in capsys.readouterr().err

        def is_admitted() -> bool:
            ben.send(type="join", room="x", name="Ben", session=SESSION)
            kinds = {each["type"] for each in ben.receive_pending()}
            time.sleep(0.05)
            return "joined" in kinds

        poll(is_admitted, "the server admits Ben again")
        assert main(["erase", "Ben", "--db", path]) == 0
        assert "1 messages of Ben are erased" in capsys.readouterr().out
        assert [each["text"] for each in ben.join("x", "Ben")["messages"]] == [""]
    assert main(["export", "--audit", "--db", path]) == 0
    audit = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["actor"] for each in audit} == {"operator"}
    assert [each["action"] for each in audit][-1] == "erase"
    assert {each["action"] for each in audit} == {"ban", "unban", "erase"}
    assert main(["check", "--db", path]) == 0


def test_audit_log_has_the_time_and_the_end_of_each_act(path: str) -> None:
    before = datetime.now(UTC)
    acts = [
        Act("ban", "x", "Ben", BEN, "Mia", 1_700_000_000.5),
        Act("mute", "y", "Ben", BEN, "operator"),
        Act("unban", "x", "Ben", BEN, "Mia"),
        Act("kick", "x", "Ann", "s" + "a" * 11, "Mia"),
    ]
    with closing(SQLiteStore(path)) as store:
        for act in acts:
            write_act(store._database, act)
        audit = [json.loads(line) for line in export_audit(store._database)]
        assert read_sanctions(store._database) == [Sanction(BEN, "y", "mute", "Ben", None)]
    for entry in audit:
        assert before - timedelta(seconds=1) < datetime.fromisoformat(entry["time"])
        assert datetime.fromisoformat(entry["time"]) <= datetime.now(UTC)
    names = ("action", "room", "name", "author", "actor")
    assert [tuple(entry[name] for name in names) for entry in audit] == [act[:5] for act in acts]
    ends = ["until 2023-11-14T22:13:20.500Z", "", "", ""]
    assert [entry["details"] for entry in audit] == ends


def test_later_sanction_replaces_the_end_and_the_name(path: str) -> None:
    with closing(SQLiteStore(path)) as store:
        write_act(store._database, Act("ban", "x", "Ben", BEN, "Mia", 100.0))
        write_act(store._database, Act("ban", "x", "Benjamin", BEN, "Mia", 200.0))
        write_act(store._database, Act("unmute", "x", "Ben", BEN, "Mia"))
        assert read_sanctions(store._database) == [Sanction(BEN, "x", "ban", "Benjamin", 200.0)]


def test_erase_removes_all_texts_of_one_person_in_units(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moderation, "ERASE_UNIT", 2)
    others = [
        NewMessage("x", "Anna", "kept", None, "s" + "a" * 11),
        NewMessage("x", "Anna", "kept too", None),  # of an earlier version
        NewMessage("x", "Ann", "a name of Ben's", None, BEN),
    ]
    own = [
        *(NewMessage("x", "Ben", f"own {number}", None, BEN) for number in range(3)),
        NewMessage("y", "BEN", "in another room", None, "s" + "c" * 11),
        NewMessage("x", "ben", "by invitation", None, name_author("Ben")),
        NewMessage("x", "Ben", "of an earlier version", None),
        NewMessage("x", "bEN", "of another one", None),
    ]
    with closing(SQLiteStore(path)) as store:
        stored: list[Any] = []
        store.append([*others, *own], stored.append)
        first = stored[0][3].message.id
        reaction = NewMessage("x", "Anna", "+👍", None, "s" + "a" * 11, Kind.REACT, first)
        store.append([reaction], stored.append)
        units = list(erase_messages(store._database, "BEN"))
        pages: list[Any] = []
        for room in "xy":
            store.read_before(room, None, 100, pages.append)
    messages = [each for page in pages for each in page.messages]
    assert [each.text for each in messages if each.text] == ["kept", "kept too"]
    assert [each.reactions for each in messages if each.id == first] == [""]
    assert (sum(units), max(units)) == (len(own) + 1, 2)


@pytest.mark.parametrize("command", [["ban", "Ben"], ["unban", "Ben"], ["bans"], ["erase", "Ben"]])
def test_commands_without_a_store_fail_with_one_line(
    command: list[str], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--db", path]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path(path).exists()


def test_sanction_ends_at_its_time() -> None:
    in_force = Moderation()
    assert in_force.is_empty
    in_force.load([Sanction("a", "", "ban", "Ann", 100.0), Sanction("b", "x", "mute", "B", None)])
    assert in_force.is_under("ban", "a", "any", 99.9)
    assert not in_force.is_under("ban", "a", "any", 100.0)
    assert not in_force.is_under("mute", "a", "any", 0.0)
    assert in_force.is_under("mute", "b", "x", 1e12)
    assert not in_force.is_under("mute", "b", "y", 0.0)
    assert not in_force.is_empty
    in_force.load([])
    assert in_force.is_empty


# Direct rooms, the directory, and names from a proxy.


def test_direct_room_admits_its_two_members_only(chat: RunningServer) -> None:
    with (
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        ChatClient(chat.address) as eve,
    ):
        authors = [each.join("x", name)["author"] for each, name in ((ann, "Ann"), (ben, "Ben"))]
        eve.join("x", "Eve")
        room = "@" + "".join(sorted(authors))
        assert direct_authors(room) == tuple(sorted(authors))
        ann.join(room, "Ann")
        for client in (ann, ben, eve):
            client.receive_pending()
        ann.say(room, "between us")
        assert [each["type"] for each in ben.receive_pending()] == ["direct"]
        assert eve.receive_pending() == []
        for kind in ("join", "history", "say", "search"):
            fields = {"name": "Eve", "text": "between"}
            error = eve.error_for(type=kind, room=room, **fields)
            assert error["code"] == ("forbidden" if kind == "join" else "not_joined")
        eve.send(type="search", room=None, text="between")
        assert eve.receive_type("results")["messages"] == []
        eve.send(type="rooms")
        assert room not in str(eve.receive_type("rooms"))
        with pytest.raises(HandshakeError):
            open_client(chat.address, f"/r/{room}")
        assert [each["text"] for each in ben.join(room, "Ben")["messages"]] == ["between us"]
        ben.send(type="rooms")
        (entry,) = [each for each in ben.receive_type("rooms")["rooms"] if each.get("direct")]
        assert (entry["room"], entry["name"], entry["author"]) == (room, "Ann", authors[0])
        wrong = "@" + "".join(sorted(authors, reverse=True))
        assert ann.error_for(type="join", room=wrong, name="Ann")["code"] == "bad_message"


def test_directory_lists_used_and_stored_rooms(path: str) -> None:
    with (
        serve_chat(open_store(path)) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
    ):
        ann.join("used", "Ann")
        ann.join("both", "Ann")
        ben.join("both", "Ben")
        ann.join("left", "Ann")
        ann.say("left", "hello")
        ann.send(type="topic", room="left", text="what was here")
        ann.send(type="leave", room="left")
        ann.receive_pending()
        ann.send(type="rooms")
        listed = ann.receive_type("rooms")["rooms"]
        assert [(each["room"], each["count"], each["topic"]) for each in listed] == [
            ("both", 2, ""),
            ("used", 1, ""),
            ("left", 0, "what was here"),
        ]
        assert listed[2]["last"] is not None


def test_hidden_directory_lists_nothing_and_invitations_limit_it(
    invitations: Invitations,
) -> None:
    with serve_chat(directory=False) as chat, ChatClient(chat.address) as ann:
        ann.join("used", "Ann")
        ann.send(type="rooms")
        assert ann.receive_type("rooms")["rooms"] == []
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ann:
        for room in ("one", "two"):
            ann.join(room, "Ann", token=invitations.issue("Ann", [], 7, time.time()))
        with ChatClient(chat.address) as ben:
            ben.join("one", "Ben", token=invitations.issue("Ben", ["one"], 7, time.time()))
            ben.send(type="rooms")
            assert [each["room"] for each in ben.receive_type("rooms")["rooms"]] == ["one"]


def test_name_header_counts_from_trusted_proxies_only(invitations: Invitations) -> None:
    for proxies, name in (("127.0.0.1", "Zoë"), ("10.0.0.1", None)):
        with serve_chat(
            invitations=invitations,
            name_header="X-Remote-User",
            trusted_proxies=[parse_network(proxies)],
        ) as chat:
            header = [("X-Remote-User", "Zoë".encode().decode("latin-1"))]
            with open_client(chat.address, subprotocols=("chat.v1",), headers=header) as client:
                client.send(json.dumps({"type": "join", "room": "x", "name": "Eve"}))
                message = json.loads(client.recv(PATIENCE))
                if name is None:
                    assert message["code"] == "unauthorized"
                else:
                    assert (message["name"], message["author"]) == (name, name_author(name))
    with serve_chat(
        name_header="X-Remote-User", trusted_proxies=[parse_network("127.0.0.1")]
    ) as chat:
        with pytest.raises(HandshakeError) as caught:
            open_client(chat.address, headers=[("X-Remote-User", "a" * 33)])
        assert caught.value.status == 403
        assert caught.value.reason.endswith(
            "header X-Remote-User: invalid name: name must be 1 to 32 characters"
        )


def test_failing_store_reports_directory_search_and_moderation(invitations: Invitations) -> None:
    class FailingStore(StoreWithoutFiles):
        def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
            callback(StoreError("no append"))

        def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
            callback(Page([], False, False))

        def read_before(
            self, room: str, before: int | None, limit: int, callback: ReadCallback, /
        ) -> None:
            callback(Page([], False, False))

        def apply_retention(self) -> bool:
            return False

        def close(self) -> None:
            pass

    with (
        serve_chat(FailingStore(), invitations=invitations, invite_only=False) as chat,
        ChatClient(chat.address) as mia,
        ChatClient(chat.address) as ben,
    ):
        token = invitations.issue("Mia", [], 7, time.time(), "moderator")
        mia.join("x", "Mia", token=token)
        author = ben.join("x", "Ben")["author"]
        for request in (
            {"type": "rooms"},
            {"type": "search", "room": "x", "text": "needle"},
            {"type": "history", "room": "x", "after": 5},
            {"type": "ban", "room": "x", "author": author},
            {"type": "topic", "room": "x", "text": "t"},
        ):
            assert mia.error_for(**request)["code"] == "log_failed", request
        mia.receive_pending()
        ben.send(type="typing", room="x")
        assert [each["type"] for each in mia.receive_pending()] == ["typing"], "Ben is still there"


def test_post_to_a_failing_store_gets_503(invitations: Invitations) -> None:
    store = open_store()
    store.append = lambda messages, callback: callback(StoreError("full"))  # type: ignore[method-assign]
    with serve_chat(store, invitations=invitations, invite_only=False) as chat:
        token = invitations.issue("CI", [], 7, time.time(), "bot")
        request = (
            f"POST /r/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            f"Authorization: Bearer {token}\r\n\r\nx"
        )
        response = exchange(chat.address, request.encode())
        assert response.startswith(b"HTTP/1.1 503 "), response
