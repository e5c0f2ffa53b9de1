"""Fuzz target: chat.v1 messages of clients, and the rooms that they join.

Each line of an input is an action of one of four clients. The first byte of a line chooses
the client and three options: the connection is lost, time passes, the iteration ends.
The rest is a message of the client. In it, `"session":"0"` stands for the first session
that a room has issued.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from chatd import protocol
from chatd.model import Message, normalize_name, session_author
from chatd.rooms import Member, NameTaken, Room
from tests.chat import bare_peer, bare_room

CLIENT = 0x03
CONNECTION_LOST = 0x04
TIME_PASSES = 0x08
ITERATION_ENDS = 0x10

SAMPLE = Message(1, "2026-01-01T00:00:00Z", "Ann", "Hello")


def check(data: bytes) -> None:
    """Raise `AssertionError` if a client's list of members differs from the room's."""
    chat = Chat()
    for line in data.split(b"\n")[:40]:
        options = line[0] if line else 0
        if options & TIME_PASSES:
            chat.now += 20.0
        if options & CONNECTION_LOST:
            chat.disconnect(options & CLIENT)
        else:
            chat.receive(options & CLIENT, line[1:].decode(errors="replace"))
        if options & ITERATION_ENDS:
            chat.end_iteration()
    chat.end_iteration()


class Chat:
    """Rooms without sockets or a message store, and the list of members in each client."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.peers = [bare_peer() for _ in range(4)]
        self.rooms: dict[str, Room] = {}
        self.members: dict[tuple[str, int], Member] = {}
        self.known_names: dict[tuple[str, int], set[str]] = {}
        self.sessions: list[str] = []

    def receive(self, client: int, text: str) -> None:
        """Act on a message of a client, as chatd does."""
        try:
            received = protocol.parse(text)
        except protocol.ChatError as error:
            reply = decoded(protocol.error(error))
            assert reply["code"] in ("bad_message", "too_long")
            assert reply.get("key") == error.key
            return
        if isinstance(received, protocol.Join):
            self.join(client, received)
        elif isinstance(received, protocol.Leave):
            self.leave(client, received.room)
        elif isinstance(received, protocol.Say):
            message = protocol.message(received.room, SAMPLE._replace(text=received.text))
            reply = decoded(protocol.acknowledgement(message, received.key))
            assert (reply["text"], reply.get("key")) == (received.text, received.key)
            assert reply["room"] == received.room
        elif isinstance(received, protocol.Ping):
            assert decoded(protocol.pong(received.t))["t"] == received.t
        elif isinstance(received, protocol.History):
            messages = [SAMPLE] * (received.limit > 9)
            more = received.before is None
            decoded(protocol.history(received.room, messages, more=more, more_after=False))
        elif isinstance(received, protocol.Change):
            changed = SAMPLE._replace(kind=received.kind, text=received.text, ref=received.ref)
            reply = decoded(protocol.message(received.room, changed))
            assert reply["type"] == received.kind.name.lower()
        elif isinstance(received, protocol.Typing):
            decoded(protocol.typing(received.room, "Ann"))

    def join(self, client: int, join: protocol.Join) -> None:
        """Add a client to a room, and give it the list of members."""
        # Normalizing is idempotent, so that a client can rejoin under the name in `joined`.
        assert normalize_name(join.name) == join.name
        session = join.session
        if session is not None and session in map(str, range(len(self.sessions))):
            session = self.sessions[int(session)]
        room = self.rooms.setdefault(join.room, bare_room(join.room))
        place = (join.room, client)
        before = self.members.get(place)
        if session is None:
            session = f"session {len(self.sessions)}"
        author = session_author(session) if before is None else before.author
        try:
            member = room.join(join.name, author, self.peers[client], self.now).member
        except NameTaken:
            return
        self.members[place] = member
        self.sessions.append(session)
        members = room.names_to_send()
        self.known_names[place] = {name for name, _ in members}
        reply = protocol.joined(
            join.room,
            member.name,
            author,
            session,
            members,
            room.count,
            [SAMPLE],
            [],
            topic="",
            moderator=False,
            gap=False,
        )
        assert decoded(reply)["members"] == [name for name, _ in members]
        assert member.name == join.name

    def leave(self, client: int, room: str) -> None:
        """Remove a client from a room if it is a member."""
        member = self.members.pop((room, client), None)
        if member is not None:
            del self.known_names[room, client]
            self.rooms[room].leave(member, self.peers[client])

    def disconnect(self, client: int) -> None:
        """Remove a client from all rooms and reserve its names."""
        for place in [place for place in self.members if place[1] == client]:
            member = self.members.pop(place)
            self.rooms[place[0]].leave(member, self.peers[client], reserve_at=self.now)
            del self.known_names[place]

    def end_iteration(self) -> None:
        """Send presence to all members; check that each knows the names of the room."""
        for room in self.rooms.values():
            joined, left = room.take_changes() or ([], [])
            presence = decoded(protocol.presence(room.name, joined, left, room.count))
            members = {each for place, each in self.members.items() if place[0] == room.name}
            names = {member.name for member in members}
            assert len({name.casefold() for name in names}) == len(members) == room.count
            for place, known in self.known_names.items():
                if place[0] == room.name:
                    known.difference_update(presence["left"])
                    known.update(presence["joined"])
                    assert known == names, f"{place} knows {known}, not {names}"
            room.expire_reservations(self.now)


def decoded(encoded: str) -> dict[str, Any]:
    """Return the fields of a server message; check that it is one line of UTF-8."""
    encoded.encode()
    assert "\n" not in encoded

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fields = json.loads(encoded, parse_constant=refuse)
    assert isinstance(fields, dict)
    return fields


SAMPLES: tuple[dict[str, object], ...] = (
    {"type": "join", "room": "tea", "name": "Ann"},
    {"type": "join", "room": "tea", "name": "ann", "session": "0", "after": 3, "token": "a.b"},
    {"type": "join", "room": "tea", "name": "\uff21nn \u2126", "after": None},
    {"type": "say", "room": "tea", "text": "Hello", "key": "k1"},
    {"type": "say", "room": "tea", "text": '\u2028"\\\n\x7f\U0001f600', "key": None},
    {"type": "history", "room": "tea", "before": 9223372036854775807, "limit": 200},
    {"type": "edit", "room": "tea", "text": "Hello", "ref": 1, "key": "k2"},
    {"type": "react", "room": "tea", "emoji": "\U0001f44d", "on": False, "ref": 1},
    {"type": "search", "room": None, "text": "hello"},
    {"type": "ban", "room": "tea", "author": "sabcdefghijk", "seconds": 60},
    {"type": "leave", "room": "tea"},
    {"type": "typing", "room": "tea"},
    {"type": "ping", "t": 1.5},
    {"type": "ping", "t": "x"},
    {"type": "say", "room": "tea", "text": "\ud800"},
    {"type": "nothing"},
)


def seeds() -> Iterator[bytes]:
    """Yield each client message alone, and some conversations."""
    lines = [json.dumps(fields).encode() for fields in SAMPLES]
    for line in lines:
        yield b"0" + line
    for client in range(4):
        yield b"\n".join(
            bytes((0x30 + (client * number) % 4,)) + x for number, x in enumerate(lines)
        )
    join, again, leave = lines[0], lines[1], lines[6]
    yield b"\n".join((b"0" + join, b"$", b"1" + again, b"," + join, b"1" + leave))
    yield b"\n".join((b" " + join, b"!" + again, b"0" + join.replace(b"Ann", b"Ben"), b"2" + leave))
    for text in (b"[]", b'"x"', b"NaN", b"1e999", b"-0", b"{" * 50, b'{"type":"ping","t":1e999}'):
        yield b"0" + text
