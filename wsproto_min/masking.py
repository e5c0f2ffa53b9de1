"""Masking: RFC 6455, section 5.3, for data of any length.

In a line: `bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))`. A loop over
bytes is slow in Python, so the same is done here on many bytes at once.
"""

from __future__ import annotations

from functools import cache

# Below this many bytes arithmetic on one long integer beats a table look-up per
# byte (64 bytes take 0.5 us instead of 1.1); of 64 KiB the tables mask 950 MB/s, the
# integer 570.
_TABLES_FROM = 750


def apply_mask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """XOR each byte with the masking key's byte at its index modulo 4 (section 5.3).

    Not for secrecy: it keeps a hostile page from choosing the bytes on the wire,
    which a proxy in between might take for HTTP (section 10.3). Masking and
    unmasking are the same operation. `offset` is the index of
    `data[0]` within its frame's payload.

        >>> apply_mask(bytes.fromhex("7f9f4d5158"), bytes.fromhex("37fa213d"))
        b'Hello'
    """
    turn = offset % 4
    if turn:
        mask = mask[turn:] + mask[:turn]
    length = len(data)
    if length < _TABLES_FROM:
        key = (mask * (length // 4 + 1))[:length]
        masked = int.from_bytes(data, "little") ^ int.from_bytes(key, "little")
        return masked.to_bytes(length, "little")
    # All on a bytearray, whose slices and look-ups take half as long as those of bytes.
    result = bytearray(data)
    for index, byte in enumerate(mask):
        result[index::4] = result[index::4].translate(_xor_table(byte))
    return bytes(result)


@cache
def _xor_table(key: int) -> bytes:
    """Return the 256 results of XOR with one byte, for `bytes.translate`."""
    return bytes(byte ^ key for byte in range(256))
