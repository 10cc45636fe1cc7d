"""Running seeds: one, or many in several processes."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tests.simulation.dishonest.gangs import Gang, gang_of
from tests.simulation.dishonest.world import DishonestWorld, PatientWorld
from tests.simulation.settings import older_nodes, settings_of
from tests.simulation.world import Outcome, run

T = TypeVar("T")
SHOWN = 60  # lines of a failure's trace


def run_one(
    seed: int,
    *,
    nasty: bool = False,
    dishonest: bool = False,
    older: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    settings = settings_of(seed, nasty=nasty)
    if older:
        settings.older = older_nodes(seed, settings.nodes)
    if echo is not None:
        echo(str(settings))
    if not dishonest:
        return run(settings, echo)
    if echo is not None:
        echo(str(gang_of(seed, settings.nodes)))
    # The faults of such a run are over sooner: what follows takes long enough.
    settings.duration = min(settings.duration, 8.0)
    settings.orders = min(settings.orders, 50)
    # A band follows the best prices of the book, so in an empty market anybody moves it: docs/threats.md.
    settings.trading.band = False
    with Gang.limits():
        outcome = run(settings, echo, DishonestWorld)
        if outcome.failed == "honest_latency":  # the second of 32 is a guess at a p95
            outcome = run(settings, echo, PatientWorld)
        return outcome


def run_many(
    seeds: Iterable[int],
    *,
    jobs: int,
    nasty: bool = False,
    dishonest: bool = False,
    older: bool = False,
) -> Iterator[Outcome]:
    """In the order of the seeds."""
    return for_each(partial(run_one, nasty=nasty, dishonest=dishonest, older=older), seeds, jobs)


def for_each(one: Callable[[int], T], seeds: Iterable[int], jobs: int) -> Iterator[T]:
    """Results of `one` in the order of the seeds, from `jobs` processes."""
    _collect_rarely()
    if jobs <= 1:
        yield from map(one, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_collect_rarely) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=2)
        finally:
            pool.shutdown(cancel_futures=True)


def _collect_rarely() -> None:
    """A run's objects live as long as it: most collections of garbage find none."""
    gc.set_threshold(100_000, 20, 20)


def replay_command(
    seed: int, *, nasty: bool = False, dishonest: bool = False, older: bool = False
) -> str:
    chosen = {"nasty": nasty, "dishonest": dishonest, "older": older}
    switches = "".join(f" --{name}" for name, on in chosen.items() if on)
    return f"python -m tests.simulation --seed {seed}{switches}"


@dataclass
class Summary:
    seeds: int = 0
    failures: int = 0
    virtual_seconds: float = 0.0
    slowest: float = 0.0  # longest time that a run took to settle, virtual seconds
    messages: int = 0
    lost: int = 0
    orders: int = 0
    decisions: int = 0
    refusals: int = 0
    fills: int = 0
    crashes: int = 0
    partitions: int = 0
    payments: int = 0
    freezes: int = 0
    requests: int = 0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failures += outcome.failed is not None
        self.slowest = max(self.slowest, outcome.settled_after)
        for name in (
            "virtual_seconds",
            "messages",
            "lost",
            "orders",
            "decisions",
            "refusals",
            "fills",
            "crashes",
            "partitions",
            "payments",
            "freezes",
            "requests",
        ):
            setattr(self, name, getattr(self, name) + getattr(outcome, name))

    def text(self, took: float) -> str:
        return (
            f"{self.seeds} seeds, {self.failures} failed; {self.virtual_seconds / 3600:.2f} virtual "
            f"hours in {took:.0f} s ({took / max(self.seeds, 1):.2f} s a seed); {self.messages} messages, "
            f"{self.lost} lost; {self.orders} orders, {self.decisions} decisions, {self.fills // 2} trades, "
            f"{self.refusals} refusals; {self.payments} payments, {self.freezes} freezes, "
            f"{self.requests} signed requests; {self.crashes} crashes, {self.partitions} partitions; "
            f"settled after at most {self.slowest:.0f} s of quiet"
        )

    @staticmethod
    def report(outcome: Outcome, **kind: bool) -> str:
        """A failure: what is broken, what happened last, how to see it again."""
        return "\n".join(
            [
                f"SEED {outcome.seed} FAILED: {outcome.failed}",
                f"  {outcome.detail}",
                *(f"    {line}" for line in outcome.tail[-SHOWN:]),
                f"  replay: {replay_command(outcome.seed, **kind)}",
            ]
        )
