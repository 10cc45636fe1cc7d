"""ccxt trades on a node asynchronously and over the WebSocket (ccxt.pro), unmodified from PyPI."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest
from bitfinex_world import (
    IGNORED,
    SYMBOL,
    TAKER_FEE,
    Owner,
    World,
    checked_book,
    linked_pair,
    world_of,
)
from processes import NodeProcess, Nodes, eventually, show_logs

STORM = 3.0  # seconds
pytestmark = [*IGNORED, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    yield from linked_pair(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def world(pair: tuple[NodeProcess, NodeProcess], request: pytest.FixtureRequest) -> Iterator[World]:
    nodes = Nodes(pair[0].data_dir.parent)
    nodes.all = list(pair)
    show_logs(request, nodes)
    with world_of(pair, request.param) as world:
        yield world


async def test_ccxt_trades_asynchronously(world: World) -> None:
    maker, taker = world.maker(), world.taker()
    async with (
        maker.opened(ccxt.async_support.bitfinex) as selling,
        taker.opened(ccxt.async_support.bitfinex) as buying,
    ):
        await asyncio.gather(selling.load_markets(), buying.load_markets())
        placed = [
            await selling.create_order(SYMBOL, "limit", "sell", 0.01, 30100 + n) for n in range(5)
        ]
        bought = 0.0
        async with asyncio.timeout(20):
            while bought < 0.05:
                order = await buying.create_order(SYMBOL, "market", "buy", 0.01)
                while (found := await buying.fetch_open_orders(SYMBOL)) != []:
                    assert found[0]["id"] == order["id"]
                trades = await buying.fetch_my_trades(SYMBOL)
                bought = round(sum(trade["amount"] for trade in trades), 8)
        assert [trade["price"] for trade in trades] == [30100 + n for n in range(5)]
        async with asyncio.timeout(20):
            while await selling.fetch_open_orders(SYMBOL):  # noqa: ASYNC110 - another's event
                await asyncio.sleep(0.02)
        past = {order["id"]: order for order in await selling.fetch_closed_orders(SYMBOL)}
        assert all(past[order["id"]]["status"] == "closed" for order in placed)
        # One after another: of requests side by side the later nonce may come first, as on Bitfinex.
        balance = await selling.fetch_balance()
        ledger = await selling.fetch_ledger("BTC")
        fees = await selling.fetch_trading_fees()
        assert balance["BTC"]["total"] == pytest.approx(99.95)
        assert sum(entry["amount"] for entry in ledger) == pytest.approx(99.95)
        assert fees[SYMBOL]["taker"] == TAKER_FEE


async def test_ccxt_pro_watches_orders_trades_and_balance(world: World) -> None:
    maker, taker = world.maker(), world.taker()
    async with (
        maker.opened(ccxt.pro.bitfinex) as watching,
        taker.opened(ccxt.async_support.bitfinex) as buying,
    ):
        await asyncio.gather(watching.load_markets(), buying.load_markets())
        async with asyncio.timeout(10):
            balance = await watching.watch_balance()
        assert balance["BTC"]["total"] == 100

        async def watch(what: Any) -> None:
            while True:
                await what(SYMBOL)

        async def until(holds: Callable[[], Any]) -> Any:
            async with asyncio.timeout(15):
                while not (found := holds()):  # noqa: ASYNC110 - the client keeps it
                    await asyncio.sleep(0.01)
            return found

        # What comes while nobody waits for it is lost with this client, so somebody always does.
        tasks = [
            asyncio.create_task(watch(watching.watch_orders)),
            asyncio.create_task(watch(watching.watch_my_trades)),
        ]
        await asyncio.sleep(0.1)
        params = {"clientOrderId": 11, "gid": 22}
        placed = await watching.create_order(SYMBOL, "limit", "sell", 0.2, 30100, params)
        new = await until(lambda: watching.orders and watching.orders[-1])
        assert (new["id"], new["status"], new["remaining"]) == (placed["id"], "open", 0.2)
        # A quirk of ccxt: it takes the group for the client's own id here.
        assert (new["clientOrderId"], placed["clientOrderId"]) == ("22", "11")

        await asyncio.to_thread(world.seen, world.client(taker), "asks", 30100, 0.2)
        await buying.create_order(SYMBOL, "market", "buy", 0.05)
        await until(lambda: watching.orders[-1]["filled"] == 0.05)
        assert watching.orders[-1]["status"] == "open"
        trade = await until(lambda: watching.myTrades and watching.myTrades[-1])
        assert (trade["order"], trade["amount"], trade["side"]) == (placed["id"], 0.05, "sell")
        await asyncio.to_thread(world.seen, world.client(taker), "asks", 30100, 0.15)
        await buying.create_order(SYMBOL, "market", "buy", 0.15)
        await until(lambda: watching.orders[-1]["status"] == "closed")
        assert watching.orders[-1]["filled"] == 0.2
        await until(lambda: watching.balance["exchange"]["USD"]["total"] > 1_006_000)
        fetched = await watching.fetch_balance()
        for asset in ("BTC", "USD"):
            assert watching.balance["exchange"][asset] == fetched[asset]
        await until(lambda: all(t["fee"]["currency"] == "USD" for t in watching.myTrades))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize("precision", ["P0", "R0"])
async def test_ccxt_pro_verifies_every_checksum_while_accounts_trade(
    world: World, precision: str
) -> None:
    owners = [world.maker(), world.taker(), world.maker()]
    async with owners[0].opened(ccxt.pro.bitfinex) as exchange:
        done, checked = await checked_book(exchange, precision, storm(owners))
    assert min(done.values()) > 5, done
    assert checked > 30


async def storm(owners: list[Owner]) -> dict[str, int]:
    """Place, change, cancel and take as all of the owners at once; how often each was done."""
    done = {"placed": 0, "taken": 0, "cancelled": 0, "changed": 0}

    async def trade(owner: Owner, seed: int) -> None:
        rng = random.Random(seed)
        resting: list[tuple[str, str]] = []
        async with owner.opened(ccxt.async_support.bitfinex) as exchange:
            await exchange.load_markets()
            until = time.monotonic() + STORM
            while time.monotonic() < until:
                await asyncio.sleep(0.003)  # within the requests that a key may make in this time
                side = rng.choice(("buy", "sell"))
                what = rng.random()
                try:
                    if what < 0.25 and resting:
                        await exchange.cancel_order(resting.pop(rng.randrange(len(resting)))[0])
                        done["cancelled"] += 1
                        continue
                    if what < 0.4 and resting:
                        order_id, side = rng.choice(resting)
                        away = rng.randrange(1, 30) * (-1 if side == "buy" else 1)
                        await exchange.edit_order(
                            order_id, SYMBOL, "limit", side, 0.002, 30000 + away
                        )
                        done["changed"] += 1
                        continue
                except (ccxt.OrderNotFound, ccxt.BadRequest):  # somebody's take was first
                    continue
                takes = what > 0.85
                away = rng.randrange(1, 30) * (-1 if (side == "buy") != takes else 1)
                amount = rng.randrange(100, 900) / 100_000
                flags = {"flags": 64} if rng.random() < 0.1 else {}
                order = await exchange.create_order(
                    SYMBOL, "limit", side, amount, 30000 + away, flags
                )
                done["taken" if takes else "placed"] += 1
                if order["status"] == "open":
                    resting.append((order["id"], side))

    async with asyncio.TaskGroup() as group:
        for index, owner in enumerate(owners):
            group.create_task(trade(owner, index))
    return done


async def test_the_dead_mans_switch_cancels_the_orders_of_a_dead_bot(world: World) -> None:
    owner = world.maker()
    exchange = world.client(owner)
    async with owner.opened(ccxt.pro.bitfinex) as bot:
        await bot.load_markets()
        await bot.authenticate({"dms": 4})
        for price in (20000, 20001):
            await bot.create_order(SYMBOL, "limit", "buy", 0.1, price)
        assert len(await asyncio.to_thread(exchange.fetch_open_orders)) == 2
    await asyncio.to_thread(
        eventually, lambda: not exchange.fetch_open_orders(), what="the orders to be cancelled"
    )
    assert exchange.fetch_balance()["USD"]["used"] == 0
