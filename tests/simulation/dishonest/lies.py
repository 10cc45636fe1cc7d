"""`python -m tests.simulation.dishonest.lies`: workers that lie about their load, and strangers that lie about workers.

Each seed draws honest workers and callers, the share of workers that lie in their load reports and how, and origins
whose hints call good workers bad and liars good. The same requests then run twice: with the lies, and with the same
workers as they are. Slow liars are slow in both. A request may take at most `RATIO` times as long in the
mean, plus `SLACK` mean service times, and hardly more of them may fail (`LOST`, `FEW`, and
one for each caller, which learns from its own calls). The mean, since liars that
are slow get about one request in twenty: a p95 is theirs in one run and of honest workers in the other.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2p.adaptive import DEGRADED, HEALTHY, AdaptiveRouter, Signal
from tests.simulation.routing.model import TIMEOUT, Load, Server, World
from tests.simulation.routing.scenarios import quantile

RATIO: Final = 2.0
SLACK: Final = 2.0  # mean service times
LOST: Final = 0.005  # of the requests
FEW: Final = 5  # of short runs
SECONDS: Final = 16.0
BEGIN: Final = 4.0  # of the lies; judged from here on
SLOWEST: Final = (
    TIMEOUT / 10
)  # mean service time of a liar, seconds: it does not time out by itself
REQUESTS: Final = 6000  # of a run, about

Claim = Callable[[random.Random, Load], Load | None]


def _idle(rng: random.Random, true: Load) -> Load:
    return 0.0, 1e-6, 1e-6


def _swamped(rng: random.Random, true: Load) -> Load:
    return 1e9, 1e6, 1e6


def _fast(rng: random.Random, true: Load) -> Load:
    return true[0], true[1] / 100, true[2] / 100


def _silent(rng: random.Random, true: Load) -> None:
    return None


def _rubbish(rng: random.Random, true: Load) -> Load:
    values = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, 5e-324, true[0])
    return rng.choice(values), rng.choice(values), rng.choice(values)


def _moody(rng: random.Random, true: Load) -> Load:
    return _idle(rng, true) if rng.random() < 0.5 else _swamped(rng, true)


CLAIMS: Final[dict[str, Claim]] = {
    "idle": _idle,
    "swamped": _swamped,
    "fast": _fast,
    "silent": _silent,
    "rubbish": _rubbish,
    "moody": _moody,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The draw of one seed."""

    seed: int
    means: tuple[float, ...]  # service times of the workers, seconds
    slots: int
    callers: int
    load: float  # part of the capacity of the honest workers
    liars: dict[int, str]  # worker -> claim
    origins: int  # identities that send false hints
    every: float  # seconds between two of their hints about a worker
    about: dict[int, Signal]

    def __str__(self) -> str:
        claims = ", ".join(sorted(set(self.liars.values()))) or "none"
        return (
            f"{len(self.means)} workers of {self.slots} slots, {self.callers} callers, load "
            f"{self.load:.2f}; {len(self.liars)} lie ({claims}); {self.origins} origins of hints "
            f"about {len(self.about)}"
        )


def plan_of(seed: int) -> Plan:
    rng = random.Random(f"lies {seed}")
    count = rng.randint(4, 20)
    mean = rng.choice((0.002, 0.01, 0.02, 0.1))
    means = [mean * rng.choice((1.0, 1.0, 2.0)) for _ in range(count)]
    lying = rng.sample(range(count), rng.randint(0 if seed % 3 == 2 else 1, max(1, count // 3)))
    claims = rng.sample(sorted(CLAIMS), rng.randint(1, 2))
    slow = rng.choice((1.0, 1.0, 3.0, 10.0))
    for number in lying:
        means[number] = min(means[number] * slow, SLOWEST)
    good = [n for n in range(count) if n not in lying]
    about: dict[int, Signal] = dict.fromkeys(lying, HEALTHY)
    about.update(dict.fromkeys(rng.sample(good, rng.randint(1, max(1, len(good) // 2))), DEGRADED))
    return Plan(
        seed=seed,
        means=tuple(means),
        slots=rng.choice((1, 2, 4)),
        callers=rng.choice((1, 3, 10, 30)),
        load=rng.uniform(0.3, 0.7),
        liars={n: rng.choice(claims) for n in lying},
        origins=rng.choice((0, 1, 16, 1000)),
        every=rng.uniform(0.5, 4.0),
        about=about if rng.random() < 0.7 else {},
    )


class LyingServer(Server):
    """Worker whose reports follow a claim from `BEGIN` on."""

    def __init__(self, honest: Server, claim: Claim, rng: random.Random) -> None:
        super().__init__(honest.world, honest.number, honest.mean, honest.slots)
        self._claim = claim
        self._claim_rng = rng

    def load(self) -> Load:
        true = super().load()
        # None is what a worker without reports sends.
        return self._claim(self._claim_rng, true) if self.world.now >= BEGIN else true  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Figures:
    mean: float  # seconds
    p95: float
    failed: int
    requests: int


@dataclass(frozen=True, slots=True)
class Outcome:
    plan: Plan
    lied_to: Figures
    alone: Figures

    @property
    def allowed(self) -> float:
        """Seconds."""
        return RATIO * self.alone.mean + SLACK * min(self.plan.means)

    @property
    def held(self) -> bool:
        more = self.lied_to.failed - self.alone.failed
        return self.lied_to.mean <= self.allowed and more <= LOST * self.lied_to.requests + max(
            FEW, self.plan.callers
        )


def _run(plan: Plan, *, lies: bool) -> Figures:
    world = World(
        plan.seed,
        plan.means,
        plan.callers,
        lambda world, number, rng: AdaptiveRouter(rng=rng),
        slots=plan.slots,
    )
    if lies:
        for number, claim in plan.liars.items():
            rng = random.Random(f"claims {plan.seed} {number}")
            world.servers[number] = LyingServer(world.servers[number], CLAIMS[claim], rng)
        _send_hints(plan, world)
    honest = sum(plan.slots / mean for n, mean in enumerate(plan.means) if n not in plan.liars)
    rate = plan.load * honest
    seconds = min(SECONDS, BEGIN + REQUESTS / rate)
    world.start(rate)
    world.run(seconds + 6.0)
    judged = [f for f in world.finished if BEGIN <= f[0] < seconds]
    latencies = sorted(latency for _, latency, ok in judged if ok)
    return Figures(
        statistics.fmean(latencies),
        quantile(latencies, 0.95),
        sum(not ok for _, _, ok in judged),
        len(judged),
    )


def _send_hints(plan: Plan, world: World) -> None:
    routers = [policy for policy in world.policies if isinstance(policy, AdaptiveRouter)]

    def send() -> None:
        for router in routers:
            for worker, signal in plan.about.items():
                # More voices than a router remembers change nothing; they still have to be bounded.
                for origin in range(min(plan.origins, 40)):
                    router.on_hint(world.now, f"liar{origin}", worker, signal, 5.0, 1.0)
        world.at(world.now + plan.every, send)

    world.at(BEGIN, send)


def judge(seed: int) -> Outcome:
    """Run one seed with the lies and without."""
    plan = plan_of(seed)
    return Outcome(plan, _run(plan, lies=True), _run(plan, lies=False))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.dishonest.lies", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    args = parser.parse_args()
    failed, worst = 0, 0.0
    for seed in range(args.start, args.start + args.seeds):
        outcome = judge(seed)
        worst = max(worst, outcome.lied_to.mean / outcome.alone.mean)
        if not outcome.held:
            failed += 1
            print(
                f"seed {seed}: mean {outcome.lied_to.mean * 1e3:.1f} ms, {outcome.alone.mean * 1e3:.1f} "
                f"without lies; {outcome.lied_to.failed} failed, {outcome.alone.failed} without; "
                f"{outcome.plan}",
                flush=True,
            )
    print(f"{args.seeds} seeds, {failed} failed; greatest ratio of means {worst:.2f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
