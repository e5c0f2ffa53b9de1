"""The interface of extensions (RFC 6455, section 9).

An extension changes the payloads of messages, and sets its RSV bit in the first frame of each
message that it changes (section 5.2). The handshake negotiates it, and `Connection` applies it.
The frame codec does not know it. These rules keep the interface small:

1. An extension changes whole messages, never a control frame or a frame's length.
2. Two negotiated extensions must not use the same RSV bit.
3. At most one extension changes a message: the first negotiated one that accepts the message.

permessage-deflate (module `deflate`) implements this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from wsproto_min.codes import Opcode
from wsproto_min.errors import ProtocolError

Parameters = Sequence[tuple[str, str | None]]
"""Parameters of an extension as a header lists them: names, each with its value or None."""


class MessageEncoder(Protocol):
    """Encoder for one message that is sent."""

    def encode(self, data: bytes, *, last: bool) -> bytes:
        """Return the payload of the next frame.

        Args:
            data: The next part of the message, possibly empty.
            last: True if the message ends with this part.

        """


class Encoder(Protocol):
    """Encoder for the messages that one side of a connection sends."""

    def begin(self, opcode: Opcode, size: int) -> MessageEncoder | None:
        """Begin a message; return None to leave the message as it is.

        Args:
            opcode: TEXT or BINARY.
            size: Bytes of the message, or of its first fragment.

        """


class MessageDecoder(Protocol):
    """Decoder for received messages, chunk by chunk."""

    @property
    def keeps_context(self) -> bool:
        """True if the next message needs this decoder; otherwise each message has a fresh one."""

    @property
    def has_more(self) -> bool:
        """True if `limit` held output back: call `decode` again, without data."""

    def decode(self, data: bytes, limit: int, *, last: bool) -> tuple[bytes, ProtocolError | None]:
        """Decode the next chunk of a message.

        Args:
            data: The chunk, possibly empty.
            limit: The number of bytes that the caller accepts.
            last: True if the message ends with this chunk.

        Returns:
            The output, and the error that follows it or None. The output has at most `limit` + 1
            bytes. An output of `limit` + 1 bytes is larger than the caller accepts.

        """


class Extension(Protocol):
    """An extension: configured, offered or negotiated."""

    @property
    def name(self) -> str:
        """The registered name, as in the header Sec-WebSocket-Extensions."""

    @property
    def rsv(self) -> int:
        """Its bit of a frame's first byte: `RSV1`, `RSV2` or `RSV3` of module `frames`."""

    def to_offer(self) -> str:
        """Return a client's offer for the header: name and parameters (section 9.1)."""

    def accept_offer(self, offered: Parameters, /) -> Self | None:
        """Return the negotiated extension for a client's offer, or None to decline it.

        `self` is the server's configuration.
        """

    def to_header(self) -> str:
        """Return the server's response for the header."""

    def validate_response(self, parameters: Parameters, /) -> Self | None:
        """Return the negotiated extension for a server's response, or None if it is invalid.

        `self` is the client's offer.
        """

    def encoder(self, *, server: bool) -> Encoder:
        """Return an encoder for the messages of that side."""

    def decoder(self, *, server: bool) -> Callable[[], MessageDecoder]:
        """Return the function that makes a decoder for the messages of that side."""


def accept_offers(
    offers: Sequence[tuple[str, Parameters]], configured: Sequence[Extension]
) -> list[Extension]:
    """Return the negotiated extensions for a client's offers, in the client's order.

    Args:
        offers: Names with parameters, as the header lists them.
        configured: The server's extensions. Of two with the same RSV bit it accepts one.

    """
    negotiated: list[Extension] = []
    for name, parameters in offers:
        for extension in configured:
            if extension.name == name and all(extension.rsv != other.rsv for other in negotiated):
                accepted = extension.accept_offer(parameters)
                if accepted is not None:
                    negotiated.append(accepted)
    return negotiated
