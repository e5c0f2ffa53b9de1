"""Tables of the READMEs and of .github, compared with the code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import pydoc
import re
import shlex
from collections import defaultdict
from http import HTTPStatus
from typing import Any

import pytest

import chatd
import wsproto_min
from chatd import protocol
from chatd.access.costs import CONNECTIONS_PER_ADDRESS
from chatd.joins import TAKEN_OVER
from chatd.model import Message, direct_authors, name_author, session_author
from chatd.options import parse_arguments
from tests.benchmarks.__main__ import TABLES
from tests.chat import client_fields, serve_chat, server_messages
from tests.documents import (
    CHANGELOG,
    DOCUMENTS,
    LEARN,
    MODULES,
    RUN,
    TEST,
    code_in,
    constant,
    default_of,
    exists,
    section,
    table,
)
from tests.support import ROOT
from tests.test_threats import ADVISORIES
from wsproto_min import CloseCode, Peer, Server, accept, connect, deflate, messages, reconnect
from wsproto_min.__main__ import main
from wsproto_min.codes import NEVER_SENT
from wsproto_min.learn.path import STEPS
from wsproto_min.quiz.levels import LEVELS
from wsproto_min.rules import RULES

# Tables of wsproto_min


def test_api_tables_have_all_public_names() -> None:
    api = section(LEARN, "## API")
    assert set(wsproto_min.__all__) <= set(code_in(api))
    for module, names in re.findall(r"^\| `(wsproto_min\.\w+)` \| (.*) \|$", api, re.MULTILINE):
        for name in code_in(names):
            found = f"{module}.{name}"
            assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(found)


def test_api_tables_have_callbacks_and_peer_attributes() -> None:
    api = section(LEARN, "## API")
    callbacks = {name.partition("(")[0] for name in code_in(api) if name.startswith("on_")}
    assert callbacks == {name for name in inspect.signature(Server).parameters if name[:3] == "on_"}
    rows = api.partition("Attributes and methods of `Peer`:")[2]
    named = {
        name.partition("(")[0]
        for name in re.findall(r"^\| (.*?) \|", rows, re.MULTILINE)
        for name in code_in(name)
    }
    assert named == {name for name in dir(Peer) if not name.startswith("_")}


def parameters(call: str) -> dict[str, Any]:
    """Return the parameters of a call in a README and the defaults that it shows."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    positional = {ast.unparse(each): inspect.Parameter.empty for each in node.args}
    return positional | {
        each.arg: ast.literal_eval(each.value) for each in node.keywords if each.arg
    }


def test_api_tables_have_the_signatures_of_peer() -> None:
    rows = section(LEARN, "## API").partition("Attributes and methods of `Peer`:")[2]
    calls = re.findall(r"`((\w+)\([^`]*\))`", rows.partition("\n## ")[0])
    assert len(calls) > 8
    for call, name in calls:
        _, *expected = inspect.signature(getattr(Peer, name)).parameters.values()
        shown = parameters(call)
        assert list(shown) == [each.name for each in expected], name
        for each in expected:
            assert shown[each.name] in (inspect.Parameter.empty, each.default), call


def test_api_tables_have_the_parameters_of_callbacks() -> None:
    callbacks = re.findall(r"^\| `(on_\w+)(\(.*?\))` \|", section(LEARN, "## API"), re.MULTILINE)
    assert len(callbacks) == 10
    for name, arguments in callbacks:
        annotation = inspect.signature(Server).parameters[name].annotation
        types = re.match(r"Callable\[\[(.*?)\], ", annotation)
        assert types, name
        expected = len([each for each in types[1].split(",") if each])
        assert len(parameters(name + arguments)) == expected, name


def test_pydoc_shows_all_public_names_with_their_text() -> None:
    text = pydoc.plain(pydoc.render_doc(wsproto_min))
    for name in wsproto_min.__all__:
        value = getattr(wsproto_min, name)
        heading = rf"^    (class )?{name}(\(| =)"
        assert re.search(heading, text, re.MULTILINE), f"pydoc does not show {name}"
        if inspect.isclass(value) or inspect.isfunction(value):
            first_line = (value.__doc__ or "").partition("\n")[0]
            assert first_line, f"{name} has no docstring"
            assert first_line in text, name


def test_public_classes_and_functions_have_docstrings() -> None:
    owners = [wsproto_min, *(module for module in MODULES if "wsproto_min" in module.__name__)]
    checked = 0
    for owner in owners:
        for name, value in public_members(owner):
            assert inspect.getdoc(value), f"{owner.__name__}.{name} has no docstring"
            for method, function in public_members(value) if inspect.isclass(value) else ():
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"
                checked += 1
    assert checked > 100


def public_members(owner: Any) -> list[tuple[str, Any]]:
    """Return the classes, functions and properties of a module or class that it defines."""
    home = owner.__module__ if inspect.isclass(owner) else owner.__name__
    return [
        (name, value)
        for name, value in vars(owner).items()
        if not name.startswith("_")
        and (
            isinstance(value, property)
            or ((inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == home)
        )
    ]


@pytest.mark.parametrize("peer", ["coming from websockets", "coming from ws"])
def test_porting_table_names_exist(peer: str) -> None:
    arguments = {
        name
        for function in (connect, reconnect, Server, accept)
        for name in inspect.signature(function).parameters
    }
    plain = {"with", "str", "bytes", "code", "rule", "status", "ValueError"}
    rows = table(LEARN, peer)
    assert len(rows) > 15
    for _, here in rows:
        names = [
            re.sub(r"\(.*\)$", "", code).removeprefix("for client in ") for code in code_in(here)
        ]
        assert names, here
        for name in names:
            assert name in arguments | plain or exists(name), name


def test_comparison_table_is_complete() -> None:
    rows = table(LEARN, "comparison")
    assert {len(row) for row in rows} == {12}  # ten libraries, this one, and the row's name
    for name, ours, *theirs in rows:
        assert name, ours
        assert ours not in ("", "?", "-"), name
        assert all(theirs), name


def test_reading_order_has_all_modules() -> None:
    text = section(LEARN, "## Read the code")
    named = set(code_in(text))
    for package in ("wsproto_min", "wsproto_min.net"):
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not info.ispkg and info.name != "__main__":
                assert {info.name, f"net/{info.name}"} & named, info.name


def test_examples_table_has_all_examples() -> None:
    named = re.findall(r"^\| \[`(\w+)`\]\(examples/\1\.py\)", DOCUMENTS[LEARN], re.MULTILINE)
    programs = {path.stem for path in (ROOT / "wsproto_min/examples").glob("[a-z]*.py")}
    assert set(named) == programs
    assert len(named) == 7


def test_steps_table_matches_the_path() -> None:
    shown = [(number, title) for number, title, _ in table(LEARN, "steps")]
    assert shown == [(str(number), step.title) for number, step in enumerate(STEPS, 1)]


def test_quiz_levels_table_matches_the_levels() -> None:
    assert table(LEARN, "quiz levels") == [[str(number), text] for number, text in LEVELS.items()]


def test_explain_section_has_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    options = set(re.findall(r"^  (--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    named = re.findall(r"--[a-z][a-z0-9-]+", section(LEARN, "## explain"))
    assert options == set(named)


@pytest.mark.parametrize("command", ["connect", "tap"])
def test_options_table_has_all_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    rows = table(LEARN, f"{command} options")
    shown = [code_in(option)[0].split()[0] for option, _ in rows]
    assert sorted(shown) == sorted(options)


def test_limits_of_wsproto_min_match_the_code() -> None:
    defaults = {
        "max_message_size": f"{default_of('max_message_size'):,} bytes",
        "max_fragments": f"one for each {messages.BYTES_PER_FRAGMENT} bytes of `max_message_size`, "
        f"at least {messages.MIN_FRAGMENTS}",
        "compression_threshold": f"{deflate.DEFAULT_COMPRESSION_THRESHOLD} bytes",
        "write_buffer_limit": f"{default_of('write_buffer_limit'):,} bytes",
        "total_write_buffer_limit": f"{default_of('total_write_buffer_limit'):,} bytes",
    }
    for name in ("write_high_mark", "write_low_mark"):
        defaults[name] = f"{default_of(name):,} bytes"
    unfinished = default_of("total_unfinished_limit")
    defaults["total_unfinished_limit"] = f"{unfinished:,} bytes"
    defaults["max_pending_handshakes"] = f"{default_of('max_pending_handshakes'):,} "
    defaults["max_connection_age"] = f"{default_of('max_connection_age')};"
    defaults["max_body_size"] = f"{default_of('max_body_size'):,} bytes"
    defaults["write_timeout"] = f"{default_of('write_timeout'):g} s"
    rate = default_of("control_rate_limit")
    defaults["control_rate_limit"] = f"{rate:g} control frames per second, and {2 * rate:g} at once"
    of_client = {name: each.default for name, each in inspect.signature(connect).parameters.items()}
    defaults["read_buffer_limit"] = f"{of_client['read_buffer_limit']:,} bytes"
    defaults["max_redirects"] = f"{of_client['max_redirects']} "
    for name in ("open_timeout", "close_timeout", "ping_interval", "ping_timeout"):
        defaults[name] = f"{default_of(name):g} s"
        assert of_client[name] == default_of(name), name
    for name in ("MAX_CONTROL_PAYLOAD", "MAX_HEAD_SIZE", "MAX_DECODED_CHUNK"):
        defaults[name] = f"{constant(wsproto_min, name):,} bytes"
    counts = "MAX_FINAL_BLOCKS", "MAX_HEADERS", "MAX_INTERIM_RESPONSES", "ACCEPTS_PER_ITERATION"
    for name in counts:
        defaults[name] = f"{constant(wsproto_min, name):,} "
    defaults["RECEIVE_SIZE"] = f"{constant(wsproto_min, 'RECEIVE_SIZE'):,} bytes"
    defaults["ACCEPT_PAUSE"] = f"{constant(wsproto_min, 'ACCEPT_PAUSE'):g} s"
    shown = {code_in(name)[0]: value for name, value, _ in table(LEARN, "limits")}
    assert shown.keys() == defaults.keys()
    for name, value in shown.items():
        assert value.startswith(defaults[name]), name
    assert (
        default_of("max_message_size")
        == inspect.signature(connect).parameters["max_message_size"].default
    )


# Tables of chatd


def test_options_table_matches_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    options = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    shown = {code_in(option)[0].split()[0]: default for option, default, _ in table(RUN, "options")}
    assert sorted(shown) == sorted(options)
    values = vars(parse_arguments([]))
    for option, default in shown.items():
        value = values[option[2:].replace("-", "_")]
        if isinstance(value, bool):
            assert (value, default) == (False, "off"), option
        elif value:
            value = value[0] if isinstance(value, list) else value
            expected = f"{value:g}" if isinstance(value, float) else str(value)
            assert default.strip("`") == expected, option
    assert shown["--max-peers"] == f"{constant(chatd, 'DEFAULT_MAX_PEERS'):,}"
    assert shown["--max-per-address"] == str(constant(chatd, "DEFAULT_MAX_PER_ADDRESS"))
    days = parse_arguments(["invite", "Ann"]).days
    assert f"without `--days` for {days:g} days" in section(RUN, "## Invite people")


def test_metrics_table_matches_the_code() -> None:
    files = ("ops/endpoints.py", "storage/postgres/engine_state.py", "cluster.py")
    source = "".join((ROOT / "chatd" / file).read_text() for file in files)
    metrics = re.findall(r'\("(chatd_\w+)"', source)
    shown = {code_in(name)[0]: kind for name, kind, _ in table(RUN, "metrics")}
    assert list(shown) == metrics
    kinds = {"total": "counter", "seconds": "histogram"}
    for name, kind in shown.items():
        assert kind == kinds.get(name.rpartition("_")[2], "gauge"), name


def fields_by_type(name: str) -> dict[str, list[str]]:
    """Return the fields of each message type in a table of chat.v1."""
    fields: dict[str, list[str]] = defaultdict(list)
    kind = ""
    for first, field, _ in table(RUN, name):
        kind = code_in(first)[0] if first else kind
        fields[kind] += code_in(field)
    return fields


def test_client_messages_table_matches_the_protocol() -> None:
    with pytest.raises(protocol.ChatError) as caught:
        protocol.parse("{}")
    types = caught.value.message.removeprefix("type must be one of ").split(", ")
    shown = fields_by_type("client messages")
    assert list(shown) == types
    assert {kind: set(fields) for kind, fields in shown.items()} == client_fields()


def test_server_messages_table_matches_the_protocol() -> None:
    sent = server_messages()
    assert {kind: set(fields) for kind, fields in fields_by_type("server messages").items()} == sent


def test_fields_of_a_stored_message_match_the_protocol() -> None:
    stored = Message(1, "2026-01-01T00:00:00.000Z", "n", "t", "a", ref=1, edited=2)
    entries = [stored._replace(reactions='{"x": ["a"]}'), stored._replace(text="")]
    response = json.loads(protocol.history("r", entries, more=False, more_after=False))
    sent = {name for message in response["messages"] for name in message}
    text = section(RUN, "## chat.v1").partition("In `joined`, `history` and `results` each")[2]
    assert set(code_in(text.partition("\n\n")[0])) == sent


def test_author_and_direct_room_are_as_documented() -> None:
    text = " ".join(section(RUN, "## chat.v1").split())
    assert 'An `author` is 12 characters: "s" and a hash of the session, or "n" and' in text
    assert 'The name of a direct room is "@" and both authors in ascending order.' in text
    session, name = session_author("x" * 16), name_author("Ann")
    assert [(each[0], len(each)) for each in (session, name)] == [("s", 12), ("n", 12)]
    assert direct_authors(f"@{name}{session}") is not None
    assert direct_authors(f"@{session}{name}") is None


def test_error_codes_table_matches_the_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "chatd").rglob("*.py"))
    codes = set(re.findall(r'(?:ChatError|Refused|remove)\(\s*(?:target, )?"(\w+)"', source))
    shown = [code_in(code)[0] for code, _ in table(RUN, "error codes")]
    assert sorted(shown) == sorted(codes)


def test_close_codes_table_matches_the_code() -> None:
    files = [*(ROOT / "chatd").rglob("*.py"), ROOT / "wsproto_min/net/session.py"]
    names = set(re.findall(r"CloseCode\.([A-Z_]+)", "".join(path.read_text() for path in files)))
    codes = {int(CloseCode[name]) for name in names} - set(NEVER_SENT)
    codes |= {int(rule.close_code) for rule in RULES} | {TAKEN_OVER, CloseCode.GOING_AWAY}
    shown = [int(code) for codes, _ in table(RUN, "close codes") for code in codes.split(",")]
    assert sorted(shown) == sorted(codes)


def test_post_statuses_table_matches_the_code() -> None:
    files = ("posts.py", "page.py", "delivery.py", "access/connection_limits.py")
    source = "".join((ROOT / "chatd" / file).read_text() for file in files)
    names = set(re.findall(r"HTTPStatus\.([A-Z_]+)", source)) - {"OK", "CREATED"}
    shown = [
        int(each) for statuses, _ in table(RUN, "post statuses") for each in statuses.split(",")
    ]
    # The library answers 411.
    assert sorted(shown) == sorted({int(HTTPStatus[name]) for name in names} | {411})


def test_commands_table_matches_the_page() -> None:
    page = (ROOT / "client.html").read_text()
    named = [
        word for command, _ in table(RUN, "commands") for word in re.findall(r"/+\w+", command)
    ]
    commands = page.partition("\nconst commands = {")[2].partition("\n};")[0]
    handlers = re.findall(r"^  (\w+)\(", commands, re.MULTILINE)
    # /me with a text, and /mute with and without a name.
    assert {word.strip("/") for word in named} == {*handlers, "TEXT"}
    listed = page.partition("const HELP = `")[2].partition("\nText: ")[0]
    assert set(re.findall(r"(?:^|, )(/+\w+)", listed, re.MULTILINE)) == set(named) - {"/help"}


CHATD_LIMITS = {
    "text of a message": "MAX_TEXT",
    "message on the wire": "MAX_MESSAGE_SIZE",
    "name": "MAX_NAME",
    "key": "MAX_KEY",
    "token": "MAX_TOKEN",
    "rooms of one connection": "MAX_ROOMS",
    "messages in one `history`": "MAX_HISTORY",
    "messages in `joined` without `after`": "MAX_NEWEST",
    "messages in `joined` with `after`": "MAX_MISSED",
    "text in one response": "MAX_RESPONSE_TEXT",
    "members that presence names": "NAMED_MEMBERS",
    "members that `typing` announces to a room": "MAX_TYPING",
    "reservation of a name": "RESERVED_FOR",
    "connections": "DEFAULT_MAX_PEERS",
    "connections from one address": "DEFAULT_MAX_PER_ADDRESS",
    "refused connections answered at a time": "OVERFLOW_SLOTS",
    "`Retry-After`": "RETRY_AFTER",
    "time to join a room, if invitations are required": "JOIN_TIMEOUT",
    "interval between checks of the revocation list and of the next expiry": "RECHECK_INTERVAL",
    "interval between runs of retention": "RETENTION_INTERVAL",
    "messages deleted in one step of retention": "DELETE_LIMIT",
    "memory of the key of a deleted message": "KEY_MEMORY",
    "wait for a lock on the store": "LOCK_TIMEOUT",
    "write-ahead log that starts a checkpoint": "CHECKPOINT_SIZE",
    "message that counts as one": "CHEAP_SIZE",
    "stored messages of a response that count as one message": "MESSAGES_PER_UNIT",
    "characters of a response that count as one message": "CHARACTERS_PER_UNIT",
    "names in a response that count as one message": "NAMES_PER_UNIT",
    "receivers of a `say` that count as one message of its address": "CHEAP_MEMBERS",
    "longest wait of a connection over that rate": "MAX_WAIT",
    "connections read at once in one event loop iteration": "REQUESTS_PER_ITERATION",
    "receivers of `presence` in one event loop iteration": "PRESENCE_RECEIVERS",
    "rooms in use": "DEFAULT_MAX_ROOMS",
    "log lines that wait for a slow reader": "MAX_QUEUED_RECORDS",
    "topic": "MAX_TOPIC",
    "emoji of a reaction": "MAX_EMOJI",
    "different reactions to a message": "MAX_REACTION_KINDS",
    "reactions to a message": "MAX_REACTIONS",
    "words of a search": "MAX_SEARCH",
    "messages in one `results`": "MAX_FOUND",
    "rooms in the directory": "MAX_DIRECTORY",
    "connections of one person in a room": "MAX_CONNECTIONS",
    "body of a POST request": "MAX_BODY",
}


def test_limits_of_chatd_match_the_code() -> None:
    shown = dict(table(RUN, "limits"))
    for name, constant_name in CHATD_LIMITS.items():
        value = f"{int(constant(chatd, constant_name)):,}"
        assert re.match(rf"{value}\b", shown.pop(name)), name
    rate = parse_arguments([]).rate_limit
    of_address = f"{CONNECTIONS_PER_ADDRESS * rate:g}, and {2 * CONNECTIONS_PER_ADDRESS * rate:g}"
    control_rate = default_of("control_rate_limit")
    assert default_of("ping_interval") == default_of("ping_timeout")
    assert shown == {
        "messages per second of one peer": f"{rate:g}, and {2 * rate:g} at once (`--rate-limit`)",
        "messages per second of one address": f"{of_address} at once (`--rate-per-address`)",
        "new connections per second of one address": f"{of_address} at once (`--rate-per-address`)",
        "opening handshake, closing handshake": f"{default_of('open_timeout'):g} s each",
        "interval between checks of the store's files": (
            f"{constant(chatd, 'STORE_CHECK_INTERVAL'):g} s"
        ),
        "Pings and unsolicited Pongs of one peer": (
            f"{control_rate:g} per second, and {2 * control_rate:g} at once"
        ),
        "time from one Ping to the next, and to a sign of life": (
            f"{default_of('ping_interval'):g} s each"
        ),
        "write buffer of one peer": f"{default_of('write_buffer_limit') >> 20} MiB",
        "write buffers of all peers": (
            f"{default_of('total_write_buffer_limit') >> 20} MiB (`--max-write-buffers`);"
            " the slowest are closed first"
        ),
        "time in which a slow peer must take some bytes": (
            f"{default_of('write_timeout'):g} s (`--write-timeout`)"
        ),
        "unfinished messages of all peers": (
            f"{default_of('total_unfinished_limit') >> 20} MiB (`--max-unfinished`);"
            " the oldest are closed"
        ),
        "unfinished handshakes": (
            f"{default_of('max_pending_handshakes'):,} (`--max-handshakes`); the oldest is closed"
        ),
    }


def test_chat_uses_the_default_limits_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class RecordingServer(Server):
        def __init__(self, **options: Any) -> None:
            given.update(options)
            super().__init__(**options)

    monkeypatch.setattr("chatd.app.Server", RecordingServer)
    with serve_chat():
        pass
    changed = {
        name
        for name, value in given.items()
        if not name.startswith("on_") and value != default_of(name)
    }
    assert changed == {"max_message_size", "max_body_size"}


# Tables of tests and changes


def test_load_table_selects_existing_tests() -> None:
    source = "".join(path.read_text() for path in (ROOT / "tests/load").glob("test_*.py"))
    tests = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    words = {code_in(row[2])[0] for row in table(TEST, "load")}
    for word in words:
        assert sum(word in test for test in tests) == 1, word
    assert len(words) == len(tests)


def test_benchmark_commands_name_benchmarks() -> None:
    names = [each.name for make in TABLES.values() for each in make()]
    commands = re.findall(r"`python -m tests\.benchmarks ([^`]+)`", DOCUMENTS[RUN])
    assert commands
    for word in (word for command in commands for word in shlex.split(command)):
        assert any(word in name for name in names), word


def test_number_of_advisories_is_that_of_the_tests() -> None:
    assert f"{len(ADVISORIES)} of {len(ADVISORIES)} advisories" in DOCUMENTS[TEST]


def test_renames_lead_to_existing_names() -> None:
    for old, new in table(CHANGELOG, "renames"):
        for name in code_in(new):
            plain = name.partition("(")[0]
            if not (plain.isupper() or "argument" in new):
                assert exists(plain) or importlib.util.find_spec(plain), f"{old} -> {name}"
        for name in code_in(old):
            if "(" not in name and "beside" not in old:
                assert name.removeprefix("wsproto_min.") not in wsproto_min.__all__, old
