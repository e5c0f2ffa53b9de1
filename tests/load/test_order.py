"""All readers receive the same order of messages while other peers connect and close."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.load.support import chatd, print_figure
from tests.support import PATIENCE, Address, poll
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.net.client import connect

SENDERS = 8
READERS = 64
MESSAGES = 200  # per sender
GUESTS = 4  # peers that connect and close during the test, at any moment


class Reader:
    """A client in one room; `texts` has the received texts in their order."""

    def __init__(self, address: Address, name: str, *, chat: bool, compression: bool) -> None:
        url = f"ws://{address[0]}:{address[1]}/"
        self.client = connect(
            url,
            subprotocols=("chat.v1",) if chat else (),
            compression=DeflateParameters.DEFAULT if compression else None,
        )
        self.chat = chat
        self.texts: list[str] = []
        if chat:
            self.client.send(json.dumps({"type": "join", "room": "lobby", "name": name}))
            while json.loads(self.client.recv(PATIENCE))["type"] != "joined":
                pass

    def say(self, text: str) -> None:
        if self.chat:
            text = json.dumps({"type": "say", "room": "lobby", "text": text, "key": text[:20]})
        self.client.send(text)

    def receive(self) -> None:
        """Receive every message that has arrived."""
        with suppress(TimeoutError):
            while True:
                message = str(self.client.recv(0))
                if self.chat:
                    fields = json.loads(message)
                    if fields["type"] == "message":
                        self.texts.append(fields["text"])
                else:
                    self.texts.append(message)

    def close(self) -> None:
        self.client.close()
        with suppress(ConnectionClosed):
            self.receive()


@pytest.mark.parametrize("compression", [False, True], ids=["plain frames", "half compressed"])
@pytest.mark.parametrize("chat", [False, True], ids=["plain mode", "chat mode"])
def test_readers_see_one_order_while_others_connect_and_close(
    tmp_path: Path, chat: bool, compression: bool
) -> None:
    with chatd(tmp_path) as running, ExitStack() as stack:

        def enter(name: str, number: int) -> Reader:
            compressed = compression and number % 2 == 0
            reader = Reader(running.address, name, chat=chat, compression=compressed)
            stack.callback(reader.client.close)
            return reader

        senders = [enter(f"sender {number}", number) for number in range(SENDERS)]
        readers = [enter(f"reader {number}", number) for number in range(READERS)]
        guests: list[Reader] = []
        closed_guests: list[Reader] = []
        start = time.perf_counter()
        for number in range(MESSAGES):
            for index, sender in enumerate(senders):
                # Every second message is long enough for compression.
                sender.say(f"{index}.{number} ".ljust(20 + 400 * (number % 2), "x"))
            guests.append(enter(f"guest {number}", number))
            if len(guests) > GUESTS:
                closed_guests.append(guests.pop(0))
                closed_guests[-1].close()
            for each in (*readers[number % 4 :: 4], *senders, *guests):
                each.receive()
        total = SENDERS * MESSAGES
        poll(lambda: have_received(total, readers), "every reader has every message")
        seconds = time.perf_counter() - start
    order = readers[0].texts
    assert len(order) == total
    for index in range(SENDERS):
        numbers = [text.split()[0] for text in order if text.startswith(f"{index}.")]
        assert numbers == [f"{index}.{number}" for number in range(MESSAGES)]
    for reader in readers:
        assert reader.texts == order
    for guest in closed_guests:
        first = order.index(guest.texts[0]) if guest.texts else 0
        assert guest.texts == order[first : first + len(guest.texts)]
    for index, sender in enumerate(senders):
        own = f"{index}."
        expected = order if chat else [text for text in order if not text.startswith(own)]
        assert sender.texts == expected[: len(sender.texts)]
    print_figure(
        f"{READERS} readers, {SENDERS} senders, {len(closed_guests)} short connections",
        f"one order of {total} messages in {seconds:.1f} s",
    )


def have_received(number: int, readers: list[Reader]) -> bool:
    """Let each reader receive; return whether all have `number` messages."""
    for reader in readers:
        reader.receive()
    return all(len(reader.texts) >= number for reader in readers)
