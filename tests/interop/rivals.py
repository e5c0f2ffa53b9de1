"""Other WebSocket libraries behind one interface, as client and as server.

Each library is imported only when it runs; tests of a missing library are skipped.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from queue import Queue
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tests.needs import need
from tests.support import PATIENCE
from wsproto_min import Close

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from aiohttp.web import Request, StreamResponse, WebSocketResponse
    from websockets.asyncio.connection import Connection
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request as UpgradeRequest
    from websockets.http11 import Response
    from websockets.typing import Subprotocol

MAX_SIZE = 4 << 20
SUBPROTOCOLS = ("tea", "coffee")
REFUSAL = "there is nothing here"
T = TypeVar("T")


class Link(ABC):
    """A rival's end of a connection."""

    subprotocol: str | None
    compressed: bool

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send a message in one frame."""

    @abstractmethod
    async def send_fragments(self, fragments: Sequence[str] | Sequence[bytes]) -> None:
        """Send a message in one frame per fragment."""

    @abstractmethod
    async def receive(self) -> str | bytes | Close:
        """Return the next message, or the Close that ended the connection."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> int | None:
        """Close; return the code of the reply."""


Handler = Callable[[str, Link], Awaitable[None]]
"""Called with the path and the server's end of each connection."""


class Rival(ABC):
    """A library; `servers` and `clients` name its compression settings."""

    name: str
    servers: tuple[str, ...]
    clients: tuple[str, ...]
    sends_fragments: bool
    echoes_codes: bool  # True if its server answers Close with the same code, else with 1000

    def need(self) -> None:
        """Skip the test if the library is not installed."""
        need(find_spec(self.name), self.name, "pip install '.[interop]'")

    @abstractmethod
    def serve(
        self, handler: Handler, compression: str, context: ssl.SSLContext | None
    ) -> AbstractAsyncContextManager[int]:
        """Serve; the context gives the port."""

    @abstractmethod
    def connect(
        self,
        url: str,
        compression: str,
        context: ssl.SSLContext | None,
        subprotocols: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[Link]:
        """Connect; the context gives the link."""


class WebsocketsLink(Link):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.subprotocol = connection.subprotocol
        self.compressed = bool(connection.protocol.extensions)

    async def send(self, message: str | bytes) -> None:
        await self._connection.send(message)

    async def send_fragments(self, fragments: Sequence[str] | Sequence[bytes]) -> None:
        await self._connection.send(fragments)

    async def receive(self) -> str | bytes | Close:
        from websockets.exceptions import ConnectionClosed

        try:
            message: str | bytes = await self._connection.recv()
            return message
        except ConnectionClosed:
            await self._connection.wait_closed()
            assert self._connection.close_code is not None
            return Close(self._connection.close_code, self._connection.close_reason or "")

    async def close(self, code: int, reason: str) -> int | None:
        await self._connection.close(code, reason)
        received: int | None = self._connection.close_code
        return received


class Websockets(Rival):
    name = "websockets"
    servers = ("default", "no compression", "no context takeover", "small windows")
    clients = (
        "default",
        "no compression",
        "no context takeover",
        "no server context takeover",
        "no client context takeover",
        "small windows",
    )
    sends_fragments = True
    echoes_codes = True

    @asynccontextmanager
    async def serve(
        self, handler: Handler, compression: str, context: ssl.SSLContext | None
    ) -> AsyncIterator[int]:
        from websockets.asyncio.server import serve
        from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

        extensions = {
            "no context takeover": [
                ServerPerMessageDeflateFactory(
                    server_no_context_takeover=True, client_no_context_takeover=True
                )
            ],
            "small windows": [
                ServerPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9)
            ],
        }.get(compression)

        async def handle(connection: ServerConnection) -> None:
            assert connection.request is not None
            await handler(connection.request.path, WebsocketsLink(connection))

        def refuse(connection: ServerConnection, request: UpgradeRequest) -> Response | None:
            if request.path.startswith("/nowhere"):
                return connection.respond(404, REFUSAL)
            return None

        def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Any:
            return next((name for name in SUBPROTOCOLS if name in offered), None)

        async with serve(
            handle,
            "127.0.0.1",
            0,
            ssl=context,
            extensions=extensions,
            compression="deflate" if compression == "default" else None,
            select_subprotocol=choose,
            process_request=refuse,
            max_size=MAX_SIZE,
            close_timeout=PATIENCE,
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    @asynccontextmanager
    async def connect(
        self,
        url: str,
        compression: str,
        context: ssl.SSLContext | None,
        subprotocols: Sequence[str] = (),
    ) -> AsyncIterator[Link]:
        from websockets.asyncio.client import connect
        from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

        extensions = {
            "no context takeover": [
                ClientPerMessageDeflateFactory(
                    server_no_context_takeover=True, client_no_context_takeover=True
                )
            ],
            "no server context takeover": [
                ClientPerMessageDeflateFactory(server_no_context_takeover=True)
            ],
            "no client context takeover": [
                ClientPerMessageDeflateFactory(client_no_context_takeover=True)
            ],
            "small windows": [
                ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9)
            ],
        }.get(compression)
        async with connect(
            url,
            ssl=context,
            extensions=extensions,
            compression="deflate" if compression == "default" else None,
            subprotocols=cast("Sequence[Subprotocol]", subprotocols) or None,
            max_size=MAX_SIZE,
            close_timeout=PATIENCE,
            proxy=None,
        ) as connection:
            yield WebsocketsLink(connection)


class AiohttpLink(Link):
    def __init__(self, websocket: ClientWebSocketResponse | WebSocketResponse) -> None:
        self._websocket = websocket
        self.subprotocol = (
            websocket.protocol if hasattr(websocket, "protocol") else websocket.ws_protocol
        )
        self.compressed = bool(websocket.compress)

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._websocket.send_str(message)
        else:
            await self._websocket.send_bytes(message)

    async def send_fragments(self, fragments: Sequence[str] | Sequence[bytes]) -> None:
        raise NotImplementedError

    async def receive(self) -> str | bytes | Close:
        from aiohttp import WSMsgType

        message = await self._websocket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        assert message.type is WSMsgType.CLOSE, message
        return Close(message.data or 1005, message.extra or "")

    async def close(self, code: int, reason: str) -> int | None:
        await self._websocket.close(code=code, message=reason.encode())
        received: int | None = self._websocket.close_code
        return received


class Aiohttp(Rival):
    name = "aiohttp"
    servers = ("default", "no compression")
    clients = ("default", "no compression", "small windows")
    sends_fragments = False
    echoes_codes = False

    @asynccontextmanager
    async def serve(
        self, handler: Handler, compression: str, context: ssl.SSLContext | None
    ) -> AsyncIterator[int]:
        from aiohttp import web

        async def handle(request: Request) -> StreamResponse:
            if request.path.startswith("/nowhere"):
                response = web.Response(status=404, text=REFUSAL)
                if request.path == "/nowhere/chunked":
                    response.enable_chunked_encoding()
                return response
            websocket = web.WebSocketResponse(
                compress=compression == "default",
                protocols=SUBPROTOCOLS,
                max_msg_size=MAX_SIZE,
                timeout=PATIENCE,
            )
            await websocket.prepare(request)
            await handler(request.path, AiohttpLink(websocket))
            return websocket

        application = web.Application()
        application.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def connect(
        self,
        url: str,
        compression: str,
        context: ssl.SSLContext | None,
        subprotocols: Sequence[str] = (),
    ) -> AsyncIterator[Link]:
        from aiohttp import ClientSession

        async with (
            ClientSession() as session,
            session.ws_connect(
                url,
                ssl=context or True,
                compress={"no compression": 0, "small windows": 9}.get(compression, 15),
                protocols=subprotocols,
                max_msg_size=MAX_SIZE,
            ) as websocket,
        ):
            yield AiohttpLink(websocket)


RIVALS: tuple[Rival, ...] = (Websockets(), Aiohttp())


def in_time(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine with a time limit."""
    return asyncio.run(asyncio.wait_for(scenario, 3 * PATIENCE))


class TheirServer:
    """A rival's server in a thread; its first message is "SUBPROTOCOL COMPRESSED".

    - `/echo` sends every message back.
    - `/fragments` sends it back in three fragments.
    - `/close` closes with the code and reason in the message "CODE REASON".
    - `/closing` adds the received Close to `closed`.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.port = 0
        self.closed: Queue[Close] = Queue()

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    async def handle(self, path: str, link: Link) -> None:
        await link.send(f"{link.subprotocol} {link.compressed}")
        while not isinstance(message := await link.receive(), Close):
            if path == "/echo":
                await link.send(message)
            elif path == "/fragments":
                third = len(message) // 3
                fragments = [message[:third], message[third:-third], message[-third:]]
                await link.send_fragments(fragments)  # type: ignore[arg-type]
            elif path == "/close":
                assert isinstance(message, str)
                code, _, reason = message.partition(" ")
                await link.close(int(code), reason)
                return
        if path == "/closing":
            self.closed.put(message)


@contextmanager
def their_server(
    rival: Rival, compression: str, context: ssl.SSLContext | None
) -> Iterator[TheirServer]:
    """Run a rival's server in a thread."""
    started: Queue[TheirServer | BaseException] = Queue()
    loops: list[asyncio.AbstractEventLoop] = []
    stopping = asyncio.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = TheirServer("ws" if context is None else "wss")
        async with rival.serve(server.handle, compression, context) as server.port:
            started.put(server)
            await stopping.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=run, name=rival.name, daemon=True)
    thread.start()
    server = started.get(timeout=PATIENCE)
    if isinstance(server, BaseException):
        raise server
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(stopping.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()
