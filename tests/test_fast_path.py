"""The short way for the usual message gives what the long way gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import connection
from wsproto_min._fast_path import short_messages
from wsproto_min.connection import Connection, Event, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import FrameDecoder
from wsproto_min.testing.strategies import KEY, TEXT, RawFrame, chunkings, nearly_valid, wire


def fed(data: bytes) -> FrameDecoder:
    decoder = FrameDecoder(masked=True)
    decoder.receive_data(data)
    return decoder


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 124, 125])
def test_every_short_length_is_unmasked(length: int) -> None:
    payload = bytes(range(128))[:length]
    data = RawFrame(TEXT, payload, mask=KEY).data
    assert list(short_messages(fed(data * 2), 1000)) == [payload.decode()] * 2


@pytest.mark.parametrize(
    "notation",
    [
        "01 01 . 61",  # no FIN
        "80 01 . 61",  # a continuation
        "c1 01 . 61",  # RSV1
        "83 01 . 61",  # a reserved opcode
        "89 01 . 61",  # a Ping
        "88 00 .",  # a Close
        "81 01 . ff",  # not UTF-8
        "81 02 . 61",  # not whole
        "81 7e 0001 . 61",  # not the shortest length
        "81 0b . 6162636465666768696a6b",  # over the limit of ten bytes
        "81",
    ],
)
def test_any_other_frame_is_left_where_it_is(notation: str) -> None:
    good, other = wire("81 01 . 61", masked=True), wire(notation, masked=True)
    decoder = fed(good + other)
    assert list(short_messages(decoder, 10)) == ["a"]
    assert decoder.buffer[decoder.position :] == other


def test_a_frame_that_is_not_masked_is_left_where_it_is() -> None:
    assert list(short_messages(fed(wire("81 01 . 61", masked=False) * 9), 10)) == []


def test_within_a_frame_there_is_no_short_way() -> None:
    # 300 bytes, of which the first are those of a whole short frame.
    inner = wire("81 01 . 61", masked=True)
    decoder = fed(bytes.fromhex("82 fe 012c 00000000") + inner[:1])
    assert decoder.next_frame() is not None
    decoder.receive_data(inner * 3)
    assert list(short_messages(decoder, 1000)) == []


Outcome = tuple[list[Event], bytes, str | None]


def outcome(chunks: list[bytes]) -> Outcome:
    server = Connection(
        Role.SERVER, max_message_size=100, max_fragments=4, compression=DeflateParameters.DEFAULT
    )
    events: list[Event] = []
    for chunk in chunks:
        for event in server.receive_data(chunk):
            events.append(event)
            if len(events) == 6:
                server.fail(1008, "six are enough")
    error = None if server.error is None else server.error.reason
    return events, server.data_to_send(), error


def short_frames() -> st.SearchStrategy[bytes]:
    texts = st.text(max_size=30).map(lambda text: RawFrame(TEXT, text.encode(), mask=KEY).data)
    return st.lists(texts, max_size=4).map(b"".join)


@given(st.data(), st.tuples(short_frames(), nearly_valid(True), short_frames()).map(b"".join))
def test_a_server_sees_no_difference_between_the_short_way_and_the_long_one(
    data: st.DataObject, received: bytes
) -> None:
    chunks = data.draw(chunkings(received))
    by_the_short_way = outcome(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "short_messages", lambda decoder, limit: iter(()))
        assert outcome(chunks) == by_the_short_way
