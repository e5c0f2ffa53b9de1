"""Peers of the interop matrix in C, C++, Perl, Java, Go and Rust."""

from __future__ import annotations

from tests.interop.peer import Peer

NATIVE_PEERS: tuple[Peer, ...] = ()
