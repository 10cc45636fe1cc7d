"""Costs of flow control for one message: a token, a governed attempt, an outbox entry, a window's sample."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from p2p.flow import Governor, LoadReport, Outbox, SlidingWindow, TokenBucket
from tests.benchmarks.report import Row

LOAD = LoadReport(0.0, 0.02, 3)


def tokens(n: int) -> None:
    bucket = TokenBucket(1e6, burst=10.0)
    for i in range(n):
        bucket.try_take(i * 1e-5)


def governed(n: int) -> None:
    governor = Governor(rng=random.Random(1))
    for i in range(n):
        now = i * 0.05
        governor.ready(now)
        governor.on_result(now + 0.03, governor.on_send(now), "ok", LOAD)


def outbox(n: int) -> None:
    box: Outbox[int] = Outbox(Governor(rng=random.Random(1)), rng=random.Random(2))
    for i in range(n):
        now = i * 0.05
        box.add(now, i)
        entry = box.next(now + 0.04)
        if entry is not None:
            box.on_result(now + 0.045, entry, "ok", LOAD)


def samples(n: int) -> None:
    window = SlidingWindow()
    for i in range(n):
        window.record(i * 1e-4, 0.02, True)


PARTS: tuple[tuple[str, Callable[[int], None]], ...] = (
    ("TokenBucket.try_take", tokens),
    ("Governor ready, on_send, on_result", governed),
    ("Outbox add, next, on_result", outbox),
    ("SlidingWindow.record", samples),
)


def run(quick: bool) -> list[Row]:
    n, rounds = (20_000, 3) if quick else (200_000, 5)
    rows = []
    for what, part in PARTS:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            part(n)
            took.append((time.perf_counter() - began) / n * 1e6)
        rows.append(Row(what, statistics.median(took), "us"))
    return rows
