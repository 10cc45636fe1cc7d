"""That the simulation can fail: deliberate bugs, each of which some seed of a small range must show.

A bug is a change of production code (or of the glue, where the daemon could have it) for one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import p2p.seen
from exchange import asking, book, making, market, replication, settlement
from exchange.records import DropTake, PutTake
from tests.simulation import disk, node
from tests.simulation.runner import run_one

SEEDS = range(8)
HUNT = range(64)  # most bugs show within the first few, some need a rare course of events

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


# Settlement


def decides_again(patch: Patch) -> None:
    """The maker does not remember what it decided."""
    patch.setattr(settlement.Maker, "decided", lambda self, taker, take: None)


def forgets_refusals(patch: Patch) -> None:
    """A refusal is no decision: a late copy of a refused take may be granted."""
    record = settlement.Maker.record
    patch.setattr(
        settlement.Maker,
        "record",
        lambda self, decision: record(self, decision) if decision.quantity else None,
    )
    # Nor does it reach the disk, which would refuse the second decision.
    put = making.PutDecision
    patch.setattr(
        making, "PutDecision", lambda decision: put(decision) if decision.quantity else DropTake(0)
    )


def grants_what_is_asked(patch: Patch) -> None:
    """The maker does not look at how much is left."""
    decide = making.Making._decide

    def generous(self: Any, now: float, taker: str, ask: Any) -> Any:
        order = self._orders.open.get(ask.order)
        if order is not None and order.shown:
            order.shown = max(order.shown, ask.quantity)
        return decide(self, now, taker, ask)

    patch.setattr(making.Making, "_decide", generous)


def gives_up(patch: Patch) -> None:
    """The taker releases what it asked for when no answer came for a second."""
    send_due = asking.Asking.send_due

    def hasty(self: Any, now: float) -> None:
        for take in self._taker.pending:
            if now - self._taker._asking[take.take].since > 1.0:
                self._taker.resolve(take.take)
                self._core.records.append(DropTake(take.take))
                order = self._orders.open[take.order]
                order.pending -= take.quantity
                place = self._core.markets[take.market]
                place.release(take.maker, take.maker_order, take.quantity, None)
                self._orders.work.append(order.number)
        send_due(self, now)

    patch.setattr(asking.Asking, "send_due", hasty)


def does_not_reserve(patch: Patch) -> None:
    """The taker counts what it asked for as free until it hears."""

    def nothing_pending(self: Any, now: float, *args: Any) -> None:
        ask(self, now, *args)
        order, quantity = args[0], args[4]
        order.pending -= quantity

    ask = asking.Asking.ask
    patch.setattr(asking.Asking, "ask", nothing_pending)


def counts_an_answer_twice(patch: Patch) -> None:
    """Of an answer that arrives twice, both copies count."""

    def keep(self: Any, take: int) -> Any:
        return self._asking[take].take

    patch.setattr(settlement.Taker, "resolve", keep)


# Deduplication


def decides_late_copies(patch: Patch) -> None:
    """The maker forgets decisions the taker knows, and then decides a late copy of such a take."""
    patch.setattr(settlement.Maker, "stale", lambda self, taker, take: False)


def hears_twice(patch: Patch) -> None:
    """The router does not recognise what it has seen."""
    patch.setattr(p2p.seen.SeenWindow, "__contains__", lambda self, key: False)


# Replay and recovery


def asks_before_writing(patch: Patch) -> None:
    """A take is not in the journal before its maker is asked."""
    ask = asking.Asking.ask

    def forgetful(self: Any, *args: Any) -> None:
        ask(self, *args)
        self._core.records[:] = [r for r in self._core.records if not isinstance(r, PutTake)]

    patch.setattr(asking.Asking, "ask", forgetful)


def loses_decisions(patch: Patch) -> None:
    """A restarted maker does not know what it decided."""
    patch.setattr(settlement.Maker, "restore", lambda self, decisions, marks: None)


def speaks_before_it_is_durable(patch: Patch) -> None:
    """Messages leave before the commit."""
    commit_soon = node.Node._commit_soon

    def hasty(self: Any, commit: Any) -> None:
        self._send(commit)
        commit.drained.messages = []
        commit_soon(self, commit)

    patch.setattr(node.Node, "_commit_soon", hasty)


def acknowledges_before_it_is_durable(patch: Patch) -> None:
    """The client hears before the commit."""
    commit_soon = node.Node._commit_soon

    def hasty(self: Any, commit: Any) -> None:
        for acknowledgement in commit.acknowledgements:
            self._watch.acknowledged(self.number, acknowledgement.command, acknowledgement.order)
        commit_soon(self, commit)

    patch.setattr(node.Node, "_commit_soon", hasty)


def forgets_takes(patch: Patch) -> None:
    """A restarted taker does not know what it asked for."""
    recover = disk.MemoryDisk.recover

    def partly(self: Any) -> Any:
        recovered = recover(self)
        recovered.takes = []
        return recovered

    patch.setattr(disk.MemoryDisk, "recover", partly)


def loses_the_last_batch(patch: Patch) -> None:
    """A restarted owner begins where its feed was a batch ago."""
    recover = disk.MemoryDisk.recover

    def partly(self: Any) -> Any:
        recovered = recover(self)
        for feed in recovered.feeds:
            feed.batches = feed.batches[:-1]
        return recovered

    patch.setattr(disk.MemoryDisk, "recover", partly)


# Matching and replication


def ignores_time(patch: Patch) -> None:
    """An order that arrives late goes behind those that are younger."""

    def last(self: Any, queue: dict[int, int], key: int, quantity: int, priority: Any) -> None:
        queue[key] = quantity

    patch.setattr(book.Book, "_place", last)


def takes_the_youngest(patch: Patch) -> None:
    """Within a price, the last order is taken first."""
    crossing = book.Book.crossing

    def backwards(self: Any, side: int, price: int | None) -> Any:
        youngest_first = list(crossing(self, side, price))[::-1]
        return iter(sorted(youngest_first, key=lambda fill: side * fill[1]))

    patch.setattr(book.Book, "crossing", backwards)


def shows_the_absent(patch: Patch) -> None:
    """Orders of owners whose lease has run out stay in the book."""
    patch.setattr(market.Market, "_counts", lambda self, owner, feed: True)


def never_catches_up(patch: Patch) -> None:
    """A gap in a feed is not asked for."""
    patch.setattr(replication.Replicator, "claimed", lambda *args, **kwargs: None)


# The invariants that such a bug breaks first, depending on the seed.
BUGS: list[tuple[Bug, set[str]]] = [
    (decides_again, {"recorded_once", "DiskError", "never_overfilled"}),
    (forgets_refusals, {"both_sides", "recorded_once", "never_overfilled"}),
    (grants_what_is_asked, {"never_overfilled", "adds_up"}),
    (gives_up, {"both_sides", "never_overfilled", "best_first"}),
    (does_not_reserve, {"adds_up", "never_overfilled", "nothing_missed"}),
    (counts_an_answer_twice, {"recorded_once", "adds_up"}),
    (decides_late_copies, {"both_sides", "recorded_once", "DiskError"}),
    (hears_twice, {"heard_once"}),
    (asks_before_writing, {"both_sides", "adds_up"}),
    (loses_decisions, {"both_sides", "recorded_once", "DiskError"}),
    (speaks_before_it_is_durable, {"maker_first", "one_event_per_number"}),
    (acknowledges_before_it_is_durable, {"survives"}),
    (forgets_takes, {"both_sides", "adds_up"}),
    (loses_the_last_batch, {"one_event_per_number"}),
    (ignores_time, {"best_first", "replicas_identical"}),
    (takes_the_youngest, {"best_first"}),
    (shows_the_absent, {"best_first"}),
    (never_catches_up, {"replicas_identical"}),
]


@pytest.mark.parametrize(("bug", "expected"), BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_a_bug_is_caught(bug: Bug, expected: set[str], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    outcomes = (run_one(seed, nasty=True) for seed in HUNT)
    outcome = next((o for o in outcomes if o.failed), None)
    assert outcome is not None, f"{bug.__doc__} No seed of {HUNT} shows it."
    assert outcome.failed in expected, f"seed {outcome.seed}: {outcome.failed}: {outcome.detail}"
    assert outcome.tail


def test_without_a_bug_the_same_seeds_pass() -> None:
    assert [o.failed for o in (run_one(seed, nasty=True) for seed in SEEDS)] == [None] * len(SEEDS)
