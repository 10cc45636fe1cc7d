"""A real node's trading behind its real API, without other nodes: engine, journal and server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import aiohttp
from api_kit import Answer, check_answer
from exchange_kit import EPOCH_US, NETWORK, Keys
from instruments_kit import COARSE
from market_kit import MemoryHistory

from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.model.instruments import Instruments
from node.api import ApiServer
from node.api.access import AccessRules
from node.api.node_service import NodeService
from node.client.exchange_client import ExchangeClient
from node.daemon.exchange import make_exchange
from node.http.api_tls import Tls
from node.parts.annex import NodePart
from node.service.committer import Committer
from node.service.market_data import MarketData
from node.service.market_steps import MarketSteps

TOKEN = "the-operators-token"


class TradingNode:
    """The parts of a node that knows no others. `now` is the engine's clock, moved by the test."""

    def __init__(self, journal: Journal, instruments: Instruments, now: float = 1.0) -> None:
        self.now = now
        self.instruments = instruments
        self.parts: Sequence[NodePart] = ()
        recovered = journal.recover()
        self.engine = Engine(
            Keys(1),
            [instrument.key for instrument in instruments],
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(0),
            instruments=instruments,
            recovered=recovered,
            fence_max=0.0,
            now=now,
        )
        data = MarketData(
            instruments,
            self.engine.markets,
            cast(Any, MemoryHistory()),
            lambda: self.engine.us(self.now),
        )
        self.committer = Committer(
            self.engine, journal, lambda drained: self.exchange.publish(drained)
        )
        steps = MarketSteps(Path("unused"), instruments, {})
        self.exchange = exchange = make_exchange(
            self.engine, self.committer, lambda: self.now, data, steps, recovered.meta
        )
        self.market_data = data
        self.trading, self.texts = exchange.trading, exchange.texts
        self.orders, self.markets = exchange.orders, exchange.markets
        self.operations, self.stream_registry = exchange.operations, exchange.stream_registry
        self.accounts, self.node_id = self.engine.accounts, self.engine.node_id
        self.engine.resume(now)

    def tick(self, seconds: float = 0.0) -> None:
        """Let so much time pass."""
        self.now += seconds
        self.engine.tick(self.now)
        self.trading.tick()
        self.committer.wake()


class CheckedApi:
    """A client of the API whose every answer is checked against the OpenAPI document."""

    def __init__(self, node: TradingNode, url: str, session: aiohttp.ClientSession) -> None:
        self.node = node
        self.url = url
        self.session = session

    async def call(self, method: str, path: str, *, key: str = "", **options: Any) -> Answer:
        """`key` is KEY:SECRET."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.request(
            method, self.url + path, headers=headers, **options
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if path.startswith("/v1"):
            check_answer(method, path, answer)
        return answer

    async def get(self, path: str, *, key: str = "") -> Answer:
        return await self.call("GET", path, key=key)

    async def post(self, path: str, body: Any = None, *, key: str = "") -> Answer:
        return await self.call("POST", path, key=key, json=body)

    async def delete(self, path: str, *, key: str = "") -> Answer:
        return await self.call("DELETE", path, key=key)

    async def patch(self, path: str, body: Any, *, key: str = "") -> Answer:
        return await self.call("PATCH", path, key=key, json=body)

    async def account(self, name: str, **money: str) -> str:
        """Makes an account with money (`USD="100"`) and a key; KEY:SECRET."""
        assert (await self.post("/v1/accounts", {"name": name})).status == 201
        for asset, amount in money.items():
            body = {"asset": asset, "amount": amount}
            assert (await self.post(f"/v1/accounts/{name}/deposits", body)).status == 201
        made = (await self.post(f"/v1/accounts/{name}/keys", {})).json
        return f"{made['key']}:{made['secret']}"

    async def balances(self, name: str) -> Mapping[str, tuple[str, str]]:
        """Total and held by asset."""
        views = (await self.get(f"/v1/balances?account={name}")).json
        return {view["asset"]: (view["total"], view["held"]) for view in views}


@asynccontextmanager
async def running_trading_node(
    path: Path, *, instruments: Instruments | None = None, now: float = 1.0
) -> AsyncIterator[TradingNode]:
    """A service on the journal at `path`, which is written while this lasts."""
    with closing(Journal(path, sync="normal")) as journal:
        node = TradingNode(journal, instruments or COARSE, now)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.committer.run())
            try:
                yield node
            finally:
                node.committer.stop()


@asynccontextmanager
async def running_api(
    path: Path,
    *,
    rules: AccessRules | None = None,
    tls: Tls | None = None,
    instruments: Instruments | None = None,
    now: float = 1.0,
) -> AsyncIterator[CheckedApi]:
    """A server on a free loopback port, and a client of it."""
    async with running_trading_node(path, instruments=instruments, now=now) as node:
        server = ApiServer(cast(NodeService, node), rules=rules, tls=tls)
        url = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                yield CheckedApi(node, url, session)
        finally:
            await server.stop()


def client_of(api: CheckedApi, key: str = "") -> ExchangeClient:
    name, _, secret = key.partition(":")
    return ExchangeClient(api.url, key=name or None, secret=secret or None)
