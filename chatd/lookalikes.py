"""Names that look alike: a small part of the confusables of Unicode (UTS #39, section 4).

The full table has over 6,000 entries. This one has the letters of Cyrillic, Greek and Armenian
that look like Latin ones in most fonts, and the confusable digits and pairs of Latin letters.
The other entries are mostly compatibility characters, which `normalize_name` replaces.
"""

# ruff: noqa: RUF001 - the table consists of ambiguous letters

from __future__ import annotations

import unicodedata
from functools import lru_cache

_LOOKALIKES = {
    "a": "аαạɑ",
    "b": "Ьв",
    "c": "сϲ",
    "d": "ԁ",
    "e": "еҽ",
    "g": "ɡց",
    "h": "һհ",
    "i": "іιı",
    "j": "јϳ",
    "k": "кκ",
    "l": "1|ӏǀ",
    "m": "м",
    "n": "ոη",
    "o": "0оοօσ",
    "p": "рρ",
    "q": "ԛզ",
    "s": "ѕ",
    "t": "тτ",
    "u": "υս",
    "v": "νѵ",
    "w": "ԝω",
    "x": "хχ",
    "y": "уүγ",
    "z": "ᴢ",
}
# "I" looks like a small "l". Its small letter "i" does not, so this comes before casefold().
_CAPITALS = str.maketrans("IІΙӀ", "llll")
_TABLE = str.maketrans({alike: letter for letter, all_ in _LOOKALIKES.items() for alike in all_})
# Pairs that look like one letter in a proportional font.
_PAIRS = (("rn", "m"), ("vv", "w"))


@lru_cache(10_000)
def skeleton(name: str) -> str:
    """Return the skeleton of a name; names with equal skeletons may look alike."""
    decomposed = unicodedata.normalize("NFKD", name.translate(_CAPITALS)).casefold()
    letters = decomposed.translate(_TABLE)
    for pair, letter in _PAIRS:
        letters = letters.replace(pair, letter)
    return "".join(letters.split())
