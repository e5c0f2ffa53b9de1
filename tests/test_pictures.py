"""Tests of the pictures: docstrings, README and SVG files agree with the code."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, LEARN
from tests.pictures import places
from tests.pictures.__main__ import main
from tests.pictures.canvas import MAX_COLUMNS, Canvas
from tests.pictures.connection_picture import ARROWS, connection_picture
from tests.pictures.connection_table import INPUTS, connection_table
from tests.pictures.conversation import conversation
from tests.pictures.fragmentation import describe, fragmentation_picture, fragmentation_table
from tests.pictures.frame import frame_picture
from tests.pictures.picture import Picture
from tests.pictures.places import PACKAGE, PLACES, Place, expected_files, images, with_picture
from tests.pictures.svg import to_svg
from tests.support import ROOT
from wsproto_min import rules
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Role, State
from wsproto_min.errors import ProtocolError
from wsproto_min.frames import Frame
from wsproto_min.messages import MessageAssembler

PICTURES = {place.module: place.make() for place in PLACES}
EACH_PLACE = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.module)
EACH_PICTURE = pytest.mark.parametrize(
    "picture", PICTURES.values(), ids=lambda picture: picture.name
)
SVG = "{http://www.w3.org/2000/svg}"


# Docstrings, README and files


@EACH_PLACE
def test_docstring_has_the_picture_of_the_code(place: Place) -> None:
    name = "wsproto_min." + place.module.removesuffix(".py").replace("__init__", "")
    docstring = importlib.import_module(name.rstrip(".")).__doc__ or ""
    figure = docstring.partition(f"{place.before}\n\n")[2]
    shown = figure.startswith(
        "\n".join(
            f"    {line}".rstrip() for line in PICTURES[place.module].canvas.text().splitlines()
        )
        + "\n"
    )
    assert shown, f"{name}: run python3 -m tests.pictures"


def test_files_have_the_pictures_of_the_code() -> None:
    for path, text in expected_files().items():
        assert path.read_text() == text, f"{path.name}: run python3 -m tests.pictures"


def test_readme_shows_each_picture_once_with_its_content() -> None:
    found = images(DOCUMENTS[LEARN])
    assert found.keys() == {picture.name for picture in PICTURES.values()}
    for name, alternative in found.items():
        assert DOCUMENTS[LEARN].count(f"(pictures/{name}.svg)") == 1
        assert len(alternative) > 60, name


def test_directory_has_no_other_pictures() -> None:
    files = {path.name for path in (PACKAGE / "pictures").iterdir()}
    assert files == {f"{picture.name}.svg" for picture in PICTURES.values()}


def test_command_writes_and_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    package = tmp_path / "wsproto_min"
    package.mkdir()
    for place in PLACES:
        text = (PACKAGE / place.module).read_text()
        (package / place.module).write_text(text.replace("    +--", "    ???", 1))
    monkeypatch.setattr(places, "PACKAGE", package)
    monkeypatch.setattr("tests.pictures.__main__.PACKAGE", package)
    assert main(["--check"]) == 1
    assert capsys.readouterr().out.count("run: python3 -m tests.pictures\n") == 2 * len(PLACES)
    assert not (package / "pictures").exists()
    assert main([]) == 0
    assert capsys.readouterr().out.count(": written\n") == 2 * len(PLACES)
    assert main(["--check"]) == 0
    for place in PLACES:
        assert (package / place.module).read_text() == (PACKAGE / place.module).read_text()


def test_docstring_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 0 times; there must be one"):
        with_picture("Text.\n", "Figure::", "new")
    with pytest.raises(ValueError, match="no indented block follows"):
        with_picture("Figure::\nText.\n", "Figure::", "new")


# SVG and text


@EACH_PICTURE
def test_svg_is_small_and_has_title_and_description(picture: Picture) -> None:
    text = to_svg(picture)
    assert len(text) < 12_000
    root = ET.fromstring(text)
    assert root.findtext(f"{SVG}title") == picture.title
    assert root.findtext(f"{SVG}desc") == picture.description
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"href|url\(|@import|<script", text)


@EACH_PICTURE
def test_svg_has_the_text_of_the_picture_in_its_place(picture: Picture) -> None:
    lines = picture.canvas.text().splitlines()
    assert max(map(len, lines)) <= MAX_COLUMNS
    for label in picture.canvas.labels:
        column, row = label.start
        assert lines[row][column : column + len(label.text)] == label.text
    shown = [each.text for each in ET.fromstring(to_svg(picture)).iter(f"{SVG}text")]
    assert shown == [label.text for label in picture.canvas.labels]


@EACH_PICTURE
def test_svg_uses_only_classes_with_both_colours(picture: Picture) -> None:
    text = to_svg(picture)
    light, _, dark = text.partition("@media")
    for name in set(re.findall(r'class="(\w+)"', text)) - {"name"}:
        assert f".{name}{{" in light.partition("<style>")[2], name
        assert f".{name}{{" in dark, name


def test_canvas_refuses_a_wide_picture_and_hidden_text() -> None:
    canvas = Canvas()
    canvas.label((MAX_COLUMNS - 1, 0), "ab")
    with pytest.raises(ValueError, match="77 columns wide; 76 are allowed"):
        canvas.text()
    canvas = Canvas()
    canvas.box((0, 0), 8, ("box",))
    canvas.label((3, 1), "text")
    with pytest.raises(ValueError, match="the place is not empty"):
        canvas.text()
    canvas = Canvas()
    canvas.arrow((0, 0), (3, 3))
    with pytest.raises(ValueError, match="neither horizontal nor vertical"):
        canvas.text()


def test_canvas_draws_corners_crossings_and_heads() -> None:
    canvas = Canvas()
    canvas.box((0, 0), 5, ("",))
    canvas.box((4, 0), 5, ("b",))
    canvas.arrow((2, 2), (2, 4), (12, 4), (12, 1), (8, 1))
    canvas.arrow((7, 2), (7, 6), head=False)
    assert canvas.text().splitlines() == [
        "+---+---+",
        "|   | b | <-+",
        "+---+---+   |",
        "  |    |    |",
        "  +----+----+",
        "       |",
    ]


# State diagram of a connection


def test_connection_diagram_has_all_states_and_changes() -> None:
    table = connection_table()
    assert {state for state, _ in table} == set(State) - {State.CONNECTING}
    assert len(table) == 4 * len(INPUTS)
    changes = {(state, effect.state) for (state, _), effect in table.items()}
    assert {(begin, end) for begin, end in changes if begin is not end} == ARROWS.keys()
    assert all(begin <= end for begin, end in changes)
    picture = connection_picture()
    for (state, name), effect in table.items():
        if effect.state is not state:
            assert name in picture.canvas.text()
            assert f"{state.name} to {effect.state.name}: " in picture.description


class ClosesAtOnce(Connection):
    """A connection with a wrong transition: close() does not wait for the peer's Close."""

    __slots__ = ()

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.fail(code, reason)


class ForgetsClose(Connection):
    """A connection that sends no Close frame after a violation by a server."""

    __slots__ = ()

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, reason)
        if self.role is Role.CLIENT:
            self.data_to_send()


class Reopens(Connection):
    """A connection that goes back from CLOSED to FLUSHING."""

    __slots__ = ()

    def fail(self, code: int, reason: str = "") -> None:
        super().fail(code, reason)
        self.state = State.FLUSHING


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (ClosesAtOnce, "arrow OPEN to CLOSING: not a transition of the code"),
        (ForgetsClose, "violation in OPEN: .* and .*"),
        (Reopens, "transition CLOSED to FLUSHING: the layout has no arrow for it"),
    ],
)
def test_wrong_transition_of_a_connection_is_found(make: type[Connection], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        connection_picture(connection_table(make))


def test_arrow_that_the_layout_lacks_is_found() -> None:
    arrows = {change: draw for change, draw in ARROWS.items() if change[1] is not State.CLOSED}
    with pytest.raises(ValueError, match="to CLOSED: the layout has no arrow for it"):
        connection_picture(arrows=arrows)
    extra = {**ARROWS, (State.CLOSED, State.OPEN): next(iter(ARROWS.values()))}
    with pytest.raises(ValueError, match="arrow CLOSED to OPEN: not a transition of the code"):
        connection_picture(arrows=extra)


def test_labels_without_room_are_found() -> None:
    table = connection_table()
    table[State.OPEN, "restart()"] = table[State.OPEN, "fail()"]
    with pytest.raises(ValueError, match="there is room for 3"):
        connection_picture(table)


def test_changed_label_changes_the_picture() -> None:
    table = connection_table()
    table[State.OPEN, "close()"] = table[State.OPEN, "close()"]._replace(sends_close=False)
    assert connection_picture(table).canvas.text() != connection_picture().canvas.text()


# State diagram of fragmentation


def test_fragmentation_diagram_has_all_frames_and_rules() -> None:
    table = fragmentation_table()
    assert sum(map(len, table.values())) == 12  # two states, three opcodes, two values of FIN
    broken = {target for _, target in table if not isinstance(target, bool)}
    assert broken == {rules.NOTHING_TO_CONTINUE, rules.MESSAGE_NOT_ENDED}
    text = fragmentation_picture().canvas.text()
    for kinds in table.values():
        assert describe(kinds) in text


class AllowsNesting(MessageAssembler):
    """An assembler with a wrong transition: a message may begin within another one."""

    __slots__ = ()

    def receive_frame(self, frame: Frame) -> str | bytes | None:
        try:
            return super().receive_frame(frame)
        except ProtocolError as error:
            if error.rule is rules.MESSAGE_NOT_ENDED:
                return None
            raise


class RefusesBinary(MessageAssembler):
    """An assembler with a wrong violation: a binary message in one frame."""

    __slots__ = ()

    def receive_frame(self, frame: Frame) -> str | bytes | None:
        if frame.opcode is Opcode.BINARY and frame.fin and self.idle:
            raise ProtocolError(rules.NOTHING_TO_CONTINUE)
        return super().receive_frame(frame)


@pytest.mark.parametrize(
    ("make", "problem"),
    [(AllowsNesting, "not the layout's"), (RefusesBinary, "no label for these together")],
)
def test_wrong_transition_of_fragments_is_found(make: type[MessageAssembler], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fragmentation_picture(fragmentation_table(make))


# Figure of a frame, and sequence


def test_frame_figure_names_all_fields_at_their_positions() -> None:
    description = frame_picture().description
    assert "FIN 1, RSV1 1, RSV2 1, RSV3 1, opcode 4, MASK 1, payload len 7." in description
    for form in (
        "0 to 125: header bytes 0 to 1, masking key bytes 2 to 5, payload byte 6 on.",
        "126: header bytes 0 to 1, extended length bytes 2 to 3, masking key bytes 4 to 7,",
        "127: header bytes 0 to 1, extended length bytes 2 to 9, masking key bytes 10 to 13,",
    ):
        assert form in description


def test_sequence_has_all_bytes_and_ends_closed() -> None:
    steps = conversation()
    text = PICTURES["__init__.py"].canvas.text()
    for step in steps:
        assert all(line in text for line in step.lines)
    assert steps[-1].states == (State.CLOSED, State.CLOSED)
    for before, after in pairwise(steps):
        assert all(old <= new for old, new in zip(before.states, after.states, strict=True))
    assert [step.sender for step in steps if step.title == "end of the stream"] == [
        Role.SERVER,
        Role.CLIENT,
    ]


def test_pictures_are_the_same_in_every_run() -> None:
    assert expected_files() == expected_files()
    assert (ROOT / "wsproto_min/pictures").is_dir()
