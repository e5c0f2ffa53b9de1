"""The command line: what is good, what is refused in one line, and what the banner says."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chatd.__main__ import main
from chatd.access.invitations import Invitations
from chatd.access.trusted_networks import parse_proxy
from chatd.options import parse_arguments
from chatd.storage.sqlite import SQLiteStore
from tests.support import PATIENCE, ROOT, command, daemon, need_ipv6

SERVE = ("keep_messages", "keep_days", "rate_limit", "allow_host", "allow_origin", "db")


def test_ctrl_c_before_it_serves_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chatd.__main__.SQLiteStore", interrupt)
    assert main(["--db", ":memory:"]) == 130
    assert capsys.readouterr() == ("", "")


def test_without_options_it_serves_this_machine_alone_and_keeps_all() -> None:
    options = parse_arguments([])
    assert options.command == "serve"
    assert (options.host, options.port, options.unix) == ("127.0.0.1", 8765, None)
    assert [getattr(options, name) for name in SERVE] == [None, None, 20.0, [], [], None]
    assert not options.invite_only


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--port", "65535"], "port", 65535),
        (["--port", "0"], "port", 0),
        (["--keep-messages", "1"], "keep_messages", 1),
        (["--keep-messages", "9" * 30], "keep_messages", 2**63 - 1),  # as SQLite can count
        (["--keep-days", "0.5"], "keep_days", 0.5),
        (["--keep-days", "36500"], "keep_days", 36500.0),
        (["--rate-limit", "0"], "rate_limit", 0.0),
        (["--rate-limit", "2.5"], "rate_limit", 2.5),
        (["--allow-host", "a", "--allow-host", "b"], "allow_host", ["a", "b"]),
        (["--allow-origin", "https://a"], "allow_origin", ["https://a"]),
        (["--trusted-proxy", "unix"], "trusted_proxy", ["unix"]),
        (["--trusted-proxy", "10.0.0.0/8"], "trusted_proxy", [parse_proxy("10.0.0.0/8")]),
        (["--db", "a"], "db", "a"),
        (["--db", "a", "invite", "Ann"], "db", "a"),
        (["invite", "Ann", "--db", "a"], "db", "a"),
        (["--db", "a", "revoke", "Ann", "--db", "b"], "db", "b"),
        (["invite", " Ａnn "], "name", "Ann"),  # noqa: RUF001 a full-width letter
        (["invite", "Ann", "--days", "36500"], "days", 36500.0),
        (["invite", "Ann", "--room", "a", "--room", "b"], "room", ["a", "b"]),
        (["invite", "Ann"], "command", "invite"),
        (["revoke", "Ann"], "command", "revoke"),
    ],
)
def test_what_makes_sense_is_understood(arguments: list[str], name: str, value: object) -> None:
    assert getattr(parse_arguments(arguments), name) == value


NUMBERS = ["", "x", "-1", "nan", "inf", "1e999", "٣x"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        *(([f"--rate-limit={value}"], "--rate-limit") for value in NUMBERS),
        *(([f"--keep-days={value}"], "--keep-days") for value in (*NUMBERS, "0", "36501")),
        *(
            ([f"--keep-messages={value}"], "--keep-messages")
            for value in (*NUMBERS, "0", "1.5", "٣", "9" * 5000)
        ),
        *((["invite", "Ann", f"--days={value}"], "--days") for value in (*NUMBERS, "0", "36501")),
        *((["invite", "Ann", "--room", value], "--room") for value in ("", "a b", "x" * 65)),
        *(
            ([which, name], "NAME")
            for which in ("invite", "revoke")
            for name in ("", " ", "x" * 33, "a\u202eb", "a\nb")
        ),
        *(
            ([f"--port={value}"], "--port")
            for value in ("", "65536", "-1", "http", "٣", "9" * 5000)
        ),
        *(
            ([f"--{which}={value}"], f"--{which}")
            for which in ("max-peers", "max-per-address")
            for value in ("", "x", "-1", "1.5", "٣")
        ),
        *((["--allow-host", name], name) for name in ("http://a/", "a:80", "a b", "ä")),
        *(
            (["--allow-origin", site], "is not a site like https://example.org")
            for site in ("example.org", "https://a/path", "ftp://a", "https://", "null", "")
        ),
        *(
            (["invite", "Ann", "--url", page], "is not a page like https://example.org/")
            for page in ("example.org", "ftp://a/", "https://a/#b", "https://a/?b", "/")
        ),
        (["--db="], "--db"),
        (["invite", "Ann", "--db", ""], "--db"),
        (["invite"], "NAME"),
        (["revoke"], "NAME"),
        (["revoke", "Ann", "Ben"], "Ben"),
        (["invited", "Ann"], "invited"),
        (["--trusted-proxy", "10.0.0.1/8"], "--trusted-proxy"),
        (["--trusted-proxy", "me"], "--trusted-proxy"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "cert.pem", "--unix", "socket"], "--tls-cert or --unix"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_with_status_2(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    output, errors = capsys.readouterr()
    assert caught.value.code == 2
    assert output == ""
    assert errors.startswith("chatd"), errors
    assert word in errors
    assert errors.count("\n") == 1, errors


def fails(*arguments: str) -> str:
    """Return the one line that a process says which cannot do its work."""
    result = subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.startswith("chatd: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_second_daemon_on_a_file_is_refused_in_one_line_and_the_first_serves_on(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "chat.db")
    with daemon("chatd", "--port", "0", "--db", path) as running:
        line = fails("--port", "0", "--db", path)
        assert f"message store {path}: in use by another chatd" in line
        assert "--db" in line
        assert running.stop() == (0, "")
    with daemon("chatd", "--port", "0", "--db", path) as running:
        assert running.stop() == (0, "")


def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear Ann, " * 1000)
    line = fails("--port", "0", "--db", str(path))
    assert "file is not a database; see what `chatd check` says of it, or put a backup" in line
    line = fails("--port", "0", "--db", str(tmp_path / "no" / "chat.db"))
    assert "No such file or directory; its directory must exist and be writable" in line


def test_a_state_directory_that_cannot_be_made_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["--port", "0"]) == 0
    assert f"(messages in {tmp_path}/state/chatd/chat.db; " in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    for arguments in (
        ["--port", "0"],
        ["--port", "0", "--invite-only"],
        ["invite", "Ann"],
        ["revoke", "Ann"],
    ):
        assert main(arguments) == 2, arguments
        output, errors = capsys.readouterr()
        assert output == ""
        assert f"{tmp_path}/file/chatd" in errors
        assert errors.count("\n") == 1, errors


def test_a_secret_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    (tmp_path / "chat.db").touch()
    for arguments in (["invite", "Ann"], ["--invite-only"]):
        assert main([*arguments, "--db", str(tmp_path / "chat.db")]) == 2
        errors = capsys.readouterr().err
        assert "holds no secret; remove it" in errors
        assert errors.count("\n") == 1, errors


def test_the_banner_names_the_file_of_the_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon("chatd", "--port", "0", "--db", ":memory:") as running:
        assert "(messages in memory only; " in running.line
    path = str(tmp_path / "chat.db")
    with daemon("chatd", "--port", "0", "--db", path) as running:
        assert f"(messages in {path}; " in running.line
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with daemon("chatd", "--port", "0") as running:
        assert f"(messages in {tmp_path}/chatd/chat.db; " in running.line
    assert (tmp_path / "chatd").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (("--host", "127.0.0.1"), False),
        (("--host", "localhost"), False),
        (("--host", "::1"), False),
        (("--host", "127.0.0.1", "--invite-only"), False),
        (("--unix", "{directory}/socket"), False),
    ],
)
def test_who_can_reach_it_is_told_where_that_is_not_this_machine_alone(
    tmp_path: Path,
    arguments: tuple[str, ...],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "::1" in arguments:
        need_ipv6()
    arguments = tuple(each.format(directory=tmp_path) for each in arguments)
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    assert main([*arguments, "--port", "0", "--db", str(tmp_path / "chat.db")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("--invite-only" in line) for line in lines] == [False, True][: 1 + warned]


@pytest.mark.parametrize(
    ("more", "warned"), [((), True), (("--invite-only",), False)], ids=["open", "by invitation"]
)
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "chat.example"])
def test_beyond_this_machine_the_banner_says_who_can_read_and_write(
    tmp_path: Path,
    host: str,
    more: tuple[str, ...],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Nothing is bound: the tests keep to 127.0.0.1.
    monkeypatch.setattr("chatd.app.Server.listen", lambda *_: (host, 8765))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    assert main(["--host", host, "--db", str(tmp_path / "chat.db"), *more]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("chatd is ready: open http://")
    assert len(rest) == warned
    for line in rest:
        assert "can read and write here" in line
        assert "--invite-only" in line


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8765/"), ("::", "http://[::1]:8765/"), ("h", "http://h:8765/")],
)
def test_the_url_of_the_banner_can_be_opened(
    host: str,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("chatd.app.Server.listen", lambda *_: (host, 8765))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    assert main(["--host", host, "--db", ":memory:"]) == 0
    assert f" open {url} " in capsys.readouterr().out


def test_the_module_runs_the_command_line_and_ends_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "chat.db")
    SQLiteStore(path).close()
    Invitations(tmp_path)
    for arguments, printed in (
        (["invite", "Ann", "--url", "https://chat.example/"], "https://chat.example/#invite="),
        (["revoke", "Ann"], "all invitations for Ann are void from now on\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["chatd", *arguments, "--db", path])
        monkeypatch.delitem(sys.modules, "chatd.__main__", raising=False)
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("chatd", run_name="__main__")
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(printed)


def test_what_the_log_says_ends_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--db", str(tmp_path), "--port", "0"]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_a_taken_port_and_a_host_of_another_machine_are_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--db", ":memory:", "--port", port]) == 2
        assert f"port {port} on 127.0.0.1 is taken" in capsys.readouterr().err
    assert main(["--db", ":memory:", "--host", "192.0.2.1", "--port", "0"]) == 2
    errors = capsys.readouterr().err
    assert "cannot listen on 192.0.2.1" in errors
    assert "--host" in errors


def test_a_port_that_needs_more_rights_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("chatd.app.Server.listen", refuse)
    assert main(["--port", "80", "--db", ":memory:"]) == 2
    assert "choose one from 1024 up with --port" in capsys.readouterr().err


def test_a_unix_socket_that_is_taken_or_cannot_be_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        assert main(["--unix", path, "--db", ":memory:"]) == 2
        assert f"{path} is taken" in capsys.readouterr().err
    assert main(["--unix", str(tmp_path / "no" / "socket"), "--db", ":memory:"]) == 2
    assert "No such file or directory; choose another path" in capsys.readouterr().err
    assert main(["--unix", "x" * 200, "--db", ":memory:"]) == 2
    assert "too long" in capsys.readouterr().err


def test_a_certificate_that_is_good_makes_it_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Whether it is good is for the ssl module to say.
    loaded: list[tuple[str, str | None]] = []
    monkeypatch.setattr(
        "ssl.SSLContext.load_cert_chain", lambda _, file, key: loaded.append((file, key))
    )
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.__main__.signal.signal", lambda *_: None)
    options = ["--db", ":memory:", "--port", "0", "--tls-cert", "c.pem"]
    assert main(options) == 0
    assert main([*options, "--tls-key", "k.pem"]) == 0
    assert loaded == [("c.pem", None), ("c.pem", "k.pem")]
    assert capsys.readouterr().out.count(" open https://127.0.0.1:") == 2


def test_a_certificate_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter"
    letter.write_text("Dear Ann")
    for arguments, word in (
        (["--tls-cert", str(letter)], "none in PEM format"),
        (["--tls-cert", str(letter), "--tls-key", str(letter)], f"with the key {letter}"),
        (["--tls-cert", str(tmp_path / "missing")], "No such file or directory"),
    ):
        assert main([*arguments, "--db", ":memory:"]) == 2
        errors = capsys.readouterr().err
        assert word in errors
        assert errors.count("\n") == 1, errors


@pytest.mark.parametrize("name", ["invite", "revoke"])
def test_no_secret_is_made_for_a_log_that_is_not_there_or_has_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.db"
    assert main([name, "Ann", "--db", str(path)]) == 2
    assert f"there is no log {path}; give --db as" in capsys.readouterr().err
    path.touch()
    assert main([name, "Ann", "--db", str(path)]) == 2
    assert "no secret of invitations" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
