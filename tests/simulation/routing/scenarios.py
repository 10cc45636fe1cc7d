"""The workloads, and the figures that are read off each run.

Ten servers of two slots and 20 ms mean service unless said otherwise; 75 % of their capacity is
asked for. What goes wrong does so from `BEGIN` to `END`; figures are of that window.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable
from dataclasses import dataclass

from p2p.adaptive import DEGRADED, AdaptiveRouter, RetryPolicy
from tests.simulation.routing import policies
from tests.simulation.routing.model import Policy, World

MEAN = 0.02
SERVERS = 10
BEGIN, END, STOP = 10.0, 40.0, 60.0

Make = Callable[[World, int, random.Random], Policy]


def _shared_oracle() -> Make:
    shared: dict[World, dict[int, int]] = {}

    def make(world: World, caller: int, rng: random.Random) -> Policy:
        return policies.Oracle(world, rng, shared.setdefault(world, {}))

    return make


def makers(callers: int) -> dict[str, Make]:
    """Every policy by name. C3 has to be told how many callers there are; ours does not."""
    return {
        "router": lambda w, c, rng: AdaptiveRouter(rng=rng),
        "router-weighted": lambda w, c, rng: AdaptiveRouter(rng=rng, policy="weighted"),
        "seeds-greedy": lambda w, c, rng: policies.SeedsScore(rng, greedy=True),
        "seeds-random": lambda w, c, rng: policies.SeedsScore(rng, greedy=False),
        "random": lambda w, c, rng: policies.Plain(rng),
        "round-robin": lambda w, c, rng: policies.RoundRobin(rng),
        "least-outstanding": lambda w, c, rng: policies.LeastOutstanding(rng),
        "p2c": lambda w, c, rng: policies.TwoChoices(rng),
        "peak-ewma": lambda w, c, rng: policies.PeakEwma(rng),
        "c3": lambda w, c, rng: policies.C3(rng, callers),
        "prequal": lambda w, c, rng: policies.Prequal(rng),
        "oracle": _shared_oracle(),
    }


@dataclass
class Scenario:
    """Workload. `script` receives the world before its start and schedules the events in it."""

    name: str
    figures: tuple[str, ...]
    script: Callable[[World], None] = lambda world: None
    load: float = 0.75
    callers: int = 1
    means: tuple[float, ...] = (MEAN,) * SERVERS
    touched: tuple[int, ...] = ()  # the servers whose share is watched
    stop: float = END
    retry: bool = False
    slots: int = 2


def capacity(scenario: Scenario) -> float:
    return sum(scenario.slots / mean for mean in scenario.means)


def _modes(numbers: tuple[int, ...], mode: str, end: float = END) -> Callable[[World], None]:
    def script(world: World) -> None:
        for number in numbers:
            server = world.servers[number]
            world.at(BEGIN, lambda s=server: s.change(mode))  # type: ignore[misc]
            world.at(end, lambda s=server: s.change("ok"))  # type: ignore[misc]

    return script


def _slow(world: World) -> None:
    def change(factor: float) -> None:
        for server in world.servers[:2]:
            server.mean = MEAN * factor

    world.at(BEGIN, lambda: change(10.0))
    world.at(END, lambda: change(1.0))


def _fifth_slow(world: World) -> None:
    """A fifth of the servers ten times slower from the start."""
    for server in world.servers[: len(world.servers) // 5]:
        server.mean = MEAN * 10.0


def _flaky(world: World) -> None:
    def change(rate: float) -> None:
        world.servers[0].error_rate = rate

    world.at(BEGIN, lambda: change(0.3))
    world.at(END, lambda: change(0.0))


def _everywhere(world: World) -> None:
    for server in world.servers:
        server.error_rate = 0.02


def _flap(world: World) -> None:
    for i in range(15):
        world.at(BEGIN + 2 * i, lambda: world.servers[0].change("down"))
        world.at(BEGIN + 2 * i + 1, lambda: world.servers[0].change("ok"))


def _newcomer(world: World) -> None:
    world.candidates = list(range(SERVERS - 1))
    world.at(BEGIN, lambda: world.candidates.append(SERVERS - 1))


def _lies(world: World) -> None:
    """A thousand origins call three healthy servers degraded, again and again, to every caller."""
    routers = [policy for policy in world.policies if isinstance(policy, AdaptiveRouter)]

    def lie(round_: float) -> None:
        for router in routers:
            for origin in range(1000):
                router.on_hint(world.now, f"liar{origin}", origin % 3, DEGRADED, 5.0, 1.0)
        if round_ < 15:
            world.at(world.now + 2.0, lie, round_ + 1)

    world.at(BEGIN, lie, 0)


def _gossip(world: World) -> None:
    """Every caller's own hints reach all others, once a second and 10 ms later."""
    routers = [policy for policy in world.policies if isinstance(policy, AdaptiveRouter)]

    def tell() -> None:
        for i, router in enumerate(routers):
            for hint in router.hints_due(world.now):
                for j, other in enumerate(routers):
                    if j != i:
                        other.on_hint(world.now, f"caller{i}", hint.peer, hint.signal)
        world.at(world.now + 1.0, tell)

    world.at(1.0, tell)


def _fails_with_gossip(world: World) -> None:
    _modes((0,), "fail")(world)
    _gossip(world)


UNEVEN = (0.01,) * 3 + (0.02,) * 4 + (0.04,) * 3
P = ("p50", "p99", "p99.9", "errors")

SCENARIOS = [
    Scenario("uniform 75 %", P),
    Scenario("uniform 90 %", P, load=0.9),
    Scenario("two of ten 10x slower", (*P, "away", "back"), _slow, touched=(0, 1), stop=STOP),
    Scenario("one fails fast", (*P, "away", "back"), _modes((0,), "fail"), touched=(0,), stop=STOP),
    Scenario(
        "one fails fast, retries",
        (*P, "attempts"),
        _modes((0,), "fail"),
        touched=(0,),
        retry=True,
    ),
    Scenario("one hangs", (*P, "away", "back"), _modes((0,), "hang"), touched=(0,), stop=STOP),
    Scenario("one flaky, 30 %", (*P, "back"), _flaky, touched=(0,), stop=STOP),
    Scenario("one flaps, 1 s", P, _flap, touched=(0,)),
    Scenario("2 % errors everywhere, 90 %", P, _everywhere, load=0.9),
    Scenario("all down for 5 s", ("normal",), _modes(tuple(range(10)), "down", 15.0), stop=25.0),
    Scenario("servers of different speed", P, means=UNEVEN),
    Scenario("a newcomer", (*P, "joined"), _newcomer, touched=(9,), stop=25.0),
    Scenario("30 callers", P, callers=30),
    Scenario("30 callers, 90 %", P, load=0.9, callers=30),
    Scenario(
        "30 callers, two slow", (*P, "away", "back"), _slow, touched=(0, 1), stop=STOP, callers=30
    ),
    Scenario(
        "30 callers, one fails fast",
        (*P, "away", "back"),
        _modes((0,), "fail"),
        touched=(0,),
        stop=STOP,
        callers=30,
    ),
    Scenario(
        "30 callers, one hangs",
        (*P, "away", "back"),
        _modes((0,), "hang"),
        touched=(0,),
        stop=STOP,
        callers=30,
    ),
    Scenario("30 callers, one flaky", (*P, "back"), _flaky, touched=(0,), stop=STOP, callers=30),
    Scenario("30 callers, different speed", P, means=UNEVEN, callers=30),
    Scenario(
        "30 callers, one fails fast, hints",
        (*P, "away", "back"),
        _fails_with_gossip,
        touched=(0,),
        stop=STOP,
        callers=30,
    ),
    Scenario("30 callers, false hints", P, _lies, callers=30),
    Scenario("100 callers, one fails fast", P, _modes((0,), "fail"), callers=100),
    Scenario("100 callers, two slow", P, _slow, callers=100),
    Scenario("50 servers, ten slow", P, _fifth_slow, means=(MEAN,) * 50, stop=20.0),
]


def simulate(scenario: Scenario, policy: str, seed: int) -> dict[str, float]:
    """Run once; the figures by name: latencies and times in ms and s, errors in %."""
    retry = (lambda rng: RetryPolicy(rng=rng)) if scenario.retry else None
    world = World(
        seed,
        scenario.means,
        scenario.callers,
        makers(scenario.callers)[policy],
        slots=scenario.slots,
        retry=retry,
    )
    scenario.script(world)
    world.start(scenario.load * capacity(scenario))
    world.run(scenario.stop + 6.0)
    return figures(scenario, world)


def figures(scenario: Scenario, world: World) -> dict[str, float]:
    window = [f for f in world.finished if BEGIN <= f[0] < min(END, scenario.stop)]
    latencies = sorted(latency for _, latency, ok in window if ok)
    found: dict[str, float] = {}
    for name in scenario.figures:
        if name == "errors":
            found[name] = 100.0 * sum(not ok for _, _, ok in window) / max(1, len(window))
        elif name.startswith("p"):
            found[name] = 1e3 * quantile(latencies, float(name[1:]) / 100)
        elif name == "attempts":
            found[name] = sum(BEGIN <= t < END for t, _ in world.sent) / max(1, len(window))
        elif name == "normal":
            found[name] = _normal(world, 15.0)
        else:
            found[name] = _shift(scenario, world, name)
    return found


def quantile(ordered: list[float], share: float) -> float:
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _shift(scenario: Scenario, world: World, what: str) -> float:
    """Seconds until the touched servers get less than a quarter of their share for half a second
    (away), or at least half of it for a second (back) or for half a second (joined)."""
    share = sum(1 / scenario.means[n] for n in scenario.touched) / sum(
        1 / mean for mean in scenario.means
    )
    fair = scenario.load * capacity(scenario) * share  # requests a second
    times = [t for t, peer in world.sent if peer in scenario.touched]
    start, span, low = {
        "away": (BEGIN, 0.5, True),
        "back": (END, 1.0, False),
        "joined": (BEGIN, 0.5, False),
    }[what]
    at = start
    while at < scenario.stop:
        count = bisect.bisect_left(times, at + span) - bisect.bisect_left(times, at)
        if (count < 0.25 * fair * span) if low else (count >= 0.5 * fair * span):
            return at - start
        at += 0.02
    return float("inf")


def _normal(world: World, start: float) -> float:
    """Seconds after `start` from which on 99 of 100 requests work, second by second."""
    failures = [t for t, _, ok in world.finished if t >= start and not ok]
    after = sorted((t, ok) for t, _, ok in world.finished if t >= start)
    for failed in reversed(failures):
        near = [ok for t, ok in after if failed <= t < failed + 0.5]
        if near and sum(near) < 0.99 * len(near):
            return failed - start
    return 0.0
