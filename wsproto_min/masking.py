"""Masking (RFC 6455, section 5.3).

The definition is `bytes(byte ^ key[i % 4] for i, byte in enumerate(data))`. A loop over single
bytes is slow in Python, so `apply_mask` works on many bytes at once. A property test holds it
equal to the definition.
"""

from __future__ import annotations

from functools import cache

# Shorter data is masked as one long integer, longer data with a table for each key byte.
INTEGER_LIMIT = 1 << 11

# A masking key times REPEAT[n] is the key repeated n times, as an integer. For more than 32
# repetitions, n is a multiple of 16, so that the table takes 40 KB.
REPEAT = {
    count: int.from_bytes(b"\1\0\0\0" * count, "little")
    for count in (*range(32), *range(32, INTEGER_LIMIT // 4 + 1, 16))
}


def apply_mask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """XOR each byte with the masking key's byte at its index modulo 4 (section 5.3).

    Masking is not encryption. It keeps a hostile page from choosing the bytes on the wire, which
    a proxy might take for HTTP (section 10.3). Masking twice gives the data back.

    Args:
        data: The bytes to mask or to unmask.
        mask: The masking key, 4 bytes.
        offset: The index of `data[0]` within the payload of its frame.

    Returns:
        As many bytes as `data` has.

    >>> apply_mask(bytes.fromhex("7f9f4d5158"), bytes.fromhex("37fa213d"))
    b'Hello'

    """
    rotation = offset % 4
    if rotation:
        mask = mask[rotation:] + mask[:rotation]
    length = len(data)
    if length <= INTEGER_LIMIT:
        # As many 4-byte words as the data has, rounded up to a number in REPEAT.
        words = length + 3 >> 2 if length < 128 else length + 63 >> 6 << 4
        key = int.from_bytes(mask, "little") * REPEAT[words]
        masked = int.from_bytes(data, "little") ^ key
        return masked.to_bytes(words << 2, "little")[:length]
    # A bytearray, because its slices and translate() take half the time of those of bytes.
    result = bytearray(data)
    for index, byte in enumerate(mask):
        result[index::4] = result[index::4].translate(_xor_table(byte))
    return bytes(result)


def xor(data: bytes, keys: bytes) -> bytes:
    """XOR data with as many bytes of keys: the masking keys of several frames, repeated.

    One XOR for many small frames takes half the time of `apply_mask` for each.

    >>> xor(b"Hello", bytes.fromhex("37fa213d 37")).hex(" ")
    '7f 9f 4d 51 58'

    """
    masked = int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")
    return masked.to_bytes(len(data), "little")


@cache
def _xor_table(key: int) -> bytes:
    """Return the results of XOR with `key` for all 256 bytes, for `bytes.translate`."""
    return bytes(byte ^ key for byte in range(256))
