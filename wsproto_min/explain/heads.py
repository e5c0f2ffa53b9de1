"""Positions of heads and frames in captured bytes, found before anything is explained.

A capture of both ends may have the parts of the handshake in any order: the client's stream before
the server's, or the response before the request. The response decides how frames are read, so the
handshake must be known before the first frame is explained.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from wsproto_min.codes import Opcode
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.explain.handshake_lines import HandshakeContext

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PATCH) \S+ HTTP/1\.[01]\r\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_HEAD = re.compile(rb"(?:%b|%b)" % (_REQUEST.pattern, _RESPONSE.pattern))
_HEAD_END = b"\r\n\r\n"
_LONGEST_HEADER = 14  # bytes, section 5.2


@dataclass(frozen=True, slots=True)
class Part:
    """A head or a frame in captured bytes, from `begin` to before `end`.

    Attributes:
        kind: "request", "response", "interim response", "refusal" or "frame".
        begin: Index of the first byte.
        end: Index after the last byte. For an incomplete part it is over the number of bytes.

    """

    kind: str
    begin: int
    end: int


def split_parts(data: bytes) -> Iterator[Part]:
    r"""Yield the heads and frames of `data` in their order.

    The last part may be incomplete. After a frame with an impossible header, and after a response
    that refuses the handshake, no part follows.

    >>> [part.kind for part in split_parts(b"HTTP/1.1 101 OK\r\n\r\n\x81\x00\x88\x00")]
    ['response', 'frame', 'frame']
    """
    begin = 0
    while begin < len(data):
        if _HEAD.match(data, begin):
            at = data.find(_HEAD_END, begin)
            end = at + len(_HEAD_END) if at >= 0 else len(data) + 1
            kind = _kind(data, begin)
            yield Part(kind, begin, end)
            if kind == "refusal":
                return
        else:
            frame = FrameFields(data[begin : begin + _LONGEST_HEADER])
            end = begin + max(2, frame.size)
            yield Part("frame", begin, end)
            if frame.opcode not in set(Opcode) or (frame.is_control and (frame.length or 0) > 125):
                return
        begin = end


def _kind(data: bytes, begin: int) -> str:
    status = _RESPONSE.match(data, begin)
    if status is None:
        return "request"
    if status[1] == b"101":
        return "response"
    return "interim response" if status[1].startswith(b"1") else "refusal"


def learn_handshake(data: bytes, context: HandshakeContext) -> None:
    """Let `context` know the handshake that is anywhere in a capture of both ends.

    Raises:
        ValueError: The capture has several connections, or an end's bytes are incomplete.

    """
    starts = [found.start() for found in _HEAD.finditer(data)]
    heads: dict[str, Part] = {}
    for part in split_parts(data):
        if part.kind == "frame":
            within = bisect_right(starts, part.begin)
            if within < len(starts) and starts[within] < part.end:
                _check_frame(data, part, starts[within])
        elif part.kind in heads and part.kind != "interim response":
            raise ValueError(
                f"byte {part.begin}: a second {part.kind} begins; explain one connection at a time"
            )
        elif part.end <= len(data):
            heads[part.kind] = part
    if request := heads.get("request"):
        context.explain_request(data[request.begin : request.end - len(_HEAD_END)], request.begin)
    if response := heads.get("response"):
        head = data[response.begin : response.end - len(_HEAD_END)]
        context.explain_response(head, response.begin)


def _check_frame(data: bytes, part: Part, head: int) -> None:
    """Refuse a frame that has the beginning of a head at index `head`.

    Either the frame lacks bytes, or it is a text of the server with a whole head in it.
    """
    frame = FrameFields(data[part.begin : part.begin + _LONGEST_HEADER])
    in_payload = head >= part.begin + frame.header_size
    is_whole = data.find(_HEAD_END, head, part.end) >= 0 and part.end <= len(data)
    if frame.masked or not in_payload or not is_whole:
        raise ValueError(
            f"byte {head}: a head begins within a frame, so the bytes of one end are incomplete; "
            "explain the bytes of each end alone"
        )
