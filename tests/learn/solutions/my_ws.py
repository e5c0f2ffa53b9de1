"""Solution of `python3 -m wsproto_min learn`: `accept KEY` and `serve PORT [LIMIT]`."""

import base64
import codecs
import hashlib
import re
import socket
import sys
import zlib
from collections import defaultdict
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector

KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = OPCODES = (0, 1, 2, 8, 9, 10)
TAIL = b"\x00\x00\xff\xff"


class Violation(Exception):
    """A broken rule; the argument is the close code."""


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def respond(head: str) -> tuple[str, int]:
    """Return the response, and the window bits of our compressor or 0."""
    line, *fields = head.split("\r\n")
    headers: dict[str, list[str]] = defaultdict(list)
    for name, _, value in (field.partition(":") for field in fields):
        headers[name.lower()] += [item.strip() for item in value.split(",")]
    if headers["sec-websocket-version"] != ["13"]:
        return "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n\r\n", 0
    asks = {item.lower() for item in headers["upgrade"] + headers["connection"]}
    key = "".join(headers["sec-websocket-key"])
    valid = line.startswith("GET ") and headers["host"] and KEY.fullmatch(key)
    if not valid or {"websocket", "upgrade"} - asks:
        return "HTTP/1.1 400 Bad Request\r\n\r\n", 0
    bits = negotiate(headers["sec-websocket-extensions"])
    response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    response += f"Sec-WebSocket-Accept: {accept_key(key)}\r\n"
    if bits:
        response += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
        response += f"; client_no_context_takeover; server_max_window_bits={bits}\r\n"
    return response + "\r\n", bits


def negotiate(offers: list[str]) -> int:
    """Return the window bits of the first offer that this server can accept, or 0."""
    sizes = [str(size) for size in range(9, 16)]
    for name, *parameters in ([part.strip() for part in offer.split(";")] for offer in offers):
        pairs = [parameter.partition("=") for parameter in parameters]
        values = {key: value.strip('"') for key, _, value in pairs}
        flags = [values.pop(f"{side}_no_context_takeover", "") for side in ("server", "client")]
        theirs = values.pop("client_max_window_bits", "")
        ours = values.pop("server_max_window_bits", "15")
        valid = flags == ["", ""] and theirs in ["", "8", *sizes] and ours in sizes
        valid = valid and len({name for name, *_ in pairs}) == len(pairs)
        if name == "permessage-deflate" and valid and not values:
            return int(ours)
    return 0


def inflate(data: bytes, limit: int) -> bytes:
    """Return a decompressed message. A stream may end within it, and another one follows."""
    result, data = b"", data + TAIL
    while data:
        decompressor = zlib.decompressobj(wbits=-15)
        try:
            result += decompressor.decompress(data, limit + 1 - len(result))
        except zlib.error:
            raise Violation(1007) from None
        if len(result) > limit:
            raise Violation(1009)
        data = decompressor.unused_data
    return result


def xor(data: bytes, key: bytes) -> bytes:
    keys = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(data), "big")


def frame(opcode: int, payload: bytes, key: bytes = b"", rsv1: int = 0) -> bytes:
    size = len(payload)
    form, more = (size, 0) if size < 126 else (126, 2) if size < 65536 else (127, 8)
    header = bytes([0x80 | rsv1 | opcode, (0x80 if key else 0) | form])
    header += size.to_bytes(more, "big") if more else b""
    return header + key + (xor(payload, key) if key else payload)


class Receiver:
    def __init__(self, limit: int, masked: int = 0x80) -> None:
        self.limit, self.masked = limit, masked
        self.data, self.message = bytearray(), bytearray()
        self.deflate, self.opcode, self.compressed, self.fragments = False, 0, 0, 0
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def next_frame(self) -> tuple[int, int, int, bytes] | None:
        """Return FIN, RSV1, opcode and payload of the next frame, or None."""
        data = self.data
        if len(data) < 2:
            return None
        fin, rsv, opcode = data[0] & 0x80, data[0] & 0x70, data[0] & 0x0F
        length, start, least = data[1] & 0x7F, 2, 0
        allowed = 0x40 if self.deflate and opcode in (TEXT, BINARY) else 0
        if data[1] & 0x80 != self.masked or opcode not in OPCODES or rsv & ~allowed:
            raise Violation(1002)
        if opcode >= CLOSE and (not fin or length > 125):
            raise Violation(1002)
        if opcode < CLOSE and (opcode == CONTINUATION) == (self.opcode == 0):
            raise Violation(1002)
        if length > 125:
            start, least = (4, 126) if length == 126 else (10, 65536)
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        if length < least or length >= 1 << 63:
            raise Violation(1002)
        if opcode < CLOSE and len(self.message) + length > self.limit:
            raise Violation(1009)
        key_end = start + (4 if self.masked else 0)
        if len(data) < key_end + length:
            return None
        payload = xor(bytes(data[key_end : key_end + length]), bytes(data[start:key_end]))
        del data[: key_end + length]
        return fin, rsv, opcode, payload

    def next_event(self) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next message or control frame, or None."""
        while found := self.next_frame():
            fin, rsv1, opcode, payload = found
            if opcode == CLOSE:
                check_close(payload)
            if opcode >= CLOSE:
                return opcode, payload
            if opcode != CONTINUATION:
                self.opcode, self.compressed, self.fragments = opcode, rsv1, 0
            self.fragments += 1
            if self.fragments > max(128, self.limit // 64):
                raise Violation(1008)
            self.message += payload
            if fin and self.compressed:
                payload = inflate(bytes(self.message), self.limit)
                self.message[:] = payload
            if self.opcode == TEXT and (fin or not self.compressed):
                check_text(self.decoder, payload, fin)
            if fin:
                event = self.opcode, bytes(self.message)
                self.opcode = 0
                self.message.clear()
                return event
        return None


def check_text(decoder: codecs.IncrementalDecoder, payload: bytes, fin: int) -> None:
    try:
        decoder.decode(payload, final=bool(fin))
    except UnicodeDecodeError:
        raise Violation(1007) from None


def check_close(payload: bytes) -> None:
    code = int.from_bytes(payload[:2], "big")
    registered = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if payload and (len(payload) < 2 or not (registered or 3000 <= code <= 4999)):
        raise Violation(1002)
    check_text(codecs.getincrementaldecoder("utf-8")(), payload[2:], 1)


class Peer:
    def __init__(self, sock: socket.socket, selector: BaseSelector, limit: int) -> None:
        sock.setblocking(False)
        selector.register(sock, EVENT_READ, self)
        self.sock, self.selector = sock, selector
        self.head, self.unsent = bytearray(), bytearray()
        self.opened, self.ending, self.bits = False, False, 0
        self.receiver = Receiver(limit)

    def on_ready(self, events: int) -> None:
        try:
            if events & EVENT_READ:
                self.receive(self.sock.recv(65536))
            del self.unsent[: self.sock.send(self.unsent)]
            if self.ending and not self.unsent:
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.selector.unregister(self.sock)
            self.sock.close()
            return
        # Do not read a peer that does not read, so that the replies need little memory.
        reads = EVENT_READ if len(self.unsent) < 1 << 20 else 0
        self.selector.modify(self.sock, reads | (EVENT_WRITE if self.unsent else 0), self)

    def receive(self, data: bytes) -> None:
        if not data:
            raise ConnectionError
        if not self.opened and not self.ending:
            self.head += data
            head, end, data = bytes(self.head).partition(b"\r\n\r\n")
            if len(head) > 16384:
                self.unsent += b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n"
                self.ending = True
            elif end:
                response, self.bits = respond(head.decode("latin-1"))
                self.unsent += response.encode()
                self.opened, self.ending = True, " 101 " not in response
                self.receiver.deflate = self.bits > 0
        if self.opened and not self.ending:
            self.receiver.data += data
            try:
                while not self.ending and (event := self.receiver.next_event()):
                    self.reply(*event)
            except Violation as violation:
                self.unsent += frame(CLOSE, violation.args[0].to_bytes(2, "big"))
                self.ending = True

    def reply(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.unsent += frame(CLOSE, payload[:2])
            self.ending = True
        elif opcode == PING:
            self.unsent += frame(PONG, payload)
        elif opcode != PONG:
            if self.bits:
                compressor = zlib.compressobj(wbits=-self.bits)
                payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
            self.unsent += frame(opcode, payload, rsv1=0x40 if self.bits else 0)


def serve(port: int, limit: int = 1 << 20) -> None:
    selector = DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    selector.register(listener, EVENT_READ)
    while True:
        for key, events in selector.select():
            if key.data is None:
                Peer(listener.accept()[0], selector, limit)
            else:
                key.data.on_ready(events)


if __name__ == "__main__":
    if sys.argv[1] == "accept":
        print(accept_key(sys.argv[2]))
    else:
        serve(*map(int, sys.argv[2:]))
