"""The message store: the interface between the chat and a storage engine.

The store decides the order of the messages. The chat delivers a message only after the
store has it. `append` and the reads take a callback for the result. An engine calls the
callback in the thread of the event loop, at once or in a later iteration. The interface
therefore suits an embedded engine (`SQLiteStore`) and a shared one. `apply_retention`
and `close` block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from chatd.model import Kind, Message, Sanction

Result = TypeVar("Result")


class StoreError(Exception):
    """A failure to open, read or write the message store."""


class NewMessage(NamedTuple):
    """An entry to append: a message, or a change that refers to one.

    `key` is the sender's own id for the entry. The author and the key together are
    unique within the room, so two senders can use the same key. A sender that has lost
    its name is recognized by a random key and the same text.

    `text` and `ref` are as in `model.Message`. `moderates` is True if the sender may delete the
    messages of others.
    """

    room: str
    name: str
    text: str
    key: str | None
    author: str = ""
    kind: Kind = Kind.MESSAGE
    ref: int | None = None
    moderates: bool = False


class StoredMessage(NamedTuple):
    """The result for one appended entry.

    `repeated` is True if the store had an entry of this sender with the same key
    already; `message` is then the earlier entry. If retention has removed the earlier
    entry, `message` has its id and its time, and the text of the repetition.
    """

    message: Message
    repeated: bool


class Refused(NamedTuple):
    """The result for an entry that the store does not take: an error code and a sentence."""

    code: str
    reason: str


Appended = StoredMessage | Refused
"""The result for one entry of a batch."""


class Page(NamedTuple):
    """Entries of a room in ascending order, messages in their current state.

    Only `read_after` returns entries of other kinds than messages. An engine may return
    fewer entries than the limit if their texts are long.

    `more` is True if older matching entries exist beyond the page, `more_after` if newer ones
    exist. `gap` is True if requested entries are missing: retention has removed them, or
    another store has assigned the requested id. `topic` is the topic of the room. `last` is the
    last id of the room, None from an engine for one process.
    """

    messages: Sequence[Message]
    more: bool
    gap: bool
    more_after: bool = False
    topic: str = ""
    last: int | None = None


class Found(NamedTuple):
    """Result of a search: pairs of room and message, the newest first.

    `before` is the place below which older messages may match, too; None if there are none.
    `cursors` has the place of each message. Only the engine knows what a place is.
    """

    messages: Sequence[tuple[str, Message]]
    before: int | None
    cursors: Sequence[int]


class Act(NamedTuple):
    """An act of moderation, for the audit log; a ban and a mute also begin a sanction.

    `action` is kick, ban, unban, mute, unmute or erase, `actor` the name of the moderator or
    "operator", `until` the Unix time at which a sanction ends, None for no end.
    """

    action: str
    room: str
    name: str
    author: str
    actor: str
    until: float | None = None


AppendCallback = Callable[[Sequence[Appended] | StoreError], None]
ReadCallback = Callable[[Page | StoreError], None]
SearchCallback = Callable[[Found | StoreError], None]
Activity = Sequence[tuple[str, str, str, int]]
"""Rooms, each with the time of its last entry, its topic, and its members on all nodes.

An engine for one process knows no members and returns 0.
"""
ActivityCallback = Callable[[Activity | StoreError], None]
DirectCallback = Callable[[Sequence[tuple[str, str, str]] | StoreError], None]
"""Receives direct rooms, each with the other member's name and author."""
ActCallback = Callable[[StoreError | None], None]
CallLater = Callable[[float, Callable[[], None]], object]
"""Timer of the event loop: seconds, and a callback."""
CallSoon = Callable[[Callable[[], None]], object]
"""Call in the thread of the event loop; any thread may ask for it."""


class MessageStore(Protocol):
    """An engine that stores the messages of all rooms in order."""

    def start(self, call_later: CallLater, call_soon: CallSoon) -> None:
        """Give the engine the event loop, before the first message.

        Args:
            call_later: Timer of the event loop.
            call_soon: Call in the thread of the event loop, for the engine's own threads.
        """

    def append(self, messages: Sequence[NewMessage], callback: AppendCallback, /) -> None:
        """Append messages in this order, all or none.

        Args:
            messages: The batch. Ids increase in its order.
            callback: Receives one result a message, or the error.
        """

    def read_after(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read the entries with ids above `after`, the newest `limit` of them."""

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read the newest `limit` messages with ids below `before`, None for no bound."""

    def read_following(self, room: str, after: int, limit: int, callback: ReadCallback, /) -> None:
        """Read the oldest `limit` messages with ids above `after`."""

    def read_around(self, room: str, number: int, limit: int, callback: ReadCallback, /) -> None:
        """Read `limit` messages, half of them with ids below `number`."""

    def read_from(self, room: str, time: str, limit: int, callback: ReadCallback, /) -> None:
        """Read the oldest `limit` messages from a time on."""

    def search(
        self, rooms: Sequence[str], text: str, before: int | None, callback: SearchCallback, /
    ) -> None:
        """Find the newest messages that contain all words of a text, in any case.

        Args:
            rooms: Rooms to search.
            text: Words separated by spaces.
            before: `before` of an earlier result, None for no bound.
            callback: Receives at most `search.MAX_FOUND` messages, or the error.
        """

    def read_activity(self, callback: ActivityCallback, /) -> None:
        """Read the rooms with stored messages, except direct ones; a bounded number of them."""

    def read_direct_rooms(self, author: str, callback: DirectCallback, /) -> None:
        """Read the direct rooms of an author in which somebody has said something."""

    def moderate(self, act: Act, callback: ActCallback, /) -> None:
        """Store an act of moderation, with its sanction if it has one."""

    def changed_sanctions(self) -> Sequence[Sanction] | None:
        """Return all sanctions, None if they have not changed since the last call.

        Raises:
            StoreError: The engine failed; a later call may succeed.
        """

    def apply_retention(self) -> bool:
        """Delete messages that retention no longer keeps.

        The call blocks the event loop. An engine therefore bounds the number of messages
        that one call deletes in all rooms together (`retention.DELETE_LIMIT`).

        Returns:
            True if more messages may remain to be deleted.

        Raises:
            StoreError: The engine failed; a later call may succeed.
        """

    def check(self) -> None:
        """Check that the files of the store are in place; takes microseconds.

        Raises:
            StoreError: Another program has removed, replaced, truncated or overwritten a file.
        """

    @property
    def log_size(self) -> int:
        """Bytes that the engine has yet to copy into its database."""

    def close(self) -> None:
        """Write everything to disk and release the store."""
