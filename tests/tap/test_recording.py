"""Capture files of the tap: `explain` reads them and gives the same verdicts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Client, reset, serving
from tests.tap.tapping import RunningTap, tapping, url_of
from tests.tap.test_conversation import DEFLATE, MASK, request, response
from wsproto_min.__main__ import main
from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.explain.captures.conversation import Conversation
from wsproto_min.explain.captures.reader import read_capture
from wsproto_min.explain.conversation_dissector import ConversationDissector
from wsproto_min.explain.verdict import Verdict
from wsproto_min.frames import encode_frame
from wsproto_min.rules import MESSAGE_TOO_BIG
from wsproto_min.tap import conversation
from wsproto_min.tap import recording as module
from wsproto_min.tap.events import Ended, TapEvent
from wsproto_min.tap.exchange import WebSocketExchange
from wsproto_min.tap.recording import HEADER_SIZE, MAX_SEGMENT, Recording, is_recording
from wsproto_min.testing.violations import VIOLATIONS, Violation

Output = pytest.CaptureFixture[str]
TAP = ("127.0.0.1", 8766)


def never_called(error: OSError) -> None:
    raise AssertionError(error)


def conversations(data: bytes) -> list[Conversation]:
    found, skipped = read_capture(data)
    assert skipped == []
    return [each for each in found if isinstance(each, Conversation)]


def explained(data: bytes) -> list[Verdict]:
    """Return the verdicts of `explain` on the connections of a capture file."""
    verdicts = []
    for each in conversations(data):
        dissector = ConversationDissector(each, max_message_size=1 << 30, max_fragments=None)
        list(dissector.events())
        verdicts.append(dissector.verdict)
    return verdicts


def record(parts: list[tuple[Role, bytes]]) -> tuple[bytes, Verdict]:
    """Return the capture file of a connection, and the verdict of the tap."""
    file, events = io.BytesIO(), list[TapEvent]()
    recording = Recording(file, never_called)
    exchange = WebSocketExchange(1, events.append, recording.connection(("127.0.0.1", 5000), TAP))
    for sender, data in parts:
        exchange.on_data(sender, data)
    for sender in Role:
        exchange.on_eof(sender)
    exchange.on_end()
    ended = events[-1]
    assert isinstance(ended, Ended)
    return file.getvalue(), ended.verdict


@pytest.mark.parametrize(
    "violation",
    # The tap does not know the receiver's limit on the size of a message.
    [each for each in VIOLATIONS if each.rule is not MESSAGE_TOO_BIG],
    ids=lambda each: f"{each.sender}-{each.name}",
)
def test_violation_has_the_same_verdict_in_explain(violation: Violation) -> None:
    sender = Role(violation.sender)
    parts = [(Role.CLIENT, request()), (Role.SERVER, response()), (sender, violation.data)]
    data, verdict = record(parts)
    assert explained(data) == [verdict]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Role),
            st.one_of(
                st.binary(max_size=40),
                st.builds(
                    lambda text: encode_frame(Opcode.TEXT, text.encode(), mask=MASK), st.text()
                ),
                st.builds(lambda text: encode_frame(Opcode.TEXT, text.encode()), st.text()),
            ),
        ),
        max_size=8,
    ),
    st.sampled_from(["", DEFLATE]),
)
def test_any_bytes_have_the_same_verdict_in_explain(
    parts: list[tuple[Role, bytes]], extension: str
) -> None:
    handshake = [(Role.CLIENT, request(extension)), (Role.SERVER, response(extension))]
    data, verdict = record([*handshake, *parts])
    assert explained(data) == [verdict]


def test_large_data_is_divided_and_complete() -> None:
    payload = bytes(range(256)) * 1000
    frame = encode_frame(Opcode.BINARY, payload)
    assert len(frame) > 7 * MAX_SEGMENT
    parts = [(Role.CLIENT, request()), (Role.SERVER, response()), (Role.SERVER, frame)]
    data, _ = record(parts)
    (each,) = conversations(data)
    assert each.server.data == response() + frame
    assert each.server.problem is None
    assert each.client.from_start


def test_file_is_readable_after_each_packet() -> None:
    file = io.BytesIO()
    connection = Recording(file, never_called).connection(("127.0.0.1", 5000), TAP)
    connection.data(Role.CLIENT, request())
    assert explained(file.getvalue())[0].result == "valid"
    connection.data(Role.SERVER, response())
    connection.reset(Role.CLIENT)
    assert explained(file.getvalue())[0].reason == "2 heads, 0 frames, 0 messages"


def test_sequence_numbers_wrap_around() -> None:
    file = io.BytesIO()
    recording = Recording(file, never_called)
    recording._connections = (1 << 32) // 64_000
    connection = recording.connection(("127.0.0.1", 5000), TAP)
    connection.data(Role.CLIENT, request())
    connection.data(Role.SERVER, response())
    frame = encode_frame(Opcode.BINARY, bytes(200_000))
    connection.data(Role.SERVER, frame)
    (each,) = conversations(file.getvalue())
    assert each.server.data == response() + frame


class FullFile(io.BytesIO):
    """A file that takes at most `room` bytes."""

    def __init__(self, room: int, *, is_device: bool = False) -> None:
        super().__init__()
        self.room = room
        self.is_device = is_device

    def write(self, data: bytes) -> int:  # type: ignore[override]
        size = min(self.room, len(data))
        self.room -= size
        if not size:
            raise OSError(28, "No space left on device")
        return super().write(data[:size])

    def truncate(self, size: int | None = None) -> int:
        if self.is_device:
            raise OSError(22, "Invalid argument")
        return super().truncate(size)


@pytest.mark.parametrize("is_device", [False, True])
def test_full_disk_is_reported_once(is_device: bool) -> None:
    errors: list[OSError] = []
    recording = Recording(FullFile(0, is_device=is_device), errors.append)
    recording.connection(("127.0.0.1", 5000), TAP).data(Role.CLIENT, b"x")
    assert [error.errno for error in errors] == [28]


def test_full_disk_leaves_whole_packets() -> None:
    parts = [(Role.CLIENT, request()), (Role.SERVER, response())]
    parts += [(Role.SERVER, encode_frame(Opcode.BINARY, bytes(3 * MAX_SEGMENT)))]
    whole, _ = record(parts)
    for missing in (1, 15, MAX_SEGMENT, 2 * MAX_SEGMENT):
        file, errors = FullFile(len(whole) - missing), list[OSError]()
        connection = Recording(file, errors.append).connection(("127.0.0.1", 5000), TAP)
        for sender, data in parts:
            connection.data(sender, data)
        for sender in Role:
            connection.end(sender)
        assert len(errors) == 1
        assert len(file.getvalue()) < len(whole) - missing
        assert explained(file.getvalue())[0].result in ("valid", "incomplete")


def test_large_file_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CAPTURE_SIZE", 500)
    sizes: list[int] = []
    file = io.BytesIO()
    recording = Recording(file, never_called, lambda: sizes.append(len(file.getvalue())))
    connection = recording.connection(("127.0.0.1", 5000), TAP)
    for _ in range(5):
        connection.data(Role.CLIENT, bytes(200))
    assert len(sizes) == 1
    assert 500 < sizes[0] <= 500 + 256


def test_recording_is_recognised_by_its_header() -> None:
    file = io.BytesIO()
    Recording(file, never_called)
    header = file.getvalue()
    assert len(header) == HEADER_SIZE
    assert is_recording(header)
    assert is_recording(header[3::-1] + header[4:20] + header[:19:-1])
    assert not is_recording(header[:20] + b"\x01\0\0\0")  # Ethernet
    assert not is_recording(b"# notes, longer than 24 bytes"[:HEADER_SIZE])
    assert not is_recording(header[:10])


def use_connections(tap: RunningTap) -> None:
    for number in range(3):
        with Client(tap.address, f"/{number}") as client:
            client.send("one")
            assert client.receive() == "one"
            if number == 1:
                client.sock.sendall(b"\x83\x80\x00\x00\x00\x00")
            if number == 2:
                reset(client.sock)
            else:
                client.close()
                client.receive_all()
    tap.wait_for(Ended, 3)


def test_recorded_connections_are_explained_alike(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "tap.pcap"
    with path.open("wb") as file, serving() as server:
        recording = Recording(file, never_called)
        with tapping(url_of(server.address), recording=recording) as tap:
            use_connections(tap)
        ended = {event.connection: event.verdict for event in tap.of(Ended)}
    assert explained(path.read_bytes()) == [verdict for _, verdict in sorted(ended.items())]
    assert [verdict.result for _, verdict in sorted(ended.items())] == [
        "valid",
        "broken",
        "valid",
    ]
    assert main(["explain", "--file", str(path)]) == 1
    assert capsys.readouterr().out.count(f"to 127.0.0.1:{tap.address[1]}") == 3


def test_limit_of_the_tap_is_above_that_of_explain() -> None:
    assert conversation.MAX_EXPLAINED_SIZE >= 1 << 24
