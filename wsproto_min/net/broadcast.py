"""Groups of peers, and a turn's outgoing bytes: many messages, one write a peer.

A small write costs the kernel about 5 us whoever asks for it, so what a turn
of the server's loop has to say is gathered and written once: M messages to a
group of N peers cost N writes, not M x N. A message is encoded once, and the
joined frames of a turn are one `bytes` shared by all who get just those; where
some have agreed on compression, one more, shared by them.

Order holds per peer, whichever way something was sent: everything posted in a
turn gets a number, and a peer that is not owed exactly its group's shared
bytes has its own frames merged by that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Protocol

from wsproto_min.connection import encode_message
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, SHARED_COMPRESSOR
from wsproto_min.frames import encode_frame


class Member(Protocol):
    """What a peer needs to have to be sent to."""

    groups: tuple[Group, ...]

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent to it."""

    @property
    def accepts_shared_compression(self) -> bool:
        """Whether frames compressed with `SHARED_COMPRESSOR` may be sent to it."""

    def write(self, data: bytes) -> None:
        """Send `data`, or keep what the socket does not take."""


class WriteCoalescer:
    """What one turn has to write, until `deliver` hands each peer its bytes.

    `bytes_sent` is how many it has handed out so far.
    """

    __slots__ = ("_direct", "_groups", "_numbers", "bytes_sent")

    def __init__(self) -> None:
        self.bytes_sent = 0
        self._numbers = count()
        # For each peer, numbered frames; the groups that have frames.
        self._direct: dict[Member, list[tuple[int, bytes]]] = {}
        self._groups: dict[Group, None] = {}

    def __bool__(self) -> bool:
        """Return whether there is something to write."""
        return bool(self._direct or self._groups)

    def enqueue(self, member: Member, data: bytes) -> None:
        """Send one peer encoded frames, after all that it was sent before."""
        self._direct.setdefault(member, []).append((next(self._numbers), data))

    def enqueue_numbered(self, member: Member, frames: list[tuple[int, bytes]]) -> None:
        """Send one peer frames that were posted before, under their own numbers."""
        self._direct.setdefault(member, []).extend(frames)

    def enqueue_group(self, group: Group) -> int:
        """Return a number for a frame that `group` will hand over in `deliver`."""
        self._groups[group] = None
        return next(self._numbers)

    def flush_peer(self, member: Member) -> None:
        """Write now what one peer was sent in this turn, unless a group's frames may be in it."""
        if not self._groups:
            self._write(member, self._direct.pop(member, []))

    def flush(self) -> None:
        """Write what was posted, one write a peer, in the order of posting."""
        merged, self._direct = self._direct, {}
        groups, self._groups = self._groups, {}
        for group in groups:
            for member in group.members_needing_merge():
                merged.setdefault(member, [])
        for group in groups:
            plain, deflated = group.joined_frames()
            only = group.single_membership
            # A write that fails may take a peer out of its groups: hence a copy.
            members = list(group)
            others = deflations = 0  # counted where they differ, not for every member
            for member in members:
                if member.groups is not only or member in merged:
                    merged.setdefault(member, []).extend(group.frames_for(member))
                    others += 1
                elif deflated is plain or not member.accepts_shared_compression:
                    member.write(plain)
                else:
                    member.write(deflated)
                    deflations += 1
            plains = len(members) - others - deflations
            self.bytes_sent += plains * len(plain) + deflations * len(deflated)
            group.clear_frames()
        for member, frames in merged.items():
            self._write(member, frames)

    def _write(self, member: Member, frames: list[tuple[int, bytes]]) -> None:
        """Write numbered frames to one peer, in the order of their numbers."""
        if len(frames) == 1:
            data = frames[0][1]
        elif frames:
            frames.sort()  # no two numbers are equal, so frames are never compared
            data = b"".join([frame for _, frame in frames])
        else:  # one to whom only its own messages went
            return
        self.bytes_sent += len(data)
        member.write(data)


class Group:
    """Peers that are sent the same messages; a peer may be in several groups.

    Make one with `Server.group`. What is sent goes out when the loop's turn
    ends, to those who were members when it was sent.
    """

    __slots__ = (
        "_compression_threshold",
        "_frames",
        "_joined",
        "_members",
        "_write_coalescer",
        "single_membership",
    )

    def __init__(
        self,
        write_coalescer: WriteCoalescer,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
    ) -> None:
        self._write_coalescer = write_coalescer
        self._compression_threshold = compression_threshold
        # What `Member.groups` is for a member of this group alone: one tuple for
        # all of them, by which such a member is also known at a glance.
        self.single_membership = (self,)
        self._members: dict[Member, None] = {}
        # Of this turn: number, frame, compressed frame (the same if it is not worth
        # it) and sender; and at which number one joined.
        self._frames: list[tuple[int, bytes, bytes, Member | None]] = []
        self._joined: dict[Member, int] = {}

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """Iterate over the members, in the order in which they joined."""
        return iter(self._members)

    def __contains__(self, member: object) -> bool:
        """Return whether `member` is one."""
        return member in self._members

    def add(self, member: Member) -> None:
        """Let a peer take part from now on; does nothing unless it is open."""
        if member.is_open and member not in self._members:
            self._members[member] = None
            member.groups = (*member.groups, self) if member.groups else self.single_membership
            if self._frames:
                self._joined[member] = self._write_coalescer.enqueue_group(self)

    def discard(self, member: Member, *, owed: bool = True) -> None:
        """Let a peer go, if it is a member; it still gets what was sent before, if `owed`."""
        if member in self._members:
            if self._frames and owed:
                self._write_coalescer.enqueue_numbered(member, self.frames_for(member))
            self._joined.pop(member, None)
            del self._members[member]
            others = tuple(group for group in member.groups if group is not self)
            member.groups = others[0].single_membership if len(others) == 1 else others

    def send(self, message: str | bytes, *, sender: Member | None = None) -> None:
        """Send a text or binary message to every member but `sender`."""
        opcode, payload = encode_message(message)
        plain = deflated = encode_frame(opcode, payload)
        if len(payload) >= self._compression_threshold and any(
            member.accepts_shared_compression for member in self._members
        ):
            deflated = encode_frame(opcode, SHARED_COMPRESSOR.compress(payload), rsv1=True)
        self._frames.append((self._write_coalescer.enqueue_group(self), plain, deflated, sender))

    def joined_frames(self) -> tuple[bytes, bytes]:
        """Return this turn's frames as the `bytes` for all usual members, and compressed."""
        plain = b"".join([frame for _, frame, _, _ in self._frames])
        if all(frame is deflated for _, frame, deflated, _ in self._frames):
            return plain, plain
        return plain, b"".join([deflated for _, _, deflated, _ in self._frames])

    def frames_for(self, member: Member) -> list[tuple[int, bytes]]:
        """Return this turn's numbered frames that a member is owed."""
        since = self._joined.get(member, -1)
        compressed = member.accepts_shared_compression
        return [
            (number, deflated if compressed else plain)
            for number, plain, deflated, sender in self._frames
            if sender is not member and number > since
        ]

    def members_needing_merge(self) -> Iterator[Member]:
        """Iterate over those who may be owed less than all of this turn's frames."""
        yield from self._joined
        for _, _, _, sender in self._frames:
            if sender is not None:
                yield sender

    def clear_frames(self) -> None:
        """Forget this turn's frames: they are delivered."""
        self._frames = []
        self._joined = {}
