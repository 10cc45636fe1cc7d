"""Services stay announced whatever becomes of the Grapes, and are taken back at the end where that is possible."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random

import pytest
from grenache_kit import MemoryDirectory

from p2p.grenache.announcer import FIRST_RETRY, LAST_RETRY, SPREAD, Announcer, Repeater
from p2p.grenache.errors import BadInput, GrapeUnreachable

pytestmark = pytest.mark.looptime


class Times(MemoryDirectory):
    """Also notes when."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    async def announce(self, service: str, port: int) -> int:
        self.times.append(asyncio.get_running_loop().time())
        return await super().announce(service, port)

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]


class Keeping(MemoryDirectory):
    """Repeats announcements itself, as `Link` does, and can take them back."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[object, ...]] = []
        self.hangs = self.fails = False

    def start_announcing(self, service: str, port: int, *, interval: float) -> None:
        self.log.append(("start", service, port, interval))

    def stop_announcing(self, service: str, port: int | None = None) -> None:
        self.log.append(("stop", service, port))

    async def withdraw(self, service: str, port: int) -> int:
        self.log.append(("withdraw", service, port))
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise GrapeUnreachable("down")
        return 1


async def test_it_announces_at_once_and_again_and_again() -> None:
    directory = Times()
    announcer = Announcer(directory, interval=10.0, rng=random.Random(1))
    announcer.start("a", 1)
    await asyncio.sleep(1000)
    await announcer.close()
    assert directory.times[0] == pytest.approx(0.0, abs=0.01)
    assert 90 < len(directory.times) < 110
    low, high = 10 * (1 - SPREAD), 10 * (1 + SPREAD)
    assert all(low - 0.01 <= pause <= high + 0.01 for pause in directory.pauses)
    assert max(directory.pauses) - min(directory.pauses) > 3.0, "they are spread"
    count = len(directory.times)
    await asyncio.sleep(100)
    assert len(directory.times) == count, "after close there are no more"


class Grapes:
    """Targets of a Repeater: down, half of them, or all well."""

    def __init__(self) -> None:
        self.state = "well"
        self.calls: list[tuple[float, str, int]] = []
        self.returned = asyncio.Event()

    async def announce(self, service: str, port: int) -> str:
        self.calls.append((asyncio.get_running_loop().time(), service, port))
        if self.state == "down":
            raise GrapeUnreachable("down")
        return "one is young" if self.state == "half" else ""

    def come_back(self) -> None:
        self.state = "well"
        returned, self.returned = self.returned, asyncio.Event()
        returned.set()

    def pauses(self, service: str) -> list[float]:
        times = [when for when, name, _ in self.calls if name == service]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


async def test_with_return_events_announcements_are_retried_seldom_and_then_at_once() -> None:
    grapes = Grapes()
    grapes.state = "down"
    repeater = Repeater(grapes.announce, returned=lambda: grapes.returned, rng=random.Random(1))
    repeater.start("a", 1, 60.0)
    await asyncio.sleep(600)
    pauses = grapes.pauses("a")
    assert pauses[0] <= FIRST_RETRY * (1 + SPREAD) + 0.01
    assert pauses[-1] >= 60 * (1 - SPREAD)
    now = asyncio.get_running_loop().time()
    grapes.come_back()
    await asyncio.sleep(0.01)
    assert grapes.calls[-1][0] == pytest.approx(now, abs=0.01)
    grapes.calls.clear()
    await asyncio.sleep(600)
    assert min(grapes.pauses("a")) >= 60 * (1 - SPREAD)
    await repeater.close()


async def test_what_some_grapes_did_not_take_is_repeated_sooner_and_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grapes = Grapes()
    grapes.state = "half"
    repeater = Repeater(grapes.announce)
    repeater.start("a", 1, 30.0)
    await asyncio.sleep(20)
    assert len(grapes.calls) > 4
    assert not caplog.records
    await repeater.close()


async def test_one_service_is_announced_at_several_ports_and_stopped_one_by_one() -> None:
    grapes = Grapes()
    repeater = Repeater(grapes.announce)
    for port in (1, 2, 3):
        repeater.start("a", port, 10.0)
    repeater.start("b", 1, 10.0)
    await asyncio.sleep(1)
    repeater.stop("a", 2)
    grapes.calls.clear()
    await asyncio.sleep(50)
    assert {call[1:] for call in grapes.calls} == {("a", 1), ("a", 3), ("b", 1)}
    repeater.stop("a")
    grapes.calls.clear()
    await asyncio.sleep(50)
    assert {call[1:] for call in grapes.calls} == {("b", 1)}
    await repeater.close()
    assert len(asyncio.all_tasks()) == 1, "this test"


async def test_a_failure_is_tried_again_soon_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = Times()
    directory.down = True
    announcer = Announcer(directory, interval=30.0, rng=random.Random(1))
    announcer.start("a", 1)
    await asyncio.sleep(60)
    assert directory.pauses[0] <= FIRST_RETRY * (1 + SPREAD) + 0.01
    assert max(directory.pauses) <= LAST_RETRY * (1 + SPREAD) + 0.01
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    caplog.set_level(logging.INFO)
    directory.down = False
    await announcer.announced()
    await asyncio.sleep(2 * LAST_RETRY)
    assert "'a' is announced again" in caplog.text
    directory.times.clear()
    await asyncio.sleep(100)
    assert min(directory.pauses) > 20.0, "back to the interval"
    await announcer.close()


async def test_a_service_that_is_stopped_is_announced_no_more() -> None:
    directory = Times()
    announcer = Announcer(directory, interval=10.0)
    announcer.start("a", 1)
    announcer.start("b", 1)
    await asyncio.sleep(1)
    announcer.stop("a")
    announcer.stop("a")
    announcer.stop("never started")
    directory.calls.clear()
    await asyncio.sleep(50)
    assert set(directory.calls) == {("b", 1)}
    await announcer.close()


async def test_starting_again_changes_the_port() -> None:
    directory = Times()
    announcer = Announcer(directory, interval=10.0)
    announcer.start("a", 1)
    await asyncio.sleep(1)
    announcer.start("a", 2)
    directory.calls.clear()
    await asyncio.sleep(50)
    assert set(directory.calls) == {("a", 2)}
    await announcer.close()


async def test_announced_waits_for_a_grape() -> None:
    directory = Times()
    directory.down = True
    announcer = Announcer(directory)
    announcer.start("a", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(20):
            await announcer.announced()
    directory.down = False
    async with asyncio.timeout(20):
        await announcer.announced()
    await announcer.close()


async def test_what_the_directory_repeats_is_not_repeated_here() -> None:
    directory = Keeping()
    announcer = Announcer(directory, interval=12.0)
    announcer.start("a", 1)
    announcer.start("b", 1)
    announcer.stop("b")
    await asyncio.sleep(100)
    assert directory.calls == []
    await announcer.close()
    assert directory.log == [
        ("start", "a", 1, 12.0),
        ("start", "b", 1, 12.0),
        ("stop", "b", 1),
        ("stop", "a", 1),
        ("withdraw", "a", 1),
    ]


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_a_failed_withdrawal_delays_no_other(trouble: str) -> None:
    directory = Keeping()
    setattr(directory, trouble, True)
    announcer = Announcer(directory)
    announcer.start("a", 1)
    async with asyncio.timeout(5):
        await announcer.close()


async def test_what_cannot_be_announced_is_refused() -> None:
    announcer = Announcer(MemoryDirectory())
    with pytest.raises(BadInput):
        announcer.start("", 1)
    with pytest.raises(BadInput):
        announcer.start("a", 0)
    with pytest.raises(ValueError, match="interval"):
        Announcer(MemoryDirectory(), interval=0.0)
    await announcer.close()
