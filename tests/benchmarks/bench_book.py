"""Order book: operations per second next to the order books of PyPI, memory, and collector pauses

The workload, the same for every engine: 60 % limit orders, 30 % cancels of live orders, 10 % market
orders, quantities 1 to 100. Limit prices are normal with a sigma of 15 ticks around one sigma below
the middle for bids and above it for asks, which gives a book of about 120 levels and 14,000 orders
after 200,000 operations (around one middle for both sides it would stay nearly empty).
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exchange.market import order_book
from exchange.market.order_book import OrderBook
from exchange.model.events import BUY, SELL
from tests.benchmarks.book_peers import CANCEL, LIMIT, MARKET, PEERS, Operation, Ours
from tests.benchmarks.report import Row

MID = 10_000
SIGMA = 15


def workload(count: int, seed: int = 1) -> list[Operation]:
    """Cancels name orders that are live at that moment, which takes a book to know."""
    rng = random.Random(seed)
    book = OrderBook()
    live: list[int] = []
    place: dict[int, int] = {}  # key -> its index in live
    sides: dict[int, int] = {}
    operations: list[Operation] = []

    def forget(key: int) -> None:
        index, last = place.pop(key), live.pop()
        if last != key:
            live[index], place[last] = last, index

    for now in range(1, count + 1):
        draw = rng.random()
        if 0.6 <= draw < 0.9 and live:
            key = rng.choice(live)
            operations.append(Operation(CANCEL, key, sides[key], None, 0, now))
            book.remove(key)
            forget(key)
            continue
        side, quantity = rng.choice((BUY, SELL)), rng.randint(1, 100)
        price = None if draw >= 0.9 else max(1, round(rng.gauss(MID - side * SIGMA, SIGMA)))
        kind = MARKET if price is None else LIMIT
        operations.append(Operation(kind, now, side, price, quantity, now))
        for key, _, _ in book.submit(now, side, price, quantity, now, now):
            if key not in book:
                forget(key)
        if now in book:
            place[now], sides[now] = len(live), side
            live.append(now)
    return operations


def against_peers(quick: bool) -> list[Row]:
    operations = workload(20_000 if quick else 200_000)
    engines: list[Any] = [Ours()]
    absent: list[Row] = []
    for peer in PEERS:
        try:
            engines.append(peer())
        except ImportError:
            absent.append(
                Row(peer.package, None, "op/s", note=f"not installed: pip install {peer.package}")
            )
    inputs = [engine.prepare(operations) for engine in engines]
    gc.collect()
    gc.freeze()  # the inputs of all engines are not what any of them should pay for
    speeds: list[list[float]] = [[] for _ in engines]
    totals: list[tuple[int, int] | str] = [""] * len(engines)
    for _ in range(3 if quick else 7):
        for index, engine in enumerate(engines):
            if isinstance(totals[index], str) and totals[index]:
                continue  # it failed before
            gc.collect()
            start = time.perf_counter()
            try:
                kept = engine.play(inputs[index])
            except Exception as error:  # a peer's own fault is a result too
                totals[index] = f"failed: {type(error).__name__}: {error}"[:80]
                continue
            speeds[index].append(len(operations) / (time.perf_counter() - start))
            totals[index] = totals_of(engine.trades(kept))
            del kept
    gc.unfreeze()
    ours = statistics.median(speeds[0])
    rows = [Row("ours", ours, "op/s", 1.0, f"{totals_text(totals[0])}")]
    best = 0.0
    for engine, seen, total in zip(engines[1:], speeds[1:], totals[1:], strict=True):
        if isinstance(total, str):
            rows.append(Row(engine.package, None, "op/s", note=f"{total} ({engine.note})"))
            continue
        speed = statistics.median(seen)
        best = max(best, speed)
        agrees = "agrees" if total == totals[0] else f"differs: {totals_text(total)}"
        rows.append(Row(engine.package, speed, "op/s", speed / ours, f"{agrees} ({engine.note})"))
    rows[1:] = sorted(rows[1:], key=lambda row: -(row.value or 0))
    if best:
        rows.append(Row("ours to the best peer", ours / best, "times"))
    return rows + absent


def totals_of(trades: Any) -> tuple[int, int]:
    """Quantity, and price times quantity, over all trades."""
    volume = value = 0
    for price, quantity in trades:
        volume += int(quantity)
        value += int(price) * int(quantity)
    return volume, value


def totals_text(totals: Any) -> str:
    return f"traded {totals[0]:,} lots for {totals[1]:,}"


def at_rest(quick: bool) -> list[Row]:
    """Memory, and what the cyclic collector costs, with a large book."""
    count = 100_000
    tracemalloc.start()
    filled = full_book(count)
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(filled) == count
    rows = [
        Row("memory of a resting order", traced / count, "bytes", note=f"with {count:,} orders")
    ]
    del filled
    count = 100_000 if quick else 1_000_000
    gc.collect()
    without = collect()
    book = full_book(count)
    pause = collect()
    gc.freeze()
    full_book(10_000, book)
    frozen = collect()
    gc.unfreeze()
    note = f"{count:,} orders resting; {without * 1e3:.1f} ms without a book"
    rows.append(Row("full collector pause", pause * 1e3, "ms", note=note))
    note = "book filled first, gc.freeze(), 10,000 orders more"
    rows.append(Row("full collector pause, frozen", frozen * 1e3, "ms", note=note))
    del book
    depth = 20_000 if quick else 100_000
    deep = OrderBook()
    for key in range(depth):
        deep.add(key, BUY, 100, 1, key, key)
    start = time.perf_counter()
    for _ in range(depth):
        deep.match(SELL, 100, 1)
    each = (time.perf_counter() - start) / depth
    rows.append(
        Row("match in a deep level", each * 1e6, "us", note=f"{depth:,} orders, one by one")
    )
    return rows


def full_book(count: int, book: OrderBook | None = None) -> OrderBook:
    """Keys, times and ranks as a node has them: 64-bit keys, microseconds, the owner."""
    rng = random.Random(2)
    book = book or OrderBook()
    had = len(book)
    owners = [rng.randbytes(32) for _ in range(10)]
    for number in range(had, had + count):
        owner = rng.randrange(10)
        key, now = (owner << 48) + number, 1_700_000_000_000_000 + number
        price, quantity = rng.randint(9_900, 10_000), rng.randint(1, 100)
        book.add(key, BUY, price, quantity, now, owners[owner])
    return book


def collect() -> float:
    start = time.perf_counter()
    gc.collect()
    return time.perf_counter() - start


def many_levels(quick: bool) -> list[Row]:
    """Orders that open and close a level anywhere on a side with very many, next to a plain list."""
    rows = []
    for count in (4_000, 100_000) if quick else (4_000, 100_000, 1_000_000):
        book = OrderBook()
        for number in range(count):
            book.append(number, SELL * (2 * number + 2), 1, number, 0)
        gc.collect()
        gc.freeze()
        found = {}
        for kind in ("book", "plain list"):
            if kind == "plain list":
                book.asks = list(book.asks)
            with patched_levels(10**9 if kind == "plain list" else order_book.MANY_LEVELS):
                found[kind] = min(open_and_close(book, count) for _ in range(3 if quick else 5))
        gc.unfreeze()
        note = "a level opened and closed anywhere, each an operation"
        ours = found["book"]
        rows.append(Row(f"operation with {count:,} levels", ours * 1e6, "us", note=note))
        rows.append(
            Row("the same, plain list", found["plain list"] * 1e6, "us", found["plain list"] / ours)
        )
    return rows


@contextmanager
def patched_levels(count: int) -> Iterator[None]:
    before, order_book.MANY_LEVELS = order_book.MANY_LEVELS, count  # type: ignore[misc]
    try:
        yield
    finally:
        order_book.MANY_LEVELS = before  # type: ignore[misc]


def open_and_close(book: OrderBook, count: int) -> float:
    """Seconds for one operation: half of them open a level at a free price, half close it again."""
    rng = random.Random(5)
    prices = [2 * number + 1 for number in rng.sample(range(count), min(count, 1000))]
    start = time.process_time()
    for key, price in enumerate(prices, count):
        book.append(key, -price, 1, key, 0)
    for key in range(count, count + len(prices)):
        book.remove(key)
    return (time.process_time() - start) / (2 * len(prices))


def run(quick: bool) -> list[Row]:
    return against_peers(quick) + at_rest(quick) + many_levels(quick)
