"""Groups and the write coalescer: the bytes, the order and the number of writes to each peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsproto_min.codes import Opcode
from wsproto_min.deflate import SHARED_COMPRESSOR, Compressor
from wsproto_min.frames import encode_frame
from wsproto_min.net.broadcast import Group
from wsproto_min.net.write_coalescer import WriteCoalescer


class FakePeer:
    """A member that records its writes. If `vanished`, its next write fails as a socket does."""

    def __init__(self, name: str = "a peer", *, accepts_shared_compression: bool = False) -> None:
        self.name = name
        self._transport = self
        self._groups: tuple[Group, ...] = ()
        self.is_open = True
        self._accepts_shared_compression = accepts_shared_compression
        self.vanished = False
        self.writes: list[bytes] = []

    def __repr__(self) -> str:
        return self.name

    def write(self, data: bytes) -> None:
        if self.vanished:
            self.leave()
        else:
            self.writes.append(data)

    def leave(self) -> None:
        self.is_open = False
        for group in self._groups:
            group.discard(self, keep_pending=not self.vanished)


def text(message: str) -> bytes:
    return encode_frame(Opcode.TEXT, message.encode())


def compressed(message: str) -> bytes:
    return encode_frame(Opcode.TEXT, SHARED_COMPRESSOR.compress(message.encode()), rsv1=True)


def group_of(
    write_coalescer: WriteCoalescer, *members: FakePeer, compression_threshold: int = 256
) -> Group:
    group = Group(write_coalescer, compression_threshold)
    for member in members:
        group.add(member)
    return group


def test_messages_of_one_iteration_share_one_write() -> None:
    write_coalescer = WriteCoalescer()
    members = [FakePeer(f"peer {number}") for number in range(5)]
    group = group_of(write_coalescer, *members)
    for number in range(100):
        group.send(f"message {number}")
    assert all(not member.writes for member in members), "written before the end of the iteration"
    write_coalescer.flush()
    expected = b"".join(text(f"message {number}") for number in range(100))
    for member in members:
        assert member.writes == [expected]
        assert member.writes[0] is members[0].writes[0], f"{member} received a copy"


def test_sender_gets_other_messages_and_the_rest_share_bytes() -> None:
    write_coalescer = WriteCoalescer()
    sender, *others = members = [FakePeer(f"peer {number}") for number in range(4)]
    group = group_of(write_coalescer, *members)
    group.send("one")
    group.send("mine", sender=sender)
    group.send("three")
    write_coalescer.flush()
    assert sender.writes == [text("one") + text("three")]
    for member in others:
        assert member.writes == [text("one") + text("mine") + text("three")]
        assert member.writes[0] is others[0].writes[0], f"{member} received a copy"


def test_senders_are_written_before_the_other_members() -> None:
    write_coalescer = WriteCoalescer()
    order: list[str] = []

    class Recorder(FakePeer):
        def write(self, data: bytes) -> None:
            order.append(self.name)
            super().write(data)

    first, second, silent, replied = members = [
        Recorder(name) for name in ("first", "second", "silent", "replied")
    ]
    group = group_of(write_coalescer, *members)
    group.send("from the silent peer's friend")
    write_coalescer.enqueue(replied, text("acknowledged"))
    group.send("said", sender=replied)
    group.send("and answered", sender=second)
    write_coalescer.flush()
    assert order == ["replied", "second", "first", "silent"]
    said, answered = text("said"), text("and answered")
    beginning = text("from the silent peer's friend")
    assert replied.writes == [beginning + text("acknowledged") + answered]
    assert second.writes == [beginning + said]
    assert first.writes == silent.writes == [beginning + said + answered]


def test_flush_skips_members_without_frames() -> None:
    write_coalescer = WriteCoalescer()
    sender, listener, latecomer, leaver = members = [
        FakePeer(name) for name in ("sender", "listener", "latecomer", "leaver")
    ]
    group = group_of(write_coalescer, sender, listener, leaver)
    group.send("alone", sender=sender)
    group.discard(sender)
    group.add(sender)
    group.add(latecomer)
    group.discard(latecomer)
    group.add(latecomer)
    write_coalescer.flush()
    writes = {member.name: member.writes for member in members}
    assert writes == {
        "sender": [],
        "listener": [text("alone")],
        "latecomer": [],
        "leaver": [text("alone")],
    }


def test_bytes_sent_counts_every_write() -> None:
    write_coalescer = WriteCoalescer()
    sender, *others = members = [
        FakePeer(f"peer {number}", accepts_shared_compression=number % 2 == 0)
        for number in range(7)
    ]
    group = group_of(write_coalescer, *members)
    group_of(write_coalescer, *members[:2]).send("to two")
    group.send("x" * 1000, sender=sender)
    group.send("to all")
    write_coalescer.enqueue(others[0], b"to one peer")
    write_coalescer.flush()
    assert all(member.writes for member in members)
    assert write_coalescer.bytes_sent == sum(
        len(data) for member in members for data in member.writes
    )


def test_bytes_sent_omits_discarded_frames() -> None:
    write_coalescer = WriteCoalescer()
    gone, present = FakePeer("gone"), FakePeer("present")
    for member in (gone, present):
        write_coalescer.enqueue(member, b"five!")
    write_coalescer.discard(gone)
    write_coalescer.flush()
    assert (gone.writes, present.writes) == ([], [b"five!"])
    assert write_coalescer.bytes_sent == 5


def test_peer_failing_in_write_gets_no_more_group_frames() -> None:
    write_coalescer = WriteCoalescer()
    lost, other = members = FakePeer("lost"), FakePeer("other")
    first, second = group_of(write_coalescer, *members), group_of(write_coalescer, *members)
    only = group_of(write_coalescer, lost_too := FakePeer("lost, too"))
    lost.vanished = lost_too.vanished = True
    for group in (first, second, only):
        group.send("good night")
    write_coalescer.flush()
    assert (list(first), list(second), list(only)) == ([other], [other], [])
    assert not write_coalescer, "frames are pending again"
    one, both = len(text("good night")), 2 * len(text("good night"))
    assert write_coalescer.bytes_sent == both + both + one
    assert other.writes == [text("good night") * 2]


def test_flush_member_writes_unless_group_frames_may_precede() -> None:
    write_coalescer = WriteCoalescer()
    first, other = FakePeer("first"), FakePeer("other")
    group = group_of(write_coalescer, first, other)
    for member in (first, other):
        write_coalescer.enqueue(member, b"1")
    write_coalescer.enqueue(first, b"2")
    write_coalescer.flush_member(first)
    assert (first.writes, other.writes) == ([b"12"], [])
    group.send("3")
    write_coalescer.enqueue(first, b"4")
    write_coalescer.flush_member(first)
    assert first.writes == [b"12"], "overtook a group's frame"
    write_coalescer.flush()
    assert first.writes[1:] == [text("3") + b"4"]
    assert other.writes == [b"1" + text("3")]
    write_coalescer.flush_member(first)
    write_coalescer.flush()
    assert len(first.writes) == 2, "written twice"


def test_write_coalescer_is_true_while_frames_are_pending() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    assert not write_coalescer
    write_coalescer.enqueue(member, b"to one")
    assert write_coalescer
    write_coalescer.flush()
    assert not write_coalescer
    group.send("to all")
    assert write_coalescer


def test_empty_last_bytes_are_written() -> None:
    # The transport ends the stream after this write.
    write_coalescer = WriteCoalescer()
    peer = FakePeer()
    write_coalescer.enqueue(peer, b"")
    write_coalescer.flush()
    assert peer.writes == [b""]


def test_second_flush_writes_nothing() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    group.send("once")
    write_coalescer.flush()
    write_coalescer.flush()
    assert member.writes == [text("once")], "frames were written again"


def test_group_sends_text_and_binary_messages() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    group.send("é")
    group.send(b"\xff")
    write_coalescer.flush()
    assert member.writes[0].hex(" ") == "81 02 c3 a9 82 01 ff"


def test_group_sends_bytes_as_text() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    group.send("é".encode(), text=True)
    with pytest.raises(ValueError, match="text: not UTF-8 at byte 0"):
        group.send(b"\xff", text=True)
    write_coalescer.flush()
    assert member.writes[0].hex(" ") == "81 02 c3 a9"


def test_group_sends_a_message_uncompressed() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer(accepts_shared_compression=True)
    group = group_of(write_coalescer, member)
    group.send("x" * 1000, compress=False)
    write_coalescer.flush()
    assert member.writes == [text("x" * 1000)]


def test_group_iterates_members_in_the_order_of_joining() -> None:
    first, second, outsider = FakePeer("first"), FakePeer("second"), FakePeer("outsider")
    group = group_of(WriteCoalescer(), first, second)
    group.add(first)  # a second time
    group.discard(outsider)
    assert list(group) == [first, second]
    assert len(group) == 2
    assert first in group
    assert outsider not in group
    group.discard(first)
    assert list(group) == [second]
    assert first._groups == ()


def test_member_knows_its_groups() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    groups = [group_of(write_coalescer, member) for _ in range(3)]
    seen = [member._groups]
    for index in (1, 0, 2):
        groups[index].discard(member)
        seen.append(member._groups)
    assert seen == [tuple(groups), (groups[0], groups[2]), (groups[2],), ()]
    assert seen[2] is groups[2].single_membership, "flush() compares this tuple by identity"


def test_group_ignores_a_peer_that_is_not_open() -> None:
    # RFC 6455, 5.5.1: no data frame may follow the Close frame.
    write_coalescer = WriteCoalescer()
    closed = FakePeer()
    closed.is_open = False
    group = group_of(write_coalescer, closed)
    group.send("too late")
    write_coalescer.flush()
    assert (list(group), closed._groups, closed.writes) == ([], (), [])


def test_message_that_cannot_be_encoded_is_not_sent() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    try:
        group.send("half a pair: \ud800")
    except UnicodeEncodeError:
        group.send("whole")
    write_coalescer.flush()
    assert member.writes == [text("whole")]


def test_group_send_of_a_wrong_type_raises_and_sends_nothing() -> None:
    write_coalescer = WriteCoalescer()
    member = FakePeer()
    group = group_of(write_coalescer, member)
    wrong: Any = 123
    with pytest.raises(TypeError, match="a message is str or bytes, not int"):
        group.send(wrong)
    write_coalescer.flush()
    assert member.writes == []


# Members that negotiated compression.


def test_compressing_and_plain_members_share_one_object_each() -> None:
    write_coalescer = WriteCoalescer()
    plain = [FakePeer(f"plain {number}") for number in range(3)]
    shared = [FakePeer(f"shared {number}", accepts_shared_compression=True) for number in range(3)]
    group = group_of(write_coalescer, plain[0], shared[0], shared[1], plain[1], plain[2], shared[2])
    messages = ["x" * 256, "small", "y" * 1000]
    for message in messages:
        group.send(message)
    write_coalescer.flush()
    frames = [compressed("x" * 256), text("small"), compressed("y" * 1000)]
    for members, expected in ((plain, [*map(text, messages)]), (shared, frames)):
        for member in members:
            assert member.writes == [b"".join(expected)], member
            assert member.writes[0] is members[0].writes[0], f"{member} received a copy"


@pytest.mark.parametrize(("size", "is_compressed"), [(255, False), (256, True)])
def test_messages_below_the_threshold_are_not_compressed(size: int, is_compressed: bool) -> None:
    write_coalescer = WriteCoalescer()
    plain, shared = FakePeer("plain"), FakePeer("shared", accepts_shared_compression=True)
    group_of(write_coalescer, plain, shared).send("x" * size)
    write_coalescer.flush()
    assert (shared.writes[0][0] == 0xC1) is is_compressed
    assert (shared.writes[0] is plain.writes[0]) is not is_compressed


def test_group_without_compressing_members_does_not_compress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_coalescer = WriteCoalescer()
    plain = FakePeer("plain")
    group = group_of(write_coalescer, plain)

    def refuse(self: Compressor, data: bytes) -> bytes:
        raise AssertionError("compressed without need")

    monkeypatch.setattr(Compressor, "compress", refuse)
    group.send("x" * 1000)
    write_coalescer.flush()
    assert plain.writes == [text("x" * 1000)]


def test_message_is_compressed_once_for_all_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_coalescer = WriteCoalescer()
    members = [FakePeer(accepts_shared_compression=True) for _ in range(10)]
    group = group_of(write_coalescer, *members)
    calls: list[bytes] = []
    compress = Compressor.compress

    def count(self: Compressor, data: bytes) -> bytes:
        calls.append(data)
        return compress(self, data)

    monkeypatch.setattr(Compressor, "compress", count)
    group.send("x" * 1000, sender=members[0])
    write_coalescer.flush()
    assert calls == [b"x" * 1000]
    assert [len(member.writes) for member in members] == [0] + [1] * 9


# The main property: each peer receives the bytes that a server without coalescing would send,
# for any order of events within an iteration.

PEERS = range(4)
GROUPS = range(3)


@dataclass(frozen=True)
class Direct:
    peer: int


@dataclass(frozen=True)
class Send:
    group: int
    sender: int | None


@dataclass(frozen=True)
class Join:
    peer: int
    group: int


@dataclass(frozen=True)
class Leave:
    peer: int
    group: int


@dataclass(frozen=True)
class Vanish:
    """The peer's socket fails from here on, so the next write ends the peer."""

    peer: int


@dataclass(frozen=True)
class EndIteration:
    pass


Step = Direct | Send | Join | Leave | Vanish | EndIteration

peers = st.sampled_from(PEERS)
groups = st.sampled_from(GROUPS)
steps = st.one_of(
    st.builds(Send, groups, st.none() | peers),
    st.builds(Direct, peers),
    st.builds(Join, peers, groups),
    st.builds(Leave, peers, groups),
    st.builds(EndIteration),
    st.builds(Vanish, peers),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=60))
@example([Join(0, 0), Direct(0), Send(0, None), Direct(0)])
@example([Join(0, 0), Send(0, None), Leave(0, 0), Send(0, None), Join(0, 0), Send(0, None)])
@example([Join(0, 0), Send(0, None), Join(0, 1), Send(1, None), Send(0, 0), Leave(0, 0)])
@example([Join(0, 0), Join(1, 0), Vanish(0), Send(0, None), EndIteration(), Send(0, None)])
def test_coalesced_writes_equal_immediate_writes(
    steps: list[Step],
) -> None:
    write_coalescer = WriteCoalescer()
    # Every second peer accepts compressed frames.
    fakes = [
        FakePeer(f"peer {number}", accepts_shared_compression=number % 2 == 1) for number in PEERS
    ]
    rooms = [Group(write_coalescer, compression_threshold=2) for _ in GROUPS]  # from step 10 on
    sent: list[list[bytes]] = [[] for _ in PEERS]
    members: list[set[int]] = [set() for _ in GROUPS]
    written = [b"" for _ in PEERS]
    for number, step in enumerate([*steps, EndIteration()]):
        frame = text(str(number))
        match step:
            case Direct(peer):
                write_coalescer.enqueue(fakes[peer], frame)
                sent[peer].append(frame)
            case Send(group, sender):
                rooms[group].send(str(number), sender=None if sender is None else fakes[sender])
                for peer in members[group] - {sender}:
                    small = number < 10 or not fakes[peer]._accepts_shared_compression
                    sent[peer].append(frame if small else compressed(str(number)))
            case Join(peer, group):
                rooms[group].add(fakes[peer])
                if fakes[peer].is_open:
                    members[group].add(peer)
            case Leave(peer, group):
                rooms[group].discard(fakes[peer])
                members[group].discard(peer)
            case Vanish(peer):
                fakes[peer].vanished = True
            case EndIteration():
                write_coalescer.flush()
                for peer, fake in enumerate(fakes):
                    assert len(fake.writes) <= 1, f"{len(fake.writes)} writes to {fake}"
                    written[peer] += b"".join(fake.writes)
                    fake.writes.clear()
                    if not fake.is_open:
                        for present in members:
                            present.discard(peer)
                    if not fake.vanished:
                        assert written[peer] == b"".join(sent[peer]), f"{fake}, step {number}"
    for room, expected in zip(rooms, members, strict=True):
        assert set(room) == {fakes[peer] for peer in expected}
