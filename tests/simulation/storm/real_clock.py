"""`Gate` on the real clock, in front of a server behind a socket, beside the same in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from node.demos.loopback import LoopbackLink, LoopbackServer, LoopTime
from p2p.flow import Gate, Governor, LoadReport, Outcome
from tests.simulation.storm.matrix import Cell, Endless
from tests.simulation.storm.spreads import CAPACITY, SpreadServer
from tests.simulation.storm.strategies import STRATEGIES

WARM_S, LENGTH_S = 5.0, 10.0
WAITING = 100  # messages that always wait in the gate


BARE = 30  # requests always in flight without a gate: what the server can do on this machine now
BARE_S = 3.0


class Rates(NamedTuple):
    """Messages a second after `WARM_S`, for `LENGTH_S`. `bare`: without a gate, just before and after."""

    real: float
    bare: float
    virtual: float

    @property
    def share(self) -> float:
        """Share of what the server can do, as a multiple of that in virtual time."""
        return (self.real / self.bare) / (self.virtual / CAPACITY)


def measure(spread: str, seed: int) -> Rates:
    real, bare = asyncio.run(_real(spread, seed))
    return Rates(real, bare, _virtual(spread, seed))


def _virtual(spread: str, seed: int) -> float:
    world = Endless(Cell(spread, 0.1, 1, 0.0), STRATEGIES["governor"], seed)
    world.time.run(WARM_S)
    before = world.own.ok
    world.time.run(WARM_S + LENGTH_S)
    return (world.own.ok - before) / LENGTH_S


async def _real(spread: str, seed: int) -> tuple[float, float]:
    time = LoopTime()
    server = LoopbackServer(SpreadServer(time, random.Random(f"server {seed}"), spread))
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

    async def bare() -> float:
        """Requests a second with `BARE` always in flight."""
        count = 0

        async def ask_on() -> None:
            nonlocal count
            while True:
                await ask()
                count += 1

        return await _rate_of([ask_on() for _ in range(BARE)], lambda: count, 1.0, BARE_S)

    before = await bare()
    async with Gate(rng=rng, governor=Governor(rng=rng, feedback=False)) as gate:

        async def send() -> None:
            nonlocal answered
            while True:
                await gate.call(ask)
                answered += 1

        rate = await _rate_of([send() for _ in range(WAITING)], lambda: answered, WARM_S, LENGTH_S)
    bare_rate = (before + await bare()) / 2.0
    await link.close()
    await server.close()
    time.close()
    return rate, bare_rate


async def _rate_of(
    senders: list[Coroutine[None, None, None]],
    answered: Callable[[], int],
    warm_s: float,
    length_s: float,
) -> float:
    """Run the senders; answers a second after `warm_s`."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(sender) for sender in senders]
    await asyncio.sleep(warm_s)
    before, since = answered(), loop.time()
    await asyncio.sleep(length_s)
    rate = (answered() - before) / (loop.time() - since)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rate
