"""Settings of a run, drawn from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

MARKETS = ["BTC-USD@0.1/0.00001", "ETH-USD@0.01/0.001"]
QUIET_MAX = 120.0  # seconds after which everything must have settled
# Delays of links in seconds: (base from, to, mean of the jitter).
DELAYS = {
    "lan": (0.0002, 0.002, 0.0005),
    "wan": (0.01, 0.12, 0.01),
    "slow": (0.05, 0.6, 0.15),
}

SLICES = (
    ("exchange.feeds.checkpoint_pages.SLICE", 2),
    ("exchange.feeds.checkpoint_pages.SORTED", 4),
    ("exchange.feeds.checkpoint_pages.FEW", 1),
    ("exchange.feeds.feed.AT_ONCE", 0),
    ("exchange.feeds.feed.HASHED", 100),
    ("exchange.feeds.feed.LOADED", 2),
    ("exchange.feeds.feed_replica.RESUMED", 3),
    ("exchange.engine.feed_ingest.RESUMED", 3),
    ("exchange.engine.feed_ingest.BATCH_EVENTS", 0),
    ("exchange.engine.feed_ingest.TIMES", 2),
    ("exchange.engine.order_manager.EXPIRED", 1),
    ("exchange.orders.order_store.PART", 2),
)


@dataclass(slots=True)
class Faults:
    """Number of faults of each kind during activity, and their probability at each take or answer."""

    crashes: int = 0
    stops: int = 0
    partitions: int = 0
    breaks: int = 0
    massacres: int = 0  # all nodes at once
    sniper: float = 0.0


@dataclass(slots=True)
class Trading:
    """Trading beyond limit and market orders of the house in bare lots."""

    instruments: bool = False  # with fees, and amounts in units of the assets
    finer: float = (
        0.0  # chance at each start that a node counts its assets in smaller units from now on
    )
    band: bool = False  # some nodes refuse prices far from the market
    accounts: int = 0  # clients of a node, at most
    funds: int = 0  # lots that a client can buy, and sell, at first
    credit: float = 0.0  # part of the nodes that limit what others may come to owe
    special: float = 0.0  # part of the orders that are more than limit or market
    changes: float = 0.0  # amends and cancels of many for each order
    money: int = 0  # deposits and withdrawals
    halts: int = 0
    payments: int = 0  # between nodes
    freezes: int = 0  # of accounts
    keys: int = 0  # requests with keys, and what is done to keys


@dataclass(slots=True)
class Settings:
    seed: int
    nodes: int
    topology: str
    datagrams: bool
    loss: float  # of datagrams, as are the next two
    doubled: float
    stragglers: float
    delay: str
    real_keys: bool
    journal: bool
    markets: int
    partial: bool  # some nodes trade one of the markets only
    lease_ms: int
    commit: tuple[float, float]
    pipelined: bool
    group: float
    skew: float
    drift: float
    checkpoint_every: int
    page_orders: int
    batch_events: int
    early_batches: int  # kept, of those that came before the ones they follow
    orders: int
    duration: float
    spread: int  # ticks on each side of the mid price
    large: float  # part of the orders that are ten times as large, and so are taken from often
    latecomers: int
    faults: Faults
    trading: Trading
    slices: bool = False  # few orders are many: checkpoints are packed, snapshots read in slices
    older: frozenset[int] = frozenset()  # nodes of a version without `branch`

    def __str__(self) -> str:
        faults, trading = self.faults, self.trading
        return (
            f"seed {self.seed}: {self.nodes} nodes, {self.topology}, "
            f"{'datagrams' if self.datagrams else 'streams'}, {self.delay}, "
            f"{'journal' if self.journal else 'memory'}, {self.markets} markets, "
            f"{self.orders} orders in {self.duration:.0f} s, "
            f"{faults.crashes} crashes, {faults.massacres} massacres, {faults.stops} stops, "
            f"{faults.partitions} partitions, {faults.breaks} breaks, sniper {faults.sniper}, "
            f"{'instruments' if trading.instruments else 'lots'}, {trading.accounts} accounts, "
            f"special {trading.special}, credit {trading.credit}, {trading.halts} halts, "
            f"{trading.payments} payments, {trading.freezes} freezes, {trading.keys} key acts, "
            f"{len(self.older)} older nodes"
        )

    @contextmanager
    def limits(self) -> Iterator[None]:
        """The exchange's sizes made small, so that snapshots and many batches occur in a short run."""
        with ExitStack() as stack:
            for name, value in (
                ("exchange.feeds.feed.CHECKPOINT_EVERY", self.checkpoint_every),
                ("exchange.feeds.feed.CHECKPOINT_FACTOR", 1 if self.checkpoint_every < 1000 else 4),
                ("exchange.feeds.feed.PAGE_ORDERS", self.page_orders),
                ("exchange.feeds.feed.MAX_EVENTS", self.batch_events),
                ("exchange.feeds.unconnected_batches.MAX_BATCHES", self.early_batches),
                (
                    "exchange.feeds.replication.PART_BYTES",
                    600 if self.page_orders < 100 else 128 * 1024,
                ),
            ):
                stack.enter_context(patch(name, value))
            for name, value in SLICES if self.slices else ():
                stack.enter_context(patch(name, value))
            yield


def settings_of(seed: int, *, nasty: bool = False) -> Settings:
    """The run of a seed. `nasty`: more of every fault, for a hunt."""
    rng = random.Random(f"settings {seed}{' nasty' if nasty else ''}")
    crowd = seed % 25 == 24
    nodes = 20 if crowd else rng.choices((3, 4, 5, 6, 8, 11), (30, 25, 20, 15, 6, 4))[0]
    small = rng.random() < 0.5
    markets = 2 if rng.random() < 0.2 else 1
    scale = 3 if nasty else 1
    chaos = rng.random()  # a few runs without faults, most with some
    faults = Faults()
    if chaos > 0.1:
        faults = Faults(
            crashes=rng.randint(0, 4 * scale),
            stops=rng.randint(0, 1 * scale),
            partitions=rng.randint(0, 2 * scale),
            breaks=rng.randint(0, 8 * scale),
            massacres=int(rng.random() < 0.1 * scale),
            sniper=rng.choice((0.0, 0.02, 0.06 * scale)),
        )
    kind = rng.choices(("mesh", "chain", "ring", "random"), (5, 2, 2, 3))[0]
    delay = rng.choices(tuple(DELAYS), (3, 4, 3))[0]
    if nodes > 8 and kind in ("chain", "ring") and delay == "slow":
        delay = "wan"  # a round trip would take longer than a taker's patience
    return Settings(
        seed=seed,
        nodes=nodes,
        topology=kind,
        datagrams=rng.random() < (0.6 if nasty else 0.35),
        loss=rng.choice((0.01, 0.05, 0.2)),
        doubled=rng.choice((0.02, 0.2, 0.6)),
        stragglers=rng.choice((0.0, 0.02, 0.2)),
        delay=delay,
        real_keys=seed % 10 == 0,
        journal=seed % 8 == 3,
        markets=markets,
        partial=markets > 1 and rng.random() < 0.5,
        # A lease must outlast what a presence may take over many slow hops, or it flickers for ever.
        lease_ms=max(rng.choice((2000, 4000, 9000)), 9000 if nodes > 8 and delay == "slow" else 0),
        commit=rng.choice(((0.0, 0.0), (0.0005, 0.005), (0.005, 0.05), (0.02, 0.3))),
        pipelined=rng.random() < 0.3,
        group=rng.choice((0.0, 0.0, 0.005, 0.04)),
        skew=rng.choices((0.0, 0.05, 2.0, 20.0), (1, 3, 4, 1))[0],
        drift=rng.choice((0.0, 1e-4, 1e-2)),
        checkpoint_every=rng.choice((6, 15, 40)) if small else 1024,
        page_orders=rng.choice((2, 5)) if small else 4096,
        early_batches=rng.choice((0, 2, 256)) if small else 256,
        batch_events=rng.choice((3, 256)) if small else 256,
        orders=rng.randint(30, 90) * (2 if nasty else 1),
        duration=rng.uniform(8.0, 20.0) * (2 if nasty else 1),
        spread=rng.randint(0, 6),
        large=rng.choice((0.0, 0.1, 0.4)),
        latecomers=rng.randint(0, 1) if nodes < 8 else rng.randint(0, 4),
        faults=faults,
        trading=_trading_of(seed, nasty=nasty),
        slices=nasty and random.Random(f"slices {seed}").random() < 0.5,
    )


def older_nodes(seed: int, nodes: int) -> frozenset[int]:
    """Nodes of an older version: one, a half, or all but one, so that pairs of every kind meet."""
    rng = random.Random(f"older {seed}")
    return frozenset(rng.sample(range(nodes), rng.choice((1, max(nodes // 2, 1), nodes - 1))))


def _trading_of(seed: int, *, nasty: bool) -> Trading:
    """Drawn apart from the rest: without all of it a seed is the run that it was before."""
    rng = random.Random(f"trading {seed}{' nasty' if nasty else ''}")
    if rng.random() < 0.1:
        return Trading()
    instruments = rng.random() < 0.85
    scale = 2 if nasty else 1
    return Trading(
        instruments=instruments,
        finer=rng.choice((0.0, 0.0, 0.3)) if instruments else 0.0,
        band=instruments and rng.random() < 0.15,
        accounts=rng.choice((0, 1, 2, 4)),
        funds=rng.choice((60, 300, 3000)),
        credit=rng.choice((0.0, 0.0, 0.0, 0.5)),
        special=rng.choice((0.2, 0.5, 0.8)),
        changes=rng.choice((0.1, 0.5)),
        money=rng.choice((0, 2, 8)) * scale,
        halts=rng.choice((0, 0, 0, 1, 3)) * scale,
        payments=rng.choice((0, 3, 8)) * scale,
        freezes=rng.choice((0, 0, 1, 3)) * scale,
        keys=rng.choice((0, 8, 24)) * scale,
    )
