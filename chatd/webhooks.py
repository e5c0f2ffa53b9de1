"""Texts for the events that other programs send as JSON.

A `text` is the form of Slack's incoming webhooks, which many programs can send. GitHub and
Grafana send their own objects, of which the message has the essential fields.
"""

from __future__ import annotations

from typing import Any

MAX_COMMITS = 5
MAX_LINE = 200  # characters of a title or of the first line of a commit


# Nouns for the fields of a GitHub event that it can be about, the most precise field first.
_SUBJECTS = {
    "comment": "comment on",
    "review": "review of",
    "pull_request": "pull request",
    "issue": "issue",
    "release": "release",
    "workflow_run": "workflow",
}


def describe_event(body: Any, github_event: str | None) -> str:
    """Return the message for a JSON body.

    Args:
        body: The decoded body.
        github_event: Value of the header X-GitHub-Event, None without one.

    Raises:
        ValueError: The body has no text, and is no event of a known program.
    """
    if not isinstance(body, dict):
        raise ValueError("a JSON object with the field text is needed")
    if github_event is not None:
        return _describe_github(body, github_event)
    text = body.get("text")
    if isinstance(text, str):
        return text
    if isinstance(body.get("alerts"), list):
        return _describe_grafana(body)
    raise ValueError("the field text is missing or no string")


def _describe_github(body: dict[str, Any], event: str) -> str:
    """Describe an event of GitHub (its documentation of webhook events and payloads)."""
    repository = _text(body, "repository", "full_name") or _text(body, "organization", "login")
    actor = _text(body, "sender", "login") or "somebody"
    prefix = f"[{repository}] {actor}" if repository else actor
    if event == "push":
        return _describe_push(body, prefix)
    if event == "ping":
        return f"{prefix} has set up this webhook: {_text(body, 'zen')}"
    action = _text(body, "action").replace("_", " ")
    field = next((each for each in _SUBJECTS if isinstance(body.get(each), dict)), None)
    if field is None:
        return f"{prefix}: {event.replace('_', ' ')} {action}".rstrip()
    subject, noun = body[field], _SUBJECTS[field]
    number = _text(body, "issue", "number") or _text(body, "pull_request", "number")
    title = (
        _text(body, "issue", "title")
        or _text(body, "pull_request", "title")
        or _text(subject, "name")
        or _text(subject, "tag_name")
    )
    outcome = _text(subject, "conclusion")
    parts = [
        prefix,
        f"{action} {noun}".strip(),
        f"#{number}" if number else "",
        f"({outcome})" if outcome else "",
    ]
    line = " ".join(filter(None, parts))
    return "\n".join(filter(None, (f"{line}: {_line(title)}", _text(subject, "html_url"))))


def _describe_push(body: dict[str, Any], prefix: str) -> str:
    branch = _text(body, "ref").removeprefix("refs/heads/").removeprefix("refs/")
    if body.get("deleted") is True:
        return f"{prefix} deleted {branch}"
    commits = [each for each in body.get("commits") or () if isinstance(each, dict)]
    noun = "commit" if len(commits) == 1 else "commits"
    lines = [f"{prefix} pushed {len(commits)} {noun} to {branch}"]
    lines += [
        f"- {_text(each, 'id')[:7]} {_line(_text(each, 'message'))}"
        for each in commits[:MAX_COMMITS]
    ]
    if len(commits) > MAX_COMMITS:
        lines.append(f"- and {len(commits) - MAX_COMMITS} more")
    return "\n".join([*lines, _text(body, "compare")]).rstrip()


def _describe_grafana(body: dict[str, Any]) -> str:
    """Describe a notification of Grafana's alerting, which has the form of Alertmanager's too."""
    title = _line(_text(body, "title")) or f"alert {_text(body, 'status')}"
    lines = [title]
    for alert in body["alerts"][:MAX_COMMITS]:
        if isinstance(alert, dict):
            name = _text(alert, "labels", "alertname")
            summary = _text(alert, "annotations", "summary")
            status = _text(alert, "status")
            lines.append(f"- {status} {name}: {_line(summary)}".rstrip(" :"))
    return "\n".join([*lines, _text(body, "externalURL")]).rstrip()


def _text(body: Any, *path: str) -> str:
    """Return the string or number at a path of fields, "" if there is none."""
    for field in path:
        if not isinstance(body, dict):
            return ""
        body = body.get(field)
    is_scalar = isinstance(body, str | int) and not isinstance(body, bool)
    return str(body) if is_scalar else ""


def _line(text: str) -> str:
    return text.strip().partition("\n")[0][:MAX_LINE]
