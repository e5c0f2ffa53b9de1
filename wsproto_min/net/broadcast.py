"""Groups of peers that receive the same messages.

A group encodes each message once, and once more in compressed form if a member can use it.
At the end of the loop iteration it joins its frames into one `bytes` object, and all members
share that object. Members that need other bytes are left to the write coalescer.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from threading import get_ident
from typing import Protocol

from wsproto_min.connection import encode_message
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, SHARED_COMPRESSOR
from wsproto_min.frames import encode_frame
from wsproto_min.net.joined_frames import JoinedFrames
from wsproto_min.net.message_order import NumberedFrames
from wsproto_min.net.write_coalescer import Recipient, WriteCoalescer


class GroupMember(Recipient, Protocol):
    """A peer, as far as groups use it."""

    _groups: tuple[Group, ...]

    @property
    def is_open(self) -> bool:
        """True if messages may be sent to the peer."""

    @property
    def _accepts_shared_compression(self) -> bool:
        """True if the peer can decompress frames of `SHARED_COMPRESSOR`."""


class Group:
    """Peers that receive the same messages; a peer may be in several groups.

    Create groups with `Server.group`. Use a group only in the thread of `Server.run`; other
    threads call `Server.call_soon_threadsafe`. Messages go out at the end of the loop iteration,
    to the peers that were members when the message was sent.

    Args:
        write_coalescer: The server's write coalescer.
        compression_threshold: Smallest payload, in bytes, that is compressed.
    """

    __slots__ = (
        "_compression_threshold",
        "_frames",
        "_joined_at",
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
        # A peer that is in this group and in no second group has this tuple as `_groups`. An
        # identity check then tells whether the peer may get the shared bytes.
        self.single_membership: tuple[Group] = (self,)
        self._members: dict[GroupMember, None] = {}
        # Frames of this iteration: sequence number, plain frame, compressed frame (the plain
        # one again if compression does not pay), sender.
        self._frames: list[tuple[int, bytes, bytes, GroupMember | None]] = []
        # Members that joined after the first of these frames, with the next sequence number at
        # the time of joining.
        self._joined_at: dict[GroupMember, int] = {}

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._members)

    def __iter__(self) -> Iterator[GroupMember]:
        """Iterate over the members in the order in which they joined."""
        return iter(self._members)

    def __contains__(self, member: object) -> bool:
        """Return True if `member` is in the group."""
        return member in self._members

    def add(self, member: GroupMember) -> None:
        """Add a peer, which receives messages sent from now on; ignore a peer that is not open.

        Raises:
            RuntimeError: The call comes from another thread than that of `Server.run`.

        """
        self._write_coalescer.check_thread()
        if member.is_open and member not in self._members:
            self._members[member] = None
            member._groups = (*member._groups, self) if member._groups else self.single_membership
            if self._frames:
                self._joined_at[member] = self._write_coalescer.mark_group(self)

    def discard(self, member: GroupMember, *, keep_pending: bool = True) -> None:
        """Remove a peer if it is a member.

        Args:
            member: The peer.
            keep_pending: Still send the peer the messages that were sent before.

        Raises:
            RuntimeError: The call comes from another thread than that of `Server.run`.

        """
        self._write_coalescer.check_thread()
        if member in self._members:
            self._remove(member, keep_pending)
            others = tuple(group for group in member._groups if group is not self)
            member._groups = others[0].single_membership if len(others) == 1 else others

    def _remove(self, member: GroupMember, keep_pending: bool) -> None:
        if self._frames and keep_pending:
            self._write_coalescer.enqueue_numbered(member, self._frames_for(member))
        self._joined_at.pop(member, None)
        del self._members[member]

    def send(
        self,
        message: str | bytes,
        *,
        sender: GroupMember | None = None,
        text: bool = False,
        compress: bool = True,
    ) -> None:
        """Send a text (`str`) or binary (`bytes`) message to every member except `sender`.

        Args:
            message: The message.
            sender: Member that does not receive the message, or None.
            text: Send `bytes` as text, after a check that they are UTF-8.
            compress: False sends this message uncompressed.

        Raises:
            RuntimeError: The call comes from another thread than that of `Server.run`.
            TypeError: The message is neither `str` nor `bytes`.
            ValueError: With `text`, the bytes are not UTF-8.

        """
        write_coalescer = self._write_coalescer
        if get_ident() != write_coalescer.thread:  # saves a call on the hot path
            write_coalescer.check_thread()
        opcode, payload = encode_message(message, text)
        plain = compressed = encode_frame(opcode, payload)
        if (
            compress
            and len(payload) >= self._compression_threshold
            and any(member._accepts_shared_compression for member in self._members)
        ):
            compressed = encode_frame(opcode, SHARED_COMPRESSOR.compress(payload), rsv1=True)
        self._frames.append((write_coalescer.mark_group(self), plain, compressed, sender))

    def flush(
        self, pending: dict[GroupMember, NumberedFrames], ordered: Container[GroupMember]
    ) -> int:
        """Write this iteration's frames to the members; return the number of bytes.

        The senders come first, because a peer that waits for its acknowledgement or for a reply
        then continues earlier.

        Args:
            pending: Peers with further frames. flush() writes and removes those of the senders.
                It appends this group's frames for all members that must receive both in order.
            ordered: Peers with a fragmented message, whose frames stay in `pending`.
        """
        plain, compressed = self._join_frames()
        own: dict[GroupMember, list[int]] = {}  # indexes of each sender's frames
        for index, (_, _, _, sender) in enumerate(self._frames):
            if sender is not None and sender in self._members:
                own.setdefault(sender, []).append(index)
        single_membership, joined_at = self.single_membership, self._joined_at
        written = 0
        members = list(self._members)  # a copy, because a failed write discards a member
        for member in joined_at:
            pending.setdefault(member, [])
        finished: set[GroupMember] = set()
        for member, without in own.items():
            added = pending.setdefault(member, [])
            if member._groups is single_membership and member not in ordered:
                finished.add(member)
                joined = compressed if member._accepts_shared_compression else plain
                after = joined_at.get(member, -1)
                data = joined.edit(after=after, without=without, added=added)
                added.clear()
                if data:
                    written += len(data)
                    member._transport.write(data)
        data, plain_writes, compressed_writes = plain.data, 0, 0
        for member in members:
            if member._groups is not single_membership or member in pending:
                if member not in finished:
                    pending.setdefault(member, []).extend(self._frames_for(member))
            elif compressed is plain or not member._accepts_shared_compression:
                plain_writes += 1
                member._transport.write(data)
            else:
                compressed_writes += 1
                member._transport.write(compressed.data)
        self._frames = []
        self._joined_at = {}
        return written + plain_writes * len(plain.data) + compressed_writes * len(compressed.data)

    def _join_frames(self) -> tuple[JoinedFrames, JoinedFrames]:
        """Return this iteration's frames as shared bytes, plain and compressed."""
        frames = self._frames
        numbers = [number for number, _, _, _ in frames]
        plain = JoinedFrames(numbers, [frame for _, frame, _, _ in frames])
        if all(frame is compressed for _, frame, compressed, _ in frames):
            return plain, plain
        return plain, JoinedFrames(numbers, [frame for _, _, frame, _ in frames])

    def _frames_for(self, member: GroupMember) -> NumberedFrames:
        """Return the frames of this iteration that one member must receive."""
        joined_at = self._joined_at.get(member, -1)
        compresses = member._accepts_shared_compression
        return [
            (number, compressed if compresses else plain)
            for number, plain, compressed, sender in self._frames
            if sender is not member and number > joined_at
        ]


def leave_groups(member: GroupMember, *, keep_pending: bool) -> None:
    """Remove a peer from all its groups, in time proportional to their number.

    Args:
        member: The peer.
        keep_pending: See `Group.discard`.
    """
    groups, member._groups = member._groups, ()
    for group in groups:
        group._remove(member, keep_pending)
