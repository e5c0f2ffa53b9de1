"""Two nodes behave as one chat: entries, members, names, moderation and invitations."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack

import pytest

from chatd.__main__ import main
from chatd.access.invitations import Invitations
from chatd.model import name_author, session_author
from tests.chat import ChatClient, ServerMessage, open_client
from tests.scale.conftest import running_nodes
from tests.scale.engine import Engine
from tests.support import PATIENCE, RunningServer, poll
from wsproto_min.errors import ConnectionClosed

SESSION = "0123456789abcdef"


def wait_for(client: ChatClient, kind: str, **fields: object) -> ServerMessage:
    """Return the next message of a type with these fields; skip all others."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        message = client.receive()
        if message["type"] == kind and fields.items() <= message.items():
            return message
    raise AssertionError(f"no {kind} with {fields}")


def test_entries_of_one_node_reach_the_other_in_order(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ben.join("tea", "Ben")
        first = ann.say("tea", "hello \0 \uf8f0 é")
        assert wait_for(ben, "message")["text"] == "hello \0 \uf8f0 é"
        second = ben.say("tea", "hi")
        assert (first["id"], second["id"]) == (1, 2)
        assert wait_for(ann, "message")["text"] == "hi"
        ann.send(type="edit", room="tea", ref=1, text="good day", key="e")
        edit = wait_for(ben, "edit")
        assert (edit["id"], edit["ref"], edit["text"]) == (3, 1, "good day")
        ben.send(type="react", room="tea", ref=1, emoji="👍")
        assert wait_for(ann, "react")["emoji"] == "👍"
        ann.send(type="delete", room="tea", ref=1)
        assert wait_for(ben, "delete")["ref"] == 1
        ben.send(type="topic", room="tea", text="biscuits")
        assert wait_for(ann, "topic")["text"] == "biscuits"
        with ChatClient(nodes[0].address) as cem:
            joined = cem.join("tea", "Cem", after=1)
            assert [each["id"] for each in joined["messages"]] == [2]
            assert [each["type"] for each in joined["changes"]] == [
                "edit",
                "react",
                "delete",
                "topic",
            ]
            assert joined["topic"] == "biscuits"


def test_plain_and_chat_mode_meet_across_nodes(nodes: list[RunningServer]) -> None:
    with (
        open_client(nodes[0].address, "/r/mixed") as first,
        open_client(nodes[1].address, "/r/mixed") as second,
        ChatClient(nodes[1].address) as ann,
    ):
        ann.join("mixed", "Ann")
        first.send("one")
        assert second.recv(PATIENCE) == "one"
        assert wait_for(ann, "message", text="one")["name"] == "guest-1"
        second.send("two")
        assert first.recv(PATIENCE) == "two"
        assert wait_for(ann, "message", text="two")["name"] == "guest-2"
        ann.say("mixed", "three")
        assert first.recv(PATIENCE) == "three"


def test_presence_and_names_are_those_of_all_nodes(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        joined = ben.join("tea", "Ben")
        assert (joined["members"], joined["count"]) == (["Ann", "Ben"], 2)
        assert wait_for(ann, "presence", count=2)["joined"] == ["Ben"]
        error = ben.error_for(type="join", room="tea", name="ANN")
        assert error["code"] == "name_taken"
        look_alike = ben.error_for(type="join", room="tea", name="\u0410nn")  # a Cyrillic A
        assert (look_alike["code"], "looks like Ann" in look_alike["message"]) == (
            "name_taken",
            True,
        )
        ben.join("tea", "Benno")
        assert wait_for(ann, "renamed")["name"] == "Benno"
        ben.send(type="leave", room="tea")
        assert wait_for(ann, "presence", count=1)["left"] == ["Benno"]


def test_member_with_connections_to_both_nodes_is_one(nodes: list[RunningServer]) -> None:
    with ExitStack() as stack:
        ann = stack.enter_context(ChatClient(nodes[0].address))
        tabs = [stack.enter_context(ChatClient(node.address)) for node in nodes]
        ann.join("tea", "Ann")
        for tab in tabs:
            joined = tab.join("tea", "Ben", session=SESSION)
            assert (joined["members"], joined["count"]) == (["Ann", "Ben"], 2)
        tabs[0].client.close()
        time.sleep(0.5)
        assert ann.join("tea", "Ann")["count"] == 2, "the other tab is still there"
        tabs[1].client.close()
        assert wait_for(ann, "presence", count=1)["left"] == ["Ben"]


def test_session_returns_on_another_node_and_keeps_its_name(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann:
        session = ann.join("tea", "Ann")["session"]
    with ChatClient(nodes[1].address) as thief, ChatClient(nodes[1].address) as back:
        assert thief.error_for(type="join", room="tea", name="Ann")["code"] == "name_taken"
        assert back.join("tea", "Ann", session=session)["name"] == "Ann"


def test_name_raced_on_all_nodes_is_given_once(url: str) -> None:
    tries = 25
    with running_nodes(url, 4) as nodes, ExitStack() as stack:
        clients = [stack.enter_context(ChatClient(node.address)) for node in nodes]
        for number in range(tries):
            results: list[str] = []

            def claim(client: ChatClient, number: int, results: list[str]) -> None:
                client.send(type="join", room=f"r{number}", name="Ann", session=None)
                while (message := client.receive())["type"] not in ("joined", "error"):
                    pass
                results.append(message["type"])

            threads = [
                threading.Thread(target=claim, args=(client, number, results)) for client in clients
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert sorted(results) == ["error", "error", "error", "joined"], number


def test_key_sent_to_two_nodes_at_once_is_stored_once(
    nodes: list[RunningServer], server: Engine, url: str
) -> None:
    with ExitStack() as stack:
        tabs = [stack.enter_context(ChatClient(node.address)) for node in nodes]
        for tab in tabs:
            tab.join("tea", "Ann", session=SESSION)
        for number in range(50):
            for tab in tabs:
                tab.send(type="say", room="tea", text=f"text {number}", key=f"key {number}")
            ids = {wait_for(tab, "message", key=f"key {number}")["id"] for tab in tabs}
            assert ids == {number + 1}
    rows = server.execute("SELECT count(*) FROM chatd.messages", database=url.rpartition("/")[2])
    assert rows == [(50,)]


def test_typing_and_direct_messages_cross_nodes(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        one = ann.join("tea", "Ann")["author"]
        two = ben.join("tea", "Ben")["author"]
        ann.send(type="typing", room="tea")
        assert wait_for(ben, "typing")["name"] == "Ann"
        room = "@" + "".join(sorted((one, two)))
        ann.join(room, "Ann")
        ann.say(room, "psst")
        assert wait_for(ben, "direct", room=room)["name"] == "Ann"
        assert ben.join(room, "Ben")["messages"][0]["text"] == "psst"


def test_directory_counts_the_members_of_all_nodes(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann, ChatClient(nodes[1].address) as ben:
        ann.join("tea", "Ann")
        ann.say("tea", "hello")
        ben.join("coffee", "Ben")
        ben.send(type="rooms")
        rooms = {each["room"]: each["count"] for each in wait_for(ben, "rooms")["rooms"]}
        assert rooms == {"tea": 1, "coffee": 1}


def test_search_pages_through_rooms_in_the_order_of_all(nodes: list[RunningServer]) -> None:
    with ChatClient(nodes[0].address) as ann:
        for room in ("tea", "coffee"):
            ann.join(room, "Ann")
        for number in range(60):
            ann.say(("tea", "coffee")[number % 2], f"straße {number}")
        found: list[str] = []
        before = None
        while True:
            ann.send(type="search", room=None, text="STRASSE", before=before)
            results = wait_for(ann, "results")
            found += [each["text"] for each in results["messages"]]
            before = results["before"]
            if before is None:
                break
        assert found == [f"straße {number}" for number in reversed(range(60))]


def moderator(url: str, node: RunningServer, room: str) -> ChatClient:
    from chatd.storage.postgres.invitations import StoredInvitations

    token = Invitations(StoredInvitations(url)).issue("Mod", [], 1, time.time(), "moderator")
    client = ChatClient(node.address)
    client.join(room, "Mod", token=token)
    return client


def invitations_of(url: str) -> Invitations:
    from chatd.storage.postgres.invitations import StoredInvitations

    return Invitations(StoredInvitations(url))


def test_kick_mute_and_ban_hold_on_all_nodes(url: str) -> None:
    from chatd.storage.postgres.store import PostgresStore

    PostgresStore(url).close()  # creates the schema
    with (
        running_nodes(url, invitations=invitations_of(url), invite_only=False) as nodes,
        moderator(url, nodes[0], "tea") as mod,
        ChatClient(nodes[1].address) as ben,
        ChatClient(nodes[1].address) as cem,
    ):
        author = ben.join("tea", "Ben", session=SESSION)["author"]
        cem.join("tea", "Cem")
        wait_for(mod, "presence", count=3)
        mod.send(type="kick", room="tea", author=author)
        assert wait_for(cem, "moderated", action="kick")["name"] == "Ben"
        assert wait_for(ben, "error", code="kicked")["room"] == "tea"
        assert wait_for(cem, "presence", count=2)["left"] == ["Ben"]
        ben.join("tea", "Ben", session=SESSION)
        wait_for(mod, "presence", joined=["Ben"])
        mod.send(type="mute", room="tea", author=author, seconds=600)
        wait_for(cem, "moderated", action="mute")
        poll(
            lambda: _is_muted(ben),
            "the other node applies the mute within seconds",
        )
        mod.send(type="ban", room="tea", author=author, seconds=None)
        assert wait_for(ben, "error", code="banned")["room"] == "tea"
        assert ben.error_for(type="join", room="tea", name="Ben")["code"] == "banned"


def _is_muted(client: ChatClient) -> bool:
    client.send(type="say", room="tea", text="x", key="mute")
    while (message := client.receive()).get("key") != "mute":
        pass
    return bool(message["type"] == "error")


def test_operators_ban_and_revocation_reach_open_connections(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from chatd.storage.postgres.store import PostgresStore

    PostgresStore(url).close()
    store = ["--store", url]
    assert main(["invite", "Ann", *store]) == 0
    token = capsys.readouterr().out.strip().partition("#invite=")[2]
    with running_nodes(url, invitations=invitations_of(url), invite_only=False) as nodes:
        with ChatClient(nodes[1].address) as ann, ChatClient(nodes[0].address) as ben:
            assert ann.join("tea", "x", token=token)["author"] == name_author("Ann")
            ben.join("tea", "Ben", session=SESSION)
            ben.say("tea", "hello")
            assert main(["ban", "Ben", "1h", *store]) == 0
            assert wait_for(ben, "error", code="banned")
        assert main(["bans", *store]) == 0
        assert "ban Ben in all rooms" in capsys.readouterr().out
        assert main(["export", "--audit", *store]) == 0
        acts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {act["author"] for act in acts} == {session_author(SESSION), name_author("Ben")}


def test_revocation_closes_connections_within_seconds(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from chatd.storage.postgres.store import PostgresStore
    from tests.chat import serve_chat

    store = PostgresStore(url)
    assert main(["invite", "Ann", "--store", url]) == 0
    token = capsys.readouterr().out.strip().partition("#invite=")[2]
    with (
        serve_chat(store, invitations=Invitations(store), invite_only=True) as node,
        ChatClient(node.address) as ann,
    ):
        ann.join("tea", "x", token=token)
        assert main(["revoke", "Ann", "--store", url]) == 0
        with pytest.raises(ConnectionClosed) as closed:
            wait_for(ann, "nothing")
        assert closed.value.code == 1008
