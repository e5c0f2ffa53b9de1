"""The floor of Python: a chat room on bare selectors, without checks or buffers.

It reads well-formed frames of under 126 bytes, in any chunks, and writes once per loop
iteration and peer. No Python server can cost much less.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

from wsproto_min.handshake import accept_key


def main() -> None:
    """Serve one room until the process is ended."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(listener, selectors.EVENT_READ)
    print(f"probe is ready: ws://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    room: dict[socket.socket, bytes] = {}  # each peer and its incomplete frame
    while True:
        received: dict[socket.socket, list[bytes]] = {}
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                sock, _ = listener.accept()
                selector.register(sock, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                selector.unregister(sock)
                room.pop(sock, None)
                sock.close()
            elif sock in room:
                received[sock] = _parse(room, sock, room[sock] + data)
            else:
                _open(sock, data)
                room[sock] = b""
        everything = b"".join([frame for frames in received.values() for frame in frames])
        for sock in room if everything else ():
            data = everything
            if sock in received:
                others = (frames for other, frames in received.items() if other is not sock)
                data = b"".join([frame for frames in others for frame in frames])
            with suppress(OSError):  # the next iteration reads the end of this peer
                sock.sendall(data)  # blocks, where a server would buffer the rest


def _open(sock: socket.socket, data: bytes) -> None:
    lines = data.decode().split("\r\n")
    key = next(line.split(": ")[1] for line in lines if line.startswith("Sec-WebSocket-Key"))
    sock.sendall(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
    )


def _parse(room: dict[socket.socket, bytes], sock: socket.socket, data: bytes) -> list[bytes]:
    """Return the complete frames, unmasked; keep an incomplete one."""
    frames, at = [], 0
    while at + 6 <= len(data) and at + 6 + (length := data[at + 1] & 127) <= len(data):
        words = -(-length // 4)
        mask = int.from_bytes(data[at + 2 : at + 6] * words, "little")
        end = at + 6 + length
        payload = int.from_bytes(data[at + 6 : end], "little") ^ mask
        frames.append(
            data[at : at + 1] + bytes((length,)) + payload.to_bytes(4 * words, "little")[:length]
        )
        at = end
    room[sock] = data[at:]
    return frames


if __name__ == "__main__":
    main()
