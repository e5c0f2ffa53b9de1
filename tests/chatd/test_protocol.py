"""The chat.v1 subprotocol and the rules of names: parsing, errors, encoding."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, get_args
from unittest.mock import Mock, patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatd.model import (
    MAX_ID,
    MAX_KEY,
    MAX_NAME,
    MAX_ROOM_NAME,
    MAX_TEXT,
    InvalidName,
    Kind,
    Message,
    _is_too_long,
    normalize_name,
)
from chatd.protocol import (
    MAX_MESSAGE_SIZE,
    MAX_TOKEN,
    Change,
    ChatError,
    ClientMessage,
    History,
    Join,
    Leave,
    Ping,
    Say,
    Typing,
    acknowledgement,
    error,
    history,
    joined,
    message,
    parse,
    pong,
    presence,
    typing,
)
from chatd.rooms import NameTaken
from tests.chat import bare_peer, bare_room, new_author

CLIENT_MESSAGES = get_args(ClientMessage)


def parse_error(text: str) -> ChatError:
    """Return the error that `parse` must raise."""
    with pytest.raises(ChatError) as caught:
        parse(text)
    return caught.value


# Valid messages.


def escaped(fields: dict[str, str]) -> str:
    """Return `fields` as JSON with every character as an escape."""

    def quote(text: str) -> str:
        units = text.encode("utf-16-be").hex()
        return '"' + "".join("\\u" + units[at : at + 4] for at in range(0, len(units), 4)) + '"'

    return "{" + ", ".join(f"{quote(name)}: {quote(fields[name])}" for name in fields) + "}"


def test_message_limit_is_the_size_of_the_largest_edit() -> None:
    wide = "\U0001f600"
    edit = Change(Kind.EDIT, "r" * MAX_ROOM_NAME, wide * MAX_TEXT, wide * MAX_KEY, MAX_ID)
    fields = {"type": "edit", "room": edit.room, "text": edit.text, "key": str(edit.key)}
    ref = escaped({"ref": ""}).replace('""', str(MAX_ID))
    text = f"{escaped(fields)[:-1]}, {ref[1:]}"
    assert parse(text) == edit
    assert len(text) == MAX_MESSAGE_SIZE


def test_largest_join_fits_into_the_message_limit() -> None:
    longest = {
        "type": "join",
        "room": "r" * MAX_ROOM_NAME,
        "name": "n" * MAX_NAME,
        "after": "9" * 20,
        "session": "s" * MAX_KEY,
        "token": "t" * MAX_TOKEN,
    }
    assert len(escaped(longest)) < MAX_MESSAGE_SIZE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"type": "join", "room": "lobby", "name": "Ann"},
            Join("lobby", "Ann", None, None, None),
        ),
        (
            {
                "type": "join",
                "room": "a-Z_0.9",
                "name": "Ann",
                "after": 17,
                "session": "s" * 64,
                "token": "t" * 4096,
            },
            Join("a-Z_0.9", "Ann", 17, "s" * 64, "t" * 4096),
        ),
        (
            {"type": "join", "room": "x", "name": "Ann", "after": 0, "session": None},
            Join("x", "Ann", 0, None, None),
        ),
        ({"type": "say", "room": "x", "text": "hi"}, Say("x", "hi", None)),
        ({"type": "say", "room": "x", "text": " ", "key": None}, Say("x", " ", None)),
        ({"type": "say", "room": "x", "text": " \n\0é😀", "key": "k"}, Say("x", " \n\0é😀", "k")),
        ({"type": "history", "room": "x"}, History("x", 200)),
        ({"type": "history", "room": "x", "before": 9, "limit": 1}, History("x", 1, before=9)),
        (
            {"type": "history", "room": "x", "before": 2**63 - 1},
            History("x", 200, before=2**63 - 1),
        ),
        ({"type": "leave", "room": "x"}, Leave("x")),
        ({"type": "typing", "room": "x" * 64}, Typing("x" * 64)),
        ({"type": "ping"}, Ping(None)),
        ({"type": "ping", "t": "word"}, Ping("word")),
        ({"type": "ping", "t": -1.5e300}, Ping(-1.5e300)),
        ({"type": "ping", "t": 10**4000}, Ping(10**4000)),
    ],
)
def test_parse_returns_the_message_and_ignores_unknown_fields(
    fields: dict[str, Any], expected: ClientMessage
) -> None:
    assert parse(json.dumps(fields)) == expected
    unknown = {"x": [{"type": 1}], "": None, "Type": "say", "roomy": False}
    assert parse(json.dumps({**unknown, **fields})) == expected
    assert parse(json.dumps({**fields, **unknown}, ensure_ascii=False, indent=1)) == expected


def test_parse_uses_the_last_of_duplicate_fields() -> None:
    assert parse('{"type":"say","type":"leave","room":"a","room":"b"}') == Leave("b")


# Invalid messages. The sentence of each error begins with the invalid field.

JOIN = {"type": "join", "room": "x", "name": "Ann"}
EMPTY: tuple[Any, ...] = ([], {})
SAY = {"type": "say", "room": "x", "text": "hi", "key": "k"}
HISTORY = {"type": "history", "room": "x"}
ROOMS: tuple[Any, ...] = (
    None,
    1,
    True,
    *EMPTY,
    "",
    "x" * 65,
    "a b",
    "a/b",
    "ä",
    "٣",
    "x\n",
    "x\0",
    "\ud800",
)
IDS: tuple[Any, ...] = (-1, 2**63, 10**400, 1.0, "1", True, False, *EMPTY)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "type"),
        *(
            ({"type": kind, "room": "x", "name": "Ann"}, "type")
            for kind in (None, 1, True, *EMPTY, "", "Join", "join ", "joined", "message")
        ),
        *(
            ({**good, "room": room}, "room")
            for room in ROOMS
            for good in (JOIN, SAY, HISTORY, {"type": "leave"}, {"type": "typing"})
        ),
        *(
            ({**JOIN, "name": name}, "name")
            for name in (None, 1, True, *EMPTY, "", " \t", "x" * 33, "x" * 129, "\ud800", "x\ny")
        ),
        *(({**JOIN, "after": number}, "after") for number in IDS),
        *(({**JOIN, "session": value}, "session") for value in (1, *EMPTY, "s" * 65, "\udfff")),
        *(({**JOIN, "token": value}, "token") for value in (1, *EMPTY, "t" * 4097, "\ud800")),
        *(({**SAY, "text": value}, "text") for value in (None, 1, False, *EMPTY, "a\ud83d")),
        ({**SAY, "text": ""}, "text"),
        *(({**SAY, "key": value}, "key") for value in (1, True, *EMPTY, "", "k" * 65, "\ude00")),
        *(({**HISTORY, "before": number}, "before") for number in IDS),
        *(
            ({**HISTORY, "limit": limit}, "limit")
            for limit in (None, 0, -1, 201, 1.0, "5", True, *EMPTY, 10**400)
        ),
        *(({"type": "ping", "t": t}, "t must") for t in (True, False, *EMPTY)),
        ({"type": "ping", "t": "t" * 65}, "t has at most"),
        ({"type": "ping", "t": "\ud800"}, "t contains half"),
    ],
)
def test_parse_names_an_invalid_field(fields: dict[str, Any], word: str) -> None:
    chat_error = parse_error(json.dumps(fields))
    assert chat_error.code == "bad_message"
    assert chat_error.message.startswith(f"{word} "), chat_error.message


@pytest.mark.parametrize("required", [("join", "name"), ("say", "text"), ("leave", "room")])
def test_parse_names_a_missing_field(required: tuple[str, str]) -> None:
    kind, field = required
    fields = {"type": kind, "room": "x", "name": "Ann", "text": "hi"}
    del fields[field]
    assert parse_error(json.dumps(fields)).message.startswith(f"{field} must be ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_parse_refuses_numbers_outside_json(number: str) -> None:
    assert parse_error(f'{{"type":"ping","t":{number}}}').message.startswith("t must be ")
    assert parse_error(
        f'{{"type":"join","room":"x","name":"A","after":{number}}}'
    ).message.startswith("after must be ")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "null", "true", "1", '"say"', "[]", "[{}]", "NaN", "{", "{}x", "{'type':1}"),
        pytest.param("\ufeff" + json.dumps(SAY), id="byte order mark"),
        pytest.param("[" * 60_000, id="deep lists"),
        pytest.param('{"type":' * 8_000, id="deep objects"),
        pytest.param('{"type":"ping","t":' + "[" * 30_000 + "]" * 30_000 + "}", id="deep value"),
        pytest.param('{"type":"ping","t":' + "9" * 60_000 + "}", id="number of 60,000 digits"),
    ],
)
def test_parse_refuses_text_other_than_one_object(text: str) -> None:
    chat_error = parse_error(text)
    assert chat_error.code == "bad_message"
    assert chat_error.message.startswith(("a message must be one JSON object", "t must be "))


def test_parse_limits_text_to_4000_characters_of_any_script() -> None:
    assert MAX_TEXT == 4000
    for character in ("x", "é", "😀", "\0"):
        fields = {**SAY, "text": character * 4000}
        assert parse(json.dumps(fields)) == Say("x", character * 4000, "k")
        fields["text"] += character
        chat_error = parse_error(json.dumps(fields))
        assert (chat_error.code, chat_error.key) == ("too_long", "k")
        assert "4,000" in chat_error.message
        assert "4,001" in chat_error.message


@pytest.mark.parametrize("field", ["room", "text"])
def test_error_in_say_carries_its_key(field: str) -> None:
    assert parse_error(json.dumps({**SAY, field: 1})).key == "k"
    assert parse_error(json.dumps({**SAY, field: 1, "key": None})).key is None
    assert parse_error(json.dumps({**SAY, field: 1, "key": 5})).key is None


def test_parse_error_carries_a_valid_room() -> None:
    for invalid in ({**SAY, "text": 1}, {**SAY, "key": 5}, {**JOIN, "name": ""}):
        assert parse_error(json.dumps(invalid)).room == "x"
    for room in (1, "", "no room"):
        assert parse_error(json.dumps({**SAY, "room": room})).room is None
    assert parse_error(json.dumps({"type": "shout", "room": "x"})).room is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
protocol_fields = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["join", "say", "history", "leave", "typing", "ping"]) | values,
        "room": st.sampled_from(["lobby", "x" * 64, ""]) | values,
        **dict.fromkeys(("name", "text", "key", "session", "token", "t"), values),
        **dict.fromkeys(("after", "before", "limit"), values),
    },
)


def check(text: str) -> None:
    """Parse; fail unless the result is valid and the server's reply is JSON."""
    try:
        parsed = parse(text)
    except ChatError as chat_error:
        fields = json.loads(error(chat_error).encode())
        assert fields["type"] == "error"
        assert fields["code"] in ("bad_message", "too_long")
        assert fields["message"]
        assert fields.keys() <= {"type", "code", "message", "key", "room"}
    else:
        assert isinstance(parsed, CLIENT_MESSAGES)
        repr(parsed).encode()  # raises UnicodeEncodeError for half a surrogate pair
        if isinstance(parsed, Ping):
            reply = json.loads(pong(parsed.t).encode(), parse_constant=pytest.fail)
            assert reply == {"type": "pong", "t": parsed.t}


@given(values | protocol_fields, st.booleans())
@example({**SAY, "text": "\ud83d\ude00"}, True)
def test_parse_of_any_json_returns_or_raises_chat_error(value: Any, ascii_only: bool) -> None:
    check(json.dumps(value, ensure_ascii=ascii_only))


@given(st.text(), st.sampled_from([json.dumps(each) for each in (JOIN, SAY, HISTORY)]), st.data())
def test_parse_of_any_text_returns_or_raises_chat_error(
    text: str, good: str, data: st.DataObject
) -> None:
    check(text)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    check(good[:start] + text[:5] + good[end:])


# Names.


@pytest.mark.parametrize(
    ("name", "normalized"),
    [
        ("Ann", "Ann"),
        ("  Ann Lee\t", "Ann Lee"),
        ("\u3000Ann\u00a0", "Ann"),
        ("e\u0301", "\u00e9"),
        ("\uff21\uff4e\uff4e", "Ann"),  # full-width
        ("\ufb01sh", "fish"),
        ("x" * 32, "x" * 32),
        ("e\u0301" * 32, "\u00e9" * 32),
        ("  " + "x" * 32 + "  ", "x" * 32),
        ("张伟 ☂ 😀", "张伟 ☂ 😀"),
        ("Weiß", "Weiß"),
        ("ann\ufe0f", "ann"),
        ("e\ufe0f\u0301", "\u00e9"),
        ("❤\ufe0f", "❤"),
        ("葛\U000e0100", "葛"),
        ("\u0928\u0940", "\u0928\u0940"),  # a letter with its vowel sign
    ],
)
def test_name_is_normalized_and_trimmed_before_its_limit_applies(
    name: str, normalized: str
) -> None:
    assert normalize_name(name) == normalized
    join = parse(json.dumps({**JOIN, "name": name}))
    assert isinstance(join, Join)
    assert join.name == normalized


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *((name, "1 to 32") for name in ("", " ", "\u2003\u3000", "x" * 33, "\ufdfa" * 2)),
        *(
            (f"a{character}b", "invisible")
            for character in "\0\x1b\n\x7f\x85\xad\u061c\u200b\u200d\u200e\u200f\u2028\u2029"
            "\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\ue000\uffff"
            "\U000e0041\U0010ffff\u1680\u034f\u115f\u17b4\u2800\u3164\uffa0"
        ),
        ("\u0301", "invisible"),
        ("\u0301\u20dd", "invisible"),
    ],
)
def test_name_with_invisible_characters_is_refused(name: str, word: str) -> None:
    with pytest.raises(InvalidName, match=word):
        normalize_name(name)
    assert word in parse_error(json.dumps({**JOIN, "name": name})).message


@pytest.mark.parametrize(
    "name",
    [
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",  # Ali Reza in Persian
        "\u0645\u06cc\u064e\u200c\u0650\u062e",  # with vowel signs around the non-joiner
        "\u069a\u200c\u0693",  # Pashto
        "\u0712\u200c\u0715",  # Syriac
        "\u1820\u200c\u1821",  # Mongolian
        "\U0001e900\u200c\U0001e901",  # Adlam
        "\ua872\u200c\ua840",  # a left-joining letter of Phags-pa
        "\u0915\u094d\u200c\u0937",  # Devanagari: no ligature
        "\u0d28\u0d4d\u200d",  # Malayalam: chillu
        "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala: Sri
    ],
)
def test_name_with_a_joiner_in_context_is_accepted(name: str) -> None:
    assert normalize_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "a\u200cb",  # letters that do not join
        "\u200c\u0639\u0644\u06cc",
        "\u0639\u0644\u06cc\u200c",
        "\u0639\u200c\u200c\u0644",
        "\u0627\u200c\u0644",  # alef never joins the next letter
        "\u0639\u200c ann",
        "\u0639\u200d\u0644",  # a joiner needs a virama
        "\u0915\u200d\u0937",
        "\u0915\u094d\u200d\u200d",
        "\u094d\u200d",  # only a mark and a joiner
        "\U0001f469\u200d\U0001f4bb",  # emoji
    ],
)
def test_name_with_a_joiner_out_of_context_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="invisible"):
        normalize_name(name)


@given(st.text(max_size=50))
def test_normalized_name_is_stable_and_printable(name: str) -> None:
    try:
        normalized = normalize_name(name)
    except InvalidName:
        return
    assert 1 <= len(normalized) <= MAX_NAME
    assert normalize_name(normalized) == normalized
    assert unicodedata.is_normalized("NFKC", normalized)
    assert re.sub("[\u200c\u200d]", "", normalized).isprintable()
    normalized.encode()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ann", "ANN", True),
        ("Straße", "STRASSE", True),
        ("ß", "ss", True),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", True),
        ("\uff21nn", "ann", True),  # full-width
        ("e\u0301", "\u00c9", True),
        ("\u212bke", "åke", True),
        ("i", "\u0131", True),  # dotless i is a different letter that looks alike
        ("I", "\u0131", False),
        ("i", "\u0130", False),
        ("ann", "anne", False),
        (
            "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
            "\u0639\u0644\u06cc\u0631\u0636\u0627",
            True,
        ),
        ("\u0930\u094d\u200d\u092f", "\u0930\u094d\u092f", True),
    ],
)
def test_names_equal_after_normalization_and_casefold_collide(
    one: str, other: str, same: bool
) -> None:
    room = bare_room()
    room.join(normalize_name(one), new_author(), bare_peer(), 0.0)
    try:
        room.join(normalize_name(other), new_author(), bare_peer(), 0.0)
        taken = False
    except NameTaken:
        taken = True
    assert taken == same


# Messages of the server.

text = st.text(st.characters(exclude_categories=["Cs"]))
stored_messages = st.builds(
    lambda number, time, name, text: Message(number, time, name, text),
    st.integers(1, 2**63 - 1),
    text,
    text,
    text.filter(bool),
)


@given(stored_messages, st.text("abc-_.", min_size=1, max_size=5), text)
def test_acknowledgement_is_the_message_with_its_key(stored: Message, room: str, key: str) -> None:
    encoded = message(room, stored)
    plain = json.loads(encoded)
    assert plain == {
        "type": "message",
        "room": room,
        "id": stored.id,
        "time": stored.time,
        "name": stored.name,
        "author": "",
        "text": stored.text,
    }
    assert json.loads(acknowledgement(encoded, key)) == {**plain, "key": key}
    assert acknowledgement(encoded, None) == encoded


@given(st.lists(stored_messages, max_size=3), st.lists(text), st.booleans())
def test_server_messages_are_json_with_the_documented_fields(
    messages: list[Message], names: list[str], flag: bool
) -> None:
    listed = [
        {"id": each.id, "time": each.time, "name": each.name, "text": each.text}
        for each in messages
    ]
    people = [(name, "s") for name in names]
    encoded = joined(
        "r", "n", "a", "s", people, 5, messages, [], topic="t", moderator=flag, gap=flag
    )
    assert json.loads(encoded.encode()) == {
        "type": "joined",
        "room": "r",
        "name": "n",
        "author": "a",
        "session": "s",
        "members": names,
        "authors": ["s"] * len(names),
        "count": 5,
        "topic": "t",
        "moderator": flag,
        "messages": listed,
        "changes": [],
        "gap": flag,
    }
    assert json.loads(history("r", messages, more=flag, more_after=False).encode()) == {
        "type": "history",
        "room": "r",
        "messages": listed,
        "more": flag,
        "more_after": False,
    }
    assert json.loads(presence("r", people, ["x"], 5)) == {
        "type": "presence",
        "room": "r",
        "joined": names,
        "authors": ["s"] * len(names),
        "left": ["x"],
        "count": 5,
    }


def test_short_server_messages_have_the_documented_fields() -> None:
    assert json.loads(presence("r", None, None, 201)) == {
        "type": "presence",
        "room": "r",
        "count": 201,
    }
    assert json.loads(typing("r", "Ann")) == {"type": "typing", "room": "r", "name": "Ann"}
    assert json.loads(pong(None)) == {"type": "pong", "t": None}
    assert json.loads(error(ChatError("c", "m"))) == {"type": "error", "code": "c", "message": "m"}
    assert json.loads(error(ChatError("c", "m", key="", room="r"))) == {
        "type": "error",
        "code": "c",
        "message": "m",
        "key": "",
        "room": "r",
    }


@given(
    st.text(
        st.sampled_from("e\u0301\u0327\u0308\ufdfa\u1f82\uac01\u1100\u1161\u11a8 \u00a8"),
        max_size=160,
    )
)
@example("\u1f82" * MAX_NAME)
@example("e" + "\u0301" * (MAX_NAME - 1))
@example("\uac01" * MAX_NAME)
def test_name_is_too_long_only_if_its_composition_is(name: str) -> None:
    composed = unicodedata.normalize("NFKC", name).strip()
    if _is_too_long(name):
        assert len(composed) > MAX_NAME


def test_name_with_many_marks_is_refused_before_composition() -> None:
    forms: list[str] = []

    def normalize(form: Any, text: str) -> str:
        forms.append(form)
        return unicodedata.normalize(form, text)

    for name in ("\ufdfa" * 128, "\u0301\u0327" * 64, "e" + "\u0301" * 127):
        with (
            patch("chatd.model.unicodedata", Mock(wraps=unicodedata, normalize=normalize)),
            pytest.raises(InvalidName, match="1 to 32 characters"),
        ):
            normalize_name(name)
    assert set(forms) == {"NFKD"}
