"""`Gate` on the real clock, in front of a server behind a socket, beside the same in virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

from node.virtual.loopback import LoopbackLink, LoopbackServer, LoopTime
from node.virtual.server_model import Done, Timeline
from p2p.flow import Gate, Governor, LoadReport, Outcome
from tests.simulation.storm.matrix import Cell, Endless
from tests.simulation.storm.spreads import CAPACITY, SpreadServer
from tests.simulation.storm.strategies import STRATEGIES

WARM_S, LENGTH_S = 5.0, 10.0
WAITING = 100  # messages that always wait in the gate


class Rates(NamedTuple):
    """Messages a second after `WARM_S`, for `LENGTH_S`. `capacity`: of the server in those seconds."""

    real: float
    capacity: float
    virtual: float

    @property
    def share(self) -> float:
        """Share of what the server could do, as a multiple of that in virtual time."""
        return (self.real / self.capacity) / (self.virtual / CAPACITY)


class ClockedServer(SpreadServer):
    """Measures how long its requests occupy a worker: a late timer or a stall of the machine counts."""

    def __init__(self, time: Timeline, rng: random.Random, spread: str) -> None:
        super().__init__(time, rng, spread)
        self._occupied = 0.0
        self._counted_at = time.now

    def arrive(self, reply: Done) -> None:
        self._count()
        super().arrive(reply)

    def _done(self, life: int, number: int, waited: float, served: float) -> None:
        self._count()
        super()._done(life, number, waited, served)

    def _count(self) -> None:
        now = self._time.now
        self._occupied += len(self._serving) * (now - self._counted_at)
        self._counted_at = now

    def totals(self) -> tuple[int, float]:
        """Requests served, and the seconds of workers that they took."""
        self._count()
        return self.served, self._occupied


def measure(spread: str, seed: int) -> Rates:
    real, capacity = asyncio.run(_real(spread, seed))
    return Rates(real, capacity, _virtual(spread, seed))


def _virtual(spread: str, seed: int) -> float:
    world = Endless(Cell(spread, 0.1, 1, 0.0), STRATEGIES["governor"], seed)
    world.time.run(WARM_S)
    before = world.own.ok
    world.time.run(WARM_S + LENGTH_S)
    return (world.own.ok - before) / LENGTH_S


async def _real(spread: str, seed: int) -> tuple[float, float]:
    time = LoopTime()
    model = ClockedServer(time, random.Random(f"server {seed}"), spread)
    server = LoopbackServer(model)
    await server.start()
    link = LoopbackLink(time, server.port, timeout_s=5.0)
    rng = random.Random(f"sender {seed}")
    answered = 0

    async def ask() -> None:
        """One request; its load report is thrown away."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def ended(outcome: Outcome, load: LoadReport | None) -> None:
            if not done.done():
                done.set_result(outcome)

        link.ask(ended)
        if await done != "ok":
            raise ConnectionResetError

    async with Gate(rng=rng, governor=Governor(rng=rng, feedback=False)) as gate:

        async def send() -> None:
            nonlocal answered
            while True:
                await gate.call(ask)
                answered += 1

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(send()) for _ in range(WAITING)]
        await asyncio.sleep(WARM_S)
        before, since, (served, occupied) = answered, loop.time(), model.totals()
        await asyncio.sleep(LENGTH_S)
        rate = (answered - before) / (loop.time() - since)
        served_now, occupied_now = model.totals()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    capacity = model.settings.workers * (served_now - served) / (occupied_now - occupied)
    await link.close()
    await server.close()
    time.close()
    return rate, capacity
