"""Frames of a WebSocket session, as a reader's parser takes them apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from node.api.problems import no_route, refusal_of
from node.http.http_messages import Response
from node.http.http_server import Application, HttpServer
from node.http.server_connection import Request
from node.http.server_socket import ServerSocket, SocketOptions, accept_key
from node.http.socket_session import MAX_SHARED, SessionRules, SocketSession


class Source:
    due = 0.0


class TooSlow(Exception):
    pass


class Served:
    """A connection that posts what it is told to."""

    def __init__(self, socket: ServerSocket, begin: Callable[[Served], None]) -> None:
        self.socket = socket
        self.session = SocketSession[Source](socket, SessionRules(5.0, TooSlow), lambda *_: ())
        begin(self)

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_writable(self) -> None:
        self.session.on_writable()

    def on_end(self) -> None:
        self.session.stop()


@asynccontextmanager
async def connected(
    begin: Callable[[Served], None],
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    def serve(request: Request) -> Response | None:
        accept = accept_key(request.head)
        assert accept is not None
        ServerSocket(request, accept, SocketOptions(1 << 20, 20.0), lambda s: Served(s, begin))
        return None

    application = Application(no_route, refusal_of)
    application.router.add("GET", "/", serve, head=False)
    server = HttpServer(application)
    host, port = await server.start("127.0.0.1", 0)
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"http://{host}:{port}/") as socket,
        ):
            yield socket
    finally:
        await server.stop()


async def test_texts_of_all_sizes_arrive_in_their_order() -> None:
    sizes = (0, 1, 125, 126, 127, 4096, MAX_SHARED, MAX_SHARED + 1, 200_000, 3)

    def begin(served: Served) -> None:
        for size in sizes:
            served.session.post(b"y" * size)

    async with connected(begin) as socket:
        found = [len((await asyncio.wait_for(socket.receive(), 10)).data) for _ in sizes]
    assert found == list(sizes)


async def test_no_data_follows_the_close_frame() -> None:
    def begin(served: Served) -> None:
        served.socket.close(1000, "enough")
        served.session.post(b"late")

    async with connected(begin) as socket:
        message = await asyncio.wait_for(socket.receive(), 10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1000)
        assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSED
