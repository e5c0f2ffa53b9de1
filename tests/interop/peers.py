"""The table of peers of the interop matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.interop.native_peers import NATIVE_PEERS
from tests.interop.peer import PYTHON, Feature, Peer, Side, modules

EXTRA = "pip install '.[interop]'"


def python_peer(
    name: str,
    module: str,
    *,
    also: Sequence[str] = (),
    lacks: Mapping[Feature | tuple[Side, Feature], str] | None = None,
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


PEERS: tuple[Peer, ...] = (python_peer("websockets", "websockets"), *NATIVE_PEERS)
