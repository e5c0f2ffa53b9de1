"""`Room`: names, sessions, reservations, guests and changes of presence."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatd import rooms
from chatd.model import NAMED_MEMBERS, RESERVED_FOR, is_room_name
from chatd.rooms import Member, NameTaken
from tests.chat import bare_peer, bare_room


@pytest.mark.parametrize("name", ["a", "lobby", "A-Z_0.9", "...", "x" * 64])
def test_room_name_of_letters_digits_and_signs_is_valid(name: str) -> None:
    assert is_room_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "ä", "a\n", "\na", "a\0", "%20", "٣"])
def test_room_name_with_other_characters_is_invalid(name: str) -> None:
    assert not is_room_name(name)


def test_join_with_taken_name_fails_until_member_leaves() -> None:
    room, first, second = bare_room(), bare_peer(), bare_peer()
    member, former = room.join("Ann", None, first, 0.0)
    assert (member.name, member.peer, former) == ("Ann", first, None)
    for name in ("Ann", "ANN", "ann"):
        for session in (None, "", "guessed", "é", member.session[:-1], member.session + "x"):
            with pytest.raises(NameTaken):
                room.join(name, session, second, 0.0)
            with pytest.raises(NameTaken):
                room.join(name, session, second, 0.0, proven=True)
    room.leave(member)
    assert room.is_empty
    assert room.join("ann", None, second, 0.0)[0].name == "ann"


def test_sessions_are_unique_and_have_128_bits() -> None:
    room = bare_room()
    members = [room.join(f"n{number}", None, bare_peer(), 0.0)[0] for number in range(99)]
    sessions = [member.session for member in members]
    assert len(set(sessions)) == 99
    assert min(map(len, sessions)) >= 22, "22 base64 characters hold 128 bits"


def test_join_with_session_takes_name_from_former_peer() -> None:
    room, dead, alive = bare_room(), bare_peer(), bare_peer()
    member, _ = room.join("Ann", None, dead, 0.0)
    room.take_changes()
    again, former = room.join("Ann", member.session, alive, 0.0)
    assert again is member
    assert (former, member.peer, room.count) == (dead, alive, 1)
    assert room.take_changes() is None, "presence did not change"


@pytest.mark.parametrize(
    ("now", "is_reserved"), [(100.0, True), (129.9, True), (130.0, False), (500.0, False)]
)
def test_name_is_reserved_for_its_session_for_30_seconds(now: float, is_reserved: bool) -> None:
    assert RESERVED_FOR == 30.0
    room, peer = bare_room(), bare_peer()
    member, _ = room.join("Ann", None, bare_peer(), 0.0)
    room.leave(member, reserve_at=100.0)
    assert (room.count, room.names_to_send(), room.is_empty) == (0, [], False)
    if is_reserved:
        with pytest.raises(NameTaken):
            room.join("ann", None, peer, now)
        back, former = room.join("Ann", member.session, peer, now)
        assert (back, former) == (member, None)
    else:
        other, former = room.join("ann", None, peer, now)
        assert other.session != member.session
        assert former is None
    assert room.count == 1


def test_proven_name_is_free_although_reserved() -> None:
    room = bare_room()
    member, _ = room.join("Ann", None, bare_peer(), 0.0)
    room.leave(member, reserve_at=0.0)
    other, _ = room.join("Ann", None, bare_peer(), 1.0, proven=True)
    assert other.session != member.session
    with pytest.raises(NameTaken):
        room.join("Ann", member.session, bare_peer(), 1.0)


def test_expire_reservations_returns_number_of_remaining_ones() -> None:
    room = bare_room()
    for number, name in enumerate(("Ann", "Ben", "Cem")):
        member, _ = room.join(name, None, bare_peer(), 0.0)
        if name != "Cem":
            room.leave(member, reserve_at=10.0 * number)
    assert room.expire_reservations(29.9) == 2
    assert room.expire_reservations(30.0) == 1
    assert room.expire_reservations(40.0) == 0
    assert room.names_to_send() == ["Cem"]
    assert not room.is_empty


def test_guest_name_skips_taken_and_reserved_names() -> None:
    room = bare_room()
    room.join("Guest-2", None, bare_peer(), 0.0)
    reserved, _ = room.join("guest-4", None, bare_peer(), 0.0)
    room.leave(reserved, reserve_at=0.0)
    names = [room.join_as_guest(bare_peer(), 1.0).name for _ in range(4)]
    assert names == ["guest-1", "guest-3", "guest-5", "guest-6"]
    assert room.count == 5


def test_take_changes_reports_only_remaining_changes_once() -> None:
    room = bare_room()
    assert room.take_changes() is None
    ann, _ = room.join("Ann", None, bare_peer(), 0.0)
    ben, _ = room.join("Ben", None, bare_peer(), 0.0)
    room.leave(ben)
    assert room.take_changes() == (["Ann"], [])
    assert room.take_changes() is None
    room.leave(ann)
    room.join("Ann", None, bare_peer(), 0.0)
    assert room.take_changes() is None


def test_take_changes_after_names_reports_cancelling_change() -> None:
    room = bare_room()
    ann, _ = room.join("Ann", None, bare_peer(), 0.0)
    room.take_changes()
    room.leave(ann)
    assert room.names_to_send() == []
    room.join("Ann", None, bare_peer(), 0.0)
    assert room.take_changes() == (["Ann"], [])
    ben, _ = room.join("Ben", None, bare_peer(), 0.0)
    assert room.names_to_send() == ["Ann", "Ben"]
    room.leave(ben)
    assert room.take_changes() == ([], ["Ben"])


def test_other_spelling_of_a_name_is_reported_as_change() -> None:
    room, peer = bare_room(), bare_peer()
    member, _ = room.join("ann", None, peer, 0.0)
    room.take_changes()
    room.join("Ann", member.session, peer, 0.0)
    assert room.names_to_send() == ["Ann"]
    assert room.take_changes() == (["Ann"], ["ann"])


def test_large_room_lists_no_names_but_counts() -> None:
    room = bare_room()
    numbers = range(NAMED_MEMBERS + 1)
    members = [room.join(f"n{number}", None, bare_peer(), 0.0)[0] for number in numbers]
    assert (room.names_to_send(), room.count) == ([], 201)
    room.leave(members[0])
    assert len(room.names_to_send()) == room.count == 200


def test_transient_members_of_large_room_leave_no_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "NAMED_MEMBERS", 1)
    room = bare_room()
    for name in ("Ann", "Ben"):
        room.join(name, None, bare_peer(), 0.0)
    assert room.take_changes() == (None, None)
    for number in range(100):
        member, _ = room.join(f"n{number}", None, bare_peer(), 0.0)
        room.names_to_send()
        room.take_changes()
        room.leave(member)
        room.take_changes()
    assert len(room._left) + len(room._seen_changes) == 0


NAMES = st.sampled_from(["Ann", "ann", "ANN", "Ben", "Straße", "STRASSE", "guest-1", "guest-2"])


class RoomMachine(RuleBasedStateMachine):
    """A room beside a simple model: a list of members, a list of reservations, a clock.

    Each observer keeps a set of names up to date. It gets the list of names once, then
    only changes. `forgets` says whether a presence message without names empties the set.
    """

    forgets = False
    named_members = NAMED_MEMBERS

    def __init__(self) -> None:
        super().__init__()
        self.room = bare_room()
        self.now = 1000.0
        self.present: list[Member] = []
        self.reserved: list[tuple[Member, float]] = []
        self.observers: list[set[str]] = [set()]
        self.counts = [0]  # the count that each observer knows

    def owner(self, name: str) -> Member | None:
        """Return the member that owns a name at the moment, according to the model."""
        reserved = [member for member, until in self.reserved if until > self.now]
        members = (*self.present, *reserved)
        owners = [member for member in members if member.name.casefold() == name.casefold()]
        assert len(owners) <= 1, f"two members have the name {name}"
        return owners[0] if owners else None

    def add(self, member: Member) -> None:
        key = member.name.casefold()
        self.reserved = [each for each in self.reserved if each[0].name.casefold() != key]
        self.present.append(member)

    @rule(name=NAMES, proven=st.booleans())
    def join(self, name: str, proven: bool) -> None:
        peer = bare_peer()
        owner = self.owner(name)
        if owner is not None and (owner in self.present or not proven):
            with pytest.raises(NameTaken):
                self.room.join(name, None, peer, self.now, proven=proven)
        else:
            member, former = self.room.join(name, None, peer, self.now, proven=proven)
            assert former is None
            self.add(member)

    @rule()
    def join_as_guest(self) -> None:
        free = {f"guest-{number}" for number in range(1, 200)} - {
            member.name.casefold()
            for member in (*self.present, *(member for member, _ in self.reserved))
        }
        expired = {m.name.casefold() for m, until in self.reserved if until <= self.now}
        member = self.room.join_as_guest(bare_peer(), self.now)
        assert member.name in free | expired
        self.add(member)

    @precondition(lambda self: self.present)
    @rule(data=st.data(), reserve=st.booleans())
    def leave(self, data: st.DataObject, reserve: bool) -> None:
        member = data.draw(st.sampled_from(self.present))
        self.room.leave(member, reserve_at=self.now if reserve else None)
        self.present.remove(member)
        if reserve:
            self.reserved.append((member, self.now + RESERVED_FOR))

    @precondition(lambda self: self.present or self.reserved)
    @rule(data=st.data(), upper_case=st.booleans())
    def join_with_session(self, data: st.DataObject, upper_case: bool) -> None:
        known = [*self.present, *(member for member, _ in self.reserved)]
        member = data.draw(st.sampled_from(known))
        name = member.name.upper() if upper_case else member.name
        peer, former_peer = bare_peer(), member.peer
        owner = self.owner(name)
        if owner is not None and owner is not member:
            with pytest.raises(NameTaken):
                self.room.join(name, member.session, peer, self.now)
            return
        found, former = self.room.join(name, member.session, peer, self.now)
        assert former == former_peer
        assert (found is member) == (owner is member), "a session outlived its reservation"
        if found not in self.present:
            self.add(found)

    @rule(seconds=st.sampled_from([0.5, 29.5, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.reserved = [each for each in self.reserved if each[1] > self.now]
        assert self.room.expire_reservations(self.now) == len(self.reserved)

    @rule()
    def observe(self) -> None:
        self.observers.append(set(self.room.names_to_send()))
        self.counts.append(self.room.count)

    @rule()
    def report_changes(self) -> None:
        changes = self.room.take_changes()
        if changes is not None:
            self.counts = [self.room.count] * len(self.counts)
        assert set(self.counts) == {self.room.count}
        joined, left = changes or ([], [])
        if self.room.count > self.named_members:
            assert changes in (None, (None, None))
            for names in self.observers if self.forgets else ():
                names.clear()
            return
        assert joined is not None
        assert left is not None
        assert not set(joined) & set(left)
        for names in self.observers:
            names -= set(left)
            names |= set(joined)
            expected = {member.name for member in self.present}
            assert names == expected, f"joined {joined}, left {left}"

    @invariant()
    def agrees_with_model(self) -> None:
        # Do not call names_to_send() here: it changes which changes the room reports.
        assert self.room.count == len(self.present)
        assert self.room.is_empty == (not self.present and not self.reserved)
        assert len({member.session for member in self.present}) == len(self.present)


RoomMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_room_agrees_with_model = RoomMachine.TestCase


class LargeRoomMachine(RoomMachine):
    """A room that is large with more than two members."""

    named_members = 2

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(rooms, "NAMED_MEMBERS", self.named_members)

    def teardown(self) -> None:
        self.patch.undo()


class ForgettingRoomMachine(LargeRoomMachine):
    """A large room, and observers that forget the names, as the page does."""

    forgets = True


LargeRoomMachine.TestCase.settings = RoomMachine.TestCase.settings
ForgettingRoomMachine.TestCase.settings = RoomMachine.TestCase.settings
test_room_of_changing_size_agrees_with_model = LargeRoomMachine.TestCase
test_observers_of_a_shrunk_room_regain_all_names = ForgettingRoomMachine.TestCase
