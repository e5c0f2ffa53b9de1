"""HAR files of browsers, which have the messages of a WebSocket in `_webSocketMessages`.

A HAR file has messages, not frames: masks, fragments and compression are lost.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.explain.captures.conversation import HarConversation, HarMessage

_MESSAGES = "_webSocketMessages"
_SENDERS = {"send": Role.CLIENT, "receive": Role.SERVER, "error": Role.SERVER}
_REQUIRED = {
    "request": ("host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"),
    "response": ("upgrade", "connection", "sec-websocket-accept"),
}


def is_har(data: bytes) -> bool:
    """Return True if `data` is a JSON object with a log. No valid frame begins with a brace."""
    start = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"{") and b'"log"' in start


def read_har(data: bytes) -> list[HarConversation]:
    """Return the WebSocket connections of a HAR file.

    Raises:
        ValueError: The file is corrupt; the message says where.

    """
    try:
        har = json.loads(data.decode("utf-8-sig"))
    except RecursionError:  # its text differs between versions of Python
        raise ValueError("HAR: too many nested brackets; export the file again") from None
    except ValueError as error:
        raise ValueError(f"HAR: {error}; export the file again") from None
    entries = _get(har, "log", "entries")
    if not isinstance(entries, list):
        raise ValueError("HAR: log.entries is not a list; export the file again")
    found = []
    for index, entry in enumerate(entries):
        try:
            if isinstance(entry, dict) and _MESSAGES in entry:
                found.append(_read_entry(entry))
        except ValueError as error:
            raise ValueError(f"HAR: log.entries[{index}].{error}; export the file again") from None
    return found


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _read_entry(entry: dict[str, Any]) -> HarConversation:
    url = _get(entry, "request", "url")
    messages = entry[_MESSAGES]
    if not isinstance(messages, list):
        raise ValueError(f"{_MESSAGES} is not a list")
    method, target = _get(entry, "request", "method"), _target(str(url))
    status = _get(entry, "response", "status")
    phrase = _get(entry, "response", "statusText") or ""
    request = _head(entry, "request", f"{method} {target} HTTP/1.1")
    response = _head(entry, "response", f"HTTP/1.1 {status} {phrase}") if status == 101 else None
    if not isinstance(url, str) or not url:
        raise ValueError("request.url is missing or not a text")
    return HarConversation(url, request, response, tuple(_read_messages(messages)))


def _target(url: str) -> str:
    """Return the path and query of a URL."""
    _, slash, rest = url.partition("://")[2].partition("/")
    return (slash or "/") + rest.partition("#")[0]


def _head(entry: dict[str, Any], part: str, start: str) -> bytes | None:
    """Return a head from its recorded headers, or None if a required one is not recorded."""
    headers = _get(entry, part, "headers") or []
    if not isinstance(headers, list):
        raise ValueError(f"{part}.headers is not a list")
    pairs = [(_get(each, "name"), _get(each, "value")) for each in headers]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise ValueError(f"{part}.headers has a header without name or value")
    names = {name.lower() for name, _ in pairs}
    if not names.issuperset(_REQUIRED[part]):
        return None
    lines = [start, *(f"{name}: {value}" for name, value in pairs if not name.startswith(":"))]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _read_messages(messages: list[Any]) -> Iterator[HarMessage]:
    for index, message in enumerate(messages):
        kind, opcode, data = (_get(message, name) for name in ("type", "opcode", "data"))
        is_typed = isinstance(kind, str) and isinstance(data, str) and isinstance(opcode, int)
        if not is_typed or kind not in _SENDERS:
            raise ValueError(f"{_MESSAGES}[{index}] has no valid type, opcode and data")
        if kind == "error" or opcode < 0:
            yield HarMessage(_SENDERS[kind], None, data, b"")
        elif opcode == Opcode.BINARY:
            try:
                payload = base64.b64decode(data, validate=True)
            except binascii.Error as error:
                raise ValueError(f"{_MESSAGES}[{index}].data is not base64: {error}") from None
            yield HarMessage(_SENDERS[kind], opcode, None, payload)
        else:
            yield HarMessage(_SENDERS[kind], opcode, data, data.encode("utf-8", "replace"))
