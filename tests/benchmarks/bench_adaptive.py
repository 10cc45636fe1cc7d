"""Adaptive router: microseconds of a pick, a send and a result

A caller of 50 (and 10, and 500) peers with calls in flight, time moving on by 1 ms a call, so that
costs go stale as they do in use. The best of several rounds: what else runs only adds. "sick" has a
tenth of the peers with an open breaker, "half sick" half of them. Beside them two policies of the
field, written as plainly as in their papers, in the same rounds.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

from p2p.adaptive import AdaptiveRouter
from tests.benchmarks.report import Row
from tests.simulation.routing.model import Policy
from tests.simulation.routing.policies import C3, PeakEwma

MAKERS: dict[str, Callable[[], Policy]] = {
    "router": lambda: AdaptiveRouter(rng=random.Random(1)),
    "weighted": lambda: AdaptiveRouter(rng=random.Random(1), policy="weighted"),
    "peak EWMA of two": lambda: PeakEwma(random.Random(1)),
    "C3": lambda: C3(random.Random(1), clients=1),
}


def _measure(peers: int, calls: int, policy: str, sick: float) -> tuple[float, float, float]:
    """Microseconds of a pick, a send and a result, each timed in a loop of its own calls."""
    rng = random.Random(peers)
    router = MAKERS[policy]()
    names = range(peers)
    bad = set(names[: int(peers * sick)])
    flying: deque[tuple[float, int]] = deque()
    clock = time.perf_counter_ns
    spent = [0, 0, 0]
    now = 0.0
    for name in bad:
        for _ in range(5):
            router.on_send(now, name)
            router.on_result(now + 0.001, name, 0.001, "error", None)
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
            router.on_result(now, peer, latency, outcome, load)
            spent[2] += clock() - t3
    return spent[0] / calls / 1e3, spent[1] / calls / 1e3, spent[2] / calls / 1e3


def _clock_cost() -> float:
    """Microseconds of one reading, the least of several rounds, as for what is measured with it."""
    clock = time.perf_counter_ns
    least = float("inf")
    for _ in range(20):
        began = clock()
        for _ in range(2_000):
            clock()
        least = min(least, (clock() - began) / 2_000 / 1e3)
    return least


def run(quick: bool) -> list[Row]:
    calls, rounds = (5_000, 3) if quick else (30_000, 5)
    cases = [
        ("10 peers", 10, "router", 0.0),
        ("50 peers", 50, "router", 0.0),
        ("50 peers, sick", 50, "router", 0.1),
        ("50 peers, half sick", 50, "router", 0.5),
        ("500 peers", 500, "router", 0.0),
        ("50 peers, weighted", 50, "weighted", 0.0),
        ("50 peers, peak EWMA of two", 50, "peak EWMA of two", 0.0),
        ("50 peers, C3", 50, "C3", 0.0),
    ]
    clock = _clock_cost()
    # Round by round, so that every case sees the same busy and quiet moments of the machine.
    rounds_of = [
        [_measure(peers, calls, policy, sick) for _, peers, policy, sick in cases]
        for _ in range(rounds)
    ]
    rows = []
    for case, (title, _, policy, _) in enumerate(cases):
        for what, index, limit in (("pick", 0, 15.0), ("send", 1, None), ("result", 2, 5.0)):
            value = max(0.0, min(one[case][index] for one in rounds_of) - clock)
            ours = limit if policy in ("router", "weighted") else None
            rows.append(
                Row(
                    f"{what}, {title}",
                    value,
                    "us",
                    value / ours if ours else None,
                    f"ratio to the {ours:.0f} us allowed" if ours else "",
                )
            )
    return rows
