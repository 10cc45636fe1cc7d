"""Latency of honest orders beside one misbehaviour, with as little else as possible.

Four honest nodes in a full mesh, no faults, links of a fraction of a millisecond unless another delay is chosen: what an
attack adds is not hidden by what the network takes. Each attacker has a link to every node, or as many as slots allow.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.dishonest.gangs import Gang, Member, crowd_of
from tests.simulation.dishonest.misbehaviours import Misbehaviour
from tests.simulation.dishonest.world import DishonestWorld
from tests.simulation.disk import unforced_writes
from tests.simulation.keys import checked_once
from tests.simulation.settings import Faults, Settings, Trading, settings_of

NODES = 4


@dataclass(slots=True, frozen=True)
class Latency:
    """The p95 of trades between honest nodes, seconds."""

    attacked: float
    alone: float

    @property
    def ratio(self) -> float:
        return self.attacked / self.alone


def quiet_settings(seed: int, delay: str) -> Settings:
    settings = settings_of(seed)
    settings.nodes, settings.topology, settings.delay = NODES, "mesh", delay
    settings.datagrams = settings.real_keys = settings.journal = settings.partial = False
    settings.commit, settings.pipelined, settings.group = (0.0005, 0.005), False, 0.0
    settings.skew = settings.drift = 0.0
    settings.checkpoint_every, settings.page_orders = 1024, 4096
    settings.batch_events, settings.early_batches = 256, 256
    settings.latecomers, settings.orders, settings.duration = 0, 20, 6.0
    settings.lease_ms, settings.markets = 9000, 1
    settings.faults, settings.trading = Faults(), Trading()
    return settings


def gang_with(kind: type[Misbehaviour], shape: str, seed: int) -> Gang:
    """One identity with a link to each node, or 50 of one network."""
    if shape == "one":
        members = (Member((kind,), tuple(range(NODES)), "198.51.100.7"),)
    else:
        members = crowd_of(random.Random(f"crowd {seed}"), NODES, [kind])
    return Gang(shape, 0.3, members)


def measure(
    kind: type[Misbehaviour], shape: str, seed: int, delay: str = "lan", probes: int = 64
) -> Latency:
    """Time trades beside attackers and after they left.

    Raises:
        Violation: an invariant does not hold, or a bound was exceeded; the latency is not judged.
    """
    settings = quiet_settings(seed, delay)
    gang = gang_with(kind, shape, seed)

    class Measured(DishonestWorld):
        probes = 64
        judged = False

        def choose_gang(self) -> Gang:
            return gang

    Measured.probes = probes
    with (
        tempfile.TemporaryDirectory(prefix="simulation-") as directory,
        settings.limits(),
        Gang.limits(),
        checked_once(),
        unforced_writes(),
    ):
        world = Measured(settings, Path(directory))
        try:
            world.run()
        finally:
            for node in world.nodes:
                node.disk.close()
    return Latency(world.latency["attacked"], world.latency["alone"])
