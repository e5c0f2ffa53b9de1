"""UTF-8 across fragments.

A text message is UTF-8 as a whole (sections 5.6 and 8.1). A character has
one to four bytes, and a fragment may end within a character:

    01 82 ... 48 c3    FIN 0: "H", and the first byte of "é"
    80 81 ... a9       FIN 1: the second byte; the message is "Hé"

So do not decode each fragment for itself. Join the bytes first, or use
codecs.getincrementaldecoder("utf-8"), which keeps an incomplete character
for the next call and takes final=True for the last one.

If a text is not UTF-8, the server must not send it back, not even with
replaced characters. It sends a Close frame and ends the connection. Its
payload is the close code 1007 in two bytes, and a reason if you like:

    88 02 03 ef

Invalid are bytes that cannot follow one another, the end within a
character, overlong forms such as c0 80, and the surrogates ed a0 80 to
ed bf bf. Python's strict decoder refuses all of them. Binary messages have
any bytes.

You may check a text when it is complete. A strict server closes at the
first invalid byte.
"""

from __future__ import annotations

from functools import partial

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.learn.client_frames import fragments, masked, message
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program
from wsproto_min.learn.random_traffic import check_random_traffic
from wsproto_min.learn.step import Case, Step
from wsproto_min.learn.violations import refuses_violation, violations_of

_TEXT = "Hé, 5 €, \U0001f600\U0010ffff\uffff."

# A byte order mark, ends of lines, an accent of its own, and two noncharacters.
_UNCHANGED = "\ufeff\r\n\te\u0301 \ufffe\ufdd0\x00\n"


def _echoes(data: str | bytes, program: Program) -> None:
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(message(data))
        exchange.expect(data)


def _echoes_with_each_cut(program: Program) -> None:
    """Send a text with a cut at each of its bytes, and then in single bytes."""
    size = len(_TEXT.encode())
    with Exchange(program) as exchange:
        exchange.open()
        for cuts in (*([cut] for cut in range(size)), [*range(1, size)]):
            exchange.note = f"fragments that end after {', '.join(map(str, cuts))} bytes"
            exchange.send(b"".join(fragments(_TEXT, *cuts)))
            exchange.expect(_TEXT)


def _echoes_with_a_ping_within_a_character(program: Program) -> None:
    first, last = fragments("é", 1)
    with Exchange(program) as exchange:
        exchange.open()
        exchange.send(first + masked(Opcode.PONG, b"\xff") + last)
        exchange.expect("é")


STEP = Step.from_docstring(
    __doc__,
    [
        Case("a text with characters of 1 to 4 bytes", partial(_echoes, _TEXT)),
        Case("marks and spaces that stay as they are", partial(_echoes, _UNCHANGED)),
        Case("a binary message with any bytes", partial(_echoes, bytes(range(256)))),
        Case("a cut at each byte of a text", _echoes_with_each_cut),
        Case("a Pong within a character", _echoes_with_a_ping_within_a_character),
        *(
            Case(f"invalid: {violation.name}", partial(refuses_violation, violation))
            for violation in violations_of(rules.TEXT_NOT_UTF8)
        ),
        Case("random messages in random fragments", check_random_traffic),
    ],
    restarts=True,
)
