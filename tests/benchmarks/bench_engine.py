"""One node's exchange in process: orders through engine and journal, next to the bare order book.

The operations are those of the book benchmark: 60 % limit orders, 30 % cancels, 10 % market orders.
A drain follows every 256 operations, which is less than a millisecond's worth of what it can do: events
are signed, records committed.
Rates are of processor time of the process, which other work on the machine moves less than the clock,
but where a disk is waited for.
"""

from __future__ import annotations

import contextlib
import gc
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal

from exchange.engine.engine import CommandRejected, Engine
from exchange.journal.journal import Journal
from exchange.market.order_book import OrderBook
from exchange.model.commands import HOUSE, NewOrder
from exchange.model.instruments import Instrument
from exchange.model.records import Order, Recovered
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from tests.benchmarks.report import Row

MARKET = "BTC-USD@0.1/0.00001"
# A node takes 300,000 open orders in a market.
MARKETS = [MARKET, *(f"{base}-USD@0.1/0.00001" for base in ("ETH", "SOL", "XRP", "ADA"))]
GROUP = 256  # operations to a drain
ROUNDS = 3
CLIENTS = 20
FORTUNE = 10**17  # units of each asset that a client has: more than its orders can hold

Operation = tuple[str, int, int, int]  # what, side, price, quantity
Sync = Literal["full", "normal"]


def operations(count: int) -> list[Operation]:
    rng = random.Random(1)
    chosen: list[Operation] = []
    for _ in range(count):
        what = rng.choices(("limit", "cancel", "market"), (60, 30, 10))[0]
        side = rng.choice((1, -1))
        chosen.append((what, side, 10_000 + round(rng.gauss(-15 * side, 15)), rng.randint(1, 100)))
    return chosen


def through_book(chosen: list[Operation]) -> float:
    book = OrderBook()
    live: list[int] = []
    pick = random.Random(2).random
    began = time.process_time()
    for number, (what, side, price, quantity) in enumerate(chosen):
        if what == "limit":
            book.submit(number, side, price, quantity, number, number)
            live.append(number)
        elif what == "market":
            book.match(side, None, quantity)
        elif live:
            key = live.pop(int(pick() * len(live)))
            if key in book:
                book.remove(key)
    return len(chosen) / (time.process_time() - began)


def new_engine(
    recovered: Recovered | None = None, *, fees: bool = False, markets: Sequence[str] = (MARKET,)
) -> Engine:
    fee = Decimal("0.001") if fees else Decimal(0)
    listed = Instrument(
        "BTC-USD", Decimal("0.1"), Decimal("0.00001"), maker_fee=fee, taker_fee=fee, price_band=None
    )
    return Engine(
        NodeKeys(Identity.from_seed(b"b" * 32)),
        markets,
        network="bench",
        epoch_us=1_700_000_000_000_000,
        rng=random.Random(3),
        instruments=[listed] if fees else [],
        recovered=recovered,
    )


def with_clients(engine: Engine) -> None:
    for name in range(CLIENTS):
        account = engine.accounts.create(
            1, f"client-{name}", max_open_orders=10**6, orders_per_minute=10**6
        )
        for asset in ("BTC", "USD"):
            engine.ledger.deposit(1, account.number, asset, FORTUNE, "for the benchmark")


def play(engine: Engine, chosen: list[Operation], commit: Callable[[Engine, float], None]) -> None:
    """All the operations, by accounts in turn if there are any. `commit` drains."""
    accounts = [account.number for account in engine.accounts.all()][1:] or [HOUSE]
    live: list[int] = []
    pick = random.Random(2).random
    for number, (what, side, price, quantity) in enumerate(chosen):
        now = number * 1e-5
        try:
            if what == "cancel":
                if live:
                    engine.orders.cancel(now, live.pop(int(pick() * len(live))))
            else:
                new = NewOrder(
                    market=MARKET,
                    side=side,
                    price=price if what == "limit" else None,
                    quantity=quantity,
                    account=accounts[number % len(accounts)],
                )
                placed = engine.orders.place(now, new)
                if what == "limit":
                    live.append(placed[0].number)
        except CommandRejected:  # it was filled meanwhile, or there is nothing to trade with
            pass
        if number % GROUP == GROUP - 1:
            commit(engine, now)


def through_engine(
    chosen: list[Operation], sync: Sync | None = None, *, clients: bool = False
) -> float:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        journal = None
        if sync is not None:
            journal = stack.enter_context(
                contextlib.closing(Journal(Path(scratch) / "journal", sync=sync, background=False))
            )

        def commit(engine: Engine, now: float) -> None:
            records = engine.drain(now).records
            if journal is not None:
                journal.commit(records)

        engine = new_engine(fees=clients)
        if clients:
            with_clients(engine)
        clock = time.perf_counter if sync == "full" else time.process_time
        began = clock()
        play(engine, chosen, commit)
        return len(chosen) / (clock() - began)


def replay(chosen: list[Operation]) -> tuple[float, float]:
    """Records and operations a second when the journal is read and an engine begins with it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "journal"
        count = 0
        with contextlib.closing(Journal(path, sync="normal", background=False)) as journal:

            def commit(engine: Engine, now: float) -> None:
                nonlocal count
                records = engine.drain(now).records
                count += len(records)
                journal.commit(records)

            play(new_engine(), chosen, commit)
            journal.history()  # the archive is not what is measured
        began = time.process_time()
        with contextlib.closing(Journal(path, sync="normal", background=False)) as journal:
            new_engine(journal.recover())
            took = time.process_time() - began
    return count / took, len(chosen) / took


def submit(
    engine: Engine, now: float, side: int, price: int | None, quantity: int, market: str = MARKET
) -> Order:
    """Place a limit or market order of the house."""
    new = NewOrder(market=market, side=side, price=price, quantity=quantity)
    return engine.orders.place(now, new)[0]


def rest(engine: Engine, count: int, markets: Sequence[str] = (MARKET,)) -> None:
    """Bids, in the markets in turn."""
    rng = random.Random(4)
    for number in range(count):
        price, quantity = 9_999 - int(rng.expovariate(0.01)), rng.randint(1, 100)
        submit(engine, number * 1e-5, 1, price, quantity, markets[number % len(markets)])
        if number % GROUP == GROUP - 1:
            engine.drain(number * 1e-5)


def memory(count: int) -> Row:
    gc.collect()
    tracemalloc.start()
    engine = new_engine()
    rest(engine, count)
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    note = f"{count:,} orders at about 500 prices: book, feed, order, indexes"
    return Row("memory of a resting order", traced / count, "bytes", note=note)


def pauses(count: int) -> list[Row]:
    """Pauses of the cyclic collector while a node with many orders, all placed after its start,
    goes on trading; and what its greatest pass would take."""
    took: list[float] = []
    began = 0.0

    def watch(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            took.append(time.thread_time() - began)

    engine = new_engine(markets=MARKETS)
    gc.collect()
    gc.freeze()  # as a node does
    before = resident()
    gc.callbacks.append(watch)
    try:
        rest(engine, count, MARKETS)
        grown = resident() - before
        for number in range(count, count + 20_000):
            submit(engine, number * 1e-5, -1, None, 20)
            submit(engine, number * 1e-5, 1, 9_999, 20)
            if number % GROUP == 0:
                engine.drain(number * 1e-5)
        passes, greatest = len(took), max(took, default=0.0)
        gc.collect()
    finally:
        gc.callbacks.remove(watch)
        gc.unfreeze()
    return [
        Row("resident memory of it", grown / count, "bytes", note=f"with {count:,} orders"),
        Row(
            "greatest collector pause",
            greatest * 1e3,
            "ms",
            note=f"{count:,} orders resting, 40,000 more trading; {passes:,} passes",
        ),
        Row("a full pass", took[-1] * 1e3, "ms", note="which did not come by itself"),
    ]


def resident() -> int:
    """Bytes of this process in memory."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def run(quick: bool) -> list[Row]:
    chosen = operations(10_000 if quick else 50_000)
    ways: list[tuple[str, Callable[[], float]]] = [
        ("order book alone", lambda: through_book(chosen)),
        ("engine: checks, matching, signed feed", lambda: through_engine(chosen)),
        ("the same for clients: ledger, holds, fees", lambda: through_engine(chosen, clients=True)),
        ("engine and journal, normal", lambda: through_engine(chosen, "normal")),
        ("clients and journal, normal", lambda: through_engine(chosen, "normal", clients=True)),
        ("engine and journal, full (by the clock)", lambda: through_engine(chosen, "full")),
    ]
    rounds = [[measure() for _, measure in ways] for _ in range(1 if quick else ROUNDS)]
    rows = [
        Row(
            name,
            statistics.median(each[index] for each in rounds),
            "op/s",
            statistics.median(each[index] / each[0] for each in rounds),
        )
        for index, (name, _) in enumerate(ways)
    ]
    replays = [replay(chosen) for _ in rounds]
    records, done = (statistics.median(part) for part in zip(*replays, strict=True))
    rows.append(Row("restart from the journal", records, "records/s", note=f"{done:,.0f} op/s"))
    rows.append(memory(20_000 if quick else 100_000))
    return rows + pauses(200_000 if quick else 1_000_000)
