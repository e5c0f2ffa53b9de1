"""client.html as text: its messages, codes and limits, compared with chat.v1."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from chatd import history, joins, protocol
from chatd.model import MAX_NAME, MAX_TEXT
from tests.chat import client_fields, serve_chat, server_messages
from tests.support import ROOT, exchange

PAGE = (ROOT / "client.html").read_text()
SCRIPT = PAGE.partition("<script>")[2].partition("</script>")[0]


def sent_messages(script: str) -> list[tuple[str, set[str]]]:
    """Return type and fields of each message that the page sends.

    Raises:
        AssertionError: The argument of a `send()` is not an object literal with a `type`.
    """
    sent = []
    for call in re.findall(r"(?<!function )(?<![\w.])send\((.*)\);?", script):
        literal = re.match(r'\{ type: "(\w+)"((?:, [^,{}]+)*) \}', call)
        assert literal, f"send({call}): the test cannot read the message"
        names = [part.partition(":")[0].strip() for part in literal[2].split(",")[1:]]
        sent.append((literal[1], set(names)))
    return sent


def names_in(pattern: str) -> set[str]:
    """Return the names in a destructuring pattern: `{ id, text }` or `message`."""
    return set(re.findall(r"\w+", pattern)) if pattern.startswith("{") else set()


def read_fields(parameter: str, body: str) -> set[str]:
    """Return the fields of `parameter`, a name or a pattern, that a function reads."""
    if parameter.startswith("{"):
        return names_in(parameter)
    read = set(re.findall(rf"(?<![\w.]){parameter}\.(\w+)", body))
    for pattern in re.findall(rf"const (\{{[^}}]*\}}) = {parameter};", body):
        read |= names_in(pattern)
    return read


def handlers(script: str) -> dict[str, tuple[str, str]]:
    """Return first parameter and body of each function in `messageHandlers`."""
    text = script.partition("const messageHandlers = {\n")[2].partition("\n};\n")[0]
    found = re.findall(r"^  (\w+)\((\{.*?\}|\w+), room\) \{\n(.*?)^  \},", text, re.M | re.S)
    assert len(found) == len(re.findall(r"^  \w+\(", text, re.M))
    return {kind: (parameter, body) for kind, parameter, body in found}


def check_sent(script: str) -> None:
    """Fail unless each message that the page sends is one of chat.v1."""
    known = client_fields()
    sent = sent_messages(script)
    for kind, names in sent:
        assert kind in known, f"the page sends {kind!r}, which is no type of chat.v1"
        assert names <= known[kind], f"{kind}: no field {names - known[kind]}"
    assert {kind for kind, _ in sent} == set(known)


def test_page_sends_only_messages_of_the_protocol() -> None:
    check_sent(SCRIPT)


@pytest.mark.parametrize(
    ("name", "misspelled"),
    [
        ('type: "say"', 'type: "sya"'),
        ('type: "say", room, text, key', 'type: "say", room, txt, key'),
        ('type: "history", room: room.name, before:', 'type: "history", room: room.name, befor:'),
    ],
)
def test_check_of_the_page_with_a_misspelled_name_fails(name: str, misspelled: str) -> None:
    assert SCRIPT.count(name) == 1
    with pytest.raises(AssertionError):
        check_sent(SCRIPT.replace(name, misspelled))


def test_page_handles_the_messages_of_the_server() -> None:
    known = server_messages()
    found = handlers(SCRIPT)
    assert set(found) == set(known) - {"pong"}, "a pong needs no handler"
    for kind, (parameter, body) in found.items():
        read = read_fields(parameter, body)
        assert read <= known[kind], f"{kind}: no field {read - known[kind]}"


def test_page_reads_only_fields_of_a_stored_message() -> None:
    stored = server_messages()["message"] - {"room"} | {"edited", "deleted", "reactions"}
    read = set()
    for function in ("addMessage", "toLogEntry"):
        definition = re.search(
            rf"^function {function}\(room, (\{{.*?\}}|\w+), .*?\) \{{\n(.*?)^\}}",
            SCRIPT,
            re.M | re.S,
        )
        assert definition, function
        read |= read_fields(definition[1], definition[2])
    assert read == stored


def test_page_knows_only_error_codes_of_the_server() -> None:
    source = "".join(path.read_text() for path in (ROOT / "chatd").rglob("*.py"))
    codes = set(re.findall(r'(?:ChatError|Refused|remove)\(\s*(?:target, )?"(\w+)"', source))
    named = set(re.findall(r'\bcode === "(\w+)"', SCRIPT))
    assert named
    assert named <= codes


def test_page_has_the_limits_and_the_name_of_the_protocol() -> None:
    for name, value in {
        "MAX_TEXT": MAX_TEXT,
        "MAX_NAME": MAX_NAME,
        "SESSION_TAKEN_OVER": joins.TAKEN_OVER,
        "NEWEST": history.MAX_NEWEST,
    }.items():
        assert re.search(rf"^const {name} = {value};( //.*)?$", SCRIPT, re.M), name
    assert f'+ basePath, "{protocol.SUBPROTOCOL}")' in SCRIPT
    page_size = re.search(r"^const PAGE_SIZE = (\d+);$", SCRIPT, re.M)
    assert page_size
    assert int(page_size[1]) <= protocol.MAX_HISTORY


class Ids(HTMLParser):
    """Collects the `id` attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_page_script_names_only_existing_elements() -> None:
    parser = Ids()
    parser.feed(PAGE)
    assert len(parser.ids) == len(set(parser.ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT)) <= set(parser.ids)


def test_service_worker_is_the_part_of_the_page_for_it() -> None:
    with serve_chat() as chat:
        request = b"GET /service-worker.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        response = exchange(chat.address, request)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Type: text/javascript" in head
    assert body.decode() in PAGE
    assert body.startswith(b"const PAGE = ")
    assert body.endswith(b"});\n")
