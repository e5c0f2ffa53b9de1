"""The frames of one loop iteration, joined: the bytes that most members of a group share.

A member that must receive other bytes gets a copy of the shared ones, without its own frames and
with the frames that it alone was sent. That costs a few slices, not one step for each frame.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class JoinedFrames:
    """Encoded frames, joined in the order of their sequence numbers.

    Args:
        numbers: Sequence numbers in ascending order.
        frames: The frame of each number.

    Attributes:
        data: The joined frames.

    """

    __slots__ = ("_ends", "_frames", "_numbers", "data")

    def __init__(self, numbers: Sequence[int], frames: Sequence[bytes]) -> None:
        self.data: bytes = frames[0] if len(frames) == 1 else b"".join(frames)
        self._numbers = numbers
        self._frames = frames
        self._ends: list[int] = []

    def edit(
        self, *, after: int, without: Sequence[int], added: Sequence[tuple[int, bytes]]
    ) -> bytes:
        """Return the joined frames of a member that must receive other bytes.

        Args:
            after: Sequence number; the member receives only frames with a greater one.
            without: Indexes of the frames that the member does not receive, in ascending order.
            added: Further frames of the member, with their sequence numbers.

        """
        if len(without) == len(self._frames):
            return b"".join([frame for _, frame in sorted(added)])
        if not self._ends:
            self._ends = list(accumulate(map(len, self._frames), initial=0))
        ends, numbers, data = self._ends, self._numbers, self.data
        first = bisect_left(numbers, after + 1)
        if len(without) == 1 and not added and not first:  # the usual sender
            (index,) = without
            return data[: ends[index]] + data[ends[index + 1] :]
        # Sequence number of each change, where it begins and ends in the data, and its bytes.
        changes = [
            (numbers[index], ends[index], ends[index + 1], b"")
            for index in without
            if index >= first
        ]
        for number, frame in added:
            at = ends[max(first, bisect_left(numbers, number))]
            changes.append((number, at, at, frame))
        changes.sort()  # numbers are unique, so sort() compares nothing else
        pieces: list[bytes] = []
        position = ends[first]
        for _, begin, end, frame in changes:
            pieces += (data[position:begin], frame)
            position = end
        pieces.append(data[position:])
        return b"".join(pieces)
