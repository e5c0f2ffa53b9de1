"""Figures in the sentences of the READMEs, compared with the constants of the code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import chatd
import wsproto_min
from chatd import work_queue
from chatd.access import costs
from chatd.access.invitation_files import REVOCATION_FILE, SECRET_FILE
from chatd.ops.endpoints import HEALTH_PATH, METRICS_PATH, READY_PATH
from chatd.options import parse_arguments
from chatd.storage.postgres import engine_state
from tests.documents import DOCUMENTS, LEARN, RUN, TEST, constant, default_of
from tests.learn.wrong_answers import CLIENT_ANSWERS, SERVER_ANSWERS
from tests.support import ROOT
from wsproto_min import connect, reconnect
from wsproto_min.learn import progress
from wsproto_min.learn.path import STEPS
from wsproto_min.net import frame_trace
from wsproto_min.rules import RULES
from wsproto_min.tap import cli as tap
from wsproto_min.tap import refusal

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
MIB = 1 << 20


def in_source(path: str, name: str) -> int:
    """Return a number that a file assigns to a name, for code that cannot be imported."""
    found = re.search(rf"^(?:const )?{name} = ([\d_]+)\b", (ROOT / path).read_text(), re.MULTILINE)
    assert found, f"{path} has no {name}"
    return int(found[1])


def of_chatd(name: str) -> Any:
    return constant(chatd, name)


def of_library(name: str) -> Any:
    return constant(wsproto_min, name)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:g} ms"


def figures_of_readme() -> list[str]:
    examples = [*(ROOT / "wsproto_min/examples").glob("[a-z]*.py")]
    return [
        f"[{WORDS[len(examples)]} programs](wsproto_min/examples)",
        f"[build a server](wsproto_min/README.md#build-it-yourself) in {len(STEPS)} steps",
        f"It is version {chatd.__version__}.",
    ]


def figures_of_library() -> list[str]:
    sizes = {name: constant(wsproto_min, name) for name in ("RECEIVE_SIZE", "MAX_CAPTURE_SIZE")}
    signatures = {
        name: each.default for name, each in inspect.signature(reconnect).parameters.items()
    }
    silence = default_of("ping_interval") + default_of("ping_timeout")
    redirects = inspect.signature(connect).parameters["max_redirects"].default
    codes = {int(rule.close_code) for rule in RULES}
    programs = len([*(ROOT / "wsproto_min/examples").glob("[a-z]*.py")])
    wrong_answers = len(SERVER_ANSWERS) + len(CLIENT_ANSWERS)
    return [
        f"in {len(STEPS)} steps, each with a checker",
        f"{WORDS[programs].capitalize()} programs in `examples/`",
        f"`echo` uses from {default_of('compression_threshold')} bytes on",
        f"tries the next one after {of_library('ATTEMPT_DELAY'):g} seconds",
        f"follows up to {redirects} redirects (`max_redirects`",
        f"drops a client that reads nothing for {silence:g} seconds",
        f"random delay of up to {signatures['first_delay']:g} seconds",
        f"each attempt, up to {signatures['max_delay']:g} seconds",
        f"by default every {default_of('ping_interval'):g} seconds",
        f"reads up to {sizes['RECEIVE_SIZE'] >> 10} KiB",
        f"When {WORDS[of_library('_SPIN_AFTER')]} waits in a row were shorter than"
        f" {ms(of_library('_SPIN'))}, the event loop first polls for ready sockets for up to"
        f" {ms(of_library('_SPIN'))}",
        f"{WORDS[len(codes)].capitalize()} close codes answer all violations",
        f"The lines show up to {frame_trace.MAX_SHOWN} bytes of each payload",
        f"and over {wrong_answers // 100 * 100} classic wrong answers",
        f"The file `{progress.FILE_NAME}` in the current directory",
        f"The page at http://127.0.0.1:{tap.WEB_PORT}/ draws",
        f"connect ws://127.0.0.1:{tap.LISTEN_PORT}/",
        f"| port of the tap ({tap.LISTEN_PORT})",
        f"| serve the page ({tap.WEB_PORT}) |",
        f"the first {refusal.MAX_SHOWN} bytes of the body",
        f"`explain` reads up to {sizes['MAX_CAPTURE_SIZE'] // MIB} MiB",
        f"Input may have up to {sizes['MAX_CAPTURE_SIZE'] // MIB} MiB.",
        f"It explains messages of up to {of_library('MAX_EXPLAINED_SIZE') // MIB} MiB.",
        f"for the rule among {WORDS[of_library('_CHOICES')]}.",
        f"{WORDS[of_library('_RIGHT_TO_RISE')].capitalize()} right answers in a row lead to the"
        f" next level, {WORDS[of_library('_WRONG_TO_FALL')]} wrong ones back",
    ]


def figures_of_access() -> list[str]:
    """Return the sentences of chatd/README.md on use, access, costs and overload."""
    named = of_chatd("NAMED_MEMBERS")
    cheap, fan_out = costs.CHEAP_SIZE, costs.CHEAP_MEMBERS
    unit, step = costs.MESSAGES_PER_UNIT, of_chatd("LEAVING_STEP")
    assert of_chatd("PRESENCE_INTERVAL") == of_chatd("TYPING_INTERVAL")
    tick = 1000  # ms from one check of the page to the next
    silent = in_source("client.html", "PING_INTERVAL") + in_source("client.html", "PONG_TIMEOUT")
    offline = 2 * tick + in_source("client.html", "OFFLINE_PONG_TIMEOUT")
    return [
        f"<http://127.0.0.1:{parse_arguments([]).port}/>",
        f"looks for a server on port {parse_arguments([]).port} of this machine",
        f"A visible page detects a dead connection within {(silent + tick) // 1000} s, and a lost"
        f" network within {offline // 1000} s.",
        f"over {of_chatd('MAX_TEXT'):,} characters, or over {of_chatd('MAX_BODY'):,} bytes",
        f"A message costs {costs.HANDSHAKE_COST:g} for each {cheap:,} characters",
        f"A search and the directory cost {costs.SEARCH_COST:g}.",
        f"costs 1 for each {unit} messages, 1 for each {costs.CHARACTERS_PER_UNIT:,} characters and"
        f" 1 for each {costs.NAMES_PER_UNIT} names",
        f"A handshake costs its address {costs.HANDSHAKE_COST:g}, and a `say` to over {fan_out}"
        f" members 1 for each {fan_out}.",
        f"a message of over {cheap:,} characters, a `say` to over {fan_out} members",
        f"with a wait of over {of_chatd('MAX_WAIT'):g} s is closed at once",
        f"the server reads {of_chatd('REQUESTS_PER_ITERATION')} at once and the others every"
        f" {ms(of_chatd('REQUEST_INTERVAL'))}.",
        f"of one event loop iteration have taken {ms(of_chatd('READING_STEP'))}, the next",
        f"starts no further one after {ms(work_queue.STEP)}.",
        f"A response has at most {of_chatd('MAX_RESPONSE_TEXT') >> 10} KiB of text",
        f"`presence` of over {named} members and `typing` at most once in"
        f" {of_chatd('PRESENCE_INTERVAL'):g} s",
        f"leave their rooms for {ms(step)} of each event loop iteration",
        f"sends `presence` to about {of_chatd('PRESENCE_RECEIVERS'):,} receivers",
        f"closed with 1008 when {default_of('write_buffer_limit') // MIB} MiB wait for it",
        f"answers up to {of_chatd('OVERFLOW_SLOTS')} of them at a time",
        f"closed after {default_of('ping_interval') + default_of('ping_timeout'):g} s at most",
        f"sends a Ping every {default_of('ping_interval'):g} seconds",
        f"up to {of_library('RECEIVE_SIZE') >> 10} KiB from each peer",
    ]


def figures_of_store() -> list[str]:
    """Return the sentences of chatd/README.md on the message store and on many nodes."""
    assert of_chatd("RETENTION_INTERVAL") == 60
    assert of_chatd("STORE_CHECK_INTERVAL") < 1
    poll = in_source("chatd/storage/postgres/poller.py", "POLL_INTERVAL")
    lease = poll * in_source("chatd/storage/postgres/poller.py", "LEASE_POLLS")
    pending, size = of_chatd("MAX_PENDING"), of_chatd("MAX_PENDING_SIZE")
    search, lost = ms(of_chatd("SEARCH_STEP")), engine_state.LOST_TIMEOUT
    return [
        f"Keep the files `{SECRET_FILE}` and `{REVOCATION_FILE}` beside it",
        f"`GET {HEALTH_PATH}` returns 200, or 503",
        f"`GET {READY_PATH}` is for a balancer",
        f"`GET {METRICS_PATH}` returns the metrics",
        "removes Ben from the rooms within a second",
        f"once a minute, in steps of at most {of_chatd('DELETE_LIMIT')} messages",
        f"deleted message for {of_chatd('KEY_MEMORY') / 3600:g} hours",
        f"under another name, with a key of {of_chatd('RANDOM_KEY')} characters or more",
        f"scans from the newest message on for up to {search}, and continues",
        f"scans from the newest message on, for up to {search} at a time",
        f"messages wait up to {of_chatd('LOCK_TIMEOUT'):g} s, then their senders get `log_failed`",
        f"has not answered for {engine_state.READY_TIMEOUT:g} s, or when the node's own"
        f" notifications have not come back for {engine_state.READY_TIMEOUT:g} s",
        f"its members stay listed for {lease} s",
        f"loses its network for over {lease} s",
        f"a dead node after {lease} s, and the name stays reserved for"
        f" {of_chatd('RESERVED_FOR'):g} s more",
        f"At {pending:,} waiting messages or {size // MIB} MiB the node reads no more from"
        f" senders. After {lost:g} s it closes its connections with 1012",
        f"a poll finds the messages within {2 * poll} s",
        f"the {of_chatd('MAX_CONNECTIONS')} connections of a person hold for each node",
    ]


def figures_of_protocol() -> list[str]:
    """Return the sentences of chatd/README.md on chat.v1."""
    named, text = of_chatd("NAMED_MEMBERS"), of_chatd("MAX_TEXT")
    session = f"{of_chatd('MIN_SESSION')} to {of_chatd('MAX_KEY')} characters"
    return [
        f"A message over {text:,} characters is refused with 1009.",
        f"the room, 1 to {of_chatd('MAX_ROOM_NAME')} letters, digits, `.`, `_` or `-`; up to"
        f" {of_chatd('MAX_ROOMS')} rooms at a time",
        f"| 1 to {of_chatd('MAX_NAME')} characters; unique in the room",
        f"| a secret of {session}, or null",
        f"| 1 to {text:,} characters |",
        f"random id, 1 to {of_chatd('MAX_KEY')} characters",
        f"| one emoji, up to {of_chatd('MAX_EMOJI')} characters",
        f"| up to {of_chatd('MAX_TOPIC')} characters; empty for no topic",
        f"| number from 1 to {of_chatd('MAX_HISTORY')}; {of_chatd('MAX_HISTORY')} if absent",
        f"| words of 1 to {of_chatd('MAX_SEARCH')} characters in all",
        f"| number up to {of_chatd('MAX_BAN'):,}, or null for no end",
        f"reserves the name for {of_chatd('RESERVED_FOR'):g} s after a lost connection",
        f"list of names; empty in rooms of over {named} members",
        f"| list: the newest {of_chatd('MAX_NEWEST')}, or those after `after` (at most"
        f" {of_chatd('MAX_MISSED'):,}, and {of_chatd('MAX_RESPONSE_TEXT') >> 10} KiB of text)",
        f"| list of at most {of_chatd('MAX_FOUND')} messages with their `room`",
        f"a room gets at most {of_chatd('MAX_TYPING')} names in {of_chatd('TYPING_INTERVAL'):g} s",
        f"until the room has shrunk to {named} members",
        f"| the text of a `say` has over {text:,} characters",
        f"| the connection is in {of_chatd('MAX_ROOMS')} rooms already",
        f"| the person has {of_chatd('MAX_CONNECTIONS')} newer connections in the room",
        f"no room joined within {of_chatd('JOIN_TIMEOUT'):g} s",
        f"| {of_chatd('TAKEN_OVER')} | newer connections continue this session |",
        f"| yes | up to {of_chatd('MAX_CONNECTIONS')};",
        f"| yes | names for up to {named} members |",
    ]


def prose(path: str) -> str:
    return re.sub(r"\s+", " ", DOCUMENTS[path])


@pytest.mark.parametrize(
    ("path", "sentences"),
    [
        ("README.md", figures_of_readme()),
        (LEARN, figures_of_library()),
        (RUN, figures_of_access()),
        (RUN, figures_of_store()),
        (RUN, figures_of_protocol()),
    ],
    ids=["front page", "library", "access", "store", "protocol"],
)
def test_sentences_have_the_figures_of_the_code(path: str, sentences: list[str]) -> None:
    assert [each for each in sentences if each not in prose(path)] == []


def test_size_of_the_protocol_is_that_of_its_modules() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "wsproto_min").glob("*.py"))
    found = re.search(r"has about ([\d,]+) lines", prose("README.md"))
    assert found
    assert number(found[1]) == pytest.approx(lines, rel=0.1)


# Comparison with other libraries


def number(text: str) -> float:
    return float(text.replace(",", ""))


def measured(name: str) -> dict[str, dict[str, str]]:
    """Return a table of measured figures, by row and column."""
    found = DOCUMENTS[TEST].partition(f"<!-- benchmarks: {name} -->\n")
    rows = found[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: dict(zip(cells[0][1:], row, strict=True)) for name, *row in cells[2:]}


def ratio(row: dict[str, str], column: str, other: str) -> float:
    """Return the figure of a column divided by that of another; a cell begins with its figure."""
    return number(row[column].split()[0]) / number(row[other].split()[0])


def test_comparison_of_the_front_page_is_measured() -> None:
    """A ratio in a sentence may be 15% off, like the figures."""
    text = prose("README.md")
    rooms, parsing = measured("rooms"), measured("parsing")
    batched = rooms["fan-out to 100 peers, 64 in flight (deliveries/s)"]
    alone = rooms["fan-out to 100 peers, 1 in flight (deliveries/s)"]
    library = "websockets, C extension on"
    sentences = {
        r"chatd makes ([\d.]+) times as many deliveries": ratio(batched, "chatd", "websockets"),
        r"and ([\d.]+) times as many with chat\.v1": ratio(batched, "chatd, chat.v1", "websockets"),
        r"With one message in flight it makes ([\d.]+) times": ratio(alone, "chatd", "websockets"),
        r"and commits to SQLite makes ([\d.]+) times as": ratio(
            batched, "hub with SQLite", "chatd"
        ),
        r"frames of 1 KiB ([\d.]+) times as fast": ratio(
            parsing["codec, 1024 B frames (frames/s)"], library, "wsproto_min"
        ),
        r"messages of 1 MiB ([\d.]+) times as fast": ratio(
            parsing["codec, 1 MiB messages (MB/s)"], library, "wsproto_min"
        ),
    }
    for sentence, expected in sentences.items():
        said = re.search(sentence, text)
        assert said, sentence
        assert number(said[1]) == pytest.approx(expected, rel=0.15), sentence
    large = re.search(r"messages of 1 MiB ([\d.]+) times as fast", text)
    assert large
    assert f"parses large messages {large[1]} times as fast" in prose(LEARN)
