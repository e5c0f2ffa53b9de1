"""The client's address behind trusted and other proxies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.access.trusted_networks import client_address, parse_host, parse_network, strip_port
from wsproto_min import Headers

LAN = ["10.0.0.0/8", "fd00::/8", "unix"]


def address_of(socket: str, *lines: str, trusted: list[str] = LAN) -> str:
    headers = Headers([("X-Forwarded-For", line) for line in lines])
    return client_address(socket, headers, [parse_network(text) for text in trusted])


@pytest.mark.parametrize(
    ("socket", "lines", "address"),
    [
        # No forwarded address.
        ("10.0.0.1:80", [], "10.0.0.1:80"),
        ("unix", [], "unix"),
        ("unix", [""], "unix"),
        ("[fd00::1]:80", [], "[fd00::1]:80"),
        # The socket's address is not trusted.
        ("198.51.100.1:80", ["203.0.113.7"], "198.51.100.1:80"),
        ("[2001:db8::1]:80", ["203.0.113.7"], "[2001:db8::1]:80"),
        # One proxy.
        ("10.0.0.1:80", ["203.0.113.7"], "203.0.113.7"),
        ("unix", ["203.0.113.7"], "203.0.113.7"),
        ("[fd00::1]:80", ["203.0.113.7"], "203.0.113.7"),
        ("[fd00::1]:80", ["2001:db8::1"], "[2001:db8::1]"),
        ("10.0.0.1:80", [" \t203.0.113.7 "], "203.0.113.7"),
        # Several proxies, on one line or on several.
        ("unix", ["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("unix", ["203.0.113.7", "10.0.0.2,fd00::1"], "203.0.113.7"),
        # Forged entries before those of the proxies.
        ("unix", ["192.0.2.1, 203.0.113.7"], "203.0.113.7"),
        ("unix", ["192.0.2.1", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("unix", ["10.0.0.9, 203.0.113.7"], "203.0.113.7"),
        # Every entry is trusted: the first one is the client.
        ("unix", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Malformed entries.
        ("unix", ["unknown"], "unix"),
        ("unix", ["\xa0203.0.113.7"], "unix"),  # only SP and HTAB are white space to HTTP
        ("unix", ["unix"], "unix"),
        ("10.0.0.1:80", ["203.0.113.7, "], "10.0.0.1:80"),
        ("10.0.0.1:80", ["203.0.113.7, nonsense"], "10.0.0.1:80"),
        ("10.0.0.1:80", ["203.0.113.7, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("unix", ["203.0.113.007"], "unix"),
        ("unix", ["fe80::1%<script>"], "unix"),
        ("unix", ["٢٠٣.0.113.7"], "unix"),
        # IPv4 addresses embedded in IPv6.
        ("[::ffff:10.0.0.1]:80", ["203.0.113.7"], "203.0.113.7"),
        ("unix", ["203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
        ("unix", ["::ffff:203.0.113.7"], "203.0.113.7"),
        # The socket's own address may have a zone.
        ("[fd00::1%eth0]:80", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_client_is_first_untrusted_address_from_the_right(
    socket: str, lines: list[str], address: str
) -> None:
    assert address_of(socket, *lines) == address


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("203.0.113.7:17085", "203.0.113.7"),
        ("203.0.113.7:1", "203.0.113.7"),
        ('"203.0.113.7:17085"', "203.0.113.7"),
        ('"203.0.113.7"', "203.0.113.7"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:DB8::1]:17085", "[2001:db8::1]"),
        ('"[2001:db8::1]:17085"', "[2001:db8::1]"),
        ("[::ffff:203.0.113.7]:17085", "203.0.113.7"),
        ("2001:db8::1:4321", "[2001:db8::1:4321]"),  # without brackets, 4321 is a part of it
        ("198.51.100.1:80, 10.0.0.2:17085, [fd00::7]:80", "198.51.100.1"),
        *(
            (malformed, "unix")
            for malformed in (
                *("203.0.113.7:", "203.0.113.7:x", "203.0.113.7:123456", ":80", "[]", "[]:80"),
                *("203.0.113:80", "[2001:db8::1", "2001:db8::1]:80", "[2001:db8::1]80"),
                *("[fe80::1%eth0]:80", '"203.0.113.7', '203.0.113.7"', "[unix]:80", "unix:80"),
                *("X203.0.113.7", "203.0.113.7X"),
                *("203.0.113.007:80", "[" + "1" * 16_000 + "]:80", "1" * 16_000),
            )
        ),
    ],
)
def test_forwarded_address_loses_its_port_and_quotes(entry: str, address: str) -> None:
    assert address_of("unix", entry) == address


@pytest.mark.parametrize("address", ["X203.0.113.7", "203.0.113.7X:80", "]", ""])
def test_host_of_a_malformed_address_is_none(address: str) -> None:
    assert parse_host(address) is None


def test_strip_port_keeps_all_up_to_the_last_bracket() -> None:
    assert [strip_port("[::1]:80"), strip_port("[::1]]:80"), strip_port("]a:80")] == [
        "[::1]",
        "[::1]]",
        "]",
    ]


def test_only_listed_networks_are_trusted() -> None:
    for socket in ("unix", "127.0.0.1:80", "[::1]:80", "10.0.0.1:80"):
        assert address_of(socket, "203.0.113.7", trusted=[]) == socket
    assert address_of("unix", "203.0.113.7", trusted=["0.0.0.0/0", "::/0"]) == "unix"
    assert address_of("127.0.0.1:80", "203.0.113.7", trusted=["unix"]) == "127.0.0.1:80"


def test_single_address_is_a_network_of_one() -> None:
    assert address_of("127.0.0.1:80", "203.0.113.7", trusted=["127.0.0.1"]) == "203.0.113.7"
    assert address_of("127.0.0.2:80", "203.0.113.7", trusted=["127.0.0.1"]) == "127.0.0.2:80"


@pytest.mark.parametrize(
    "text", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "::1/129", "unix:", "UNIX", "10.0.0"]
)
def test_parse_network_rejects_malformed_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        parse_network(text)


hops = st.one_of(
    st.integers(0, (1 << 24) - 1).map(
        lambda bits: f"10.{bits >> 16}.{bits >> 8 & 255}.{bits & 255}"
    ),
    st.integers(0, (1 << 64) - 1).map(lambda bits: f"fd00::{bits >> 48:x}:{bits >> 32 & 65535:x}"),
)
header_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF))


@given(
    st.data(),
    st.lists(st.one_of(header_text, hops, st.just("192.0.2.1"))),
    st.lists(hops, max_size=5),
    hops,
)
def test_forged_entries_never_change_the_client_address(
    data: st.DataObject, forged: list[str], between: list[str], last: str
) -> None:
    socket = f"[{last}]:80" if ":" in last else f"{last}:80"
    entries = [*forged, "203.0.113.7", *between]
    # A proxy may join header lines.
    lines = [entries[0]]
    for entry in entries[1:]:
        if data.draw(st.booleans()):
            lines.append(entry)
        else:
            lines[-1] += f", {entry}"
    assert address_of(socket, *lines) == "203.0.113.7"


@given(st.lists(header_text), st.sampled_from(["unix", "10.0.0.1:80", "198.51.100.1:80"]))
def test_any_header_gives_characters_of_an_address_only(lines: list[str], socket: str) -> None:
    assert set(address_of(socket, *lines)) <= set("0123456789abcdef.:[]unix")
