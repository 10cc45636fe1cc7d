"""The node's APIs: what an order costs the server, next to an empty aiohttp handler in the same rounds.

A real node (`JOURNAL_SYNC=normal`), and an aiohttp server that answers with texts of the same sizes. Many
clients at once send orders that rest, in every way there is: the native REST API as the operator and
with API keys, the native stream, and the Bitfinex dialect over signed REST and over its WebSocket. Over the
latter the node also sends each order (`on`) and the wallets, so the native stream is measured alone and with
subscriptions to the account's orders and balances. What the empty server answers has the size of the
acknowledgement alone.

Processor time is that of all threads of the server's process. It moves less with what else the machine
does than rates and latencies, for which clients and server share its cores. Run: python -m tests.benchmarks api
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import web

from node.views.account_views import AccountRequest, NewKeyView
from tests.benchmarks.api_clients import HttpLoop, Loop, SocketLoop, frame, post
from tests.benchmarks.bench_e2e import process, quantile
from tests.benchmarks.report import Row, figure
from tests.integration.processes import NodeProcess, Nodes

CLIENTS: Final = 32
WINDOW: Final = 16  # orders that one WebSocket has under way when there are many clients
ROUNDS: Final = 12  # short ones, so that what else the machine does falls on all alike
LEVELS: Final = 500  # prices that the orders are spread over
MONEY: Final = "10000000000"
MOST: Final = 1_000_000
NATIVE: Final = "/v1/orders"
SUBMIT: Final = "/v2/auth/w/order/submit"
SOCKET: Final = "/ws/2"
STREAM: Final = "/v1/stream"

Make = Callable[[], bytes]


@dataclass
class Samples:
    """One turn of one way."""

    latencies: list[float]  # seconds
    cpu: float  # seconds of the server's process
    elapsed: float


Connect = Callable[[int], Coroutine[Any, Any, Loop]]  # the n-th client, connected


@dataclass
class Way:
    """A way to place orders."""

    name: str
    node: Connect
    empty: Connect
    window: int = 1  # of each of many clients
    found: dict[tuple[str, bool], list[Samples]] = field(default_factory=dict)  # (who, many)


# Requests


def prices() -> Iterator[str]:
    return itertools.cycle([f"{20000 + level / 10:.1f}" for level in range(LEVELS)])


def native(headers: str = "") -> Make:
    each = prices()

    def make() -> bytes:
        body = f'{{"market":"BTC-USD","side":"buy","quantity":"0.001","price":"{next(each)}"}}'
        return post(NATIVE, body.encode(), headers)

    return make


def bearer(key: NewKeyView) -> Make:
    return native(f"Authorization: Bearer {key.key}:{key.secret}\r\n")


def bitfinex_order(price: str) -> str:
    return f'{{"type":"EXCHANGE LIMIT","symbol":"tBTCUSD","amount":"0.001","price":"{price}"}}'


def signed(key: NewKeyView) -> Make:
    each, secret = prices(), key.secret.encode()
    nonces = itertools.count(time.time_ns() // 1000)

    def make() -> bytes:
        body, nonce = bitfinex_order(next(each)).encode(), next(nonces)
        signature = hmac.digest(secret, f"/api{SUBMIT}{nonce}".encode() + body, "sha384").hex()
        headers = f"bfx-nonce: {nonce}\r\nbfx-apikey: {key.key}\r\nbfx-signature: {signature}\r\n"
        return post(SUBMIT, body, headers)

    return make


def inputs() -> Make:
    each = prices()
    return lambda: frame(f'[0,"on",null,{bitfinex_order(next(each))}]'.encode())


def stream_order(request_id: int, price: str) -> str:
    return (
        f'{{"op":"submit","id":"{request_id}","order":'
        f'{{"market":"BTC-USD","side":"buy","quantity":"0.001","price":"{price}"}}}}'
    )


def stream_requests() -> Make:
    each, numbers = prices(), itertools.count(1)
    return lambda: frame(stream_order(next(numbers), next(each)).encode())


def accepted(message: bytes) -> bool:
    """Report if a message of the stream acknowledges a request."""
    if message.startswith(b'{"event":"accepted"'):
        return True
    if message.startswith((b'{"event":"refused"', b'{"event":"error"')):
        raise RuntimeError(message.decode())
    return False


def acknowledged(message: bytes) -> bool:
    """True for the acknowledgement of an input."""
    if not message.startswith(b'[0,"n",'):
        return False
    if b'"SUCCESS"' not in message:
        raise RuntimeError(message.decode())
    return True


def login(key: NewKeyView) -> bytes:
    nonce = str(time.time_ns() // 1000)
    payload = f"AUTH{nonce}"
    signature = hmac.digest(key.secret.encode(), payload.encode(), "sha384").hex()
    event = {"event": "auth", "apiKey": key.key, "authNonce": nonce}
    return json.dumps({**event, "authPayload": payload, "authSig": signature}).encode()


# Connections


def http(port: int, make: Callable[[int], Make]) -> Connect:
    async def connect(number: int) -> Loop:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: HttpLoop(make(number)), "127.0.0.1", port))[1]

    return connect


async def over_socket(
    port: int, path: str, make: Make, judge: Callable[[bytes], bool]
) -> SocketLoop:
    loop = asyncio.get_running_loop()
    _, found = await loop.create_connection(lambda: SocketLoop(make, judge), "127.0.0.1", port)
    await found.open(path)
    return found


async def native_stream(port: int, key: NewKeyView, *channels: str) -> SocketLoop:
    found = await over_socket(port, STREAM, stream_requests(), accepted)
    auth = json.dumps({"op": "auth", "key": key.key, "secret": key.secret})
    await found.say(auth.encode(), b'"authenticated"')
    for channel in channels:
        asked = json.dumps({"op": "subscribe", "channel": channel})
        await found.say(asked.encode(), b'"subscribed"', b'_snapshot"')
    return found


async def bitfinex(port: int, key: NewKeyView) -> SocketLoop:
    found = await over_socket(port, SOCKET, inputs(), acknowledged)
    await found.say(login(key), b'"auth"', b'"bu"')  # the last of the snapshots
    return found


def empty_socket(port: int, path: str, make: Make) -> Connect:
    return lambda number: over_socket(port, path, make, lambda message: True)


# The floor


def serve_nothing(pipe: Pipe, sizes: dict[str, int]) -> None:
    """An aiohttp server that reads what comes to a path and answers with so many bytes of JSON."""
    answers = {path: json.dumps("x" * (size - 2)) for path, size in sizes.items()}

    def handler(path: str) -> Callable[[web.Request], Coroutine[Any, Any, web.Response]]:
        body = answers[path].encode()

        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(body=body, content_type="application/json")

        return handle

    async def echo(request: web.Request) -> web.WebSocketResponse:
        answer = answers[request.path]
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for _ in socket:
            await socket.send_str(answer)
        return socket

    async def main() -> None:
        app = web.Application()
        app.router.add_post(NATIVE, handler(NATIVE))
        app.router.add_post(SUBMIT, handler(SUBMIT))
        app.router.add_get(SOCKET, echo)
        app.router.add_get(STREAM, echo)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send((runner.addresses[0][1], os.getpid()))
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Measuring


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have had (Linux: its own clock, see clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


async def turn(pid: int, connect: Connect, clients: int, window: int, seconds: float) -> Samples:
    loops = await asyncio.gather(*map(connect, range(clients)))
    try:
        cpu, begin = cpu_of(pid), time.perf_counter()
        await asyncio.gather(*(loop.run(seconds, window) for loop in loops))
        elapsed, cpu = time.perf_counter() - begin, cpu_of(pid) - cpu
    finally:
        for loop in loops:
            loop.close()
    await asyncio.sleep(0.05)  # for the connections to end
    return Samples([sample for loop in loops for sample in loop.samples], cpu, elapsed)


async def size_of(connect: Connect) -> int:
    """Bytes of an answer."""
    loop = await connect(0)
    await loop.run(0)
    loop.close()
    return loop.size


async def measure(
    node: NodeProcess, keys: list[NewKeyView], seconds: float, rounds: int
) -> list[Way]:
    assert node.process is not None
    assert node.api_port is not None
    port, pid = node.api_port, node.process.pid
    makers: dict[str, tuple[str, Callable[[int], Make]]] = {
        "REST, operator": (NATIVE, lambda number: native()),
        "REST, API key": (NATIVE, lambda number: bearer(keys[number])),
        "Bitfinex REST, signed": (SUBMIT, lambda number: signed(keys[number])),
    }
    sizes = {path: await size_of(http(port, make)) for path, make in makers.values()}
    sizes[SOCKET] = await size_of(lambda number: bitfinex(port, keys[number]))
    sizes[STREAM] = await size_of(lambda number: native_stream(port, keys[number]))
    socket_ways: dict[str, tuple[Connect, str, Make]] = {
        "Bitfinex WebSocket": (lambda n: bitfinex(port, keys[n]), SOCKET, inputs()),
        "stream": (lambda n: native_stream(port, keys[n]), STREAM, stream_requests()),
        "stream, with orders and balances": (
            lambda n: native_stream(port, keys[n], "orders", "balances"),
            STREAM,
            stream_requests(),
        ),
    }
    with process(serve_nothing, sizes) as (empty_port, empty_pid):
        ways = [
            Way(name, http(port, make), http(empty_port, make))
            for name, (_, make) in makers.items()
        ]
        for name, (connect, path, make) in socket_ways.items():
            ways.append(Way(name, connect, empty_socket(empty_port, path, make), WINDOW))
        for _ in range(rounds):
            for way in ways:
                for name, connect, of in (
                    ("empty", way.empty, empty_pid),
                    ("node", way.node, pid),
                ):
                    for many in (False, True):
                        clients, window = (CLIENTS, way.window) if many else (1, 1)
                        samples = await turn(of, connect, clients, window, seconds)
                        way.found.setdefault((name, many), []).append(samples)
            await asyncio.to_thread(clear, node)
    return ways


def clear(node: NodeProcess) -> None:
    """Cancel all orders: a node takes only so many in a market."""
    for account in (None, *map(name_of, range(CLIENTS))):
        node.ask(lambda client, account=account: client.cancel_many(account=account))


def name_of(number: int) -> str:
    """Return the name of a client's account."""
    return f"client{number}"


@contextmanager
def trading_node(directory: Path) -> Iterator[tuple[NodeProcess, list[NewKeyView]]]:
    """A node, and the key of an account for each client."""
    nodes = Nodes(directory)
    try:
        node = nodes.start("node", JOURNAL_SYNC="normal", LOG_LEVEL="warning", API_RATE_LIMIT="0")
        keys = []
        for number in range(CLIENTS):
            name = name_of(number)
            request = AccountRequest(name=name, max_open_orders=MOST, orders_per_minute=MOST)
            node.ask(lambda client, request=request: client.create_account(request))
            node.ask(lambda client, name=name: client.deposit(name, "USD", MONEY))
            keys.append(node.ask(lambda client, name=name: client.create_key(name)))
        yield node, keys
    finally:
        nodes.cleanup()


def rows(ways: list[Way]) -> list[Row]:
    made: list[Row] = []
    for way in ways:
        clients = f"{CLIENTS} clients" + (f" x {way.window}" if way.window > 1 else "")
        for what, many, of, unit in (
            (f"processor time an order, {clients}", True, cost, "us"),
            ("processor time an order, 1 client", False, cost, "us"),
            (f"orders, {clients}", True, rate, "/s"),
            ("acknowledged, p50", False, latency(50), "us"),
            ("acknowledged, p99", False, latency(99), "us"),
        ):
            value, empty = (
                statistics.median(map(of, way.found[name, many])) for name in ("node", "empty")
            )
            note = f"empty handler: {figure(empty)} {unit}"
            made.append(Row(f"{way.name}: {what}", value, unit, value / empty, note))
    made += ratios(ways)
    return made


def ratios(ways: list[Way]) -> list[Row]:
    """Processor time of an order over the stream, against each other way."""
    costs = {way.name: statistics.median(map(cost, way.found["node", True])) for way in ways}
    return [
        Row(f"processor time an order: stream / {name}", costs[own] / costs[name], "", None)
        for own, others in (
            ("stream", ("REST, operator", "REST, API key", "Bitfinex REST, signed")),
            ("stream, with orders and balances", ("Bitfinex WebSocket",)),
        )
        for name in others
    ]


def cost(samples: Samples) -> float:
    return samples.cpu / len(samples.latencies) * 1e6


def rate(samples: Samples) -> float:
    return len(samples.latencies) / samples.elapsed


def latency(percent: int) -> Callable[[Samples], float]:
    return lambda samples: quantile(samples.latencies, percent)


def run(quick: bool) -> list[Row]:
    """Medians over rounds; all ways take their turn in each, the empty handler before each."""
    seconds, rounds = (0.5, 1) if quick else (0.6, ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="exchange-node-bench-") as scratch,
        trading_node(Path(scratch)) as (node, keys),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return rows(runner.run(measure(node, keys, seconds, rounds)))
