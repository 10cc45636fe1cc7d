"""One request to one worker over WebSocket: what each fault is told as, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from grenache_client_kit import server, until, unused_address
from grenache_transport_kit import SOON, answering, ask, blocking_server, echoing

from p2p.base.identity import Identity
from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed, RequestTimeout
from p2p.grenache.rpc import ws_transport
from p2p.grenache.rpc.rpc_transport import CLOSED, BadReply
from p2p.grenache.rpc.ws_transport import WsTransport
from p2p.wire.tls import client_context, server_context


@pytest.fixture
async def ws() -> AsyncIterator[WsTransport]:
    transport = WsTransport()
    yield transport
    await transport.close()


@asynccontextmanager
async def socket_server(
    script: Callable[[web.WebSocketResponse, Any], Any],
    *,
    tls: ssl.SSLContext | None = None,
    accept: Callable[[], Any] | None = None,
    at_once: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Address, list[web.WebSocketResponse]]]:
    """Runs `script(socket, frame as JSON)` for each frame; also gives all sockets that were accepted.
    `at_once`: they are closed when they are."""
    sockets: list[web.WebSocketResponse] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if accept is not None:
            await accept()
        opened = web.WebSocketResponse(**options)
        await opened.prepare(request)
        sockets.append(opened)
        if at_once:
            await opened.close()
        async for message in opened:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            await script(opened, json.loads(message.data))
        return opened

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0], sockets
    finally:
        for opened in sockets:
            await opened.close()
        await runner.cleanup()


async def replying(opened: web.WebSocketResponse, frame: Any) -> None:
    await opened.send_json([frame[0], None, frame[2]])


async def never(opened: web.WebSocketResponse, frame: Any) -> None:
    pass


async def test_ws_many_requests_on_one_connection_replies_in_any_order(ws):
    frames: list[Any] = []

    async def backwards(opened: web.WebSocketResponse, frame: Any) -> None:
        frames.append(frame)
        if len(frames) == 50:
            for rid, _, payload in reversed(frames):
                await opened.send_json([rid, None, payload])

    async with socket_server(backwards) as (address, sockets):
        replies = await asyncio.gather(*(ask(ws, address, n, rid=f"r{n}") for n in range(50)))
    assert [reply.result for reply in replies] == list(range(50))
    assert len(sockets) == 1
    assert ws.status().connects == 1


async def test_ws_a_dead_address_is_refused_and_raises_nowhere_else(ws, caplog):
    address = unused_address()
    ended = await asyncio.gather(
        *(ask(ws, address, rid=f"r{n}") for n in range(5)), return_exceptions=True
    )
    assert all(isinstance(error, RequestFailed) and not error.sent for error in ended)
    assert ws.status().connects == 1  # they shared the attempt
    with pytest.raises(RequestFailed) as failed:
        await ask(ws, address)
    assert failed.value.detail == f"cannot connect to {address[0]}:{address[1]}: connection refused"
    assert not caplog.records


async def test_ws_a_connection_that_ends_at_once_delays_no_other(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        raise AssertionError("it was to be closed")

    async with socket_server(script, at_once=True) as (address, sockets):
        for n in range(10):
            began = time.monotonic()
            with pytest.raises(RequestFailed, match="ended"):
                await ask(ws, address, n)
            assert time.monotonic() - began < SOON / 2
        assert len(sockets) == 10


async def test_ws_each_request_has_its_own_timeout_and_late_replies_are_ignored(ws):
    held: list[Any] = []

    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        if frame[2] == "hold":
            held.append(frame)
            return
        if frame[2] == "go":
            for late in held:
                await replying(opened, late)
            await opened.send_json(["unknown", None, 1])
            await opened.send_str("this is no JSON")
        await replying(opened, frame)

    async with socket_server(script) as (address, sockets):
        await ask(ws, address, rid="r0")  # connecting takes as long as it takes
        with pytest.raises(RequestTimeout) as failed:
            await ask(ws, address, "hold", rid="r1", timeout=0.03)
        assert failed.value.sent
        other = asyncio.ensure_future(ask(ws, address, "hold", rid="r3", timeout=SOON))
        await until(lambda: len(held) == 2)
        assert (await ask(ws, address, "go", rid="r2")).result == "go"
        assert (await other).result == "hold"
        assert len(sockets) == 1


async def test_ws_requests_with_different_timeouts_end_in_the_order_of_these(ws):
    """They share one timer."""

    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        if frame[2] != "hold":
            await replying(opened, frame)

    ended: list[str] = []

    async def wait(rid: str, timeout: float) -> None:
        with pytest.raises(RequestTimeout):
            await ask(ws, address, "hold", rid=rid, timeout=timeout)
        ended.append(rid)

    async with socket_server(script) as (address, _):
        await ask(ws, address, rid="first", timeout=5.0)
        long = asyncio.ensure_future(wait("long", 0.2))
        await asyncio.sleep(0)
        short = asyncio.ensure_future(wait("short", 0.05))
        for number in range(5):  # answered ones leave the timer where it is
            await ask(ws, address, rid=f"r{number}", timeout=0.15)
        middle = asyncio.ensure_future(wait("middle", 0.1))
        await asyncio.gather(long, short, middle)
        assert ended == ["short", "middle", "long"]
        assert (await ask(ws, address, "still open")).result == "still open"


@pytest.mark.parametrize("text", ["", "null", "this is no JSON", '{"a":1}'])
async def test_ws_an_invalid_reply_fails_the_only_request_under_way(ws, text):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_str(text)

    async with socket_server(script) as (address, _):
        with pytest.raises(BadReply) as failed:
            await ask(ws, address)
    assert (failed.value.code, failed.value.sent) == ("ERR_REPLY_EMPTY", True)


async def test_ws_a_wrong_rid_is_no_reply(ws):
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_json(["other", None, 1])

    async with socket_server(script) as (address, _):
        with pytest.raises(RequestTimeout):
            await ask(ws, address, timeout=0.05)


async def test_ws_a_frame_beyond_the_limit_ends_the_connection():
    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await opened.send_json([frame[0], None, "x" * 2000])

    ws = WsTransport(max_reply=1000)
    async with socket_server(script) as (address, _):
        with pytest.raises(RequestFailed) as failed:
            await ask(ws, address)
        assert failed.value.sent
        await ws.close()


async def test_ws_a_worker_that_is_no_websocket_or_sends_elsewhere_is_refused(ws):
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/other"})

    async with server(answering(echoing)) as address:
        with pytest.raises(RequestFailed):
            await ask(ws, address, timeout=0.1)
    app = web.Application()
    app.router.add_get("/other", page)
    app.router.add_get("/ws", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with pytest.raises(RequestFailed, match="redirect") as failed:
        await ask(ws, runner.addresses[0])
    assert not failed.value.sent
    await runner.cleanup()


async def test_ws_a_connection_that_is_not_made_in_time(ws):
    entered = asyncio.Event()

    async def stuck() -> None:
        entered.set()
        await asyncio.sleep(SOON)

    async with socket_server(never, accept=stuck) as (address, _):
        with pytest.raises(RequestTimeout, match="no connection") as failed:
            await ask(ws, address, timeout=0.03)
        assert not failed.value.sent
        with pytest.raises(RequestTimeout, match="no connection"):
            await ask(ws, address, timeout=SOON, connect_timeout=0.03)
        await ws.close()


async def test_ws_a_worker_that_vanished_is_found_by_pings():
    ws = WsTransport()
    ws._options = replace(ws._options, heartbeat=0.05)

    async with socket_server(never, autoping=False) as (address, _):
        with pytest.raises(RequestFailed) as failed:
            await ask(ws, address, timeout=SOON)
        assert failed.value.code == CLOSED
        await ws.close()


async def test_ws_an_idle_connection_is_closed_and_one_in_use_is_not(monkeypatch):
    monkeypatch.setattr(ws_transport, "SWEEP", 0.01)
    ws = WsTransport(idle=0.03)
    release = asyncio.Event()

    async def script(opened: web.WebSocketResponse, frame: Any) -> None:
        await release.wait()
        await replying(opened, frame)

    async with socket_server(script) as (address, sockets):
        waiting = asyncio.ensure_future(ask(ws, address))
        await asyncio.sleep(0.1)
        release.set()
        assert (await waiting).result == "hi"
        await until(lambda: not ws._links and sockets[0].closed)
        assert sockets[0].close_code == 1000
        await ws.close()


async def test_ws_under_way_is_bounded(ws, monkeypatch):
    monkeypatch.setattr(ws_transport, "MAX_UNDER_WAY", 2)
    async with socket_server(never) as (address, _):
        waiting = [asyncio.ensure_future(ask(ws, address, rid=f"r{n}")) for n in range(2)]
        await asyncio.sleep(0.02)
        with pytest.raises(RequestFailed, match="2 requests are under way") as failed:
            await ask(ws, address, rid="r9")
        assert not failed.value.sent
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not ws._links[address].under_way


async def test_ws_a_worker_that_does_not_read_holds_up_its_own_requests_only():
    """Requests that time out leave no heap of bytes behind: the ones after the first are not sent."""
    listening, address = blocking_server()
    resume = threading.Event()
    received = 0

    def serve() -> None:
        nonlocal received
        connection, _ = listening.accept()
        with connection:
            found = re.search(rb"(?i)sec-websocket-key: (\S+)", connection.recv(65536))
            assert found is not None
            digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            accept = base64.b64encode(digest)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            resume.wait(SOON)
            connection.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while data := connection.recv(1 << 20):
                    received += len(data)

    thread = threading.Thread(target=serve)
    thread.start()
    ws = WsTransport()
    try:
        ended = await asyncio.gather(
            *(ask(ws, address, "x" * 10_000_000, rid=f"r{n}", timeout=0.5) for n in range(3)),
            return_exceptions=True,
        )
        assert [type(error) for error in ended] == [RequestTimeout] * 3
        assert [error.sent for error in ended] == [True, False, False]
        resume.set()
        await asyncio.to_thread(thread.join)
        assert 10_000_000 < received < 11_000_000
    finally:
        resume.set()
        await ws.close()
        thread.join()
        listening.close()


async def test_ws_closing_fails_requests_under_way():
    ws = WsTransport()
    async with socket_server(never) as (address, _):
        waiting = asyncio.ensure_future(ask(ws, address))
        await asyncio.sleep(0.02)
        await ws.close()
        with pytest.raises(RequestFailed, match="was closed") as failed:
            await waiting
        assert failed.value.code == CLOSED
        with pytest.raises(RequestFailed, match="was closed"):
            await ask(ws, address)


async def test_ws_tls_both_sides_show_a_certificate():
    ws = WsTransport(tls=client_context(Identity.generate()))
    async with socket_server(replying, tls=server_context(Identity.generate())) as (address, _):
        assert (await ask(ws, address, 1)).result == 1
        await ws.close()
