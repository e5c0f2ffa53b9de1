"""Words of a dump without offsets, as `od -A n -t x2` prints them.

A word of several bytes may be in the byte order of the machine, or may be octal or decimal. The
digits alone do not show this. Words after a space, as `od` prints them, are refused. Other words of
one size are read as hex only if this reading is possible, and no other one is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from wsproto_min.connection import Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.handshake_lines import HandshakeContext

_WORD_SIZES = (1, 2, 4, 8)  # bytes, of `od -t` and `hexdump -e`
_JUDGED_WORDS = 4096  # the beginning shows a wrong reading
_BASES = (8, 10, 16)
_ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")
_COLUMNS = re.compile(r"\s*\d{1,3}(?:\s{2,}\d{1,3}){2,}\s*")
_FEW_COLUMNS = re.compile(r"(?:\s{2,}\d{1,3}){1,2}\s*")


def check_words(text: str) -> None:
    """Check that `text` has no words that may be read in another way.

    Args:
        text: Input in hex, without comments and offsets.

    Raises:
        ValueError: The words may be swapped, octal or decimal.

    """
    lines = [line for line in text.split("\n") if line.strip()]
    words = text.split()
    widths = {len(word) for word in words}
    is_indented = all(line[0].isspace() for line in lines)
    has_few_columns = bool(lines) and all(map(_FEW_COLUMNS.fullmatch, lines))
    # Decimal numbers have several widths, and od aligns them on the right.
    has_aligned_numbers = (
        is_indented and len(widths) > 1 and max(widths) > 2 and all(map(str.isdigit, words))
    )
    if has_few_columns or has_aligned_numbers or any(map(_COLUMNS.fullmatch, lines)):
        raise ValueError("columns of digits may be decimal numbers, as of od -t u1; use od -t x1")
    if len(widths) != 1 or len(words[0]) <= 2 or (len(words) == 1 and not is_indented):
        return
    try:
        words = words[:_JUDGED_WORDS]
        data = b"".join(map(bytes.fromhex, words))
    except ValueError:  # the parser of hex reports it
        return
    possible = not is_indented and _is_possible(data)
    if not possible or any(map(_is_possible, _other_readings(words, data))):
        raise ValueError(
            f"words of {len(words[0])} digits may be in this machine's byte order, as of od -t x2; "
            "use od -t x1 or xxd, or write bytes in pairs of digits"
        )


def _other_readings(words: list[str], data: bytes) -> Iterator[bytes]:
    """Yield the bytes of the words as numbers of each base, size and byte order."""
    for base in _BASES:
        try:
            numbers = [int(word, base) for word in words]
        except ValueError:  # a digit that the base does not have
            continue
        for size in _WORD_SIZES:
            if max(numbers) < 256**size and (base != 16 or size == len(words[0]) // 2):
                for order in _ORDERS:
                    reading = b"".join(number.to_bytes(size, order) for number in numbers)
                    if reading != data:
                        yield reading


def _is_possible(data: bytes) -> bool:
    """Return True if `data` may be the bytes of a connection, of both ends or of one."""
    for sender in (None, Role.CLIENT, Role.SERVER):
        context = HandshakeContext(DeflateParameters.DEFAULT)
        dissector = Dissector(sender, context=context, max_message_size=1 << 63)
        dissector.receive_data(data)
        dissector.receive_eof()
        while dissector.next_event() is not None:
            pass
        if dissector.verdict.result in ("valid", "incomplete"):
            return True
    return False
