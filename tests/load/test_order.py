"""All readers see one and the same order, whoever speaks, comes and goes meanwhile."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.load.support import chatd, figure
from tests.support import PATIENCE, Address, poll
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.net.client import connect

SENDERS = 8
READERS = 64
MESSAGES = 200  # of each sender
GUESTS = 4  # who come and go at any time


class Reader:
    """Hears a room; `heard` are the texts in their order."""

    def __init__(self, address: Address, name: str, *, chat: bool, compression: bool) -> None:
        url = f"ws://{address[0]}:{address[1]}/"
        self.client = connect(
            url,
            subprotocols=("chat.v1",) if chat else (),
            compression=DeflateParameters.DEFAULT if compression else None,
        )
        self.chat = chat
        self.heard: list[str] = []
        if chat:
            self.client.send(json.dumps({"type": "join", "room": "lobby", "name": name}))
            while json.loads(self.client.recv(PATIENCE))["type"] != "joined":
                pass

    def say(self, text: str) -> None:
        if self.chat:
            text = json.dumps({"type": "say", "room": "lobby", "text": text, "key": text[:20]})
        self.client.send(text)

    def hear(self) -> None:
        """Take what has come."""
        with suppress(TimeoutError):
            while True:
                message = str(self.client.recv(0))
                if self.chat:
                    told = json.loads(message)
                    if told["type"] == "message":
                        self.heard.append(told["text"])
                else:
                    self.heard.append(message)

    def leave(self) -> None:
        self.client.close()
        with suppress(ConnectionClosed):
            self.hear()


@pytest.mark.parametrize("compression", [False, True], ids=["plain frames", "half compressed"])
@pytest.mark.parametrize("chat", [False, True], ids=["plain mode", "chat mode"])
def test_all_readers_see_one_order_while_others_come_and_go(
    tmp_path: Path, chat: bool, compression: bool
) -> None:
    with chatd(tmp_path) as running, ExitStack() as stack:

        def enter(name: str, number: int) -> Reader:
            reader = Reader(
                running.address, name, chat=chat, compression=compression and number % 2 == 0
            )
            stack.callback(reader.client.close)
            return reader

        senders = [enter(f"sender {number}", number) for number in range(SENDERS)]
        readers = [enter(f"reader {number}", number) for number in range(READERS)]
        guests: list[Reader] = []
        gone: list[Reader] = []
        begin = time.perf_counter()
        for number in range(MESSAGES):
            for index, sender in enumerate(senders):
                # Every other one is long enough to be compressed.
                sender.say(f"{index}.{number} ".ljust(20 + 400 * (number % 2), "x"))
            guests.append(enter(f"guest {number}", number))
            if len(guests) > GUESTS:
                gone.append(guests.pop(0))
                gone[-1].leave()
            for each in (*readers[number % 4 :: 4], *senders, *guests):
                each.hear()
        total = SENDERS * MESSAGES
        poll(lambda: have_heard(total, readers), "every reader hears everything")
        seconds = time.perf_counter() - begin
    order = readers[0].heard
    assert len(order) == total
    for index in range(SENDERS):
        numbers = [text.split()[0] for text in order if text.startswith(f"{index}.")]
        assert numbers == [f"{index}.{number}" for number in range(MESSAGES)]
    for reader in readers:
        assert reader.heard == order
    for guest in gone:
        first = order.index(guest.heard[0]) if guest.heard else 0
        assert guest.heard == order[first : first + len(guest.heard)]
    for index, sender in enumerate(senders):
        own = f"{index}."
        heard = order if chat else [text for text in order if not text.startswith(own)]
        assert sender.heard == heard[: len(sender.heard)]
    figure(
        f"{READERS} readers, {SENDERS} senders, {len(gone)} who came and went",
        f"one order of {total} messages in {seconds:.1f} s",
    )


def have_heard(number: int, readers: list[Reader]) -> bool:
    """Let each hear what has come; return whether all have heard so many."""
    for reader in readers:
        reader.hear()
    return all(len(reader.heard) >= number for reader in readers)
