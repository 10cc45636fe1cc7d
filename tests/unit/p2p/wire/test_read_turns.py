"""Deferred work takes turns beside links. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from p2p.base.limits import TURN_TIME
from p2p.wire import read_turns
from p2p.wire.read_turns import ReadTurns


class Machine:
    """A processor: `order` is who worked, a turn's time each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def work(self, name: str) -> None:
        self.now += TURN_TIME
        self.order.append(name)

    def steps(self, name: str, count: int) -> Callable[[], bool]:
        left = iter(range(count - 1, -1, -1))

        def step() -> bool:
            self.work(name)
            return next(left) > 0

        return step


class FloodingLink:
    """A link whose frames take `count` turns."""

    def __init__(self, machine: Machine, count: int) -> None:
        self.flow = self
        self.step = machine.steps("link", count)

    def take_turn(self, until: float) -> bool:
        return self.step()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(read_turns, "perf_counter", lambda: made.now)
    return made


def run(schedule: Callable[[ReadTurns], None], turns_of_the_loop: int = 100) -> None:
    async def inside() -> None:
        schedule(ReadTurns())
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)

    asyncio.run(inside())


def test_deferred_work_is_done_to_its_end_in_turn_with_a_link_that_floods(machine: Machine) -> None:
    def schedule(turns: ReadTurns) -> None:
        turns.ready(FloodingLink(machine, 20))
        turns.defer("origin", "deferred", machine.steps("deferred", 5))

    run(schedule)
    assert machine.order[0] == "link", "it goes on with the frames that have arrived"
    done = max(place for place, name in enumerate(machine.order) if name == "deferred") + 1
    for upto in range(1, done + 1):
        deferred = machine.order[:upto].count("deferred")
        assert abs(upto - 2 * deferred) <= 2
    assert machine.order.count("deferred") == 5
    assert machine.order[done:] == ["link"] * (25 - done)


def test_origins_of_one_flow_share_its_turns(machine: Machine) -> None:
    def schedule(turns: ReadTurns) -> None:
        turns.defer("flood", "deferred", machine.steps("flood", 10))
        turns.defer("light", "deferred", machine.steps("light", 1))

    run(schedule)
    assert machine.order == ["flood", "light"] + ["flood"] * 9


def test_work_that_is_deferred_again_begins_anew(machine: Machine) -> None:
    def schedule(turns: ReadTurns) -> None:
        turns.defer("origin", "deferred", machine.steps("first", 1))
        asyncio.get_running_loop().call_later(
            0, turns.defer, "origin", "deferred", machine.steps("second", 2)
        )

    run(schedule)
    assert machine.order == ["first", "second", "second"]
