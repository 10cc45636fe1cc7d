"""The book as one node sees it: the feeds, less the absent, less what is asked for or known gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchange_kit import Keys, M, Owner

from exchange.ledger.market_units import MarketUnits
from exchange.market.market import Hold, Market, OwnerIndex
from exchange.model.events import BUY, SELL, Amended, Closed, Event, Filled, Moved, Opened

UNITS = MarketUnits("BTC", "USD", 1, 1, 0, 0)
ME, A, B = (Keys(i).node_id for i in (5, 1, 9))  # A sorts before us, B after


class Here:
    """A market on the node ME, with replicas of A's and B's feeds."""

    def __init__(self) -> None:
        self.present = {A, B}
        self.own = Owner(5)
        self.owners = {A: Owner(1), B: Owner(9)}
        self.market = Market(M, OwnerIndex(ME), self.own.writer, self.present.__contains__, UNITS)
        for owner_id, owner in self.owners.items():
            self.market.replicas[owner_id] = owner.replica(5)

    def show(self, owner: str, number: int, quantity: int = 10, **more: int) -> None:
        """The owner's feed shows a new sell order here."""
        event = Opened(number, more.get("side", SELL), more.get("price", 100), quantity, 1000)
        if owner == ME:
            self.own.writer.append(event)
        else:
            self.market.replicas[owner].offer(self.owners[owner].batch(event))
        self.market.refresh(owner, number)

    def tell(self, owner: str, event: Amended | Closed) -> None:
        self.market.replicas[owner].offer(self.owners[owner].batch(event))
        self.market.refresh(owner, event.order)

    @property
    def quantities(self) -> dict[tuple[str, int], int]:
        return {(row[3], row[4]): row[5] for row in self.market.contents()}


def test_the_priority_of_an_unknown_order_is_an_error() -> None:
    here = Here()
    with pytest.raises(KeyError):
        here.market.priority(Keys(77).node_id, 1)


def test_an_order_without_an_owner_is_not_shown() -> None:
    here = Here()
    here.market.refresh(Keys(77).node_id, 1)
    here.market.refresh(A, 99)
    here.market.refresh_owner(Keys(77).node_id)
    assert here.quantities == {}
    assert here.market.feed(Keys(77).node_id) is None


def test_a_requested_quantity_is_deducted_until_the_answer_and_then_what_is_held() -> None:
    here = Here()
    here.show(A, 1)
    here.show(A, 2)
    seen = []
    for quantity in (3, 4, 3):
        here.market.reserve(A, 1, quantity)
        seen.append(here.quantities.get((A, 1), 0))
    for quantity, hold in ((3, None), (4, Hold(2, 4, None)), (3, Hold(1, None, 20.0))):
        here.market.release(A, 1, quantity, hold)
        seen.append(here.quantities.get((A, 1), 0))
    here.tell(A, Amended(1, 9))  # number 3
    for now, owner in ((0.0, A), (20.0, B), (19.9, A), (20.0, A)):
        here.market.drop_holds(now, owner)
        seen.append(here.quantities[A, 1])
    assert here.market.held_owners == [A]
    here.tell(A, Amended(1, 8))  # number 4
    here.market.drop_holds(20.0, A)
    seen.append(here.quantities[A, 1])
    assert seen == [7, 3, 0, 3, 5, 7, 6, 6, 6, 7, 8]
    assert (here.market.held_owners, here.quantities[A, 2]) == ([], 10)


def test_every_change_of_a_level_is_reported_with_a_new_version_and_nothing_else() -> None:
    here = Here()
    market = here.market
    event = Filled(5, SELL, 4, 99, 6, 6, "t", 1, 1)
    steps: list[tuple[Callable[[], object], list[int]]] = [
        (lambda: here.show(A, 1), [-100]),
        (lambda: here.show(A, 2, side=BUY, price=90), [90]),
        (lambda: market.refresh_owner(A), []),
        (lambda: here.tell(A, Amended(1, 4)), [-100]),
        (lambda: here.tell(A, Closed(2, "cancelled")), [90]),
        (lambda: market.open(5, SELL, 99, 10, 1000), [-99]),
        (lambda: market.trade(event), [-99]),
        (lambda: market.change(Amended(5, 7)), [-99]),
        (lambda: market.close(5, "cancelled"), [-99]),
        (lambda: market.close(5, "cancelled"), []),
        (lambda: market.forget(A, 1), [-100]),
        (lambda: market.forget(A, 2), []),
    ]
    for step, levels in steps:
        version = market.version
        market.touched.clear()
        step()
        assert (list(market.touched), market.version > version) == (levels, bool(levels))


def test_the_best_counterprice_is_that_of_the_shown_and_the_hidden_orders() -> None:
    here = Here()
    seen = [(here.market.best_counterprice(BUY), here.market.best_counterprice(SELL))]
    for number, (side, price) in enumerate([(SELL, 100), (SELL, 99), (BUY, 90), (BUY, 91)], 1):
        here.market.hide_order(number, side, price, 5, 1000)
        seen.append((here.market.best_counterprice(BUY), here.market.best_counterprice(SELL)))
    here.show(A, 7, side=SELL, price=98)
    here.show(A, 8, side=BUY, price=89)
    seen.append((here.market.best_counterprice(BUY), here.market.best_counterprice(SELL)))
    assert seen == [(None, None), (100, None), (99, None), (99, 90), (99, 91), (98, 91)]


def test_a_hold_that_the_feed_has_overtaken_is_not_begun() -> None:
    here = Here()
    here.show(A, 1)
    here.market.reserve(A, 1, 4)
    here.market.release(A, 1, 4, Hold(None, 1, None))
    assert here.quantities == {(A, 1): 10}
    assert here.market.held_owners == []


@pytest.mark.parametrize("holds", [[(3, 2), (2, 3)], [(2, 3), (3, 2)]])
def test_holds_on_one_order_add_up_and_end_one_by_one(holds: list[tuple[int, int]]) -> None:
    here = Here()
    here.show(A, 1)
    for quantity, number in holds:
        here.market.reserve(A, 1, quantity)
        here.market.release(A, 1, quantity, Hold(quantity, number, None))
    assert here.quantities == {(A, 1): 5}
    here.tell(A, Amended(1, 7))
    here.market.drop_holds(0.0, A)
    assert here.quantities == {(A, 1): 5}
    here.tell(A, Amended(1, 5))
    here.market.drop_holds(0.0, A)
    assert here.quantities == {(A, 1): 5}
    assert here.market.held_owners == []


def test_a_jump_to_a_snapshot_replaces_everything_of_that_owner() -> None:
    here = Here()
    here.show(A, 1)
    here.show(A, 2)
    here.show(B, 1)
    before = list(here.market.replicas[A].feed.state.orders)
    other = Owner(1)
    fresh = other.replica(5)
    fresh.offer(other.batch(Opened(2, SELL, 105, 3, 1000), Opened(3, SELL, 106, 4, 1000)))
    here.market.replicas[A] = fresh
    here.market.replaced(A, before)
    assert here.quantities == {(B, 1): 10, (A, 2): 3, (A, 3): 4}
    assert [row[1] for row in here.market.contents()] == [100, 105, 106]


def test_contents_list_bids_first_and_best_first_and_the_digest_is_theirs() -> None:
    one, other = Here(), Here()
    rows = [(A, 1, BUY, 90), (B, 1, BUY, 95), (A, 2, SELL, 110), (B, 2, SELL, 105)]
    for owner, number, side, price in rows:
        one.show(owner, number, side=side, price=price)
    for owner in (B, A):
        for row_owner, number, side, price in rows:
            if row_owner == owner:
                other.show(owner, number, side=side, price=price)
    assert [(row[0], row[1]) for row in one.market.contents()] == [
        (BUY, 95),
        (BUY, 90),
        (SELL, 105),
        (SELL, 110),
    ]
    assert one.market.digest() == other.market.digest()
    other.tell(A, Amended(1, 9))
    assert one.market.digest() != other.market.digest()


# Own events, and own orders that no feed shows


def test_write_and_refresh_make_the_same_book() -> None:
    """Own orders take a shorter way than `refresh`, to the same end."""
    short, long = Here(), Here()
    events: list[Event] = [
        Opened(1, SELL, 100, 10, 1000),
        Opened(2, SELL, 100, 10, 1001),
        Opened(3, BUY, 90, 10, 1002),
        Amended(1, 4),
        Filled(1, SELL, 2, 100, 2, 2, "t", 1, 1),
        Moved(1, 100, 2, 1003),
        Moved(2, 95, 1, 1004),
        Amended(2, 0),
        Moved(2, 96, 0, 1005),
        Moved(2, 97, 3, 1006),
        Amended(2, 0),
        Amended(2, 5),
        Filled(3, BUY, 10, 90, 0, 5, "t", 2, 1),
        Moved(3, 90, 5, 1007),
        Closed(1, "cancelled"),
        Filled(3, BUY, 5, 90, 0, 0, "t", 3, 1),
    ]
    for event in events:
        for here in (short, long):
            here.market.touched.clear()
        match event:
            case Opened(number, side, price, shown, time):
                short.market.open(number, side, price, shown, time)
            case Filled():
                short.market.trade(event)
            case Closed(number, reason):
                short.market.close(number, reason)
            case Amended() | Moved():
                short.market.change(event)
        long.own.writer.append(event)
        if isinstance(event, Moved):
            long.market.forget(ME, event.order)
        long.market.refresh(ME, event.order)  # type: ignore[union-attr]
        assert short.market.contents() == long.market.contents(), event
        assert short.market.touched.keys() == long.market.touched.keys(), event
    assert short.quantities == {(ME, 2): 5}


def test_hidden_orders_are_in_no_view_and_can_cross_the_book() -> None:
    here = Here()
    here.show(A, 1, side=SELL, price=100)
    market = here.market
    market.hide_order(7, BUY, 99, 5, 2000)
    assert not market.crossed
    assert list(here.quantities) == [(A, 1)]
    market.hide_order(7, BUY, 100, 5, 2000)
    assert market.crossed
    market.hide_order(7, BUY, 100, 3, 2000)
    assert market.hidden.quantity(7) == 3
    market.hide_order(7, BUY, 100, 0, 2000)
    assert not market.crossed
    market.hide_order(7, BUY, 100, 0, 2000)
    assert len(market.hidden) == 0
