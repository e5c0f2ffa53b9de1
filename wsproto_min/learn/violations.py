"""Violations of the rules, sent to the student's server."""

from __future__ import annotations

from wsproto_min.connection import Connection, Event, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.heads import split_parts
from wsproto_min.explain.verdict import close_code_name
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.rules import Rule
from wsproto_min.testing.raw_frame import naive_mask
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS, VIOLATIONS, Violation

_MASK_AND_NO_PAYLOAD = b"\x80"  # the second byte of a header
_END_OF_MESSAGE = bytes.fromhex("80 80 00 00 00 00")  # an empty continuation frame with FIN
_SHORTEST = {2: 126, 8: 65536}  # the least length in so many bytes
_FILLER = b"\x80"  # continues a character of UTF-8
_MAX_COMPLETED = 1 << 12  # bytes


def violations_of(*rules: Rule, compression: bool = False) -> list[Violation]:
    """Return the violations of these rules that a client can commit.

    Args:
        rules: The rules.
        compression: Those of a connection with permessage-deflate.

    """
    found = DEFLATE_VIOLATIONS if compression else VIOLATIONS
    return [each for each in found if each.sender == "client" and each.rule in rules]


def completed(data: bytes) -> bytes:
    """Return frames with the last one completed, and the end of a message that is under way.

    A violation ends at the first byte that shows it. A server may wait for the whole frame.

    >>> completed(bytes.fromhex("c1")).hex(" ")
    'c1 80 00 00 00 00'
    >>> completed(bytes.fromhex("89 fe"))[:8].hex(" ")
    '89 fe 00 7e 00 00 00 00'
    """
    begin = list(split_parts(data))[-1].begin
    last = data[begin:]
    if len(last) == 1:
        last += _MASK_AND_NO_PAYLOAD
    size = FrameFields(last).length_end - 2
    if len(last) == 2 and size:
        last += _SHORTEST[size].to_bytes(size, "big")
    frame = FrameFields(last.ljust(FrameFields(last).header_size, b"\0"))
    payload = frame.payload
    if frame.size <= _MAX_COMPLETED:
        payload = payload.ljust(frame.length or 0, _FILLER)
    last = frame.data[: frame.header_size] + naive_mask(payload, frame.mask or bytes(4))
    end = b"" if frame.fin or frame.is_control else _END_OF_MESSAGE
    return data[:begin] + last + end


def refuses_violation(
    violation: Violation,
    program: Program,
    *,
    compression: DeflateParameters | None = None,
) -> None:
    """Send a violation; expect the answers to the frames before it, and a Close frame.

    Args:
        violation: The violation.
        program: The student's program.
        compression: Parameters of permessage-deflate to offer; None for no offer.

    Raises:
        Wrong: The server accepts the frames, or closes with another code.

    """
    with Exchange(program) as exchange:
        options = exchange.open(compression=compression)
        exchange.send(completed(violation.data))
        try:
            exchange.expect(*_answers_before(violation.data, options.compression))
            exchange.expect_close(violation.close_code)
        except Wrong as wrong:
            rule = violation.rule
            raise Wrong(
                wrong.problem,
                f"The rule: {rule.sentence} ({rule.section})",
                f"The server must close with {close_code_name(rule.close_code)}.",
                f"More about it: python3 -m wsproto_min explain --break {violation.name}",
                "",
                *wrong.details,
            ) from None


def _answers_before(data: bytes, compression: DeflateParameters | None) -> list[Event]:
    """Return the echoes of the messages that are complete before the violation."""
    server = Connection(Role.SERVER, compression=compression)
    server.receive_data(data)
    events = iter(server.next_event, None)
    return [event for event in events if isinstance(event, str | bytes)]
