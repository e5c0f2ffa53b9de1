"""Invitations: tokens, revocation, files, and a server that requires invitations."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd import app, recheck
from chatd.__main__ import main
from chatd.access import invitations as invitations_module
from chatd.access.authorizer import Authorizer
from chatd.access.invitation_files import SECRET_SIZE
from chatd.access.invitations import (
    DAY,
    Invitation,
    Invitations,
    Unauthorized,
)
from tests.chat import ChatClient, open_client, serve_chat
from tests.chatd.test_options import fails
from tests.support import PATIENCE, ROOT, RunningServer, command, connect, daemon, handshake, poll
from wsproto_min import ConnectionClosed, HandshakeError
from wsproto_min.net.client import Client

NOW = 1_700_000_000.0


@pytest.fixture
def invitations(tmp_path: Path) -> Invitations:
    return Invitations(tmp_path)


def reason(invitations: Invitations, token: str | None, now: float = NOW) -> str:
    """Return the reason for which a token is refused."""
    with pytest.raises(Unauthorized) as caught:
        invitations.check(token, now)
    return str(caught.value)


# Tokens.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Invitations:
    return Invitations(tmp_path_factory.mktemp("shared"))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.text("ab-_.")))
def test_check_returns_name_and_rooms_of_an_issued_token(
    shared: Invitations, name: str, rooms: list[str]
) -> None:
    token = shared.issue(name, rooms, 1.0, NOW)
    assert re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}", token), "a URL must escape this token"
    assert shared.check(token, NOW) == Invitation(name, tuple(rooms))


def test_token_has_no_spaces_and_no_padding(invitations: Invitations) -> None:
    payload, _, _ = invitations.issue("Ann", ["a", "b"], 1.0, NOW).partition(".")
    fields = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    assert b" " not in fields
    assert b"=" not in payload.encode()


def test_invitation_admits_its_rooms_or_all_rooms() -> None:
    assert Invitation("Ann", ("a", "b")).admits("a")
    assert not Invitation("Ann", ("a", "b")).admits("A")
    assert Invitation("Ann", ()).admits("anywhere")


def test_token_with_any_changed_character_is_refused(
    invitations: Invitations,
) -> None:
    token = invitations.issue("Ann", ["lobby"], 7, NOW)
    for index, character in enumerate(token):
        others = [chr(ord(character) ^ 1 << bit) for bit in range(8)]
        for other in (*others, "", character * 2, "\u0100"):
            forged = token[:index] + other + token[index + 1 :]
            if forged != token:
                assert "not genuine" in reason(invitations, forged), f"{other!r} at {index}"
    for forged in (token + "=", token + "A", token + ".", f" {token}", token.replace(".", "")):
        assert "not genuine" in reason(invitations, forged), forged


@pytest.mark.parametrize("token", [".", "x", "a.b", "....", "é.é", "\0", "e30.", "\xff" * 100])
def test_malformed_token_is_refused(invitations: Invitations, token: str) -> None:
    assert "not genuine" in reason(invitations, token)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_arbitrary_text_is_refused_as_a_token(shared: Invitations, text: str) -> None:
    assert "not genuine" in reason(shared, text)


def test_missing_token_is_refused_with_a_hint(invitations: Invitations) -> None:
    for token in (None, ""):
        assert "by invitation only" in reason(invitations, token)


def test_token_of_another_secret_is_refused(invitations: Invitations, tmp_path: Path) -> None:
    token = Invitations(tmp_path / "elsewhere").issue("Ann", [], 7, NOW)
    assert "not genuine" in reason(invitations, token)


def test_reasons_of_refusal_name_the_remedy(invitations: Invitations) -> None:
    token = invitations.issue("Ann", [], 1, NOW)
    asked = [(None, NOW), ("x", NOW), (token, NOW + DAY), (token, NOW)]
    invitations.revoke("Ann", NOW)
    assert [reason(invitations, *each) for each in asked] == [
        "this chat is by invitation only; open the link that you were sent",
        "the invitation is not genuine; ask for a new link",
        "the invitation has expired; ask for a new link",
        "the invitation was revoked; ask the operator of this chat",
    ]


def test_token_expires_exactly_after_its_days(invitations: Invitations) -> None:
    token = invitations.issue("Ann", [], 2, NOW)
    invitations.check(token, NOW + 2 * DAY - 0.001)
    invitations.check(invitations.issue("Ann", [], 2, 0.0), 1.0)  # a machine without a clock
    assert "expired" in reason(invitations, token, NOW + 2 * DAY)


# Revoking.


def test_revoke_voids_earlier_tokens_of_the_name_in_any_case(
    invitations: Invitations,
) -> None:
    ann, ben = (invitations.issue(name, [], 7, NOW) for name in ("Ann", "Ben"))
    invitations.revoke("ANN", NOW)
    assert "revoked" in reason(invitations, ann, NOW + 1)
    invitations.check(ben, NOW + 1)
    new = invitations.issue("ann", [], 7, NOW + 0.001)
    assert invitations.check(new, NOW + 1).name == "ann"
    invitations.revoke("Ben", NOW + 5)
    assert "revoked" in reason(invitations, ann, NOW + 6), "the second revocation undid the first"
    assert "revoked" in reason(invitations, ben, NOW + 6)


def test_revocation_list_is_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitations = Invitations(tmp_path)
    token = invitations.issue("Ann", [], 7, NOW)
    reads = []
    read_text = Path.read_text

    def counted(path: Path) -> str:
        reads.append(path)
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", counted)
    for changes in (1, 2):
        Invitations(tmp_path).revoke("Ben", NOW + changes)
        reads.clear()
        for _ in range(3):
            invitations.check(token, NOW)
        assert len(reads) == 1


def test_revocation_by_another_process_takes_effect_at_once(tmp_path: Path) -> None:
    serving = Invitations(tmp_path)
    tokens = [serving.issue(f"n{number}", [], 7, NOW) for number in range(3)]
    for number, token in enumerate(tokens):
        serving.check(token, NOW)
        script = (
            "import sys; from pathlib import Path\n"
            "from chatd.access.invitations import Invitations\n"
            f"Invitations(Path(sys.argv[1])).revoke('n{number}', {NOW})"
        )
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=PATIENCE
        )
        assert "revoked" in reason(serving, token)


def test_concurrent_revocations_all_take_effect(tmp_path: Path) -> None:
    invitations = Invitations(tmp_path)
    tokens = [invitations.issue(f"n{number}", [], 7, NOW) for number in range(40)]
    script = (
        "import sys; from pathlib import Path; from chatd.access.invitations import Invitations\n"
        "sys.stdin.read()\n"
        f"for name in sys.argv[2:]: Invitations(Path(sys.argv[1])).revoke(name, {NOW})"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), *(f"n{n}" for n in range(at, at + 10))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        for at in (0, 10, 20, 30)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(PATIENCE) for process in processes] == [0] * 4
    for token in tokens:
        assert "revoked" in reason(invitations, token)


def test_list_changes_counts_the_changes_that_were_loaded(tmp_path: Path) -> None:
    invitations = Invitations(tmp_path)
    counts = [invitations.list_changes]
    for number in range(2):
        invitations.revoke(f"n{number}", NOW)
        for _ in range(2):
            invitations.load_revocations()
        counts.append(invitations.list_changes)
    assert counts == [0, 1, 2]
    assert Invitations(tmp_path).list_changes == 1


class MemorySource:
    """A secret and a revocation list without files."""

    def __init__(self) -> None:
        self.secret = bytes(SECRET_SIZE)
        self.list_changes = 0
        self.revocations: dict[str, float] = {}

    def load_revocations(self) -> dict[str, float]:
        return self.revocations

    def revoke(self, key: str, now: float, /) -> None:
        self.revocations[key] = now


def test_invitations_of_another_source_are_checked_and_revoked() -> None:
    source = MemorySource()
    invitations = Invitations(source)
    token = invitations.issue("Ann", [], 7, NOW)
    assert Invitations(source).check(token, NOW).name == "Ann"
    invitations.revoke("ANN", NOW)
    assert source.revocations == {"ann": NOW}
    assert "revoked" in reason(invitations, token)


def test_number_of_verified_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations_module, "VERIFIED_TOKENS", 2)
    invitations = Invitations(MemorySource())
    tokens = [invitations.issue(f"n{number}", [], 7, NOW) for number in range(3)]
    with counted_signatures(monkeypatch) as signatures:
        for token in (*tokens, tokens[2], tokens[1], tokens[0]):
            invitations.check(token, NOW)
    assert len(signatures) == 4, "the oldest of three tokens is verified again"


# Open chats.


def test_open_chat_admits_guests_and_ignores_other_tokens(invitations: Invitations) -> None:
    authorizer = Authorizer(invitations, required=False)
    token = invitations.issue("Ann", ["lobby"], 7, time.time())
    assert authorizer.authorize(token, "lobby") == Invitation("Ann", ("lobby",))
    for other in (None, "", "forged", token[:-1]):
        assert authorizer.authorize(other, "lobby") is None
    assert authorizer.authorize(token, "cellar") is None
    assert Authorizer(None).authorize(token, "lobby") is None


def test_check_without_invitations_refuses_every_token() -> None:
    with pytest.raises(Unauthorized, match=r"^this chat has no invitations$"):
        Authorizer(None).check("token", "lobby")


def test_room_filter_ignores_tokens_that_are_invalid(invitations: Invitations) -> None:
    token = invitations.issue("Ann", ["lobby"], 7, time.time())
    admits = Authorizer(invitations).room_filter([None, "forged", token])
    assert [admits("lobby"), admits("cellar")] == [True, False]
    assert not Authorizer(invitations).room_filter(["forged"])("lobby")
    assert Authorizer(invitations, required=False).room_filter([])("cellar")


def test_recheck_with_a_damaged_list_keeps_the_expiry(
    invitations: Invitations, tmp_path: Path
) -> None:
    authorizer = Authorizer(invitations)
    now = time.time()
    token = invitations.issue("Ann", [], 1, now)
    (tmp_path / "revoked").write_text("{")
    assert authorizer.recheck(token) is None
    assert [authorizer.needs_recheck(at) for at in (now, now + DAY)] == [False, True]


# The secret.


def test_secret_is_created_once_and_private_to_its_owner(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        token = Invitations(tmp_path / "new" / "directory").issue("Ann", [], 7, NOW)
    finally:
        os.umask(mask)
    path = tmp_path / "new" / "directory" / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_bytes()
    assert len(secret) == SECRET_SIZE == 32
    assert Invitations(path.parent).check(token, NOW).name == "Ann"
    assert path.read_bytes() == secret
    assert Invitations(tmp_path) is not None
    assert (tmp_path / "secret").read_bytes() != secret


def test_short_secret_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for size in (0, 31):
        (tmp_path / "secret").write_bytes(b"x" * size)
        with pytest.raises(OSError, match="shorter than 32 bytes") as caught:
            Invitations(tmp_path)
        assert str(caught.value) == (
            f"secret {tmp_path / 'secret'}: shorter than 32 bytes; remove the file, and chatd"
            " creates another"
        )


# A server that requires invitations.


def test_join_uses_the_name_of_the_token_and_needs_one(
    invitations: Invitations,
) -> None:
    now = time.time()
    token = invitations.issue("Ann", ["lobby", "cellar"], 7, now)
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ann:
        join = {"type": "join", "room": "lobby", "name": "Other"}
        for bad in (None, "", "forged." + token.partition(".")[2], token[:-1]):
            refused = ann.error_for(**join, token=bad)
            assert (refused["code"], refused["room"]) == ("unauthorized", "lobby")
        expired = invitations.issue("Ann", [], 1, now - 2 * DAY)
        assert "expired" in ann.error_for(**join, token=expired)["message"]
        assert (
            "not for the room attic"
            in ann.error_for(**join | {"room": "attic"}, token=token)["message"]
        )
        assert ann.join("lobby", "Other", token=token)["name"] == "Ann"
        assert ann.join("cellar", "Ann", token=token)["members"] == ["Ann"]
        assert ann.say("lobby", "hello")["name"] == "Ann"
        with ChatClient(chat.address) as other:
            bens = invitations.issue("Ben", [], 7, now)
            assert other.join("lobby", "Ann", token=bens)["name"] == "Ben"
        with ChatClient(chat.address) as phone:  # another device of the same person
            mine = invitations.issue("ANN", [], 7, now)
            assert phone.join("lobby", "x", token=mine)["members"] == ["ANN"]


def test_token_regains_a_reserved_name_without_the_session(
    invitations: Invitations,
) -> None:
    token = invitations.issue("Ann", [], 7, time.time())
    with serve_chat(invitations=invitations) as chat:
        with ChatClient(chat.address) as ann:
            author = ann.join("lobby", "Ann", token=token)["author"]
        chat.wait_for_peers(0)
        with ChatClient(chat.address) as ann:
            joined = ann.join("lobby", "Ann", token=token)
            assert joined["name"] == "Ann"
            assert joined["author"] == author


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[str, str]]:
    return [("Authorization", f"{scheme} {token}")]


def test_plain_mode_reads_the_token_from_authorization_header(
    invitations: Invitations,
) -> None:
    now = time.time()
    token = invitations.issue("Ann", ["lobby"], 7, now)
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ben:
        ben.join("lobby", "Ben", token=invitations.issue("Ben", [], 7, now))
        hint = "by invitation only.*; send its token as 'Authorization: Bearer TOKEN'$"
        for headers, reason in (
            ([], hint),
            (bearer(""), hint),
            (bearer(token, "Basic"), hint),
            ([("Authorization", token)], hint),
            (bearer(token[:-1]), "not genuine; ask for a new link$"),
            (bearer(invitations.issue("Ann", ["cellar"], 7, now)), "not for the room lobby$"),
            (bearer(invitations.issue("Ann", [], 1, now - 2 * DAY)), "expired"),
        ):
            with pytest.raises(HandshakeError, match=reason) as caught:
                open_client(chat.address, headers=headers)
            assert caught.value.status == 401
            assert ("www-authenticate", 'Bearer realm="chatd"') in caught.value.headers
        with (
            open_client(chat.address, headers=bearer(f" {token}", "bearer")) as first,
            open_client(chat.address, headers=bearer(token)) as second,
        ):
            first.send("in plain mode")
            assert ben.receive_type("message")["name"] == "Ann"
            second.send("by the same person")
            assert ben.receive_type("message")["name"] == "Ann"
            assert first.recv(PATIENCE) == "by the same person"
            ben.say("lobby", "heard")
            assert first.recv(PATIENCE) == "heard"
        with pytest.raises(HandshakeError, match="not for the room cellar"):
            open_client(chat.address, "/r/cellar", headers=bearer(token))


def test_peer_that_leaves_before_joining_causes_no_log_record(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "JOIN_TIMEOUT", 0.05)
    with serve_chat(invitations=invitations) as chat:
        ChatClient(chat.address).client.close()
        with ChatClient(chat.address) as later:
            assert later.receive_close()[0] == 1008
    assert caplog.records == []


def test_peer_that_joined_and_left_is_not_closed_at_the_timeout(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "JOIN_TIMEOUT", 0.05)
    token = invitations.issue("Ann", [], 7, time.time())
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann", token=token)
        ann.send(type="leave", room="lobby")
        with ChatClient(chat.address) as later:
            assert later.receive_close()[0] == 1008
        assert ann.join("lobby", "Ann", token=token)["members"] == ["Ann"]


def end_of(plain: Client) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        plain.recv(PATIENCE)
    return caught.value.code, caught.value.reason


def test_revocation_closes_the_peers_of_the_name_in_both_modes(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.02)
    now = time.time()
    anns, bens = (invitations.issue(name, [], 7, now) for name in ("Ann", "Ben"))
    with (
        serve_chat(invitations=invitations) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as ben,
        open_client(chat.address, headers=bearer(anns)) as plain,
    ):
        ben.join("lobby", "Ben", token=bens)
        ann.join("lobby", "Ann", token=anns)
        # A later join with another token does not protect the connection.
        ann.join("cellar", "Ben", token=bens)
        invitations.revoke("ann", time.time())
        banned = ann.receive_type("error")
        assert banned["code"] == "banned"
        assert "revoked" in banned["message"]
        assert ann.receive_close() == (1008, banned["message"])
        assert end_of(plain) == (1008, banned["message"])
        ben.say("lobby", "I may stay")


def test_revocation_ignores_the_token_of_a_room_left_before(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.02)
    now = time.time()
    anns, bens, cems = (invitations.issue(name, [], 7, now) for name in ("Ann", "Ben", "Cem"))
    with (
        serve_chat(invitations=invitations) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as cem,
    ):
        cem.join("lobby", "Cem", token=cems)
        ann.join("lobby", "Ann", token=anns)
        ann.join("cellar", "Ben", token=bens)
        ann.send(type="leave", room="lobby")
        ann.receive_pending()
        for name in ("Ann", "Cem"):
            invitations.revoke(name, time.time())
        assert cem.receive_type("error")["code"] == "banned"  # so the recheck has run
        ann.say("cellar", "still here")


@pytest.mark.parametrize("damage", ["{", "[]", '{"ann": null}', "null", '{"ann": "x"}'])
def test_damaged_revocation_list_refuses_joins_until_repaired(
    damage: str,
    invitations: Invitations,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.02)
    token = invitations.issue("Ann", [], 7, time.time())
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ann:
        ann.join("lobby", "Ann", token=token)
        (tmp_path / "revoked").write_text(damage)
        poll(lambda: len(caplog.records) >= 1, "the failed recheck is logged")
        with ChatClient(chat.address) as ben:
            refused = ben.error_for(type="join", room="lobby", name="Ann", token=token)
            assert refused["code"] == "unauthorized"
            assert "cannot be checked at the moment; tell the operator" in refused["message"]
        ann.say("lobby", "still here")
        (line,) = {record.getMessage() for record in caplog.records}
        assert line.startswith("revocation list ")
        assert line.endswith("; chatd refuses new joins")
        assert "revoked: the file is damaged; restore a backup, or remove the file" in line
        (tmp_path / "new").write_text(json.dumps({"ann": time.time()}))
        (tmp_path / "new").replace(tmp_path / "revoked")
        assert ann.receive_type("error")["code"] == "banned"


def test_unreadable_revocation_list_is_logged_once(
    invitations: Invitations, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = invitations.issue("Ann", [], 7, NOW)
    (tmp_path / "revoked").mkdir()
    for _ in range(3):
        assert reason(invitations, token) == (
            "invitations cannot be checked at the moment; tell the operator of this chat"
        )
    (record,) = caplog.records
    assert (
        f"revocation list {tmp_path / 'revoked'}: cannot read: Is a directory"
        in record.getMessage()
    )
    (tmp_path / "revoked").rmdir()
    assert invitations.check(token, NOW).name == "Ann"


def test_each_outage_of_the_revocation_list_is_logged(
    invitations: Invitations, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, revoked = invitations.issue("Ann", [], 7, NOW), tmp_path / "revoked"
    invitations.revoke("Ben", NOW)
    assert invitations.check(token, NOW).name == "Ann"
    for outages in (1, 2, 3):
        revoked.rename(tmp_path / "same file")
        revoked.symlink_to("revoked")
        assert "cannot be checked" in reason(invitations, token)
        assert "cannot be checked" in reason(invitations, token)
        revoked.unlink()
        (tmp_path / "same file").rename(revoked)
        assert invitations.check(token, NOW).name == "Ann"
        assert len(caplog.records) == outages
    assert caplog.messages[0].startswith(f"revocation list {revoked}: cannot read: ")


def test_commands_fail_with_a_damaged_revocation_list(tmp_path: Path) -> None:
    (tmp_path / "chat.db").touch()
    invitations = Invitations(tmp_path)
    (tmp_path / "revoked").write_text("{")
    damaged = (
        f"revocation list {tmp_path / 'revoked'}: the file is damaged; restore a backup, or remove"
        " the file and revoke its names again"
    )
    for arguments in (["--invite-only", "--port", "0"], ["revoke", "Ann"], ["invite", "Ann"]):
        line = fails(*arguments, "--db", str(tmp_path / "chat.db"))
        assert damaged in line
    with pytest.raises(OSError, match="is damaged") as caught:
        invitations.revoke("Ann", NOW)
    assert str(caught.value) == damaged


def test_revocation_list_keeps_owner_and_mode_of_the_secret(
    invitations: Invitations, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    if os.geteuid() == 0:
        os.chown(secret, 65534, 65534)
    before = os.umask(0o077)
    try:
        invitations.revoke("Ann", NOW)
    finally:
        os.umask(before)
    found, owner = (tmp_path / "revoked").stat(), secret.stat()
    assert (found.st_uid, found.st_gid, found.st_mode) == (
        owner.st_uid,
        owner.st_gid,
        owner.st_mode,
    )


def test_recheck_ignores_connections_in_the_handshake(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.01)
    token = invitations.issue("Ann", [], 7, time.time())
    with (
        serve_chat(invitations=invitations) as chat,
        connect(chat.address) as sock,
        ChatClient(chat.address) as ann,
    ):
        request = handshake()
        sock.sendall(request[:20])
        chat.wait_for_peers(2)
        ann.join("lobby", "Ann", token=token)
        invitations.revoke("Ann", time.time())
        assert ann.receive_type("error")["code"] == "banned"  # so the recheck has run
        sock.sendall(request[20:])
        assert sock.recv(4096).startswith(b"HTTP/1.1 401 ")
    assert caplog.records == []


@contextmanager
def counted_signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List the payloads that the block signs, for a new token or a verification."""
    payloads: list[str] = []
    sign = Invitations._sign

    def count(self: Invitations, payload: str) -> str:
        payloads.append(payload)
        return sign(self, payload)

    with monkeypatch.context() as patched:
        patched.setattr(Invitations, "_sign", count)
        yield payloads


def test_recheck_of_unchanged_list_verifies_no_token(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.01)
    token = invitations.issue("Ann", [], 7, time.time())
    checks: list[str | None] = []
    check = Authorizer.recheck

    def count(self: Authorizer, token: str | None) -> str | None:
        checks.append(token)
        return check(self, token)

    monkeypatch.setattr(Authorizer, "recheck", count)
    with (
        counted_signatures(monkeypatch) as signatures,
        serve_chat(invitations=invitations) as chat,
        ChatClient(chat.address) as ann,
    ):
        for number in range(100):
            ann.join(f"room-{number}", "Ann", token=token)
        time.sleep(0.1)  # ten intervals
        assert (len(signatures), checks) == (1, [])
        invitations.revoke("Ben", time.time())
        poll(lambda: checks, "a change of the list starts a recheck")
        time.sleep(0.05)
        assert (len(signatures), checks) == (1, [token])
        ann.say("room-0", "still here")


def test_recheck_closes_connection_when_its_token_expires(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.01)
    now = time.time()
    short, long = (invitations.issue("Ann", [], days, now) for days in (0.5 / DAY, 7))
    with serve_chat(invitations=invitations) as chat, ChatClient(chat.address) as ann:
        ann.join("tea", "Ann", token=long)
        ann.join("lobby", "Ann", token=short)
        error = ann.receive_type("error")
        assert error["message"] == "the invitation has expired; ask for a new link"
        assert time.time() >= now + 0.5


def test_recheck_is_needed_after_list_changes_and_expiry(tmp_path: Path) -> None:
    invitations = Invitations(tmp_path)
    authorizer = Authorizer(invitations)
    now = time.time()
    token = invitations.issue("Ann", [], 1, now)
    authorizer.authorize(token, "lobby")
    assert not authorizer.needs_recheck(now)
    assert [authorizer.needs_recheck(now + DAY), authorizer.needs_recheck(now + DAY)] == [
        True,
        False,
    ]
    invitations.revoke("Ben", now)
    assert authorizer.needs_recheck(now)
    assert authorizer.recheck(token) is None
    assert not authorizer.needs_recheck(now)
    assert authorizer.needs_recheck(now + DAY)
    # A list that is moved away and back admits and revokes again.
    invitations.revoke("Ann", now)
    authorizer.needs_recheck(now)
    (tmp_path / "revoked").rename(tmp_path / "away")
    authorizer.authorize(token, "lobby")
    (tmp_path / "away").rename(tmp_path / "revoked")
    assert authorizer.needs_recheck(now)
    assert "revoked" in str(authorizer.recheck(token))


def test_recheck_of_many_tokens_is_spread_over_iterations(
    invitations: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recheck, "RECHECK_INTERVAL", 0.01)
    monkeypatch.setattr(recheck, "RECHECK_STEP", 0.0)
    visits: list[int] = []
    check = Authorizer.recheck
    with serve_chat(invitations=invitations) as chat, ExitStack() as stack:

        def record(self: Authorizer, token: str | None) -> str | None:
            visits.append(iterations[0])
            return check(self, token)

        iterations = [0]
        monkeypatch.setattr(Authorizer, "recheck", record)
        for number in range(5):
            token = invitations.issue(f"n{number}", [], 7, time.time())
            stack.enter_context(ChatClient(chat.address)).join("lobby", "x", token=token)
        count_iterations(chat, iterations)
        invitations.revoke("Ben", time.time())
        poll(lambda: len(visits) == 5, "all five tokens were checked")
    assert len(set(visits)) == 5, visits


def count_iterations(chat: RunningServer, number: list[int]) -> None:
    """Increase `number[0]` in every later iteration of the server's loop."""

    def count() -> None:
        number[0] += 1
        chat.server.call_later(0, count)

    chat.server.call_soon_threadsafe(count)


# Commands.


LOOPBACK_WARNING = (
    "chatd: link for Ann: works on this machine only; for other machines, give the address of the"
    " page with --url\n"
)


def run(*arguments: str) -> str:
    """Run a command that must succeed; return its output."""
    result = subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result
    assert result.stderr == (LOOPBACK_WARNING if "http://127.0.0.1" in result.stdout else "")
    return result.stdout


def test_invitation_link_is_valid_until_the_name_is_revoked(tmp_path: Path) -> None:
    db = ("--db", str(tmp_path / "chat.db"))
    options = ("--port", "0", "--drain-timeout", "0.1", "--invite-only", *db)
    with daemon("tests.chatd.short_recheck", *options) as running:
        url = f"http://127.0.0.1:{running.address[1]}/"
        link = run("invite", "Ann", "--url", url, *db)
        found = re.fullmatch(re.escape(url) + r"#invite=([\w.-]+)\n", link)
        assert found, link
        with ChatClient(running.address) as ann, ChatClient(running.address) as late:
            assert ann.join("lobby", "x", token=found[1])["name"] == "Ann"
            printed = run("revoke", "ANN", *db)
            assert printed == "all invitations for ANN are revoked\n"
            refused = late.error_for(type="join", room="x", name="x", token=found[1])
            assert refused["code"] == "unauthorized"
            assert ann.receive_type("error")["code"] == "banned"
            assert ann.receive_close()[0] == 1008
        assert running.stop() == (0, "")


def test_invite_prints_link_to_first_room_valid_for_the_days(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    (tmp_path / "chat.db").touch()
    Invitations(tmp_path)
    before = time.time()
    # The option --db may precede the command.
    link = run(
        "--db", path, "invite", "  \uff21nn ", "--room", "a", "--room", "b.c", "--days", "0.5"
    )
    prefix, _, token = link.rstrip("\n").partition("#invite=")
    assert prefix == "http://127.0.0.1:8765/r/a"
    invitations = Invitations(tmp_path)
    assert invitations.check(token, time.time()) == Invitation("Ann", ("a", "b.c"))
    invitations.check(token, before + DAY / 2 - 1)
    assert "expired" in reason(invitations, token, time.time() + DAY / 2)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        *((f"http://{host}/", True) for host in ("localhost:8765", "127.1.2.3", "[::1]:8765")),
        ("https://chat.localhost/chat", True),
        *((f"http://{host}/", False) for host in ("192.0.2.7:8765", "[2001:db8::1]", "a.example")),
    ],
)
def test_invite_warns_about_a_loopback_link(
    url: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.db").touch()
    Invitations(tmp_path)
    assert main(["invite", "Ann", "--url", url, "--db", str(tmp_path / "chat.db")]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith(url)
    assert errors == (LOOPBACK_WARNING if warned else "")


def test_secret_is_in_the_state_directory_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for db in ((), ("--db", ":memory:")):
        token = run("invite", "Ann", *db).rstrip("\n").partition("#invite=")[2]
        assert Invitations(tmp_path / "chatd").check(token, time.time()).name == "Ann"
    assert stat.S_IMODE((tmp_path / "chatd").stat().st_mode) & 0o077 == 0
