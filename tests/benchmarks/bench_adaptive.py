"""Adaptive router: microseconds of a pick, a send and a result

A caller of 50 (and 10, and 500) peers with calls in flight, time moving on by 1 ms a call, so that
costs go stale as they do in use. The best of several rounds: what else runs only adds. "sick" has a tenth of the peers with an
open breaker, "half sick" half of them.
"""

from __future__ import annotations

import random
import time
from collections import deque

from p2p.adaptive import AdaptiveRouter
from tests.benchmarks.report import Row


def _measure(peers: int, calls: int, policy: str, sick: float) -> tuple[float, float, float]:
    """Microseconds of a pick, a send and a result, each timed in a loop of its own calls."""
    rng = random.Random(peers)
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1), policy=policy)
    names = [f"peer{i}" for i in range(peers)]
    bad = set(names[: int(peers * sick)])
    flying: deque[tuple[float, str]] = deque()
    clock = time.perf_counter_ns
    spent = [0, 0, 0]
    now = 0.0
    for name in bad:
        for _ in range(5):
            router.on_send(now, name)
            router.on_result(now + 0.001, name, 0.001, "error")
    for i in range(calls + 2000):
        if i == 2000:
            spent = [0, 0, 0]
        now += 0.001
        t0 = clock()
        peer = router.pick(now, names)
        t1 = clock()
        router.on_send(now, peer)
        t2 = clock()
        spent[0] += t1 - t0
        spent[1] += t2 - t1
        flying.append((now, peer))
        if len(flying) > 20:
            sent, peer = flying.popleft()
            latency = now - sent
            outcome = "error" if peer in bad else "ok"
            load = (rng.randrange(5), latency, 0.01)
            t3 = clock()
            router.on_result(now, peer, latency, outcome, load)  # type: ignore[arg-type]
            spent[2] += clock() - t3
    return spent[0] / calls / 1e3, spent[1] / calls / 1e3, spent[2] / calls / 1e3


def _clock_cost() -> float:
    clock = time.perf_counter_ns
    began = clock()
    for _ in range(10_000):
        clock()
    return (clock() - began) / 10_000 / 1e3


def run(quick: bool) -> list[Row]:
    calls, rounds = (5_000, 3) if quick else (30_000, 5)
    rows = []
    cases = [
        ("10 peers", 10, "adaptive", 0.0),
        ("50 peers", 50, "adaptive", 0.0),
        ("50 peers, sick", 50, "adaptive", 0.1),
        ("50 peers, half sick", 50, "adaptive", 0.5),
        ("500 peers", 500, "adaptive", 0.0),
        ("50 peers, weighted", 50, "weighted", 0.0),
    ]
    clock = _clock_cost()
    for title, peers, policy, sick in cases:
        runs = [_measure(peers, calls, policy, sick) for _ in range(rounds)]
        for what, index, limit in (("pick", 0, 20.0), ("send", 1, None), ("result", 2, 5.0)):
            value = max(0.0, min(run[index] for run in runs) - clock)
            rows.append(
                Row(
                    f"{what}, {title}",
                    value,
                    "us",
                    value / limit if limit else None,
                    f"ratio to the {limit:.0f} us allowed" if limit else "",
                )
            )
    return rows
