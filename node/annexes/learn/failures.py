"""Steps 9 and 10: injected failures with their times of detection and recovery, and trade-offs as figures."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from node.annexes.learn.calls import World, adaptive
from node.annexes.learn.gossip import spread
from node.annexes.learn.grape_lessons import announce, cluster_of, look_up
from node.annexes.learn.sheet import Settings, Sheet
from node.annexes.learn.virtual_mesh import NETWORK, VirtualMesh, identity
from node.virtual.server_model import VirtualTime
from node.virtual.simulated_workers import CallPlan, Picker, Reply, SimulatedWorker
from p2p.adaptive import DEGRADED, AdaptiveRouter, Hint, HintSettings, Weights
from p2p.services.health_gossip import HealthGossip

FAULT, MENDED, LENGTH = 4.0, 8.0, 16.0
FAIR = 0.2


class LossyWorker(SimulatedWorker):
    """Worker behind a flaky network: `lost` of the requests never arrive."""

    lost = 0.0

    def arrive(self, reply: Reply) -> None:
        if self._rng.random() >= self.lost:
            super().arrive(reply)


Fault = tuple[Callable[[LossyWorker], None], Callable[[LossyWorker], None]]
FAULTS: dict[str, Fault] = {
    "crash": (lambda w: w.crash(), lambda w: w.rise()),
    "slow": (lambda w: setattr(w, "slow", 10.0), lambda w: setattr(w, "slow", 1.0)),
    "network": (lambda w: setattr(w, "lost", 0.5), lambda w: setattr(w, "lost", 0.0)),
}


def _times(world: World, name: str) -> tuple[float, float]:
    """Return the seconds until traffic left a worker (a quarter of its share), and until it was back."""
    slices = [n / 4 for n in range(int(LENGTH * 4))]
    away = next(
        (t for t in slices if t >= FAULT and world.share(name, t, t + 0.25) < FAIR / 4), LENGTH
    )
    back = next(
        (t for t in slices if t >= MENDED and world.share(name, t, t + 0.5) > FAIR / 2), LENGTH
    )
    return away - FAULT, back - MENDED


def injected(seed: int, settings: Settings) -> Sheet:
    """Step 9."""
    sheet = Sheet()
    rows: list[tuple[object, ...]] = []
    for name, (begin, end) in FAULTS.items():
        world = World(
            seed, adaptive, CallPlan(300.0, LENGTH), callers=3, kind=LossyWorker, slice_s=0.25
        )
        worker = world.workers["flaky"]
        assert isinstance(worker, LossyWorker)  # noqa: S101 - made above
        world.time.at(FAULT, begin, worker)
        world.time.at(MENDED, end, worker)
        tally = world.run()
        away, back = _times(world, "flaky")
        share = world.share("flaky", FAULT + 0.5, MENDED)
        rows.append((name, away, share, back, tally.failed_calls))
        sheet.figure(f"{name}_share", share)
        sheet.figure(f"{name}_back_s", back, 2)
        sheet.figure(f"{name}_failed_calls", tally.failed_calls, 0)
    sheet.table(("fault", "away after s", "share meanwhile", "back after s", "failed calls"), rows)
    sheet.text()
    _false_gossip(sheet, seed, int(settings["liars"]))
    sheet.text()
    network = cluster_of(seed, 4, 0.002)
    network.run(2.0)
    hosts = list(network.hosts.values())
    announce(network, hosts[1], 1337)
    network.run(1.0)
    network.remove(hosts[3].address)
    seconds, found = look_up(network, hosts[2])
    sheet.text(
        f"One of four Grapes dies: the next lookup takes {1000 * seconds:.0f} ms, {found} found"
    )
    sheet.figure("grape_lookup_ms", 1000 * seconds, 1)
    sheet.figure("grape_found", found, 0)
    return sheet


def _false_gossip(sheet: Sheet, seed: int, liars: int) -> None:
    """Nodes that accuse a healthy worker: with their own key, in another's name, and by an old message."""
    time = VirtualTime()
    mesh = VirtualMesh(time, seed, 8, 3)
    victim, other = (identity(seed, name).node_id for name in ("victim", "other"))
    lie = [Hint(victim, DEGRADED, 1.0, 1.0, "a lie")]
    time.run(1.0)
    kept = b""
    for number in range(1, min(liars, 6) + 1):
        gossip = HealthGossip(mesh.nodes[number].identity, NETWORK, incarnation=2)
        kept = gossip.publish(lie) or b""
        mesh.broadcast(number, kept)
    time.run(2.0)
    receiver = mesh.nodes[7]
    taken = sum(about == victim for _, _, about in receiver.hints)
    fresh = receiver.choice.hints.factor(time.now, victim, 0.0)
    proven = receiver.choice.hints.factor(time.now, victim, 5.0)
    known = receiver.gossip.receive(time.now, kept, _ignore) if kept else True
    again = sum(about == victim for _, _, about in receiver.hints) - taken
    accused = HealthGossip(identity(seed, "stranger"), NETWORK, incarnation=1).publish(lie) or b""
    middle = len(accused) // 2
    forged = accused[:middle] + bytes([accused[middle] ^ 1]) + accused[middle + 1 :]
    refused = receiver.gossip.receive(time.now, forged, _ignore) is False
    sheet.text(
        f"False gossip: {taken} signed lies about a healthy worker. To a node without experience it "
        f"costs {fresh:.2f} times as much, after five answers of its own {proven:.2f} times."
    )
    sheet.text(
        f"The same message again: {'valid, without effect' if known and not again else 'taken'}. "
        f"One with a changed byte: {'refused, and charged to the link' if refused else 'taken'}."
    )
    picks = [receiver.choice.pick(time.now, [victim, other]) for _ in range(10)]
    sheet.text(
        f"The slandered worker gets {picks.count(victim)} of the next 10 first picks of two."
    )
    sheet.figure("lie_factor_newcomer", fresh)
    sheet.figure("lie_factor_experienced", proven)
    sheet.figure("replays_taken", again, 0)
    sheet.figure("forgeries_refused", int(refused), 0)


def _ignore(*_: object) -> None:
    """Take nothing."""


class Shared:
    """One router that all callers use: a load balancer that sees every request, one hop away."""

    def __init__(self) -> None:
        self._router: AdaptiveRouter[str] | None = None

    def make(self, rng: random.Random) -> Picker:
        if self._router is None:
            self._router = AdaptiveRouter(rng=rng)
        return self._router


def _weighted(weights: Weights, rng: random.Random) -> Picker:
    return AdaptiveRouter[str](rng=rng, policy="weighted", weights=weights)


def trade_offs(seed: int, settings: Settings) -> Sheet:
    """Step 10."""
    sheet = Sheet()
    callers = max(1, int(settings["callers"]))
    rows: list[tuple[object, ...]] = []
    p99 = {}
    makers = {"one for all": Shared().make, "each caller its own": adaptive}
    for name, make in makers.items():
        world = World(seed, make, CallPlan(850.0, 5.0), callers=callers)
        world.run()
        p99[name] = world.ms(0.99)
        rows.append((name, world.ms(0.5), p99[name]))
    sheet.text(f"Who chooses: {callers} callers, 85 % load")
    sheet.table(("router", "p50 ms", "p99 ms"), rows)
    told, alone = spread(seed, 12, 4), spread(seed, 12, 4, heard=False)
    sheet.text()
    sheet.text("Hints or experience alone: first calls to the bad worker")
    sheet.table(
        ("newcomers", "share"),
        [
            ("with hints", told.calls_to_bad / told.calls),
            ("without", alone.calls_to_bad / alone.calls),
        ],
    )
    sheet.text()
    sheet.text("How fast hints fade: weight after 10 s")
    weights = {ttl: HintSettings(ttl_s=ttl).weight(10.0) for ttl in (12.0, 60.0, 300.0)}
    sheet.table(("GOSSIP_HINT_TTL", "weight"), [(f"{ttl:g} s", w) for ttl, w in weights.items()])
    sheet.text()
    sheet.text("Weights of the weighted policy: share of a worker that fails 30 %, and p99")
    rows = []
    flaky = {}
    for name, w in {
        "latency 0.4, error 0.3": Weights(),
        "latency 0.8, error 0.05": Weights(0.8, 0.05, 0.1, 0.05),
        "latency 0.1, error 0.8": Weights(0.1, 0.8, 0.05, 0.05),
    }.items():
        world = World(seed, partial(_weighted, w))
        world.workers["flaky"].error_rate = 0.3
        world.run()
        flaky[name] = world.share("flaky")
        rows.append((name, flaky[name], world.ms(0.99)))
    sheet.table(("weights", "share", "p99 ms"), rows)
    shares = list(flaky.values())
    sheet.figure("p99_shared_ms", p99["one for all"], 1)
    sheet.figure("p99_own_ms", p99["each caller its own"], 1)
    sheet.figure("share_with_hints", told.calls_to_bad / told.calls)
    sheet.figure("share_without_hints", alone.calls_to_bad / alone.calls)
    sheet.figure("weight_short_ttl", weights[12.0])
    sheet.figure("weight_long_ttl", weights[300.0])
    sheet.figure("flaky_share_latency_first", shares[1])
    sheet.figure("flaky_share_errors_first", shares[2])
    return sheet
