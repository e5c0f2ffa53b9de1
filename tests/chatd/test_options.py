"""Command line: options, errors of one line, and the ready line."""

from __future__ import annotations

import errno
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import chatd
from chatd.__main__ import main
from chatd.access.invitations import Invitations
from chatd.access.trusted_networks import parse_network
from chatd.options import parse_arguments
from chatd.storage.sqlite import SQLiteStore
from tests.support import PATIENCE, ROOT, command, daemon, need_ipv6, poll, read_to_end

SERVE = ("keep_messages", "keep_days", "rate_limit", "allow_host", "allow_origin", "db")


def test_interrupt_before_serving_exits_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chatd.serve.SQLiteStore", interrupt)
    assert main(["--db", ":memory:"]) == 130
    assert capsys.readouterr() == ("", "")


def test_defaults_serve_this_machine_only_and_keep_all_messages() -> None:
    options = parse_arguments([])
    assert options.command == "serve"
    assert (options.host, options.port, options.unix) == (["127.0.0.1"], 8765, None)
    assert [getattr(options, name) for name in SERVE] == [None, None, 20.0, [], [], None]
    assert not options.invite_only


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--host", "::1"], "host", ["::1"]),
        (["--host", "::1", "--host", "localhost"], "host", ["::1", "localhost"]),
        (["--port", "65535"], "port", 65535),
        (["--port", "0"], "port", 0),
        (["--keep-messages", "1"], "keep_messages", 1),
        (["--keep-messages", "9" * 30], "keep_messages", 2**63 - 1),  # SQLite's limit
        (["--keep-days", "0.5"], "keep_days", 0.5),
        (["--keep-days", "36500"], "keep_days", 36500.0),
        (["--rate-limit", "0"], "rate_limit", 0.0),
        (["--rate-limit", "2.5"], "rate_limit", 2.5),
        (["--allow-host", "a", "--allow-host", "b"], "allow_host", ["a", "b"]),
        (["--allow-origin", "https://a"], "allow_origin", ["https://a"]),
        *(
            (["--allow-origin", app], "allow_origin", [app])
            for app in ("tauri://localhost", "capacitor://localhost", "app://.", "file://")
        ),
        (["--trusted-proxy", "unix"], "trusted_proxy", ["unix"]),
        (["--trusted-proxy", "10.0.0.0/8"], "trusted_proxy", [parse_network("10.0.0.0/8")]),
        (["--db", "a"], "db", "a"),
        (["--db", "a", "invite", "Ann"], "db", "a"),
        (["invite", "Ann", "--db", "a"], "db", "a"),
        (["--db", "a", "revoke", "Ann", "--db", "b"], "db", "b"),
        (["invite", " Ａnn "], "name", "Ann"),  # noqa: RUF001 a full-width letter
        (["invite", "Ann", "--days", "36500"], "days", 36500.0),
        (["invite", "Ann", "--room", "a", "--room", "b"], "room", ["a", "b"]),
        (["invite", "Ann"], "command", "invite"),
        (["revoke", "Ann"], "command", "revoke"),
        (["--store", "postgresql://ann@h1,h2/chat"], "store", "postgresql://ann@h1,h2/chat"),
        (["check", "--store", "postgres:///chat"], "store", "postgres:///chat"),
        (["--node", "a-1"], "node", "a-1"),
        (["--store", "postgresql:///chat", "--reuse-port"], "reuse_port", True),
        (["--store-timeout", "2.5"], "store_timeout", 2.5),
        (["migrate", "--db", "a", "--store", "postgresql:///chat"], "command", "migrate"),
    ],
)
def test_valid_arguments_are_parsed(arguments: list[str], name: str, value: object) -> None:
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
            for which in ("max-peers", "max-per-address", "max-rooms")
            for value in ("", "x", "-1", "1.5", "٣")
        ),
        *(
            ([f"--{which}={value}"], f"--{which}")
            for which in ("max-handshakes", "max-write-buffers", "max-unfinished", "write-timeout")
            for value in ("", "x", "-1", "0")
        ),
        *((["--allow-host", name], name) for name in ("http://a/", "a:80", "a b", "ä")),
        *(
            (["--allow-origin", site], "is not an origin like https://example.org or tauri://")
            for site in (
                *("example.org", "https://a/path", "https://", "", "//a", "://a", "1a://b"),
                *("tauri://a/path", "https://ä.example", "https://*.example.org", "https://a@b"),
                *("tauri:localhost", "https:example.org", "https:///", "file:///home"),
            )
        ),
        *((["--allow-origin", null], "any site can send it") for null in ("null", "NULL")),
        *(
            (["invite", "Ann", "--url", page], "is not a page like https://example.org/")
            for page in ("example.org", "ftp://a/", "https://a/#b", "https://a/?b", "/")
        ),
        *((["--store", url], "--store") for url in ("", "chat.db", "mysql://a/b", "host=a")),
        (["--store", "postgresql://ann:secret@host/chat"], "use PGPASSWORD"),
        (["--store", "postgresql:///chat?password=secret"], "use PGPASSWORD"),
        (["--store", "postgresql:///chat", "--db", "a"], "exclude each other"),
        (["--reuse-port"], "--reuse-port needs --store"),
        (["migrate", "--db", "a"], "migrate needs --store"),
        *((["--node", name], "--node") for name in ("", "a b", "x" * 33)),
        *((["--store-timeout", value], "--store-timeout") for value in ("0", "x")),
        (["--db="], "--db"),
        (["invite", "Ann", "--db", ""], "--db"),
        (["invite"], "NAME"),
        (["revoke"], "NAME"),
        (["revoke", "Ann", "Ben"], "Ben"),
        (["invited", "Ann"], "invited"),
        (["--trusted-proxy", "10.0.0.1/8"], "--trusted-proxy"),
        (["--trusted-proxy", "me"], "--trusted-proxy"),
        *(
            (arguments, "chatd: unknown option '--hots' (see --help)")
            for arguments in (
                ["--hots", "x"],
                ["--hots=x", "y"],
                ["--port", "0", "--hots", "x"],
                ["--hots", "x", "--port", "0", "invite", "Ann"],
                ["--db", "a", "--hots", "x", "--help"],
            )
        ),
        (["-x", "y"], "'-x'"),
        (["--hots"], "--hots"),
        (["--hots=x"], "--hots"),
        (["invite", "--dayz", "3", "Ann"], "--dayz"),
        (["revoke", "Ann", "--forse"], "--forse"),
        (["--port", "0", "invited", "Ann"], "'invited'"),
        (["--port", "x", "invited", "Ann"], "--port"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "cert.pem", "--unix", "socket"], "--tls-cert or --unix"),
    ],
)
def test_invalid_arguments_exit_with_2_and_one_line(
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


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_option_prints_all_versions_in_one_line(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([option])
    output, errors = capsys.readouterr()
    assert (caught.value.code, errors) == (0, "")
    assert output.startswith(f"chatd {chatd.__version__} (Python 3.")
    assert "SQLite 3." in output
    assert output.count("\n") == 1, output


def fails(*arguments: str) -> str:
    """Run a command that must fail; return its one line on standard error."""
    result = subprocess.run(
        command("chatd", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.startswith("chatd: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_second_server_on_a_store_fails_with_one_line(
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


def test_file_of_another_kind_fails_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear Ann, " * 1000)
    line = fails("--port", "0", "--db", str(path))
    assert "file is not a database; run `chatd check`, restore a backup, or choose another" in line
    line = fails("--port", "0", "--db", str(tmp_path / "no" / "chat.db"))
    assert "No such file or directory; create its directory and make it writable" in line


def test_missing_state_directory_is_created_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
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


def test_unusable_secret_fails_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    (tmp_path / "chat.db").touch()
    for arguments in (["invite", "Ann"], ["--invite-only"]):
        assert main([*arguments, "--db", str(tmp_path / "chat.db")]) == 2
        errors = capsys.readouterr().err
        assert "shorter than 32 bytes; remove the file" in errors
        assert errors.count("\n") == 1, errors


def test_ready_line_names_the_database_file(
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
def test_local_or_invite_only_server_prints_no_warning(
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
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    assert main([*arguments, "--port", "0", "--db", str(tmp_path / "chat.db")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("--invite-only" in line) for line in lines] == [False, True][: 1 + warned]


@pytest.mark.parametrize(
    ("more", "warned"), [((), True), (("--invite-only",), False)], ids=["open", "by invitation"]
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::7"])
def test_server_for_other_machines_warns_about_open_access(
    tmp_path: Path,
    host: str,
    more: tuple[str, ...],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Nothing listens, because tests use 127.0.0.1 only.
    monkeypatch.setattr("chatd.app.Server.listen", lambda _, address, *__, **___: (address, 8765))
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    assert main(["--host", host, "--db", str(tmp_path / "chat.db"), *more]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("chatd is ready: open http://")
    assert len(rest) == warned
    for line in rest:
        assert "can read and write here" in line
        assert "--invite-only" in line


def test_module_runs_main_and_exits_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "chat.db")
    SQLiteStore(path).close()
    Invitations(tmp_path)
    for arguments, printed in (
        (["invite", "Ann", "--url", "https://chat.example/"], "https://chat.example/#invite="),
        (["revoke", "Ann"], "all invitations for Ann are revoked\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["chatd", *arguments, "--db", path])
        monkeypatch.delitem(sys.modules, "chatd.__main__", raising=False)
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("chatd", run_name="__main__")
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(printed)


def test_store_error_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--db", str(tmp_path), "--port", "0"]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_used_port_and_foreign_host_fail_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--db", ":memory:", "--port", port]) == 2
        assert f"port {port} on 127.0.0.1: in use" in capsys.readouterr().err
    assert main(["--db", ":memory:", "--host", "192.0.2.1", "--port", "0"]) == 2
    errors = capsys.readouterr().err
    assert "host 192.0.2.1: cannot listen" in errors
    assert "--host" in errors


def test_privileged_port_fails_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("chatd.app.Server.listen", refuse)
    assert main(["--port", "80", "--db", ":memory:"]) == 2
    assert "choose a port from 1024 up with --port" in capsys.readouterr().err


def test_unusable_unix_socket_fails_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        assert main(["--unix", path, "--db", ":memory:"]) == 2
        assert f"Unix socket {path}: in use" in capsys.readouterr().err
    assert main(["--unix", str(tmp_path / "no" / "socket"), "--db", ":memory:"]) == 2
    assert "No such file or directory; choose another path" in capsys.readouterr().err
    assert main(["--unix", "x" * 200, "--db", ":memory:"]) == 2
    assert "too long" in capsys.readouterr().err


def remove_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the module `socket` that of a system without Unix sockets."""
    pair = socket.socketpair()  # such a system makes the pair of TCP sockets
    monkeypatch.setattr("socket.socketpair", lambda: pair)
    monkeypatch.delattr(socket, "AF_UNIX")


def test_unix_option_without_unix_sockets_fails_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    arguments = ["--unix", str(tmp_path / "socket"), "--db", ":memory:"]
    with monkeypatch.context() as patch:  # a service manager forbids the address family
        patch.setattr("chatd.app.Server.listen_unix", refuse)
        assert main(arguments) == 2
    with monkeypatch.context() as patch:  # a system without Unix sockets
        remove_unix_sockets(patch)
        assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "Unix sockets are not available to this process; listen on TCP with --host" in line


def test_server_listens_on_tcp_without_unix_sockets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove_unix_sockets(monkeypatch)
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    assert main(["--port", "0", "--db", ":memory:"]) == 0
    assert "chatd is ready" in capsys.readouterr().out


def test_event_loop_without_sockets_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr("socket.socketpair", refuse)
    assert main(["--port", "0", "--db", ":memory:"]) == 2
    errors = capsys.readouterr().err
    assert "event loop: cannot create its sockets" in errors
    assert "AF_UNIX" in errors
    assert errors.count("\n") == 1, errors


@pytest.mark.parametrize("missing", ["fcntl", "resource"])
def test_system_that_is_not_a_unix_gets_one_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from chatd.__main__ import main"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main([]))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "chatd: this system is not a Unix; run chatd on Linux or macOS, or on Windows in WSL\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "0"],
        ["--invite-only"],
        ["invite", "Ann"],
        ["revoke", "Ann"],
        ["check"],
        ["export"],
    ],
    ids=" ".join,
)
def test_user_without_home_directory_gets_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no entry for the user
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert "this user has no home directory; choose a file with --db" in errors
    assert errors.count("\n") == 1, errors


def run_with_closed_streams(closing: str, *arguments: str) -> tuple[int, str, str]:
    """Run chatd with closed streams; return the status and both outputs."""
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *command("chatd", *arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_server_with_closed_streams_serves(closing: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = command("chatd", "--unix", str(path), "--db", str(tmp_path / "chat.db"))
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)

                def connects() -> bool:
                    assert process.poll() is None, process.communicate()
                    return sock.connect_ex(str(path)) == 0  # it fails before listen()

                poll(connects, "chatd listens")
                sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert read_to_end(sock).endswith(b"ok\n")
            for number in range(3):  # neither the store nor a socket takes a standard descriptor
                target = os.readlink(f"/proc/{process.pid}/fd/{number}")
                assert target.startswith(("/dev/", "pipe:")), target
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
            assert (process.returncode, errors.decode()) == (0, "")
        finally:
            process.kill()


def test_commands_with_closed_output_fail_with_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    SQLiteStore(path).close()
    Invitations(tmp_path)
    for arguments in (["invite", "Ann"], ["check"], ["export"]):
        assert run_with_closed_streams(">&-", *arguments, "--db", path) == (
            *(2, ""),
            "chatd: standard output: closed; redirect it to a file or to /dev/null\n",
        )
        assert run_with_closed_streams(">&- 2>&-", *arguments, "--db", path) == (2, "", "")
    assert run_with_closed_streams(">&-", "revoke", "Ann", "--db", path) == (0, "", "")
    assert run_with_closed_streams("2>&-", "--unix", "x" * 200, "--db", path) == (2, "", "")
    for arguments in (["invite", "Ann"], ["revoke", "Ann"], ["check"]):
        status, _, errors = run_with_closed_streams(">/dev/full", *arguments, "--db", path)
        assert (status, errors) == (
            2,
            "chatd: standard output: cannot write: No space left on device\n",
        )


def test_server_with_certificate_announces_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The ssl module validates certificates, so a stub is enough.
    loaded: list[tuple[str, str | None]] = []
    monkeypatch.setattr(
        "ssl.SSLContext.load_cert_chain", lambda _, file, key, password: loaded.append((file, key))
    )
    monkeypatch.setattr("chatd.app.Server.run", lambda server: server.stop())
    monkeypatch.setattr("chatd.serve.signal.signal", lambda *_: None)
    options = ["--db", ":memory:", "--port", "0", "--tls-cert", "c.pem"]
    assert main(options) == 0
    assert main([*options, "--tls-key", "k.pem"]) == 0
    assert loaded == [("c.pem", None), ("c.pem", "k.pem")]
    assert capsys.readouterr().out.count(" open https://127.0.0.1:") == 2


def test_unusable_certificate_fails_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter"
    letter.write_text("Dear Ann")
    for arguments, word in (
        (["--tls-cert", str(letter)], "not in PEM format"),
        (["--tls-cert", str(letter), "--tls-key", str(letter)], f"with the key {letter}"),
        (["--tls-cert", str(tmp_path / "missing")], "No such file or directory"),
    ):
        assert main([*arguments, "--db", ":memory:"]) == 2
        errors = capsys.readouterr().err
        assert word in errors
        assert errors.count("\n") == 1, errors


@pytest.mark.parametrize("name", ["invite", "revoke"])
def test_invite_and_revoke_create_no_store_and_no_secret(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.db"
    assert main([name, "Ann", "--db", str(path)]) == 2
    assert f"message store {path}: no such file; start the server once" in capsys.readouterr().err
    path.touch()
    assert main([name, "Ann", "--db", str(path)]) == 2
    assert (
        f"secret {tmp_path / 'secret'}: no such file; start the server" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == [path]
