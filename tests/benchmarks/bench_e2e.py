"""Orders end to end: from a POST on one node to the other node's book, next to what that costs at least.

Two real nodes, TLS between them. A client places resting orders over keep-alive HTTP on the first and
watches the second's WebSocket stream; each order has a price of its own, so that it is recognised there.
`one at a time` is latency without load; `64 at a time` is a closed loop of 64 clients.

The floors, in the same rounds and with the same client: an aiohttp handler that does nothing; bytes of
the same size passed from process to process over plain TCP, the way an order takes (client, node, node,
client); 4 KiB made durable on the nodes' disk. Client and nodes share the machine's cores, as here do
all rows. Run: python -m tests.benchmarks e2e
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from tests.benchmarks.report import Row
from tests.integration.processes import MARKET, NodeProcess, Nodes

CLIENTS = 64
ROUNDS = 3
FAR = 9_999_999  # a price above all bids
FIRST_BID = 2_500_000  # inside the band, whether the middle of a bid and FAR or FAR is its base
SYNCS = ("full", "normal")
DRAIN = 20.0  # seconds for the last orders to become visible

Waiter = asyncio.Future[None]


@dataclass
class Samples:
    """Seconds each, and how many were done in how long."""

    acknowledged: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.visible or self.acknowledged) / self.elapsed


def quantile(samples: list[float], percent: int) -> float:
    """Microseconds."""
    return statistics.quantiles(samples, n=100)[percent - 1] * 1e6


# A client that costs little itself


class Http(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator or self._answer is None:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._data = b""
            if not head.startswith(b"HTTP/1.1 20"):
                self._answer.set_exception(RuntimeError((head + body).decode()))
            else:
                self._answer.set_result(body)

    async def post(self, body: bytes) -> bytes:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(
            b"POST /v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Http]]:
    loop = asyncio.get_running_loop()
    port = int(url.rpartition(":")[2])
    opened = [(await loop.create_connection(Http, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def order(side: str, price: int) -> bytes:
    return b'{"market":"%s","side":"%s","quantity":"1","price":"%d"}' % (
        MARKET.encode(),
        side.encode(),
        price,
    )


# Two nodes


@dataclass
class Market:
    """A pair of nodes and who watches what on the second."""

    first: NodeProcess
    second: NodeProcess
    prices: Iterator[int] = field(default_factory=lambda: itertools.count(FIRST_BID))
    waiting: dict[str, tuple[float, Waiter]] = field(default_factory=dict)  # price: since when
    seen: list[float] = field(default_factory=list)
    filled: dict[int, Waiter] = field(default_factory=dict)  # of the second node's orders
    last: float = 0.0
    snapshots: int = 0

    async def watch(self, session: aiohttp.ClientSession, ready: asyncio.Event) -> None:
        """Note when prices appear in the second node's book, and when its own orders are filled."""
        clock = time.perf_counter
        async with session.ws_connect(f"{self.second.api_url}/v1/stream", max_msg_size=0) as stream:
            for what in (
                {"channel": "book", "market": MARKET, "depth": "full"},
                {"channel": "orders"},
            ):
                await stream.send_str(json.dumps({"op": "subscribe", **what}))
            async for message in stream:
                event = json.loads(message.data)
                kind = event["event"]
                if kind == "book_l2":
                    for price, *_ in (*event["bids"], *event["asks"]):
                        begun, waiter = self.waiting.pop(price, (0.0, None))
                        if waiter is not None:
                            self.last = clock()
                            self.seen.append(self.last - begun)
                            waiter.set_result(None)
                elif kind == "orders":
                    for told in event["orders"]:
                        filled = self.fill_of(told["number"])
                        if told["status"] == "filled" and not filled.done():
                            filled.set_result(None)
                elif kind == "book_l2_snapshot":
                    self.snapshots += 1
                    ready.set()

    async def place(self, clients: int, seconds: float) -> Samples:
        """Resting orders on the first node from `clients` closed loops."""
        clock = time.perf_counter
        samples = Samples()
        self.seen = samples.visible
        async with connections(self.first.api_url, clients) as opened:
            begin = clock()

            async def loop(connection: Http) -> None:
                while (now := clock()) - begin < seconds:
                    price = next(self.prices)
                    there = asyncio.get_running_loop().create_future()
                    self.waiting[str(price)] = (now, there)
                    await connection.post(order("buy", price))
                    samples.acknowledged.append(clock() - now)
                    if clients == 1:
                        await there

            await asyncio.gather(*map(loop, opened))
            await self.drained()
        samples.elapsed = self.last - begin
        return samples

    def fill_of(self, number: int) -> Waiter:
        """Done when the second node has said that this order of its own is filled."""
        if number not in self.filled:
            self.filled[number] = asyncio.get_running_loop().create_future()
        return self.filled[number]

    async def drained(self) -> None:
        deadline = time.perf_counter() + DRAIN
        while self.waiting:
            if time.perf_counter() > deadline:
                raise RuntimeError(
                    f"{len(self.waiting)} orders never became visible ({self.snapshots} snapshots)"
                )
            await asyncio.sleep(0.001)

    async def take(self, seconds: float) -> Samples:
        """Orders on the second node that take one of the first's, one at a time, until filled."""
        clock = time.perf_counter
        samples = Samples()
        async with connections(self.second.api_url, 1) as (connection,):
            begin = clock()
            while (now := clock()) - begin < seconds:
                answer = json.loads(await connection.post(order("buy", FAR)))
                samples.acknowledged.append(clock() - now)
                await self.fill_of(answer["number"])  # durable: the stream tells no less
                samples.visible.append(clock() - now)
            samples.elapsed = clock() - begin
        return samples


# Floors


def serve_nothing(pipe: Pipe) -> None:
    """An aiohttp server whose handler reads the body and answers with one of an order's size."""
    answer = json.dumps({"id": "x" * 40, "more": "x" * 280}).encode()

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, status=201, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/orders", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Relay(asyncio.Protocol):
    """Writes what it reads to where it is told."""

    def __init__(self, onward: asyncio.Transport | None) -> None:
        self.onward = onward

    def data_received(self, data: bytes) -> None:
        if self.onward is not None:
            self.onward.write(data)


def relay(pipe: Pipe, onward: int) -> None:
    """Pass on whatever comes to `onward`, a port."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        out, _ = await loop.create_connection(lambda: Relay(None), "127.0.0.1", onward)
        server = await loop.create_server(lambda: Relay(out), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A process, and what it tells of itself: its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    started = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    started.start()
    try:
        yield ours.recv()
    finally:
        started.terminate()
        started.join()


class Circle(asyncio.Protocol):
    """The end of the relay, in the client."""

    arrived: asyncio.Future[None] | None = None
    size = 0
    count = 0

    def data_received(self, data: bytes) -> None:
        Circle.count += len(data)
        if Circle.count >= Circle.size and Circle.arrived and not Circle.arrived.done():
            Circle.arrived.set_result(None)


async def empty_posts(url: str, clients: int, seconds: float) -> Samples:
    clock = time.perf_counter
    samples = Samples()
    body = order("buy", 1234567)
    async with connections(url, clients) as opened:
        begin = clock()

        async def loop(connection: Http) -> None:
            while (now := clock()) - begin < seconds:
                await connection.post(body)
                samples.acknowledged.append(clock() - now)

        await asyncio.gather(*map(loop, opened))
    samples.elapsed = clock() - begin
    return samples


async def circles(port: int, seconds: float) -> Samples:
    """A request's bytes from the client through two processes and back, one at a time."""
    clock = time.perf_counter
    samples = Samples()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    data = bytes(200)
    Circle.size = len(data)
    begin = clock()
    while (now := clock()) - begin < seconds:
        Circle.arrived, Circle.count = loop.create_future(), 0
        transport.write(data)
        await Circle.arrived
        samples.acknowledged.append(clock() - now)
    samples.elapsed = clock() - begin
    transport.close()
    return samples


def syncs(directory: Path, seconds: float) -> Samples:
    """4 KiB written over what is there, as in a write-ahead log, and made durable, one at a time."""
    clock = time.perf_counter
    samples = Samples()
    with (directory / "sync").open("wb", buffering=0) as file:
        file.write(bytes(1024 * 4096))
        os.fsync(file.fileno())
        page = os.urandom(4096)
        begin = clock()
        for number in itertools.count():
            now = clock()
            if now - begin > seconds:
                break
            os.pwrite(file.fileno(), page, number % 1024 * 4096)
            os.fdatasync(file.fileno())
            samples.acknowledged.append(clock() - now)
    samples.elapsed = clock() - begin
    return samples


# All of it


Found = dict[str, list[Samples]]


async def measure(seconds: float, rounds: int, directory: Path) -> Found:
    found: Found = {}

    async def note(name: str, work: Coroutine[Any, Any, Samples]) -> None:
        found.setdefault(name, []).append(await work)

    async with AsyncExitStack() as stack:
        empty = stack.enter_context(process(serve_nothing))
        loop = asyncio.get_running_loop()
        circle = await loop.create_server(Circle, "127.0.0.1", 0)
        second = stack.enter_context(process(relay, circle.sockets[0].getsockname()[1]))
        first = stack.enter_context(process(relay, second))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        markets = {}
        for sync in SYNCS:
            markets[sync] = market = stack.enter_context(pair(directory / sync, sync))
            ready = asyncio.Event()
            watcher = asyncio.create_task(market.watch(session, ready))
            stack.callback(watcher.cancel)
            await asyncio.wait_for(ready.wait(), DRAIN)
        for _ in range(rounds):
            await note("empty 1", empty_posts(f"http://127.0.0.1:{empty}", 1, seconds))
            await note(
                f"empty {CLIENTS}", empty_posts(f"http://127.0.0.1:{empty}", CLIENTS, seconds)
            )
            await note("relay", circles(first, seconds))
            found.setdefault("sync", []).append(syncs(directory, seconds / 2))
            for sync, market in markets.items():
                await note(f"{sync} 1", market.place(1, seconds))
                await note(f"{sync} {CLIENTS}", market.place(CLIENTS, seconds))
                await note(f"{sync} take", market.take(seconds / 2))
    return found


@contextmanager
def pair(directory: Path, sync: str) -> Iterator[Market]:
    directory.mkdir()
    nodes = Nodes(directory)
    try:
        first, second = nodes.pair(JOURNAL_SYNC=sync, LOG_LEVEL="warning")
        first.sell(10**6, FAR)
        while not second.asks():
            time.sleep(0.05)
        yield Market(first, second)
    finally:
        nodes.cleanup()


def rows(found: Found) -> list[Row]:
    made: list[Row] = []

    def middle(name: str, of: Callable[[Samples], float]) -> float:
        return statistics.median(of(samples) for samples in found[name])

    def add(
        what: str, name: str, of: Callable[[Samples], float], unit: str, floor: str = ""
    ) -> None:
        value = middle(name, of)
        ratio = value / middle(floor, of) if floor else None
        made.append(Row(what, value, unit, ratio, f"ratio to: {NAMES[floor]}" if floor else ""))

    for name in ("empty 1", "relay", "sync"):
        add(f"floor: {NAMES[name]}, p50", name, acknowledged(50), "us")
        add(f"floor: {NAMES[name]}, p99", name, acknowledged(99), "us")
    add(f"floor: {NAMES[f'empty {CLIENTS}']}", f"empty {CLIENTS}", rate, "/s")
    for sync in SYNCS:
        one, many = f"{sync} 1", f"{sync} {CLIENTS}"
        for percent in (50, 99):
            add(f"{sync}: POST answered, p{percent}", one, acknowledged(percent), "us", "empty 1")
        for percent in (50, 99):
            add(f"{sync}: visible there, p{percent}", one, visible(percent), "us", "relay")
        for percent in (50, 99):
            what = f"{sync}: taken from the other, p{percent}"
            add(what, f"{sync} take", visible(percent), "us", "relay")
        add(f"{sync}: orders, {CLIENTS} at a time", many, rate, "/s", f"empty {CLIENTS}")
        for percent in (50, 99):
            what = f"{sync}: visible there, {CLIENTS} at a time, p{percent}"
            add(what, many, visible(percent), "us")
    return made


NAMES = {
    "empty 1": "empty aiohttp handler, POST",
    f"empty {CLIENTS}": f"empty aiohttp handler, {CLIENTS} at a time",
    "relay": "raw relay through two processes",
    "sync": "4 KiB made durable",
}


def rate(samples: Samples) -> float:
    return samples.rate


def acknowledged(percent: int) -> Callable[[Samples], float]:
    return lambda samples: quantile(samples.acknowledged, percent)


def visible(percent: int) -> Callable[[Samples], float]:
    return lambda samples: quantile(samples.visible or samples.acknowledged, percent)


def run(quick: bool) -> list[Row]:
    """Medians over rounds; all ways take their turn in each round, so that all see the same machine."""
    seconds, rounds = (0.5, 1) if quick else (2.0, ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="exchange-node-bench-") as scratch,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return rows(runner.run(measure(seconds, rounds, Path(scratch))))
