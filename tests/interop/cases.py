"""Cases of the interop matrix: the same for a peer's server and its client."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.interop.link import SUBPROTOCOL, Link, Session
from tests.interop.messages import MESSAGES, MIB
from tests.interop.peer import Feature, Peer, Side
from tests.support import PATIENCE
from wsproto_min import Close, Role

CODE, REASON = 4321, "grüße"
REPEATED = "a text with many repetitions, " * 100


@dataclass(frozen=True, slots=True)
class Case:
    """A case, and the features of the peer that it needs."""

    name: str
    run: Callable[[Link, Peer], None]
    features: Sequence[Feature] = field(default=())
    takeover: bool = True


def expect(received: object, expected: object) -> None:
    """Raise an exception unless both values are equal, also in type."""
    if type(received) is not type(expected) or received != expected:
        raise AssertionError(f"expected {shorten(expected)}, received {shorten(received)}")


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:150]}... ({len(text)} characters)"


def exchange(link: Link, message: str | bytes) -> None:
    """Send a message, and expect it back."""
    link.send(message)
    expect(link.receive(), message)


def echo(*names: str) -> Callable[[Link, Peer], None]:
    """Return a case that exchanges some of `MESSAGES`."""

    def run(link: Link, peer: Peer) -> None:
        for name in names:
            exchange(link, MESSAGES[name])

    return run


def large_binary(link: Link, peer: Peer) -> None:
    exchange(link, b"a line of text\n" * (MIB // 15))


def frame_sizes(link: Link, peer: Peer) -> None:
    for size in (1, 125, 126, 127, 65535, 65536, 65537):
        exchange(link, bytes(size))


def fragments(*, compress: bool) -> Callable[[Link, Peer], None]:
    """Return a case that sends two messages in fragments."""

    def run(link: Link, peer: Peer) -> None:
        link.send_fragments("日本語", "", "é", "x" * 70_000, compress=compress)
        expect(link.receive(), "日本語é" + "x" * 70_000)
        link.send_fragments(b"\0", b"\xff" * 1000, b"", compress=compress)
        expect(link.receive(), b"\0" + b"\xff" * 1000)
        expect(len(link.trace.frames(link.role, "CONTINUATION")), 4 + 3)

    return run


def their_fragments(link: Link, peer: Peer) -> None:
    for text in ("three frames", "日本語" * 1000):
        link.trace.lines.clear()
        expect(link.ask(f"!fragments {text}"), text)
        frames = link.trace.frames(link.their_role, "(TEXT, not final|CONTINUATION)")
        if len(frames) < 3:
            raise AssertionError(f"expected three frames, received {frames}")


def ping_within_a_message(*, compress: bool) -> Callable[[Link, Peer], None]:
    """Return a case that sends a Ping between two fragments."""

    def run(link: Link, peer: Peer) -> None:
        link.send_fragments("before the Ping, ", "after the Ping", ping=True, compress=compress)
        expect(link.receive(), "before the Ping, after the Ping")

    return run


def our_ping(link: Link, peer: Peer) -> None:
    link.ping()
    exchange(link, "after the Pong")


def their_ping(link: Link, peer: Peer) -> None:
    expect(link.ask("!ping how are you?"), "pong how are you?")
    payload = b"how are you?".hex(" ")
    expect(len(link.trace.frames(link.their_role, f"PING, 12 bytes: {payload}")), 1)
    exchange(link, "after the Pong")


def our_compression(link: Link, peer: Peer) -> None:
    for message in (REPEATED, REPEATED.encode(), REPEATED, "x", "", b"", REPEATED):
        exchange(link, message)
    check_compression(link, link.role)


def their_compression(link: Link, peer: Peer) -> None:
    for message in (REPEATED, REPEATED.encode(), REPEATED):
        exchange(link, message)
    check_compression(link, link.their_role)


def check_compression(link: Link, sender: Role) -> list[str]:
    """Return the sizes of the compressed messages, at least three."""
    frames = link.trace.frames(sender, r"(TEXT|BINARY)(, not final)?, compressed")
    if len(frames) < 3:
        all_frames = [frame[:40] for frame in link.trace.frames(sender, "")]
        raise AssertionError(f"{sender.value}: does not compress; its frames: {all_frames}")
    return [re.sub(r":.*", "", frame) for frame in frames]


def compression_report(link: Link, peer: Peer) -> None:
    expect(link.ask("!compressed"), "yes")


def no_context_takeover(link: Link, peer: Peer) -> None:
    for _ in range(3):
        exchange(link, REPEATED)
    senders = [link.role]
    if peer.lack(link.side, Feature.COMPRESSOR) is None:
        senders.append(link.their_role)
    for sender in senders:
        sizes = check_compression(link, sender)
        if len(set(sizes)) > 1:
            raise AssertionError(f"{sender.value}: refers to an earlier message: {sizes}")


def messages_in_flight(link: Link, peer: Peer) -> None:
    messages = [f"message {number}, " * (number % 7 + 1) for number in range(200)]
    for message in messages:
        link.send(message)
    expect([link.receive() for _ in messages], messages)


def subprotocol(link: Link, peer: Peer) -> None:
    expect(link.subprotocol, SUBPROTOCOL)
    if peer.lack(link.side, Feature.PROTOCOL_REPORT) is None:
        expect(link.ask("!protocol"), SUBPROTOCOL)


def close_from_us(link: Link, peer: Peer) -> None:
    reply = link.close(CODE, REASON).code
    if reply not in (CODE, 1000, 1005):
        raise AssertionError(f"the peer replied with the code {reply}")
    code, reason = link.reported_close()
    if peer.lack(link.side, Feature.CLOSE_CODE) is None:
        expect(code, CODE)
    if peer.lack(link.side, Feature.CLOSE_REASON) is None:
        expect(reason, REASON)


def close_from_the_peer(link: Link, peer: Peer) -> None:
    link.send(f"!close {CODE} {REASON}")
    expect(link.closed(), Close(CODE, REASON))
    code, _ = link.reported_close()
    if peer.lack(link.side, Feature.REPLY_CODE) is None:
        expect(code, CODE)


def close_without_a_code(link: Link, peer: Peer) -> None:
    reply = link.close(1005, "").code
    if reply not in (1005, 1000):
        raise AssertionError(f"the peer replied with the code {reply}")
    reported = link.reported_close()
    if peer.lack(link.side, Feature.EMPTY_CLOSE) is None:
        expect(reported, (1005, ""))


CASES: tuple[Case, ...] = (
    Case("text", echo("text", "text once more", "a last text")),
    Case("unicode", echo("unicode", "a NUL in text")),
    Case("empty", echo("empty text", "empty binary", "text after an empty one")),
    Case("binary", echo("binary", "zeros")),
    Case("frame sizes", frame_sizes),
    Case("1 MiB of text", echo("1 MiB of unicode", "1 MiB that compresses well")),
    Case("1 MiB of binary", large_binary),
    Case("1 MiB that does not compress", echo("1 MiB that does not compress")),
    Case("fragments from us", fragments(compress=False)),
    Case("fragments from the peer", their_fragments, [Feature.FRAGMENTS]),
    Case("Ping within a message", ping_within_a_message(compress=False), [Feature.PONG]),
    Case("Ping from us", our_ping, [Feature.PONG]),
    Case("Ping from the peer", their_ping, [Feature.PING]),
    Case("compression", our_compression, [Feature.COMPRESSION]),
    Case(
        "compression by the peer",
        their_compression,
        [Feature.COMPRESSION, Feature.COMPRESSOR],
    ),
    Case("compressed fragments from us", fragments(compress=True), [Feature.COMPRESSION]),
    Case(
        "Ping within a compressed message",
        ping_within_a_message(compress=True),
        [Feature.COMPRESSION, Feature.PONG],
    ),
    Case(
        "compression, as reported",
        compression_report,
        [Feature.COMPRESSION, Feature.COMPRESSION_REPORT],
    ),
    Case("200 messages in flight", messages_in_flight),
    Case("subprotocol", subprotocol),
    Case("close from us", close_from_us),
    Case(
        "no context takeover",
        no_context_takeover,
        [Feature.COMPRESSION, Feature.NO_TAKEOVER],
        takeover=False,
    ),
    Case("close from the peer", close_from_the_peer),
    Case("close without a code", close_without_a_code),
)


def missing(peer: Peer, side: Side, scheme: str, case: Case) -> str | None:
    """Return the reason why a case does not apply to a peer, or None."""
    features = [Feature.ROLE, *([Feature.TLS] if scheme == "wss" else []), *case.features]
    reasons = (peer.lack(side, feature) for feature in features)
    return next(filter(None, reasons), None)


def run(session: Session, case: Case) -> None:
    """Run a case in a session; raise an exception if it fails."""
    expected = session.peer.failure(session.side, session.scheme, case.name)
    session.run(
        lambda link: case.run(link, session.peer),
        takeover=case.takeover,
        patience=PATIENCE if expected is None else 1.0,
    )
