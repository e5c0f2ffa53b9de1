"""A reconnecting client that also edits, deletes and reacts, and goes to any node."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.reconnecting_client import DeliveryError, ReconnectingClient

CHANGES = ("edit", "delete", "react", "topic")


class StormClient(ReconnectingClient):
    """Client in one room.

    `entries` has the type of each received entry by its id, `texts` the current texts of the
    messages. A new entry must have a higher id than all earlier ones.
    """

    def __init__(self, number: int, room: str, random: random.Random) -> None:
        super().__init__(number, room, random)
        self.requests: dict[str, dict[str, object]] = {}  # without acknowledgement, by key
        self.acknowledged_ids: dict[str, int] = {}
        self.entries: dict[int, str] = {}
        self.texts: dict[int, tuple[str, str]] = {}
        self.own: list[int] = []  # ids of own messages
        self.highest = 0
        self.failures = 0
        self.must_reconnect = False
        self.allows_gaps = False

    @property
    def last_id(self) -> int:
        return self.highest

    def request(self) -> None:
        """Send a message, or change an earlier one of this client; `can_say` must be true."""
        key = self.random.randbytes(9).hex()
        kind = self.random.choices(("say", "edit", "react", "delete"), (20, 3, 3, 1))[0]
        fields: dict[str, object] = {"type": kind, "room": self.room, "key": key}
        target = self.random.choice(self.own) if self.own else None
        if kind == "say" or target is None:
            fields |= {"type": "say", "text": f"{self.number} says {self.sent_count}"}
            self.sent_count += 1
        elif kind == "edit":
            fields |= {"ref": target, "text": f"{self.number} edits as {key}"}
        elif kind == "react":
            fields |= {"ref": target, "emoji": "👍", "on": self.random.random() < 0.7}
        else:
            self.own.remove(target)
            fields["ref"] = target
        self.requests[key] = fields
        self.send(**fields)

    def resend(self) -> None:
        self.can_say = True
        for fields in self.requests.values():
            self.send(**fields)

    def handle(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "joined":
            if message["gap"] and not self.allows_gaps:
                raise DeliveryError(f"{self.name} missed messages after {self.last_id}")
            self.session = message["session"]
            missed = [
                *({**each, "type": "message"} for each in message["messages"]),
                *message["changes"],
            ]
            for each in sorted(missed, key=lambda each: int(each["id"])):
                self.receive_entry(each)
            if not self.joined:
                self.joined = True
                self.resend()
        elif kind == "message" or kind in CHANGES:
            self.receive_entry(message)
        elif kind == "error":
            self.handle_error(message)
        elif kind not in ("presence", "renamed"):
            raise DeliveryError(f"{self.name} received {message}")

    def receive_entry(self, entry: dict[str, Any]) -> None:
        number, key = entry["id"], entry.get("key")
        if number > self.highest:
            self.highest = number
            self.entries[number] = entry["type"]
            self.apply(entry)
        elif key is None and not self.allows_gaps:
            raise DeliveryError(f"{self.name} received {entry} after {self.highest}")
        elif number not in self.entries and not self.allows_gaps:
            raise DeliveryError(f"{self.name} received only the acknowledgement of {entry}")
        if key is not None:
            self.requests.pop(key, None)
            if self.acknowledged_ids.setdefault(key, number) != number:
                raise DeliveryError(
                    f"{self.name}: {key} is {self.acknowledged_ids[key]} and {number}"
                )
            if entry["type"] == "message" and number not in self.own:
                self.own.append(number)

    def apply(self, entry: dict[str, Any]) -> None:
        kind, ref = entry["type"], entry.get("ref")
        if kind == "message":
            self.texts[entry["id"]] = (entry["name"], entry["text"])
        elif kind in ("edit", "delete") and ref in self.texts:
            if kind == "edit" and not self.texts[ref][1]:
                return  # deleted since
            self.texts[ref] = (self.texts[ref][0], entry.get("text", ""))

    def handle_error(self, error: dict[str, Any]) -> None:
        code = error["code"]
        if code == "name_taken":
            self.renamed_count += 1
            self.name = f"client {self.number}, {self.renamed_count}"
            self.session = None
            self.send(type="join", room=self.room, name=self.name, after=self.last_id)
        elif code == "log_failed":
            self.failures += 1
            self.must_reconnect = True
        elif code in ("forbidden", "not_found") and "key" in error:
            # A new session after a lost one is another author; or the message is deleted.
            self.requests.pop(error["key"], None)
        elif code != "not_joined":
            raise DeliveryError(f"{self.name} received {error}")


def parse(text: str) -> dict[str, Any]:
    message = json.loads(text)
    assert isinstance(message, dict)
    return message
