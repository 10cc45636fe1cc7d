# mypy: ignore-errors
"""A market maker as its author would write it for Bitfinex, with ccxt.pro.

    python market_maker.py CONFIGURATION

The configuration is a JSON file: `url`, `key`, `secret`, `state` (the file that it leaves), and `lift`, the
seconds between small orders of its own that take, which make candles (0: none). It quotes both sides around
a price that everyone here knows, follows its orders and trades on the WebSocket with verified books, and
starts anew after a lost connection. At SIGTERM it cancels its orders and writes what it knows.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import ccxt.pro

SYMBOL, BASE, QUOTE = "BTC/USD", "BTC", "USD"
CENTRE, SWING, PERIOD = 30_000, 20, 300  # the price everyone knows: a wave, its period in seconds
SIZES = ("0.0061", "0.0123", "0.05")
GAP = 5  # between quotes
REQUOTE = 3.0  # seconds
RECONNECT = 1.0
OVERLAP = 60_000  # milliseconds that are read again after a reconnection
CHECKSUMS = 131_072
PAGE = 500


def fair() -> int:
    return CENTRE + round(SWING * math.sin(time.time() * 2 * math.pi / PERIOD))


class MarketMaker:
    """Its orders, trades and position, over as many connections as it takes."""

    def __init__(self, given: dict) -> None:
        self.given = given
        self.counts = Counter()
        self.trades: dict[str, dict[str, Decimal]] = {}  # id -> what it did to the position
        self.orders: dict[str, dict] = {}  # open ones
        self.latest = 0  # milliseconds
        self.start: dict[str, Decimal] | None = None
        self.exchange = None
        self.state = {}
        self.turn = asyncio.Lock()  # nonces have to arrive in their order

    def position(self) -> dict[str, Decimal]:
        held = dict(self.start or {})
        for changes in self.trades.values():
            for asset, change in changes.items():
                held[asset] += change
        return held

    def connect(self):
        """Start with nothing of the connection before."""
        url = self.given["url"]
        stream = url.replace("http", "ws", 1) + "/ws/2"
        exchange = ccxt.pro.bitfinex(
            {"apiKey": self.given["key"], "secret": self.given["secret"], "enableRateLimit": False}
        )
        sockets = {"public": stream, "private": stream}
        exchange.urls["api"] = {"v1": url, "public": url, "private": url, "ws": sockets}
        exchange.options["watchOrderBook"] = {"prec": "P0", "checksum": True}
        handle = exchange.handle_checksum

        def counted(*arguments) -> None:
            self.counts["checksums"] += 1
            handle(*arguments)

        exchange.handle_checksum = counted
        return exchange

    def learn(self, trade: dict, source: str) -> bool:
        """Take a trade into the position unless it is known. Returns if it was new."""
        if trade["id"] in self.trades or trade["fee"] is None or trade["fee"]["cost"] is None:
            return False
        amount, price = Decimal(str(trade["amount"])), Decimal(str(trade["price"]))
        sign = 1 if trade["side"] == "buy" else -1
        changes = {BASE: sign * amount, QUOTE: -sign * amount * price}
        # A fee paid is negative in ccxt's streams and positive in its answers.
        changes[trade["fee"]["currency"]] -= abs(Decimal(str(trade["fee"]["cost"])))
        self.trades[trade["id"]] = changes
        self.latest = max(self.latest, trade["timestamp"])
        self.counts[f"trades by {source}"] += 1
        return True

    # One connection

    async def session(self) -> None:
        await self.exchange.load_markets()
        if self.start is None:
            found = await self.exchange.fetch_balance()
            self.start = {asset: Decimal(str(found[asset]["total"])) for asset in (BASE, QUOTE)}
            self.latest = self.exchange.milliseconds()
        await self.exchange.cancel_all_orders()  # of the connection before
        await self.catch_up()
        await self.exchange.authenticate()  # alone: its nonce counts among those of requests
        async with asyncio.TaskGroup() as group:
            for work in (self.follow_trades, self.follow_orders, self.follow_book, self.requote):
                group.create_task(work())
            if self.given["lift"]:
                group.create_task(self.lift())

    async def catch_up(self) -> None:
        since = self.latest - OVERLAP
        for trade in await self.exchange.fetch_my_trades(SYMBOL, since=since, limit=PAGE):
            self.learn(trade, "request")

    async def follow_trades(self) -> None:
        while True:
            for trade in await self.exchange.watch_my_trades(SYMBOL):
                self.learn(trade, "stream")

    async def follow_orders(self) -> None:
        while True:
            for order in await self.exchange.watch_orders(SYMBOL):
                if order["status"] == "open":
                    self.orders[order["id"]] = order
                else:
                    self.orders.pop(order["id"], None)

    async def follow_book(self) -> None:
        await self.exchange.watch_order_book(SYMBOL, 25)
        socket = self.exchange.client(self.exchange.urls["api"]["ws"]["public"])
        await socket.send({"event": "conf", "flags": CHECKSUMS})
        while True:
            await self.exchange.watch_order_book(SYMBOL, 25)
            self.counts["books"] += 1

    async def requote(self) -> None:
        """Leave the quotes at a price that holds; amend or place the others."""
        quotes: dict[tuple[str, int], str] = {}
        while True:
            around = fair()
            for level, size in enumerate(SIZES, start=1):
                for side, sign in (("buy", -1), ("sell", 1)):
                    price = around + sign * level * GAP
                    before = quotes.get((side, level))
                    async with self.turn:
                        quotes[side, level] = await self.quote(before, side, size, price)
            await asyncio.sleep(REQUOTE)

    async def quote(self, order_id: str | None, side: str, size: str, price: int) -> str | None:
        known = self.orders.get(order_id)
        try:
            if known is not None and known["price"] == price:
                return order_id
            if known is not None and known["filled"] == 0 and random.random() < 0.5:
                await self.exchange.edit_order(order_id, SYMBOL, "limit", side, float(size), price)
                self.counts["amended"] += 1
                return order_id
            if known is not None:
                await self.exchange.cancel_order(order_id)
                self.counts["cancelled"] += 1
            params = {"postOnly": True}
            placed = await self.exchange.create_order(
                SYMBOL, "limit", side, float(size), price, params
            )
        except (ccxt.OrderNotFound, ccxt.InvalidOrder):
            self.counts["came too late"] += 1  # it was filled in the meantime
            return None
        self.counts["placed"] += 1
        return placed["id"]

    async def lift(self) -> None:
        while True:
            await asyncio.sleep(self.given["lift"])
            side = random.choice(("buy", "sell"))
            price = fair() + (3 * GAP if side == "buy" else -3 * GAP)
            async with self.turn:
                await self.exchange.create_order(
                    SYMBOL, "limit", side, 0.001, price, {"timeInForce": "IOC"}
                )
            self.counts["lifts"] += 1

    # Its life

    async def run(self) -> None:
        while True:
            self.exchange = self.connect()
            self.orders.clear()
            try:
                await self.session()
            except* (ccxt.NetworkError, ccxt.ExchangeError) as group:
                for error in group.exceptions:
                    self.counts[f"met {type(error).__name__}"] += 1
                    print(repr(error)[:300], flush=True)
            finally:
                with suppress(Exception):
                    await self.exchange.close()
            self.counts["connections lost"] += 1
            await asyncio.sleep(RECONNECT)

    async def finish(self) -> None:
        """Cancel, learn the last trades, and look through all of them for one that was missed."""
        self.exchange = self.connect()
        try:
            await self.exchange.load_markets()
            await self.exchange.cancel_all_orders()
            while await self.exchange.fetch_open_orders(SYMBOL):  # noqa: ASYNC110 - asked
                await asyncio.sleep(0.1)
            await self.catch_up()
            position = self.position()
            balance = await self.exchange.fetch_balance()
            missed, end = 0, self.exchange.milliseconds()
            while True:
                page = await self.exchange.fetch_my_trades(SYMBOL, limit=PAGE, params={"end": end})
                missed += sum(self.learn(trade, "the last look") for trade in page)
                oldest = min((trade["timestamp"] for trade in page), default=0)
                if len(page) < PAGE or oldest >= end:
                    break
                end = oldest
        finally:
            await self.exchange.close()
        self.state = {
            "position": {asset: str(amount) for asset, amount in position.items()},
            "balance": {asset: str(balance[asset]["total"]) for asset in position},
            "missed": missed,
            "trades": sorted(self.trades),
            "counts": dict(self.counts),
        }


async def trade(maker: MarketMaker) -> None:
    running = asyncio.create_task(maker.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with suppress(asyncio.CancelledError):
        await running
    await maker.finish()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    maker = MarketMaker(given)
    asyncio.run(trade(maker))
    Path(given["state"]).write_text(json.dumps(maker.state), "utf-8")


if __name__ == "__main__":
    main()
