"""A node with its API, asked in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

import orjson
from trading_kit import TradingNode, running_trading_node

from exchange.model.records import Permission
from node.api import ApiServer
from node.api.access import AccessRules
from node.api.node_service import NodeService
from node.service.account_trading import AccountTrading
from node.views.account_views import AccountRequest, MoneyRequest

BUY = {"market": "BTC-USD", "side": "buy", "quantity": "0.5", "price": "30000"}
HOST = "Host: 127.0.0.1\r\n"
JSON = "Content-Type: application/json\r\n"
KEY = "a" * 20 + ":" + "b" * 20


class Answer(NamedTuple):
    """A response; a status of 0 is the end of the connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def get(path: str, headers: str = "", *, host: str = HOST) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{host}{headers}\r\n".encode("latin-1")


def post(
    body: bytes | object = BUY,
    headers: str = "",
    *,
    path: str = "/v1/orders",
    host: str = HOST,
    kind: str = JSON,
) -> bytes:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\n{host}{kind}{headers}Content-Length: {len(raw)}\r\n\r\n"
    return head.encode("latin-1") + raw


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, *, body: bool = True) -> Answer:
        """The next response; `body`: not that to HEAD."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(0, {}, b"")
        status, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers.get("Content-Length", "0")) if body else 0
        return Answer(int(status.split(" ")[1]), headers, await self.reader.readexactly(size))

    async def ask(self, *pieces: bytes, body: bool = True) -> Answer:
        for piece in pieces:
            if piece is not pieces[0]:
                await asyncio.sleep(0.01)  # so that it comes as a piece of its own
            self.writer.write(piece)
            await self.writer.drain()
        return await asyncio.wait_for(self.answer(body=body), 10)


class RawNode:
    def __init__(self, node: TradingNode, server: ApiServer, port: int) -> None:
        self.node = node
        self.server = server
        self.port = port

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    async def ask(self, *pieces: bytes) -> Answer:
        """The answer on a connection of its own."""
        async with self.connection() as connection:
            return await connection.ask(*pieces)

    async def account(self, *permissions: Permission, per_minute: int = 6000) -> None:
        """Make an account with money and a key, KEY."""
        request = AccountRequest(name="alice", orders_per_minute=per_minute)
        await self.node.operations.create(request)
        await self.node.operations.deposit("alice", MoneyRequest(asset="USD", amount="20000"))
        self.node.accounts.create_key(1, 1, permissions, "", *KEY.split(":"))


class WaitingTrading(AccountTrading):
    """Trading that is never open, so that each order has a task and waits."""

    open = False  # type: ignore[assignment]

    async def opened(self) -> None:
        pass


@asynccontextmanager
async def running(
    path: Path, rules: AccessRules | None = None, *, waiting: bool = False
) -> AsyncIterator[RawNode]:
    """A node, of which with `waiting` no order is placed in the turn in which it comes."""
    async with running_trading_node(path / ("waiting" if waiting else "node")) as node:
        if waiting:
            node.trading.__class__ = WaitingTrading
        server = ApiServer(cast(NodeService, node), rules=rules)
        url = await server.start("127.0.0.1", 0)
        try:
            yield RawNode(node, server, int(url.rpartition(":")[2]))
        finally:
            await server.stop()
