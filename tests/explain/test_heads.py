"""Captures of both ends in one file: the handshake anywhere in it."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from tests.explain.test_captures import REQUEST, RESPONSE
from wsproto_min.__main__ import main
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.heads import learn_handshake, split_parts
from wsproto_min.testing.raw_frame import parse_frame_notation

Output = pytest.CaptureFixture[str]

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
FROM_CLIENT = parse_frame_notation("c1 07 . f248cdc9c90700", masked=True)
FROM_SERVER = parse_frame_notation("c1 07 . f248cdc9c90700", masked=False)
PLAIN = parse_frame_notation("81 02 . 6869", masked=True)


def explain(data: bytes, tmp_path: Path, capsys: Output, *options: str) -> tuple[int, str]:
    path = tmp_path / "capture"
    path.write_bytes(data)
    status = main(["explain", "--file", str(path), *options])
    output, errors = capsys.readouterr()
    return status, errors or output


@pytest.mark.parametrize("order", [*permutations(["request", "response", "client", "server"])])
def test_capture_of_both_ends_in_any_order_is_valid(
    order: tuple[str, ...], tmp_path: Path, capsys: Output
) -> None:
    parts = {
        "request": REQUEST[:-2] + OFFER,
        "response": HINTS + RESPONSE[:-2] + OFFER,
        "client": FROM_CLIENT,
        "server": FROM_SERVER,
    }
    data = b"".join(parts[name] for name in order)
    status, output = explain(data, tmp_path, capsys)
    assert (status, output.count("'Hello'")) == (0, 2), output
    assert "not checked" not in output
    assert "  compression: permessage-deflate\n" in output
    assert output.endswith("\nVALID: 3 heads, 2 frames, 2 messages.\n")


def test_capture_of_both_ends_with_a_wrong_accept_key_is_refused(
    tmp_path: Path, capsys: Output
) -> None:
    wrong = RESPONSE.replace(b"Accept: ", b"Accept: x")
    for data in (REQUEST + PLAIN + wrong, wrong + REQUEST):
        status, output = explain(data, tmp_path, capsys)
        assert status == 1
        assert "\nREFUSED: " in output


def test_capture_of_a_declined_offer_is_broken_by_rsv1(tmp_path: Path, capsys: Output) -> None:
    data = REQUEST[:-2] + OFFER + FROM_CLIENT + RESPONSE
    status, output = explain(data, tmp_path, capsys)
    assert status == 1
    assert f"\nBROKEN at byte {len(REQUEST[:-2] + OFFER)}: a reserved bit is set" in output


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (REQUEST + RESPONSE + PLAIN + REQUEST, "a second request begins"),
        (REQUEST + REQUEST, f"byte {len(REQUEST)}: a second request begins"),
        (RESPONSE + RESPONSE, "a second response begins"),
        (REQUEST + PLAIN[:-1] + RESPONSE, "a head begins within a frame"),
        (RESPONSE + b"\x81\x7e\x7f" + REQUEST, "a head begins within a frame"),
        (REQUEST + b"\x81" + RESPONSE, "a head begins within a frame"),
    ],
)
def test_capture_with_unclear_heads_is_refused(
    data: bytes, reason: str, tmp_path: Path, capsys: Output
) -> None:
    status, output = explain(data, tmp_path, capsys)
    assert (status, output.count("\n")) == (2, 1)
    assert reason in output


def test_capture_of_one_end_with_a_second_head_is_broken(tmp_path: Path, capsys: Output) -> None:
    status, output = explain(REQUEST + PLAIN + REQUEST, tmp_path, capsys, "--role", "client")
    assert (status, "\nBROKEN at byte " in output) == (1, True)
    status, output = explain(RESPONSE + REQUEST, tmp_path, capsys, "--role", "server")
    assert (status, "\nBROKEN at byte " in output) == (1, True)


def test_capture_with_a_head_in_a_text_of_the_server_is_valid(
    tmp_path: Path, capsys: Output
) -> None:
    text = b"\x81" + bytes([len(HINTS)]) + HINTS
    assert explain(text, tmp_path, capsys)[0] == 0


def test_split_parts_ends_after_an_impossible_frame_or_a_refusal() -> None:
    assert [part.kind for part in split_parts(b"\x83\x00\x81\x00")] == ["frame"]
    assert [part.kind for part in split_parts(b"\x88\x7e\x00\x7e\x81\x00")] == ["frame"]
    refusal = b"HTTP/1.1 400 Bad Request\r\n\r\nbody"
    assert [part.kind for part in split_parts(refusal)] == ["refusal"]
    (part,) = split_parts(REQUEST[:-1])
    assert part.end > len(REQUEST[:-1])


def test_learn_handshake_ignores_an_incomplete_head() -> None:
    context = HandshakeContext()
    learn_handshake(REQUEST[:-1], context)
    assert context.compression is None
