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


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_a_failed_withdrawal_delays_no_other(trouble: str) -> None:
    directory = Keeping()
    setattr(directory, trouble, True)
    announcer = Announcer(directory)
    announcer.start("a", 1)
    async with asyncio.timeout(5):
        await announcer.close()


async def test_invalid_announcements_are_refused() -> None:
    announcer = Announcer(MemoryDirectory())
    with pytest.raises(BadInput):
        announcer.start("", 1)
    with pytest.raises(BadInput):
        announcer.start("a", 0)
    with pytest.raises(ValueError, match="interval"):
        Announcer(MemoryDirectory(), interval=0.0)
    await announcer.close()
