"""Classic wrong answers for each step of `learn`, as changes of the reference solutions.

Each has a name, the changes (the old text and the new one), and a part of the problem that the
checker must report.
"""

from __future__ import annotations

from typing import NamedTuple


class WrongAnswer(NamedTuple):
    """A wrong answer to a step."""

    step: int
    name: str
    changes: tuple[tuple[str, str], ...]
    problem: str


def _answers(
    step: int, *rows: tuple[str, str, str, str] | tuple[str, tuple[tuple[str, str], ...], str]
) -> list[WrongAnswer]:
    answers = []
    for row in rows:
        if len(row) == 4:
            name, old, new, problem = row
            answers.append(WrongAnswer(step, name, ((old, new),), problem))
        else:
            answers.append(WrongAnswer(step, *row))
    return answers


_DIGEST = "base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()"
_ECHO = "self.unsent += frame(opcode, payload, rsv1=0x40 if self.bits else 0)"
_CLOSE_ECHO = "self.unsent += frame(CLOSE, payload[:2])"
_SEND = "del self.unsent[: self.sock.send(self.unsent)]"
_KEYS = "(key * (len(data) // 4 + 1))[: len(data)]"
_IS_TOO_BIG = "if opcode < CLOSE and len(self.message) + length > self.limit:"

SERVER_ANSWERS: tuple[WrongAnswer, ...] = (
    *_answers(
        1,
        ("no base64", _DIGEST, "hashlib.sha1((key + GUID).encode()).hexdigest()", "prints"),
        ("another digest", "hashlib.sha1", "hashlib.sha256", "prints"),
        ("constant in lower case", "(key + GUID)", "(key + GUID.lower())", "prints"),
        ("constant first", "(key + GUID)", "(GUID + key)", "prints"),
        (
            "key decoded first",
            "(key + GUID).encode()",
            "base64.b64decode(key) + GUID.encode()",
            "prints",
        ),
        ("base64 of the hex digest", ".digest()", ".hexdigest().encode()", "prints"),
        ("base64 for URLs", "b64encode", "urlsafe_b64encode", "prints"),
        ("nothing printed", "print(accept_key(sys.argv[2]))", "pass", "prints ''"),
        (
            "another argument printed",
            "sys.argv[2]))\n    else",
            "sys.argv[3]))\n    else",
            "status 1",
        ),
    ),
    *_answers(
        2,
        ("lines end with LF", r"websocket\r\nConnection: Upgrade\r\n", r"websocket\n\n", "CR LF"),
        ("400 for another version", "426 Upgrade Required", "400 Bad Request", "status 426"),
        ("426 without the version", r"Sec-WebSocket-Version: 13\r\n", "", "lacks a header"),
        ("no version accepted", '!= ["13"]', 'not in (["13"], [])', "expected: status 426"),
        ("version 14 accepted", '!= ["13"]', 'not in (["13"], ["14"])', "expected: status 426"),
        (
            "any value of Upgrade",
            '{"websocket", "upgrade"} - asks',
            '{"upgrade"} - asks',
            "status 101",
        ),
        ("Connection in one case", "{item.lower() for item", "{item for item", "answered 400"),
        ("refusal with 200", "400 Bad Request", "200 OK", "answers with status 200"),
        ("refusal without an end", '" 101 " not in response', "False", "refuses the request"),
        ("POST accepted", 'line.startswith("GET ") and ', "", "status 101"),
        ("no Host accepted", ' and headers["host"]', "", "status 101"),
        ("last line of a header", "headers[name.lower()] += [", "headers[name.lower()] = [", "400"),
        ("short heads only", "len(head) > 16384", "len(head) > 3000", "answered 431"),
        ("socket open after a refusal", "if self.ending and not", "if False and not", "not close"),
        (
            "no empty line, and the end",
            (
                ('return response + "\\r\\n", bits', "return response, bits"),
                ('" 101 " not in response', "True"),
            ),
            "an empty line must end the response",
        ),
        ("no HTTP", "HTTP/1.1 101 Switching", "101 Switching", "is not HTTP/1.1"),
        ("status 200", "101 Switching Protocols", "200 OK", "answered 200"),
        ("constant accept key", "{accept_key(key)}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "not fit"),
        ("names in one case only", "[name.lower()]", "[name]", "426"),
        (
            "Connection compared as a whole",
            '[item.strip() for item in value.split(",")]',
            "[value.strip()]",
            "answered 400",
        ),
        ("spaces kept", "[item.strip() for", "[item[1:] for", "answered 4"),
        ("Upgrade not required", ' or {"websocket", "upgrade"} - asks', "", "status 101"),
        ("key not required", " and KEY.fullmatch(key)", "", "status 101"),
        ("any version", '!= ["13"]', "== []", "status 101"),
        (
            "subprotocol not asked for",
            r"Upgrade\r\n",
            r"Upgrade\r\nSec-WebSocket-Protocol: a\r\n",
            "subprotocol",
        ),
        (
            "no empty line",
            r'return response + "\r\n", bits',
            "return response, bits",
            "sends nothing",
        ),
        ("no response", "self.unsent += response.encode()", "self.ending = True", "sends nothing"),
    ),
    *_answers(
        3,
        ("answer has MASK", "(0x80 if key else 0) | form", "0x80 | form", "breaks a rule"),
        ("answer lacks FIN", "bytes([0x80 | rsv1", "bytes([rsv1", "has FIN 0"),
        ("always text", _ECHO, "self.unsent += frame(TEXT, payload)", "not UTF-8"),
        (
            "length of the whole frame",
            "form, more = (size, 0)",
            "form, more = (size + 2, 0)",
            "of 7 bytes, 5 bytes have come",
        ),
        ("one byte sent", "return header + key + (", "return header[:1] or (", "0 bytes have come"),
        (
            "key taken as payload",
            "key_end = start + (4 if self.masked else 0)",
            "key_end = start",
            "",
        ),
        ("one answer only", _ECHO, f"{_ECHO}; self.ending = True", "ends the stream"),
        ("empty message not answered", "elif opcode != PONG:", "elif payload:", "sends nothing"),
    ),
    *_answers(
        4,
        (
            "native byte order sent",
            'size.to_bytes(more, "big")',
            'size.to_bytes(more, "little")',
            "",
        ),
        (
            "native byte order read",
            'length = int.from_bytes(data[2:start], "big")',
            'length = int.from_bytes(data[2:start], "little")',
            "",
        ),
        (
            "signed length",
            'int.from_bytes(data[2:start], "big")',
            'int.from_bytes(data[2:start], "big", signed=True)',
            "Close with 1002",
        ),
        ("126 in the short form", "size < 126", "size <= 126", "not in its shortest form"),
        ("65536 in two bytes", "size < 65536", "size <= 65536", "ends the stream"),
        ("always 8 bytes", "(126, 2) if size < 65536 else (127, 8)", "(127, 8)", "breaks a rule"),
        ("65535 in 8 bytes", "size < 65536", "size < 65535", "breaks a rule"),
        ("8 bytes read as 4", "(10, 65536)", "(6, 65536)", ""),
        (
            "one read for each frame",
            "self.receiver.data += data",
            "self.receiver.data[:] = data",
            "",
        ),
    ),
    *_answers(
        5,
        ("constant key", "bytes(data[start:key_end]))", r'b"\x37\xfa\x21\x3d")', "expected"),
        ("no unmasking", "bytes(data[start:key_end]))", "bytes(4))", "expected"),
        (
            "key of the first frame",
            "bytes(data[start:key_end]))",
            'self.__dict__.setdefault("key", bytes(data[start:key_end])))',
            "expected",
        ),
        (
            "key reversed",
            "bytes(data[start:key_end]))",
            "bytes(data[start:key_end])[::-1])",
            "expected",
        ),
        ("four bytes unmasked", _KEYS, "(key + bytes(len(data)))[: len(data)]", "expected"),
        ("header counted", _KEYS, f"((key[2:] + key[:2]){_KEYS[4:]}", "expected"),
        (
            "OR instead of XOR",
            ' ^ int.from_bytes(keys, "big")',
            ' | int.from_bytes(keys, "big")',
            "",
        ),
        (
            "answer masked",
            "frame(opcode, payload, rsv1",
            'frame(opcode, payload, b"mask", rsv1',
            "rule",
        ),
        ("multiples of four", "len(data) // 4 + 1", "len(data) // 4", "expected"),
    ),
    *_answers(
        6,
        ("header of one byte", "if len(data) < 2:", "if not data:", "ends the stream"),
        ("long length incomplete", "if len(data) < start:", "if not data:", ""),
        ("payload incomplete", "if len(data) < key_end + length:", "if not data:", ""),
        ("key not counted", "len(data) < key_end + length", "len(data) < start + length", ""),
        (
            "bytes behind the request dropped",
            "head, end, data = bytes(self.head)",
            "data = b''; head, end, _ = bytes(self.head)",
            "sends nothing",
        ),
        (
            "one frame for each read",
            "while not self.ending and (event",
            "if not self.ending and (event",
            "",
        ),
        ("request in one read", "            elif end:\n", "            else:\n", "answered 4"),
        (
            "rest of the read dropped",
            "del data[: key_end + length]",
            "data.clear()",
            "sends nothing",
        ),
    ),
    *_answers(
        7,
        ("FIN ignored", "            if fin:\n", "            if True:\n", ""),
        (
            "opcode of the last frame",
            "event = self.opcode,",
            "event = opcode,",
            "opcode is 0x0, not 0x1",
        ),
        (
            "Ping sent back",
            "elif opcode == PING:",
            "elif opcode == 99:",
            "except 1 Ping of its own",
        ),
        ("Ping not answered", "self.unsent += frame(PONG, payload)", "pass", "sends nothing"),
        ("Pong without payload", "frame(PONG, payload)", 'frame(PONG, b"")', "a Pong with"),
        (
            "Ping ends the message",
            "                return opcode, payload",
            "                self.message.clear(); return opcode, payload",
            "the text 'lo'",
        ),
        ("Pong answered", "elif opcode == PING:", "elif opcode in (PING, PONG):", "a Pong with"),
        ("Pong sent back", "elif opcode != PONG:", "else:", "a Pong with"),
        (
            "payload of a Ping in the message",
            "            if opcode >= CLOSE:\n",
            "            self.message += payload if opcode == PING else b''\n"
            "            if opcode >= CLOSE:\n",
            "expected: the text",
        ),
        (
            "empty fragment ends the message",
            "            if fin:\n",
            "            if fin or not payload:\n",
            "",
        ),
        (
            "message kept for the next one",
            "                self.message.clear()\n",
            "",
            "not UTF-8",
        ),
    ),
    *_answers(
        8,
        (
            "UTF-8 per fragment",
            "decoder.decode(payload, final=bool(fin))",
            "payload.decode()",
            "1007",
        ),
        (
            "never checked",
            "        decoder.decode(payload, final=bool(fin))\n",
            "        pass\n",
            "not UTF-8",
        ),
        (
            "replaced characters",
            (
                ("        decoder.decode(payload, final=bool(fin))\n", "        pass\n"),
                (
                    "self.opcode, bytes(self.message)",
                    "self.opcode, bytes(self.message).decode('utf-8', 'replace').encode()"
                    " if self.opcode == 1 else bytes(self.message)",
                ),
            ),
            "expected: a Close with 1007",
        ),
        ("binary checked", "if self.opcode == TEXT and (", "if (", "1007"),
        (
            "code 1002",
            "raise Violation(1007) from None\n\n\ndef check_close",
            "raise Violation(1002) from None\n\n\ndef check_close",
            "a Close with 1002",
        ),
        (
            "fragments not checked",
            "if self.opcode == TEXT and (",
            "if self.opcode == TEXT and opcode == TEXT and fin and (",
            "not UTF-8",
        ),
        ("end within a character", "final=bool(fin)", "final=False", "not UTF-8"),
        (
            "surrogates accepted",
            'self.decoder = codecs.getincrementaldecoder("utf-8")()',
            'self.decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")',
            "not UTF-8",
        ),
        (
            "ends of lines changed",
            "event = self.opcode, bytes(self.message)",
            'event = self.opcode, bytes(self.message).replace(b"\\r\\n", b"\\n")',
            "byte 3 of the payload",
        ),
        (
            "byte order mark removed",
            "event = self.opcode, bytes(self.message)",
            'event = self.opcode, bytes(self.message).removeprefix(b"\\xef\\xbb\\xbf")',
            "byte 0 of the payload",
        ),
        (
            "Latin-1",
            'self.decoder = codecs.getincrementaldecoder("utf-8")()',
            'self.decoder = codecs.getincrementaldecoder("latin-1")()',
            "not UTF-8",
        ),
    ),
    *_answers(
        9,
        ("Close not answered", _CLOSE_ECHO, "pass", "without a Close frame"),
        (
            "connection stays open",
            "if self.ending and not self.unsent:",
            "if False:",
            "sends nothing",
        ),
        (
            "always 1000",
            "frame(CLOSE, payload[:2])",
            'frame(CLOSE, b"\\x03\\xe8")',
            "a Close with 1000 NORMAL_CLOSURE; expected",
        ),
        (
            "always empty",
            "frame(CLOSE, payload[:2])",
            'frame(CLOSE, b"")',
            "a Close without",
        ),
        (
            "1001 without a code",
            "frame(CLOSE, payload[:2])",
            'frame(CLOSE, payload[:2] or b"\\x03\\xe9")',
            "It is empty, because",
        ),
        ("native byte order", "frame(CLOSE, payload[:2])", "frame(CLOSE, payload[1::-1])", "rule"),
        ("answers after the Close", "while not self.ending and (event", "while (event", ""),
        (
            "a client ends the program",
            "        except OSError:\n            self.selector",
            "        except ZeroDivisionError:\n            self.selector",
            "the ",
        ),
        (
            "answers before the Close lost",
            _CLOSE_ECHO,
            "self.unsent[:] = frame(CLOSE, payload[:2])",
            "",
        ),
        (
            "key decoded without a check",
            "KEY.fullmatch(key)",
            "base64.b64decode(key, validate=True)",
            "the server ends the stream",
        ),
        (
            "header without a colon",
            'field.partition(":") for',
            '(*field.split(":", 1)[:1], "", field.split(":", 1)[1]) for',
            "the ",
        ),
        ("ASCII only", 'head.decode("latin-1")', "head.decode()", "the "),
        ("key of 17 bytes", "{22}==", "{22,23}==?", "status 101"),
        ("key with - and _", "[A-Za-z0-9+/]{22}", "[A-Za-z0-9+/_-]{22}", "status 101"),
        ("reason cut", "frame(CLOSE, payload[:2])", "frame(CLOSE, payload[:61])", "not UTF-8"),
        ("key of any length", "KEY.fullmatch(key)", 'key.strip("=!")', "status 101"),
    ),
    *_answers(
        10,
        ("reserved bits", " or rsv & ~allowed", "", "expected: a Close with 1002"),
        ("reserved opcodes", " or opcode not in OPCODES", "", "opcode 0x3 is reserved"),
        ("no mask", "data[1] & 0x80 != self.masked or ", "", "expected: a Close with 1002"),
        ("fragmented control frames", "(not fin or length > 125)", "(length > 125)", "1002"),
        ("long control frames", "(not fin or length > 125)", "(not fin)", "1002"),
        (
            "continuation without a message",
            "(opcode == CONTINUATION) == (self.opcode == 0)",
            "(opcode != CONTINUATION and self.opcode)",
            "no message to continue",
        ),
        (
            "text within a message",
            "(opcode == CONTINUATION) == (self.opcode == 0)",
            "(opcode == CONTINUATION and not self.opcode)",
            "expected: a Close with 1002",
        ),
        (
            "reserved bits of control frames",
            "or rsv & ~allowed:",
            "or (opcode < CLOSE and rsv & ~allowed):",
            "",
        ),
        ("long form of a short length", "if length < least or ", "if ", "1002"),
        ("top bit of the length", " or length >= 1 << 63", "", "a Close with 1009"),
        ("half a close code", "(len(payload) < 2 or not (", "(len(payload) > 1 and not (", "1002"),
        (
            "any close code",
            "registered = 1000 <= code <= 1014",
            "registered = code or code",
            "1002",
        ),
        ("codes that are never sent", " and code not in (1004, 1005, 1006)", "", "1002"),
        (
            "codes not registered",
            "1000 <= code <= 1014 and code not in (1004, 1005, 1006)",
            "code in (1000, 1001, 1002, 1007, 1008, 1009, 1011)",
            "expected: a Close with 1003",
        ),
        ("socket closed at once", "self.sock.shutdown(socket.SHUT_WR)", "raise OSError", "resets"),
        (
            "order checked after the payload",
            "if opcode < CLOSE and (opcode == CONT",
            "if len(data) > length and opcode < CLOSE and (opcode == CONT",
            "sends nothing",
        ),
        ("reason not checked", "payload[2:], 1)", 'b"", 1)', "expected: a Close with 1007"),
        (
            "no Close frame",
            'self.unsent += frame(CLOSE, violation.args[0].to_bytes(2, "big"))',
            "pass",
            "without a Close frame",
        ),
    ),
    *_answers(
        11,
        (
            "limit of one frame",
            "len(self.message) + length > self.limit",
            "length > self.limit",
            "1009",
        ),
        (
            "payload awaited",
            _IS_TOO_BIG,
            _IS_TOO_BIG.replace(":", " and len(data) > length:"),
            "sends nothing",
        ),
        ("off by one", "length > self.limit", "length >= self.limit", "a Close with 1009"),
        (
            "fragments without end",
            "if self.fragments > max(128, self.limit // 64):",
            "if False:",
            "1008",
        ),
        ("too few fragments", "max(128, self.limit // 64)", "16", "Close with 1008"),
        (
            "only empty fragments counted",
            "self.fragments += 1",
            "self.fragments += not payload",
            "1008",
        ),
        (
            "fragments of all messages counted",
            "self.opcode, self.compressed, self.fragments = opcode, rsv1, 0",
            "self.opcode, self.compressed = opcode, rsv1",
            "a Close with 1008",
        ),
        (
            "text without a limit",
            "if opcode < CLOSE and len(self.message)",
            "if opcode == BINARY and len(self.message)",
            "",
        ),
        (
            "limit of the last fragment",
            "if opcode < CLOSE and len(self.message)",
            "if fin and opcode < CLOSE and len(self.message)",
            "1009",
        ),
        (
            "length of 32 bits",
            'int.from_bytes(data[2:start], "big")',
            'int.from_bytes(data[2:start], "big") % (1 << 32)',
            "1009",
        ),
        (
            "whole head of any size",
            "if len(head) > 16384:",
            "if not end and len(head) > 16384:",
            "",
        ),
        ("smaller default", "limit: int = 1 << 20", "limit: int = 200_000", "a Close with 1009"),
        ("128 fragments", "max(128, self.limit // 64)", "128", "Close with 1008"),
        (
            "announced length allocated",
            f"        {_IS_TOO_BIG}",
            f"        bytearray(length)\n        {_IS_TOO_BIG}",
            "ends",
        ),
        (
            "code 1002",
            f"{_IS_TOO_BIG}\n            raise Violation(1009)",
            f"{_IS_TOO_BIG}\n            raise Violation(1002)",
            "a Close with 1002",
        ),
        (
            "head without end",
            "if len(head) > 16384:",
            "if end and len(head) > 16384:",
            "sends nothing",
        ),
        ("LIMIT ignored", "serve(*map(int, sys.argv[2:]))", "serve(int(sys.argv[2]))", ""),
    ),
    *_answers(
        12,
        ("blocking sockets", "        sock.setblocking(False)\n", "", "sends nothing"),
        (
            "rest of a write dropped",
            _SEND,
            "self.sock.send(self.unsent); self.unsent.clear()",
            "",
        ),
        ("sendall", _SEND, "self.sock.sendall(self.unsent); self.unsent.clear()", ""),
        (
            "blocking sendall",
            _SEND,
            "self.sock.setblocking(True); self.sock.sendall(self.unsent);"
            " self.sock.setblocking(False); self.unsent.clear()",
            "sends nothing",
        ),
        ("write buffer without end", " if len(self.unsent) < 1 << 20 else 0", "", "reads 64 MiB"),
        ("rest never written", "(EVENT_WRITE if self.unsent else 0)", "0", "have come"),
        (
            "whole header awaited",
            (
                ("        sock.setblocking(False)\n", ""),
                ("self.sock.recv(65536)", "self.sock.recv(14, socket.MSG_WAITALL)"),
            ),
            "sends nothing",
        ),
        (
            "sockets not closed",
            "            self.sock.close()\n",
            "            globals().setdefault('kept', []).append(self.sock)\n",
            "",
        ),
        (
            "one buffer for all",
            (
                ("masked: int = 0x80) -> None:", "masked: int = 0x80, data=bytearray()) -> None:"),
                ("self.data, self.message = bytearray()", "self.data, self.message = data"),
            ),
            "",
        ),
        (
            "a reset ends the program",
            "        except OSError:\n            self.selector",
            "        except (BrokenPipeError, ConnectionAbortedError):\n            self.selector",
            "the ",
        ),
    ),
    *_answers(
        13,
        ("RSV1 not set", "rsv1=0x40 if self.bits else 0", "rsv1=0", "not UTF-8"),
        (
            "tail not removed",
            "flush(zlib.Z_SYNC_FLUSH)[:-4]",
            "flush(zlib.Z_SYNC_FLUSH)",
            "ends with 00 00",
        ),
        (
            "bomb decompressed",
            "decompress(data, limit + 1 - len(result))",
            "decompress(data)",
            "needs",
        ),
        (
            "zlib header",
            "compressobj(wbits=-self.bits)",
            "compressobj(wbits=self.bits)",
            "use wbits=-15",
        ),
        ("window of 8 bits", "range(9, 16)", "range(8, 16)", "the "),
        (
            "context kept",
            "compressor = zlib.compressobj(wbits=-self.bits)",
            "compressor = self.__dict__.setdefault('c', zlib.compressobj(wbits=-self.bits))",
            "not DEFLATE data",
        ),
        (
            "client's window not offered",
            "; client_no_context_takeover;",
            "; client_no_context_takeover; client_max_window_bits=10;",
            "was not offered",
        ),
        (
            "used without an offer",
            'negotiate(headers["sec-websocket-extensions"])',
            'negotiate(["permessage-deflate"])',
            "not offered",
        ),
        (
            "offer never accepted",
            'negotiate(headers["sec-websocket-extensions"])',
            "0",
            "does not accept the offer",
        ),
        (
            "unknown parameter accepted",
            " and valid and not values:",
            " and valid:",
            "invalid offer",
        ),
        (
            "offer without a window declined",
            'values.pop("client_max_window_bits", "")',
            'values.pop("client_max_window_bits", "none")',
            "does not accept the offer",
        ),
        (
            "window ignored",
            "compressobj(wbits=-self.bits)",
            "compressobj(wbits=-15)",
            "a window of more",
        ),
        ("flag with a value", 'flags == ["", ""]', "flags", "accepts the invalid offer"),
        (
            "client's window not checked",
            ' and theirs in ["", "8", *sizes]',
            "",
            "accepts the invalid offer",
        ),
        (
            "other name accepted",
            'name == "permessage-deflate"',
            '"deflate" in name',
            "invalid offer",
        ),
        ("no quotes", ".strip('\"')", "", "does not accept the offer"),
        ("last line of the header", "headers[name.lower()] += [", "headers[name.lower()] = [", ""),
        ("rest of the streams dropped", "data = decompressor.unused_data", "break", ""),
        ("small window", "decompressobj(wbits=-15)", "decompressobj(wbits=-9)", "Close with 1007"),
        ("LIMIT bytes refused", "len(result) > limit:", "len(result) >= limit:", "Close with 1009"),
        ("any window accepted", " and ours in sizes", " and ours.isdigit()", ""),
        (
            "no limit",
            (
                ("decompress(data, limit + 1 - len(result))", "decompress(data)"),
                ("if len(result) > limit:", "if False:"),
            ),
            "expected: a Close with 1009",
        ),
        ("context forgotten", "; client_no_context_takeover;", ";", "Close with 1007"),
        ("RSV1 anywhere", "and opcode in (TEXT, BINARY) else 0", "else 0", "Close with 100"),
        ("invalid data", "except zlib.error:", "except OSError:", ""),
        ("text not checked", "(fin or not self.compressed)", "not self.compressed", "1007"),
        (
            "only the first offer",
            "for offer in offers):",
            "for offer in offers[:1]):",
            "the last one of the offers",
        ),
    ),
)

_HELLO = 'sock.sendall(frame(TEXT, b"Hello", os.urandom(4)))'
_HELLO_CLOSE = 'sock.sendall(frame(CLOSE, b"\\x03\\xe8", os.urandom(4)))'
_REFUSAL = 'sys.exit(f"the server refuses: {status}")'
_RESET = "sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))"

CLIENT_ANSWERS: tuple[WrongAnswer, ...] = tuple(
    _answers(
        14,
        (
            "no mask",
            'frame(TEXT, b"Hello", os.urandom(4))',
            'frame(TEXT, b"Hello")',
            "breaks a rule",
        ),
        ("key of zeros", "os.urandom(4)", "bytes(4)", "masks with 00 00 00 00"),
        ("constant key", "os.urandom(4)", 'b"mask"', "masks two frames with one key"),
        ("Ping not answered", "if event[0] == PING:", "if event[0] == 99:", ""),
        ("Pong without payload", "frame(PONG, event[1]", 'frame(PONG, b""', "without a Pong"),
        ("another text", 'b"Hello"', 'b"hello"', "sends the text 'hello'"),
        ("nothing printed", "            print(event[1].decode())\n", "", "it prints ''"),
        ("code 1001", "(1000)", "(1001)", "closes with 1001"),
        (
            "one read for each frame",
            "        while (event := receiver.next_event()) is None:\n"
            "            receiver.data += sock.recv(4096)",
            "        if (event := receiver.next_event()) is None:\n"
            "            receiver.data += sock.recv(4096)",
            "",
        ),
        (
            "bytes behind the response dropped",
            "response, _, receiver.data[:] = head",
            "response, _, _ = head",
            "without a Pong",
        ),
        (
            "accept key not checked",
            ' or headers.get("sec-websocket-accept") != accept_key(key)',
            "",
            "sends a frame",
        ),
        ("status not checked", 'status.split()[1] != "101" or ', "", "sends a frame"),
        ("invalid request", '"GET {address.path', '"POST {address.path', "the request is invalid"),
        ("key of 3 bytes", "os.urandom(16)", "os.urandom(3)", "the request is invalid"),
        (
            "no connection",
            "with socket.create_connection",
            "sys.exit()\nwith socket.create",
            "without",
        ),
        ("status 3 at the end", "            break\n", "            sys.exit(3)\n", "status 3"),
        ("status 0 after a refusal", _REFUSAL, "sys.exit(0)", "status 0"),
        ("silence", _HELLO, "sock.recv(1)", "sends nothing"),
        ("Close without Hello", _HELLO, _HELLO_CLOSE, "without the text"),
        (
            "Close not awaited",
            "            sock.sendall(frame(CLOSE",
            "            sock.sendall(frame(CLOSE, b'\\x03\\xe8', os.urandom(4))); sys.exit()\n"
            "            sock.sendall(frame(CLOSE",
            "without waiting",
        ),
        (
            "Hello with the request",
            'Sec-WebSocket-Key: {key}\\r\\n\\r\\n".encode()',
            'Sec-WebSocket-Key: {key}\\r\\n\\r\\n".encode() + frame(TEXT, b"Hello", b"mask")',
            "before it has",
        ),
        ("response in one read", 'while b"\\r\\n\\r\\n" not in head:', "if not head:", ""),
        ("answer not printed", "print(event[1].decode())", 'print("Hello")', "Bonjour"),
        ("101 anywhere", 'status.split()[1] != "101"', '"101" not in status', "sends a frame"),
        (
            "accept key anywhere",
            'headers.get("sec-websocket-accept") != accept_key(key)',
            "accept_key(key) not in headers.values()",
            "sends a frame",
        ),
        (
            "names in one case",
            (
                ("{name.lower(): value", "{name: value"),
                ('headers.get("sec-websocket-accept")', 'headers.get("Sec-WebSocket-Accept")'),
            ),
            "",
        ),
        ("request without an end", 'Key: {key}\\r\\n\\r\\n"', 'Key: {key}\\r\\n"', "no empty line"),
        (
            "masked frames accepted",
            (
                ("data[1] & 0x80 != self.masked or ", ""),
                ("(4 if self.masked else 0)", "(4 if data[1] & 0x80 else 0)"),
            ),
            "accepts a masked frame",
        ),
        (
            "masked frame ignored",
            (("raise Violation(1002)", "return None"),),
            "accepts a masked frame",
        ),
        ("key used twice", "os.urandom(16)", "bytes(16)", "key of an earlier request"),
        (
            "bytes after the Close",
            "            sock.sendall(frame(CLOSE",
            "            sock.sendall(frame(CLOSE, b'\\x03\\xe8', os.urandom(4)))\n"
            "            sock.sendall(frame(CLOSE",
            "after its Close",
        ),
        ("no end", "            break\n", "            time.sleep(60)\n", "does not end"),
        (
            "no connection in time",
            "head, receiver =",
            "time.sleep(60); head, receiver =",
            "connect",
        ),
        ("stays after a refusal", _REFUSAL, "time.sleep(60)", "does not end"),
        (
            "no Close",
            "            print(event",
            "            sys.exit(); print(event",
            "without a Close",
        ),
        ("reset after a refusal", _REFUSAL, f"({_RESET}, sys.exit(0))", "status 0"),
        ("reset", _HELLO, f"({_RESET}, sys.exit(0))", "ends the connection"),
    )
)
