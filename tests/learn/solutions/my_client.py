"""Solution of the step about the client: `connect URL`."""

from __future__ import annotations

import base64
import os
import socket
import sys
from urllib.parse import urlsplit

from my_ws import CLOSE, PING, PONG, TEXT, Receiver, accept_key, frame  # type: ignore[import-not-found]

address = urlsplit(sys.argv[2])
key = base64.b64encode(os.urandom(16)).decode()
head, receiver = b"", Receiver(1 << 20, masked=0)
with socket.create_connection((address.hostname or "", address.port or 80)) as sock:
    request = f"GET {address.path or '/'} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    request += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    sock.sendall(f"{request}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096) or sys.exit("the server ends the stream within its response")
    response, _, receiver.data[:] = head.partition(b"\r\n\r\n")
    status, *fields = response.decode("latin-1").split("\r\n")
    pairs = (field.partition(":") for field in fields)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if status.split()[1] != "101" or headers.get("sec-websocket-accept") != accept_key(key):
        sys.exit(f"the server refuses: {status}")
    sock.sendall(frame(TEXT, b"Hello", os.urandom(4)))
    while True:
        while (event := receiver.next_event()) is None:
            receiver.data += sock.recv(4096) or sys.exit("the server ends without a Close")
        if event[0] == CLOSE:
            break
        if event[0] == PING:
            sock.sendall(frame(PONG, event[1], os.urandom(4)))
        elif event[0] != PONG:
            print(event[1].decode())
            sock.sendall(frame(CLOSE, (1000).to_bytes(2, "big"), os.urandom(4)))
