"""The command `python -m wsproto_min explain`: what it takes, prints and exits with."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Any

from wsproto_min.connection import Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain import frame_spec as builder
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext, Head
from wsproto_min.explain.hex_input import parse_hex, parse_input
from wsproto_min.explain.render_json import record, verdict_record
from wsproto_min.explain.render_text import conclude, draw
from wsproto_min.explain.style import COLUMNS, coloured, plain
from wsproto_min.explain.verdict import close_code_name
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.testing.violations import (
    DEFLATE_RULES,
    DEFLATE_VIOLATIONS,
    MAX_FRAGMENTS,
    MAX_MESSAGE_SIZE,
    RULES,
    VIOLATIONS,
    Violation,
    find_violation,
)

_STATUS = {"valid": 0, "broken": 1, "refused": 1, "incomplete": 3}
_USAGE = 2
_PIPE_CLOSED = 141  # as shells have it
_BYTES_IN_A_LINE = 24

_EPILOG = """\
exit status: 0 if the bytes are valid, 1 if they break a rule, 3 if they end too
early, 2 if they cannot be read. Without HEX and --file the bytes are read from
standard input; so --make can be piped into explain, and --break RULE into explain
with the options that it names."""


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "hex", nargs="*", metavar="HEX", help="bytes in hex; spaces, commas and 0x do not matter"
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="explain what is in this file: raw bytes, hex or a handshake",
    )
    parser.add_argument(
        "--role",
        choices=("client", "server", "any"),
        default="any",
        help="who sent them: a client has to mask, a server must not (any: by each frame's mask)",
    )
    parser.add_argument(
        "--deflate", action="store_true", help="permessage-deflate was agreed on (RFC 7692)"
    )
    parser.add_argument(
        "--no-context-takeover",
        action="store_true",
        help="so, and each compressed message stands alone",
    )
    parser.add_argument(
        "--max-message-size",
        type=_positive,
        default=DEFAULT_MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help="what the receiver takes at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-fragments",
        type=_positive,
        metavar="N",
        help="how many fragments of a message it takes",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_argument(
        "--make", nargs="+", metavar="WORDS", help=f"print frames in hex, from {builder.GRAMMAR}"
    )
    parser.add_argument(
        "--break",
        dest="rule",
        nargs="?",
        const="list",
        metavar="RULE",
        help="print the least bytes that break a rule; without RULE, or with list, the rules, "
        "each with the names to break it by",
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What an old terminal has no character for is no fault of the bytes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except OSError as error:
        # Python would complain once more when it flushes the output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _PIPE_CLOSED
        print(f"wsproto_min: cannot write: {error.strerror}", file=sys.stderr)
        return _USAGE
    except ValueError as error:
        print(f"wsproto_min: {error}", file=sys.stderr)
        return _USAGE


def _run(options: argparse.Namespace) -> int:
    sources = {
        "HEX": options.hex,
        "--file": options.file,
        "--make": options.make,
        "--break": options.rule,
    }
    given = [name for name, value in sources.items() if value]
    if len(given) > 1:
        raise ValueError(f"give one of {' and '.join(given)}, not both")
    sender = None if options.role == "any" else Role(options.role)
    if options.json and (options.make or options.rule):
        raise ValueError("--json is for what is explained, not for --make and --break")
    if options.make:
        print("\n".join([builder.build(line).hex(" ") for line in options.make]))
        return 0
    if options.rule:
        for line in list_rules() if options.rule == "list" else _break(options.rule, sender):
            print(line)
        return 0
    data = _read(options)
    if not data:
        raise ValueError("there are no bytes to explain; try: explain 81 05 48 65 6c 6c 6f")
    dissector = Dissector(
        sender,
        opening=HandshakeContext(_agreed(options)),
        max_message_size=options.max_message_size,
        max_fragments=options.max_fragments,
    )
    if options.json:
        _print_records(dissector, data)
    else:
        _print_drawings(dissector, data)
    return _STATUS[dissector.verdict.result]


def _read(options: argparse.Namespace) -> bytes:
    try:
        if options.hex:
            return parse_hex(" ".join(options.hex))
        if options.file:
            return parse_input(Path(options.file).read_bytes())
        if sys.stdin.isatty():
            print("type or paste hex or a handshake, then Ctrl-D in a new line", file=sys.stderr)
        return parse_input(sys.stdin.buffer.read())
    except OSError as error:
        raise ValueError(f"cannot read {options.file}: {error.strerror}") from None
    except ValueError as error:
        is_file = options.hex and Path(options.hex[0]).is_file()
        hint = "; to explain what is in a file, give it with --file" if is_file else ""
        raise ValueError(f"that is not hex: {error}{hint}") from None


def _agreed(options: argparse.Namespace) -> DeflateParameters | None:
    if options.no_context_takeover:
        return DeflateParameters.NO_CONTEXT_TAKEOVER
    return DeflateParameters.DEFAULT if options.deflate else None


def _print_drawings(dissector: Dissector, data: bytes) -> None:
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    paint = coloured if wanted and os.environ.get("TERM") != "dumb" else plain
    hint = None
    for step in (dissector.receive_data(data), dissector.receive_eof()):
        for seen in step:
            print("\n".join(draw(seen, paint)))
            hint = _hint(seen)
    print("\n".join(conclude(dissector.verdict, paint)))
    if hint is not None:
        print(hint)


def _hint(seen: Head | FrameReport) -> str | None:
    """Return what else a broken frame might be, which only a person can tell."""
    if isinstance(seen, Head) or seen.verdict is None:
        return None
    frame = seen.layout
    is_marked = frame.rsv == (True, False, False) and not frame.is_control
    if is_marked and seen.verdict.reason == "a reserved bit is set":
        return "  If permessage-deflate was agreed on, say so with --deflate."
    return None


def _print_records(dissector: Dissector, data: bytes) -> None:
    seen: list[dict[str, Any]] = [record(each) for each in dissector.receive_data(data)]
    seen += [record(each) for each in dissector.receive_eof()]
    whole = {"seen": seen, "verdict": verdict_record(dissector.verdict)}
    print(json.dumps(whole, indent=2))


def list_rules() -> Iterator[str]:
    """Yield the rules, each with its section, its close code and the names to break it by."""
    for rule in (*RULES, *DEFLATE_RULES):
        standard = "RFC 7692" if rule.compression else "RFC 6455"
        yield f"{standard}, {rule.section}: {close_code_name(rule.close_code)}"
        yield from wrap(rule.sentence, COLUMNS, initial_indent="  ", subsequent_indent="  ")
        names = " ".join(rule.cases)
        yield from wrap(
            names,
            COLUMNS,
            initial_indent="    ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )


def _break(name: str, sender: Role | None) -> Iterator[str]:
    """Yield the input that breaks a rule, in hex, with comments on it."""
    try:
        violation = find_violation(name, None if sender is None else sender.value)
    except LookupError as error:
        names = sorted({each.name for each in (*VIOLATIONS, *DEFLATE_VIOLATIONS)})
        near = [each for each in names if each.startswith(name)] or get_close_matches(name, names)
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        raise ValueError(f"{error.args[0]}{hint} (--break list has all names)") from None
    rule = violation.rule
    standard = "RFC 7692" if rule.compression else "RFC 6455"
    yield f"# {violation.name}, sent by a {violation.sender} ({standard}, {rule.section})"
    yield f"# {rule.sentence}"
    yield f"# The {violation.role} closes with {close_code_name(rule.close_code)}."
    yield f"# Explain it with: {' '.join(options_for(violation))}"
    for begin in range(0, len(violation.data), _BYTES_IN_A_LINE):
        yield violation.data[begin : begin + _BYTES_IN_A_LINE].hex(" ")


def options_for(violation: Violation) -> list[str]:
    """Return the options under which `explain` sees `violation` as the table presumes."""
    options = ["--role", violation.sender]
    if violation.rule.compression:
        options.append("--no-context-takeover")
    if violation.close_code == 1009:
        options += ["--max-message-size", str(MAX_MESSAGE_SIZE)]
    if violation.close_code == 1008:
        options += ["--max-fragments", str(MAX_FRAGMENTS)]
    return options
