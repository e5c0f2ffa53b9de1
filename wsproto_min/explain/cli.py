"""The command `python -m wsproto_min explain`: its options, its output and its exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from dataclasses import fields
from pathlib import Path

from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.explain.captures.conversation import HarConversation
from wsproto_min.explain.captures.packets import is_packet
from wsproto_min.explain.captures.reader import MAX_CAPTURE_SIZE, is_capture, read_capture
from wsproto_min.explain.conversation_dissector import ConversationDissector, HarDissector
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.frame_spec import FrameSpec
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.heads import learn_handshake
from wsproto_min.explain.hex_input import parse_hex, parse_input, parse_text
from wsproto_min.explain.output import Explanation, print_connections, print_dissector
from wsproto_min.explain.rule_list import list_rules, show_violation
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.testing.raw_frame import KEY

_STATUS = {"valid": 0, "broken": 1, "refused": 1, "incomplete": 3}
_STATUS_ORDER = ("broken", "refused", "incomplete", "valid")  # of several connections
_USAGE = 2
_PIPE_CLOSED = 141  # 128 + SIGPIPE, the status that shells report

_EPILOG = """\
exit status: 0 if the bytes are valid, 1 if they break a rule, 2 if they cannot be read,
3 if they end too early. Without HEX and --file, explain reads standard input. Standard input
may be the output of --make or of --break NAME. A file may be raw bytes, hex, a dump of xxd,
hexdump -C or od -t x1, bytes as Python, Node.js or C print them, or a capture: pcap, pcapng
or HAR. If another reading is possible, explain refuses the input."""


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "hex", nargs="*", metavar="HEX", help="bytes as pairs of hex digits; spaces are optional"
    )
    parser.add_argument(
        "--file", metavar="FILE", help="explain this file: raw bytes, hex, a dump or a capture file"
    )
    parser.add_argument(
        "--role",
        choices=("client", "server", "any"),
        default="any",
        help="the sender: a client must mask, a server must not; any: decide by each MASK bit",
    )
    parser.add_argument(
        "--deflate",
        action="store_true",
        help="permessage-deflate is negotiated (RFC 7692); with --make: compress the payload",
    )
    parser.add_argument(
        "--no-context-takeover",
        action="store_true",
        help="permessage-deflate is negotiated without context takeover",
    )
    parser.add_argument(
        "--max-message-size",
        type=_positive,
        default=DEFAULT_MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help="the receiver's message size limit (default: %(default)s)",
    )
    parser.add_argument(
        "--max-fragments",
        type=_positive,
        metavar="N",
        help="the receiver's limit on the fragments of a message",
    )
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")
    parser.add_argument(
        "--break",
        dest="rule",
        nargs="?",
        const="list",
        metavar="NAME",
        help="print the violation NAME: the shortest bytes that break its rule; without NAME, "
        "list all rules with the names of their violations",
    )
    _add_make(parser.add_argument_group("frames to make", argument_default=argparse.SUPPRESS))
    parser.set_defaults(run=run)


def _add_make(group: argparse._ArgumentGroup) -> None:
    """Add the options that describe a `FrameSpec`."""
    group.add_argument(
        "--make",
        dest="opcode",
        type=_opcode,
        metavar="OPCODE",
        help="print frames in hex; text, binary, continuation, close, ping, pong or a hex digit",
    )
    group.add_argument("--payload", type=os.fsencode, metavar="TEXT", help="the payload as text")
    group.add_argument(
        "--payload-hex", dest="payload", type=_hex, metavar="HEX", help="the payload in hex"
    )
    group.add_argument("--close-code", type=_code, metavar="CODE", help="code of a Close frame")
    group.add_argument(
        "--masked",
        dest="mask",
        nargs="?",
        const=KEY,
        type=_key,
        metavar="KEY",
        help="mask the frames with KEY, 4 bytes in hex (default: the key of the RFC's examples)",
    )
    group.add_argument(
        "--fragments", type=_positive, metavar="N", help="split the message into N fragments"
    )
    group.add_argument(
        "--not-final", dest="fin", action="store_false", help="set FIN to 0 in the last frame"
    )
    for bit in ("rsv1", "rsv2", "rsv3"):
        group.add_argument(
            f"--{bit}", action="store_true", help=f"set {bit.upper()} in the first frame"
        )
    group.add_argument(
        "--length-bits",
        type=int,
        choices=(16, 64),
        help="encode the length in 16 or 64 bits although fewer are enough",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _opcode(text: str) -> int:
    names = {opcode.name.lower(): int(opcode) for opcode in Opcode}
    digits = {f"{opcode:x}": opcode for opcode in range(16)}
    try:
        return (names | digits)[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an opcode") from None


def _code(text: str) -> int:
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


def _hex(text: str) -> bytes:
    try:
        return parse_hex(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _key(text: str) -> bytes:
    key = _hex(text)
    if len(key) != len(KEY):
        raise argparse.ArgumentTypeError(f"{text!r} is not a masking key of 4 bytes")
    return key


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An old terminal may lack a character. This must not fail like an invalid capture.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except OSError as error:
        # At exit Python flushes standard output again and would report a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _PIPE_CLOSED
        print(f"wsproto_min: standard output: {error.strerror}", file=sys.stderr)
        return _USAGE
    except ValueError as error:
        print(f"wsproto_min: {error}", file=sys.stderr)
        return _USAGE


def _run(options: argparse.Namespace) -> int:
    names = {field.name for field in fields(FrameSpec)}
    spec = {name: value for name, value in vars(options).items() if name in names}
    inputs = {
        "HEX": options.hex,
        "--file": options.file,
        "--make": "opcode" in spec,
        "--break": options.rule,
    }
    given = [name for name, value in inputs.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: they exclude each other; give one of them")
    if options.json and given in (["--make"], ["--break"]):
        raise ValueError(f"--json: {given[0]} has no JSON output; leave one of them out")
    if spec and "opcode" not in spec:
        raise ValueError("frames to make: there is no opcode; add --make OPCODE")
    sender = None if options.role == "any" else Role(options.role)
    if spec:
        print(FrameSpec(**spec, compress=options.deflate).encode().hex(" "))
        return 0
    if options.rule:
        lines = list_rules() if options.rule == "list" else show_violation(options.rule, sender)
        print("\n".join(lines))
        return 0
    captured = None if options.hex else _load(options)
    if captured is not None and is_capture(captured):
        return _explain_capture(captured, options)
    data = _parse(captured, options)
    context = HandshakeContext(_compression(options))
    if sender is None:
        learn_handshake(data, context)
    dissector = Dissector(
        sender,
        context=context,
        max_message_size=options.max_message_size,
        max_fragments=options.max_fragments,
    )
    dissector.receive_data(data)
    dissector.receive_eof()
    print_dissector(dissector, as_json=options.json)
    return _STATUS[dissector.verdict.result]


def _explain_capture(captured: bytes, options: argparse.Namespace) -> int:
    """Explain a pcap, pcapng or HAR file; return the status of its worst connection."""
    if options.role != "any" or _compression(options) is not None:
        raise ValueError(
            "--role, --deflate, --no-context-takeover: the capture file decides; leave them out"
        )
    found, skipped = read_capture(captured)
    connections: list[Explanation] = []
    for each in found:
        if isinstance(each, HarConversation):
            connections.append(HarDissector(each))
        else:
            connections.append(
                ConversationDissector(
                    each,
                    max_message_size=options.max_message_size,
                    max_fragments=options.max_fragments,
                )
            )
    print_connections(connections, skipped, as_json=options.json)
    results = {connection.verdict.result for connection in connections}
    return next(_STATUS[result] for result in _STATUS_ORDER if result in results)


def _load(options: argparse.Namespace) -> bytes:
    """Return the content of the file or of standard input."""
    if options.file:
        try:
            with open(options.file, "rb") as file:
                data = file.read(MAX_CAPTURE_SIZE + 1)
        except OSError as error:
            raise ValueError(f"cannot read {options.file}: {error.strerror}") from None
    else:
        if sys.stdin.isatty():
            prompt = "type or paste hex or a handshake, then press Ctrl-D on a new line"
            print(prompt, file=sys.stderr)
        data = sys.stdin.buffer.read(MAX_CAPTURE_SIZE + 1)
    if len(data) > MAX_CAPTURE_SIZE:
        raise ValueError(
            f"input has more than {MAX_CAPTURE_SIZE} bytes; record one connection, or divide "
            "the file with editcap"
        )
    return data


def _parse(captured: bytes | None, options: argparse.Namespace) -> bytes:
    """Return the bytes to explain."""
    try:
        data = parse_text(" ".join(options.hex)) if captured is None else parse_input(captured)
    except ValueError as error:
        is_file = options.hex and Path(options.hex[0]).is_file()
        hint = "; to explain a file, use --file" if is_file else ""
        raise ValueError(f"input is not hex: {error}{hint}") from None
    if is_packet(data):
        raise ValueError(
            "input is a packet with IP and TCP headers; copy the TCP payload only, or save as pcap"
        )
    if not data:
        raise ValueError("input is empty; try: explain 81 05 48 65 6c 6c 6f")
    return data


def _compression(options: argparse.Namespace) -> DeflateParameters | None:
    if options.no_context_takeover:
        return DeflateParameters.NO_CONTEXT_TAKEOVER
    return DeflateParameters.DEFAULT if options.deflate else None
