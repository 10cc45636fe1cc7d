"""One node's exchange in process: orders through engine and journal, next to the bare order book.

The operations are those of the book benchmark: 60 % limit orders, 30 % cancels, 10 % market orders.
A drain follows every 100 operations, as under load in a node: events are signed, records committed.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from exchange.book import Book
from exchange.engine import Engine, Refused
from exchange.journal import Journal
from node.keys import NodeKeys
from p2p.identity import Identity
from tests.benchmarks.report import Row

MARKET = "BTC-USD@0.1/0.00001"
GROUP = 100  # operations to a drain
ROUNDS = 3

Operation = tuple[str, int, int, int]  # what, side, price, quantity


def operations(count: int) -> list[Operation]:
    rng = random.Random(1)
    chosen: list[Operation] = []
    for _ in range(count):
        what = rng.choices(("limit", "cancel", "market"), (60, 30, 10))[0]
        side = rng.choice((1, -1))
        chosen.append((what, side, 10_000 + round(rng.gauss(-15 * side, 15)), rng.randint(1, 100)))
    return chosen


def through_book(chosen: list[Operation]) -> float:
    book = Book()
    live: list[int] = []
    rng = random.Random(2)
    began = time.perf_counter()
    for number, (what, side, price, quantity) in enumerate(chosen):
        if what == "limit":
            book.submit(number, side, price, quantity, number, number)
            live.append(number)
        elif what == "market":
            book.match(side, None, quantity)
        elif live:
            key = live.pop(rng.randrange(len(live)))
            if key in book:
                book.remove(key)
    return len(chosen) / (time.perf_counter() - began)


def through_engine(chosen: list[Operation], sync: Literal["full", "normal"] | None) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        journal = None if sync is None else Journal(Path(scratch) / "journal", sync=sync)
        engine = Engine(
            NodeKeys(Identity.from_seed(b"b" * 32)),
            [MARKET],
            network="bench",
            epoch_us=1_700_000_000_000_000,
            rng=random.Random(3),
        )
        live: list[int] = []
        rng = random.Random(2)
        began = time.perf_counter()
        for number, (what, side, price, quantity) in enumerate(chosen):
            now = number * 1e-5
            if what == "limit":
                live.append(engine.submit(now, MARKET, side, price, quantity).number)
            elif what == "market":
                engine.submit(now, MARKET, side, None, quantity)
            elif live:
                with contextlib.suppress(Refused):  # it was filled meanwhile
                    engine.cancel(now, live.pop(rng.randrange(len(live))))
            if number % GROUP == GROUP - 1:
                drained = engine.drain(now)
                if journal is not None:
                    journal.commit(drained.records)
        rate = len(chosen) / (time.perf_counter() - began)
        if journal is not None:
            journal.close()
        return rate


def run(quick: bool) -> list[Row]:
    chosen = operations(10_000 if quick else 50_000)
    ways: list[tuple[str, Callable[[], float]]] = [
        ("order book alone", lambda: through_book(chosen)),
        ("engine: checks, matching, signed feed", lambda: through_engine(chosen, None)),
        ("engine and journal, normal", lambda: through_engine(chosen, "normal")),
        ("engine and journal, full", lambda: through_engine(chosen, "full")),
    ]
    rounds = [[measure() for _, measure in ways] for _ in range(1 if quick else ROUNDS)]
    return [
        Row(
            name,
            statistics.median(each[index] for each in rounds),
            "op/s",
            statistics.median(each[index] / each[0] for each in rounds),
        )
        for index, (name, _) in enumerate(ways)
    ]
