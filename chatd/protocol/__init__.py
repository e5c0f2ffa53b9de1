"""The chat subprotocol `chat.v1`: each text message is one JSON object with a `type`.

`parsing` turns a client's message into a value of `requests`, and `encoding` encodes the
server's messages. Rooms, peers and sockets belong to other modules.
"""

from chatd.protocol.encoding import (
    acknowledgement,
    direct,
    error,
    history,
    joined,
    message,
    moderated,
    pong,
    presence,
    renamed,
    results,
    rooms,
    typing,
)
from chatd.protocol.parsing import MAX_MESSAGE_SIZE, MAX_TOKEN, parse
from chatd.protocol.requests import (
    MAX_BAN,
    MAX_HISTORY,
    MAX_SEARCH,
    Change,
    ChatError,
    ClientMessage,
    History,
    Join,
    Leave,
    Moderate,
    Ping,
    Rooms,
    Say,
    Search,
    Typing,
)

__all__ = [
    "MAX_BAN",
    "MAX_HISTORY",
    "MAX_MESSAGE_SIZE",
    "MAX_SEARCH",
    "MAX_TOKEN",
    "SUBPROTOCOL",
    "Change",
    "ChatError",
    "ClientMessage",
    "History",
    "Join",
    "Leave",
    "Moderate",
    "Ping",
    "Rooms",
    "Say",
    "Search",
    "Typing",
    "acknowledgement",
    "direct",
    "error",
    "history",
    "joined",
    "message",
    "moderated",
    "parse",
    "pong",
    "presence",
    "renamed",
    "results",
    "rooms",
    "typing",
]

SUBPROTOCOL = "chat.v1"
