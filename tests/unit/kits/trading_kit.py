"""A real node's trading behind its real API: engine, journal and server, with a second engine in memory as its peer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import aiohttp
from api_kit import Answer, check_answer
from exchange_kit import EPOCH_US, NETWORK, Keys, submit
from instruments_kit import COARSE
from market_kit import NOW, FakeMarkets, MemoryHistory
from network_kit import CannedNetwork

from exchange.engine.engine import Drained, Engine
from exchange.journal.journal import Journal
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument, Instruments
from exchange.model.ports import Broadcast
from exchange.model.records import Recovered
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
ME, PEER = Keys(1).node_id, Keys(2).node_id
FREE = Instruments(  # markets without fees
    [
        Instrument("BTC-USD", Decimal("0.01"), Decimal("0.0001")),
        Instrument("ETH-USD", Decimal("0.01"), Decimal("0.001")),
        *(each for each in COARSE if each.symbol in ("ETH-BTC", "TEST-USD")),
    ]
)


class TradingNode:
    """The parts of a node that knows no others. `now` is the engine's clock, moved by the test."""

    def __init__(
        self, journal: Journal, instruments: Instruments, now: float = 1.0, epoch_us: int = EPOCH_US
    ) -> None:
        self.now = now
        self._epoch_us = epoch_us
        self.instruments = instruments
        self.parts: Sequence[NodePart] = ()
        recovered = journal.recover()
        self.engine = self._engine(1, recovered)
        data = MarketData(
            instruments,
            self.engine.markets,
            cast(Any, MemoryHistory()),
            lambda: self.engine.us(self.now),
        )
        self.committer = Committer(self.engine, journal, self._release)
        steps = MarketSteps(Path("unused"), instruments, {})
        self.exchange = exchange = make_exchange(
            self.engine, self.committer, lambda: self.now, data, steps, recovered.meta
        )
        self.market_data = data
        self.trading, self.texts = exchange.trading, exchange.texts
        self.orders, self.markets = exchange.orders, exchange.markets
        self.operations, self.stream_registry = exchange.operations, exchange.stream_registry
        self.accounts, self.node_id = self.engine.accounts, self.engine.node_id
        self.shown = FakeMarkets(instruments, over=(self.engine.markets, data))
        self.network = CannedNetwork(self.node_id, PEER)
        self.reports = self.peering = self.service_calls = self.network
        self._peer: Engine | None = None
        self.engine.resume(now)

    def _engine(self, seed: int, recovered: Recovered) -> Engine:
        return Engine(
            Keys(seed),
            [instrument.key for instrument in self.instruments],
            network=NETWORK,
            epoch_us=self._epoch_us,
            rng=random.Random(0),
            instruments=self.instruments,
            recovered=recovered,
            fence_max=0.0,
            now=self.now,
        )

    def _release(self, drained: Drained) -> None:
        self.exchange.publish(drained)
        if self._peer is not None:
            for message in drained.messages:
                if isinstance(message, Broadcast) or message.to == PEER:
                    self._peer.receive(self.now, message.type, message.payload, ME, ME)
            self._peer_answers(self._peer)

    def _peer_answers(self, peer: Engine) -> None:
        for message in peer.drain(self.now).messages:
            if isinstance(message, Broadcast) or message.to == ME:
                self.engine.receive(self.now, message.type, message.payload, PEER, PEER)
        self.committer.wake()

    def link(self) -> None:
        """Link this node with a peer, which has no API."""
        self._peer = self._engine(2, Recovered())
        self._peer.resume(self.now)
        self._peer.neighbour_up(self.now, ME)
        self.engine.neighbour_up(self.now, PEER)
        self._peer_answers(self._peer)

    async def place_remote(self, market: str, side: str, quantity: str, price: str) -> str:
        """The peer places an order, which may take from this node; its id."""
        assert self._peer is not None
        of = self.instruments[market]
        ticks, lots = of.to_ticks(price), of.to_lots(quantity)
        order = submit(self._peer, self.now, of.key, BUY if side == "buy" else SELL, ticks, lots)
        self._peer_answers(self._peer)
        for _ in range(4):  # request, answer, and what follows of it
            await self.committer.durable()
        return f"{PEER}-{order.number}"

    def tick(self, seconds: float = 0.0) -> None:
        """Let so much time pass."""
        self.now += seconds
        for engine in filter(None, (self.engine, self._peer)):
            engine.tick(self.now)
        self.trading.tick()
        self.committer.wake()


class Api:
    """A client of the API whose every answer is checked against the OpenAPI document."""

    def __init__(
        self, node: TradingNode, server: ApiServer, url: str, session: aiohttp.ClientSession
    ) -> None:
        self.node = node
        self.server = server
        self.url = url
        self.session = session

    async def call(self, method: str, path: str, *, key: str = "", **options: Any) -> Answer:
        """`key` is KEY:SECRET."""
        if key:
            options["headers"] = {"Authorization": f"Bearer {key}"}
        async with self.session.request(
            method, self.url + path, allow_redirects=False, **options
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if path.startswith("/v1"):
            check_answer(method, path, answer)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.call("DELETE", path, **options)

    async def patch(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.call("PATCH", path, json=body, **options)

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
    path: Path | None = None, *, instruments: Instruments | None = None, now: float = 1.0
) -> AsyncIterator[TradingNode]:
    """A node on the journal at `path`, which is written while this lasts; without a path one with a peer, on a
    journal of its own, at `NOW`."""
    if path is None:
        instruments, now = FREE, asyncio.get_running_loop().time()
    with TemporaryDirectory() as own, closing(Journal(path or Path(own), sync="normal")) as journal:
        epoch = EPOCH_US if path else NOW - int(now * 1e6)
        node = TradingNode(journal, instruments or COARSE, now, epoch)
        if path is None:
            node.link()
        async with asyncio.TaskGroup() as group:
            group.create_task(node.committer.run())
            try:
                yield node
            finally:
                node.committer.stop()


@asynccontextmanager
async def running_api(
    path: Path | None = None,
    *,
    rules: AccessRules | None = None,
    tls: Tls | None = None,
    host: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[Api]:
    """A server on a free loopback port, and a client of it. Further options are `running_trading_node`'s."""
    async with running_trading_node(path, **options) as node:
        server = server_of(node, rules=rules, tls=tls)
        url = await server.start(host, 0)
        try:
            async with aiohttp.ClientSession() as session:
                yield Api(node, server, url, session)
        finally:
            await server.stop()


def server_of(node: TradingNode, **options: Any) -> ApiServer:
    return ApiServer(cast(NodeService, node), **options)


def client_of(api: Api, key: str = "") -> ExchangeClient:
    name, _, secret = key.partition(":")
    return ExchangeClient(api.url, key=name or None, secret=secret or None)
