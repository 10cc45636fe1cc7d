"""Fill-or-kill: all or nothing, on one node and across nodes, whatever is lost, doubled or killed."""

from __future__ import annotations

import random

import pytest
from exchange_kit import Mail
from msgspec.structs import replace
from order_kit import KEY, CoinNetwork

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.takes.reservation_quota import MAX_RESERVATIONS
from exchange.takes.take_protocol import RESERVATION_US


def ended(order: Order) -> tuple[bool, int, str]:
    return order.done, order.filled, order.reason


# One node


def test_hidden_quantity_of_this_node_counts() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 3, hidden=True)
    network.ask(0, 100, 9, display_quantity=2)
    assert ended(network.bid(0, 100, 13, tif="fok")) == (True, 0, "fok")
    assert ended(network.bid(0, 100, 12, tif="fok")) == (True, 12, "filled")


def test_hidden_quantity_of_other_nodes_does_not_count() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 9, display_quantity=2)
    network.ask(0, 100, 9, display_quantity=2)
    network.exchange()
    assert ended(network.bid(0, 100, 12, tif="fok")) == (True, 0, "fok")
    bid = network.bid(0, 100, 11, tif="fok")
    network.exchange()
    assert ended(bid) == (True, 11, "filled")
    network.settle()
    network.check()


@pytest.mark.parametrize(
    ("mode", "bid", "sell"),
    [
        ("cancel_newest", (True, 0, "self_trade"), (False, 0, "")),
        ("cancel_oldest", (True, 3, "filled"), (True, 0, "self_trade")),
        ("cancel_both", (True, 0, "self_trade"), (True, 0, "self_trade")),
        ("decrement", (True, 0, "self_trade"), (False, 0, "")),
        ("none", (True, 3, "filled"), (False, 3, "")),
    ],
)
def test_self_trade_prevention_of_a_fill_or_kill_order(
    mode: str, bid: tuple[bool, int, str], sell: tuple[bool, int, str]
) -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    own = network.ask(0, 99, 4, account=alice)
    network.ask(0, 99, 5)
    taken = network.bid(0, 100, 3, account=alice, tif="fok", self_trade=mode)
    assert ended(taken) == bid
    assert ended(own) == sell
    network.check_money()


# Across nodes


def across(**options: object) -> tuple[CoinNetwork, int]:
    """Three nodes; 3 lots at each, at 100, 101 and 102; node 0 has an account with money."""
    network = CoinNetwork(3, **options)
    alice = network.account(0, usd=10_000)
    for i in range(3):
        network.ask(i, 100 + i, 3)
    network.exchange()
    return network, alice


def test_after_a_refusal_another_attempt_is_made() -> None:
    network, _ = across()
    network.ask(1, 103, 3)
    network.exchange()
    network[2].orders.cancel(network.now, 1)
    bid = network.bid(0, 103, 9, tif="fok")
    network.run(0.5)
    assert ended(bid) == (True, 9, "filled")
    network.settle()
    network.check()


def test_a_late_fill_of_a_given_up_take_is_rejected() -> None:
    network, _ = across()
    network.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = network.bid(0, 102, 9, tif="fok")
    network.run(2.5)
    (take,) = network[0].orders.takes.pending
    number = network[2].markets[KEY].writer.number
    for quantity, reason, valid in ((3, "", False), (3, "reserved", True), (0, "gone", True)):
        answer = TakeResult(take.take, KEY, 1, 102, quantity, 1, number, reason)
        assert network.give(0, answer, origin=network.id(2)) == valid
    assert (ended(bid), network[0].orders.takes.pending) == ((True, 0, "fok"), [])


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_restart_before_the_commit_ends_the_order_without_an_owners_answer(
    *, cancelled: bool
) -> None:
    network, alice = across()
    network.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = network.bid(0, 102, 9, account=alice, tif="fok")
    network.exchange()
    if cancelled:
        network[0].orders.cancel(network.now, bid.number)
    network.drain(0)
    network.restart(0)
    bid = network.order(0, bid.number)
    assert ended(bid) == (True, 0, "cancelled" if cancelled else "fok")
    assert network.money(0, alice)["USD"] == (10_000, 0)
    network.on_mail = lambda mail: [mail]
    network.settle()
    network.check()


def test_a_cancel_of_the_maker_does_not_release_its_reservation() -> None:
    network, _ = across()
    bid = network.bid(0, 102, 9, tif="fok")
    for mail in network.drain(0):
        network.deliver(mail)
    maker = network[1].orders.cancel(network.now, 1)
    assert (maker.cancelled, maker.done, maker.left) == (True, False, 3)
    network.exchange()
    assert ended(bid) == (True, 9, "filled")
    assert ended(maker) == (True, 3, "filled")
    network.settle()
    network.check()


def test_an_own_order_cancelled_while_it_is_reserved_ends_when_a_restart_frees_it() -> None:
    network, _ = across()
    network.bid(0, 102, 9, tif="fok")
    own = network[0].orders.cancel(network.now, 1)
    assert (own.done, own.left) == (False, 3)
    network.drain(0)
    network.restart(0)
    network.run(20.0)
    assert ended(network.order(0, own.number)) == (True, 0, "cancelled")
    assert network[0].order_store.open_orders == []
    network.check()


def test_a_reservation_ends_after_a_minute() -> None:
    network, _ = across()
    bid = network.bid(0, 102, 9, tif="fok")
    for mail in network.drain(0):
        network.deliver(mail)
    maker = network[1].order_store.open_orders[0]
    network.drain(1)
    network.kill(0)
    network.run(55.0)
    assert maker.reserved == 3
    network.restart(1)
    maker = network.order(1, 1)
    assert maker.reserved == 3
    network.run(6.0)
    assert (maker.reserved, maker.shown) == (0, 3)
    network.restart(0)
    network.settle()
    assert ended(network.order(0, bid.number)) == (True, 0, "fok")
    network.check()


def test_a_commit_after_the_end_of_its_reservation_fills_nothing_also_before_the_next_tick() -> (
    None
):
    network = CoinNetwork()
    network.ask(0, 100, 3)
    take = Take(1, KEY, 1, 1, 100, 2, 1, phase="reserve")
    network.give(0, take, origin="x" * 32)
    order = network.order(0, 1)
    assert order.reserved == 2
    network.drain(0)
    network.now += RESERVATION_US / 1e6 + 0.001
    network.give(0, replace(take, phase="commit"), origin="x" * 32)
    assert (order.filled, order.reserved, order.shown) == (0, 0, 3)
    network.give(0, replace(take, phase="commit"), origin="x" * 32)
    assert (order.filled, order.shown) == (0, 3)
    network.same_after_restart(0)


def test_one_taker_cannot_reserve_everything() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 1000)
    for take in range(1, MAX_RESERVATIONS + 3):
        ask = Take(take, KEY, 1, 1, 100, 1, 1, phase="reserve")
        assert network.give(0, ask, origin="x" * 32)
    order = network.order(0, 1)
    assert order.reserved == MAX_RESERVATIONS
    # Nor does it help to claim that all outcomes are known.
    network.give(0, Take(5000, KEY, 1, 1, 100, 1, 5000, void=True), origin="x" * 32)
    network.run(61.0)
    assert (order.reserved, order.shown) == (0, 1000)
    network.same_after_restart(0)


def test_a_commit_without_a_reservation_is_all_or_nothing() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 3)
    network.give(0, Take(1, KEY, 1, 1, 100, 4, 1, phase="commit"), origin="x" * 32)
    assert network.order(0, 1).filled == 0
    network.give(0, Take(2, KEY, 1, 1, 100, 3, 1, phase="commit"), origin="x" * 32)
    assert network.order(0, 1).filled == 3


def test_a_fill_instead_of_a_reservation_is_rejected() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 3)
    network.exchange()
    bid = network.bid(0, 100, 3, tif="fok")
    (take,) = network[0].orders.takes.pending
    for answer in (
        TakeResult(take.take, KEY, 1, 100, 3, 1, 5),
        TakeResult(take.take, KEY, 1, 100, 2, 1, 5, "reserved"),
    ):
        assert not network.give(0, answer, origin=network.id(1))
    assert (bid.filled, bid.pending) == (0, 3)
    plain = network.bid(0, 100, 1, tif="ioc")
    assert plain.pending == 0


def test_a_plain_take_is_not_answered_with_a_reservation() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 3)
    network.exchange()
    bid = network.bid(0, 100, 3)
    (take,) = network[0].orders.takes.pending
    answer = TakeResult(take.take, KEY, 1, 100, 3, 1, 5, "reserved")
    assert not network.give(0, answer, origin=network.id(1))
    assert bid.pending == 3


def test_credit_limits_hold_for_fill_or_kill_orders() -> None:
    network, _ = across()
    network[0].ledger.set_credit("", "COIN", 2 * 10**8)
    assert ended(network.bid(0, 102, 8, tif="fok")) == (True, 0, "credit")
    assert ended(network.bid(0, 102, 10, tif="fok")) == (True, 0, "fok")  # nor is so much there
    bid = network.bid(0, 102, 7, tif="fok")
    network.exchange()
    assert ended(bid) == (True, 7, "filled")
    network.check_money()


def test_an_owners_refusal_for_credit_is_the_reason() -> None:
    network, _ = across()
    network[1].ledger.set_credit("", "USD", 100 * 10**8)
    bid = network.bid(0, 102, 8, tif="fok")
    network.run(3.0)
    assert ended(bid) == (True, 0, "credit")


# Restarts at every step


@pytest.mark.parametrize("node", [0, 1, 2])
@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("answered", [True, False])
def test_a_restart_at_any_step(node: int, step: int, answered: bool) -> None:
    """A node is killed after so many messages, before or after what it then sends leaves."""
    network, alice = across()
    bid = network.bid(0, 102, 8, account=alice, tif="fok")
    count = 0

    def on_mail(mail: Mail) -> list[Mail]:
        nonlocal count
        count += 1
        if count == step + 1:
            killed.append(node)
            return [mail] if answered else []
        return [mail]

    killed: list[int] = []
    network.on_mail = on_mail
    for _ in range(40):
        under_way = [m for i in range(3) for m in network.drain(i)]
        while killed:
            network.restart(killed.pop())
        for mail in under_way:
            network.deliver(mail)
    network.on_mail = lambda mail: [mail]
    network.run(20.0)
    after = network.order(0, bid.number)
    assert after.done
    assert after.filled in (0, 8)
    assert (
        sum(fill.quantity for fill in network.fills(0) if fill.order == bid.number) == after.filled
    )
    assert all(
        order.reserved == 0 for i in range(3) for order in network[i].order_store.open_orders
    )
    network.check()
    network.check_money()


@pytest.mark.parametrize("seed", range(60))
def test_never_in_part_under_loss_doubles_disorder_and_kills(seed: int) -> None:
    """Fill-or-kill orders of two nodes at once, next to plain ones, over a bad network."""
    rng = random.Random(seed)
    network = CoinNetwork(3)
    accounts = [network.account(i, usd=100_000, coin=1000) for i in range(3)]
    late: list[Mail] = []
    foks: list[tuple[int, int, int]] = []  # (node, order, quantity)

    def on_mail(mail: Mail) -> list[Mail]:
        roll = rng.random()
        if roll < 0.2:
            return []
        if roll < 0.35:
            late.append(mail)
            return [mail] if roll < 0.25 else []
        return [mail, mail] if roll < 0.45 else [mail]

    network.on_mail = on_mail
    for _ in range(40):
        i = rng.randrange(3)
        side = rng.choice((BUY, SELL))
        price = 100 + rng.randint(-3, 3)
        account = rng.choice((0, accounts[i]))
        roll = rng.random()
        if roll < 0.35:
            quantity = rng.randint(2, 12)
            order = network.place(i, side, price + 4 * side, quantity, account=account, tif="fok")
            foks.append((i, order.number, quantity))
        elif roll < 0.9:
            network.place(
                i,
                side,
                price - 2 * side,
                rng.randint(1, 6),
                account=account,
                **rng.choice(({}, {"hidden": True}, {"display_quantity": 1})),
            )
        else:
            network.drain(i)
            network.restart(i)
        for _ in range(rng.randint(0, 3)):
            network.now += rng.choice((0.0, 0.05, 0.7))
            for node in network.nodes:
                assert node.engine is not None
                node.engine.tick(network.now)
            under_way = [m for n in range(3) for m in network.drain(n)]
            rng.shuffle(under_way)
            while late and rng.random() < 0.5:
                under_way.append(late.pop(rng.randrange(len(late))))
            for mail in under_way:
                network.deliver(mail)
    network.on_mail = lambda mail: [mail]
    network.run(30.0)
    assert foks
    for i, number, quantity in foks:
        order = network.order(i, number)
        assert order.done
        assert order.filled == (0 if order.reason != "filled" else quantity), order
    assert all(
        order.reserved == 0 for i in range(3) for order in network[i].order_store.open_orders
    )
    network.check()
    network.check_money()


def test_a_slice_that_is_reserved_loses_its_place() -> None:
    network = CoinNetwork(3)
    iceberg = network.ask(0, 100, 10, display_quantity=2)
    network.ask(1, 100, 2)
    network.settle()
    other = network.ask(0, 100, 3)  # behind the slice
    network.settle()
    network.bid(2, 100, 4, tif="fok")
    network.exchange()
    network.settle()
    assert (iceberg.filled, iceberg.reserved, iceberg.shown) == (2, 0, 2)
    network.bid(2, 100, 3)
    network.settle()
    assert (other.filled, iceberg.filled) == (3, 2)
    network.check()
