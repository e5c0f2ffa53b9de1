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
- Headers come in any order, and there are others, such as cookies. A header
  may come in two lines: they stand for one list.
- A request is refused with 400 Bad Request if its method is not GET, or if
  it has no Host, no key, no `Upgrade: websocket` or no `Connection: Upgrade`.
  Without a version, and for another version than 13, answer 426 Upgrade
  Required, with the header `Sec-WebSocket-Version: 13`. Close the connection
  after a refusal.

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

from wsproto_min.learn.exchange import Exchange
from wsproto_min.learn.program import Program, Wrong
from wsproto_min.learn.step import Case, Step

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_VALID = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", _KEY),
    ("Sec-WebSocket-Version", "13"),
]
_MORE = [(f"X-Header-{number}", "value " * 30) for number in range(30)]
_LINE = "GET /chat HTTP/1.1"
_REFUSALS = range(400, 500)

Headers = list[tuple[str, str]]
Change = Callable[[Headers], Headers]


def _send(exchange: Exchange, headers: Headers, line: str = _LINE, colon: str = ": ") -> None:
    lines = [line, *(f"{name}{colon}{value}" for name, value in headers), ""]
    exchange.send("".join(f"{line}\r\n" for line in lines).encode())


def _accepts(change: Change, program: Program, *, colon: str = ": ") -> None:
    """Expect a response 101 to the request with changed headers."""
    headers = change(_VALID)
    keys = [value for name, value in headers if name.lower() == "sec-websocket-key"]
    with Exchange(program) as exchange:
        _send(exchange, headers, colon=colon)
        exchange.receive_acceptance(keys[0])


def _refuses(change: Change, program: Program, *, line: str = _LINE) -> None:
    """Expect a status from 400 on to the request with changed headers."""
    with Exchange(program) as exchange:
        _send(exchange, change(_VALID), line)
        exchange.expect_refusal(_REFUSALS)


def _asks_for_version_13(change: Change, program: Program) -> None:
    """Expect status 426 with the version that the server speaks (section 4.4)."""
    expected = "status 426 with the header Sec-WebSocket-Version: 13"
    with Exchange(program) as exchange:
        _send(exchange, change(_VALID))
        response = exchange.expect_refusal({426}, expected)
        values = [value for name, value in response.headers if name == "sec-websocket-version"]
        if values != ["13"]:
            raise Wrong(f"the response lacks a header; expected: {expected}")


def _with(name: str, value: str, headers: Headers) -> Headers:
    return [(each, value if each == name else before) for each, before in headers]


def _without(names: list[str], headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name not in names]


def _renamed(name: str, to: str, headers: Headers) -> Headers:
    return [(to if each == name else each, value) for each, value in headers]


def _with_random_key(headers: Headers) -> Headers:
    return _with("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode(), headers)


def _in_lower_case(headers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in reversed(headers)]


def _with_two_connections(headers: Headers) -> Headers:
    return [*headers, ("Connection", "keep-alive")]


def _with_more_headers(headers: Headers) -> Headers:
    return _MORE + headers


STEP = Step.from_docstring(
    __doc__,
    [
        Case("the request of the page", partial(_accepts, list)),
        Case("a random key", partial(_accepts, _with_random_key)),
        Case(
            "Connection: keep-alive, Upgrade",
            partial(_accepts, partial(_with, "Connection", "keep-alive, Upgrade")),
        ),
        Case("Connection: upgrade", partial(_accepts, partial(_with, "Connection", "upgrade"))),
        Case("Connection in two lines", partial(_accepts, _with_two_connections)),
        Case("Upgrade: WebSocket", partial(_accepts, partial(_with, "Upgrade", "WebSocket"))),
        Case("header names in lower case, in another order", partial(_accepts, _in_lower_case)),
        Case("no space after the colons", partial(_accepts, list, colon=":")),
        Case("spaces around the values", partial(_accepts, list, colon=":  \t")),
        Case("30 headers more, 6000 bytes", partial(_accepts, _with_more_headers)),
        Case(
            "a request without Upgrade is refused",
            partial(_refuses, partial(_without, ["Upgrade", "Connection"])),
        ),
        Case(
            "X-Upgrade is another header",
            partial(_refuses, partial(_renamed, "Upgrade", "X-Upgrade")),
        ),
        Case(
            "Connection: X-Upgrade is refused",
            partial(_refuses, partial(_with, "Connection", "keep-alive, X-Upgrade")),
        ),
        Case("Upgrade: h2c is refused", partial(_refuses, partial(_with, "Upgrade", "h2c"))),
        Case(
            "a request without Connection is refused",
            partial(_refuses, partial(_without, ["Connection"])),
        ),
        Case(
            "a request without a key is refused",
            partial(_refuses, partial(_without, ["Sec-WebSocket-Key"])),
        ),
        Case("a request without Host is refused", partial(_refuses, partial(_without, ["Host"]))),
        Case("POST is refused", partial(_refuses, list, line="POST /chat HTTP/1.1")),
        *(
            Case(
                f"version {version} is refused with 426",
                partial(_asks_for_version_13, partial(_with, "Sec-WebSocket-Version", version)),
            )
            for version in ("8", "14")
        ),
        Case(
            "a request without a version is refused with 426",
            partial(_asks_for_version_13, partial(_without, ["Sec-WebSocket-Version"])),
        ),
    ],
    restarts=True,
)
