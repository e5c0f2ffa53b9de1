"""Output of tshark, and packets copied out of Wireshark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.explain.packets import ETHERNET, NULL, RAW, framed
from tests.explain.test_captures import ANSWER, HELLO, REQUEST, RESPONSE, WHOLE, explain
from wsproto_min.__main__ import main
from wsproto_min.explain.captures.conversation import Conversation
from wsproto_min.explain.captures.follow import read_follow
from wsproto_min.explain.captures.packets import is_packet
from wsproto_min.explain.captures.reader import is_capture, read_capture

Output = pytest.CaptureFixture[str]

LINE = "=" * 67
HEAD = (
    f"\n{LINE}\nFollow: tcp,raw\nFilter: tcp.stream eq 0\nNode 0: 127.0.0.1:34794\n"
    "Node 1: [::1]:35359\n"
)
TEXT = (
    f"{HEAD}{REQUEST.hex()}\n\t{RESPONSE[:9].hex()}\n\t{RESPONSE[9:].hex()}\n"
    f"{HELLO.hex()}\n\t{ANSWER.hex()}\n{LINE}\n"
)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_follow_gives_both_ends_of_each_connection(line_end: str) -> None:
    data = (TEXT + TEXT).replace("\n", line_end).encode()
    assert is_capture(data)
    found, _ = read_capture(data)
    assert [each.name for each in found] == ["127.0.0.1:34794 to [::1]:35359"] * 2
    for events, verdict in explain(data):
        assert [event.event for event in events[2:4]] == ["Hello", "hi"]
        assert verdict.reason == "2 heads, 3 frames, 2 messages"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("raw", "hex"), "line 3 is not 'Follow: tcp,raw'"),
        (TEXT.replace(HELLO.hex(), "81.."), "line 10 is not hex"),
        (TEXT.removesuffix(f"{LINE}\n"), "line 11 is not the last one; copy the output whole"),
    ],
)
def test_follow_that_is_corrupt_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"tshark: {reason}"):
        read_follow(text.encode())


@pytest.mark.parametrize("link_type", [ETHERNET, NULL, RAW])
def test_input_that_is_a_packet_is_refused(link_type: int, capsys: Output) -> None:
    for packet in WHOLE:
        assert main(["explain", framed(packet, link_type).hex()]) == 2
        assert "a packet with IP and TCP headers" in capsys.readouterr().err


def test_input_of_frames_is_no_packet() -> None:
    for data in (REQUEST, RESPONSE, HELLO, ANSWER, b"", framed(WHOLE[2], ETHERNET) + bytes(200)):
        assert not is_packet(data)


def test_follow_of_a_recorded_capture_equals_the_capture(tmp_path: Path) -> None:
    recorded = Path(__file__).parent / "captures" / "ws.pcap"
    (found,), _ = read_capture(recorded.read_bytes())
    assert isinstance(found, Conversation)
    lines = [HEAD]
    for sender, data in found.units():
        lines.append(("\t" if sender.value == "server" else "") + data.hex() + "\n")
    ((events, verdict),) = explain(f"{''.join(lines)}{LINE}\n".encode())
    ((expected, plain),) = explain(recorded.read_bytes())
    assert (events, verdict) == (expected, plain)
