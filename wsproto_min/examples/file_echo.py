"""File echo: the server stores a message of any size in a file, then sends the file back.

Neither side keeps more than a few chunks in memory. Start the server, and send it a file:

    python3 -m wsproto_min.examples.file_echo
    python3 -m wsproto_min.examples.file_echo ws://127.0.0.1:9001/ FILE COPY
"""

import sys
import tempfile
from contextlib import suppress

from wsproto_min import MessageChunk, OutgoingStream, Peer, Server, connect

CHUNK_SIZE = 1 << 16


class Transfer:
    """One file, first received and then sent."""

    def __init__(self, peer: Peer) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (on_close closes the file)
        self._peer = peer
        self._stream: OutgoingStream | None = None
        peer.receive_chunks(max_message_size=None)

    def receive(self, chunk: MessageChunk) -> None:
        """Store a chunk; send the file once it is complete."""
        data = chunk.data
        self._file.write(data if isinstance(data, bytes) else data.encode())
        if chunk.message_finished:
            self._file.seek(0)
            self._stream = self._peer.send_stream()
            self.send()

    def send(self) -> None:
        """Send chunks until the write buffer is full, or the file ends."""
        if self._stream is None or not self._stream.is_open:
            return
        while data := self._file.read(CHUNK_SIZE):
            if not self._stream.send(data):
                return  # `on_drained` continues
        self._stream.finish()
        self._file.seek(0)
        self._file.truncate()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def serve(port: int) -> None:
    """Run the server."""

    def on_open(peer: Peer) -> None:
        peer.user_data = Transfer(peer)

    server = Server(
        on_open=on_open,
        on_chunk=lambda peer, chunk: peer.user_data.receive(chunk),
        on_drained=lambda peer: peer.user_data.send(),
        on_close=lambda peer: peer.user_data.close(),
        on_message=lambda peer, message: None,  # each peer receives chunks
    )
    host, port = server.listen("127.0.0.1", port)
    print(f"file echo: ws://{host}:{port}/", flush=True)
    server.run()


def send_and_receive(url: str, source: str, target: str) -> None:
    """Send a file, and store the file that comes back."""
    with (
        open(source, "rb") as file,
        open(target, "wb") as copy,
        connect(url, max_message_size=None) as client,
    ):
        client.send(iter(lambda: file.read(CHUNK_SIZE), b""))
        for chunk in client.recv_streaming():
            assert isinstance(chunk, bytes)
            copy.write(chunk)


def main() -> None:
    """Serve on the port of the argument (default: 9001), or send a file to a URL."""
    if len(sys.argv) > 2:
        send_and_receive(*sys.argv[1:4])
    else:
        with suppress(KeyboardInterrupt):
            serve(int(sys.argv[1]) if sys.argv[1:] else 9001)


if __name__ == "__main__":
    main()
