"""Peers of the interop matrix in C, C++, Perl, Java, Go and Rust."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache

from tests.interop.peer import CACHE, Feature, Peer, Side


@cache
def has_debian_package(name: str) -> bool:
    """Return True if a Debian package is installed."""
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}", name]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.startswith("ii")


def native_peer(
    name: str,
    language: str,
    *,
    packages: str,
    source: str,
    build: str = "",
    command: tuple[str, ...] = ("{build}/peer",),
    lacks: Mapping[Feature | tuple[Side, Feature], str] | None = None,
    fails: Mapping[str, str] | None = None,
    is_heavy: bool = True,
) -> Peer:
    """Return a peer whose program is `peers/SOURCE`, with the Debian packages that it needs."""
    return Peer(
        name=name,
        language=language,
        command=command,
        is_installed=lambda: all(map(has_debian_package, packages.split())),
        install=f"apt-get install --no-install-recommends {packages}",
        build=build,
        sources=(source,),
        lacks=lacks or {},
        fails=fails or {},
        is_heavy=is_heavy,
    )


def go_peer(
    name: str, package: str, source: str, lacks: Mapping[Feature | tuple[Side, Feature], str]
) -> Peer:
    """Return a peer in Go, on a library of Debian: the build fetches nothing."""
    return native_peer(
        name,
        "Go",
        packages=f"golang-go {package}",
        source=source,
        build="export GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$BUILD/cache; "
        f"version=$(dpkg-query --show --showformat '${{Version}}' {package}); "
        f'go build -ldflags "-X main.version=$version" -o peer $PEERS/{source}',
        lacks={
            (Side.SERVER, Feature.COMPRESSION_REPORT): "the API does not tell a server",
            **lacks,
        },
    )


HELD_BACK = "with compression, a fragment has no frame until the compressor has output"
UNCOMPRESSED_DROPPED = (
    "with compression, the client drops an uncompressed message (warmcat/libwebsockets#2794)"
)
EMPTY_COMPRESSED = "an assertion of the library aborts the program that sends an empty message"

SID = CACHE / "sid"
CRATES = SID / "root/usr/share/cargo/registry"
UNPACK = f"sh tests/interop/peers/unpack_from_sid.sh {SID}"
TOMCAT = ":".join(
    f"/usr/share/java/{name}.jar"
    for name in ("tomcat10-embed-core", "tomcat10-embed-websocket", "jakarta-annotation-api")
)

NATIVE_PEERS: tuple[Peer, ...] = (
    native_peer(
        "libwebsockets",
        "C",
        packages="gcc libc6-dev libssl-dev libwebsockets-dev pkg-config",
        source="libwebsockets.c",
        build="gcc -O1 -o peer $PEERS/libwebsockets.c $(pkg-config --cflags --libs libwebsockets)",
        lacks={
            Feature.REPLY_CODE: "no callback for the reply to its Close",
            Feature.FRAGMENTS: HELD_BACK,
        },
        fails={
            "empty": EMPTY_COMPRESSED,
            "compression": EMPTY_COMPRESSED,
            "client: fragments from us": UNCOMPRESSED_DROPPED,
            "client: Ping within a message": UNCOMPRESSED_DROPPED,
            "client: Ping from the peer": "with compression, the client drops the Pong "
            "(warmcat/libwebsockets#2076, corrected after version 4.1)",
        },
    ),
    native_peer(
        "Boost.Beast",
        "C++",
        packages="g++ libboost-dev libssl-dev",
        source="beast.cpp",
        build="g++ -std=c++17 -o peer $PEERS/beast.cpp -lssl -lcrypto -pthread",
        lacks={
            (Side.SERVER, Feature.COMPRESSION_REPORT): "the API does not show the response",
            Feature.FRAGMENTS: HELD_BACK,
        },
    ),
    go_peer(
        "gorilla/websocket",
        "golang-github-gorilla-websocket-dev",
        "gorilla.go",
        {Feature.FRAGMENTS: "a frame ends only where the write buffer is full"},
    ),
    go_peer(
        "nhooyr.io/websocket",
        "golang-nhooyr-websocket-dev",
        "nhooyr.go",
        {
            Feature.PING: "Conn.Ping chooses the payload",
            Feature.REPLY_CODE: "Conn.Read reports the code that Conn.Close sent",
        },
    ),
    native_peer(
        "java.net.http",
        "Java",
        packages="openjdk-17-jdk-headless",
        source="JdkPeer.java",
        build="javac -d . $PEERS/JdkPeer.java",
        command=("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", "{build}", "JdkPeer"),
        lacks={
            (Side.SERVER, Feature.ROLE): "the JDK has no WebSocket server",
            Feature.COMPRESSION: "the library has no extensions",
        },
    ),
    native_peer(
        "Tomcat",
        "Java",
        packages="openjdk-17-jdk-headless libtomcat10-embed-java libjakarta-annotation-api-java",
        source="TomcatPeer.java",
        build=f"javac -nowarn -cp {TOMCAT} -d . $PEERS/TomcatPeer.java",
        command=("java", "-XX:TieredStopAtLevel=1", "-cp", f"{{build}}:{TOMCAT}", "TomcatPeer"),
        lacks={
            Feature.FRAGMENTS: HELD_BACK,
            Feature.REPLY_CODE: "Endpoint.onClose gets the code that Session.close sent",
            Feature.EMPTY_CLOSE: "Endpoint.onClose gets the code 1000",
        },
    ),
    Peer(
        name="tungstenite",
        language="Rust",
        command=("{build}/target/debug/peer",),
        is_installed=lambda: shutil.which("cargo") is not None and CRATES.is_dir(),
        install=f"{UNPACK} '^librust-' librust-tungstenite-dev  # and Cargo 1.85 or newer",
        build="mkdir -p .cargo src; cp $PEERS/tungstenite.toml Cargo.toml; "
        "cp $PEERS/tungstenite.rs src/main.rs; "
        """echo '[source.crates-io]\nreplace-with = "sid"\n[source.sid]' > .cargo/config.toml; """
        f"""echo 'directory = "{CRATES}"' >> .cargo/config.toml; """
        f"version=$(cd {CRATES}; echo tungstenite-*); "
        "TUNGSTENITE_VERSION=${version#tungstenite-} cargo build --offline",
        sources=("tungstenite.rs", "tungstenite.toml"),
        lacks={
            Feature.COMPRESSION: "the library has no extensions",
        },
        is_heavy=True,
    ),
    native_peer(
        "WebSocket++",
        "C++",
        packages="g++ libboost-dev libssl-dev libwebsocketpp-dev zlib1g-dev",
        source="websocketpp.cpp",
        build="g++ -std=c++17 -o peer $PEERS/websocketpp.cpp -lssl -lcrypto -lz -pthread",
        lacks={Feature.FRAGMENTS: "a connection sends whole messages"},
    ),
    native_peer(
        "Mojolicious",
        "Perl",
        packages="perl libmojolicious-perl libio-socket-ssl-perl",
        source="mojolicious.pl",
        command=("perl", "{peers}/mojolicious.pl"),
        lacks={
            Feature.REPLY_CODE: "the event finish has the code that the program sent",
            Feature.NO_TAKEOVER: "it ignores the parameters of an offer (RFC 7692, 7.1.1.1)",
        },
    ),
)
