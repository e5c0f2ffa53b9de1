"""The chat itself: binds rooms and the page to the server.

A message of a peer goes, byte for byte, to every other peer in its room.
"""

from __future__ import annotations

from chatd.page import load_page, room_of
from wsproto_min import CloseCode, Group, Peer, Request, Response, Server, accept


class Chat:
    """A chat server; `server` is what listens and runs."""

    def __init__(self) -> None:
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=self._on_message,
            on_close=self._on_close,
        )
        self._page = load_page()
        self._rooms: dict[str, Group] = {}

    def _on_request(self, peer: Peer, request: Request) -> Response:
        """Answer a handshake with 101, any other request with the page."""
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        response = accept(request)
        peer.state = room
        return response

    def _on_open(self, peer: Peer) -> None:
        room = self._rooms.get(peer.state)
        if room is None:
            room = self._rooms[peer.state] = self.server.group()
        room.add(peer)

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, bytes):
            peer.fail(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
        else:
            self._rooms[peer.state].send(message, sender=peer)

    def _on_close(self, peer: Peer) -> None:
        """Forget a room when the last one has left it."""
        if not self._rooms.get(peer.state, True):
            del self._rooms[peer.state]
