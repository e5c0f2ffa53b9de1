"""Plain HTTP with a server: request bodies, and responses that come later."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.net.workbench import Workbench, text
from tests.support import connect, handshake, poll, read_to_end, serving
from wsproto_min.connection import State
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request, Response
from wsproto_min.net.message_budget import MessageBudget
from wsproto_min.net.peer import Peer
from wsproto_min.server_handshake import Acceptance, Deferred, accept

POST = b"POST /r/x?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


@pytest.fixture
def later(bench: Workbench) -> list[tuple[Peer, Request]]:
    """Requests that wait for a response; the server reads bodies up to 10 bytes."""
    waiting: list[tuple[Peer, Request]] = []

    def on_request(peer: Peer, request: Request) -> Deferred:
        waiting.append((peer, request))
        return Deferred()

    bench.context.max_body_size = 10
    bench.context.on_request = on_request
    return waiting


def status(response: bytes) -> int:
    return int(response.split(b" ")[1])


# Bodies.


def test_request_has_its_body_however_it_arrives(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    for size in (1, 3, len(POST) + 2, 100):
        _, theirs = bench.accept()
        data = POST + b"hello"
        for start in range(0, len(data), size):
            theirs.sendall(data[start : start + size])
            bench.iterate()
        peer, request = later.pop()
        assert (request.method, request.path, request.query) == ("POST", "/r/x", "a=1")
        assert request.body == b"hello"
        peer.respond(Response.json({"id": 7}, 201))
        response = bench.iterate_and_receive(theirs)
        assert response.startswith(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n")
        assert response.endswith(b'\r\n\r\n{"id": 7}')


def test_body_over_the_limit_is_refused_at_its_head(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    _, theirs = bench.accept()
    theirs.sendall(POST.replace(b"h: 5", b"h: 11\r\nExpect: 100-continue"))
    assert status(bench.iterate_and_receive(theirs)) == 413
    assert later == []


def test_expect_100_continue_is_answered_before_the_body(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    _, theirs = bench.accept()
    theirs.sendall(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\n\r\n"))
    assert bench.iterate_and_receive(theirs) == b"HTTP/1.1 100 Continue\r\n\r\n"
    theirs.settimeout(1)
    theirs.sendall(b"hello")
    bench.iterate()
    later[0][0].respond(Response(200))
    assert status(bench.iterate_and_receive(theirs)) == 200


def test_body_cut_by_the_client_calls_nothing(
    bench: Workbench, later: list[tuple[Peer, Request]], caplog: pytest.LogCaptureFixture
) -> None:
    peer, theirs = bench.accept()
    theirs.sendall(POST + b"hell")
    bench.iterate()
    theirs.close()
    bench.iterate_until(lambda: peer.state is State.CLOSED, "the socket is closed")
    assert (later, bench.context.message_budget.total, caplog.records) == ([], 0, [])


def test_slow_body_is_answered_with_408(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    _, theirs = bench.accept()
    theirs.sendall(POST + b"hell")
    bench.iterate()
    bench.iterate(ahead=10.2)
    assert status(bench.iterate_and_receive(theirs)) == 408
    assert later == []


def test_bodies_count_for_total_unfinished_limit(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    bench.context.message_budget = MessageBudget(12)
    remotes = [bench.accept()[1] for _ in range(3)]
    for body, theirs in zip((b"hello", b"hello", b"hell"), remotes, strict=True):
        theirs.sendall(POST + body)
        bench.iterate()
    assert status(bench.iterate_and_receive(remotes[0])) == 503
    assert bench.context.message_budget.total == 9
    later[1][0].respond(Response(204))
    assert status(bench.iterate_and_receive(remotes[1])) == 204
    assert bench.context.message_budget.total == 4


def test_upgrade_request_with_a_body_is_refused(bench: Workbench) -> None:
    bench.context.max_body_size = 10
    _, theirs = bench.accept()
    theirs.sendall(handshake().replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"))
    assert status(bench.iterate_and_receive(theirs)) == 400


# Responses that come later.


def test_response_may_be_decided_within_on_request(bench: Workbench) -> None:
    def on_request(peer: Peer, request: Request) -> Deferred:
        peer.respond(Response(200, body=b"first"))
        peer.respond(Response(200, body=b"second"))
        return Deferred()

    bench.context.on_request = on_request
    _, theirs = bench.accept()
    theirs.sendall(POST)
    assert bench.iterate_and_receive(theirs).endswith(b"\r\n\r\nfirst")


def test_returned_response_wins_over_respond(bench: Workbench) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        peer.respond(Response(200, body=b"responded"))
        return Response(200, body=b"returned")

    bench.context.on_request = on_request
    _, theirs = bench.accept()
    theirs.sendall(POST)
    assert bench.iterate_and_receive(theirs).endswith(b"\r\n\r\nreturned")
    bench.iterate()
    theirs.settimeout(1)
    assert read_to_end(theirs) == b""


def test_handshake_may_be_accepted_later(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    peer, theirs = bench.accept()
    theirs.sendall(handshake() + text("early"))
    bench.iterate()
    theirs.sendall(text("later"))
    bench.iterate()
    assert (peer.state, bench.messages) == (State.CONNECTING, [])
    peer.respond(accept(later[0][1]))
    assert status(bench.iterate_and_receive(theirs)) == 101
    bench.iterate()
    assert bench.messages == [(peer, "early"), (peer, "later")]
    peer.respond(Response(200))
    bench.iterate()
    assert peer.is_open


def test_refusal_may_come_later(bench: Workbench, later: list[tuple[Peer, Request]]) -> None:
    peer, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.iterate()
    peer.respond(HandshakeError(401, "authenticate first"))
    assert status(bench.iterate_and_receive(theirs)) == 401
    assert peer.refusal is not None


@pytest.mark.parametrize(
    "response", [Response(299), Response(200, [("Price", "1 €")]), Response(101), "text"]
)
def test_invalid_later_response_is_500_and_logged_once(
    bench: Workbench,
    later: list[tuple[Peer, Request]],
    caplog: pytest.LogCaptureFixture,
    response: Any,
) -> None:
    peer, theirs = bench.accept()
    theirs.sendall(POST + b"hello")
    bench.iterate()
    peer.respond(response)
    assert status(bench.iterate_and_receive(theirs)) == 500
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_missing_response_is_503_at_its_deadline(
    bench: Workbench, later: list[tuple[Peer, Request]], caplog: pytest.LogCaptureFixture
) -> None:
    peer, theirs = bench.accept()
    bench.iterate(ahead=9.0)
    theirs.sendall(POST + b"hello")
    bench.iterate()
    bench.iterate(ahead=9.0)
    assert peer.state is State.CONNECTING
    bench.iterate(ahead=1.2)
    assert status(bench.iterate_and_receive(theirs)) == 503
    assert [record.getMessage() for record in caplog.records] == [
        "on_request: no response within 10 s for 192.0.2.1:1; call Peer.respond earlier"
    ]
    peer.respond(Response(200))
    bench.iterate()
    theirs.shutdown(socket.SHUT_WR)
    bench.iterate()
    theirs.settimeout(1)
    assert read_to_end(theirs) == b""


def test_peer_that_goes_before_its_response_is_no_error(
    bench: Workbench, later: list[tuple[Peer, Request]], caplog: pytest.LogCaptureFixture
) -> None:
    gone, theirs = bench.accept()
    aborted, _ = bench.accept()
    theirs.sendall(POST + b"hello")
    bench.iterate()
    theirs.close()
    bench.iterate()
    aborted.abort()
    for peer in (gone, aborted):
        peer.respond(Response(200))
    bench.iterate_until(lambda: not bench.context.peers, "both sockets are closed")
    assert caplog.records == []


def test_half_closed_client_receives_a_later_response(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    peer, theirs = bench.accept()
    theirs.sendall(POST + b"hello")
    theirs.shutdown(socket.SHUT_WR)
    bench.iterate()
    bench.iterate()
    peer.respond(Response(200, body=b"stored"))
    assert bench.iterate_and_receive(theirs).endswith(b"stored")


def test_bytes_behind_a_deferred_request_stay_in_the_kernel(
    bench: Workbench, later: list[tuple[Peer, Request]]
) -> None:
    peer, theirs = bench.accept()
    peer.pause_reading(5.0)
    bench.iterate(ahead=5.0)
    theirs.sendall(POST + b"hello")
    bench.iterate()
    peer.pause_reading(1.0)
    bench.iterate(ahead=1.0)  # the end of this pause must not resume reading
    before = bench.context.bytes_received
    theirs.sendall(b"x" * 1000)
    bench.iterate()
    assert bench.context.bytes_received == before
    peer.pause_reading(1.0)
    peer.respond(Response(200))
    assert status(bench.iterate_and_receive(theirs)) == 200


def test_stop_lets_a_deferred_response_through() -> None:
    waiting: list[Peer] = []

    def on_request(peer: Peer, request: Request) -> Deferred | Acceptance:
        waiting.append(peer)
        return Deferred()

    with (
        serving(on_request=on_request, max_body_size=10) as running,
        connect(running.address) as sock,
    ):
        sock.sendall(POST + b"hello")
        poll(lambda: waiting, "the request has arrived")
        running.server.stop(5.0)
        poll(
            lambda: running.ask(lambda: running.server._stopping),
            "the server has begun to stop",
        )
        running.server.call_soon_threadsafe(
            lambda: running.server.call_later(0, lambda: waiting[0].respond(Response(201)))
        )
        assert status(read_to_end(sock)) == 201


@pytest.mark.parametrize("where", ["on_before_flush", "on_iteration_end", "call_later"])
def test_respond_works_from_any_callback(where: str) -> None:
    waiting: list[Peer] = []

    def respond(*arguments: object) -> None:
        while waiting:
            waiting.pop().respond(Response(201))

    def on_request(peer: Peer, request: Request) -> Deferred:
        waiting.append(peer)
        if where == "call_later":
            running.server.call_later(0, respond)
        return Deferred()

    callbacks: dict[str, Any] = {} if where == "call_later" else {where: respond}
    with (
        serving(on_request=on_request, max_body_size=10, **callbacks) as running,
        connect(running.address) as sock,
    ):
        sock.sendall(POST + b"hello")
        assert status(read_to_end(sock)) == 201


def test_respond_in_another_thread_raises() -> None:
    waiting: list[Peer] = []

    def on_request(peer: Peer, request: Request) -> Deferred:
        waiting.append(peer)
        return Deferred()

    with serving(on_request=on_request) as running, connect(running.address) as sock:
        sock.sendall(POST)
        poll(lambda: waiting, "the request has arrived")
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            waiting[0].respond(Response(200))
        running.server.call_soon_threadsafe(lambda: waiting[0].respond(Response(200)))
        assert status(read_to_end(sock)) == 200
