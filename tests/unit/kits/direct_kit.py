"""Two equal nodes with equal clocks, one of which has no short way for orders: each request goes to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from trading_kit import TradingNode, running_trading_node

from exchange.model.records import Permission
from node.api import ApiServer
from node.api.access import AccessRules
from node.api.node_service import NodeService
from node.views.account_views import AccountRequest, MoneyRequest

BUY = {"market": "BTC-USD", "side": "buy", "quantity": "0.5", "price": "30000"}
HOST = "Host: 127.0.0.1\r\n"
JSON = "Content-Type: application/json\r\n"
KEY = "a" * 20 + ":" + "b" * 20
WARM_UP = f"GET /v1/orders HTTP/1.1\r\n{HOST}\r\n".encode()

Answer = tuple[str, tuple[str, ...], bytes]  # status line, headers without Date, body


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


class Side:
    """One of the two nodes."""

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


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> Answer:
        """The next response; a status of "" when the server ended the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return "", (), b""
        status, *lines = head.strip().split("\r\n")
        found = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(found.get("Content-Length", "0")))
        found.pop("Date")
        if b'"incident"' in body:
            body = b"incident"
        return status, tuple(sorted(f"{name}: {value}" for name, value in found.items())), body

    async def ask(self, *pieces: bytes) -> Answer:
        for piece in pieces:
            if piece is not pieces[0]:
                await asyncio.sleep(0.01)  # so that it comes as a piece of its own
            self.writer.write(piece)
            await self.writer.drain()
        return await asyncio.wait_for(self.answer(), 10)


class Pair:
    """The node with the short way, and the one without."""

    def __init__(self, direct: Side, general: Side, taken: list[bool]) -> None:
        self.sides = (direct, general)
        self.taken = taken

    async def ask(self, *pieces: bytes) -> Answer:
        """Send to both, on a connection of its own; the answer, which must be the same."""
        first, second = await self.both(*pieces)
        assert first == second
        return first

    async def both(self, *pieces: bytes) -> list[Answer]:
        """Send to both, on a connection of its own; the answers."""
        answers = []
        for side in self.sides:
            async with side.connection() as connection:
                await connection.ask(WARM_UP)
                answers.append(await connection.ask(*pieces))
        return answers

    async def account(self, *permissions: Permission, per_minute: int = 6000) -> None:
        """Make an account with money and a key, KEY, on both nodes."""
        for side in self.sides:
            request = AccountRequest(name="alice", orders_per_minute=per_minute)
            await side.node.operations.create(request)
            money = MoneyRequest(asset="USD", amount="20000")
            await side.node.operations.deposit("alice", money)
            side.node.accounts.create_key(1, 1, permissions, "", *KEY.split(":"))


@asynccontextmanager
async def running(tmp_path: Path, rules: AccessRules, handler: type[Any]) -> AsyncIterator[Pair]:
    """`taken` gets what each call of the handler's `serve` returned."""
    taken: list[bool] = []
    serve = handler.serve

    def noted(self: object, *arguments: object) -> bool:
        taken.append(serve(self, *arguments))
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "serve", noted)
        async with (
            running_trading_node(tmp_path / "direct") as first,
            running_trading_node(tmp_path / "general") as second,
        ):
            sides = []
            for node, direct in ((first, True), (second, False)):
                server = ApiServer(cast(NodeService, node), rules=rules, direct=direct)
                url = await server.start("127.0.0.1", 0)
                sides.append(Side(node, server, int(url.rpartition(":")[2])))
            try:
                yield Pair(sides[0], sides[1], taken)
            finally:
                for side in sides:
                    await side.server.stop()
