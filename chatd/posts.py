"""Messages of programs: `POST /r/ROOM` says a message as the name of its token.

The token is an invitation, in the Authorization header or, for a bot's token, in the path
`/r/ROOM/TOKEN`. The response comes once the store has the message.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from http import HTTPStatus

from chatd.access.authorizer import Authorizer, bearer_token
from chatd.access.invitations import Invitation, Unauthorized
from chatd.access.moderation import Moderation
from chatd.access.rate_limit import TokenBucket
from chatd.model import MAX_KEY, MAX_TEXT, direct_authors, name_author
from chatd.page import post_token
from chatd.storage.store import NewMessage
from chatd.storage.write_batcher import WriteBatcher
from chatd.webhooks import describe_event
from wsproto_min import Deferred, HandshakeError, Peer, Request

MAX_BODY = 256 * 1024  # bytes; the events of GitHub and Grafana mostly have under 50 KiB
# Tokens with a bucket of their own, the most recently used.
MAX_BUCKETS = 1000

_CHALLENGE = [("WWW-Authenticate", 'Bearer realm="chatd"')]


class Posts:
    """Receives the POST requests of programs.

    Args:
        authorizer: Checks the tokens.
        moderation: The sanctions in force.
        batcher: Writer of the messages.
        rate: Messages per second of one name, twice as many at once; 0 for no limit.
    """

    def __init__(
        self, authorizer: Authorizer, moderation: Moderation, batcher: WriteBatcher, rate: float
    ) -> None:
        self._authorizer = authorizer
        self._moderation = moderation
        self._batcher = batcher
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # by author

    def receive(self, peer: Peer, request: Request, room: str) -> Deferred:
        """Give the message of a request to the store; `Delivery` answers the request.

        Raises:
            HandshakeError: The request is refused.
        """
        if direct_authors(room) is not None:
            raise HandshakeError(HTTPStatus.FORBIDDEN, "a direct room is for its two members only")
        invitation = self._authorize(request, room)
        author = name_author(invitation.name)
        self._charge(author)
        check_not_banned(self._moderation, author, room)
        if self._moderation.is_under("mute", author, room, time.time()):
            reason = f"{invitation.name} is muted in the room {room}"
            raise HandshakeError(HTTPStatus.FORBIDDEN, reason)
        text = _read_text(request)
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= MAX_KEY:
            reason = f"header Idempotency-Key must have 1 to {MAX_KEY} characters"
            raise HandshakeError(HTTPStatus.BAD_REQUEST, reason)
        self._batcher.add(peer, NewMessage(room, invitation.name, text, key, author))
        return Deferred()

    def _authorize(self, request: Request, room: str) -> Invitation:
        token, in_path = post_token(request), True
        if token is None:
            token, in_path = bearer_token(request), False
        try:
            invitation = self._authorizer.check(token, room)
        except Unauthorized as error:
            problem = f"{error}" if token else "a message needs a token"
            reason = f"{problem}; send one of `chatd invite --bot` as 'Authorization: Bearer TOKEN'"
            raise HandshakeError(HTTPStatus.UNAUTHORIZED, reason, _CHALLENGE) from None
        if in_path and invitation.role != "bot":
            reason = (
                "only the token of a bot may be in the path; make one with `chatd invite --bot`"
            )
            raise HandshakeError(HTTPStatus.UNAUTHORIZED, reason, _CHALLENGE)
        return invitation

    def _charge(self, author: str) -> None:
        if not self._rate:
            return
        now = time.monotonic()
        bucket = self._buckets.pop(author, None) or TokenBucket(self._rate, 2 * self._rate, now)
        self._buckets[author] = bucket
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        level = bucket.level(now)
        if level < 1.0:
            wait = math.ceil((1.0 - level) / self._rate)
            reason = f"too many messages of this token; try again in {wait} s"
            raise HandshakeError(HTTPStatus.TOO_MANY_REQUESTS, reason, [("Retry-After", str(wait))])
        bucket.take(now)


def check_not_banned(moderation: Moderation, author: str, room: str) -> None:
    """Raise `HandshakeError` 403 if a person is banned from a room."""
    if moderation.is_under("ban", author, room, time.time()):
        raise HandshakeError(HTTPStatus.FORBIDDEN, f"banned from the room {room}")


def _read_text(request: Request) -> str:
    """Return the message in the body of a request. Raises `HandshakeError` 400, 413 or 415."""
    content_type = (request.headers.get("Content-Type") or "text/plain").partition(";")[0]
    content_type = content_type.strip().lower()
    if content_type not in ("text/plain", "application/json"):
        reason = "Content-Type must be text/plain or application/json"
        raise HandshakeError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
    try:
        text = request.body.decode()
        if content_type == "application/json":
            text = describe_event(json.loads(text), request.headers.get("X-GitHub-Event"))
        text.encode()  # a JSON escape can denote half a surrogate pair
    except (ValueError, RecursionError) as error:
        reason = f"the body is not valid {content_type} in UTF-8: {error}"
        raise HandshakeError(HTTPStatus.BAD_REQUEST, reason[:500]) from None
    text = text.strip()
    if not text:
        raise HandshakeError(HTTPStatus.BAD_REQUEST, "the message must not be empty")
    if len(text) > MAX_TEXT:
        reason = f"a message has at most {MAX_TEXT:,} characters, this one {len(text):,}"
        raise HandshakeError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
    return text
