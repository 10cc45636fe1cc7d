"""A newcomer, and the loss of half of all nodes, in a large overlay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from p2p.base.limits import DEAD_AFTER, RECONNECT_LADDER
from tests.simulation.scale.broadcasts import BroadcastCase, BroadcastRun, plan_broadcast, quantile

CONNECT_ROUND_TRIPS = 4  # TCP, TLS, and two of the handshake
FULL = 0.99  # part of the nodes that has to be reached


@dataclass
class ChangeFigures:
    """Seconds. `newcomer_reaches`: from the first dial until 99 % of all nodes have the newcomer's first broadcast.

    `healed_after`: from the loss of half the nodes, without a word, until all broadcasts reach 99 % of the others within
    twice the p99 of before; `reached_meanwhile`: part of the others that got the broadcasts sent until then, in the end.
    """

    nodes: int
    newcomer_reaches: float
    newcomer_receives: float
    healed_after: float
    reached_meanwhile: float
    wall: float


def run_changes(
    case: BroadcastCase, progress: Callable[[float], None] = lambda part: None
) -> ChangeFigures:
    """Run both."""
    began = time.perf_counter()
    reaches, receives = _newcomer(case, progress)
    healed, reached = _healing(case, progress)
    return ChangeFigures(
        case.nodes, reaches, receives, healed, reached, time.perf_counter() - began
    )


def _start(case: BroadcastCase, end: float) -> BroadcastRun:
    run = BroadcastRun(case)
    at = 0.0
    while (at := at + run.rng.expovariate(case.rate)) < end:
        plan_broadcast(run, at, run.rng.randrange(case.nodes), counted=False)
    return run


def _newcomer(case: BroadcastCase, progress: Callable[[float], None]) -> tuple[float, float]:
    """Let a node that is not in the network join; returns when it is heard everywhere, and when it hears."""
    run = _start(replace(case, churn=1e-9), case.warm_up + 10.0)
    node = case.nodes - 1
    run.leave(node)
    run.run(case.warm_up)
    progress(0.2)
    first = run.now
    run.join(node)
    neighbours = list(run.graph.links[node])
    setup = 2 * CONNECT_ROUND_TRIPS * min(run.graph.links[node][other] for other in neighbours)
    run.broadcast(node, counted=False)
    own = run.recent[-1]
    before = len(run.recent)
    run.run(first + 8.0)
    progress(0.4)
    took = sorted(at - own.at for at in own.got.values())
    reached = (
        took[round(FULL * (case.nodes - 1)) - 1] if len(took) >= FULL * (case.nodes - 1) else 8.0
    )
    heard = [sent.got[node] - first for sent in list(run.recent)[before:] if node in sent.got]
    return setup + reached, setup + min(heard, default=8.0)


def _healing(case: BroadcastCase, progress: Callable[[float], None]) -> tuple[float, float]:
    """Silence half of the nodes at once; the others notice after DEAD_AFTER and dial again."""
    after = DEAD_AFTER + 12.0
    end = case.warm_up + after
    run = _start(case, end)
    run.run(case.warm_up)
    lost = set(run.rng.sample(range(case.nodes), case.nodes // 2))
    before = _p99(
        [
            sent
            for sent in run.broadcasts.values()
            if sent.at > case.warm_up / 2 and sent.at < run.now - 1.0
        ]
    )
    run.silence(lost)

    def notice(node: int) -> None:
        run.leave(node)

    for node in lost:
        run.at(run.now + DEAD_AFTER + run.rng.uniform(0.0, 0.5), partial(notice, node))
    for node in set(range(case.nodes)) - lost:
        wait = DEAD_AFTER + RECONNECT_LADDER[0] * run.rng.uniform(0.75, 1.25)
        run.at(run.now + wait + 0.5, partial(run.redial, node))
    began = run.now
    run.run(end + 6.0)
    progress(0.95)
    others = case.nodes - len(lost)
    healed, expected, got = 0.0, 0, 0
    for sent in run.broadcasts.values():
        if sent.at < began or sent.origin in lost:
            continue
        took = sorted(at - sent.at for node, at in sent.got.items() if node not in lost)
        in_time = len(took) >= FULL * (others - 1) and quantile(took, 0.985) <= 2.0 * before
        if not in_time:
            healed = sent.at - began
        if sent.at - began < DEAD_AFTER:
            expected += others - 1
            got += len(took)
    return healed, got / max(1, expected)


def _p99(broadcasts: list) -> float:  # type: ignore[type-arg]
    took = sorted(at - sent.at for sent in broadcasts for at in sent.got.values())
    return quantile(took, 0.99)
