"""Two linked nodes, and accounts on them whose owners use programs that were written for Bitfinex."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ccxt
import pytest
import requests
from bfxapi import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from processes import NodeProcess, Nodes, eventually

SYMBOL, BFX = "BTC/USD", "tBTCUSD"
MAKER_FEE, TAKER_FEE = 0.001, 0.002  # of the instruments that come with the project
IGNORED = (
    # The clients' own: sockets that they leave to the collector, interfaces of yesterday.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)
_names = itertools.count(1)


def pointed_at(exchange: Any, node: NodeProcess) -> Any:
    """A ccxt exchange that talks to a node."""
    base, ws = node.api_url, node.api_url.replace("http", "ws", 1) + "/ws/2"
    exchange.urls["api"] = {
        "v1": base,
        "public": base,
        "private": base,
        "ws": {"public": ws, "private": ws},
    }
    return exchange


async def checked_book(
    exchange: Any, precision: str, storm: Coroutine[Any, Any, dict[str, int]]
) -> tuple[dict[str, int], int]:
    """Watch the book with a ccxt.pro exchange during the storm: a wrong checksum ends `watch_order_book`
    with ChecksumError. In the end it has to be the book that the node gives.

    Returns:
        What the storm did, and how many checksums were verified.
    """
    checked = itertools.count()
    exchange.options["watchOrderBook"] = {"prec": precision, "checksum": True}
    await exchange.load_markets()
    handle = exchange.handle_checksum

    def counted(*arguments: Any) -> None:
        next(checked)
        handle(*arguments)

    exchange.handle_checksum = counted
    await exchange.watch_order_book(SYMBOL, 25)
    socket = exchange.client(exchange.urls["api"]["ws"]["public"])
    await socket.send({"event": "conf", "flags": 131_072})

    async def watch() -> Any:
        while True:
            await exchange.watch_order_book(SYMBOL, 25)

    watching = asyncio.create_task(watch())
    done = await storm
    await asyncio.sleep(0.5)
    assert not watching.done(), watching.exception()
    watching.cancel()
    await asyncio.wait({watching})
    seen = exchange.orderbooks[SYMBOL]
    fresh = await exchange.fetch_order_book(SYMBOL, 25, {"precision": precision})
    assert [row[:2] for row in seen["bids"]][:25] == [row[:2] for row in fresh["bids"]]
    assert [row[:2] for row in seen["asks"]][:25] == [row[:2] for row in fresh["asks"]]
    return done, next(checked)


@dataclass
class Owner:
    """Of an account on a node. Every program gets a key of its own: programs count nonces alike."""

    node: NodeProcess
    name: str

    def operate(self, path: str, body: dict[str, Any]) -> Any:
        """Work of the node's operator for this account."""
        answer = requests.post(f"{self.node.api_url}/v1/{path}", json=body, timeout=20)
        assert answer.ok, answer.text
        return answer.json()

    def deposit(self, asset: str, amount: str) -> None:
        self.operate(f"accounts/{self.name}/deposits", {"asset": asset, "amount": amount})

    def key(self, *permissions: str) -> tuple[str, str]:
        body = {"permissions": list(permissions or ("read", "trade"))}
        made = self.operate(f"accounts/{self.name}/keys", body)
        return made["key"], made["secret"]

    def ccxt(self, kind: Any = ccxt.bitfinex, key: tuple[str, str] | None = None) -> Any:
        name, secret = key or self.key()
        options = {"apiKey": name, "secret": secret, "enableRateLimit": False}
        return pointed_at(kind(options), self.node)

    @asynccontextmanager
    async def opened(self, kind: Any) -> AsyncIterator[Any]:
        """The same for the asynchronous ones."""
        exchange = self.ccxt(kind)
        try:
            yield exchange
        finally:
            async with asyncio.timeout(5):  # after a failure something may wait in it for ever
                await exchange.close()

    def bfxapi(self, key: tuple[str, str] | None = None, **options: Any) -> Client:
        name, secret = key or self.key()
        url = self.node.api_url
        wss = url.replace("http", "ws", 1) + "/ws/2"
        return Client(
            api_key=name, api_secret=secret, rest_host=f"{url}/v2", wss_host=wss, **options
        )


@dataclass
class World:
    """The node that makers' accounts are on, and the one of the takers'; they may be the same."""

    makers: NodeProcess
    takers: NodeProcess
    stack: ExitStack = field(default_factory=ExitStack)

    def owner(self, node: NodeProcess, *, usd: str = "1000000", btc: str = "100") -> Owner:
        """Of a new account with some money."""
        owner = Owner(node, f"owner-{next(_names)}")
        owner.operate("accounts", {"name": owner.name})
        owner.deposit("USD", usd)
        owner.deposit("BTC", btc)
        client = owner.ccxt()
        self.stack.callback(client.session.close)
        self.stack.callback(client.cancel_all_orders)  # nothing is left for other tests to meet
        return owner

    def maker(self, **money: str) -> Owner:
        return self.owner(self.makers, **money)

    def taker(self, **money: str) -> Owner:
        return self.owner(self.takers, **money)

    def client(self, owner: Owner) -> Any:
        """A synchronous ccxt of this owner's, until the test ends."""
        exchange = owner.ccxt()
        self.stack.callback(exchange.session.close)
        return exchange

    def seen(self, taker: Any, side: str, price: float, amount: float) -> None:
        """Wait until the taker's node shows that much at a price."""

        def shown() -> bool:
            book = taker.fetch_order_book(SYMBOL, 100, {"precision": "P0"})
            return any(row[0] == price and abs(row[1] - amount) < 1e-9 for row in book[side])

        eventually(shown, what=f"{amount} at {price} in the taker's {side}")

    def trade_at(self, price: float) -> None:
        """Somebody trades at that price, and both nodes know of it."""
        maker, taker = self.client(self.maker()), self.client(self.taker())
        maker.create_order(SYMBOL, "limit", "sell", 0.001, price)
        self.seen(taker, "asks", price, 0.001)
        order = taker.create_order(SYMBOL, "limit", "buy", 0.001, price)

        def known() -> bool:
            mine = {t["id"] for t in taker.fetch_my_trades(SYMBOL) if t["order"] == order["id"]}
            return bool(mine) and all(
                mine <= {trade["id"] for trade in exchange.fetch_trades(SYMBOL, limit=20)}
                for exchange in (maker, taker)
            )

        eventually(known, what=f"a trade at {price}")


def linked_pair(directory: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    nodes = Nodes(directory)
    try:
        yield nodes.pair()
    finally:
        nodes.cleanup()


@contextmanager
def world_of(pair: tuple[NodeProcess, NodeProcess], count: int) -> Iterator[World]:
    """One test's world, of one or two nodes."""
    world = World(pair[0], pair[count - 1])
    with world.stack:
        yield world
