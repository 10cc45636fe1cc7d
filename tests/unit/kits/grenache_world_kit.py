"""A client with workers in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from grenache_client_kit import MemoryDirectory, MemoryTransport

from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed
from p2p.grenache.rpc.rpc_client import Client

Work = Callable[[Any], Awaitable[Any]]


def address(n: int) -> Address:
    return f"10.0.0.{n}", 12_000 + n


def echo(delay: float = 0.01) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(delay)
        return payload

    return work


def failing(error: RequestFailed, delay: float = 0.01) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(delay)
        raise error

    return work


LOST = RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)


class World:
    """A client, and workers of the service "svc" at `address(1)` to `address(n)`."""

    def __init__(self, workers: int = 0, **options: Any) -> None:
        self.directory = MemoryDirectory()
        self.transport = MemoryTransport()
        self.options = options
        self.client = self.another()
        for n in range(1, workers + 1):
            self.add(n, echo())

    def another(self, **options: Any) -> Client:
        options = {"rng": random.Random(1), **self.options, **options}
        return Client(self.directory, transport=self.transport, **options)

    def add(self, n: int, work: Work | None) -> None:
        """Announced; refuses connections when `work` is None."""
        announced = self.directory.services.setdefault("svc", [])
        if address(n) not in announced:
            announced.append(address(n))
        if work is None:
            self.transport.workers.pop(address(n), None)
        else:
            self.transport.workers[address(n)] = work

    async def ask(self, payload: Any = "hi", **more: Any) -> Any:
        return await self.client.request("svc", payload, **more)


def now() -> float:
    return asyncio.get_running_loop().time()
