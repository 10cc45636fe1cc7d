"""A recovery books what the own feed proves, and doubts what only another node states."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import pytest
from exchange_kit import NETWORK, Keys, M, Owner, Store, submit
from order_kit import COIN, KEY, UNIT, CoinNetwork, with_fees

from exchange.engine.engine import Engine
from exchange.engine.lost_trades import RecoveryReport, is_plausible, stated_trade
from exchange.engine.recovery import SETTLE, FeedGap, RecoveryError
from exchange.engine.recovery_settlement import ORDER_GAP, TAKE_GAP
from exchange.feeds import feed as feed_module
from exchange.feeds.exchange_messages import Take, pack
from exchange.feeds.feed import FeedState
from exchange.feeds.presence import PresenceLeases
from exchange.ledger.statements import StatementTrade
from exchange.model.commands import SUSPENSE
from exchange.model.events import BUY, SELL, Amended, Batch, Closed, Filled, Opened, sign_batch
from exchange.model.instruments import Instrument
from exchange.model.records import Order, Recovered
from tests.simulation.disk import MemoryDisk

PEER = Owner(50)


def engine(
    disk: Store,
    recover_from: list[str] | None = None,
    markets: Sequence[str] = (M,),
    instruments: Sequence[Instrument] = (),
) -> Engine:
    return Engine(
        Keys(1),
        markets,
        instruments=instruments,
        network=NETWORK,
        epoch_us=10**15,
        rng=random.Random(0),
        recovered=disk.recover() if disk.recover() != Recovered() else None,
        recover_from=recover_from,
    )


class Lost:
    """A node with one order to sell 10 at 100 on its disk, and what it did after the copy of it."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        node = engine(self.disk)
        node.resume(0.0)
        self.order = submit(node, 0.0, M, SELL, 100, 10)
        self.disk.commit(node.drain(0.0).records)
        self.later = Owner(1, M)  # the same key: continues the feed from the start
        held = next(iter(node.feeds[node.node_id, M].batches.values())).batch
        self.later.writer.feed.state.apply(held.events[0])
        self.later.writer.feed.hold(held, held.digest(NETWORK))
        self.later.writer = type(self.later.writer)(
            self.later.writer.feed, self.later.keys, NETWORK
        )

    def filled(self, quantity: int, left: int, take: int, taker: str = PEER.id) -> Batch:
        shown = left
        return self.later.batch(
            Filled(self.order.number, SELL, quantity, 100, shown, left, taker, take, 10**15)
        )

    def recover(
        self, *batches: Batch, stated: list[StatementTrade] | None = None
    ) -> tuple[Engine, RecoveryReport]:
        node = engine(self.disk, [PEER.id])
        node.resume(0.0)
        for batch in batches:
            assert node.receive(1.0, "order", pack(batch), batch.market, PEER.id)
        report = node.settle_recovery(2.0, {PEER.id: stated or []}, {PEER.id})
        self.disk.commit(node.drain(2.0).records)
        return node, report


def stated(**changes: Any) -> StatementTrade:
    fields: dict[str, Any] = {
        "taker": PEER.id,
        "take": 7,
        "market": M,
        "side": BUY,
        "price": 100,
        "quantity": 4,
        "maker_order": 1,
        "taker_order": 3,
        "time": 10**15,
    }
    return StatementTrade(**{**fields, **changes})


def test_a_fill_of_the_own_feed_is_booked_and_the_order_stays_open() -> None:
    lost = Lost()
    node, report = lost.recover(lost.filled(4, 6, 7), stated=[stated()])
    assert [(fill.order, fill.quantity) for fill in report.fills] == [(1, 4)]
    assert (report.kept, report.closed, report.suspense) == (1, [], [])
    (fill,) = lost.disk.fills()
    assert (fill.counterparty_order, fill.account) == (3, 0), "the statement has the taker's order"
    (order,) = lost.disk.recover().orders
    assert (order.filled, order.done) == (4, False)
    (decision,) = lost.disk.recover().decisions
    assert (decision.taker, decision.take, decision.quantity) == (PEER.id, 7, 4)
    assert node.order_store.next_number > ORDER_GAP
    again = engine(lost.disk)
    again.resume(0.0)
    assert again.feeds[again.node_id, M].number == 2
    again.ledger.check()


def test_orders_that_the_journal_does_not_have_are_closed_and_their_fills_in_suspense() -> None:
    lost = Lost()
    opened = lost.later.batch(Opened(2, BUY, 90, 5, 10**15 + 1))
    filled = lost.later.batch(Filled(2, BUY, 2, 90, 3, 3, PEER.id, 8, 10**15))
    node, report = lost.recover(opened, filled)
    assert [(fill.order, fill.account) for fill in report.suspense] == [(2, SUSPENSE)]
    assert [(order.order, order.account) for order in report.closed] == [(2, None)]
    assert report.kept == 1
    batches = lost.disk.recover().feeds[0].batches
    assert batches[-1].events == (Closed(2, "cancelled"),)
    account = node.accounts.get(SUSPENSE)
    assert account is not None
    assert account.frozen


def test_an_order_that_was_cancelled_is_not_open_again() -> None:
    lost = Lost()
    _, report = lost.recover(lost.later.batch(Closed(1, "cancelled")))
    assert [order.order for order in report.closed] == [1]
    (order,) = lost.disk.recover().orders
    assert (order.done, order.reason) == (True, "recovered")


@pytest.mark.parametrize(
    "doubtful",
    [
        stated(price=99),  # a maker trades at its own price
        stated(quantity=11),  # more than the order has
        stated(maker_order=5),  # an order that nobody knows
        stated(side=SELL),
    ],
)
def test_doubtful_fills_stated_by_the_counterparty_alone_go_to_suspense(
    doubtful: StatementTrade,
) -> None:
    lost = Lost()
    _, report = lost.recover(stated=[doubtful])
    assert len(report.suspense) == 1
    assert report.fills == []
    (order,) = lost.disk.recover().orders
    assert order.filled == 0


def test_matching_fills_stated_by_the_counterparty_alone_are_booked() -> None:
    lost = Lost()
    _, report = lost.recover(stated=[stated()])
    assert [fill.order for fill in report.fills] == [1]
    assert [order.order for order in report.closed] == [1], "its feed shows ten, six are free"


def test_another_feed_under_the_same_key_is_refused() -> None:
    lost = Lost()
    other = Owner(1, M)
    fork = other.batch(Opened(1, BUY, 50, 1, 10**15))
    with pytest.raises(RecoveryError, match="contradicts the journal"):
        lost.recover(fork)


@pytest.mark.parametrize(
    ("side", "price", "trade", "plausible"),
    [
        (SELL, 100, {}, True),
        (SELL, 100, {"quantity": 6}, True),
        (SELL, 100, {"quantity": 7}, False),  # four of ten are filled
        (SELL, 100, {"market": "ETH-USD"}, False),
        (SELL, 100, {"price": 101}, False),  # a maker trades at its own price
        (SELL, None, {}, False),  # a market order is no maker
        (BUY, None, {"taker": "own"}, True),
        (BUY, 100, {"taker": "own"}, True),
        (BUY, 101, {"taker": "own"}, True),
        (BUY, 99, {"taker": "own"}, False),
        (SELL, 99, {"taker": "own", "side": SELL}, True),
        (SELL, 101, {"taker": "own", "side": SELL}, False),
    ],
)
def test_an_order_can_have_made_a_stated_trade(
    side: int, price: int | None, trade: dict[str, Any], plausible: bool
) -> None:
    lost = stated_trade("own", PEER.id, stated(**trade))
    assert (lost.role, lost.side) == (
        ("taker", trade.get("side", BUY)) if trade.get("taker") else ("maker", SELL)
    )
    order = Order(1, M, side, price, 10, 10**15)
    order.filled = 4
    assert is_plausible(order, lost) is plausible


def test_a_recovery_waits_until_nothing_has_changed_for_a_while() -> None:
    lost = Lost()
    other = Keys(51).node_id
    node = engine(lost.disk, [PEER.id, other, Keys(1).node_id])
    node.resume(0.0)
    found = node.recovery
    assert found is not None
    assert (found.has_news, found.known) == (False, {PEER.id, other})
    assert not node.recovered_feeds(1000.0)  # nobody has said anything
    found.heard(10.0, PEER.id)
    found.heard(12.0, PEER.id)  # nothing new
    assert (found.heard_from, found.unheard([])) == ([PEER.id], [other])
    assert found.unheard([other]) == []
    assert [node.recovered_feeds(10.0 + wait) for wait in (SETTLE - 0.1, SETTLE)] == [False, True]
    assert node.receive(20.0, "order", pack(lost.filled(4, 6, 7)), M, PEER.id)
    assert found.has_news
    assert [node.recovered_feeds(20.0 + wait) for wait in (SETTLE - 0.1, SETTLE)] == [False, True]
    assert not found.settled(40.0, behind=True)
    assert not found.settled(40.0 + SETTLE - 0.1, behind=False)
    assert found.settled(40.0 + SETTLE, behind=False)


def test_events_that_a_snapshot_has_replaced_are_reported_as_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost()
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    for number in range(2 * ORDER_GAP, 2 * ORDER_GAP + 5):
        lost.later.batch(Opened(number, BUY, 90, 5, 10**15 + number))
    snapshot = lost.later.writer.feed.snapshot
    assert snapshot is not None
    node = engine(lost.disk, [PEER.id])
    node.resume(0.0)
    assert node.recovery is not None
    node.recovery.adopt(1.0, M, snapshot.batch, snapshot.pages)
    assert node.recovery.has_news
    report = node.settle_recovery(2.0, {}, {PEER.id})
    assert report.gaps == [FeedGap(M, 2, snapshot.batch.last)]
    replaced = {*FeedState.restore(snapshot).orders} - {1}
    assert {order.order for order in report.closed} == replaced
    assert report.kept == 1
    assert node.order_store.next_number == max(replaced) + 1 + ORDER_GAP


@pytest.mark.parametrize(
    ("trades", "complete", "resolved", "filled", "pending"),
    [
        ([], False, 0, 0, 5),  # its maker may have granted it
        ([], True, 1, 0, 0),
        ([{"quantity": 5}], False, 1, 5, 0),
        ([{"quantity": 5}], True, 1, 5, 0),
        ([{"quantity": 5, "market": "ETH-USD"}], True, 1, 0, 0),
    ],
)
def test_takes_without_an_answer_are_resolved_by_the_statement_of_their_maker(
    trades: list[dict[str, Any]], complete: bool, resolved: int, filled: int, pending: int
) -> None:
    disk, own = MemoryDisk(), Keys(1).node_id
    node = engine(disk)
    node.resume(0.0)
    peer = Owner(50)
    presence = PresenceLeases(peer.keys, NETWORK, incarnation=1, lease_ms=600_000).make(0.0, [])
    assert node.receive(0.0, "presence", pack(presence), peer.id, peer.id)
    assert node.receive(0.0, "order", pack(peer.batch(Opened(9, SELL, 100, 5, 10**14))), M, peer.id)
    order = submit(node, 0.0, M, BUY, 100, 5)
    (take,) = node.orders.takes.pending
    disk.commit(node.drain(0.0).records)
    node = engine(disk, [peer.id])
    node.resume(0.0)
    fields = {"taker": own, "take": take.take, "maker_order": 9, "taker_order": order.number}
    report = node.settle_recovery(
        2.0,
        {peer.id: [stated(**fields, **trade) for trade in trades]},
        {peer.id} if complete else (),
    )
    assert (report.takes_resolved, report.takes_open) == (resolved, 1 - resolved)
    assert sum(fill.quantity for fill in report.fills) == filled
    disk.commit(node.drain(2.0).records)
    found = disk.recover()
    assert sum(take.quantity for take in found.takes) == pending
    (mine,) = found.orders
    # It was never on show: what is not filled or waited for is closed.
    assert (mine.filled, mine.pending, mine.done) == (filled, pending, not pending)
    assert node.markets[M].held_owners == []
    node.ledger.check()


@pytest.mark.parametrize(("others", "covered"), [(6, True), (7, False)])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("side", [BUY, SELL])
def test_a_fill_is_booked_to_a_client_only_if_its_other_orders_stay_covered(
    others: int, side: int, *, covered: bool, own: bool
) -> None:
    network = CoinNetwork()
    client = network.account(0, coin=10, usd=1000)
    order = network.place(0, side, 100, 3, account=client)
    price, lots = (200, others) if side == SELL else (50, 2 * others)
    network.place(0, side, price, lots, account=client)
    network.drain(0)
    found = network[0].markets[KEY].writer.feed
    taker = network.id(0) if own else PEER.id
    # It was amended to four, and filled, after the copy of the journal.
    events = [Amended(order.number, 4), Filled(order.number, side, 4, 100, 0, 0, taker, 7, 10**15)]
    number, head = found.number + 1, found.state.head
    batch, _ = sign_batch(network.nodes[0].keys, NETWORK, KEY, number, head, events)
    node = engine(network.nodes[0].store, [PEER.id], markets=[KEY], instruments=[COIN])
    node.resume(0.0)
    assert node.receive(1.0, "order", pack(batch), KEY, PEER.id)
    report = node.settle_recovery(2.0, {}, {PEER.id})
    account = client if covered else SUSPENSE
    rows = [f.account for f in (*report.fills, *report.suspense) if f.side == side]
    assert rows == [account]
    traded = 0 if own and not covered else -side  # else both sides are in suspense
    for asset, before, change in (("COIN", 10, -4), ("USD", 1000, 400)):
        balance = (before if covered else 0) + traded * change
        assert node.ledger.holdings(account).get(asset, (0, 0))[0] == balance * UNIT
    held, amount = ("COIN", others) if side == SELL else ("USD", 100 * others)
    assert node.ledger.holdings(client)[held][1] == amount * UNIT
    assert order.number not in node.order_store.open
    node.ledger.check()


def test_a_recovered_node_has_the_orders_trades_and_money_that_it_had() -> None:
    network = CoinNetwork(2, instrument=with_fees("0.001", "0.002"))
    me, other, stranger = network.id(0), network.id(1), Keys(77).node_id
    alice, bob = network.account(0, coin=100, usd=9000), network.account(0, usd=9000)
    ask = network.ask(0, 100, 10, account=alice)
    iceberg = network.ask(0, 105, 9, account=alice, display_quantity=3)
    bid = network.bid(0, 90, 5, account=alice)
    stop = network.ask(0, None, 5, account=alice, stop=50)
    network.ask(1, 99, 10)
    network.settle()
    reserve = Take(3, KEY, iceberg.number, 1, 105, 2, 1, phase="reserve")
    assert network.give(0, reserve, origin=stranger)
    network.on_mail = lambda mail: [] if mail.type == "take" else [mail]
    taker = network.bid(0, 99, 10, account=bob)
    network.exchange()
    disk, number = copy.deepcopy(network.nodes[0].store), network[0].markets[KEY].writer.number
    assert isinstance(disk, MemoryDisk)
    # What the copy lacks: fills of all kinds, the end of the reservation, and new orders.
    network.on_mail = lambda mail: [mail]
    network.run(2.0)
    network.bid(1, 100, 4)
    network.ask(1, 90, 2)
    network.settle()
    network.bid(0, 100, 1)  # of the house
    network.ask(1, 98, 3)
    network.settle()
    late, new = network.bid(0, 98, 3, account=bob), network.ask(0, 130, 1, account=alice)
    network.run(70.0)
    truth = network[0]
    assert (ask.filled, bid.filled, taker.filled, late.filled, iceberg.reserved) == (5, 2, 10, 3, 0)

    node = engine(disk, [other], [KEY], network.instruments)
    node.resume(0.0)
    for feed in (network[1].feeds[me, KEY], network[1].feeds[other, KEY]):
        for held in feed.batches.values():
            assert node.receive(1.0, "order", pack(held.batch), KEY, other)
    report = node.settle_recovery(2.0, {}, {other})
    disk.commit(node.drain(2.0).records)
    node.ledger.check()

    market = node.markets[KEY]
    assert report.events == truth.markets[KEY].writer.number - number
    assert (report.takes_resolved, report.takes_open) == (1, 0)
    assert [(f.role, f.order, f.quantity) for f in report.fills] == [
        ("taker", taker.number, 10),
        ("maker", ask.number, 4),
        ("maker", bid.number, 2),
        ("maker", ask.number, 1),
    ]
    assert [(f.order, f.side, f.quantity) for f in report.suspense] == [(0, BUY, 3), (0, BUY, 1)]
    # The stop is in no feed, and the account of the new order is in no journal.
    closed = [(o.order, o.quantity, o.account) for o in report.closed]
    assert closed == [(stop.number, 5, alice), (new.number, 1, None)]
    assert (report.kept, sorted(node.order_store.open)) == (3, [ask.number, 2, bid.number])
    for order in (ask, iceberg, bid, taker):
        found = node.order_store.get(order.number)
        assert found is not None
        for name in ("filled", "value", "pending", "reserved", "shown", "done"):
            assert getattr(found, name) == getattr(order, name), (name, order)
    for asset in ("COIN", "USD"):
        for holder in (f"peer:{other}", f"account:{alice}"):
            assert node.ledger.balance(holder, asset) == truth.ledger.balance(holder, asset)
        assert node.ledger.holdings(alice)[asset][1] == truth.ledger.holdings(alice)[asset][1] - (
            (5 + 1) * UNIT if asset == "COIN" else 0
        )
    decided = node.orders.decisions.decided
    expired = decided(stranger, 3)
    assert expired is not None
    assert (expired.reason, expired.quantity, expired.until) == ("expired", 0, 0)
    for fill in disk.fills():
        assert fill.fee_asset == ("COIN" if fill.side == BUY else "USD")
        if fill.taker == other:
            granted = decided(other, fill.take)
            assert granted is not None
            assert (granted.quantity, granted.reason) == (fill.quantity, "")
    mine = [[t.event for t in m.tape if t.maker == me] for m in (market, truth.markets[KEY])]
    assert len(mine[0]) == 3
    assert mine[0] == mine[1]
    assert node.order_store.next_number == new.number + 1 + ORDER_GAP
    assert node.orders.fills.next_take >= node.us(2.0) + TAKE_GAP
    assert list(node.order_store.work_queue) == []
    again = engine(disk, markets=[KEY], instruments=network.instruments)
    again.resume(0.0)
    assert sorted(again.order_store.open) == sorted(node.order_store.open)
    assert again.ledger.holdings(alice) == node.ledger.holdings(alice)
