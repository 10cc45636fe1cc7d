"""Book changes a second to many readers of a WebSocket, next to an empty aiohttp one with the same bytes.

One process makes changes in a book of a thousand levels, each a message of its own, and carries it to all
readers of /v1/stream before it makes the next; another reads. The floor is an aiohttp handler in the same
process that sends the very messages that were recorded, to as many readers. Every row has its turn in each
round. `apart`: the changes, from the book to bytes, with nobody to send them to.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, cast

import uvloop
from aiohttp import WSMsgType, web

from tests.benchmarks.report import Row

sys.path.insert(
    0, str(Path(__file__).parents[1] / "unit" / "kits")
)  # their node, whose book is changed past its engine

READERS = (1, 50, 1000)
LEVELS = ("L2", "L3")
CHANGES = {1: 8000, 50: 1200, 1000: 80}  # of one turn, by the number of readers
ROUNDS = 5
MARKET = "BTC-USD"
SUBSCRIBE = '{"op":"subscribe","channel":"book","market":"BTC-USD","depth":"full","level":"%s"}'


class Reader(asyncio.Protocol):
    """Reads and forgets."""

    def __init__(self, path: str, hello: str) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n"
        ).encode()
        text = hello.encode()  # masked with zeros
        self._hello = bytes([0x81, 0x80 | len(text)]) + bytes(4) + text
        self._transport: asyncio.Transport | None = None
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            self._upgraded = True
            assert self._transport is not None
            self._transport.write(self._hello)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def read(pipe: Pipe) -> None:
    """The readers' process: (port, path, hello, how many), then anything to end them."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        while True:
            port, path, hello, count = await asyncio.to_thread(pipe.recv)
            readers = []
            for _ in range(count):
                _, reader = await loop.create_connection(
                    lambda path=path, hello=hello: Reader(path, hello), "127.0.0.1", port
                )
                readers.append(reader)
            await asyncio.to_thread(pipe.recv)
            for reader in readers:
                reader.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


class Storm:
    """A book and changes of it, the same ones every time."""

    def __init__(self, service: Any) -> None:
        self._fake = service.shown
        self._rng = random.Random(7)
        self._keys = [
            self._fake.order(
                MARKET,
                1 if number % 2 else -1,
                str(30000 - number if number % 2 else 30000 + number),
                "1",
                number=number + 1,
            )
            for number in range(1000)
        ]

        self._market = self._fake.instruments[MARKET].key
        self._book = self._fake.markets[self._market].book

    def change(self) -> None:
        key = self._keys[int(self._rng.random() * len(self._keys))]
        self._book.set_quantity(key, 1 + int(self._rng.random() * 10**6))
        self._fake.data.add([(self._market, *self._book.side_price(key))], [])


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


class Bench:
    def __init__(self, service: Any, pipe: Pipe) -> None:
        self.service = service
        self.storm = Storm(service)
        self.pipe = pipe
        self.port = self.empty_port = 0
        self.sockets: list[web.WebSocketResponse] = []

    async def empty(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self.sockets.append(socket)
        async for _ in socket:
            pass
        self.sockets.remove(socket)
        return socket

    def stream(self, level: str) -> Any:
        return self.service.stream_registry._streams.get(
            (f"book/{MARKET}/{level}/full/network", None)
        )

    async def ours(self, level: str, readers: int) -> float:
        """Changes a second, to readers of the stream."""
        self.pipe.send((self.port, "/v1/stream", SUBSCRIBE % level, readers))
        await until(lambda: len(getattr(self.stream(level), "readers", ())) == readers)
        stream = self.stream(level)
        reading = list(stream.readers)
        await until(lambda: not any(reader.waiting for reader in reading))
        begin = time.process_time()
        for _ in range(CHANGES[readers]):
            self.storm.change()
            await asyncio.sleep(0)  # the floor's messages leave one at a time, too
            while any(reader.waiting for reader in reading):  # noqa: ASYNC110 - it is timed
                await asyncio.sleep(0)
        took = time.process_time() - begin
        self.pipe.send(None)
        await until(lambda: not stream.readers)
        return CHANGES[readers] / took

    async def floor(self, messages: list[bytes], readers: int) -> float:
        """The same, from a handler that has nothing to do but to send."""
        self.pipe.send((self.empty_port, "/empty", "{}", readers))
        await until(lambda: len(self.sockets) == readers)
        begin = time.process_time()
        for number in range(CHANGES[readers]):
            message = messages[number % len(messages)]
            for socket in self.sockets:
                await socket.send_frame(message, WSMsgType.TEXT)
            await asyncio.sleep(0)
        took = time.process_time() - begin
        self.pipe.send(None)
        await until(lambda: not self.sockets)
        return CHANGES[readers] / took

    def apart(self, level: str) -> float:
        """Changes a second without readers; the stream is there."""
        assert self.stream(level) is not None
        begin = time.process_time()
        for _ in range(CHANGES[1]):
            self.storm.change()
        return CHANGES[1] / (time.process_time() - begin)


async def measure(pipe: Pipe, rounds: int) -> dict[str, list[float]]:
    from trading_kit import running_trading_node

    async with running_trading_node() as node:
        return await measured(node, pipe, rounds)


async def measured(service: Any, pipe: Pipe, rounds: int) -> dict[str, list[float]]:
    from node.api.access import AccessRules
    from node.api.api_server import make_application
    from node.http.http_server import HttpServer

    bench = Bench(service, pipe)
    rules = AccessRules(max_streams=max(READERS))
    server = HttpServer(make_application(service, rules=rules), more=max(READERS))
    _, bench.port = await server.start("127.0.0.1", 0)
    app = web.Application()
    app.router.add_get("/empty", bench.empty)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bench.empty_port = runner.addresses[0][1]
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for level in LEVELS:
            for readers in READERS:
                found.setdefault(f"{level} {readers}", []).append(await bench.ours(level, readers))
                messages = [step.message for step in bench.stream(level)._history.values()]
                found.setdefault(f"{level} {readers} floor", []).append(
                    await bench.floor(messages, readers)
                )
                found[f"{level} bytes"] = [statistics.mean(map(len, messages))]
            found.setdefault(f"{level} apart", []).append(bench.apart(level))
            service.stream_registry.close()
    await runner.cleanup()
    await server.stop()
    return found


@contextmanager
def reading() -> Iterator[Pipe]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=read, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def rows(found: dict[str, list[float]]) -> list[Row]:
    made = []
    for level in LEVELS:
        size = found[f"{level} bytes"][0]
        made.append(Row(f"{level}: apart", statistics.median(found[f"{level} apart"]), "changes/s"))
        for readers in READERS:
            value = statistics.median(found[f"{level} {readers}"])
            floor = statistics.median(found[f"{level} {readers} floor"])
            what = f"{level}: to {readers} reader{'s' if readers > 1 else ''}"
            made.append(Row(f"floor {what}", floor, "messages/s", None, f"{size:.0f} bytes each"))
            made.append(Row(what, value, "changes/s", value / floor, "ratio to the floor above"))
            made.append(Row(f"{what}, in all", value * readers, "messages/s"))
    return made


def run(quick: bool) -> list[Row]:
    """Medians over rounds."""
    with reading() as pipe, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return rows(runner.run(measure(pipe, 1 if quick else ROUNDS)))
