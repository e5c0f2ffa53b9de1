"""The table of peers of the interop matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.interop.native_peers import NATIVE_PEERS
from tests.interop.peer import (
    PYTHON,
    Feature,
    Peer,
    Side,
    all_of,
    modules,
    npm_packages,
    programs,
)

Lacks = Mapping[Feature | tuple[Side, Feature], str]

EXTRA = "pip install '.[interop]'"
WEBKITGTK = "*/girepository-1.0/WebKit2-4.1.typelib"
NO_FRAGMENTS = "sends each message in one frame"

NO_REPORT = "does not show the chosen extensions"
PING_COMPRESSED = "Ping within a compressed message"
EMPTY_CLOSE = "close without a code"
CHANGED_PONG = "its Pong changes a payload that is not UTF-8 (RFC 6455, 5.5.3)"
KEEPS_TCP = "its server does not end TCP after the closing handshake (RFC 6455, 7.1.1)"
NO_TAKEOVER = "no context takeover"
FORGETS = "forgets at a Ping that the message is compressed"
NO_COMPRESSION = "has no compression"
WHATWG: Lacks = {
    Feature.FRAGMENTS: "the interface of browsers has no fragments",
    Feature.PING: "the interface of browsers has no Pings",
}


def python_peer(
    name: str,
    module: str,
    *,
    also: Sequence[str] = (),
    lacks: Lacks | None = None,
    fails: Mapping[str, str] | None = None,
) -> Peer:
    """Return a peer in Python, whose program is `peers/MODULE_peer.py`."""
    return Peer(
        name=name,
        language="Python",
        command=(PYTHON, f"{{peers}}/{module}_peer.py"),
        is_installed=modules(module, *also),
        install=EXTRA,
        lacks=lacks or {},
        fails=fails or {},
    )


def npm_peer(
    name: str,
    program: str,
    package: str,
    *,
    command: Sequence[str] = ("node",),
    lacks: Lacks | None = None,
    fails: Mapping[str, str] | None = None,
    is_heavy: bool = False,
) -> Peer:
    """Return a peer in JavaScript, whose program is `peers/PROGRAM`."""
    return Peer(
        name=name,
        language="JavaScript",
        command=(*command, f"{{peers}}/{program}"),
        is_installed=npm_packages(package),
        install=f"npm install --prefix .interop {package}",
        lacks=lacks or {},
        fails=fails or {},
        is_heavy=is_heavy,
    )


def has_webkitgtk() -> bool:
    """Return True if the Python of Debian can show pages with WebKitGTK."""
    bindings = Path("/usr/lib/python3/dist-packages/gi")
    return bindings.exists() and any(Path("/usr/lib").glob(WEBKITGTK))


def browser_peer(
    name: str,
    browser: str,
    *,
    packages: str,
    is_installed: Callable[[], bool],
    lacks: Lacks | None = None,
    fails: Mapping[str, str] | None = None,
) -> Peer:
    """Return a browser; a page has the role of the client."""
    return Peer(
        name=name,
        language="JavaScript",
        command=(PYTHON, "{peers}/browser_peer.py", browser),
        is_installed=is_installed,
        install=f"apt-get install {packages}",
        lacks={(Side.SERVER, Feature.ROLE): "has a client only", **WHATWG, **(lacks or {})},
        fails=fails or {},
        start_timeout=60.0,
        is_heavy=True,
    )


PEERS: tuple[Peer, ...] = (
    python_peer("websockets", "websockets"),
    python_peer("aiohttp", "aiohttp", lacks={Feature.FRAGMENTS: NO_FRAGMENTS}),
    python_peer(
        "Tornado",
        "tornado",
        lacks={
            Feature.FRAGMENTS: NO_FRAGMENTS,
            Feature.EMPTY_CLOSE: "has no code, as for a lost connection",
            (Side.CLIENT, Feature.PING): "does not report Pongs",
            (Side.SERVER, Feature.COMPRESSION_REPORT): NO_REPORT,
        },
        fails={
            PING_COMPRESSED: f"{FORGETS} (tornadoweb/tornado#3353; RFC 7692, 6.1)",
            NO_TAKEOVER: "drops extension parameters without a value (RFC 7692, 7.1.1)",
        },
    ),
    python_peer("picows", "picows", lacks={Feature.COMPRESSION: "leaves it to the program"}),
    Peer(
        name="picows.websockets",
        language="Python",
        command=(PYTHON, "{peers}/websockets_peer.py"),
        is_installed=modules("picows"),
        install=EXTRA,
        environment={"WEBSOCKETS_PACKAGE": "picows.websockets"},
        lacks={Feature.COMPRESSION_REPORT: NO_REPORT},
        fails={
            f"server: {NO_TAKEOVER}": "accepts the offer without its parameter "
            "server_no_context_takeover (RFC 7692, 7.1.1.1)",
            EMPTY_CLOSE: "replies with the code 0 (RFC 6455, 7.4.2)",
        },
    ),
    python_peer(
        "websocket-client",
        "websocket",
        lacks={
            (Side.SERVER, Feature.ROLE): "has a client only",
            Feature.COMPRESSION: NO_COMPRESSION,
        },
    ),
    python_peer("Autobahn", "autobahn", also=("twisted", "OpenSSL", "service_identity")),
    python_peer(
        "wsproto",
        "wsproto",
        fails={PING_COMPRESSED: f"{FORGETS} (python-hyper/wsproto#205; RFC 7692, 6.1)"},
    ),
    python_peer(
        "uWebSockets (socketify)",
        "socketify",
        lacks={
            (Side.CLIENT, Feature.ROLE): "has a server only",
            Feature.COMPRESSION_REPORT: NO_REPORT,
        },
    ),
    python_peer(
        "libcurl (curl_cffi)",
        "curl_cffi",
        lacks={
            (Side.SERVER, Feature.ROLE): "has a client only",
            Feature.PROTOCOL_REPORT: "the binding does not show the headers of the response",
            Feature.COMPRESSION: "offers none by default",
            Feature.PING: "the binding does not report Pongs",
            Feature.PONG: "the binding sends a Pong only with its next message",
            Feature.REPLY_CODE: "the binding ends TCP after its own Close frame",
        },
    ),
    npm_peer("ws", "ws_peer.cjs", "ws"),
    npm_peer(
        "undici",
        "undici_peer.cjs",
        "undici",
        lacks={
            (Side.SERVER, Feature.ROLE): "has a client only",
            Feature.COMPRESSOR: "decompresses, but does not compress",
            **WHATWG,
        },
    ),
    npm_peer(
        "websocket (npm)",
        "websocket_npm_peer.cjs",
        "websocket",
        lacks={Feature.COMPRESSION: NO_COMPRESSION},
        fails={EMPTY_CLOSE: "reports 1006 instead of 1005 (RFC 6455, 7.1.5)"},
    ),
    npm_peer(
        "faye-websocket",
        "faye_peer.cjs",
        "faye-websocket",
        lacks={Feature.FRAGMENTS: NO_FRAGMENTS, Feature.COMPRESSION: "needs another package"},
        fails={EMPTY_CLOSE: "reports 1000 instead of 1005 (RFC 6455, 7.1.5)"},
    ),
    npm_peer(
        "nodejs-websocket",
        "nodejs_websocket_peer.cjs",
        "nodejs-websocket",
        lacks={Feature.FRAGMENTS: NO_FRAGMENTS, Feature.COMPRESSION: NO_COMPRESSION},
        fails={
            "server: Ping within a message": CHANGED_PONG,
            "server: Ping from us": CHANGED_PONG,
            "server: close from us": KEEPS_TCP,
            "server: close without a code": KEEPS_TCP,
        },
        is_heavy=True,  # each of these cases ends with a timeout
    ),
    npm_peer(
        "Bun",
        "bun_peer.js",
        "bun",
        command=("{node_modules}/.bin/bun",),
        lacks={
            Feature.FRAGMENTS: NO_FRAGMENTS,
            (Side.CLIENT, Feature.PING): "does not report Pongs",
            (Side.SERVER, Feature.COMPRESSION_REPORT): NO_REPORT,
        },
        is_heavy=True,
    ),
    npm_peer(
        "Deno",
        "deno_peer.js",
        "deno",
        command=("{node_modules}/.bin/deno", "run", "--allow-all"),
        lacks={
            **WHATWG,
            Feature.COMPRESSION: NO_COMPRESSION,
            (Side.SERVER, Feature.PROTOCOL_REPORT): "its server does not show the subprotocol",
        },
        is_heavy=True,
    ),
    browser_peer("Chromium", "chromium", packages="chromium", is_installed=programs("chromium")),
    browser_peer(
        "Firefox", "firefox", packages="firefox-esr", is_installed=programs("firefox-esr")
    ),
    browser_peer(
        "WebKitGTK",
        "webkitgtk",
        packages="gir1.2-webkit2-4.1 python3-gi xvfb xauth",
        is_installed=all_of(programs("xvfb-run", "xauth"), has_webkitgtk),
    ),
    *NATIVE_PEERS,
)
