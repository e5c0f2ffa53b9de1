"""The message store: the interface between the chat and a storage engine.

The store decides the order of the messages. The chat delivers a message only after the
store has it. `append` and the reads take a callback for the result. An engine calls the
callback in the thread of the event loop, at once or in a later iteration. The interface
therefore suits an embedded engine (`SQLiteStore`) and a shared one. `apply_retention`
and `close` block.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from chatd.model import Message


class StoreError(Exception):
    """A failure to open, read or write the message store."""


class NewMessage(NamedTuple):
    """A message to append.

    `key` is the sender's own id for the message. The name and the key together are
    unique within the room, so two senders can use the same key. A sender that has lost
    its name is recognized by a random key and the same text.
    """

    room: str
    name: str
    text: str
    key: str | None


class StoredMessage(NamedTuple):
    """The result for one appended message.

    `repeated` is True if the store had a message of this sender with the same key
    already; `message` is then the earlier message. If retention has removed the earlier
    message, `message` has its id and its time, and the text of the repetition.
    """

    message: Message
    repeated: bool


class Page(NamedTuple):
    """Messages of a room in ascending order, the newest of the matching ones.

    An engine may return fewer messages than the limit if their texts are long.

    `more` is True if older matching messages exist beyond the page. `gap` is True if
    requested messages are missing: retention has removed them, or another store has
    assigned the requested id.
    """

    messages: Sequence[Message]
    more: bool
    gap: bool


AppendCallback = Callable[[Sequence[StoredMessage] | StoreError], None]
ReadCallback = Callable[[Page | StoreError], None]
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
        """Read the messages with ids above `after`, the newest `limit` of them."""

    def read_before(
        self, room: str, before: int | None, limit: int, callback: ReadCallback, /
    ) -> None:
        """Read the newest `limit` messages with ids below `before`, None for no bound."""

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
