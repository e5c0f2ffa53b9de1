"""chatd/deploy and the proxy of chatd/README.md, set up as the README shows."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatd.options import parse_arguments
from tests.browser.devtools import chromium
from tests.documents import RUN, block
from tests.interop.support import chatd_on
from tests.interop.test_nginx import CONFIGURATION, NGINX, README_SOCKET, nginx, snippet
from tests.needs import need
from tests.support import PATIENCE, ROOT, Address, command, daemon, exchange, poll, read_to_end
from wsproto_min import connect

DEPLOY = ROOT / "chatd" / "deploy"
UNIT = (DEPLOY / "chatd.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SOCKET_DIRECTORY = Path("/run/chatd")


def has_user(name: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


# The proxy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def nginx_as_www_data(configured: str) -> Iterator[Address]:
    """Run nginx with workers of the user www-data, as a distribution does."""
    assert NGINX is not None
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # unlike the directories of pytest
        port = free_port()
        configuration = CONFIGURATION.format(directory=directory, port=port, more="")
        configuration = configuration.replace("master_process off;", "user www-data;")
        (directory / "nginx.conf").write_text(configuration)
        (directory / "snippet.conf").write_text(configured)
        arguments = [NGINX, "-p", name, "-c", f"{name}/nginx.conf"]
        with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
            try:
                with socket.socket() as probe:
                    poll(lambda: probe.connect_ex(("127.0.0.1", port)) == 0, "nginx listens")
                yield "127.0.0.1", port
            finally:
                process.terminate()
                process.communicate(timeout=PATIENCE)


def test_readme_socket_and_snippet_work_verbatim() -> None:
    need(NGINX, "nginx", "apt-get install nginx-light")
    need(os.geteuid() == 0 and has_user("www-data"), "root, and the user www-data", "run as root")
    need(not SOCKET_DIRECTORY.exists(), "a free /run/chatd", "stop chatd")
    install, start = block("socket", "sh").splitlines()
    words = shlex.split(start)
    assert words[:3] == ["python3", "-m", "chatd"]
    other_user = "setpriv --reuid nobody --regid nogroup --clear-groups"
    arguments = [*other_user.split(), *command("chatd", *words[3:], "--db", ":memory:")]
    try:
        subprocess.run(
            ["sh", "-c", install.removeprefix("sudo ")],
            env={**os.environ, "USER": "nobody"},
            check=True,
        )
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert b"chatd is ready" in process.stdout.readline()
                with nginx_as_www_data(snippet()) as address:
                    request = (
                        b"GET / HTTP/1.1\r\nHost: chat.example.org\r\nConnection: close\r\n\r\n"
                    )
                    assert exchange(address, request).startswith(b"HTTP/1.1 200 ")
                    with connect(f"ws://127.0.0.1:{address[1]}/r/tea") as client:
                        assert client.ping(PATIENCE) > 0
                # Users outside the group cannot open the socket.
                probe = f"import socket; socket.socket(socket.AF_UNIX).connect({words[4]!r})"
                stranger = "setpriv --reuid 54321 --regid 54321 --clear-groups"
                denied = subprocess.run(
                    [*stranger.split(), sys.executable, "-c", probe], stderr=subprocess.PIPE
                )
                assert b"PermissionError" in denied.stderr
            finally:
                process.terminate()
    finally:
        shutil.rmtree(SOCKET_DIRECTORY, ignore_errors=True)


def path_snippet() -> str:
    """Return the configuration in chatd/README.md for a chat under /chat/."""
    first = block("nginx path", "nginx")
    assert first.count(README_SOCKET) == 1
    return first + "".join(snippet().splitlines(keepends=True)[2:])


def test_nginx_with_a_path_forwards_page_and_chat(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    upstream = f"http://unix:{path}"
    with chatd_on(path), nginx(tmp_path, upstream, configured=path_snippet()) as address:
        host = f"127.0.0.1:{address[1]}"
        for target in ("/chat/", "/chat/r/tea"):
            request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            response = exchange(address, request.encode())
            assert response.endswith((ROOT / "client.html").read_bytes()), target
        request = f"GET /chat HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert b"\r\nLocation: http://" in exchange(address, request.encode())
        with (
            connect(f"ws://{host}/chat/r/tea", origin=f"http://{host}") as ann,
            connect(f"ws://{host}/chat/r/tea", origin=f"http://{host}") as bob,
        ):
            ann.send("Hello")
            assert bob.recv(PATIENCE) == "Hello"


def test_page_under_a_path_connects_and_changes_rooms(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    upstream = f"http://unix:{path}"
    with (
        chatd_on(path),
        nginx(tmp_path, upstream, configured=path_snippet()) as address,
        chromium(tmp_path / "profile") as browser,
    ):
        tab = browser.open()
        tab.go(f"http://127.0.0.1:{address[1]}/chat/r/tea")
        tab.wait("document.activeElement.id === 'name-input'")
        tab.type("Ann")
        tab.press("Enter")
        tab.wait("document.querySelector('#status').textContent === 'Connected'")
        with connect(f"ws://127.0.0.1:{address[1]}/chat/", subprotocols=["chat.v1"]) as client:
            client.send(json.dumps({"type": "join", "room": "tea", "name": "Bob"}))
            joined = json.loads(client.recv(PATIENCE))
            assert joined["members"] == ["Ann", "Bob"]
        for name, target in (("kitchen", "/chat/r/kitchen"), ("lobby", "/chat/")):
            tab.wait("!document.querySelector('#name-dialog').open")
            tab.evaluate("document.querySelector('#message-input').focus()")
            tab.type(f"/join {name}")
            tab.press("Enter")
            tab.wait(f"location.pathname === {target!r}")
        tab.reload()
        tab.wait("document.querySelector('#status').textContent === 'Connected'")
        assert tab.evaluate("location.pathname") == "/chat/"
        tab.close()


def test_path_that_the_proxy_keeps_gets_404_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "chatd.sock"
    kept = f"location /chat/ {{ proxy_pass {README_SOCKET}; proxy_set_header Host $http_host; }}"
    with chatd_on(path), nginx(tmp_path, f"http://unix:{path}", configured=kept) as address:
        request = b"GET /chat/r/tea HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        response = exchange(address, request)
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"a proxy with the chat under another path must remove this path" in response


# The unit for systemd


def setting(name: str) -> str:
    """Return the value of a setting of the unit."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_unit_passes_systemd_analyze(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    need(program, "systemd-analyze", "apt-get install systemd")
    assert program is not None
    unit = tmp_path / "chatd.service"
    unit.write_text(UNIT.replace("/opt/chatd/bin/chatd", "/bin/true"))
    verified = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    rated = subprocess.run(
        [program, "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout  # 2.0 of 10.0 points of exposure at most


def test_unit_serves_a_new_user_without_privileges() -> None:
    need(os.geteuid() == 0 and has_user("www-data"), "root, and the user www-data", "run as root")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # unlike the directories of pytest
        serve_as_the_unit(Path(name))


def serve_as_the_unit(parent: Path) -> None:
    """Run ExecStart with the directories, the user and the privileges that systemd gives."""
    assert (setting("NoNewPrivileges"), setting("CapabilityBoundingSet")) == ("yes", "")
    user, group = 54321, setting("Group")
    runtime, state = parent / setting("RuntimeDirectory"), parent / "state"
    for directory, mode in ((runtime, "RuntimeDirectoryMode"), (state, "StateDirectoryMode")):
        directory.mkdir()
        directory.chmod(int(setting(mode), 8))
        shutil.chown(directory, user, group)
    privileges = f"setpriv --reuid {user} --regid {group} --clear-groups --no-new-privs"
    privileges += " --inh-caps=-all --bounding-set=-all"
    line = setting("ExecStart").replace("${RUNTIME_DIRECTORY}", str(runtime))
    program, *words = shlex.split(line.replace("$CHATD_OPTIONS", "--allow-host chat.example.org"))
    assert program == "/opt/chatd/bin/chatd"
    environment = {"STATE_DIRECTORY": str(state), "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [*privileges.split(), *command("chatd", *words)],
        cwd=ROOT,
        env=environment,
        umask=int(setting("UMask"), 8),
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert f"(messages in {state}/chat.db; ".encode() in process.stdout.readline()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(runtime / "chatd.sock"))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: chat.example.org\r\n\r\n")
                assert read_to_end(sock).startswith(b"HTTP/1.1 200 ")
        finally:
            process.terminate()
    assert process.returncode == 0
    drain_timeout = parse_arguments(words).drain_timeout
    assert int(setting("TimeoutStopSec")) > 2 * drain_timeout


# The image for containers


def test_dockerfile_copies_files_and_runs_valid_commands() -> None:
    for sources in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    program, *words = json.loads(entrypoint)
    assert program == "chatd"
    assert parse_arguments(words).host == ["0.0.0.0"]
    (build, run, invite) = block("docker", "sh").replace("\\\n", "").splitlines()
    assert build.split()[-2] == "chatd/deploy/Dockerfile"
    assert parse_arguments([*words, *run.rpartition(" chatd ")[2].split()]).invite_only
    assert parse_arguments(invite.split()[4:]).command == "invite"
    (check,) = re.findall(r"^HEALTHCHECK CMD (.*)$", DOCKERFILE, re.MULTILINE)
    _, *code = json.loads(check)
    with daemon("chatd", "--port", "0", "--db", ":memory:") as running:
        for port, status in ((running.address[1], 0), (free_port(), 1)):
            arguments = [each.replace("8765", str(port)) for each in code]
            checked = subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL)
            assert checked.returncode == status


def test_readme_links_to_the_files_of_deploy() -> None:
    text = (ROOT / RUN).read_text()
    for file in DEPLOY.iterdir():
        assert f"](deploy/{file.name})" in text
