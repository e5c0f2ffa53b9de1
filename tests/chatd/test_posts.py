"""`POST /r/ROOM`: messages of programs, their tokens, and the payloads of GitHub and Grafana."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatd.access.invitations import Invitations
from chatd.webhooks import describe_event
from tests.chat import ChatClient, serve_chat
from tests.documents import block
from tests.needs import need
from tests.support import RunningServer, exchange
from wsproto_min.http import Headers

DATA = Path(__file__).parent / "data"


@pytest.fixture
def invitations(tmp_path: Path) -> Invitations:
    return Invitations(tmp_path)


@pytest.fixture
def chat(invitations: Invitations) -> Iterator[RunningServer]:
    with serve_chat(invitations=invitations, invite_only=False) as running:
        yield running


def token(invitations: Invitations, *rooms: str, role: str = "bot") -> str:
    return invitations.issue("CI", list(rooms), 7, time.time(), role)


def post(
    chat: RunningServer,
    path: str,
    body: str | bytes = "hello",
    *,
    bearer: str | None = None,
    content_type: str = "text/plain",
    **headers: str,
) -> tuple[int, str]:
    """Send a POST request; return status and body."""
    data = body.encode() if isinstance(body, str) else body
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(data)}",
        f"Content-Type: {content_type}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}")
    response = exchange(chat.address, "\r\n".join([*lines, "", ""]).encode() + data)
    head, _, content = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), content.decode()


def test_post_says_a_message_as_the_name_of_its_token(
    chat: RunningServer, invitations: Invitations
) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("tea", "Ann")
        status, body = post(chat, "/r/tea", "Build passed ✓", bearer=token(invitations))
        message = ann.receive_type("message")
        assert (status, json.loads(body)["id"]) == (201, message["id"])
        assert (message["name"], message["text"]) == ("CI", "Build passed ✓")
        assert message["author"].startswith("n")
        assert ann.join("tea", "Ann")["members"] == ["Ann"], "a program is no member"


def test_post_with_a_repeated_key_is_stored_once(
    chat: RunningServer, invitations: Invitations
) -> None:
    bearer = token(invitations)
    first = post(chat, "/r/tea", "once", bearer=bearer, Idempotency_Key="k")
    again = post(chat, "/r/tea", "once", bearer=bearer, Idempotency_Key="k")
    assert (first[0], again[0]) == (201, 200)
    assert first[1] == again[1]
    assert post(chat, "/r/tea", "x", bearer=bearer, Idempotency_Key="k" * 65)[0] == 400


def test_token_in_the_path_is_for_bots_only(chat: RunningServer, invitations: Invitations) -> None:
    assert post(chat, f"/r/tea/{token(invitations)}")[0] == 201
    status, reason = post(chat, f"/r/tea/{token(invitations, role='')}")
    assert (status, "bot" in reason) == (401, True)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/r/tea", "x", {"bearer": None}, 401),
        ("/r/tea", "x", {"bearer": "forged.token"}, 401),
        ("/r/cellar", "x", {}, 401),
        ("/", "x", {}, 405),
        ("/r/", "x", {}, 404),
        ("/r/@sabcdefghijksbbcdefghijk", "x", {}, 403),
        ("/r/tea", "", {}, 400),
        ("/r/tea", " \n", {}, 400),
        ("/r/tea", b"\xff", {}, 400),
        ("/r/tea", "x" * 4001, {}, 413),
        ("/r/tea", "x" * (256 * 1024 + 1), {}, 413),
        ("/r/tea", "x", {"content_type": "text/html"}, 415),
        ("/r/tea", "{", {"content_type": "application/json"}, 400),
        ("/r/tea", "[" * 100_000, {"content_type": "application/json"}, 400),
        ("/r/tea", '{"text": 5}', {"content_type": "application/json"}, 400),
        ("/r/tea", '{"text": "\\ud800"}', {"content_type": "application/json"}, 400),
        ("/r/tea", "x", {"Origin": "https://evil.example"}, 403),
        ("/r/tea", '{"text": "x"}', {"content_type": "application/json; charset=utf-8"}, 201),
    ],
)
def test_post_is_answered_with_the_right_status(
    chat: RunningServer,
    invitations: Invitations,
    path: str,
    body: str | bytes,
    headers: dict[str, Any],
    status: int,
) -> None:
    headers = {"bearer": token(invitations, "tea"), **headers}
    found, reason = post(chat, path, body, **headers)
    assert found == status, reason
    assert reason.strip()


def test_post_over_the_rate_of_its_token_gets_429(invitations: Invitations) -> None:
    with serve_chat(invitations=invitations, invite_only=False, rate=2.0, burst=4.0) as chat:
        bearer = token(invitations)
        statuses = [post(chat, "/r/tea", "x", bearer=bearer)[0] for _ in range(8)]
        assert statuses[:4] == [201] * 4
        assert 429 in statuses
        other = invitations.issue("Other", [], 7, time.time(), "bot")
        assert post(chat, "/r/tea", "x", bearer=other)[0] == 201


def test_post_without_invitations_is_unauthorized() -> None:
    with serve_chat() as chat:
        assert post(chat, "/r/tea", "x", bearer="a.b")[0] == 401


def test_curl_line_of_the_readme_says_a_message(
    chat: RunningServer, invitations: Invitations
) -> None:
    need(shutil.which("curl"), "curl", "apt-get install curl")
    line = block("post", "sh").strip().replace("8765", str(chat.address[1]))
    with ChatClient(chat.address) as ann:
        ann.join("tea", "Ann")
        environment = {"TOKEN": token(invitations), "PATH": "/usr/bin:/bin"}
        result = subprocess.run(
            ["sh", "-c", f"{line} -sS"], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(result.stdout)["id"] == ann.receive_type("message")["id"]


# Payloads, shortened to the fields that the programs document.

REPOSITORY = {"full_name": "ann/tea"}
GITHUB = [
    (
        "push",
        {
            "ref": "refs/heads/main",
            "repository": REPOSITORY,
            "sender": {"login": "ann"},
            "compare": "https://github.com/ann/tea/compare/a...b",
            "commits": [
                {"id": "0123456789", "message": "kettle: boil\n\nWhy"},
                {"id": "abcdefabcd", "message": "cup: fill"},
            ],
        },
        "[ann/tea] ann pushed 2 commits to main\n- 0123456 kettle: boil\n- abcdefa cup: fill\n"
        "https://github.com/ann/tea/compare/a...b",
    ),
    (
        "issues",
        {
            "action": "opened",
            "repository": REPOSITORY,
            "sender": {"login": "ben"},
            "issue": {"number": 7, "title": "Too hot", "html_url": "https://github.com/x/7"},
        },
        "[ann/tea] ben opened issue #7: Too hot\nhttps://github.com/x/7",
    ),
    (
        "issue_comment",
        {
            "action": "created",
            "repository": REPOSITORY,
            "sender": {"login": "ben"},
            "issue": {"number": 7, "title": "Too hot"},
            "comment": {"html_url": "https://github.com/x/7#1"},
        },
        "[ann/tea] ben created comment on #7: Too hot\nhttps://github.com/x/7#1",
    ),
    (
        "workflow_run",
        {
            "action": "completed",
            "repository": REPOSITORY,
            "sender": {"login": "ann"},
            "workflow_run": {"name": "CI", "conclusion": "failure", "html_url": "https://g/1"},
        },
        "[ann/tea] ann completed workflow (failure): CI\nhttps://g/1",
    ),
    (
        "star",
        {"action": "created", "repository": REPOSITORY, "sender": {"login": "cy"}},
        "[ann/tea] cy: star created",
    ),
]


@pytest.mark.parametrize(("event", "payload", "text"), GITHUB)
def test_github_event_becomes_a_readable_message(
    chat: RunningServer, invitations: Invitations, event: str, payload: dict[str, Any], text: str
) -> None:
    with ChatClient(chat.address) as ann:
        ann.join("tea", "Ann")
        status, reason = post(
            chat,
            f"/r/tea/{token(invitations)}",
            json.dumps(payload),
            content_type="application/json",
            X_GitHub_Event=event,
        )
        assert status == 201, reason
        assert ann.receive_type("message")["text"] == text


def test_grafana_notification_becomes_a_readable_message() -> None:
    payload = {
        "status": "firing",
        "title": "[FIRING:1] Kettle",
        "externalURL": "https://grafana.example/",
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": "TooHot"},
                "annotations": {"summary": "The kettle is too hot"},
            }
        ],
    }
    assert describe_event(payload, None) == (
        "[FIRING:1] Kettle\n- firing TooHot: The kettle is too hot\nhttps://grafana.example/"
    )


@pytest.mark.parametrize("body", [None, [], {}, {"alerts": [1, None]}, {"text": ["x"]}, "x"])
def test_other_json_is_refused_or_described_without_an_exception(body: Any) -> None:
    for event in (None, "push", "issues"):
        try:
            text = describe_event(body, event)
        except ValueError:
            continue
        assert text


def test_post_without_content_length_gets_411(chat: RunningServer) -> None:
    response = exchange(chat.address, b"POST /r/tea HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 411 ")


def test_headers_of_a_refusal_name_the_scheme(chat: RunningServer) -> None:
    response = exchange(
        chat.address, b"POST /r/tea HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    )
    head = response.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    fields = [tuple(line.split(": ", 1)) for line in head]
    assert Headers(fields).get("WWW-Authenticate") == 'Bearer realm="chatd"'  # type: ignore[arg-type]
