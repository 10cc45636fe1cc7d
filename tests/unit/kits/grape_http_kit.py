"""The HTTP interface of a Grape, asked as its clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fake_grape import CallbackFakeGrape, FakeGrape

from p2p.grenache.grape.grape_http import TIME_LIMIT, GrapeApi
from p2p.grenache.rpc.limits import Limits


class Api:
    """The API with its Grape and a client."""

    def __init__(
        self, api: GrapeApi, grape: FakeGrape, client: aiohttp.ClientSession, host: str
    ) -> None:
        self.api, self.grape, self.client = api, grape, client
        self.url = api.url
        self.address = (host, api.address[1])

    async def raw(
        self, kind: str, body: bytes, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        async with self.client.request(
            method, f"{self.url}/{kind}", data=body, headers=headers, allow_redirects=False
        ) as reply:
            return reply.status, await reply.read()

    async def ask(self, kind: str, argument: Any) -> tuple[int, Any]:
        status, body = await self.raw(kind, json.dumps({"rid": "r", "data": argument}).encode())
        return status, json.loads(body) if body else None

    async def left(self, connections: int) -> None:
        """Wait until there are no more than these."""
        async with asyncio.timeout(5):
            while self.api._server.connections > connections:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)

    async def send(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """Answer to these bytes: up to `until`, or to the end of the connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            async with asyncio.timeout(5):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def running(
    host: str = "127.0.0.1",
    *,
    time_limit: float = TIME_LIMIT,
    direct: bool = True,
    callbacks: bool = False,
    **limits: Any,
) -> AsyncIterator[Api]:
    grape = CallbackFakeGrape() if callbacks else FakeGrape()
    api = GrapeApi(grape, limits=Limits(**limits), time_limit=time_limit, direct=direct)
    await api.start(host, 0)
    async with aiohttp.ClientSession() as client:
        try:
            yield Api(api, grape, client, "127.0.0.1" if host == "0.0.0.0" else host)
        finally:
            grape.gate.set()
            await api.stop()
