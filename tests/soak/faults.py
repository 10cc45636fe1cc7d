"""Faults of a soak: processes killed, stopped and frozen, links cut, stalled and slowed down.

Two hands at work, one on the processes and one on the links, so that faults overlap. Which fault, where and
for how long comes from the seed; when exactly depends on the machine.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.integration.processes import GrapeProcess, NodeProcess
from tests.soak.links import Links

Note = Callable[[str], None]
# Faults of links with how often they are chosen.
LINK_FAULTS: Final = {
    **{"cut": 3, "isolate": 2, "split": 2, "stall": 2, "half": 2, "slow": 2, "flap": 1},
}
DETOUR: Final = {"detour": 3}  # a node's direct links are cut, so that Grenache carries all
GRAPE: Final = {"no Grape": 2}
SWITCHING: Final = 9.0  # seconds: more than it takes until a link is tried over Grenache


@dataclass
class Faults:
    """`intensity` 1: each hand begins a fault 1 to 6 s after its last one was undone. `grape`: the one
    that the nodes use, if they do."""

    nodes: Sequence[NodeProcess]
    links: Links
    grape: GrapeProcess | None
    rng: random.Random
    note: Note
    longest: float  # seconds of one fault
    intensity: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)
    active: int = 0
    last: float = 0.0  # monotonic seconds: the end of the last one
    down: set[int] = field(default_factory=set)  # nodes that do not run on purpose
    restarted: set[int] = field(default_factory=set)  # nodes
    failures: list[str] = field(default_factory=list)

    def calm_since(self, moment: float) -> bool:
        return not self.active and self.last < moment

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; all is undone when this returns."""
        seeds = [random.Random(self.rng.random()) for _ in range(2)]
        await asyncio.gather(
            self._hand(stop, seeds[0], self._process_fault),
            self._hand(stop, seeds[1], self._link_fault),
        )
        self.links.heal()

    async def _hand(
        self,
        stop: asyncio.Event,
        rng: random.Random,
        fault: Callable[[random.Random], Awaitable[None]],
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(rng.uniform(1.0, 6.0) / self.intensity):
                    await stop.wait()
                return
            except TimeoutError:
                pass
            self.active += 1
            try:
                await fault(rng)
            finally:
                self.active -= 1
                self.last = time.monotonic()

    async def watch(self) -> None:
        """A node that ends by itself is a failure; it is started again, so that the rest can go on."""
        while True:
            await asyncio.sleep(0.5)
            for number, node in enumerate(self.nodes):
                if node.running or number in self.down:
                    continue
                self.failures.append(f"{node.name} ended by itself with {node.exit_code()}")
                self.down.add(number)
                await self._start(number)

    # Processes

    async def _process_fault(self, rng: random.Random) -> None:
        number = rng.randrange(len(self.nodes))
        kind = rng.choices(("kill", "two", "stop", "freeze", "nap"), (5, 1, 2, 1, 2))[0]
        if self.down:  # one ended by itself
            return
        if kind == "two":
            numbers = sorted(
                {number, (number + rng.randrange(1, len(self.nodes))) % len(self.nodes)}
            )
            self._begin("kill -9 two", *numbers)
            self.down.update(numbers)
            for each in numbers:
                await asyncio.to_thread(self.nodes[each].kill9)
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await asyncio.gather(*(self._start(each) for each in numbers))
        elif kind == "kill":
            self._begin("kill -9", number)
            self.down.add(number)
            await asyncio.to_thread(self.nodes[number].kill9)
            await asyncio.sleep(min(self.longest, rng.choice((0.0, rng.uniform(0.0, 4.0), 12.0))))
            await self._start(number)
        elif kind == "stop":
            self._begin("orderly restart", number)
            self.down.add(number)
            code = await asyncio.to_thread(self._end, number)
            if code != 0:
                self.failures.append(f"{self.nodes[number].name} ended with {code} on SIGTERM")
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await self._start(number)
        else:  # frozen longer than a lease, or for a moment
            self._begin("freeze" if kind == "freeze" else "nap", number)
            self.nodes[number].send_signal(signal.SIGSTOP)
            try:
                seconds = 12.0 if kind == "freeze" else rng.uniform(0.3, 4.0)
                await asyncio.sleep(min(self.longest, seconds))
            finally:
                self.nodes[number].send_signal(signal.SIGCONT)

    def _end(self, number: int) -> int:
        node = self.nodes[number]
        node.send_signal(signal.SIGTERM)
        return node.exit_code(30.0)

    async def _start(self, number: int) -> None:
        self.restarted.add(number)
        await asyncio.to_thread(self.nodes[number].restart)
        self.down.discard(number)

    # Links

    async def _link_fault(self, rng: random.Random) -> None:
        kinds = self._link_faults
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        count = len(self.nodes)
        node = rng.randrange(count)
        pair = tuple(sorted({node, (node + rng.randrange(1, count)) % count}))
        seconds = rng.choice((rng.uniform(0.5, 3.0), rng.uniform(3.0, 8.0), 12.0))
        link = self.links.all[pair[0], pair[1]]
        chosen = [link]
        if kind == "no Grape":
            await self._grape_fault(min(self.longest, seconds))
            return
        if kind in ("isolate", "detour"):
            chosen = self.links.of(node)
        elif kind == "split":
            group = rng.sample(range(count), count // 2)
            chosen = self.links.between(group)
        self._begin(f"link {kind}", *(pair if len(chosen) == 1 else (node,)))
        if kind in ("cut", "isolate", "split"):
            for each in chosen:
                each.cut()
        elif kind == "detour":
            seconds = max(seconds, SWITCHING)
            for each in chosen:
                each.cut("tcp")
        elif kind == "stall":
            link.stall()
        elif kind == "half":
            link.stall(node)
        elif kind == "slow":
            for each in self.links.of(node):
                each.delay = rng.uniform(0.02, 0.4)
        else:
            for _ in range(6):
                link.cut()
                await asyncio.sleep(0.2)
                link.heal()
                await asyncio.sleep(0.6)
        try:
            await asyncio.sleep(min(self.longest, seconds))
        finally:
            self.links.heal()

    @property
    def _link_faults(self) -> dict[str, int]:
        if self.grape is None:
            return LINK_FAULTS
        switches = bool(self.links.direct) and self.longest >= SWITCHING
        return LINK_FAULTS | (DETOUR if switches else {}) | GRAPE

    async def _grape_fault(self, seconds: float) -> None:
        """Links that are up have to stay; announcements come back by themselves."""
        assert self.grape is not None
        self._begin("no Grape")
        await asyncio.to_thread(self.grape.kill9)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(self.grape.start)

    def _begin(self, kind: str, *nodes: int) -> None:
        self.counts[kind] += 1
        self.note(f"{kind} {' '.join(self.nodes[n].name for n in nodes)}")
