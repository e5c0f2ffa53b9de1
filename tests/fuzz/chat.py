"""What clients say in the chat, and what a room makes of it.

Each line is what one of four members does. Its first byte says who, and whether
that is cut off, what time it is, and whether the turn ends there; the rest is
what the member says, where `"session":"0"` stands for the first session given out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from chatd import protocol
from chatd.model import Message, normalize_name
from chatd.rooms import Member, NameTaken, Room
from tests.chat import bare_peer, bare_room

MEMBERS = 0x03
CUT_OFF = 0x04
LATER = 0x08
TURN_ENDS = 0x10

SAMPLE = Message(1, "2026-01-01T00:00:00Z", "Ann", "Hello")


def check(data: bytes) -> None:
    """Raise `AssertionError` if a member's picture of a room is not the room."""
    chat = Chat()
    for line in data.split(b"\n")[:40]:
        act = line[0] if line else 0
        if act & LATER:
            chat.now += 20.0
        if act & CUT_OFF:
            chat.cut_off(act & MEMBERS)
        else:
            chat.hear(act & MEMBERS, line[1:].decode(errors="replace"))
        if act & TURN_ENDS:
            chat.end_turn()
    chat.end_turn()


class Chat:
    """Rooms without sockets or a log, and what each member was told of each room."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.peers = [bare_peer() for _ in range(4)]
        self.rooms: dict[str, Room] = {}
        self.seats: dict[tuple[str, int], Member] = {}
        self.told: dict[tuple[str, int], set[str]] = {}
        self.sessions: list[str] = []

    def hear(self, member: int, text: str) -> None:
        """Act on what a member says, as a chat does."""
        try:
            said = protocol.parse(text)
        except protocol.ChatError as wrong:
            answer = told(protocol.error(wrong))
            assert answer["code"] in ("bad_message", "too_long")
            assert answer.get("key") == wrong.key
            return
        if isinstance(said, protocol.Join):
            self.join(member, said)
        elif isinstance(said, protocol.Leave):
            self.leave(member, said.room)
        elif isinstance(said, protocol.Say):
            message = SAMPLE._replace(text=said.text)
            answer = told(protocol.acknowledgement(protocol.message(said.room, message), said.key))
            assert (answer["text"], answer.get("key")) == (said.text, said.key)
            assert answer["room"] == said.room
        elif isinstance(said, protocol.Ping):
            assert told(protocol.pong(said.t))["t"] == said.t
        elif isinstance(said, protocol.History):
            told(protocol.history(said.room, [SAMPLE] * (said.limit > 9), more=said.before is None))
        else:
            told(protocol.typing(said.room, "Ann"))

    def join(self, member: int, said: protocol.Join) -> None:
        """Give a member its seat, and the room's picture."""
        # A name that was cleaned is clean, so that it can be taken back as it was told.
        assert normalize_name(said.name) == said.name
        session = said.session
        if session is not None and session in map(str, range(len(self.sessions))):
            session = self.sessions[int(session)]
        room = self.rooms.setdefault(said.room, bare_room(said.room))
        place = (said.room, member)
        before = self.seats.get(place)
        if before is not None and before.name.casefold() == said.name.casefold():
            session = before.session
        try:
            seat, former = room.join(said.name, session, self.peers[member], self.now)
        except NameTaken:
            return
        if before is not None and before is not seat:
            room.leave(before)
        if former is not None and former is not self.peers[member]:
            evicted = (said.room, self.peers.index(former))
            del self.seats[evicted]
            del self.told[evicted]
        self.seats[place] = seat
        self.sessions.append(seat.session)
        names = room.names()
        self.told[place] = set(names)
        answer = protocol.joined(
            said.room, seat.name, seat.session, names, room.count, [SAMPLE], gap=False
        )
        assert told(answer)["members"] == names
        assert seat.name == said.name

    def leave(self, member: int, name: str) -> None:
        """Take a member out of a room, if it is there."""
        seat = self.seats.pop((name, member), None)
        if seat is not None:
            del self.told[name, member]
            self.rooms[name].leave(seat)

    def cut_off(self, member: int) -> None:
        """Keep all seats of a member for its sessions."""
        for place in [place for place in self.seats if place[1] == member]:
            self.rooms[place[0]].leave(self.seats.pop(place), reserve_at=self.now)
            del self.told[place]

    def end_turn(self) -> None:
        """Tell all members who came and went; then each must know who is there."""
        for room in self.rooms.values():
            came, went = room.take_changes() or ([], [])
            presence = told(protocol.presence(room.name, came, went, room.count))
            seats = [seat for place, seat in self.seats.items() if place[0] == room.name]
            names = {seat.name for seat in seats}
            assert len({name.casefold() for name in names}) == len(seats) == room.count
            for place, known in self.told.items():
                if place[0] == room.name:
                    known.difference_update(presence["left"])
                    known.update(presence["joined"])
                    assert known == names, f"{place} knows of {known}, not {names}"
            room.expire_reservations(self.now)


def told(encoded: str) -> dict[str, Any]:
    """Return what a client reads of what the server says, which is one line of UTF-8."""
    encoded.encode()
    assert "\n" not in encoded

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fields = json.loads(encoded, parse_constant=refuse)
    assert isinstance(fields, dict)
    return fields


SAID: tuple[dict[str, object], ...] = (
    {"type": "join", "room": "tea", "name": "Ann"},
    {"type": "join", "room": "tea", "name": "ann", "session": "0", "after": 3, "token": "a.b"},
    {"type": "join", "room": "tea", "name": "\uff21nn \u2126", "after": None},
    {"type": "say", "room": "tea", "text": "Hello", "key": "k1"},
    {"type": "say", "room": "tea", "text": '\u2028"\\\n\x7f\U0001f600', "key": None},
    {"type": "history", "room": "tea", "before": 9223372036854775807, "limit": 200},
    {"type": "leave", "room": "tea"},
    {"type": "typing", "room": "tea"},
    {"type": "ping", "t": 1.5},
    {"type": "ping", "t": "x"},
    {"type": "say", "room": "tea", "text": "\ud800"},
    {"type": "nothing"},
)


def seeds() -> Iterator[bytes]:
    """Yield each thing that can be said, alone and in some conversations."""
    lines = [json.dumps(fields).encode() for fields in SAID]
    for line in lines:
        yield b"0" + line
    for member in range(4):
        yield b"\n".join(
            bytes((0x30 + (member * number) % 4,)) + x for number, x in enumerate(lines)
        )
    join, again, leave = lines[0], lines[1], lines[6]
    yield b"\n".join((b"0" + join, b"$", b"1" + again, b"," + join, b"1" + leave))
    yield b"\n".join((b" " + join, b"!" + again, b"0" + join.replace(b"Ann", b"Ben"), b"2" + leave))
    for text in (b"[]", b'"x"', b"NaN", b"1e999", b"-0", b"{" * 50, b'{"type":"ping","t":1e999}'):
        yield b"0" + text
