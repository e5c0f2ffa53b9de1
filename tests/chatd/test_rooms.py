"""`Room`: names, sessions, reservations, guests and changes of presence."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatd import rooms
from chatd.model import NAMED_MEMBERS, RESERVED_FOR, is_room_name
from chatd.rooms import MAX_CONNECTIONS, Member, NameTaken
from tests.chat import bare_peer, bare_room, leave, names, new_author
from wsproto_min.net.peer import Peer


@pytest.mark.parametrize("name", ["a", "lobby", "A-Z_0.9", "...", "x" * 64])
def test_room_name_of_letters_digits_and_signs_is_valid(name: str) -> None:
    assert is_room_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "ä", "a\n", "\na", "a\0", "%20", "٣"])
def test_room_name_with_other_characters_is_invalid(name: str) -> None:
    assert not is_room_name(name)


def test_join_with_taken_name_fails_until_member_leaves() -> None:
    room, first, second = bare_room(), bare_peer(), bare_peer()
    member, replaced, former_name = room.join("Ann", new_author(), first, 0.0)
    assert (member.name, list(member.peers), replaced, former_name) == ("Ann", [first], None, None)
    for name in ("Ann", "ANN", "ann"):
        for proven in (False, True):
            with pytest.raises(NameTaken):
                room.join(name, new_author(), second, 0.0, proven=proven)
    leave(member)
    assert room.is_empty
    assert room.join("ann", new_author(), second, 0.0).member.name == "ann"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ian", "lan"),
        ("modern", "modem"),
        ("Paul", "P\u0430ul"),
        ("Ann1", "Annl"),
        ("O Neil", "0Neil"),
        ("VVilma", "Wilma"),
    ],
)
def test_name_that_looks_like_a_taken_one_is_refused(one: str, other: str) -> None:
    room = bare_room()
    room.join(one, new_author(), bare_peer(), 0.0)
    with pytest.raises(NameTaken, match=one):
        room.join(other, new_author(), bare_peer(), 0.0)


@pytest.mark.parametrize(("one", "other"), [("Zoe", "Zoë"), ("Ann", "Anna"), ("Иван", "Ивана")])
def test_names_that_people_tell_apart_are_both_valid(one: str, other: str) -> None:
    room = bare_room()
    room.join(one, new_author(), bare_peer(), 0.0)
    assert room.join(other, new_author(), bare_peer(), 0.0).member.name == other


def test_connections_of_one_author_share_one_member() -> None:
    room, author = bare_room(), new_author()
    peers = [bare_peer() for _ in range(MAX_CONNECTIONS)]
    for peer in peers:
        member, replaced, _ = room.join("Ann", author, peer, 0.0)
        assert replaced is None
    assert (room.count, names(room), list(member.peers)) == (1, ["Ann"], peers)
    room.take_changes()
    assert room.join("Ann", author, peers[3], 0.0).replaced is None, "it is there already"
    assert room.join("Ann", author, bare_peer(), 0.0).replaced is peers[0]
    for peer in tuple(member.peers)[1:]:
        room.leave(member, peer)
    assert (room.count, room.take_changes()) == (1, None)
    leave(member)
    assert (room.count, room.take_changes()) == (0, ([], ["Ann"]))


def test_other_name_of_an_author_renames_its_member() -> None:
    room, author = bare_room(), new_author()
    member = room.join("Ann", author, bare_peer(), 0.0).member
    room.take_changes()
    again = room.join("Bea", author, bare_peer(), 0.0)
    assert (again.member, again.former_name, room.count) == (member, "Ann", 1)
    assert room.take_changes() == ([("Bea", author)], ["Ann"])
    assert room.join("Ann", new_author(), bare_peer(), 0.0).former_name is None


def test_later_holder_of_a_name_is_reported_with_its_author() -> None:
    room, first, second = bare_room(), new_author(), new_author()
    member = room.join("Ann", first, bare_peer(), 0.0).member
    room.take_changes()
    leave(member)
    room.join("Ann", second, bare_peer(), 0.0)
    assert room.take_changes() == ([("Ann", second)], ["Ann"])


@pytest.mark.parametrize(
    ("now", "is_reserved"), [(100.0, True), (129.9, True), (130.0, False), (500.0, False)]
)
def test_name_is_reserved_for_its_author_for_30_seconds(now: float, is_reserved: bool) -> None:
    assert RESERVED_FOR == 30.0
    room, peer, author = bare_room(), bare_peer(), new_author()
    member = room.join("Ann", author, bare_peer(), 0.0).member
    leave(member, reserve_at=100.0)
    assert (room.count, names(room), room.is_empty) == (0, [], False)
    if is_reserved:
        with pytest.raises(NameTaken):
            room.join("ann", new_author(), peer, now)
        assert room.join("Ann", author, peer, now).member is member
    else:
        assert room.join("ann", new_author(), peer, now).member is not member
    assert room.count == 1


def test_proven_name_is_free_although_reserved() -> None:
    room, author = bare_room(), new_author()
    member = room.join("Ann", author, bare_peer(), 0.0).member
    leave(member, reserve_at=0.0)
    assert room.join("Ann", new_author(), bare_peer(), 1.0, proven=True).member is not member
    with pytest.raises(NameTaken):
        room.join("Ann", author, bare_peer(), 1.0)


def test_expire_reservations_returns_number_of_remaining_ones() -> None:
    room = bare_room()
    for number, name in enumerate(("Ann", "Ben", "Cem")):
        member = room.join(name, new_author(), bare_peer(), 0.0).member
        if name != "Cem":
            leave(member, reserve_at=10.0 * number)
    assert room.expire_reservations(29.9) == 2
    assert room.expire_reservations(30.0) == 1
    assert room.expire_reservations(40.0) == 0
    assert names(room) == ["Cem"]
    assert not room.is_empty


def test_guest_name_skips_taken_and_reserved_names() -> None:
    room = bare_room()
    room.join("Guest-2", new_author(), bare_peer(), 0.0)
    reserved = room.join("guest-4", new_author(), bare_peer(), 0.0).member
    leave(reserved, reserve_at=0.0)
    names = [room.join_as_guest(bare_peer(), 1.0).name for _ in range(4)]
    assert names == ["guest-1", "guest-3", "guest-5", "guest-6"]
    assert room.count == 5


def test_take_changes_reports_only_remaining_changes_once() -> None:
    room, author = bare_room(), new_author()
    assert room.take_changes() is None
    ann = room.join("Ann", author, bare_peer(), 0.0).member
    leave(room.join("Ben", new_author(), bare_peer(), 0.0).member)
    assert room.take_changes() == ([("Ann", author)], [])
    assert room.take_changes() is None
    leave(ann)
    room.join("Ann", author, bare_peer(), 0.0)
    assert room.take_changes() is None


def test_take_changes_after_names_reports_cancelling_change() -> None:
    room, author = bare_room(), new_author()
    ann = room.join("Ann", author, bare_peer(), 0.0).member
    room.take_changes()
    leave(ann)
    assert names(room) == []
    room.join("Ann", author, bare_peer(), 0.0)
    assert room.take_changes() == ([("Ann", author)], [])
    ben = room.join("Ben", new_author(), bare_peer(), 0.0).member
    assert names(room) == ["Ann", "Ben"]
    leave(ben)
    assert room.take_changes() == ([], ["Ben"])


def test_other_spelling_of_a_name_is_reported_as_change() -> None:
    room, peer, author = bare_room(), bare_peer(), new_author()
    room.join("ann", author, peer, 0.0)
    room.take_changes()
    room.join("Ann", author, peer, 0.0)
    assert names(room) == ["Ann"]
    assert room.take_changes() == ([("Ann", author)], ["ann"])


def test_large_room_lists_no_names_but_counts() -> None:
    room = bare_room()
    numbers = range(NAMED_MEMBERS + 1)
    members = [room.join(f"n{number}", new_author(), bare_peer(), 0.0)[0] for number in numbers]
    assert (room.names_to_send(), room.count) == ([], 201)
    leave(members[0])
    assert len(names(room)) == room.count == 200


def test_transient_members_of_large_room_leave_no_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "NAMED_MEMBERS", 1)
    room = bare_room()
    for name in ("Ann", "Ben"):
        room.join(name, new_author(), bare_peer(), 0.0)
    assert room.take_changes() == (None, None)
    for number in range(100):
        member = room.join(f"n{number}", new_author(), bare_peer(), 0.0).member
        room.names_to_send()
        room.take_changes()
        leave(member)
        room.take_changes()
    assert len(room._left) + len(room._seen_changes) == 0


NAMES = st.sampled_from(["Ann", "ann", "ANN", "Ben", "Straße", "STRASSE", "guest-1", "guest-2"])


class RoomMachine(RuleBasedStateMachine):
    """A room beside a simple model: a list of members, a list of reservations, a clock.

    Each observer keeps authors by name up to date. It gets the list of members once, then
    only changes. `forgets` says whether a presence message without names empties it.
    """

    forgets = False
    named_members = NAMED_MEMBERS

    def __init__(self) -> None:
        super().__init__()
        self.room = bare_room()
        self.now = 1000.0
        self.present: list[Member] = []
        self.reserved: list[tuple[Member, float]] = []
        self.observers: list[dict[str, str]] = [{}]  # authors by name
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
                self.room.join(name, new_author(), peer, self.now, proven=proven)
        else:
            self.add(self.room.join(name, new_author(), peer, self.now, proven=proven).member)

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
        for peer in tuple(member.peers):
            assert member in self.present
            self.room.leave(member, peer, reserve_at=self.now if reserve else None)
        self.present.remove(member)
        if reserve:
            self.reserved.append((member, self.now + RESERVED_FOR))

    @precondition(lambda self: self.present or self.reserved)
    @rule(data=st.data(), upper_case=st.booleans())
    def join_again(self, data: st.DataObject, upper_case: bool) -> None:
        known = [*self.present, *(member for member, _ in self.reserved)]
        member = data.draw(st.sampled_from(known))
        name = member.name.upper() if upper_case else member.name
        is_present, peer = member in self.present, bare_peer()
        owner = self.owner(name)
        if owner is not None and owner is not member:
            with pytest.raises(NameTaken):
                self.room.join(name, member.author, peer, self.now)
            return
        found = self.room.join(name, member.author, peer, self.now).member
        assert found is member or owner is not member
        assert peer in found.peers
        if not is_present:
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
        self.observers.append(dict(self.room.names_to_send()))
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
        for names in self.observers:
            for name in left:
                names.pop(name, None)
            names.update(joined)  # a later holder replaces the earlier one
            expected = {member.name: member.author for member in self.present}
            assert names == expected, f"joined {joined}, left {left}"

    @invariant()
    def agrees_with_model(self) -> None:
        # Do not call names_to_send() here: it changes which changes the room reports.
        assert self.room.count == len(self.present)
        assert self.room.is_empty == (not self.present and not self.reserved)
        assert len({member.author for member in self.present}) == len(self.present)


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


class SharedRoomMachine(RuleBasedStateMachine):
    """A room on this node, while members join and leave on this node and on another one."""

    authors = st.integers(0, 3)
    some_names = st.sampled_from(["Ann", "Ben", "Cem"])

    def __init__(self) -> None:
        super().__init__()
        self.room = bare_room()
        self.members: dict[int, str] = {}  # names by author
        self.here: dict[int, Peer] = {}
        self.there: set[int] = set()
        self.observers: list[dict[str, str]] = []

    def claim(self, author: int, name: str) -> bool:
        """Decide as the shared store does."""
        if any(other != author and name == held for other, held in self.members.items()):
            return False
        self.members[author] = name
        return True

    def release(self, author: int) -> None:
        if author not in self.here and author not in self.there:
            del self.members[author]

    def update(self, author: int, name: str) -> None:
        is_elsewhere = author in self.there
        self.room.update_elsewhere(name, f"a{author}", moderates=False, is_elsewhere=is_elsewhere)

    @rule(author=authors, name=some_names)
    def join_here(self, author: int, name: str) -> None:
        if self.claim(author, name):
            peer = self.here.setdefault(author, bare_peer())
            self.room.join(name, f"a{author}", peer, 0.0, is_granted=True)
            self.update(author, name)

    @rule(author=authors, name=some_names)
    def join_there(self, author: int, name: str) -> None:
        if self.claim(author, name):
            self.there.add(author)
            self.update(author, name)

    @rule(author=authors)
    def leave_here(self, author: int) -> None:
        peer = self.here.pop(author, None)
        member = self.room.find_author(f"a{author}")
        if peer is not None and member is not None:
            self.room.leave(member, peer)
            self.release(author)

    @rule(author=authors)
    def leave_there(self, author: int) -> None:
        if author in self.there:
            self.there.discard(author)
            self.update(author, self.members[author])
            self.release(author)

    @rule()
    def observe(self) -> None:
        self.observers.append(dict(self.room.names_to_send()))

    @rule()
    def report_changes(self) -> None:
        joined, left = self.room.take_changes() or ([], [])
        assert joined is not None
        assert left is not None
        expected = {name: f"a{author}" for author, name in self.members.items()}
        for known in self.observers:
            for name in left:
                known.pop(name, None)
            known.update(joined)
            assert known == expected, f"joined {joined}, left {left}"

    @invariant()
    def agrees_with_the_store(self) -> None:
        assert self.room.count == len(self.members)
        assert self.room.is_empty == (not self.here)
        assert {member.author for member in self.room.local_members()} == {
            f"a{author}" for author in self.here
        }
        assert set(self.room.authors_elsewhere()) == {f"a{author}" for author in self.there}


SharedRoomMachine.TestCase.settings = RoomMachine.TestCase.settings
test_shared_room_agrees_with_the_store = SharedRoomMachine.TestCase
