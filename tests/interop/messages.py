"""Messages of every kind and size, and close codes with reasons."""

from __future__ import annotations

import random

MIB = 1 << 20

MESSAGES: dict[str, str | bytes] = {
    "text": "Hello",
    "text once more": "Hello",
    "binary": bytes(range(256)),
    "empty text": "",
    "empty binary": b"",
    "text after an empty one": "Hello",
    "zeros": bytes(3),
    "a NUL in text": "a\0b",
    "unicode": "Zażółć gęślą jaźń, 日本語, 👩‍👩‍👧 and \U0010ffff",
    "a message of 125 bytes": "x" * 125,
    "a message of 126 bytes": "x" * 126,
    "a message of 65535 bytes": b"\xff" * 65535,
    "a message of 65536 bytes": b"\xff" * 65536,
    "1 MiB that compresses well": "a line of text\n" * (MIB // 15) + "x" * (MIB % 15),
    "1 MiB of unicode": "日本é👍\n\n\n\n" * (MIB // 16),
    "1 MiB that does not compress": random.Random(6455).randbytes(MIB),
    "the same once more": random.Random(6455).randbytes(MIB),
    "a last text": "bye",
}

# Codes and reasons that an application may send.
CLOSES = [
    (1000, ""),
    (1000, "done"),
    (1001, "going away"),
    (1008, "no"),
    (3000, "registered"),
    (4999, "ü" * 61 + "x"),  # 123 bytes, the longest possible reason
]
