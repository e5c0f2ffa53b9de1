"""Messages sent in fragments and received in chunks (RFC 6455, section 5.4)."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.frames import encode_frame
from wsproto_min.messages import MAX_DECODED_CHUNK, MessageChunk
from wsproto_min.testing.strategies import chunkings

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
MASK = bytes.fromhex("37fa213d")
COMPRESSIONS = [None, DeflateParameters.DEFAULT, DeflateParameters.NO_CONTEXT_TAKEOVER]
WITH_COMPRESSION = pytest.mark.parametrize("compression", COMPRESSIONS)


def pair(**options: Any) -> tuple[Connection, Connection]:
    """Return a sender, which is a client, and a receiver in chunks."""
    compression = options.pop("compression", None)
    sender = Connection(Role.CLIENT, compression=compression, compression_threshold=1)
    receiver = Connection(Role.SERVER, compression=compression, receive_chunks=True, **options)
    return sender, receiver


def events(connection: Connection, *chunks: bytes) -> list[Event]:
    received: list[Event] = []
    for data in chunks:
        connection.receive_data(data)
        received += iter(connection.next_event, None)
    return received


def joined(chunks: Sequence[Event]) -> list[str | bytes]:
    """Join chunks to messages."""
    messages: list[str | bytes] = []
    parts: list[Any] = []
    for chunk in chunks:
        assert isinstance(chunk, MessageChunk), chunk
        assert chunk.frame_finished or not chunk.message_finished
        parts.append(chunk.data)
        if chunk.message_finished:
            messages.append(type(parts[0])().join(parts))
            parts = []
    assert not parts, "the last message has not finished"
    return messages


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return encode_frame(opcode, payload, fin=fin, mask=MASK)


# Sending


def test_send_fragment_sets_opcode_and_fin_of_section_5_4() -> None:
    server = Connection(Role.SERVER)
    server.send_fragment("Hel")
    server.ping(b"!")
    server.send_fragment("")
    server.send_fragment("lo", last=True)
    sent = "01 03 48 65 6c 89 01 21 00 00 80 02 6c 6f"
    assert server.data_to_send().hex(" ") == sent
    server.send_fragment(b"one", last=True)  # a message of one fragment
    assert server.data_to_send().hex(" ") == "82 03 6f 6e 65"


def test_send_fragment_compressed_marks_only_the_first_frame() -> None:
    server = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT, compression_threshold=5)
    server.send_fragment("Hello")
    server.send_fragment("", last=True)
    # RFC 7692, section 7.2.3.6: 00 ends the message after the flush of the first fragment.
    assert server.data_to_send().hex(" ") == "41 0b f2 48 cd c9 c9 07 00 00 00 ff ff 80 01 00"
    server.send_fragment("Hell")  # below the threshold
    server.send_fragment("o" * 100, last=True)
    assert server.data_to_send()[:2].hex(" ") == "01 04"


def test_send_within_a_fragmented_message_raises_and_keeps_it() -> None:
    sender, receiver = pair()
    sender.send_fragment("Hel")
    with pytest.raises(RuntimeError, match="fragmented message is under way; send its last"):
        sender.send("no")
    sender.send_fragment("lo", last=True)
    sender.send("yes")
    assert joined(events(receiver, sender.data_to_send())) == ["Hello", "yes"]


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("text", b"bytes", "the message is text, so it must not be bytes"),
        (b"bytes", "text", "the message is binary, so it must not be str"),
        ("text", bytearray(b"a"), "a message is str or bytes, not bytearray"),
    ],
)
def test_send_fragment_of_another_type_raises_type_error(
    first: str | bytes, second: Any, problem: str
) -> None:
    sender, receiver = pair()
    sender.send_fragment(first)
    with pytest.raises(TypeError, match=problem):
        sender.send_fragment(second)
    sender.send_fragment(first, last=True)
    assert joined(events(receiver, sender.data_to_send())) == [first + first]  # type: ignore[operator]


def test_close_within_a_fragmented_message_ends_the_connection() -> None:
    sender, receiver = pair()
    sender.send_fragment("Hel")
    sender.close(1011, "the source failed")
    for call in (sender.send, sender.send_fragment):
        with pytest.raises(ConnectionClosed):
            call("lo")
    assert events(receiver, sender.data_to_send()) == [
        MessageChunk("Hel", True, False),
        Close(1011, "the source failed"),
    ]


# Receiving


def test_receive_chunks_returns_each_read_of_a_frame() -> None:
    receiver = Connection(Role.SERVER, receive_chunks=True)
    first, second = masked(TEXT, b"H\xc3", fin=False), masked(CONTINUATION, b"\xa9!")
    assert events(receiver, first[:6]) == []  # a header is no data
    assert events(receiver, first[6:7]) == [MessageChunk("H", False, False)]
    assert events(receiver, first[7:]) == [MessageChunk("", True, False)]
    ping = masked(Opcode.PING, b"?")
    assert events(receiver, ping + second[:-1]) == [
        Ping(b"?"),
        MessageChunk("\u00e9", False, False),
    ]
    assert events(receiver, second[-1:] + masked(BINARY, b"")) == [
        MessageChunk("!", True, True),
        MessageChunk(b"", True, True),
    ]


@pytest.mark.hypothesis
@given(st.data(), st.sampled_from(COMPRESSIONS))
def test_chunks_of_any_fragments_and_reads_join_to_the_messages(
    data: st.DataObject, compression: DeflateParameters | None
) -> None:
    fragments = st.lists(st.text(max_size=50), min_size=1) | st.lists(
        st.binary(max_size=50), min_size=1
    )
    messages: list[list[Any]] = data.draw(st.lists(fragments, max_size=4))
    sender, receiver = pair(compression=compression)
    whole = Connection(Role.SERVER, compression=compression)
    for message in messages:
        for fragment in message[:-1]:
            sender.send_fragment(fragment)
            sender.ping(b"between")
        sender.send_fragment(message[-1], last=True)
    sent = sender.data_to_send()
    expected = [type(message[0])().join(message) for message in messages]
    received = events(receiver, *data.draw(chunkings(sent)))
    assert joined([event for event in received if event != Ping(b"between")]) == expected
    received = events(whole, *data.draw(chunkings(sent)))
    assert [event for event in received if event != Ping(b"between")] == expected


@WITH_COMPRESSION
@given(st.data())
def test_text_in_chunks_is_rejected_at_its_first_wrong_byte(
    compression: DeflateParameters | None, data: st.DataObject
) -> None:
    wrong = data.draw(st.sampled_from([b"\xff", b"\xc3(", b"\xed\xa0", b"\xe2\x82!", b"\xf5"]))
    payload = "Grüße".encode() + wrong
    for reads in ([masked(TEXT, payload, fin=False)], data.draw(chunkings(masked(TEXT, payload)))):
        receiver = Connection(Role.SERVER, compression=compression, receive_chunks=True)
        received = events(receiver, *reads)
        assert isinstance(received[-1], Close)
        assert receiver.error is not None
        assert (received[-1].code, receiver.error.rule) == (1007, rules.TEXT_NOT_UTF8)


def test_text_in_chunks_ending_within_a_character_is_1007() -> None:
    receiver = Connection(Role.SERVER, receive_chunks=True)
    *_, close = events(receiver, masked(TEXT, b"a\xe2\x82"))
    assert isinstance(close, Close)
    assert close.code == 1007


@WITH_COMPRESSION
def test_chunks_obey_the_limit_for_the_whole_message(compression: DeflateParameters | None) -> None:
    for size, code in ((1000, None), (1001, 1009)):
        sender, receiver = pair(compression=compression, max_message_size=1000)
        sender.send_fragment(os.urandom(size - 1))
        sender.send_fragment(b"!", last=True)
        *_, last = events(receiver, sender.data_to_send())
        assert (last.code if isinstance(last, Close) else None) == code


@WITH_COMPRESSION
@pytest.mark.parametrize("begin", [0, 1, 2])  # fragments that are received before the chunks
def test_chunks_of_all_fragments_count_for_the_limit(
    compression: DeflateParameters | None, begin: int
) -> None:
    for size, code in ((250, None), (251, 1009)):
        sender, receiver = pair(compression=compression, max_message_size=1000)
        receiver.receive_chunks = False
        for number in range(4):
            receiver.receive_chunks = number >= begin
            sender.send_fragment(os.urandom(size), last=number == 3)
            *_, last = [None, *events(receiver, sender.data_to_send())]
        assert (last.code if isinstance(last, Close) else None) == code


def test_chunks_obey_the_limit_of_fragments_unless_unlimited() -> None:
    data = masked(BINARY, b"a", fin=False) + 200 * masked(CONTINUATION, b"", fin=False)
    for limit, code in ((100, 1008), (None, None)):
        *_, last = events(
            Connection(Role.SERVER, max_message_size=limit, receive_chunks=True), data
        )
        assert (last.code if isinstance(last, Close) else None) == code


def test_set_limits_changes_the_limit_within_a_message() -> None:
    for limit, code in ((None, None), (10, 1009)):
        receiver = Connection(Role.SERVER, max_message_size=20, receive_chunks=True)
        events(receiver, masked(BINARY, bytes(10), fin=False))
        receiver.set_limits(limit)
        *_, last = events(receiver, masked(CONTINUATION, bytes(1000)))
        assert (last.code if isinstance(last, Close) else None) == code
    receiver = Connection(Role.SERVER, max_message_size=20)
    receiver.set_limits(30)
    assert events(receiver, masked(BINARY, bytes(30))) == [bytes(30)]


def test_set_limits_before_the_first_message_holds_for_it() -> None:
    parts = [masked(BINARY, b"a", fin=False), *[masked(CONTINUATION, b"a", fin=False)] * 4]
    for begun in (0, 1):  # fragments received before the change
        for limits, code in (
            ((4, None), 1009),
            ((None, 3), 1008),
            ((None, None), None),
            ((9, 9), None),
        ):
            receiver = Connection(Role.SERVER, max_message_size=1)
            events(receiver, *parts[:begun])
            receiver.set_limits(*limits)
            found = events(receiver, *parts[begun:])
            codes = [each.code for each in found if isinstance(each, Close)]
            assert codes == [code] * (code is not None)


def test_bomb_in_chunks_costs_little_memory() -> None:
    sender, receiver = pair(compression=DeflateParameters.DEFAULT, max_message_size=None)
    size = 32 << 20
    sender.send(bytes(size))
    data = sender.data_to_send()
    tracemalloc.start()
    received, reads = 0, 0
    receiver.receive_data(data)
    while (event := receiver.next_event()) is not None:
        assert isinstance(event, MessageChunk)
        assert len(event.data) <= MAX_DECODED_CHUNK
        received += len(event.data)
        reads += 1
        finished = event.message_finished
        assert not finished or received == size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert finished
    assert (received, reads) == (size, size // MAX_DECODED_CHUNK + 1)
    assert peak < 1 << 20


def test_chunks_of_a_final_block_at_the_bound_are_complete() -> None:
    sender, receiver = pair(compression=DeflateParameters.DEFAULT, max_message_size=None)
    for size in (MAX_DECODED_CHUNK - 1, MAX_DECODED_CHUNK, MAX_DECODED_CHUNK + 1):
        sender.send_fragment(bytes(size))
        sender.send_fragment(b"!", last=True)
        sender.send("small")
        received = joined(events(receiver, sender.data_to_send()))
        assert received == [bytes(size) + b"!", "small"]


def test_chunks_with_a_character_behind_the_bound_are_complete() -> None:
    compressor = zlib.compressobj(wbits=-15)
    parts = [
        compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for data in (b"a" * MAX_DECODED_CHUNK, b"\xe2", b"\x82\xac")
    ]
    frame = encode_frame(TEXT, b"".join(parts)[:-4], rsv1=True, mask=MASK)
    end = len(frame) - len(parts[2]) + 4
    receiver = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT, receive_chunks=True)
    assert events(receiver, frame[:end]) == [MessageChunk("a" * MAX_DECODED_CHUNK, False, False)]
    assert events(receiver, frame[end:]) == [MessageChunk("\u20ac", True, True)]


@pytest.mark.parametrize("data", ["c1 04 07 ff ff ff", "41 02 06 06"])
def test_invalid_deflate_in_chunks_is_1007(data: str) -> None:
    receiver = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT, receive_chunks=True)
    *_, close = events(receiver, bytes.fromhex(data))
    assert isinstance(close, Close)
    assert close.code == 1007


def test_text_error_precedes_the_deflate_error_in_chunks() -> None:
    for text, rule in ((b"\xff", rules.TEXT_NOT_UTF8), (b"a", rules.MESSAGE_TOO_BIG)):
        sender, receiver = pair(compression=DeflateParameters.DEFAULT, max_message_size=100)
        sender.send_fragment(text + bytes(1000), last=True)
        data = bytearray(sender.data_to_send())
        data[0] = data[0] & 0xF0 | TEXT
        events(receiver, bytes(data))
        assert receiver.error is not None
        assert receiver.error.rule is rule


def test_receive_chunks_within_a_message_begins_with_its_start() -> None:
    for first, second in ((b"H\xc3", b"\xa9"), (b"", b"H\xc3\xa9")):
        receiver = Connection(Role.SERVER)
        assert events(receiver, masked(TEXT, first, fin=False)) == []
        receiver.receive_chunks = True
        received = events(receiver, masked(CONTINUATION, second))
        assert received == [MessageChunk("H\u00e9", True, True)]


def test_receive_chunks_compressed_begins_with_its_start() -> None:
    sender = Connection(Role.CLIENT, compression=DeflateParameters.DEFAULT, compression_threshold=1)
    receiver = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT)
    sender.send_fragment(b"begin ")
    assert events(receiver, sender.data_to_send()) == []
    receiver.receive_chunks = True
    sender.send_fragment(b"end", last=True)
    assert events(receiver, sender.data_to_send()) == [MessageChunk(b"begin end", True, True)]


def test_receive_chunks_is_changed_only_between_messages() -> None:
    receiver = Connection(Role.SERVER, receive_chunks=True)
    assert events(receiver, masked(TEXT, b"a", fin=False)) == [MessageChunk("a", True, False)]
    with pytest.raises(RuntimeError, match="a message is under way; wait for its end"):
        receiver.receive_chunks = False
    assert events(receiver, masked(CONTINUATION, b"b")) == [MessageChunk("b", True, True)]
    receiver.receive_chunks = False
    assert not receiver.receive_chunks
    assert events(receiver, masked(TEXT, b"a")) == ["a"]


def test_receive_chunks_after_the_end_has_no_effect() -> None:
    receiver = Connection(Role.SERVER)
    receiver.fail(1011)
    receiver.receive_chunks = True
    assert not receiver.receive_chunks
    assert events(receiver, masked(TEXT, b"a")) == []


def test_chunk_repr_shows_bounded_data() -> None:
    assert repr(MessageChunk("a", True, False)) == (
        "MessageChunk(data='a', frame_finished=True, message_finished=False)"
    )
    assert "'... (5,000 characters), frame" in repr(MessageChunk("a" * 5000))
