"""Tests of the command line `python -m wsproto_min`, in this process and as a process."""

from __future__ import annotations

import os
import re
import runpy
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.in_process import run_until_signal
from tests.net.tunnels import ConnectProxy, tunnels
from tests.support import PATIENCE, ROOT, Client, command, daemon, make_certificate, serving
from wsproto_min.__main__ import main
from wsproto_min.connection import Close
from wsproto_min.errors import ConnectionClosed
from wsproto_min.http import Request, Response
from wsproto_min.net.client import connect
from wsproto_min.net.peer import Peer
from wsproto_min.server_handshake import Acceptance, accept

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)


def run_main(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    number: signal.Signals,
    client: Callable[[tuple[str, int]], None],
) -> int:
    """Call `main`, call `client` with its address, then send a signal; return the exit status."""
    return run_until_signal(monkeypatch, lambda: main(arguments), number, client)


@SIGNALS
def test_echo_returns_messages_and_ends_at_a_signal(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def use(address: tuple[str, int]) -> None:
        with Client(address) as client:
            for message in ("text", b"binary", "x" * 100_000):
                client.send(message)
                assert client.receive() == message

    assert run_main(monkeypatch, ["echo", "--port", "0"], number, use) == 0


def test_echo_closes_with_1009_over_max_message_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(address: tuple[str, int]) -> None:
        with Client(address) as client:
            client.send("x" * 1000)
            assert client.receive() == "x" * 1000
            client.send("x" * 1001)
            close = client.receive()
            assert isinstance(close, Close)
            assert close.code == 1009
            with pytest.raises(ConnectionClosed):
                client.send("one more")

    arguments = ["echo", "--port", "0", "--max-message-size", "1000"]
    assert run_main(monkeypatch, arguments, signal.SIGTERM, use) == 0


def test_echo_on_taken_port_exits_with_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving() as running:
        port = running.address[1]
        status = main(["echo", "--port", str(port)])
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert errors.startswith(f"wsproto_min: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["echo", "--host", "256.1.1.1"],
        ["echo", "--host", "a..b"],
        ["echo", "--port", "65536"],
        ["echo", "--port", "-1"],
    ],
    ids=" ".join,
)
def test_echo_on_invalid_address_exits_with_status_2(arguments: list[str]) -> None:
    result = subprocess.run(
        command("wsproto_min", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("wsproto_min: cannot listen on "), result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["sing"], "sing"),
        (["echo", "--port", "http"], "http"),
        (["echo", "--loudly"], "--loudly"),
        (
            ["connect", "ws://h/", "--header", "no colon"],
            "'no colon': not a header; write 'NAME: V",
        ),
        (["connect", "ws://h/", "--header", ": no name"], "': no name': not a header"),
        (["connect", "ws://h/", "--header", "a b: c"], "'a b: c': not a header"),
        (["connect", "wss://h/", "--ca", "x", "--insecure"], "not allowed with argument --ca"),
    ],
)
def test_invalid_command_line_exits_with_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_module_runs_as_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["wsproto_min", "echo", "--help"])
    monkeypatch.delitem(sys.modules, "wsproto_min.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("wsproto_min", run_name="__main__")
    assert caught.value.code == 0
    assert "--max-message-size" in capsys.readouterr().out


@SIGNALS
def test_echo_process_ends_at_a_signal_without_errors(
    number: signal.Signals,
) -> None:
    with daemon("wsproto_min", "echo", "--port", "0") as echo:
        assert echo.line == f"echo server at ws://127.0.0.1:{echo.address[1]}/\n"
        with Client(echo.address) as client:
            client.send("hello")
            assert client.receive() == "hello"
            echo.process.send_signal(number)
            assert client.receive_all() == [Close(1001, "the server is stopping")]
            output, errors = echo.process.communicate(timeout=PATIENCE)
    assert (echo.process.returncode, output, errors) == (0, b"", b"")


def test_help_lists_the_commands() -> None:
    result = subprocess.run(
        command("wsproto_min", "--help"), cwd=ROOT, capture_output=True, timeout=PATIENCE
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"echo" in result.stdout


# echo with TLS


def test_echo_with_certificate_serves_wss(tmp_path: Path) -> None:
    certificate = str(make_certificate(tmp_path))
    with daemon("wsproto_min", "echo", "--port", "0", "--tls-cert", certificate) as echo:
        url = f"wss://127.0.0.1:{echo.address[1]}/"
        assert echo.line == f"echo server at {url}\n"
        trusting = talk(url, "--ca", certificate, typed="Hello\n")
        assert (trusting.returncode, trusting.stdout) == (0, "Hello\n"), trusting.stderr
        wary = talk(url, typed="Hello\n")
        assert (wary.returncode, wary.stdout) == (1, "")
        assert wary.stderr.startswith(f"wsproto_min: cannot connect to {url}: ")
        assert "certificate verify failed" in wary.stderr
        assert wary.stderr.count("\n") == 1
        assert echo.stop() == (0, "")


def test_echo_accepts_certificate_and_key_in_two_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)

    def use(address: tuple[str, int]) -> None:
        trust = ssl.create_default_context(cafile=certificate)
        with connect(f"wss://127.0.0.1:{address[1]}/", ssl_context=trust) as client:
            client.send("x")
            assert client.recv(timeout=PATIENCE) == "x"

    files = [
        "--tls-cert",
        str(tmp_path / "certificate.pem"),
        "--tls-key",
        str(tmp_path / "key.pem"),
    ]
    assert run_main(monkeypatch, ["echo", "--port", "0", *files], signal.SIGTERM, use) == 0


@pytest.mark.parametrize("exists", [False, True])
def test_echo_with_unusable_certificate_exits_with_status_2(
    exists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.pem"
    if exists:
        path.write_text("no certificate")
    assert main(["echo", "--port", "0", "--tls-cert", str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"wsproto_min: cannot use {path}: ")
    assert errors.count("\n") == 1


# connect


def talk(url: str, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the interactive client as a process with `typed` as its input."""
    return subprocess.run(
        command("wsproto_min", "connect", url, *options),
        cwd=ROOT,
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with daemon("wsproto_min", "echo", "--port", "0") as running:
        yield f"ws://127.0.0.1:{running.address[1]}/"


@pytest.mark.parametrize("options", [[], ["--no-compression"], ["--origin", "http://a"]], ids=str)
def test_connect_sends_lines_and_prints_messages(echo: str, options: list[str]) -> None:
    typed = "one\n" + "x" * 100_000 + "\nlast line, without line break"
    result = talk(echo, *options, typed=typed)
    assert result.stdout == f"{typed}\n"
    assert (result.returncode, result.stderr) == (0, "closed: 1000\n")


def test_connect_trace_shows_the_bytes_of_the_readme(echo: str) -> None:
    readme = (ROOT / "wsproto_min" / "README.md").read_text()
    assert "'81 05 48 65 6c 6c 6f'\n" in readme
    result = talk(echo, "--trace", typed="Hello\n")
    assert "compression: permessage-deflate" in result.stdout
    assert "<   81 05 48 65 6c 6c 6f\n" in result.stdout


def test_echo_compresses_messages_from_the_given_size() -> None:
    with daemon("wsproto_min", "echo", "--port", "0", "--compress-from", "0") as running:
        result = talk(f"ws://127.0.0.1:{running.address[1]}/", "--trace", typed="Hello\n")
    assert "<   c1 07 f2 48 cd c9 c9 07 00\n" in result.stdout
    assert ", 7 on the wire (RFC 7692, 7.2.2)\n<     'Hello'\n" in result.stdout


def test_connect_prints_each_reply_while_input_is_open(echo: str) -> None:
    process = subprocess.Popen(
        command("wsproto_min", "connect", echo),
        cwd=ROOT,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in (b"one\n", b"two\n"):
                process.stdin.write(line)
                assert select.select([process.stdout], [], [], PATIENCE)[0], "no reply"
                assert process.stdout.readline() == line
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, b"", b"closed: 1000\n")


def test_connect_trace_explains_frames_of_both_sides(echo: str) -> None:
    result = talk(echo, "--trace", typed="Hello\n")
    assert (result.returncode, result.stderr) == (0, "closed: 1000\n")
    # Both ends compress large messages only. The client may see the end of its input before or
    # after the reply.
    heads = re.findall("^([<>] [A-Z]+, .*):", result.stdout, re.MULTILINE)
    assert [head for head in heads if head[0] == ">"] == [
        "> TEXT, 11 bytes",
        "> CLOSE, 8 bytes",
    ]
    assert [head for head in heads if head[0] == "<"] == [
        "< TEXT, 7 bytes",
        "< CLOSE, 4 bytes",
    ]
    assert result.stdout.startswith("> handshake request, ")
    assert "\n< handshake response, " in result.stdout
    assert "\n>     'Hello'\n" in result.stdout
    assert "\nHello\n" in result.stdout


def test_connect_to_unreachable_server_exits_with_status_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but not listening
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        result = talk(url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"wsproto_min: cannot connect to {url}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://a/", "is not ws://HOST/PATH"), ("ws://h/#x", "fragment"), ("ws+unix:/", "")],
)
def test_connect_to_invalid_url_exits_with_status_1(
    url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connect", url]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"wsproto_min: cannot connect to {url}: ")
    assert reason in errors
    assert errors.count("\n") == 1


def test_connect_escapes_control_characters_of_a_refusal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        return Response(403, body=b"go \x1b[31maway\nat once\n")

    with serving(on_request=on_request) as running:
        host, port = running.address
        assert main(["connect", f"ws://{host}:{port}/"]) == 1
    assert capsys.readouterr().err == (
        f"wsproto_min: cannot connect to ws://{host}:{port}/: "
        "the server answered 403: go \\x1b[31maway\n"
    )


def test_connect_options_appear_in_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests: list[Request] = []

    def on_request(peer: Peer, request: Request) -> Acceptance:
        requests.append(request)
        return accept(request, subprotocols=["b"])

    options = ["--subprotocol", "a", "--subprotocol", "b", "--origin", "http://x", "--trace"]
    options += ["--header", "Authorization: Bearer x:y", "--header", "X-Empty:"]
    with serving(on_request=on_request) as running, open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        url = f"ws://{running.address[0]}:{running.address[1]}/"
        assert main(["connect", url, "--no-compression", *options]) == 0
    headers = requests[0].headers
    assert headers.tokens("Sec-WebSocket-Protocol") == ["a", "b"]
    assert headers.get("Origin") == "http://x"
    assert headers.get("Authorization") == "Bearer x:y"
    assert headers.get("X-Empty") == ""
    assert headers.get("Sec-WebSocket-Extensions") is None
    assert "> CLOSE, 8 bytes" in capsys.readouterr().out


def test_connect_posts_a_line_with_a_token_and_exits_with_0() -> None:
    received: list[str | bytes] = []

    def on_request(peer: Peer, request: Request) -> Acceptance | Response:
        if request.headers.get("Authorization") != "Bearer secret":
            return Response(401, body=b"a token is required\n")
        return accept(request)

    def on_message(peer: Peer, message: str | bytes) -> None:
        received.append(message)

    with serving(on_message, on_request=on_request) as running:
        url = f"ws://127.0.0.1:{running.address[1]}/"
        result = talk(url, "--header", "Authorization: Bearer secret", typed="done\n")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "closed: 1000\n")
        assert received == ["done"]
        result = talk(url, typed="done\n")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.endswith(": the server answered 401: a token is required\n")
    assert received == ["done"]


def test_connect_insecure_accepts_any_certificate_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(make_certificate(tmp_path))
    with (
        serving(on_open=lambda peer: peer.send("Hello"), ssl_context=context) as running,
        open(os.devnull) as nothing,
    ):
        monkeypatch.setattr(sys, "stdin", nothing)
        url = f"wss://127.0.0.1:{running.address[1]}/"
        assert main(["connect", url]) == 1
        assert "certificate verify failed" in capsys.readouterr().err
        assert main(["connect", url, "--insecure"]) == 0
    output, errors = capsys.readouterr()
    assert output == "Hello\n"
    warning, end = errors.splitlines()
    assert warning.startswith("wsproto_min: warning: --insecure accepts any certificate")
    assert end == "closed: 1000"


def test_connect_uses_the_given_proxy(capsys: pytest.CaptureFixture[str], echo: str) -> None:
    with tunnels(begin := ConnectProxy()) as (host, port):
        result = talk(echo, "--proxy", f"http://Ann:secret@{host}:{port}", typed="Hello\n")
    assert (result.returncode, result.stdout) == (0, "Hello\n")
    assert begin.requests[0].headers.get("Proxy-Authorization") == "Basic QW5uOnNlY3JldA=="
    assert main(["connect", echo, "--proxy", "https://Ann:secret@h"]) == 1
    errors = capsys.readouterr().err
    assert "proxy 'https://h': unknown form or scheme; write http://HOST:PORT" in errors
    assert "secret" not in errors


def test_connect_help_documents_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["connect", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit status: 0 after a closing handshake" in text
    for option in ("--header", "--proxy", "--insecure", "--subprotocol"):
        assert option in text


def test_keyboard_interrupt_exits_with_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsproto_min.__main__.connect", interrupted)
    assert main(["connect", "ws://127.0.0.1:1/"]) == 128 + signal.SIGINT
