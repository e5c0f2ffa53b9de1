"""Frames made from a line of words, lawful or not: `explain --make`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal

from wsproto_min.codes import Opcode
from wsproto_min.deflate import Compressor
from wsproto_min.explain.hex_input import parse_hex
from wsproto_min.testing.raw_frame import KEY, RawFrame

GRAMMAR = """\
words separated by commas, in any order: text, binary, continuation, close, ping, pong
or opcode N (in hex); "a payload as text", or one in hex after that word: hex 00ff; code
1000 (for a close); masked, or masked 37fa213d with a key; N fragments; not final (FIN
is 0); rsv1, rsv2, rsv3; deflate; 16-bit length, 64-bit length (longer than need be)"""

_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^",]*?)\s*(?:,|$)')
_RSV = {"rsv1": 0b100, "rsv2": 0b010, "rsv3": 0b001}
_OPCODES = {opcode.name.lower(): int(opcode) for opcode in Opcode}


@dataclass
class _Plan:
    """What the words have asked for so far."""

    opcode: int | None = None
    payload: bytearray = field(default_factory=bytearray)
    code: bytes = b""
    mask: bytes | None = None
    fragments: int = 1
    fin: bool = True
    rsv: int = 0
    compression: bool = False
    length_bits: Literal[16, 64] | None = None


def build(line: str) -> bytes:
    r"""Return the bytes of the frames that `line` describes.

        >>> build('text, masked, "Hello"').hex(" ")
        '81 85 37 fa 21 3d 7f 9f 4d 51 58'
        >>> build('text, 2 fragments, "H\u00e9"').hex(" ")
        '01 01 48 80 02 c3 a9'

    Fragments are cut into pieces of bytes as even as may be, within a character
    too. Without a key the mask is the one of the RFC's examples. Raises
    `ValueError` that says which word it does not understand.
    """
    plan = _Plan()
    for word in _split(line):
        _obey(plan, word, line)
    if plan.opcode is None:
        raise ValueError(f"{line!r} says no kind of frame, such as text or ping")
    payload = plan.code + bytes(plan.payload)
    rsv = plan.rsv
    if plan.compression:
        payload = Compressor().compress(payload)
        rsv |= _RSV["rsv1"]
    data = b""
    opcode = plan.opcode
    for index in range(plan.fragments):
        begin = len(payload) * index // plan.fragments
        end = len(payload) * (index + 1) // plan.fragments
        fin = plan.fin and index == plan.fragments - 1
        data += RawFrame(opcode, payload[begin:end], fin, plan.mask, rsv, plan.length_bits).data
        opcode, rsv = Opcode.CONTINUATION, 0
    return data


def _split(line: str) -> list[str]:
    """Return the words of a line, those in quotes with their quotes."""
    words: list[str] = []
    position = 0
    while position < len(line):
        found = _WORD.match(line, position)
        if found is None:
            raise ValueError(f"{line!r}: a quote is not closed, or a comma is missing beside it")
        words.append(found[1])
        position = found.end()
    return words


def _obey(plan: _Plan, word: str, line: str) -> None:
    """Note in `plan` what a word asks for."""
    name, _, value = word.lower().partition(" ")
    try:
        if word.startswith('"'):
            plan.payload += json.loads(word, strict=False).encode()
        elif word in _OPCODES:
            plan.opcode = _OPCODES[word]
        elif word in _RSV:
            plan.rsv |= _RSV[word]
        elif word == "deflate":
            plan.compression = True
        elif word == "not final":
            plan.fin = False
        elif word in ("16-bit length", "64-bit length"):
            plan.length_bits = 16 if word.startswith("16") else 64
        elif word == "masked":
            plan.mask = KEY
        elif name == "masked" and len(parse_hex(value)) == len(KEY):
            plan.mask = parse_hex(value)
        elif name == "hex":
            plan.payload += parse_hex(value)
        elif name == "opcode" and 0 <= int(value, 16) <= 0xF:
            plan.opcode = int(value, 16)
        elif name == "code":
            plan.code = int(value).to_bytes(2, "big")
        elif value in ("fragment", "fragments") and 1 <= int(name) <= 1000:
            plan.fragments = int(name)
        else:
            raise ValueError("no such word")
    except OverflowError:
        raise ValueError(f"{word!r} in {line!r}: a code is a number from 0 to 65535") from None
    except ValueError:
        raise ValueError(f"{word!r} in {line!r} is not understood; it takes {GRAMMAR}") from None
