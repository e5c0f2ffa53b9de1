"""The peer as an application sees it: its attributes and calls in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.net.workbench import UNMASKED, Workbench, close, text
from tests.support import handshake
from wsproto_min.codes import CloseCode
from wsproto_min.connection import Close, State
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request, Response
from wsproto_min.net.broadcast import Group
from wsproto_min.net.peer import Peer
from wsproto_min.server_handshake import Acceptance, accept


def test_calls_before_and_after_the_connection_do_nothing(bench: Workbench) -> None:
    def call_all(peer: Peer) -> None:
        peer.send("nothing")
        peer.close()
        peer.fail(CloseCode.INTERNAL_ERROR)

    peer, theirs = bench.accept()
    call_all(peer)
    bench.iterate()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    peer.abort()
    assert theirs.recv(1) == b""
    call_all(peer)
    peer.abort()
    peer.go_away("the server is stopping")
    peer.pause_reading(0)
    bench.iterate()
    peer, remote = bench.open()
    peer.abort()
    call_all(peer)
    peer.go_away("the server is stopping")
    peer.pause_reading(0)
    bench.iterate()
    remote.read()
    assert remote.events == []


def test_send_of_a_wrong_type_raises_and_sends_nothing(bench: Workbench) -> None:
    peer, remote = bench.open()
    wrong: Any = [104, 105]
    with pytest.raises(TypeError, match="a message is str or bytes, not list"):
        peer.send(wrong)
    bench.iterate()
    remote.read()
    assert remote.events == []


def test_send_passes_its_options_on(bench: Workbench) -> None:
    bench.context.compression_threshold = 0
    peer, remote = bench.open()
    peer.send("Hé".encode(), text=True)
    peer.send("plain", compress=False)
    with pytest.raises(ValueError, match="text: not UTF-8 at byte 0; send it as binary"):
        peer.send(b"\xff", text=True)
    bench.iterate()
    remote.read()
    assert remote.events == ["Hé", "plain"]


def test_invalid_close_code_raises_and_changes_nothing(bench: Workbench) -> None:
    peer, remote = bench.open()
    for call in (peer.close, peer.fail):
        with pytest.raises(ValueError, match="1006"):
            call(1006)
    peer.send("all is well")
    bench.iterate()
    remote.read()
    assert remote.events == ["all is well"]


def test_group_add_after_close_is_ignored(bench: Workbench) -> None:
    # RFC 6455, 5.5.1: no data frame may follow the Close frame.
    group = Group(bench.context.write_coalescer)
    peer, remote = bench.open()
    peer.close(4000)
    group.add(peer)
    group.send("after the Close frame")
    bench.iterate()
    remote.read()
    assert remote.events == [Close(4000)]
    assert len(group) == 0


def test_state_follows_the_connection(bench: Workbench) -> None:
    peer, theirs = bench.accept()
    seen = [peer.state]
    theirs.sendall(handshake())
    bench.iterate()
    seen.append(peer.state)
    peer.close(4000)
    seen.append(peer.state)
    peer.fail(4001)
    seen.append(peer.state)
    peer.abort()
    seen.append(peer.state)
    assert seen == list(State)


def test_repr_has_address_state_subprotocol_and_code(bench: Workbench) -> None:
    bench.context.on_request = lambda peer, request: accept(request, subprotocols=["chat"])
    peer, theirs = bench.accept()
    assert repr(peer) == "<Peer 192.0.2.1:1 CONNECTING>"
    theirs.sendall(handshake().replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"))
    bench.iterate()
    assert repr(peer) == "<Peer 192.0.2.1:1 OPEN 'chat'>"
    peer.close(4000)
    assert repr(peer) == "<Peer 192.0.2.1:1 CLOSING 'chat' close_code=4000>"
    peer.abort()
    assert repr(peer) == "<Peer 192.0.2.1:1 CLOSED 'chat' close_code=4000>"


def test_request_is_known_until_on_open_has_returned(bench: Workbench) -> None:
    seen: list[tuple[str, str | None]] = []

    def record(moment: str, peer: Peer) -> None:
        seen.append((moment, None if peer.request is None else peer.request.path))

    def on_request(peer: Peer, request: Request) -> Acceptance:
        record("on_request", peer)
        return accept(request)

    bench.context.on_accept = lambda peer: record("on_accept", peer)
    bench.context.on_request = on_request
    bench.context.on_open = lambda peer: record("on_open", peer)
    bench.context.on_message = lambda peer, message: record("on_message", peer)
    _, theirs = bench.accept()
    theirs.sendall(handshake("/room?query") + text("hello"))
    bench.iterate()
    assert seen == [
        ("on_accept", None),
        ("on_request", "/room"),
        ("on_open", "/room"),
        ("on_message", None),
    ]


def test_request_and_refusal_of_a_refused_peer_are_known(bench: Workbench) -> None:
    error = HandshakeError(401, "authenticate first")

    def on_request(peer: Peer, request: Request) -> Response:
        raise error

    bench.context.on_request = on_request
    peer, theirs = bench.accept()
    theirs.sendall(handshake("/room"))
    bench.iterate()
    assert peer.refusal is error
    assert peer.request is not None
    assert peer.request.target == "/room"
    assert (peer.connection, peer.close_code, peer.close_reason) == (None, None, "")


def test_subprotocol_is_the_negotiated_one(bench: Workbench) -> None:
    bench.context.on_request = lambda peer, request: accept(request, subprotocols=("b", "a"))
    peer, theirs = bench.accept()
    assert peer.subprotocol is None
    theirs.sendall(handshake()[:-2] + b"Sec-WebSocket-Protocol: a, b\r\n\r\n")
    bench.iterate()
    assert peer.subprotocol == "b"


@pytest.mark.parametrize(
    ("end", "data", "code", "reason"),
    [
        pytest.param(lambda peer: None, close(4001), 4001, "", id="closed by the client"),
        pytest.param(
            lambda peer: peer.close(4002, "enough"), close(4002), 4002, "enough", id="same code"
        ),
        pytest.param(
            lambda peer: peer.close(4002, "enough"), close(4003), 4002, "enough", id="another code"
        ),
        pytest.param(
            lambda peer: peer.close(4002), close(4002, "bye"), 4002, "", id="reply with a reason"
        ),
        pytest.param(lambda peer: None, close(4001, "bye"), 4001, "bye", id="closed with a reason"),
        pytest.param(lambda peer: peer.fail(4004, "bad"), b"", 4004, "bad", id="failed"),
        pytest.param(Peer.abort, b"", 1006, "", id="aborted"),
        pytest.param(lambda peer: None, UNMASKED, 1002, None, id="violation"),
    ],
)
def test_close_code_and_reason_name_the_frame_that_ended_it(
    bench: Workbench,
    end: Callable[[Peer], None],
    data: bytes,
    code: int,
    reason: str | None,
) -> None:
    peer, remote = bench.open()
    assert (peer.close_code, peer.close_reason) == (None, "")
    end(peer)
    if data:
        remote.sock.sendall(data)
    bench.iterate()
    assert peer.close_code == code
    connection = peer.connection
    assert connection is not None
    if reason is None:
        assert connection.error is not None
        reason = connection.error.reason
    assert peer.close_reason == reason
    remote.sock.close()
    bench.iterate_until(lambda: not bench.context.peers, "the socket is closed")
    assert (peer.close_code, peer.close_reason) == (code, reason)


def test_close_code_is_1006_after_eof_without_close_frame(bench: Workbench) -> None:
    peer, remote = bench.open()
    remote.sock.close()
    bench.iterate()
    assert (peer.close_code, peer.close_reason) == (1006, "")
