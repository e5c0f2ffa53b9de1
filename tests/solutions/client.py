"""Solution of the exercises with a client: `client.py URL` sends Hello and answers Pings."""

import base64
import os
import socket
import sys
from urllib.parse import urlsplit

from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.frames import FrameDecoder, encode_frame
from wsproto_min.http_reader import HeadReader

url = urlsplit(sys.argv[1])
key = base64.b64encode(os.urandom(16)).decode()
head, decoder, message = HeadReader(), FrameDecoder(masked=False), b""

with socket.create_connection((url.hostname or "", url.port or 80), 10) as sock:
    sock.sendall(upgrade_request(url.netloc, url.path, key))
    while head.next_head() is None:
        head.receive_data(sock.recv(4096))
    decoder.receive_data(head.trailing_data)
    sock.sendall(encode_frame(Opcode.TEXT, b"Hello", mask=os.urandom(4)))
    while True:
        while (frame := decoder.next_frame()) is None:
            decoder.receive_data(sock.recv(4096))
        if frame.opcode is Opcode.CLOSE:
            break
        if frame.opcode is Opcode.PING:
            sock.sendall(encode_frame(Opcode.PONG, frame.payload, mask=os.urandom(4)))
        if not frame.opcode.is_control:
            message += frame.payload
            if frame.fin and not frame.remaining:
                print(message.decode())
                sock.sendall(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=os.urandom(4)))
