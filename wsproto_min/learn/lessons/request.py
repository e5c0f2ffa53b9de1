r"""The request, and the response 101.

A client opens a TCP connection and sends this request. Each line ends with
CR LF (\r\n in Python), and an empty line ends the request:

    GET /chat HTTP/1.1
    Host: server.example.com
    Upgrade: websocket
    Connection: Upgrade
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
    Sec-WebSocket-Version: 13

The server answers with the accept key of step 1, and an empty line again:

    HTTP/1.1 101 Switching Protocols
    Upgrade: websocket
    Connection: Upgrade
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=

      client                                        server
        |  GET /chat HTTP/1.1, Sec-WebSocket-Key       |
        |--------------------------------------------->|
        |  101 Switching Protocols, accept key         |
        |<---------------------------------------------|
        |  frames in both directions, no more HTTP     |
        |<-------------------------------------------->|

Rules for the request (RFC 6455, section 4.2.1; RFC 9110, section 5.6):

- The case of header names does not matter, nor do spaces around a value.
- `Connection` is a list: it may be `keep-alive, Upgrade`. The values
  `websocket` and `Upgrade` also come in other cases.
- Headers come in any order, and there are others, such as cookies.
- A request is refused with a status such as 400 Bad Request if it has no
  key, no `Upgrade: websocket` or no `Connection: Upgrade`. Without a version,
  and for another version than 13, answer 426 Upgrade Required, with the
  header `Sec-WebSocket-Version: 13`. Close the connection after a refusal.

With the arguments `serve PORT`, my_ws.py listens on 127.0.0.1 and the port,
sys.argv[2], until it is killed. It serves one connection after another; step
12 serves them side by side. The client keeps its connection open after the
request, so stop at the empty line. After the response your program may close
the connection. Until step 9 the checker starts your program again if it has
ended.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from functools import partial

from wsproto_min.http import Headers
from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case, Step

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_VALID = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": _KEY,
    "Sec-WebSocket-Version": "13",
}
_COOKIES = {f"X-Header-{number}": "value " * 10 for number in range(30)}

Change = Callable[[dict[str, str]], dict[str, str]]


def _send(exchange: Exchange, headers: dict[str, str], colon: str = ": ") -> None:
    lines = ["GET /chat HTTP/1.1", *(f"{name}{colon}{value}" for name, value in headers.items())]
    exchange.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())


def _accepts(change: Change, program: Program, *, colon: str = ": ") -> None:
    """Expect a response 101 to the request with changed headers."""
    headers = change(dict(_VALID))
    with Exchange(program) as exchange:
        _send(exchange, headers, colon)
        exchange.receive_acceptance(headers.get("Sec-WebSocket-Key") or _KEY)


def _refuses(change: Change, program: Program) -> None:
    """Expect another status than 101 to the request with changed headers."""
    with Exchange(program) as exchange:
        _send(exchange, change(dict(_VALID)))
        exchange.expect_refusal()


def _asks_for_version_13(change: Change, program: Program) -> None:
    """Expect status 426 with the version that the server speaks (section 4.4)."""
    expected = "status 426 with the header Sec-WebSocket-Version: 13"
    with Exchange(program) as exchange:
        _send(exchange, change(dict(_VALID)))
        response = exchange.expect_refusal({426}, expected)
        if Headers(response.headers).get("Sec-WebSocket-Version") != "13":
            raise Wrong(f"the response lacks a header; expected: {expected}")


def _with(name: str, value: str, headers: dict[str, str]) -> dict[str, str]:
    return headers | {name: value}


def _without(names: list[str], headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def _with_random_key(headers: dict[str, str]) -> dict[str, str]:
    return headers | {"Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}


def _in_lower_case(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in reversed(headers.items())}


def _with_cookies(headers: dict[str, str]) -> dict[str, str]:
    return _COOKIES | headers


STEP = Step.from_docstring(
    __doc__,
    [
        Case("the request of the page", partial(_accepts, dict)),
        Case("a random key", partial(_accepts, _with_random_key)),
        Case(
            "Connection: keep-alive, Upgrade",
            partial(_accepts, partial(_with, "Connection", "keep-alive, Upgrade")),
        ),
        Case("Upgrade: WebSocket", partial(_accepts, partial(_with, "Upgrade", "WebSocket"))),
        Case("header names in lower case, in another order", partial(_accepts, _in_lower_case)),
        Case("no space after the colons", partial(_accepts, dict, colon=":")),
        Case("spaces around the values", partial(_accepts, dict, colon=":  \t")),
        Case("30 headers more", partial(_accepts, _with_cookies)),
        Case(
            "a request without Upgrade is refused",
            partial(_refuses, partial(_without, ["Upgrade", "Connection", "Sec-WebSocket-Key"])),
        ),
        Case(
            "a request with a key, but without Upgrade, is refused",
            partial(_refuses, partial(_without, ["Upgrade"])),
        ),
        Case(
            "a request without a key is refused",
            partial(_refuses, partial(_without, ["Sec-WebSocket-Key"])),
        ),
        Case(
            "a request without Connection is refused",
            partial(_refuses, partial(_without, ["Connection"])),
        ),
        Case(
            "version 8 is refused with 426",
            partial(_asks_for_version_13, partial(_with, "Sec-WebSocket-Version", "8")),
        ),
        Case(
            "a request without a version is refused with 426",
            partial(_asks_for_version_13, partial(_without, ["Sec-WebSocket-Version"])),
        ),
    ],
    restarts=True,
)
