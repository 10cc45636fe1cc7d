"""Fill-or-kill: all or nothing, on one node and across nodes, whatever is lost, doubled or killed."""

from __future__ import annotations

import random

import pytest
from exchange_kit import Mail
from order_kit import KEY, Desks

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.takes.reservation_quota import MAX_RESERVATIONS


def ended(order: Order) -> tuple[bool, int, str]:
    return order.done, order.filled, order.reason


# One node


def test_it_is_filled_in_full_or_not_at_all() -> None:
    desks = Desks()
    first, second = desks.ask(0, 100, 3), desks.ask(0, 101, 3)
    assert ended(desks.bid(0, 101, 7, tif="fok")) == (True, 0, "fok")
    assert ended(desks.bid(0, 100, 4, tif="fok")) == (True, 0, "fok")
    assert (first.filled, second.filled) == (0, 0)
    assert ended(desks.bid(0, 101, 6, tif="fok")) == (True, 6, "filled")
    assert desks.shown(0) == []


def test_a_market_order_can_be_fill_or_kill() -> None:
    desks = Desks()
    desks.ask(0, 100, 3)
    assert ended(desks.bid(0, None, 4, tif="fok")) == (True, 0, "fok")
    assert ended(desks.bid(0, None, 3, tif="fok")) == (True, 3, "filled")


def test_what_this_node_does_not_show_counts_here() -> None:
    desks = Desks()
    desks.ask(0, 100, 3, hidden=True)
    desks.ask(0, 100, 9, display_quantity=2)
    assert ended(desks.bid(0, 100, 13, tif="fok")) == (True, 0, "fok")
    assert ended(desks.bid(0, 100, 12, tif="fok")) == (True, 12, "filled")


def test_what_another_node_does_not_show_does_not_count() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 9, display_quantity=2)
    desks.ask(0, 100, 9, display_quantity=2)
    desks.exchange()
    assert ended(desks.bid(0, 100, 12, tif="fok")) == (True, 0, "fok")
    bid = desks.bid(0, 100, 11, tif="fok")
    desks.exchange()
    assert ended(bid) == (True, 11, "filled")
    desks.settle()
    desks.check()


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
def test_an_own_order_in_the_way(
    mode: str, bid: tuple[bool, int, str], sell: tuple[bool, int, str]
) -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    own = desks.ask(0, 99, 4, account=alice)
    desks.ask(0, 99, 5)
    taken = desks.bid(0, 100, 3, account=alice, tif="fok", self_trade=mode)
    assert ended(taken) == bid
    assert ended(own) == sell
    desks.check_money()


def test_it_gives_back_what_was_held() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    assert ended(desks.bid(0, 100, 3, account=alice, tif="fok")) == (True, 0, "fok")
    assert desks.money(0, alice)["USD"] == (1000, 0)


# Across nodes


def across(**options: object) -> tuple[Desks, int]:
    """Three nodes; 3 lots at each, at 100, 101 and 102; node 0 has an account with money."""
    desks = Desks(3, **options)
    alice = desks.account(0, usd=10_000)
    for i in range(3):
        desks.ask(i, 100 + i, 3)
    desks.exchange()
    return desks, alice


def test_across_nodes_it_is_filled_in_full() -> None:
    desks, alice = across()
    bid = desks.bid(0, 102, 8, account=alice, tif="fok")
    assert (bid.pending, bid.filled, bid.shown) == (5, 0, 0)
    desks.exchange()
    assert ended(bid) == (True, 8, "filled")
    assert desks.money(0, alice) == {"COIN": (8, 0), "USD": (10_000 - 807, 0)}
    assert desks.shown(2) == [(SELL, 102, 1)]
    desks.settle()
    desks.check()
    desks.check_money()


def test_before_all_is_granted_nothing_is_filled_and_what_is_reserved_is_off_show() -> None:
    desks, _ = across()
    bid = desks.bid(0, 102, 9, tif="fok")
    questions = desks.drain(0)
    desks.deliver(next(m for m in questions if m.to == 1 and m.type == "take"))
    assert desks[1].order_store.open_orders[0].reserved == 3
    assert desks.shown(1)[0] == (SELL, 100, 3)  # node 0's own part is reserved in its next batch
    assert not any(price == 101 for _, price, _ in desks.shown(1))
    for mail in desks.drain(1):
        desks.deliver(mail)
    assert (bid.filled, [f for i in range(3) for f in desks.fills(i)]) == (0, [])
    assert desks[0].order_store.open_orders[0].reserved == 3


def test_when_one_is_refused_nothing_is_filled_and_all_comes_back() -> None:
    desks, alice = across()
    desks[2].orders.cancel(desks.now, 1)  # node 0 has not heard of it
    bid = desks.bid(0, 102, 9, account=alice, tif="fok")
    desks.run(2.5)
    assert ended(bid) == (True, 0, "fok")
    assert all(order.reserved == 0 for i in range(3) for order in desks[i].order_store.open_orders)
    assert desks.shown(0) == [(SELL, 100, 3), (SELL, 101, 3)]
    assert desks.money(0, alice)["USD"] == (10_000, 0)
    desks.settle()
    desks.check()


def test_when_one_is_refused_there_is_another_try_with_what_is_there() -> None:
    desks, _ = across()
    desks.ask(1, 103, 3)
    desks.exchange()
    desks[2].orders.cancel(desks.now, 1)
    bid = desks.bid(0, 103, 9, tif="fok")
    desks.run(0.5)
    assert ended(bid) == (True, 9, "filled")
    desks.settle()
    desks.check()


def test_a_silent_owner_makes_it_end_after_two_seconds() -> None:
    desks, _ = across()
    desks.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = desks.bid(0, 102, 9, tif="fok")
    desks.run(1.5)
    assert (bid.done, desks[1].order_store.open_orders[0].reserved) == (False, 3)
    desks.run(1.0)
    assert desks[1].order_store.open_orders[0].reserved == 0  # given up, and said so
    assert desks[0].order_store.open_orders[0].shown == 3
    desks.on_mail = lambda mail: [mail]
    desks.settle()
    assert ended(bid) == (True, 0, "fok")
    desks.check()


def test_a_silent_owner_keeps_nothing_of_an_order_that_is_given_up() -> None:
    desks, alice = across()
    desks.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = desks.bid(0, 102, 9, account=alice, tif="fok")
    assert desks.money(0, alice)["USD"] == (10_000, 9 * 102)
    desks.run(2.5)
    assert (*ended(bid), bid.pending) == (True, 0, "fok", 0)
    assert desks.money(0, alice)["USD"] == (10_000, 0)
    assert [(take.void, take.phase) for take in desks[0].orders.takes.pending] == [
        (True, "given_up")
    ]
    desks.restart(0)
    assert [(take.void, take.phase) for take in desks[0].orders.takes.pending] == [
        (True, "given_up")
    ]
    assert desks[0].order_store.open_orders[0].number != bid.number
    desks.on_mail = lambda mail: [mail]
    desks.settle()
    assert ended(desks.order(0, bid.number)) == (True, 0, "fok")
    assert desks.shown(0) == [(SELL, 100, 3), (SELL, 101, 3), (SELL, 102, 3)]
    desks.check()
    desks.check_money()


def test_what_was_given_up_is_not_filled_by_an_owner_that_says_so() -> None:
    desks, _ = across()
    desks.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = desks.bid(0, 102, 9, tif="fok")
    desks.run(2.5)
    (take,) = desks[0].orders.takes.pending
    number = desks[2].markets[KEY].writer.number
    for quantity, reason, valid in ((3, "", False), (3, "reserved", True), (0, "gone", True)):
        answer = TakeResult(take.take, KEY, 1, 102, quantity, 1, number, reason)
        assert desks.give(0, answer, origin=desks.id(2)) == valid
    assert (ended(bid), desks[0].orders.takes.pending) == ((True, 0, "fok"), [])


def test_an_owner_that_grants_too_late_gets_its_quantity_back() -> None:
    desks, _ = across()
    late: list[Mail] = []

    def on_mail(mail: Mail) -> list[Mail]:
        if 2 not in (mail.to, mail.sender):
            return [mail]
        if mail.type == "take" and not late:
            late.append(mail)
        return []

    desks.on_mail = on_mail
    bid = desks.bid(0, 102, 9, tif="fok")
    desks.run(2.5)
    desks.deliver(late[0])
    maker = desks[2].order_store.open_orders[0]
    assert (ended(bid), maker.reserved) == ((True, 0, "fok"), 3)
    desks.on_mail = lambda mail: [mail]
    desks.run(6.0)
    assert (maker.reserved, maker.shown) == (0, 3)
    desks.settle()
    desks.check()


def test_it_is_tried_again_elsewhere_while_an_owner_has_not_said_that_it_gave_up() -> None:
    desks, _ = across()
    desks.ask(0, 103, 6)
    desks.exchange()
    desks[2].orders.cancel(desks.now, 1)
    refused: list[Mail] = []

    def on_mail(mail: Mail) -> list[Mail]:
        if refused and {mail.to, mail.sender} == {0, 1}:
            return []  # silent from then on
        if mail.type == "take_result" and mail.sender == 2:
            refused.append(mail)
        return [mail]

    desks.on_mail = on_mail
    bid = desks.bid(0, 103, 9, tif="fok")
    desks.exchange()
    assert ended(bid) == (True, 9, "filled")
    assert len(desks[0].orders.takes.pending) == 1
    desks.on_mail = lambda mail: [mail]
    desks.settle()
    desks.check()


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_restart_before_the_commit_ends_it_though_an_owner_is_silent(*, cancelled: bool) -> None:
    desks, alice = across()
    desks.on_mail = lambda mail: [] if 2 in (mail.to, mail.sender) else [mail]
    bid = desks.bid(0, 102, 9, account=alice, tif="fok")
    desks.exchange()
    if cancelled:
        desks[0].orders.cancel(desks.now, bid.number)
    desks.drain(0)
    desks.restart(0)
    bid = desks.order(0, bid.number)
    assert ended(bid) == (True, 0, "cancelled" if cancelled else "fok")
    assert desks.money(0, alice)["USD"] == (10_000, 0)
    desks.on_mail = lambda mail: [mail]
    desks.settle()
    desks.check()


def test_the_client_can_cancel_it_while_it_reserves() -> None:
    desks, _ = across()
    bid = desks.bid(0, 102, 9, tif="fok")
    questions = desks.drain(0)
    desks[0].orders.cancel(desks.now, bid.number)
    assert ended(bid) == (True, 0, "cancelled")
    for mail in questions:
        desks.deliver(mail)
    desks.settle()
    assert ended(bid) == (True, 0, "cancelled")
    assert desks.shown(0) == [(SELL, 100, 3), (SELL, 101, 3), (SELL, 102, 3)]
    desks.check()


def test_a_makers_own_cancel_does_not_take_back_what_it_has_reserved() -> None:
    desks, _ = across()
    bid = desks.bid(0, 102, 9, tif="fok")
    for mail in desks.drain(0):
        desks.deliver(mail)
    maker = desks[1].orders.cancel(desks.now, 1)
    assert (maker.cancelled, maker.done, maker.left) == (True, False, 3)
    desks.exchange()
    assert ended(bid) == (True, 9, "filled")
    assert ended(maker) == (True, 3, "filled")
    desks.settle()
    desks.check()


def test_an_own_order_cancelled_while_it_is_reserved_ends_when_a_restart_frees_it() -> None:
    desks, _ = across()
    desks.bid(0, 102, 9, tif="fok")
    own = desks[0].orders.cancel(desks.now, 1)
    assert (own.done, own.left) == (False, 3)
    desks.drain(0)
    desks.restart(0)
    desks.run(20.0)
    assert ended(desks.order(0, own.number)) == (True, 0, "cancelled")
    assert desks[0].order_store.open_orders == []
    desks.check()


def test_what_is_reserved_is_nobody_elses() -> None:
    desks, _ = across()
    desks.bid(0, 102, 9, tif="fok")
    for mail in desks.drain(0):
        desks.deliver(mail)
    other = desks.bid(1, 102, 3, tif="ioc")
    assert (other.filled, other.pending) == (0, 3)  # only node 2's, of which it has not heard
    desks.exchange()
    assert ended(other)[1] == 0
    desks.settle()
    desks.check()


def test_a_reservation_ends_after_a_minute() -> None:
    desks, _ = across()
    bid = desks.bid(0, 102, 9, tif="fok")
    for mail in desks.drain(0):
        desks.deliver(mail)
    maker = desks[1].order_store.open_orders[0]
    desks.drain(1)
    desks.kill(0)
    desks.run(55.0)
    assert maker.reserved == 3
    desks.restart(1)
    maker = desks.order(1, 1)
    assert maker.reserved == 3
    desks.run(6.0)
    assert (maker.reserved, maker.shown) == (0, 3)
    desks.restart(0)
    desks.settle()
    assert ended(desks.order(0, bid.number)) == (True, 0, "fok")
    desks.check()


def test_one_taker_cannot_reserve_everything() -> None:
    desks = Desks()
    desks.ask(0, 100, 1000)
    for take in range(1, MAX_RESERVATIONS + 3):
        ask = Take(take, KEY, 1, 1, 100, 1, 1, phase="reserve")
        assert desks.give(0, ask, origin="x" * 32)
    order = desks.order(0, 1)
    assert order.reserved == MAX_RESERVATIONS
    # Nor does it help to claim that all outcomes are known.
    desks.give(0, Take(5000, KEY, 1, 1, 100, 1, 5000, void=True), origin="x" * 32)
    desks.run(61.0)
    assert (order.reserved, order.shown) == (0, 1000)
    desks.same_after_restart(0)


def test_a_commit_of_what_was_not_reserved_is_all_or_nothing() -> None:
    desks = Desks()
    desks.ask(0, 100, 3)
    desks.give(0, Take(1, KEY, 1, 1, 100, 4, 1, phase="commit"), origin="x" * 32)
    assert desks.order(0, 1).filled == 0
    desks.give(0, Take(2, KEY, 1, 1, 100, 3, 1, phase="commit"), origin="x" * 32)
    assert desks.order(0, 1).filled == 3


def test_a_maker_that_fills_what_was_only_to_be_reserved_is_not_believed() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 3, tif="fok")
    (take,) = desks[0].orders.takes.pending
    for answer in (
        TakeResult(take.take, KEY, 1, 100, 3, 1, 5),
        TakeResult(take.take, KEY, 1, 100, 2, 1, 5, "reserved"),
    ):
        assert not desks.give(0, answer, origin=desks.id(1))
    assert (bid.filled, bid.pending) == (0, 3)
    plain = desks.bid(0, 100, 1, tif="ioc")
    assert plain.pending == 0


def test_a_plain_take_is_not_answered_with_a_reservation() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 3)
    (take,) = desks[0].orders.takes.pending
    answer = TakeResult(take.take, KEY, 1, 100, 3, 1, 5, "reserved")
    assert not desks.give(0, answer, origin=desks.id(1))
    assert bid.pending == 3


def test_credit_limits_hold_for_it() -> None:
    desks, _ = across()
    desks[0].ledger.set_credit("", "COIN", 2 * 10**8)
    assert ended(desks.bid(0, 102, 8, tif="fok")) == (True, 0, "credit")
    assert ended(desks.bid(0, 102, 10, tif="fok")) == (True, 0, "fok")  # nor is so much there
    bid = desks.bid(0, 102, 7, tif="fok")
    desks.exchange()
    assert ended(bid) == (True, 7, "filled")
    desks.check_money()


def test_it_says_so_when_the_owner_finds_that_credit_does_not_suffice() -> None:
    desks, _ = across()
    desks[1].ledger.set_credit("", "USD", 100 * 10**8)
    bid = desks.bid(0, 102, 8, tif="fok")
    desks.run(3.0)
    assert ended(bid) == (True, 0, "credit")


# Restarts at every step


@pytest.mark.parametrize("node", [0, 1, 2])
@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("answered", [True, False])
def test_a_restart_at_any_step(node: int, step: int, answered: bool) -> None:
    """A node is killed after so many messages, before or after what it then sends leaves."""
    desks, alice = across()
    bid = desks.bid(0, 102, 8, account=alice, tif="fok")
    count = 0

    def on_mail(mail: Mail) -> list[Mail]:
        nonlocal count
        count += 1
        if count == step + 1:
            killed.append(node)
            return [mail] if answered else []
        return [mail]

    killed: list[int] = []
    desks.on_mail = on_mail
    for _ in range(40):
        under_way = [m for i in range(3) for m in desks.drain(i)]
        while killed:
            desks.restart(killed.pop())
        for mail in under_way:
            desks.deliver(mail)
    desks.on_mail = lambda mail: [mail]
    desks.run(20.0)
    after = desks.order(0, bid.number)
    assert after.done
    assert after.filled in (0, 8)
    assert sum(fill.quantity for fill in desks.fills(0) if fill.order == bid.number) == after.filled
    assert all(order.reserved == 0 for i in range(3) for order in desks[i].order_store.open_orders)
    desks.check()
    desks.check_money()


@pytest.mark.parametrize("seed", range(60))
def test_never_in_part_under_loss_doubles_disorder_and_kills(seed: int) -> None:
    """Fill-or-kill orders of two nodes at once, next to plain ones, over a bad network."""
    rng = random.Random(seed)
    desks = Desks(3)
    accounts = [desks.account(i, usd=100_000, coin=1000) for i in range(3)]
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

    desks.on_mail = on_mail
    for _ in range(40):
        i = rng.randrange(3)
        side = rng.choice((BUY, SELL))
        price = 100 + rng.randint(-3, 3)
        account = rng.choice((0, accounts[i]))
        roll = rng.random()
        if roll < 0.35:
            quantity = rng.randint(2, 12)
            order = desks.place(i, side, price + 4 * side, quantity, account=account, tif="fok")
            foks.append((i, order.number, quantity))
        elif roll < 0.9:
            desks.place(
                i,
                side,
                price - 2 * side,
                rng.randint(1, 6),
                account=account,
                **rng.choice(({}, {"hidden": True}, {"display_quantity": 1})),
            )
        else:
            desks.drain(i)
            desks.restart(i)
        for _ in range(rng.randint(0, 3)):
            desks.now += rng.choice((0.0, 0.05, 0.7))
            for node in desks.nodes:
                assert node.engine is not None
                node.engine.tick(desks.now)
            under_way = [m for n in range(3) for m in desks.drain(n)]
            rng.shuffle(under_way)
            while late and rng.random() < 0.5:
                under_way.append(late.pop(rng.randrange(len(late))))
            for mail in under_way:
                desks.deliver(mail)
    desks.on_mail = lambda mail: [mail]
    desks.run(30.0)
    assert foks
    for i, number, quantity in foks:
        order = desks.order(i, number)
        assert order.done
        assert order.filled == (0 if order.reason != "filled" else quantity), order
    assert all(order.reserved == 0 for i in range(3) for order in desks[i].order_store.open_orders)
    desks.check()
    desks.check_money()


def test_a_slice_that_is_reserved_loses_its_place() -> None:
    desks = Desks(3)
    iceberg = desks.ask(0, 100, 10, display_quantity=2)
    desks.ask(1, 100, 2)
    desks.settle()
    other = desks.ask(0, 100, 3)  # behind the slice
    desks.settle()
    desks.bid(2, 100, 4, tif="fok")
    desks.exchange()
    desks.settle()
    assert (iceberg.filled, iceberg.reserved, iceberg.shown) == (2, 0, 2)
    desks.bid(2, 100, 3)
    desks.settle()
    assert (other.filled, iceberg.filled) == (3, 2)
    desks.check()
