"""The command `explain`: input, output and exit status."""

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
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.explain.hex_input import parse_hex, parse_input, restore_line_ends
from wsproto_min.explain.rule_list import options_for
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS, VIOLATIONS, Violation

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
        (["81 05 48 65", "6C6c6f"], 0, "VALID: 1 frame, 1 message."),
        (["--role", "server", "810548656c6c6f"], 0, "VALID: 1 frame, 1 message."),
        (["--role", "client", "8105"], 1, "BROKEN at byte 1: a client's frame is not masked"),
        (["--role", "server", "8185"], 1, "BROKEN at byte 1: a server's frame is masked"),
        (["c1 07 f248cdc9c90700"], 1, "BROKEN at byte 0: a reserved bit is set"),
        (["--deflate", "c1 07 f248cdc9c90700"], 0, "VALID: 1 frame, 1 message."),
        (["--no-context-takeover", "c1 05 f200110000"], 1, "BROKEN at byte"),
        (["--max-message-size", "4", "810548656c6c6f"], 1, "BROKEN at byte 1: "),
        (["--max-fragments", "1", "0100 8000"], 1, "BROKEN at byte 3: "),
        (["8105"], 3, "INCOMPLETE: the TEXT frame at byte 0 is incomplete."),
        ([REQUEST.hex()], 0, "VALID: 1 head, 0 frames, 0 messages."),
        ([REQUEST.replace(b"Host", b"Ghost").hex()], 1, "REFUSED: header Host is missing"),
    ],
)
def test_explain_prints_verdict_and_returns_its_status(
    arguments: list[str], status: int, verdict: str, capsys: Output
) -> None:
    assert main(["explain", *arguments]) == status
    output, errors = capsys.readouterr()
    assert f"\n{verdict}" in output
    assert errors == ""
    assert "\x1b" not in output


def test_explain_reserved_bit_rsv1_hints_at_deflate(capsys: Output) -> None:
    main(["explain", "c1"])
    assert capsys.readouterr().out.endswith("was negotiated, add --deflate.\n")
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
def test_explain_stdin_accepts_hex_raw_bytes_and_handshakes(
    typed: bytes, frames: int, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    give(monkeypatch, typed)
    assert main(["explain"]) == 0
    output = capsys.readouterr().out
    assert output.count("\nFrame ") + output.startswith("Frame ") == frames


@pytest.mark.parametrize("written", [b"\x89\x00", b"89 00  # a Ping\n"])
def test_explain_file_accepts_raw_bytes_and_hex(
    written: bytes, tmp_path: Path, capsys: Output
) -> None:
    path = tmp_path / "capture.bin"
    path.write_bytes(written)
    assert main(["explain", "--file", str(path)]) == 0
    assert "  Ping\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["8"], "input is not hex: '8' (line 1, column 1) has an odd number of digits; a byte"),
        (["81", "xy"], "input is not hex: 'xy' (line 1, column 4) has characters other than"),
        (["81 0"], "input is not hex: '0' (line 1, column 4) has an odd number of digits"),
        (["81-05"], "input is not hex: '81-05' (line 1, column 1) has characters other"),
        (["0x81,0x05"], "input is not hex: '0x81,0x05' (line 1, column 1) has characters other"),
        (["--file", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["--file", "x", "81"], "HEX and --file: they exclude each other; give one of them"),
        (["--make", "ping", "81"], "HEX and --make: they exclude each other; give one of them"),
        (["--break", "moon"], "there is no violation named 'moon'; see --break list"),
        (["--break", "utf8"], "there is no violation named 'utf8'; did you mean utf8-"),
        (["--break", "opcode3"], "there is no violation named 'opcode3'; did you mean opcode-3"),
        (["--break", "opcode-3", "--json"], "--json: --break has no JSON output; leave one"),
        (["--make", "ping", "--json"], "--json: --make has no JSON output; leave one"),
        (["--payload", "Hello"], "frames to make: there is no opcode; add --make OPCODE"),
        (["README.md"], "input is not hex: 'README.md' (line 1, column 1) has characters other"),
        (
            ["--role", "server", "--break", "unmasked-text"],
            "there is no violation named 'unmasked-text' that a server can commit",
        ),
    ],
)
def test_explain_invalid_arguments_return_2_with_a_reason(
    arguments: list[str], reason: str, capsys: Output
) -> None:
    assert main(["explain", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"wsproto_min: {reason}")


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (b"81\n 8z", "input is not hex: '8z' (line 2, column 2)"),
        ("81 \u00e9".encode(), r"input is not hex: '\xe9' (line 1, column 4)"),
        (b"", "input is empty; try: explain 81 05 48 65 6c 6c 6f"),
    ],
)
def test_explain_invalid_stdin_returns_2_with_a_reason(
    typed: bytes, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    give(monkeypatch, typed)
    assert main(["explain"]) == 2
    assert capsys.readouterr().err.startswith(f"wsproto_min: {reason}")


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", ""])
def test_explain_invalid_limit_is_a_usage_error(limit: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "--max-fragments", limit, "81"])
    assert exit_.value.code == 2
    assert f"{limit!r} is not a whole number from 1 up" in capsys.readouterr().err


def test_explain_at_a_terminal_prompts_for_input(
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
    assert errors == "type or paste hex or a handshake, then press Ctrl-D on a new line\n"
    assert "VALID: 1 frame, 0 messages" in output


@given(st.binary())
def test_parse_hex_accepts_any_white_space(data: bytes) -> None:
    for written in (data.hex(), data.hex(" ").upper(), data.hex("\t") + " # a comment: 1"):
        assert parse_hex(written) == data
    assert parse_input(data.hex("\n").encode()) == data
    assert parse_input(b"\x01" + data) == b"\x01" + data


def test_restore_line_ends_changes_only_heads() -> None:
    head = b"GET / HTTP/1.1\nHost: a\n\n"
    response = b"HTTP/1.1 101 OK\n\n"
    frame = b"\x82\x02\n\n"
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHTTP/1.1 101 OK\r\n\r\n"
    assert restore_line_ends(head + response + frame) == whole + frame
    assert restore_line_ends(whole + frame) == whole + frame
    assert restore_line_ends(b"GET / HTTP/1.1\n") == b"GET / HTTP/1.1\n"


def test_explain_json_has_every_field(capsys: Output) -> None:
    frames = "8185 37fa213d 7f9f4d5158 8900 8201ff 8800"
    assert main(["explain", "--json", REQUEST.hex() + frames]) == 0
    printed = json.loads(capsys.readouterr().out)
    head, hello, ping, binary, close = printed["seen"]
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
    assert printed["verdict"] == {"result": "valid", "reason": "1 head, 4 frames, 2 messages"}


def test_explain_json_of_incomplete_frame_counts_missing_bytes(capsys: Output) -> None:
    assert main(["explain", "--json", "01"]) == 3
    printed = json.loads(capsys.readouterr().out)
    assert printed["seen"][0]["event"] is None
    assert printed["verdict"] == {
        "result": "incomplete",
        "reason": "the TEXT frame at byte 0 is incomplete",
        "needs": 1,
        "at_least": True,
    }


# Violations

ONE_PER_RULE = {violation.rule.name: violation for violation in ALL}


@pytest.mark.parametrize("violation", ONE_PER_RULE.values(), ids=str)
def test_explain_break_output_is_broken_input_of_explain(
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
def test_explain_break_list_has_every_violation(arguments: list[str], capsys: Output) -> None:
    assert main(["explain", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {word for line in lines if line.startswith("    ") for word in line.split()}
    assert names == {violation.name for violation in ALL}
    assert all(len(line) <= 80 for line in lines)


# Frames to make


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ("text", "8100"),
        ("text --payload Hello", "8105 48656c6c6f"),
        ("text --payload-hex 0aFF", "8102 0aff"),
        ("text --payload \u00e9", "8102 c3a9"),
        ("binary --masked", "8280 37fa213d"),
        ("binary --masked 01020304 --payload-hex 00", "8281 01020304 01"),
        ("text --masked --fragments 2 --payload ab", "0181 37fa213d 56 8081 37fa213d 55"),
        ("ping --fragments 1", "8900"),
        ("text --not-final", "0100"),
        ("continuation --rsv2 --rsv3", "b000"),
        ("text --deflate --payload Hello", "c107 f248cdc9c90700"),
        ("text --deflate --fragments 2 --payload Hello", "4103 f248cd 8004 c9c90700"),
        ("close --close-code 1000 --payload by", "8804 03e8 6279"),
        ("close --close-code 0", "8802 0000"),
        ("pong --rsv1", "ca00"),
        ("B", "8b00"),
        ("text --length-bits 16", "817e0000"),
        ("text --length-bits 64 --payload-hex 61", "817f 0000000000000001 61"),
    ],
)
def test_explain_make_prints_the_frames(arguments: str, data: str, capsys: Output) -> None:
    assert main(["explain", "--make", *arguments.split()]) == 0
    assert capsys.readouterr().out == f"{bytes.fromhex(data).hex(' ')}\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("texts", "argument --make: 'texts' is not an opcode"),
        ("10", "argument --make: '10' is not an opcode"),
        ("text --masked 0102", "argument --masked: '0102' is not a masking key of 4 bytes"),
        ("text --masked xy", "argument --masked: 'xy' (line 1, column 1) has characters other"),
        ("text --payload-hex 0", "argument --payload-hex: '0' (line 1, column 1) has an odd"),
        ("text --fragments 0", "argument --fragments: '0' is not a whole number from 1 up"),
        ("text --fragments many", "argument --fragments: 'many' is not a whole number"),
        ("close --close-code 65536", "argument --close-code: '65536' is not a number from 0"),
        ("close --close-code=-1", "argument --close-code: '-1' is not a number from 0 to 65535"),
        ("text --length-bits 7", "argument --length-bits: invalid choice"),
    ],
)
def test_explain_make_invalid_option_is_a_usage_error(
    arguments: str, reason: str, capsys: Output
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "--make", *arguments.split()])
    assert exit_.value.code == 2
    assert reason in capsys.readouterr().err


# The terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_explain_colours_only_for_terminals_with_colour(
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


def test_explain_closed_pipe_returns_141_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["explain", "8100"]) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_explain_full_output_returns_2_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:  # close() writes again and fails
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["explain", "8100"]) == 2
    assert capsys.readouterr().err == "wsproto_min: standard output: No space left on device\n"


def test_explain_output_escapes_unencodable_characters() -> None:
    explained = subprocess.run(
        command("wsproto_min", "explain", "8103 48c3a9"),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert rb"'H\xe9'" in explained.stdout


def test_explain_make_output_is_valid_input_of_explain() -> None:
    make = "--make text --masked --fragments 3 --payload H\u00e9llo"
    made = subprocess.run(
        command("wsproto_min", "explain", *make.split()),
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
