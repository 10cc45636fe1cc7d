"""Nodes whose links run over tunnels, with requests that stay in this process and can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from link_kit import Node, Nodes, nodes, until

from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed, RequestTimeout
from p2p.grenache_links.tunnel_carrier import TunnelCarrier
from p2p.wire.connection import PeerConnection

SERVICE = "exchange-node:test"


@dataclass(frozen=True)
class Asked:
    """Stand-in for the arguments that a worker gives a handler."""

    payload: Any
    remote: Address


class Requests:
    """Workers by address. Everything goes through JSON. `loss` and `doubling` are shares of 1, `delay`
    is in seconds and each way."""

    def __init__(self, seed: int = 1) -> None:
        self.workers: dict[Address, Callable[[Asked], Awaitable[Any]]] = {}
        self.rng = random.Random(seed)
        self.delay = 0.0
        self.loss = 0.0
        self.doubling = 0.0
        self.made = 0
        self.down: set[Address] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def by(self, remote: Address) -> Asker:
        return Asker(self, remote)

    async def serve(self, address: Address, remote: Address, payload: Any) -> Any:
        await asyncio.sleep(self.rng.random() * self.delay)
        handler = self.workers[address]
        return orjson.dumps(await handler(Asked(orjson.loads(payload), remote)))

    def start(self, address: Address, remote: Address, payload: bytes) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.serve(address, remote, payload))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a copy's answer is nobody's

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Asker:
    requests: Requests
    remote: Address

    async def request_at(self, address: Address, service: str, payload: Any, timeout: float) -> Any:
        assert service == SERVICE
        requests = self.requests
        requests.made += 1
        if address not in requests.workers or address in requests.down:
            raise RequestFailed("ERR_REQUEST_GENERIC", "connection refused", sent=False)
        rng = requests.rng
        text = orjson.dumps(payload)
        try:
            async with asyncio.timeout(timeout):
                if rng.random() < requests.loss:
                    await asyncio.Event().wait()
                if rng.random() < requests.doubling:
                    requests.start(address, self.remote, text)
                answer = await requests.start(address, self.remote, text)
                if rng.random() < requests.loss:
                    await asyncio.Event().wait()
                await asyncio.sleep(rng.random() * requests.delay)
                return orjson.loads(answer)
        except TimeoutError:
            raise RequestTimeout("no answer", sent=True) from None


@dataclass
class Tunneller:
    """A node that listens on no TCP port, with its carrier and its worker's address."""

    node: Node
    carrier: TunnelCarrier
    address: Address


@dataclass
class Network:
    """Makes nodes with carriers, at 192.0.2.N:3100, and stops them."""

    made: Nodes
    requests: Requests
    all: list[Tunneller]

    async def node(self, number: int, **options: Any) -> Tunneller:
        node = await self.made.node(number, listen=None, **options)
        address = (f"192.0.2.{number}", 3100)
        asker = self.requests.by((address[0], 50_000 + number))
        carrier = TunnelCarrier(node.service, asker, SERVICE, rng=random.Random(number))
        self.requests.workers[address] = carrier.answer
        tunneller = Tunneller(node, carrier, address)
        self.all.append(tunneller)
        return tunneller


@contextlib.asynccontextmanager
async def network(*, secure: bool = True) -> AsyncIterator[Network]:
    requests = Requests()
    every: list[Tunneller] = []
    try:
        async with nodes(secure=secure) as made:
            yield Network(made, requests, every)
            requests.loss = requests.delay = requests.doubling = 0.0
    finally:
        await asyncio.gather(*(each.carrier.stop() for each in every))
        await requests.close()


@dataclass
class Pair:
    """Two nodes linked over a tunnel; `left` dialled."""

    network: Network
    left: Tunneller
    right: Tunneller
    left_link: PeerConnection
    right_link: PeerConnection

    @property
    def requests(self) -> Requests:
        return self.network.requests


@contextlib.asynccontextmanager
async def pair(*, secure: bool = True) -> AsyncIterator[Pair]:
    async with network(secure=secure) as net:
        left, right = await net.node(1), await net.node(2)
        link = await left.carrier.dial(*right.address, expect=right.node.node_id)
        await until(lambda: right.node.handler.up)
        other = right.node.handler.up[0]
        assert isinstance(link, PeerConnection)
        assert isinstance(other, PeerConnection)
        yield Pair(net, left, right, link, other)
