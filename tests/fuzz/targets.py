"""The targets by name, and the corpus of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import chat, decoder, deflate, explain, handshake

CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """The check of an input, and the first inputs."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


TARGETS = {
    "decoder": Target(decoder.check, decoder.seeds),
    "handshake": Target(handshake.check, handshake.seeds),
    "deflate": Target(deflate.check, deflate.seeds),
    "chat": Target(chat.check, chat.seeds),
    "explain": Target(explain.check, explain.seeds),
}


def corpus(name: str) -> list[bytes]:
    """Return the corpus of a target: a file with one input per line, in hex, and `#` comments."""
    lines = (CORPUS / f"{name}.hex").read_text().splitlines()
    return [bytes.fromhex(line.partition("#")[0]) for line in lines]
