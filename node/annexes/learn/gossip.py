"""Steps 7 and 8: hints about a bad worker spread over the mesh, fade, and are taken back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from node.annexes.learn.sheet import Settings, Sheet
from node.annexes.learn.virtual_mesh import VirtualMesh, identity
from node.virtual.server_model import VirtualTime, seeded
from node.virtual.simulated_workers import CallPlan, OutcomeCounts, SimulatedCaller, SimulatedWorker
from p2p.adaptive import DEGRADED, HEALTHY, AdaptiveRouter, HintBook, HintSettings

BAD_AT = 3.0
NEWCOMERS_AT = 10.0
OBSERVERS = 4  # nodes that call from the start
CALLS = 4  # first calls of each newcomer
BAD = "bad"
NAMES = (BAD, "good 1", "good 2", "good 3", "good 4")


@dataclass
class Spread:
    """Outcome of `spread`: when the first hint was published, when others had it, and their first calls."""

    mesh: VirtualMesh
    published: float
    publisher: int
    arrived: dict[int, float]  # node -> when it had the first hint
    calls: int
    calls_to_bad: int
    failed_attempts: int
    back_after: float  # from recovery until the first caller gives the worker half its share


def workers_of(
    time: VirtualTime, seed: int, names: Sequence[str] = NAMES
) -> dict[str, SimulatedWorker]:
    """Return workers named by node ids, by their plain names."""
    return {
        name: SimulatedWorker(time, seeded(name, seed), identity(seed, name).node_id)
        for name in names
    }


def spread(
    seed: int,
    nodes: int,
    links: int,
    *,
    heard: bool = True,
    hints: HintSettings | None = None,
    recovers_at: float | None = None,
    until: float = 12.0,
) -> Spread:
    """A few nodes call five workers; from `BAD_AT` on one of them fails 90 % of its requests. From
    `NEWCOMERS_AT` on all other nodes, which never called, make their first calls. Without `heard` they
    know nothing of hints.
    """
    time = VirtualTime()
    mesh = VirtualMesh(time, seed, nodes, links, hints)
    workers = workers_of(time, seed)
    bad = workers[BAD]
    time.at(BAD_AT, lambda: setattr(bad, "error_rate", 0.9))
    if recovers_at is not None:
        time.at(recovers_at, lambda: setattr(bad, "error_rate", 0.0))
    first, others = OutcomeCounts(0.25), OutcomeCounts(0.25)
    staff = list(workers.values())
    for number in range(OBSERVERS):
        choice = mesh.nodes[number].choice
        plan = CallPlan(100.0, until)
        SimulatedCaller(time, seeded(f"caller {number}", seed), choice, staff, first, plan)
    for number in range(OBSERVERS, nodes):
        node = mesh.nodes[number]
        choice = node.choice if heard else AdaptiveRouter[str](rng=seeded(f"deaf {number}", seed))
        rng = seeded(f"newcomer {number}", seed)
        time.at(NEWCOMERS_AT, _join, time, rng, choice, staff, others, until)
    time.run(until + 3.0)
    published, publisher = mesh.published[0] if mesh.published else (until, 0)
    origin = mesh.nodes[publisher].identity.node_id
    arrived = {
        number: min(at for at, by, _ in node.hints if by == origin)
        for number, node in enumerate(mesh.nodes)
        if any(by == origin for _, by, _ in node.hints)
    }
    back = until
    if recovers_at is not None:
        step = 0.5
        at = recovers_at
        while at < until and first.share_between(at, at + step, bad.name) < 0.1:
            at += step
        back = at
    return Spread(
        mesh,
        published,
        publisher,
        arrived,
        others.attempts,
        sum(row.get(bad.name, 0) for row in others.sent.values()),
        others.failed_attempts.get(bad.name, 0),
        back - (recovers_at or 0.0),
    )


def _join(
    time: VirtualTime,
    rng: random.Random,
    choice: AdaptiveRouter[str],
    staff: list[SimulatedWorker],
    counts: OutcomeCounts,
    until: float,
) -> None:
    """Let a node that never called begin to."""
    SimulatedCaller(time, rng, choice, staff, counts, CallPlan(CALLS / 2, until))


def spreading(seed: int, settings: Settings) -> Sheet:
    """Step 7."""
    sheet = Sheet()
    nodes, links = max(OBSERVERS + 2, int(settings["nodes"])), max(2, int(settings["links"]))
    found = spread(seed, nodes, links)
    deaf = spread(seed, nodes, links, heard=False)
    mesh = found.mesh
    hops = mesh.hops(found.publisher)
    sheet.event(BAD_AT, "worker 'bad' fails 90 % of its requests; nodes 0 to 3 call it")
    sheet.event(found.published, f"node {found.publisher} publishes the first signed hint")
    for distance in range(1, max(hops) + 1):
        times = [at for n, at in found.arrived.items() if hops[n] == distance]
        if times:
            sheet.event(max(times), f"{len(times)} nodes at {distance} links from it have the hint")
    last = max(found.arrived.values())
    sheet.event(NEWCOMERS_AT, f"{nodes - OBSERVERS} nodes that never called make their first calls")
    sheet.table(
        ("newcomers", "attempts", "to 'bad'", "share", "failed there"),
        [
            (name, s.calls, s.calls_to_bad, s.calls_to_bad / s.calls, s.failed_attempts)
            for name, s in (("with hints", found), ("without", deaf))
        ],
    )
    sheet.figure("published_after_ms", 1000 * (found.published - BAD_AT), 0)
    sheet.figure("spread_ms", 1000 * (last - found.published), 0)
    sheet.figure("nodes_reached", len(found.arrived), 0)
    sheet.figure("links_away", max(hops), 0)
    sheet.figure("share_with_hints", found.calls_to_bad / found.calls)
    sheet.figure("share_without", deaf.calls_to_bad / deaf.calls)
    return sheet


def fading(seed: int, settings: Settings) -> Sheet:
    """Step 8."""
    sheet = Sheet()
    hints = HintSettings(ttl_s=max(1.0, settings["ttl_s"]))
    book = HintBook(hints)
    book.receive(0.0, "a", BAD, DEGRADED)
    rows = []
    for age in (0, 5, 10, 20, 30, 45, 60):
        factors = [book.factor(float(age), BAD, good) for good in (0.0, 1.0, 3.0)]
        rows.append((f"{age} s", hints.weight(age), *factors))
    sheet.text("One DEGRADED hint: what a cost is multiplied by, as the hint ages")
    sheet.table(("age", "weight", "no own calls", "1 own success", "3 own successes"), rows)
    liars = HintBook(hints)
    for number in range(1000):
        liars.receive(0.0, f"origin {number}", BAD, DEGRADED)
    book.receive(10.0, "b", BAD, HEALTHY)
    book.receive(10.0, "a", BAD, HEALTHY)
    taken_back = book.factor(10.0, BAD, 0.0)
    sheet.text()
    sheet.text(f"1,000 origins say the same: times {liars.factor(0.0, BAD, 0.0):.2f}, and no more")
    sheet.text(f"10 s later the origin says HEALTHY: times {taken_back:.2f}")
    found = spread(seed, 8, 3, hints=hints, recovers_at=6.0, until=20.0)
    sheet.event(6.0, "in the mesh of step 7 the bad worker is well again")
    sheet.event(6.0 + found.back_after, "the nodes that call give it half of its share again")
    sheet.figure("factor_fresh", float(str(rows[0][2])))
    sheet.figure("factor_10s", float(str(rows[2][2])))
    sheet.figure("factor_60s", float(str(rows[6][2])))
    sheet.figure("factor_3_own_successes", float(str(rows[0][4])))
    sheet.figure("factor_1000_origins", liars.factor(0.0, BAD, 0.0))
    sheet.figure("factor_taken_back", taken_back)
    sheet.figure("back_after_s", found.back_after, 2)
    return sheet
