"""A short solution of the first steps: blocking sockets, one connection after another."""

import base64
import hashlib
import socket
import sys

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def respond(request: str) -> str:
    lines = request.split("\r\n")[1:]
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        headers[name.lower()] = headers.get(name.lower(), "") + value.strip()
    if headers.get("sec-websocket-version") != "13":
        return "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n\r\n"
    upgrade, connection = headers.get("upgrade", ""), headers.get("connection", "")
    if not request.startswith("GET ") or "host" not in headers:
        return "HTTP/1.1 400 Bad Request\r\n\r\n"
    tokens = connection.lower().replace("keep-alive", "").split(",")
    if upgrade.lower() != "websocket" or "upgrade" not in [token.strip() for token in tokens]:
        return "HTTP/1.1 400 Bad Request\r\n\r\n"
    if "sec-websocket-key" not in headers:
        return "HTTP/1.1 400 Bad Request\r\n\r\n"
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(headers['sec-websocket-key'])}\r\n\r\n"
    )


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            with listener.accept()[0] as sock:
                response = respond(sock.recv(65536).decode())
                sock.sendall(response.encode())
                while " 101 " in response and (data := sock.recv(65536)):
                    length, start = data[1] & 0x7F, 2
                    if length > 125:
                        start = 4 if length == 126 else 10
                        length = int.from_bytes(data[2:start], "big")
                    while len(data) < start + 4 + length:
                        data += sock.recv(65536)
                    key = data[start : start + 4]
                    payload = bytes(b ^ key[i % 4] for i, b in enumerate(data[start + 4 :]))
                    sock.sendall(bytes([data[0], data[1] & 0x7F]) + data[2:start] + payload)


if __name__ == "__main__":
    if sys.argv[1] == "accept":
        print(accept_key(sys.argv[2]))
    else:
        serve(int(sys.argv[2]))
