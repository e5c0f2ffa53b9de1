"""Rooms: seats, sessions, reserved names, guests, and who came and went."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatd.model import NAMED_MEMBERS, RESERVED_FOR, is_room_name
from chatd.rooms import Member, NameTaken, Room


@pytest.mark.parametrize("name", ["a", "lobby", "A-Z_0.9", "...", "x" * 64])
def test_a_room_name_is_letters_digits_and_three_signs(name: str) -> None:
    assert is_room_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "ä", "a\n", "\na", "a\0", "%20", "٣"])
def test_anything_else_is_no_room_name(name: str) -> None:
    assert not is_room_name(name)


def test_a_name_is_taken_until_it_is_given_up() -> None:
    room = Room("x")
    seat, former = room.join("Ann", None, "one", 0.0)
    assert (seat.name, seat.member, former) == ("Ann", "one", None)
    for name in ("Ann", "ANN", "ann"):
        for session in (None, "", "guessed", "é", seat.session[:-1], seat.session + "x"):
            with pytest.raises(NameTaken):
                room.join(name, session, "two", 0.0)
            with pytest.raises(NameTaken):
                room.join(name, session, "two", 0.0, proven=True)
    room.give_up(seat)
    assert room.is_empty
    assert room.join("ann", None, "two", 0.0)[0].name == "ann"


def test_sessions_are_unguessable_and_no_two_are_alike() -> None:
    room = Room("x")
    sessions = [room.join(f"n{number}", None, number, 0.0)[0].session for number in range(99)]
    assert len(set(sessions)) == 99
    assert min(map(len, sessions)) >= 22, "fewer than 128 bits"


def test_a_session_takes_its_seat_from_a_connection_that_is_dead() -> None:
    room = Room("x")
    seat, _ = room.join("Ann", None, "dead", 0.0)
    room.take_changes()
    again, former = room.join("Ann", seat.session, "alive", 0.0)
    assert again is seat
    assert (former, seat.member, room.count) == ("dead", "alive", 1)
    assert room.take_changes() is None, "nobody came and nobody went"


def test_a_name_is_reserved_for_its_session_for_thirty_seconds() -> None:
    assert RESERVED_FOR == 30.0
    for now, is_kept in ((100.0, True), (129.9, True), (130.0, False), (500.0, False)):
        room = Room("x")
        seat, _ = room.join("Ann", None, "one", 0.0)
        room.give_up(seat, reserve_at=100.0)
        assert (room.count, room.names(), room.is_empty) == (0, [], False)
        if is_kept:
            with pytest.raises(NameTaken):
                room.join("ann", None, "two", now)
            back, former = room.join("Ann", seat.session, "one again", now)
            assert (back, former) == (seat, None)
        else:
            other, former = room.join("ann", None, "two", now)
            assert other.session != seat.session
            assert former is None
        assert room.count == 1


def test_who_has_proven_to_own_a_name_need_not_wait_for_the_reservation() -> None:
    room = Room("x")
    seat, _ = room.join("Ann", None, "one", 0.0)
    room.give_up(seat, reserve_at=0.0)
    other, _ = room.join("Ann", None, "two", 1.0, proven=True)
    assert other.session != seat.session
    with pytest.raises(NameTaken):
        room.join("Ann", seat.session, "one", 1.0)


def test_reservations_that_have_run_out_are_forgotten_and_the_others_counted() -> None:
    room = Room("x")
    for number, name in enumerate(("Ann", "Ben", "Cem")):
        seat, _ = room.join(name, None, name, 0.0)
        if name != "Cem":
            room.give_up(seat, reserve_at=10.0 * number)
    assert room.forget_reserved(29.9) == 2
    assert room.forget_reserved(30.0) == 1
    assert room.forget_reserved(40.0) == 0
    assert room.names() == ["Cem"]
    assert not room.is_empty


def test_guests_get_names_that_nobody_has() -> None:
    room = Room("x")
    room.join("Guest-2", None, "cheeky", 0.0)
    reserved, _ = room.join("guest-4", None, "cut", 0.0)
    room.give_up(reserved, reserve_at=0.0)
    names = [room.join_as_guest(number, 1.0).name for number in range(4)]
    assert names == ["guest-1", "guest-3", "guest-5", "guest-6"]
    assert room.count == 5


def test_changes_are_told_once_and_what_is_undone_is_not_told() -> None:
    room = Room("x")
    assert room.take_changes() is None
    ann, _ = room.join("Ann", None, 1, 0.0)
    ben, _ = room.join("Ben", None, 2, 0.0)
    room.give_up(ben)
    assert room.take_changes() == (["Ann"], [])
    assert room.take_changes() is None
    room.give_up(ann)
    room.join("Ann", None, 3, 0.0)
    assert room.take_changes() is None


def test_what_is_undone_is_told_to_those_who_got_a_list_in_between() -> None:
    room = Room("x")
    ann, _ = room.join("Ann", None, 1, 0.0)
    room.take_changes()
    room.give_up(ann)
    assert room.names() == []
    room.join("Ann", None, 1, 0.0)
    assert room.take_changes() == (["Ann"], [])
    ben, _ = room.join("Ben", None, 2, 0.0)
    assert room.names() == ["Ann", "Ben"]
    room.give_up(ben)
    assert room.take_changes() == ([], ["Ben"])


def test_a_name_written_otherwise_is_a_change() -> None:
    room = Room("x")
    seat, _ = room.join("ann", None, 1, 0.0)
    room.take_changes()
    room.join("Ann", seat.session, 1, 0.0)
    assert room.names() == ["Ann"]
    assert room.take_changes() == (["Ann"], ["ann"])


def test_a_large_room_lists_no_names_but_counts() -> None:
    room = Room("x")
    seats = [room.join(f"n{number}", None, number, 0.0)[0] for number in range(NAMED_MEMBERS + 1)]
    assert (room.names(), room.count) == ([], 201)
    room.give_up(seats[0])
    assert len(room.names()) == room.count == 200


NAMES = st.sampled_from(["Ann", "ann", "ANN", "Ben", "Straße", "STRASSE", "guest-1", "guest-2"])


class RoomMachine(RuleBasedStateMachine):
    """A room beside the plainest model of one: a list of seats and a clock.

    A listener keeps up by what it is told alone: the list at some moment, then
    the changes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.room = Room("x")
        self.now = 1000.0
        self.seated: list[Member] = []
        self.kept: list[tuple[Member, float]] = []
        self.members = 0
        self.listeners: list[set[str]] = [set()]

    def owner(self, name: str) -> Member | None:
        """Return the seat that has a name at this moment, by the model."""
        kept = [seat for seat, until in self.kept if until > self.now]
        same = [s for s in (*self.seated, *kept) if s.name.casefold() == name.casefold()]
        assert len(same) <= 1, f"two have the name {name}"
        return same[0] if same else None

    def sat(self, seat: Member) -> None:
        self.kept = [each for each in self.kept if each[0].name.casefold() != seat.name.casefold()]
        self.seated.append(seat)

    @rule(name=NAMES, proven=st.booleans())
    def come(self, name: str, proven: bool) -> None:
        self.members += 1
        owner = self.owner(name)
        if owner is not None and (owner in self.seated or not proven):
            with pytest.raises(NameTaken):
                self.room.join(name, None, self.members, self.now, proven=proven)
        else:
            seat, former = self.room.join(name, None, self.members, self.now, proven=proven)
            assert former is None
            self.sat(seat)

    @rule()
    def come_as_a_guest(self) -> None:
        self.members += 1
        free = {f"guest-{number}" for number in range(1, 200)} - {
            seat.name.casefold() for seat in (*self.seated, *(seat for seat, _ in self.kept))
        }
        seat = self.room.join_as_guest(self.members, self.now)
        assert seat.name in free | {s.name for s, until in self.kept if until <= self.now}
        self.sat(seat)

    @precondition(lambda self: self.seated)
    @rule(data=st.data(), cut=st.booleans())
    def go(self, data: st.DataObject, cut: bool) -> None:
        seat = data.draw(st.sampled_from(self.seated))
        self.room.give_up(seat, reserve_at=self.now if cut else None)
        self.seated.remove(seat)
        if cut:
            self.kept.append((seat, self.now + RESERVED_FOR))

    @precondition(lambda self: self.seated or self.kept)
    @rule(data=st.data(), shout=st.booleans())
    def come_back(self, data: st.DataObject, shout: bool) -> None:
        seat = data.draw(st.sampled_from([*self.seated, *(seat for seat, _ in self.kept)]))
        name = seat.name.upper() if shout else seat.name
        self.members += 1
        before = seat.member
        is_its = self.owner(name) is seat
        if self.owner(name) is not None and not is_its:
            with pytest.raises(NameTaken):
                self.room.join(name, seat.session, self.members, self.now)
            return
        found, former = self.room.join(name, seat.session, self.members, self.now)
        assert former == before
        assert (found is seat) == is_its, "a session outlived its reservation"
        if found not in self.seated:
            self.sat(found)

    @rule(seconds=st.sampled_from([0.5, 29.5, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.kept = [each for each in self.kept if each[1] > self.now]
        assert self.room.forget_reserved(self.now) == len(self.kept)

    @rule()
    def listen(self) -> None:
        self.listeners.append(set(self.room.names()))

    @rule()
    def tell(self) -> None:
        came, went = self.room.take_changes() or ([], [])
        assert not set(came) & set(went)
        for known in self.listeners:
            known -= set(went)
            known |= set(came)
            assert known == {seat.name for seat in self.seated}, f"told {came} came, {went} went"

    @invariant()
    def agrees(self) -> None:
        # Without `names`, which is an act: it promises that changes will be told.
        assert self.room.count == len(self.seated)
        assert self.room.is_empty == (not self.seated and not self.kept)
        assert len({seat.session for seat in self.seated}) == len(self.seated)


RoomMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_a_room_equals_a_list_of_seats_whatever_happens = RoomMachine.TestCase
