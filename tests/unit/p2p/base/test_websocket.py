"""Frames of a WebSocket client, against those of aiohttp and against malformed ones."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMessage, WSMsgType, web
from grenache_client_kit import server

from p2p.base import websocket
from p2p.base.http1 import HttpFailed
from p2p.base.http_pool import Address
from p2p.base.websocket import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    TOO_LARGE,
    BadFrame,
    FrameParser,
    SocketOptions,
    WsConnection,
    connect,
    masked_frame,
)
from p2p.grenache.rpc.rpc_server import frame

SIZES = [0, 1, 3, 4, 125, 126, 127, 65_535, 65_536, 300_001]


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_any_size_in_any_portions(size: int) -> None:
    rng = random.Random(size)
    payload = rng.randbytes(size)
    wire = frame(payload) + frame(b"next", text=False)
    for step in (1, 7, 4096, len(wire)):
        if len(wire) // step > 20_000:
            continue
        parser = FrameParser(1 << 20)
        found = []
        for start in range(0, len(wire), step):
            found += parser.feed(wire[start : start + step])
        assert found == [(TEXT, payload), (BINARY, b"next")]


def test_a_message_in_parts_with_a_ping_between() -> None:
    parser = FrameParser(100)
    wire = b"\x01\x03one" + b"\x89\x02hi" + b"\x00\x03two" + b"\x80\x05three" + b"\x81\x00"
    assert parser.feed(wire) == [(PING, b"hi"), (TEXT, b"onetwothree"), (TEXT, b"")]


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc1\x00",  # an extension's bit
        b"\x81\x80\0\0\0\0",  # masked by the server
        b"\x83\x00",  # opcode unknown
        b"\x8b\x00",
        b"\x80\x00",  # continues nothing
        b"\x01\x00\x01\x00",  # begins again before the end
        b"\x09\x00",  # a ping in parts
        b"\x89\x7e\x00\x7e",  # a ping that is too long
    ],
)
def test_malformed_frames_are_refused(wire: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameParser(100).feed(wire)


def test_a_message_that_is_too_large_is_refused_by_its_head() -> None:
    for wire in (b"\x81\x7e\x00\x81", b"\x81\x7f" + (1 << 62).to_bytes(8, "big")):
        with pytest.raises(BadFrame) as refused:
            FrameParser(128).feed(wire)
        assert refused.value.code == TOO_LARGE
    parser = FrameParser(128)
    parser.feed(b"\x01\x7d" + bytes(125))
    with pytest.raises(BadFrame):
        parser.feed(b"\x80\x04")


def test_random_bytes_give_frames_or_an_error() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        parser = FrameParser(64)
        try:
            for _ in range(4):
                for opcode, payload in parser.feed(rng.randbytes(rng.randrange(1, 40))):
                    assert opcode in (1, 2, 8, 9, 10)
                    assert len(payload) <= 125
        except BadFrame:
            pass


@asynccontextmanager
async def echoing():
    """A server of aiohttp that echoes, and its messages."""
    seen: list[WSMessage] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse(max_msg_size=0)
        await opened.prepare(request)
        async for message in opened:
            seen.append(message)
            if message.data == "ping":
                await opened.ping(b"are you there?")
            await opened.send_str(message.data)
        return opened

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0], seen
    await runner.cleanup()


async def opened(address: Address) -> WsConnection:
    return await connect(address, SocketOptions(), timeout=5.0)


async def received(connection: WsConnection) -> bytes:
    message = await asyncio.wait_for(connection.receive(), 10)
    assert message is not None
    return message[1]


async def test_aiohttp_understands_what_is_sent() -> None:
    async with echoing() as (address, seen):
        connection = await opened(address)
        for size in (*SIZES, 4):
            text = ("é" * size)[: size // 2] + "x" * (size % 2)
            connection.send(text.encode())
            assert (await received(connection)).decode() == text
        connection.send(b"ping")  # the server's ping is answered beside the echo
        assert await received(connection) == b"ping"
        await connection.close()
        assert connection.ended.done()
        assert await connection.receive() is None
    assert all(message.type is WSMsgType.TEXT for message in seen)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "redirect"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\n",
            "not to this request",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "longer than"),
        (b"", "closed"),
    ],
)
async def test_a_handshake_that_fails(answer: bytes, why: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with server(script) as address:
        with pytest.raises(HttpFailed, match=why) as failed:
            await opened(address)
    assert not failed.value.sent


def test_a_close_frame_is_masked_too() -> None:
    wire = masked_frame(b"\x03\xe8", CLOSE)
    assert (wire[0], wire[1], len(wire)) == (0x80 | CLOSE, 0x80 | 2, 8)
    assert bytes(byte ^ wire[2 + n % 4] for n, byte in enumerate(wire[6:])) == b"\x03\xe8"


async def test_reading_pauses_without_a_receiver(monkeypatch) -> None:
    monkeypatch.setattr(websocket, "MAX_WAITING", 10)
    sent = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        for _ in range(400):
            await opened.send_bytes(bytes(1 << 16))
        sent.set()
        return opened

    app = web.Application()
    app.router.add_get("/ws", script)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = await opened(runner.addresses[0])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sent.wait(), 0.2)
    for _ in range(400):
        assert len(await received(connection)) == 1 << 16
    assert await connection.receive() is None
    await runner.cleanup()


@pytest.mark.parametrize("use", ["send", "ping"])
async def test_a_connection_whose_transport_is_closed_already_takes_messages_in_silence(
    use: str,
) -> None:
    """Over uvloop writing to a closed transport raises."""

    class Closed(asyncio.Transport):
        def is_closing(self) -> bool:
            return True

        def write(self, data: object) -> None:
            raise RuntimeError("the handler is closed")

    connection = WsConnection(None, SocketOptions(max_message=100, heartbeat=0.0))
    connection.connection_made(Closed())
    if use == "send":
        connection.send(b"x")
    else:
        connection._beat()
        assert connection._timer is not None
        connection._timer.cancel()
    connection.connection_lost(None)
    assert connection.ended.done()
