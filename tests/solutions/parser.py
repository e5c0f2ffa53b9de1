"""The parser of "Test your own parser" in tests/README.md without its three bugs."""

from collections.abc import Iterable, Iterator


def parse(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    data = b""
    for chunk in chunks:
        data += chunk
        while data:
            if data[0] & 0x70 or data[0] & 0x0F not in (0, 1, 2, 8, 9, 10):
                raise ValueError("1002")
            control = data[0] & 8
            if control and not data[0] & 0x80:
                raise ValueError("1002")
            if len(data) < 2:
                break
            length, start = data[1] & 127, 2
            if not data[1] & 0x80 or (control and length > 125):
                raise ValueError("1002")
            if length > 125:
                start, least = (4, 126) if length == 126 else (10, 65536)
                if start == 10 and len(data) > 2 and data[2] & 0x80:
                    raise ValueError("1002")
                if len(data) < start:
                    break
                length = int.from_bytes(data[2:start], "big")
                if length < least:
                    raise ValueError("1002")
            mask, end = data[start : start + 4], start + 4 + length
            if len(data) < end:
                break
            yield data[0] & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(data[start + 4 : end]))
            data = data[end:]
