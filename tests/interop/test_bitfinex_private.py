"""ccxt trades on a node over REST, unmodified from PyPI with one URL changed: on one node and on two.

Each test has accounts of its own with a million dollars and a hundred bitcoins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ccxt
import pytest
from bitfinex_world import (
    BFX,
    IGNORED,
    MAKER_FEE,
    SYMBOL,
    TAKER_FEE,
    World,
    linked_pair,
    world_of,
)
from processes import NodeProcess, Nodes, eventually, show_logs

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


@pytest.fixture
def one_node(pair: tuple[NodeProcess, NodeProcess]) -> Iterator[World]:
    with world_of(pair, 1) as world:
        yield world


def finished(exchange: Any, order: dict[str, Any], status: str) -> dict[str, Any]:
    """The order once it is over, which it is to be with that status."""

    def found() -> dict[str, Any] | None:
        past = exchange.fetch_closed_orders(SYMBOL)
        return next((o for o in past if o["id"] == order["id"]), None)

    over = eventually(found, what=f"order {order['id']} to end")
    assert over is not None
    assert over["status"] == status, over["info"]
    return over


def raw_ids(exchange: Any) -> set[str]:
    book = exchange.public_get_book_symbol_precision({"symbol": BFX, "precision": "R0", "len": 250})
    return {str(row[0]) for row in book}


# Orders


ORDERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "limit": (("limit", "buy", 0.1, 20000), {}, {"type": "limit", "price": 20000}),
    "post-only": (
        ("limit", "buy", 0.1, 20000),
        {"postOnly": True},
        {"type": "limit", "price": 20000, "postOnly": True},
    ),
    "hidden": (("limit", "buy", 0.1, 20000), {"flags": 64}, {"type": "limit", "price": 20000}),
    "good till date": (
        ("limit", "buy", 0.1, 20000),
        {"tif": "2035-01-01 00:00:00"},
        {"type": "limit", "price": 20000},
    ),
    "reduce-only": (
        ("limit", "sell", 0.1, 90000),
        {"reduceOnly": True},
        {"type": "limit", "price": 90000},
    ),
    "stop": (
        ("market", "buy", 0.1, None),
        {"triggerPrice": 90000},
        {"type": "market", "triggerPrice": 90000, "price": None},
    ),
    "stop limit": (
        ("limit", "buy", 0.1, 90100),
        {"triggerPrice": 90000},
        {"type": "limit", "triggerPrice": 90000, "price": 90100},
    ),
    "trailing stop": (("market", "sell", 0.1, None), {"trailingAmount": "5000"}, {"price": 25000}),
    "one cancels the other": (
        ("limit", "sell", 0.1, 90000),
        {"flags": 16384, "price_oco_stop": "10000"},
        {"type": "limit", "price": 90000},
    ),
}


@pytest.mark.parametrize("kind", ORDERS)
def test_orders_of_every_type_rest_are_found_and_cancelled(one_node: World, kind: str) -> None:
    one_node.trade_at(30000)
    exchange = one_node.client(one_node.maker())
    (how, side, amount, price), params, more = ORDERS[kind]
    placed = exchange.create_order(SYMBOL, how, side, amount, price, params)
    wanted = {"status": "open", "side": side, "amount": amount, "filled": 0, **more}
    for order in (placed, exchange.fetch_order(placed["id"], SYMBOL)):
        assert {name: order[name] for name in wanted} == wanted
        assert order["id"] == placed["id"]
    open_now = exchange.fetch_open_orders(SYMBOL)
    assert placed["id"] in {order["id"] for order in open_now}
    pair = kind == "one cancels the other"
    assert len(open_now) == (2 if pair else 1)
    # Its public id is the same; what is hidden or waits for its trigger is not there.
    unseen = {"hidden", "stop", "stop limit", "trailing stop"}
    assert (placed["id"] in raw_ids(exchange)) == (kind not in unseen)
    assert exchange.fetch_balance()["USD" if side == "buy" else "BTC"]["used"] > 0
    cancelled = exchange.cancel_order(placed["id"], SYMBOL)
    assert (cancelled["id"], cancelled["status"]) == (placed["id"], "canceled")
    left = exchange.cancel_all_orders()
    assert len(left) == (1 if pair else 0)  # to cancel one of a pair leaves the other
    balance = exchange.fetch_balance()
    assert balance["USD"]["used"] == balance["BTC"]["used"] == 0
    finished(exchange, placed, "canceled")


def test_a_trade_between_two_accounts(world: World) -> None:
    maker, taker = world.client(world.maker()), world.client(world.taker())
    resting = maker.create_order(SYMBOL, "limit", "sell", 0.3, 30100)
    world.seen(taker, "asks", 30100, 0.3)
    first = taker.create_order(SYMBOL, "market", "buy", 0.1)
    # Also when the maker is another node's, the answer waits for what it decides.
    assert (first["status"], first["filled"]) == ("closed", 0.1)
    bought = finished(taker, first, "closed")
    assert (bought["filled"], bought["average"], bought["type"]) == (0.1, 30100, "market")
    second = taker.create_order(SYMBOL, "limit", "buy", 0.2, 30200)
    finished(taker, second, "closed")
    sold = finished(maker, resting, "closed")
    assert (sold["filled"], sold["remaining"], sold["average"]) == (0.3, 0, 30100)
    assert sold["info"][13] == "EXECUTED @ 30100(-0.2): was PARTIALLY FILLED @ 30100(-0.1)"

    assert taker.fetch_closed_order(first["id"], SYMBOL)["filled"] == 0.1
    for symbol in (SYMBOL, None):
        asked = taker.fetch_order(first["id"], symbol)
        assert (asked["status"], asked["filled"], asked["remaining"]) == ("closed", 0.1, 0)
    assert taker.fetch_open_orders(SYMBOL) == []

    # Both have the same trades, under the ids that everybody sees.
    mine, others = maker.fetch_my_trades(SYMBOL), taker.fetch_my_trades(SYMBOL)
    public = {trade["id"] for trade in taker.fetch_trades(SYMBOL, limit=20)}
    assert {t["id"] for t in mine} == {t["id"] for t in others} <= public
    assert [(t["side"], t["takerOrMaker"], t["amount"]) for t in mine] == [
        ("sell", "maker", 0.1),
        ("sell", "maker", 0.2),
    ]
    assert [(t["side"], t["takerOrMaker"], t["amount"]) for t in others] == [
        ("buy", "taker", 0.1),
        ("buy", "taker", 0.2),
    ]
    assert {t["order"] for t in mine} == {resting["id"]}
    assert [t["type"] for t in others] == ["market", "limit"]
    assert [t["id"] for t in taker.fetch_order_trades(first["id"], SYMBOL)] == [others[0]["id"]]
    assert [t["id"] for t in maker.fetch_my_trades(SYMBOL, since=mine[1]["timestamp"])][-1] == (
        mine[1]["id"]
    )
    assert len(maker.fetch_my_trades(SYMBOL, limit=1)) == 1

    # Fees are taken from what each side receives.
    assert [t["fee"] for t in mine] == [
        {"currency": "USD", "cost": pytest.approx(amount * 30100 * MAKER_FEE)}
        for amount in (0.1, 0.2)
    ]
    assert [t["fee"] for t in others] == [
        {"currency": "BTC", "cost": pytest.approx(amount * TAKER_FEE)} for amount in (0.1, 0.2)
    ]
    paid = 0.3 * 30100
    assert maker.fetch_balance()["total"] == {
        "USD": pytest.approx(1_000_000 + paid * (1 - MAKER_FEE)),
        "BTC": pytest.approx(99.7),
    }
    balance = taker.fetch_balance()
    assert balance["total"] == {
        "USD": pytest.approx(1_000_000 - paid),
        "BTC": pytest.approx(100 + 0.3 * (1 - TAKER_FEE)),
    }
    assert balance["free"] == balance["total"]
    fees = taker.fetch_trading_fees()[SYMBOL]
    assert (fees["maker"], fees["taker"]) == (MAKER_FEE, TAKER_FEE)

    # The ledger adds up to the balance.
    for exchange in (maker, taker):
        for asset, total in exchange.fetch_balance()["total"].items():
            entries = exchange.fetch_ledger(asset)
            assert sum(entry["amount"] for entry in entries) == pytest.approx(total)
            assert {e["type"] for e in entries} <= {"transaction", "trade", "fee"}
        entries = exchange.fetch_ledger(limit=100)
        assert len({entry["id"] for entry in entries}) == len(entries) == 8


def test_orders_that_must_trade_at_once(world: World) -> None:
    maker, taker = world.client(world.maker()), world.client(world.taker())
    maker.create_order(SYMBOL, "limit", "sell", 0.1, 30100)
    maker.create_order(SYMBOL, "limit", "sell", 0.1, 30200)
    world.seen(taker, "asks", 30200, 0.1)

    def buy(amount: float, price: float, **params: Any) -> dict[str, Any]:
        order: dict[str, Any] = taker.create_order(SYMBOL, "limit", "buy", amount, price, params)
        return order

    # ccxt knows the states that end at once only by their whole texts.
    order = finished(taker, buy(0.3, 30200, timeInForce="FOK"), "FILLORKILL CANCELED")
    assert (order["filled"], order["timeInForce"]) == (0, "FOK")
    order = finished(taker, buy(0.05, 30100, postOnly=True), "POSTONLY CANCELED")
    assert order["filled"] == 0
    world.seen(taker, "asks", 30200, 0.1)
    order = finished(taker, buy(0.15, 30200, timeInForce="FOK"), "closed")
    assert order["filled"] == 0.15
    assert order["info"][13] == "EXECUTED @ 30200(0.05): was PARTIALLY FILLED @ 30100(0.1)"
    part = "IOC CANCELED was: PARTIALLY FILLED"
    order = finished(taker, buy(0.2, 30200, timeInForce="IOC"), part)
    assert (order["filled"], order["remaining"]) == (0.05, pytest.approx(0.15))
    assert taker.fetch_balance()["USD"]["used"] == 0
    assert sum(t["amount"] for t in taker.fetch_my_trades(SYMBOL)) == pytest.approx(0.2)


def test_stops_are_triggered_by_a_trade_at_their_price(world: World) -> None:
    world.trade_at(30000)
    maker = world.client(world.maker())
    stop = maker.create_order(SYMBOL, "market", "buy", 0.1, None, {"triggerPrice": 30300})
    limit = maker.create_order(SYMBOL, "limit", "buy", 0.2, 30400, {"triggerPrice": 30300})
    trailing = maker.create_order(SYMBOL, "market", "sell", 0.05, None, {"trailingAmount": "500"})
    other = world.client(world.maker())
    other.create_order(SYMBOL, "limit", "sell", 0.35, 30350)  # for the stops to buy
    other.create_order(SYMBOL, "limit", "buy", 1, 29000)  # and for the trailing one to sell to
    world.trade_at(30200)
    assert len(maker.fetch_open_orders(SYMBOL)) == 3
    world.trade_at(30300)
    order = finished(maker, stop, "closed")
    assert (order["type"], order["average"]) == ("market", 30350)
    assert order["info"][8:10] == ["EXCHANGE MARKET", "EXCHANGE STOP"]
    order = finished(maker, limit, "closed")
    assert (order["type"], order["filled"], order["average"]) == ("limit", 0.2, 30350)
    assert order["info"][8:10] == ["EXCHANGE LIMIT", "EXCHANGE STOP LIMIT"]
    (waiting,) = maker.fetch_open_orders(SYMBOL)
    assert waiting["id"] == trailing["id"]
    eventually(  # it followed
        lambda: maker.fetch_open_orders(SYMBOL)[0]["price"] == 29850, what="the stop to follow"
    )
    other.create_order(SYMBOL, "limit", "buy", 0.001, 29800)
    taker = world.client(world.taker())
    world.seen(taker, "bids", 29800, 0.001)
    taker.create_order(SYMBOL, "limit", "sell", 0.001, 29800)
    order = finished(maker, trailing, "closed")
    assert (order["average"], order["filled"]) == (29000, 0.05)


def test_one_cancels_the_other(world: World) -> None:
    world.trade_at(30000)
    maker, taker = world.client(world.maker()), world.client(world.taker())
    params = {"flags": 16384, "price_oco_stop": "25000"}
    first = maker.create_order(SYMBOL, "limit", "sell", 0.1, 30100, params)
    both = maker.fetch_open_orders(SYMBOL)
    assert [int(order["info"][12]) for order in both] == [16384, 16384]
    (second,) = [order for order in both if order["id"] != first["id"]]
    assert second["triggerPrice"] == 25000
    assert str(second["info"][25]) == first["id"]
    world.seen(taker, "asks", 30100, 0.1)
    taker.create_order(SYMBOL, "market", "buy", 0.1)
    finished(maker, first, "closed")
    finished(maker, second, "canceled")


def test_a_hidden_order_trades_unseen(one_node: World) -> None:
    maker, taker = one_node.client(one_node.maker()), one_node.client(one_node.taker())
    hidden = maker.create_order(SYMBOL, "limit", "sell", 0.1, 30100, {"flags": 64})
    assert int(hidden["info"][12]) == 64
    assert hidden["id"] not in raw_ids(taker)
    order = taker.create_order(SYMBOL, "limit", "buy", 0.1, 30150)
    assert finished(taker, order, "closed")["average"] == 30100


def test_reduce_only_sells_no_more_than_there_is(world: World) -> None:
    exchange = world.client(world.maker(btc="0.05"))
    with pytest.raises((ccxt.BadRequest, ccxt.InsufficientFunds)):
        exchange.create_order(SYMBOL, "limit", "sell", 0.1, 90000, {"reduceOnly": False})
    order = exchange.create_order(SYMBOL, "limit", "sell", 0.05, 90000, {"reduceOnly": True})
    assert order["amount"] <= 0.05


def test_an_order_ends_at_its_date(world: World) -> None:
    exchange = world.client(world.maker())
    end = time.gmtime(time.time() + 2)
    tif = time.strftime("%Y-%m-%d %H:%M:%S", end)
    order = exchange.create_order(SYMBOL, "limit", "buy", 0.1, 20000, {"tif": tif})
    assert int(order["info"][10]) % 1000 == 0
    finished(exchange, order, "canceled")


def test_an_order_is_changed_in_place(world: World) -> None:
    exchange = world.client(world.maker())
    order = exchange.create_order(SYMBOL, "limit", "buy", 0.2, 20000)
    smaller = exchange.edit_order(order["id"], SYMBOL, "limit", "buy", 0.1, 20000)
    assert (smaller["id"], smaller["amount"]) == (order["id"], 0.1)
    assert exchange.fetch_balance()["USD"]["used"] == pytest.approx(2000)
    moved = exchange.edit_order(order["id"], SYMBOL, "limit", "buy", 0.3, 20100)
    assert (moved["amount"], moved["price"]) == (0.3, 20100)
    assert exchange.fetch_balance()["USD"]["used"] == pytest.approx(6030)
    with pytest.raises(ccxt.InsufficientFunds):
        exchange.edit_order(order["id"], SYMBOL, "limit", "buy", 80, 20100)
    assert exchange.fetch_order(order["id"], SYMBOL)["amount"] == 0.3
    stop = exchange.create_order(SYMBOL, "limit", "buy", 0.1, 90100, {"triggerPrice": 90000})
    higher = exchange.edit_order(
        stop["id"], SYMBOL, "limit", "buy", 0.1, 91100, {"triggerPrice": 91000}
    )
    assert (higher["triggerPrice"], higher["price"]) == (91000, 91100)


def test_orders_are_cancelled_one_by_one_some_and_all(world: World) -> None:
    exchange = world.client(world.maker())
    placed = exchange.create_orders(
        [
            {"symbol": SYMBOL, "type": "limit", "side": "buy", "amount": 0.1, "price": 20000 + n}
            for n in range(6)
        ]
    )
    ids = [order["id"] for order in placed]
    assert len(set(ids)) == 6
    assert exchange.cancel_order(ids[0])["status"] == "canceled"
    assert {order["id"] for order in exchange.cancel_orders(ids[1:3])} == set(ids[1:3])
    today = time.strftime("%Y-%m-%d", time.gmtime())
    named = exchange.create_order(SYMBOL, "limit", "buy", 0.1, 20000, {"clientOrderId": 4711})
    assert named["clientOrderId"] == "4711"
    gone = exchange.cancel_order(
        "", SYMBOL, {"clientOrderId": 4711, "cidDate": today, "cid_date": today}
    )
    assert gone["id"] == named["id"]
    # ccxt leaves the symbol out, so all markets are meant.
    other = exchange.create_order("TEST/USD", "limit", "buy", 1, 5)
    assert {order["id"] for order in exchange.cancel_all_orders(SYMBOL)} == {*ids[3:], other["id"]}
    assert exchange.fetch_open_orders() == []


def test_the_same_client_order_id_is_the_same_order(world: World) -> None:
    exchange = world.client(world.maker())
    for _ in range(2):
        orders = [
            exchange.create_order(SYMBOL, "limit", "buy", 0.1, 20000, {"clientOrderId": 5})
            for _ in range(2)
        ]
        assert len({order["id"] for order in orders}) == 1
    assert len(exchange.fetch_open_orders()) == 1
    with pytest.raises(ccxt.BadRequest):
        exchange.create_order(SYMBOL, "limit", "buy", 0.2, 20000, {"clientOrderId": 5})


# Errors


def test_errors_are_those_that_ccxt_knows(world: World) -> None:
    owner = world.maker(usd="1000", btc="1")
    exchange = world.client(owner)

    def buy(amount: float = 0.01, price: float = 20000, **params: Any) -> Any:
        return exchange.create_order(SYMBOL, "limit", "buy", amount, price, params)

    with pytest.raises(ccxt.InsufficientFunds, match="not enough exchange balance"):
        buy(1)
    with pytest.raises(ccxt.InsufficientFunds):
        exchange.create_order(SYMBOL, "limit", "sell", 2, 90000)
    with pytest.raises(ccxt.OrderNotFound):
        exchange.cancel_order("1000000999999999", SYMBOL)
    with pytest.raises(ccxt.OrderNotFound):
        exchange.cancel_order("7", SYMBOL)
    order = buy()
    exchange.cancel_order(order["id"])
    with pytest.raises(ccxt.OrderNotFound):
        exchange.cancel_order(order["id"])
    with pytest.raises(ccxt.OrderNotFound):
        exchange.edit_order(order["id"], SYMBOL, "limit", "buy", 0.02, 20000)
    with pytest.raises(ccxt.BadSymbol):
        exchange.private_post_auth_w_order_submit(
            {"type": "EXCHANGE LIMIT", "symbol": "tNOSUCH", "amount": "1", "price": "1"}
        )
    with pytest.raises(ccxt.BadRequest, match="below the lot"):
        exchange.private_post_auth_w_order_submit(
            {"type": "EXCHANGE LIMIT", "symbol": BFX, "amount": "0.000000001", "price": "30000"}
        )
    told = exchange.private_post_auth_w_order_submit(
        {"type": "EXCHANGE LIMIT", "symbol": BFX, "amount": "0.0200001234", "price": "20000.09"}
    )
    taken = told[4][0]
    assert (float(taken[7]), float(taken[16])) == (0.02000012, 20000)  # to the lot, and to the tick
    exchange.cancel_order(str(taken[0]))
    with pytest.raises(ccxt.BadRequest, match="margin trading is not supported"):
        exchange.private_post_auth_w_order_submit(
            {"type": "LIMIT", "symbol": BFX, "amount": "1", "price": "30000"}
        )
    stranger = world.client(world.maker())
    with pytest.raises(ccxt.OrderNotFound):
        stranger.cancel_order(buy()["id"])

    reader = owner.ccxt(key=owner.key("read"))
    assert reader.fetch_balance()["BTC"]["total"] == 1
    with pytest.raises(ccxt.AuthenticationError, match="may only read"):
        reader.create_order(SYMBOL, "limit", "buy", 0.01, 20000)
    wrong = owner.ccxt(key=(exchange.apiKey, "x" * 40))
    with pytest.raises(ccxt.AuthenticationError):
        wrong.fetch_balance()
    late = owner.ccxt(key=(exchange.apiKey, exchange.secret))
    late.incrementing_nonce = lambda: 1_000_000_000_000
    with pytest.raises(ccxt.InvalidNonce):
        late.fetch_balance()
    for each in (reader, wrong, late):
        each.session.close()


def test_an_account_beyond_its_order_rate_gets_an_error(world: World) -> None:
    owner = world.maker()
    slow = world.maker()
    slow.name = f"{owner.name}-slow"
    slow.operate("accounts", {"name": slow.name, "orders_per_minute": 3})
    slow.deposit("USD", "1000")
    exchange = world.client(slow)
    for _ in range(3):
        exchange.create_order(SYMBOL, "limit", "buy", 0.001, 20000)
    with pytest.raises(ccxt.RateLimitExceeded):
        exchange.create_order(SYMBOL, "limit", "buy", 0.001, 20000)
    assert len(exchange.cancel_all_orders()) == 3


# Quirks


def test_the_default_book_has_one_entry_for_each_order(world: World) -> None:
    exchange = world.client(world.maker())
    placed = [exchange.create_order(SYMBOL, "limit", "buy", 0.1, 20000) for _ in range(3)]
    book = exchange.fetch_order_book(SYMBOL, 100)
    assert [row[:2] for row in book["bids"]].count([20000, 0.1]) == 3
    assert {order["id"] for order in placed} <= raw_ids(exchange)
    levels = exchange.fetch_order_book(SYMBOL, 100, {"precision": "P0"})
    assert [row[:2] for row in levels["bids"]].count([20000, pytest.approx(0.3)]) == 1
