"""bitfinex-api-py trades on a node, unmodified from PyPI: over REST and over the WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bfxapi.exceptions import InvalidCredentialError
from bfxapi.rest.exceptions import GenericError, RequestParameterError
from bitfinex_world import (
    BFX,
    IGNORED,
    MAKER_FEE,
    TAKER_FEE,
    Owner,
    World,
    linked_pair,
    world_of,
)
from processes import NodeProcess, Nodes, eventually, show_logs

pytestmark = [*IGNORED, pytest.mark.timeout(60)]
OCO, HIDDEN, POST_ONLY, REDUCE_ONLY = 16_384, 64, 4096, 1024


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


# REST


def test_every_type_of_order_over_rest(one_node: World) -> None:
    one_node.trade_at(30000)
    auth = one_node.maker().bfxapi().rest.auth

    def submit(kind: str, amount: float, price: float, **more: Any) -> Any:
        told = auth.submit_order(f"EXCHANGE {kind}", BFX, amount, price, **more)
        assert (told.type, told.status) == ("on-req", "SUCCESS")
        return told.data

    resting = [
        submit("LIMIT", 0.1, 20000, cid=1, gid=9),
        submit("LIMIT", 0.1, 20000, flags=POST_ONLY),
        submit("LIMIT", 0.1, 20000, flags=HIDDEN),
        submit("LIMIT", -0.1, 90000, flags=REDUCE_ONLY),
        submit("LIMIT", 0.1, 20000, tif="2035-01-01 00:00:00"),
        submit("STOP", 0.1, 90000),
        submit("STOP LIMIT", 0.1, 90000, price_aux_limit=90100),
        submit("TRAILING STOP", -0.1, 0, price_trailing=5000),
        submit("LIMIT", -0.1, 90000, flags=OCO, price_oco_stop=10000),
    ]
    over = [submit("IOC", 0.1, 20000), submit("FOK", 0.1, 20000), submit("MARKET", 0.1, 0)]
    assert [order.order_status for order in resting] == ["ACTIVE"] * len(resting)
    assert [order.order_status for order in over] == [
        "IOC CANCELED",
        "FILLORKILL CANCELED",
        "CANCELED",
    ]
    assert resting[6].price_aux_limit == 90100
    assert (resting[7].price, resting[7].price_trailing) == (25000, 5000)
    found = auth.get_orders(symbol=BFX)
    assert [order.id for order in found][: len(resting)] == [order.id for order in resting]
    (second,) = found[len(resting) :]
    assert (second.order_type, second.placed_id) == ("EXCHANGE STOP", resting[-1].id)
    assert [o.id for o in auth.get_orders(ids=[resting[3].id])] == [resting[3].id]
    assert (resting[0].cid, resting[0].gid) == (1, 9)

    changed = auth.update_order(resting[0].id, amount="0.2", price=20100).data
    assert (changed.id, changed.amount, changed.price) == (resting[0].id, 0.2, 20100)
    assert auth.update_order(resting[0].id, delta=-0.05).data.amount_orig == 0.15
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert auth.cancel_order(cid=1, cid_date=today).data.id == resting[0].id
    assert auth.cancel_order(id=resting[1].id).data.order_status == "CANCELED"
    assert [o.id for o in auth.cancel_order_multi(id=[resting[2].id]).data] == [resting[2].id]
    submit("LIMIT", 0.1, 20000, gid=12)
    assert [o.gid for o in auth.cancel_order_multi(gid=[12]).data] == [12]
    left = auth.cancel_order_multi(all=True).data
    assert len(left) == len(resting) - 3 + 1
    assert auth.get_orders() == []
    past = {order.id: order for order in auth.get_orders_history(limit=100)}
    assert {order.id for order in [*resting, *over]} <= set(past)
    assert past[over[1].id].order_status == "FILLORKILL CANCELED"


def test_money_and_histories_over_rest(world: World) -> None:
    maker = world.maker().bfxapi().rest.auth
    owner = world.taker()
    taker = owner.bfxapi().rest.auth
    resting = maker.submit_order("EXCHANGE LIMIT", BFX, -0.2, 30100).data
    world.seen(world.client(owner), "asks", 30100, 0.2)
    taken = taker.submit_order("EXCHANGE LIMIT", BFX, 0.2, 30100, cid=3).data
    eventually(lambda: taker.get_orders_history(symbol=BFX), what="the order to end")
    eventually(lambda: maker.get_orders_history(symbol=BFX), what="the other one too")
    (sold,), (bought,) = maker.get_trades_history(symbol=BFX), taker.get_trades_history()
    assert sold.id == bought.id
    assert (sold.order_id, sold.exec_amount, sold.maker) == (resting.id, -0.2, 1)
    assert (bought.order_id, bought.exec_amount, bought.maker) == (taken.id, 0.2, -1)
    assert (sold.fee, sold.fee_currency) == (pytest.approx(-0.2 * 30100 * MAKER_FEE), "USD")
    assert (bought.fee, bought.fee_currency) == (pytest.approx(-0.2 * TAKER_FEE), "BTC")
    assert bought.cid == 3
    assert [trade.id for trade in maker.get_order_trades(BFX, resting.id)] == [sold.id]
    (order,) = taker.get_orders_history(ids=[taken.id])
    assert order.order_status == "EXECUTED @ 30100(0.2)"
    wallets = {wallet.currency: wallet for wallet in taker.get_wallets()}
    assert wallets["BTC"].balance == pytest.approx(100 + 0.2 * (1 - TAKER_FEE))
    assert wallets["USD"].available_balance == pytest.approx(1_000_000 - 6020)
    for currency, wallet in wallets.items():
        entries = taker.get_ledgers(currency)
        assert sum(entry.amount for entry in entries) == pytest.approx(wallet.balance)
    assert [entry.currency for entry in taker.get_ledgers(category=201)] == ["BTC"]
    assert taker.get_user_info().username == owner.name
    available = taker.get_balance_available_for_orders_or_offers(BFX, "EXCHANGE", dir=-1, rate="1")
    assert available.amount == pytest.approx(100.19, abs=0.01)
    assert taker.get_positions() == []


def test_errors_over_rest(one_node: World) -> None:
    owner = one_node.maker(usd="100")
    auth = owner.bfxapi().rest.auth
    with pytest.raises(GenericError, match="not enough exchange balance"):
        auth.submit_order("EXCHANGE LIMIT", BFX, 1, 20000)
    with pytest.raises(GenericError, match="Order not found"):
        auth.cancel_order(id=1_000_000_999_999_999)
    with pytest.raises(RequestParameterError, match="symbol: invalid"):
        auth.submit_order("EXCHANGE LIMIT", "tNOSUCH", 1, 20000)
    with pytest.raises(RequestParameterError, match="below the tick"):
        auth.submit_order("EXCHANGE LIMIT", BFX, "0.001", "0.01")
    reader = owner.bfxapi(owner.key("read")).rest.auth
    assert reader.get_orders() == []
    with pytest.raises(InvalidCredentialError):
        reader.submit_order("EXCHANGE LIMIT", BFX, 0.001, 20000)
    with pytest.raises(InvalidCredentialError):
        owner.bfxapi(("no-such-key-at-all", "x" * 40)).rest.auth.get_wallets()


# WebSocket


class Session:
    """A connection and everything it has said, by event."""

    EVENTS = (
        *("order_snapshot", "order_new", "order_update", "order_cancel"),
        *("trade_execution", "trade_execution_update", "wallet_snapshot", "wallet_update"),
        *("position_snapshot", "balance_update", "notification"),
        *("on-req-notification", "ou-req-notification", "oc-req-notification"),
        *("subscribed", "t_book_snapshot"),
    )

    def __init__(self, wss: Any) -> None:
        self.wss = wss
        self.said: dict[str, list[Any]] = {event: [] for event in self.EVENTS}
        self.authenticated = asyncio.Event()
        for event in self.EVENTS:
            wss.on(event, self._keep(event))
        wss.on("authenticated", lambda _message: self.authenticated.set())

    def _keep(self, event: str) -> Callable[..., None]:
        return lambda *said: self.said[event].append(said[-1])

    async def until(self, holds: Callable[[dict[str, list[Any]]], Any]) -> Any:
        async with asyncio.timeout(10):
            while not (found := holds(self.said)):  # noqa: ASYNC110 - the client only calls back
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def entered(owner: Owner, **options: Any) -> AsyncIterator[Session]:
    wss = owner.bfxapi(**options).wss
    session = Session(wss)
    running = asyncio.create_task(wss.start())
    try:
        async with asyncio.timeout(10):
            await session.authenticated.wait()
        yield session
    finally:
        await wss.close()
        await asyncio.wait({running}, timeout=5)


async def test_orders_trades_and_wallets_over_the_socket(world: World) -> None:
    maker, taker = await asyncio.to_thread(world.maker), await asyncio.to_thread(world.taker)
    async with entered(maker) as selling, entered(taker) as buying:
        await selling.until(lambda said: said["order_snapshot"])
        assert selling.said["order_snapshot"] == [[]]
        assert selling.said["position_snapshot"] == [[]]
        (wallets,) = selling.said["wallet_snapshot"]
        assert {wallet.currency: wallet.balance for wallet in wallets} == {
            "BTC": 100,
            "USD": 1_000_000,
        }
        inputs = selling.wss.inputs
        await inputs.submit_order("EXCHANGE LIMIT", BFX, -0.2, 30100, cid=5, gid=6)
        (new,) = await selling.until(lambda said: said["order_new"])
        (told,) = await selling.until(lambda said: said["on-req-notification"])
        assert (told.status, told.data.id, told.data.cid) == ("SUCCESS", new.id, 5)
        await inputs.update_order(new.id, price=30050)
        (changed,) = await selling.until(lambda said: said["ou-req-notification"])
        assert changed.data.price == 30050
        client = await asyncio.to_thread(world.client, taker)
        await asyncio.to_thread(world.seen, client, "asks", 30050, 0.2)
        await buying.wss.inputs.submit_order("EXCHANGE MARKET", BFX, 0.05, 0)
        (mine,) = await selling.until(lambda said: said["trade_execution_update"])
        (others,) = await buying.until(lambda said: said["trade_execution_update"])
        assert mine.id == others.id
        assert (mine.exec_amount, others.exec_amount) == (-0.05, 0.05)
        assert (mine.fee_currency, others.fee_currency) == ("USD", "BTC")
        assert selling.said["trade_execution"][0].fee is None
        (over,) = await buying.until(lambda said: said["order_cancel"])
        assert over.order_status == "EXECUTED @ 30050(0.05)"
        await selling.until(
            lambda said: said["order_update"][-1].order_status == "PARTIALLY FILLED @ 30050(-0.05)"
        )
        await inputs.cancel_order(id=new.id)
        (gone,) = await selling.until(lambda said: said["order_cancel"])
        assert gone.order_status == "CANCELED was: PARTIALLY FILLED @ 30050(-0.05)"
        (told,) = await selling.until(lambda said: said["oc-req-notification"])
        assert told.data.id == new.id
        last = {w.currency: w for w in selling.said["wallet_update"]}
        assert last["BTC"].balance == pytest.approx(99.95)
        assert last["BTC"].available_balance == pytest.approx(99.95)
        assert selling.said["balance_update"][-1].aum > 0


async def test_refusals_and_many_at_once_over_the_socket(one_node: World) -> None:
    maker = await asyncio.to_thread(one_node.maker)
    async with entered(maker) as session:
        inputs = session.wss.inputs
        await inputs.submit_order("EXCHANGE LIMIT", BFX, 1000, 20000, cid=7)
        (told,) = await session.until(lambda said: said["on-req-notification"])
        assert (told.status, told.code, told.data.cid) == ("ERROR", 10001, 7)
        assert told.text.startswith("not enough exchange balance")
        await inputs.cancel_order(id=1_000_000_999_999_999)
        (told,) = await session.until(lambda said: said["oc-req-notification"])
        assert (told.status, told.text) == ("ERROR", "Order not found.")
        for number in range(5):
            await inputs.submit_order("EXCHANGE LIMIT", BFX, 0.1, 20000 + number, gid=number % 2)
        await session.until(lambda said: len(said["order_new"]) == 5)
        await inputs.cancel_order_multi(gid=[1])
        await session.until(lambda said: len(said["order_cancel"]) == 2)
        await inputs.cancel_order_multi(all=True)
        await session.until(lambda said: len(said["order_cancel"]) == 5)
        await session.until(lambda said: len(said["notification"]) == 2)
        before = len(session.said["wallet_update"])
        await inputs.calc("wallet_exchange_USD", "balance")
        await session.until(lambda said: len(said["wallet_update"]) > before)


async def test_public_channels_beyond_25_and_the_account_are_one_client(one_node: World) -> None:
    """The client opens a connection for every 25 subscriptions beside the authenticated one."""
    maker = await asyncio.to_thread(one_node.maker)
    async with entered(maker) as session:
        for prec in ("P0", "P1", "P2", "P3", "P4", "R0", "P0"):
            for length in ("1", "25", "100", "250"):
                symbol = BFX if len(session.said["subscribed"]) < 24 else "tETHUSD"
                wanted = len(session.said["subscribed"]) + 1
                await session.wss.subscribe("book", symbol=symbol, prec=prec, len=length)
                await session.until(lambda said, wanted=wanted: len(said["subscribed"]) == wanted)
        assert len(session.said["subscribed"]) == 28
        await session.wss.inputs.submit_order("EXCHANGE LIMIT", BFX, 0.1, 20000)
        await session.until(lambda said: said["order_new"])


async def test_a_filter_and_a_wrong_key_over_the_socket(one_node: World) -> None:
    maker = await asyncio.to_thread(one_node.maker)
    async with entered(maker, filters=["wallet"]) as session:
        await session.wss.inputs.submit_order("EXCHANGE LIMIT", BFX, 0.1, 20000)
        await session.until(lambda said: said["wallet_update"])
        assert session.said["order_new"] == session.said["order_snapshot"] == []
    wrong = maker.bfxapi(("no-such-key-at-all", "x" * 40)).wss
    with pytest.raises(InvalidCredentialError):
        async with asyncio.timeout(10):
            await wrong.start()
