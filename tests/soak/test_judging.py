"""The judgement of a soak notices each kind of lie in journals, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from exchange.model.records import Account, Fill, Order, Posting, Recovered
from tests.soak.disk import Disk, between
from tests.soak.told import Record, State, ToldFill, Wish
from tests.unit.kits.instruments_kit import COARSE

INSTRUMENTS = {instrument.key: instrument for instrument in COARSE}
KEY = next(key for key in INSTRUMENTS if key.startswith("TEST-USD"))
NODE, OTHER = "n", "m"


def order(**changes: Any) -> Order:
    """A buy of 5 at 0.10, filled 2, of account 1."""
    found = Order(1, KEY, 1, 10, 5, 1000, "7", filled=2, value=20, account=1)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def fill(**changes: Any) -> Fill:
    fields: dict[str, Any] = {
        "quantity": 2,
        "account": 1,
        "role": "taker",
        "side": 1,
        "price": 10,
    } | changes
    return Fill(
        *(NODE, 1, fields["role"], KEY, 1, fields["side"], fields["price"], fields["quantity"]),
        *(1000, OTHER, 9, fields["account"]),
    )


def disk(found: Order | None = None, *fills: Fill, postings: tuple[Posting, ...] = ()) -> Disk:
    found = order() if found is None else found
    fills = fills or (fill(),)
    keyed = {(each.taker, each.take, each.role): each for each in fills}
    recovered = Recovered(accounts=[Account(1, "bot", 0)])
    recovered.balances = {(p.holder, p.asset): p.balance for p in postings}
    return Disk(recovered, {found.number: found}, keyed, [], list(postings), INSTRUMENTS)


def record(wish: dict[str, Any] | None = None, **changes: Any) -> Record:
    """Of a client that was told of the order, and of its fill."""
    told = Record("bot")
    about: dict[str, Any] = {"market": "TEST-USD", "side": "buy", "quantity": Decimal(5)}
    asked = Wish(client=7, **about | {"price": Decimal("0.10")} | (wish or {}))
    fields = about | {"filled": Decimal(2), "ended": False} | changes
    told.acknowledged(asked, State(number=1, client=7, how="", **fields))
    told.told_fill(ToldFill(f"{NODE}:1", 1, Decimal(2), Decimal("0.10")))
    return told


def posting(holder: str, amount: int, balance: int) -> Posting:
    return Posting(1, holder, "USD", amount, balance, 1000, "deposit", "")


GOOD = (posting("account:1", 5, 5), posting("outside", -5, -5))


def test_a_true_record_is_not_doubted() -> None:
    assert list(disk(postings=GOOD).contradictions()) == []
    assert list(disk().against(record())) == []


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda: disk(order(filled=3)), "has fills of 2"),
        (lambda: disk(order(quantity=1)), "overfilled"),
        (lambda: disk(order(pending=1)), "under way"),
        (lambda: disk(order(tif="fok", done=True)), "filled in part"),
        (lambda: disk(order(tif="ioc")), "is open"),
        (lambda: disk(order(post_only=True)), "a post-only order took"),
        (lambda: disk(order(), fill(side=-1)), "not its order's"),
        (lambda: disk(order(account=2)), "not its order's"),
        (lambda: disk(order(number=2)), "unknown order"),
        (lambda: disk(postings=GOOD[:1]), "sums to 5"),
        (lambda: disk(postings=(posting("account:1", 5, 6),)), "does not follow"),
        (
            lambda: disk(postings=(posting("account:1", -5, -5), posting("outside", 5, 5))),
            "has -5 USD",
        ),
    ],
)
def test_a_journal_that_contradicts_itself_is_noticed(lie: Callable[[], Disk], words: str) -> None:
    assert any(words in text for text in lie().contradictions()), words


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda: (disk(order(number=2)), record()), "vanished"),
        (lambda: (disk(order(filled=1)), record()), "are lost"),
        (lambda: (disk(order(side=-1)), record()), "another side"),
        (lambda: (disk(order(quantity=6)), record()), "nobody asked for"),
        (lambda: (disk(), record(ended=True)), "ended otherwise"),
        (lambda: (disk(order(), fill(price=11)), record()), "was told"),
        (lambda: (disk(order(filled=2), fill(price=11)), record()), "it paid 0.11"),
        (lambda: (disk(), Record("bot")), "nobody asked for"),
        (lambda: (disk(), record(wish={"post_only": True})), "post-only order took"),
        (lambda: (disk(), record(wish={"tif": "fok"})), "filled in part"),
    ],
)
def test_a_journal_that_contradicts_the_answers_is_found(
    lie: Callable[[], tuple[Disk, Record]], words: str
) -> None:
    found, told = lie()
    assert any(words in text for text in found.against(told)), words


def test_a_trade_that_only_one_side_has_is_noticed() -> None:
    nothing = disk()
    nothing.fills.clear()
    assert list(between({NODE: disk(), OTHER: nothing}))
    theirs = Fill(NODE, 1, "maker", KEY, 9, -1, 10, 2, 1000, NODE, 1, 1)
    assert list(between({NODE: disk(), OTHER: disk(order(number=9), theirs)})) == []
