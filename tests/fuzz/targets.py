"""The targets by name, and the inputs that are kept for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import chat, decoder, deflate, handshake

CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """What to do with an input, and the inputs to begin with."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


TARGETS = {
    "decoder": Target(decoder.check, decoder.seeds),
    "handshake": Target(handshake.check, handshake.seeds),
    "deflate": Target(deflate.check, deflate.seeds),
    "chat": Target(chat.check, chat.seeds),
}


def kept(name: str) -> list[bytes]:
    """Return the inputs in a target's file: one a line, in hex; `#` begins a comment."""
    lines = (CORPUS / f"{name}.hex").read_text().splitlines()
    return [bytes.fromhex(line.partition("#")[0]) for line in lines]
