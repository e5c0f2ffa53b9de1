"""The command `explain`: what it reads, prints and exits with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import PATIENCE, ROOT, command
from wsproto_min.__main__ import main
from wsproto_min.explain.cli import options_for
from wsproto_min.explain.frame_spec import build
from wsproto_min.explain.hex_input import end_lines, parse_hex, parse_input
from wsproto_min.handshake import upgrade_request
from wsproto_min.testing.strategies import DEFLATE_VIOLATIONS, VIOLATIONS, Violation

Output = pytest.CaptureFixture[str]

ALL = (*VIOLATIONS, *DEFLATE_VIOLATIONS)

REQUEST = upgrade_request("a", "/", "dGhlIHNhbXBsZSBub25jZQ==")


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("arguments", "status", "verdict"),
    [
        (["81", "05", "48656c6c6f"], 0, "VALID: 1 frame, 1 message."),
        (["81 05", "48656c6c6f"], 0, "VALID: 1 frame, 1 message."),
        (["0x81,0x05", r"\x48\x65", "6C:6c:6f"], 0, "VALID: 1 frame, 1 message."),
        (["--role", "server", "810548656c6c6f"], 0, "VALID: 1 frame, 1 message."),
        (["--role", "client", "8105"], 1, "BROKEN at byte 1: a client's frame is not masked"),
        (["--role", "server", "8185"], 1, "BROKEN at byte 1: a server's frame is masked"),
        (["c1 07 f248cdc9c90700"], 1, "BROKEN at byte 0: a reserved bit is set"),
        (["--deflate", "c1 07 f248cdc9c90700"], 0, "VALID: 1 frame, 1 message."),
        (["--no-context-takeover", "c1 05 f200110000"], 1, "BROKEN at byte"),
        (["--max-message-size", "4", "810548656c6c6f"], 1, "BROKEN at byte 1: a message is larger"),
        (["--max-fragments", "1", "0100 8000"], 1, "BROKEN at byte 3: a message has more than 1"),
        (["8105"], 3, "INCOMPLETE: the TEXT frame at byte 0 is cut off."),
        ([REQUEST.hex()], 0, "VALID: 1 head, 0 frames, 0 messages."),
        ([REQUEST.replace(b"Host", b"Ghost").hex()], 1, "REFUSED: header Host is missing"),
    ],
)
def test_explain_gives_a_verdict_and_its_exit_status(
    arguments: list[str], status: int, verdict: str, capsys: Output
) -> None:
    assert main(["explain", *arguments]) == status
    output, errors = capsys.readouterr()
    assert f"\n{verdict}" in output
    assert errors == ""
    assert "\x1b" not in output


def test_a_reserved_bit_leads_to_the_question_of_compression(capsys: Output) -> None:
    main(["explain", "c1"])
    assert capsys.readouterr().out.endswith("agreed on, say so with --deflate.\n")
    for other in ("83", "a1", "c9", "c1 00 83"):
        main(["explain", other, *(["--deflate"] if other == "c1 00 83" else [])])
        assert "--deflate" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "frames"),
    [
        (b"81 05\n48 65 6c\n6c 6f\n", 1),
        (b"# a comment: 83\n8100  # an empty text\n", 1),
        (b"\x81\x05Hello\x89\x00", 2),
        (b"\x01\x00\x80\x00", 2),
        (REQUEST + b"\x81\x80\x00\x00\x00\x00", 1),
        (REQUEST.replace(b"\r\n", b"\n") + b"\x81\x80\x00\x00\x00\x00", 1),
    ],
)
def test_standard_input_is_hex_or_raw_bytes_or_a_handshake(
    typed: bytes, frames: int, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    give(monkeypatch, typed)
    assert main(["explain"]) == 0
    output = capsys.readouterr().out
    assert output.count("\nFrame ") + output.startswith("Frame ") == frames


@pytest.mark.parametrize("written", [b"\x89\x00", b"89 00  # a Ping\n"])
def test_a_file_is_raw_bytes_or_hex(written: bytes, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "capture.bin"
    path.write_bytes(written)
    assert main(["explain", "--file", str(path)]) == 0
    assert "  Ping\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["8"], "that is not hex: '8' (line 1, column 1) has half a byte"),
        (["81", "xy"], "that is not hex: 'xy' (line 1, column 4) has characters other than"),
        (["81 0"], "that is not hex: '0' (line 1, column 4) has half a byte"),
        (["81-05"], "that is not hex: '81-05' (line 1, column 1) has characters other"),
        (["--file", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["--file", "x", "81"], "give one of HEX and --file, not both"),
        (["--break", "moon"], "there is no rule named 'moon' (--break list has all names)"),
        (["--break", "utf8"], "there is no rule named 'utf8'; did you mean utf8-"),
        (["--break", "opcode3"], "there is no rule named 'opcode3'; did you mean opcode-3"),
        (["--break", "opcode-3", "--json"], "--json is for what is explained, not for --make"),
        (["--make", "ping", "--json"], "--json is for what is explained, not for --make"),
        (["README.md"], "that is not hex: 'README.md' (line 1, column 1) has characters other"),
        (
            ["--role", "server", "--break", "unmasked-text"],
            "there is no rule named 'unmasked-text' that a server can break",
        ),
        (["--make", "text, moon"], "'moon' in 'text, moon' is not understood; it takes words"),
        (["--make", 'text, "moon'], "'text, \"moon': a quote is not closed, or a comma is"),
        (["--make", '"moon"'], "'\"moon\"' says no kind of frame, such as text or ping"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place_and_by_exit_status_2(
    arguments: list[str], reason: str, capsys: Output
) -> None:
    assert main(["explain", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"wsproto_min: {reason}")


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (b"81\n 8z", "that is not hex: '8z' (line 2, column 2)"),
        ("81 \u00e9".encode(), r"that is not hex: '\xe9' (line 1, column 4)"),
        (b"", "there are no bytes to explain; try: explain 81 05 48 65 6c 6c 6f"),
    ],
)
def test_so_is_what_is_typed(
    typed: bytes, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    give(monkeypatch, typed)
    assert main(["explain"]) == 2
    assert capsys.readouterr().err.startswith(f"wsproto_min: {reason}")


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", ""])
def test_a_limit_that_is_none_is_refused(limit: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "--max-fragments", limit, "81"])
    assert exit_.value.code == 2
    assert f"{limit!r} is not a whole number, 1 or more" in capsys.readouterr().err


def test_who_starts_it_at_a_terminal_is_told_that_it_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    typing, terminal = os.openpty()
    try:
        os.write(typing, b"89 00\n\x04")
        with open(terminal, closefd=False) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert main(["explain"]) == 0
    finally:
        os.close(typing)
        os.close(terminal)
    output, errors = capsys.readouterr()
    assert errors == "type or paste hex or a handshake, then Ctrl-D in a new line\n"
    assert "VALID: 1 frame, 0 messages" in output


@given(st.binary())
def test_hex_is_read_as_people_write_it(data: bytes) -> None:
    for written in (
        data.hex(),
        data.hex(" ").upper(),
        data.hex(":"),
        ", ".join(f"{byte:#x}" for byte in data),
        "".join(f"\\x{byte:02x}" for byte in data),
    ):
        assert parse_hex(written) == data
    assert parse_input(data.hex("\n").encode()) == data
    assert parse_input(b"\x01" + data) == b"\x01" + data


def test_lines_of_a_head_get_their_carriage_returns_and_no_others() -> None:
    head = b"GET / HTTP/1.1\nHost: a\n\n"
    answer = b"HTTP/1.1 101 OK\n\n"
    frame = b"\x82\x02\n\n"
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHTTP/1.1 101 OK\r\n\r\n"
    assert end_lines(head + answer + frame) == whole + frame
    assert end_lines(whole + frame) == whole + frame
    assert end_lines(b"GET / HTTP/1.1\n") == b"GET / HTTP/1.1\n"


def test_json_has_every_field_of_handshake_frames_and_verdict(capsys: Output) -> None:
    frames = "8185 37fa213d 7f9f4d5158 8900 8201ff 8800"
    assert main(["explain", "--json", REQUEST.hex() + frames]) == 0
    told = json.loads(capsys.readouterr().out)
    head, hello, ping, binary, close = told["seen"]
    assert head["accept_key"]["accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert hello == {
        "kind": "frame",
        "number": 1,
        "sender": "client",
        "offset": len(REQUEST),
        "data": "818537fa213d7f9f4d5158",
        "fin": True,
        "rsv1": False,
        "rsv2": False,
        "rsv3": False,
        "opcode": 1,
        "name": "TEXT",
        "masked": True,
        "length": 5,
        "masking_key": "37fa213d",
        "payload": b"Hello".hex(),
        "missing": 0,
        "fragment": 1,
        "compressed": False,
        "event": {"type": "text", "text": "Hello"},
        "ignored": False,
    }
    assert ping["event"] == {"type": "ping", "data": ""}
    assert binary["event"] == {"type": "binary", "data": "ff"}
    assert close["event"] == {"type": "close", "code": 1005, "reason": ""}
    assert told["verdict"] == {"result": "valid", "reason": "1 head, 4 frames, 2 messages"}


def test_json_of_what_is_missing(capsys: Output) -> None:
    assert main(["explain", "--json", "01"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["seen"][0]["event"] is None
    assert told["verdict"] == {
        "result": "incomplete",
        "reason": "the TEXT frame at byte 0 is cut off",
        "needs": 1,
        "at_least": True,
    }


# Rules to break


ONE_OF_EACH_RULE = {violation.rule.sentence: violation for violation in ALL}


@pytest.mark.parametrize("violation", ONE_OF_EACH_RULE.values(), ids=str)
def test_what_breaks_a_rule_can_be_piped_into_explain(
    violation: Violation, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    assert main(["explain", "--role", violation.sender, "--break", violation.name]) == 0
    printed = capsys.readouterr().out
    options = options_for(violation)
    assert f"Explain it with: {' '.join(options)}\n" in printed
    give(monkeypatch, printed.encode())
    assert main(["explain", *options, "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert (verdict["result"], verdict["close_code"]) == ("broken", violation.close_code)


@pytest.mark.parametrize("arguments", [["--break"], ["--break", "list"]])
def test_the_list_of_rules_has_every_name(arguments: list[str], capsys: Output) -> None:
    assert main(["explain", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {word for line in lines if line.startswith("    ") for word in line.split()}
    assert names == {violation.name for violation in ALL}
    assert all(len(line) <= 80 for line in lines)


# Frames to make


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("text", "8100"),
        ('text, "Hello"', "8105 48656c6c6f"),
        ('"a, b", text', "8104 612c2062"),
        (r'text, "\u00e9\""', "8103 c3a922"),
        ('text, "a", "b"', "8102 6162"),
        ('text, "", hex 0aFF', "8102 0aff"),
        ("binary, masked", "8280 37fa213d"),
        ("binary, masked 01020304, hex 00", "8281 01020304 01"),
        ('text, masked, 2 fragments, "ab"', "0181 37fa213d 56 8081 37fa213d 55"),
        ("ping, 1 fragment", "8900"),
        ("text, not final", "0100"),
        ("continuation, rsv2, rsv3", "b000"),
        ('text, deflate, "Hello"', "c107 f248cdc9c90700"),
        ('text, deflate, 2 fragments, "Hello"', "4103 f248cd 8004 c9c90700"),
        ('close, code 1000, "by"', "8804 03e8 6279"),
        ('close, "by", code 1000', "8804 03e8 6279"),
        ("pong, rsv1", "ca00"),
        ("opcode B", "8b00"),
        ("text, 16-bit length", "817e0000"),
        ("text, 64-bit length, hex 61", "817f 0000000000000001 61"),
    ],
)
def test_words_make_frames(line: str, data: str, capsys: Output) -> None:
    assert build(line) == bytes.fromhex(data)
    assert main(["explain", "--make", line, "ping"]) == 0
    assert capsys.readouterr().out == f"{bytes.fromhex(data).hex(' ')}\n89 00\n"


@pytest.mark.parametrize(
    "word",
    [
        "texts",
        "masked 0102",
        "masked xy",
        "hex 0",
        "opcode 10",
        "opcode",
        "0 fragments",
        "many fragments",
        "99999 fragments",
        r'"\x"',
        "",
    ],
)
def test_a_word_that_is_not_understood_is_named(word: str) -> None:
    with pytest.raises(ValueError, match="is not understood; it takes words"):
        build(f"text, {word}, ping")


@pytest.mark.parametrize("word", ["code 65536", "code -1"])
def test_a_code_that_two_bytes_cannot_hold_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"'{word}' in .*: a code is a number from 0 to 65535"):
        build(f"close, {word}")


# The terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_that_want_it(
    environment: dict[str, str], has_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["explain", "8100"]) == 0
    assert ("\x1b[" in terminal.getvalue()) is has_colour


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["explain", "8100"]) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_an_output_that_is_full_is_told_and_not_taken_for_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:  # closing it writes once more
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["explain", "8100"]) == 2
    assert capsys.readouterr().err == "wsproto_min: cannot write: No space left on device\n"


def test_what_the_output_has_no_character_for_is_escaped() -> None:
    explained = subprocess.run(
        command("wsproto_min", "explain", "8103 48c3a9"),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert rb"'H\xe9'" in explained.stdout


def test_make_and_explain_work_as_a_pipe() -> None:
    made = subprocess.run(
        command("wsproto_min", "explain", "--make", 'text, masked, 3 fragments, "H\u00e9llo"'),
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    explained = subprocess.run(
        command("wsproto_min", "explain"),
        cwd=ROOT,
        input=made.stdout,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert explained.stdout.decode().endswith("VALID: 3 frames, 1 message.\n")
