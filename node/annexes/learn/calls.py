"""Steps 3 to 6: calls to five workers, at random, measured, by score, and behind a circuit breaker."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial

from node.annexes.learn.sheet import Settings, Sheet
from node.virtual.server_model import VirtualTime, seeded
from node.virtual.simulated_workers import (
    CallPlan,
    OutcomeCounts,
    Picker,
    SimulatedCaller,
    SimulatedWorker,
)
from p2p.adaptive import AdaptiveRouter, Breaker, BreakerSettings, BreakerState, Load, Outcome

NAMES = ("steady 1", "steady 2", "steady 3", "slow", "flaky")
RATE = 200.0  # calls a second; five healthy workers could do 1000
LENGTH = 10.0


class RandomChoice:
    """Picks at random, and learns nothing; `measured`, if given, receives every result."""

    def __init__(self, rng: random.Random, measured: AdaptiveRouter[str] | None = None) -> None:
        self._rng = rng
        self._measured = measured

    def pick(self, now: float, candidates: Sequence[str], exclude: Collection[str] = ()) -> str:
        left = [peer for peer in candidates if peer not in exclude] or list(candidates)
        return self._rng.choice(left)

    def on_send(self, now: float, peer: str) -> None:
        if self._measured is not None:
            self._measured.on_send(now, peer)

    def on_result(
        self, now: float, peer: str, latency_s: float, outcome: Outcome, load: Load | None
    ) -> None:
        if self._measured is not None:
            self._measured.on_result(now, peer, latency_s, outcome, load)


class World:
    """Five workers, callers and a tally, in virtual time."""

    def __init__(
        self,
        seed: int,
        make: Callable[[random.Random], Picker],
        plan: CallPlan = CallPlan(RATE, LENGTH),  # noqa: B008 - cannot be changed
        *,
        callers: int = 1,
        kind: type[SimulatedWorker] = SimulatedWorker,
        slice_s: float = 0.1,
    ) -> None:
        """`plan` is what all callers do together."""
        self.time = VirtualTime()
        self.tally = OutcomeCounts(slice_s)
        self.workers = {name: kind(self.time, seeded(name, seed), name) for name in NAMES}
        self.pickers = []
        self.length = plan.until
        for number in range(callers):
            rng = seeded(f"caller {number}", seed)
            picker = make(rng)
            self.pickers.append(picker)
            SimulatedCaller(
                self.time,
                rng,
                picker,
                list(self.workers.values()),
                self.tally,
                plan._replace(rate=plan.rate / callers),
            )

    def run(self) -> OutcomeCounts:
        """Run to the end, calls under way included."""
        self.time.run(self.length + 5.0)
        return self.tally

    def share(self, name: str, start: float = 0.0, end: float | None = None) -> float:
        return self.tally.share_between(start, self.length if end is None else end, name)

    def ms(self, percentile: float) -> float:
        return 1000 * self.tally.percentile(percentile)


def troubled(world: World, slow: float = 8.0, error_rate: float = 0.3) -> World:
    world.workers["slow"].slow = slow
    world.workers["flaky"].error_rate = error_rate
    return world


def adaptive(rng: random.Random) -> AdaptiveRouter[str]:
    return AdaptiveRouter(rng=rng)


def baseline(seed: int, settings: Settings) -> Sheet:
    """Step 3."""
    sheet = Sheet()
    world = troubled(World(seed, RandomChoice, CallPlan(RATE, LENGTH, int(settings["retries"]))))
    tally = world.run()
    sheet.table(
        ("worker", "share of attempts", "failed attempts"),
        [(name, world.share(name), tally.failed_attempts.get(name, 0)) for name in NAMES],
    )
    sheet.text(
        f"{tally.calls:,} calls, {tally.attempts:,} attempts, {tally.failed_calls} calls failed"
    )
    sheet.figure("slow_share", world.share("slow"))
    sheet.figure("failed_share", tally.failed_calls / tally.calls)
    sheet.figure("attempts_per_call", tally.attempts / tally.calls)
    sheet.figure("p50_ms", world.ms(0.5), 1)
    sheet.figure("p99_ms", world.ms(0.99), 1)
    return sheet


def measuring(seed: int, settings: Settings) -> Sheet:
    """Step 4."""
    sheet = Sheet()
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=seeded("router", seed))
    world = troubled(World(seed, lambda rng: RandomChoice(rng, router), CallPlan(RATE, LENGTH, 0)))
    mended = world.workers["flaky"]
    world.time.at(
        max(0.1, LENGTH - settings["well_for_s"]), lambda: setattr(mended, "error_rate", 0.0)
    )
    world.time.run(LENGTH)
    rows = []
    recent = {}
    for name in NAMES:
        m = router.metrics(name)
        if m is None:
            continue
        recent[name] = (m.failing + m.hanging) / (m.calls + 2.0)
        counts = (m.success_count, m.error_count, m.timeout_count, m.total_calls)
        seen = 0.0 if m.last_seen_ts is None else m.last_seen_ts
        lifetime = (m.error_count + m.timeout_count) / m.total_calls
        rows.append((name, m.avg_latency_ms or 0.0, *counts, f"{seen:.2f}", lifetime, recent[name]))
    names = ("avg_latency_ms", "success_count", "error_count", "timeout_count", "total_calls")
    sheet.table(("worker", *names, "last_seen_ts", "lifetime", "recent"), rows)
    sheet.text(
        "lifetime, recent: share of failures among all calls, and among the latest (decayed)"
    )
    latency = {str(row[0]): float(str(row[1])) for row in rows}
    flaky = router.metrics("flaky")
    assert flaky is not None  # noqa: S101 - it was called hundreds of times
    sheet.figure(
        "slow_over_steady", 3 * latency["slow"] / sum(latency[name] for name in NAMES[:3]), 1
    )
    sheet.figure("lifetime_error_rate", flaky.error_count / flaky.total_calls)
    sheet.figure("recent_error_rate", recent["flaky"])
    sheet.figure("calls_counted", sum(int(str(row[5])) for row in rows), 0)
    return sheet


def scoring(seed: int, settings: Settings) -> Sheet:
    """Step 5."""
    sheet = Sheet()
    policies: dict[str, Callable[[random.Random], Picker]] = {
        "random": RandomChoice,
        "weighted": lambda rng: AdaptiveRouter(rng=rng, policy="weighted"),
        "adaptive": adaptive,
    }
    rows = []
    for policy, make in policies.items():
        world = troubled(World(seed, make), slow=settings["slow_factor"])
        world.run()
        rows.append((policy, *(world.share(name) for name in NAMES), world.ms(0.5), world.ms(0.99)))
        sheet.figure(f"slow_share_{policy}", world.share("slow"))
        sheet.figure(f"p99_{policy}_ms", world.ms(0.99), 1)
        picker = world.pickers[0]
        if isinstance(picker, AdaptiveRouter):
            sheet.text(f"{policy}, at the end:")
            for row in picker.explain(LENGTH, NAMES):
                sheet.text(f"  {row.peer:<9} {row.cost:9.4f}  {row.why}")
    sheet.table(("policy", *(f"share {name}" for name in NAMES), "p50 ms", "p99 ms"), rows)
    return sheet


DOWN, UP = 4.0, 10.0


class BreakerChoice:
    """Picks at random among the workers whose breaker allows it; nothing else is learned."""

    def __init__(
        self,
        rng: random.Random,
        settings: BreakerSettings,
        on_change: Callable[[float, str, BreakerState, str], None],
    ) -> None:
        self._rng = rng
        self._tags: dict[str, list[tuple[float, int]]] = {name: [] for name in NAMES}

        def changed(name: str, now: float, old: BreakerState, new: BreakerState, why: str) -> None:
            on_change(now, name, new, f"{old} to {new}: {why}")

        self.breakers = {
            name: Breaker(settings, rng=rng, on_change=partial(changed, name)) for name in NAMES
        }

    def pick(self, now: float, candidates: Sequence[str], exclude: Collection[str] = ()) -> str:
        allowed = [peer for peer in candidates if self.breakers[peer].allows(now)]
        left = [peer for peer in allowed if peer not in exclude]
        return self._rng.choice(left or allowed or list(candidates))

    def on_send(self, now: float, peer: str) -> None:
        self._tags[peer].append((now, self.breakers[peer].on_send(now)))

    def on_result(
        self, now: float, peer: str, latency_s: float, outcome: Outcome, load: Load | None
    ) -> None:
        tags = self._tags[peer]
        sent = min(tags, key=lambda entry: abs(entry[0] - (now - latency_s)))
        tags.remove(sent)
        self.breakers[peer].on_result(now, sent[1], outcome == "ok")


def breaking(seed: int, settings: Settings) -> Sheet:
    """Step 6."""
    sheet = Sheet()
    changes: list[tuple[float, BreakerState]] = []
    length = 22.0

    def note(at: float, name: str, state: BreakerState, why: str) -> None:
        changes.append((at, state))
        sheet.event(at, f"breaker of {name!r}: {why}")

    breaker = BreakerSettings(cooldown_s=max(0.1, settings["cooldown_s"]))
    world = World(seed, lambda rng: BreakerChoice(rng, breaker, note), CallPlan(RATE, length))
    crashing = world.workers["flaky"]
    for at, what, action in ((DOWN, "crashes", crashing.crash), (UP, "is back", crashing.rise)):
        world.time.at(at, sheet.event, at, f"worker 'flaky' {what}")
        world.time.at(at, action)
    tally = world.run()
    down = sum(row.get("flaky", 0) for n, row in tally.sent.items() if DOWN <= n / 10 < UP)
    opened = next((at for at, state in changes if state is BreakerState.OPEN), length)
    probes = sum(state is BreakerState.HALF_OPEN for _, state in changes)
    ends = [at for at, state in changes if at > UP and state is BreakerState.CLOSED]
    closed = ends[0] if ends else length
    sheet.text(
        f"{down} attempts went to it while it was down; at random it had been about "
        f"{RATE * (UP - DOWN) / 5:.0f}. {tally.failed_calls} of {tally.calls:,} calls failed."
    )
    sheet.figure("opened_after_ms", 1000 * (opened - DOWN), 0)
    sheet.figure("attempts_while_down", down, 0)
    sheet.figure("probes", probes, 0)
    sheet.figure("closed_after_s", closed - UP, 2)
    sheet.figure("failed_calls", tally.failed_calls, 0)
    return sheet
