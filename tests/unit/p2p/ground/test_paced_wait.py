"""Waits of a paced task, on a loop whose clock the test moves."""

from __future__ import annotations

import asyncio

import pytest

from p2p.ground.paced_wait import PacedWait

STEP, LONGEST = 0.01, 0.5


@pytest.fixture
async def pace() -> PacedWait:
    return PacedWait(asyncio.get_running_loop(), step=STEP, longest=LONGEST)


async def waited(pace: PacedWait, deadline: float | None) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await pace.wait(deadline) >= 0.0
    return loop.time() - before


async def test_a_wait_ends_at_its_deadline_but_not_within_a_step(pace: PacedWait) -> None:
    now = asyncio.get_running_loop().time()
    assert await waited(pace, now + 0.1) >= 0.09
    assert await waited(pace, now) >= 0.9 * STEP


async def test_a_wait_may_have_a_step_of_its_own(pace: PacedWait) -> None:
    now = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(pace.wait(now, step=STEP / 4))
    await asyncio.sleep(0)
    assert pace._at < now + STEP
    await waiting
    assert await waited(pace, now) >= 0.9 * STEP  # of that wait alone


async def test_without_a_deadline_it_is_the_longest_wait(pace: PacedWait) -> None:
    assert await waited(pace, None) >= 0.9 * LONGEST


async def test_activity_ends_a_long_wait_within_a_step(pace: PacedWait) -> None:
    pace.hurry()  # nothing waits: nothing happens
    loop = asyncio.get_running_loop()
    before = loop.time()
    waiting = asyncio.create_task(pace.wait(before + 60.0))
    await asyncio.sleep(0)
    pace.hurry()
    at = pace._at
    pace.hurry()
    assert pace._at == at  # it is not put off
    assert at <= before + 10 * STEP
    await waiting


async def test_a_cancelled_wait_leaves_nothing(pace: PacedWait) -> None:
    waiting = asyncio.create_task(pace.wait(None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    pace.hurry()
    assert pace._timer is not None
    assert pace._timer.cancelled()
