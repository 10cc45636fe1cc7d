"""A Grape that keeps everything in dictionaries, for tests of what stands in front of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from p2p.grenache import bep44
from p2p.grenache.directory import Address, MutableItem, StoredValue
from p2p.grenache.errors import GrenacheError

NODE_ID = bytes(range(20))
DEFAULT_HOST = "127.0.0.1"  # what an announcement without an address is recorded under


@dataclass(frozen=True)
class FakeStatus:
    node_id: str
    nodes: int
    address: Address


class FakeGrape:
    """`fail` is raised by the next calls; `gate` (closed: cleared) holds them up."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Address]] = {}
        self.values: dict[str, StoredValue] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.fail: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    @property
    def node_id(self) -> bytes:
        return NODE_ID

    async def _called(self, *call: Any) -> None:
        self.calls.append(call)
        self.entered.set()
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail

    async def announce(self, service: str, port: int, *, host: str | None = None) -> int:
        await self._called("announce", service, port, host)
        self.entries.setdefault(service, []).append((host or DEFAULT_HOST, port))
        return 1

    async def withdraw(self, service: str, port: int, *, host: str | None = None) -> int:
        await self._called("withdraw", service, port, host)
        entries = self.entries.get(service, [])
        if (host or DEFAULT_HOST, port) not in entries:
            return 0
        entries.remove((host or DEFAULT_HOST, port))
        return 1

    async def lookup(
        self, service: str, *, fresh: bool = False, reached_at: str | None = None
    ) -> list[Address]:
        await self._called("lookup", service, reached_at)
        return list(self.entries.get(service, []))

    async def put(self, value: bytes) -> str:
        await self._called("put", value)
        key = bep44.immutable_key(value).hex()
        self.values[key] = StoredValue(value)
        return key

    async def put_mutable(self, item: MutableItem) -> str:
        await self._called("put_mutable", item)
        key = bep44.mutable_key(item.public_key, item.salt).hex()
        self.values[key] = StoredValue(
            item.value, item.public_key, item.seq, item.signature, item.salt
        )
        return key

    async def get(self, key: str, *, salt: bytes = b"") -> StoredValue | None:
        await self._called("get", key, salt)
        return self.values.get(key)

    def status(self) -> FakeStatus:
        return FakeStatus(NODE_ID.hex(), 3, ("127.0.0.1", 20001))


class CallbackFakeGrape(FakeGrape):
    """The same with operations that need no task of the API's, as `Grape` has them."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[asyncio.Task[None]] = set()

    def start_announce(
        self, service: str, port: int, host: str | None, done: Callable[[Any, Any], None]
    ) -> bool:
        return self._begun(self.announce(service, port, host=host), done)

    def start_lookup(
        self, service: str, reached_at: str | None, done: Callable[[Any, Any], None]
    ) -> bool:
        return self._begun(self.lookup(service, reached_at=reached_at), done)

    def _begun(self, work: Coroutine[Any, Any, Any], done: Callable[[Any, Any], None]) -> bool:
        if self.fail is not None and not isinstance(self.fail, GrenacheError):
            work.close()
            return False

        async def run() -> None:
            try:
                done(await work, None)
            except GrenacheError as error:
                done(None, error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True
