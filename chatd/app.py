"""The chat itself: binds rooms and the page to the server.

A message of a peer goes, byte for byte, to every other peer in its room.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatd.page import load_page, room_of
from chatd.proxy import Proxy, client_address
from wsproto_min import (
    WITHOUT_TAKEOVER,
    CloseCode,
    Group,
    Peer,
    Request,
    Response,
    Server,
    accept,
)


class Chat:
    """A chat server; `server` is what listens and runs.

    `compression` is whether to agree to it. Whom `trusted_proxies` pass on has
    the address that they forward (see `proxy`).
    """

    def __init__(self, *, compression: bool = True, trusted_proxies: Sequence[Proxy] = ()) -> None:
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=self._on_message,
            on_close=self._on_close,
        )
        self._page = load_page()
        self._deflate = WITHOUT_TAKEOVER if compression else None
        self._trusted_proxies = trusted_proxies
        self._rooms: dict[str, Group] = {}

    def _on_request(self, peer: Peer, request: Request) -> Response:
        """Answer a handshake with 101, any other request with the page."""
        peer.address = client_address(peer.address, request.headers, self._trusted_proxies)
        room = room_of(request)
        if not request.wants_websocket:
            return self._page
        response = accept(request, deflate=self._deflate)
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
