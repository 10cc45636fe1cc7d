"""Trading for an account in integers: what is told when, and what is found again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from instruments_kit import COARSE
from trading_kit import TradingNode, running_trading_node

import exchange.engine.order_manager
import exchange.orders.order_store
from exchange.journal.journal import Journal
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.records import Order, Record
from exchange.orders.engine_context import CommandRejected
from node.service.trading import AccountNews, Span
from node.streams.account_streams import BalancesStream, OrdersStream
from node.views.order_mapping import OrderMapping

BTC = COARSE["BTC-USD"].key
ETH = COARSE["ETH-USD"].key
ALICE, BOB = 1, 2


def buy(account: int, price: int = 1000, quantity: int = 10, **more: object) -> NewOrder:
    terms = {"market": BTC, "side": 1, "price": price, "quantity": quantity} | more
    return NewOrder(account=account, **terms)  # type: ignore[arg-type]


def sell(account: int, price: int = 1000, quantity: int = 10) -> NewOrder:
    return buy(account, price, quantity, side=-1)


def fund(house: TradingNode) -> None:
    for name in ("alice", "bob"):
        account = house.engine.accounts.create(1, name)
        for asset in ("USD", "BTC"):
            house.engine.ledger.deposit(1, account.number, asset, 10**12, "")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[TradingNode]:
    async with running_trading_node(tmp_path / "journal") as house:
        fund(house)
        await house.committer.durable()
        yield house


async def test_listeners_get_events_of_their_account_alone_and_in_order(house: TradingNode) -> None:
    heard: dict[int, list[AccountNews]] = {ALICE: [], BOB: []}
    stops = [house.trading.listen(account, heard[account].append) for account in heard]
    await house.trading.place(buy(ALICE))
    assert [len(news) for news in heard.values()] == [1, 0]
    assert [(b.asset, b.held > 0) for b in heard[ALICE][0].balances] == [("USD", True)]
    await house.trading.place(sell(BOB, quantity=4))
    bought, sold = heard[ALICE][1], heard[BOB][0]
    assert [fill.role for fill in bought.fills] == ["maker"]
    assert [fill.role for fill in sold.fills] == ["taker"]
    assert {order.account for order in bought.orders} == {ALICE}
    assert {b.asset for b in sold.balances} == {"BTC", "USD"}
    assert bought.balances == house.trading.balances_of(ALICE)[: len(bought.balances)]
    stops[0]()
    stops[0]()
    await house.trading.cancel(ALICE, 1)
    assert len(heard[ALICE]) == 2


async def test_other_accounts_orders_are_as_if_they_did_not_exist(house: TradingNode) -> None:
    (order,) = await house.trading.place(buy(ALICE, client_id="a"))
    trading = house.trading
    assert trading.order_of(BOB, order.number) is None
    assert trading.order_by_client_id(BOB, "a") is None
    with pytest.raises(CommandRejected, match="no order 1"):
        await trading.cancel(BOB, order.number)
    with pytest.raises(CommandRejected, match="no order 1"):
        await trading.amend(BOB, order.number, Amend(price=999))
    assert await trading.cancel_many(Selection(account=BOB)) == []
    assert await trading.fills_of(BOB, Span()) == []
    assert [o.number for o in trading.open_orders_of(ALICE)] == [order.number]


async def test_a_client_id_is_known_when_only_the_disk_remembers_it(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange.orders.order_store, "RECENT_ORDERS", 1)
    for name in "abc":
        (order,) = await house.trading.place(buy(ALICE, client_id=name))
        await house.trading.cancel(ALICE, order.number)
    assert house.engine.order_store.get(1) is None
    await house.trading.past_orders(ALICE, Span())  # the archive has caught up
    (again,) = await house.trading.place(buy(ALICE, client_id="a"))
    assert (again.number, again.done) == (1, True)
    assert house.engine.order_store.open_orders == []
    with pytest.raises(CommandRejected, match="belongs to order 1, which is different"):
        await house.trading.place(buy(ALICE, side=-1, client_id="a"))
    with pytest.raises(CommandRejected, match="already cancelled"):
        await house.trading.cancel(ALICE, 1)
    assert house.trading.order_of(ALICE, 1) == again
    (bobs,) = await house.trading.place(buy(BOB, client_id="a"))
    assert bobs.number == 4


@pytest.mark.parametrize("forgotten", [False, True])
async def test_an_amended_order_placed_again_is_found_in_memory_and_on_disk(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    monkeypatch.setattr(exchange.orders.order_store, "RECENT_ORDERS", 1 if forgotten else 10)
    for name in "abc":
        (order,) = await house.trading.place(buy(ALICE, client_id=name))
        await house.trading.amend(ALICE, order.number, Amend(price=999, quantity=5))
        await house.trading.cancel(ALICE, order.number)
    assert (house.engine.order_store.get(1) is None) is forgotten
    await house.trading.past_orders(ALICE, Span())  # the archive has caught up
    (again,) = await house.trading.place(buy(ALICE, client_id="a"))
    assert (again.number, again.price, again.done) == (1, 999, True)
    with pytest.raises(CommandRejected, match="belongs to order 1, which is different"):
        await house.trading.place(buy(ALICE, side=-1, client_id="a"))


async def test_open_orders_are_found_by_account_and_market_after_a_restart_too(
    tmp_path: Path,
) -> None:
    def numbers(orders: list[Order]) -> list[int]:
        return [order.number for order in orders]

    path = tmp_path / "journal"
    async with running_trading_node(path) as house:
        fund(house)
        for order in (buy(ALICE), buy(BOB), buy(ALICE, 10, market=ETH), buy(0), buy(ALICE, 900)):
            await house.trading.place(order)
        await house.trading.cancel(ALICE, 1)
        assert numbers(house.trading.open_orders_of(ALICE)) == [3, 5]
    async with running_trading_node(path, now=2.0) as house:
        house.tick()
        trading = house.trading
        assert numbers(trading.open_orders_of(ALICE)) == [3, 5]
        assert numbers(trading.open_orders_of(ALICE, BTC)) == [5]
        assert numbers(trading.open_orders_of(BOB)) == [2]
        assert numbers(trading.open_orders_of(0)) == [4]
        assert trading.open_orders_of(3) == []
        await trading.place(sell(ALICE, 1000, 20))
        assert numbers(trading.open_orders_of(0) + trading.open_orders_of(BOB)) == []
        past = await trading.all_orders(ALICE, Span(newest_first=False))
        assert numbers(past)[0] == 1
        assert sorted(numbers(past)) == [1, 3, 5, 6]


async def test_a_stream_snapshot_shows_durable_state_alone(house: TradingNode) -> None:
    texts = OrderMapping(house.instruments, house.node_id, house.trading.decimals)
    orders = OrdersStream("orders", "e", house.trading, texts, ALICE)
    balances = BalancesStream("balances", "e", house.trading, texts, ALICE)
    (resting,) = await house.trading.place(sell(ALICE, 1000, 10))
    bid = house.engine.orders.place(house.now, buy(BOB, 1000, 4))  # not drained yet
    for stream in (orders, balances):
        await stream.open()
    assert bid[0].done
    before = [stream.snapshot("subscribed") for stream in (orders, balances)]
    assert json.loads(before[0])["orders"][0]["filled"].strip("0.")
    house.engine.orders.place(house.now, buy(BOB, 1000, 6))
    assert resting.number not in [o.number for o in house.engine.order_store.open_orders]
    assert [stream.snapshot("restarted") for stream in (orders, balances)] == [
        text.replace(b"subscribed", b"restarted") for text in before
    ]
    await house.committer.durable()
    after = [stream.snapshot("restarted") for stream in (orders, balances)]
    assert b'"orders":[]' in after[0]
    assert after[1] != before[1]
    for stream in (orders, balances):
        stream.close()


async def test_a_reader_waits_for_commits_of_its_account_alone(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    trading, gate, begun = house.trading, threading.Event(), threading.Event()
    commit = Journal.commit

    def slowly(journal: Journal, records: Sequence[Record]) -> None:
        begun.set()
        assert gate.wait(10)
        commit(journal, records)

    monkeypatch.setattr(Journal, "commit", slowly)
    monkeypatch.setattr(Journal, "appends_only", False)  # written in the thread
    house.engine.orders.place(house.now, buy(ALICE))  # not drained
    await asyncio.wait_for(trading.durable(BOB), 5)
    reading = asyncio.create_task(trading.durable(ALICE))
    await asyncio.to_thread(begun.wait, 10)  # on its way to the disk
    await asyncio.wait_for(trading.durable(BOB), 5)
    second = asyncio.create_task(trading.durable(ALICE))
    await asyncio.sleep(0.01)
    assert not reading.done()
    assert not second.done()
    gate.set()
    await asyncio.wait_for(asyncio.gather(reading, second), 5)
    begun.clear()
    await asyncio.wait_for(trading.durable(ALICE), 5)
    assert not begun.is_set()  # there was nothing to wait for


async def test_the_next_tick_is_that_of_the_earliest_timer(house: TradingNode) -> None:
    engine, trading, now = house.engine, house.trading, house.now
    await trading.durable()
    renewal = engine.next_tick(now)
    assert renewal > now
    assert trading.next_tick() is None
    ends = engine.us(now) + 1_500_000
    (order,) = engine.orders.place(now, buy(ALICE, tif="gtd", expires=ends))
    assert engine.next_tick(now) == pytest.approx(min(renewal, now + 1.5))
    trading.cancel_after_now(ALICE, 1000)
    assert trading.next_tick() == pytest.approx(now + 1.0)
    engine.orders.cancel(now, order.number)
    trading.cancel_after_now(ALICE, 0)
    assert (engine.next_tick(now), trading.next_tick()) == (renewal, None)


async def test_many_orders_are_cancelled_in_parts_between_which_others_have_the_loop(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange.orders.order_store, "PART", 2)
    placed = [(await house.trading.place(buy(ALICE)))[0].number for _ in range(5)]
    cancelling = asyncio.create_task(house.trading.cancel_many(Selection(account=ALICE)))
    left = []
    while not cancelling.done():
        left.append(len(house.trading.open_orders_of(ALICE)))
        if len(left) == 3:
            house.engine.orders.place(house.now, buy(ALICE))  # it comes too late to be cancelled
        await asyncio.sleep(0)
    assert {5, 3} <= set(left)
    assert [order.number for order in await cancelling] == placed
    assert [order.number for order in house.trading.open_orders_of(ALICE)] == [placed[-1] + 1]


async def test_a_deadline_cancels_many_orders_with_several_ticks(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange.orders.order_store, "PART", 2)
    trading = house.trading
    for _ in range(5):
        await trading.place(buy(ALICE))
    trading.cancel_after_now(ALICE, 1000)
    house.now += 1.5
    left = []
    for _ in range(4):
        house.trading.tick()
        left.append((len(trading.open_orders_of(ALICE)), trading.ending))
    assert left == [(3, True), (1, True), (0, False), (0, False)]
    assert trading.next_tick() is None
    for _ in range(5):
        await trading.place(buy(ALICE))
    trading.cancel_after_now(ALICE, 1000)
    house.now += 1.5
    trading.tick()
    trading.cancel_after_now(ALICE, 1000)  # the client is back
    trading.tick()
    assert len(trading.open_orders_of(ALICE)) == 3


async def test_an_order_waits_without_the_loop_while_many_others_expire(
    house: TradingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange.engine.order_manager, "EXPIRED", 1)
    trading, ends = house.trading, house.engine.us(house.now) + 1_000_000
    bids = [(await trading.place(buy(ALICE, tif="gtd", expires=ends)))[0] for _ in range(4)]
    assert trading.open
    house.now += 1.0
    assert not trading.open
    placing = asyncio.create_task(trading.place(sell(ALICE, 1000, 1)))
    left = []
    while not placing.done():
        left.append(len(trading.open_orders_of(ALICE)))
        await asyncio.sleep(0)
    assert left[:2] == [3, 1]
    (ask,) = await placing
    assert ask.filled == 0
    await trading.opened()
    assert [trading.order_of(ALICE, bid.number).reason for bid in bids] == ["expired"] * 4
