"""Frames of a WebSocket session, as a reader's parser takes them apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp
from aiohttp import web

from node.http.socket_session import MAX_SHARED, SocketSession


class Source:
    due = 0.0


class TooSlow(Exception):
    pass


async def test_texts_of_all_sizes_arrive_in_their_order() -> None:
    sizes = (0, 1, 125, 126, 127, 4096, MAX_SHARED, MAX_SHARED + 1, 200_000, 3)

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)

        def take(source: Source, now: float) -> Iterable[bytes]:
            return ()

        session = SocketSession(
            request, socket, take, buffer=1 << 20, send_timeout=5.0, too_slow=TooSlow
        )
        for size in sizes:
            session.post(b"y" * size)

        async def read() -> None:
            await socket.receive()

        await session.run(read())
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(url) as socket,
        ):
            found = [
                len((await asyncio.wait_for(socket.receive(), 10)).data) for _ in range(len(sizes))
            ]
            assert found == list(sizes)
    finally:
        await runner.cleanup()


async def test_no_data_follows_the_close_frame() -> None:
    ended = asyncio.get_running_loop().create_future()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        session = SocketSession(
            request,
            socket,
            lambda source, now: (),
            buffer=1 << 20,
            send_timeout=5.0,
            too_slow=TooSlow,
        )
        await socket.close(drain=False)
        session.post(b"late")
        ended.set_result(type(session._fault))
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
            assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE
        assert issubclass(await asyncio.wait_for(ended, 10), ConnectionError)
    finally:
        await runner.cleanup()
