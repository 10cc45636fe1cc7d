"""Fees are in the journal as they were charged: another schedule changes later trades only."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

from exchange_kit import Keys
from order_kit import KEY, UNIT, with_fees

from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.model.commands import NewOrder
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.model.records import Fill

EPOCH = 1_700_000_000_000_000  # us
CHEAP, DEAR = with_fees("0.001", "0.002"), with_fees("0.05", "0.1")

Balances = dict[tuple[str, str], int]


def engine_of(journal: Journal, instrument: Instrument) -> Engine:
    engine = Engine(
        Keys(1),
        [KEY],
        network="test",
        epoch_us=EPOCH,
        rng=random.Random(1),
        instruments=[instrument],
        recovered=journal.recover(),
        fence_max=0.0,  # a restarted node writes at once
    )
    engine.resume(0.0)
    return engine


def trade(engine: Engine, now: float, seller: int, buyer: int, quantity: int) -> None:
    for account, side in ((seller, SELL), (buyer, BUY)):
        engine.orders.place(
            now, NewOrder(market=KEY, side=side, price=100, quantity=quantity, account=account)
        )


def money(engine: Engine, accounts: tuple[int, ...]) -> Balances:
    holders = [*(f"account:{number}" for number in accounts), "fees", "outside"]
    return {
        (holder, asset): engine.ledger.balance(holder, asset)
        for holder in holders
        for asset in ("COIN", "USD")
    }


def fees(journal: Journal) -> list[tuple[int, str, int, str]]:
    fills: list[Fill] = journal.history().fills(limit=100)
    return sorted((fill.take, fill.role, fill.fee, fill.fee_asset) for fill in fills)


def test_a_changed_schedule_leaves_recorded_fees_and_balances_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(Journal(path, sync="normal", background=False)) as journal:
        engine = engine_of(journal, CHEAP)
        alice = engine.accounts.create(EPOCH, "alice").number
        bob = engine.accounts.create(EPOCH, "bob").number
        engine.ledger.deposit(EPOCH, alice, "COIN", 100 * UNIT, "")
        engine.ledger.deposit(EPOCH, bob, "USD", 10_000 * UNIT, "")
        trade(engine, 1.0, alice, bob, 10)
        journal.commit(engine.drain(1.0).records)
        charged, recorded = money(engine, (alice, bob)), fees(journal)
    assert charged["fees", "USD"] == UNIT  # 0.1 % of 1,000 USD, from the maker
    assert charged["fees", "COIN"] == 2 * UNIT // 100  # 0.2 % of 10 COIN, from the taker
    assert [fee for _, _, fee, _ in recorded] == [UNIT, 2 * UNIT // 100]

    with closing(Journal(path, sync="normal", background=False)) as journal:
        engine = engine_of(journal, DEAR)
        assert money(engine, (alice, bob)) == charged
        assert fees(journal) == recorded
        trade(engine, 2.0, alice, bob, 10)
        journal.commit(engine.drain(2.0).records)
        after = money(engine, (alice, bob))
    assert after["fees", "USD"] - charged["fees", "USD"] == 50 * UNIT
    assert after["fees", "COIN"] - charged["fees", "COIN"] == UNIT

    # Without fees now: the balances are those of both schedules.
    with closing(Journal(path, sync="normal", background=False)) as journal:
        engine = engine_of(journal, with_fees("0", "0"))
        assert money(engine, (alice, bob)) == after
        assert len(fees(journal)) == 4
        assert fees(journal)[:2] == recorded
        engine.ledger.check()
