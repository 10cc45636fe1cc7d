"""Attempts beside each other: the first that succeeds decides."""

from __future__ import annotations

import asyncio

import pytest

from p2p.flow.caller import AttemptRace


class Refusal(Exception):
    """An error that is an answer."""


async def attempt(seconds: float, result: str | Exception) -> str:
    await asyncio.sleep(seconds)
    if isinstance(result, Exception):
        raise result
    return result


def race() -> AttemptRace[str]:
    spawn = asyncio.get_running_loop().create_task
    return AttemptRace(spawn, (Refusal,), lambda: OSError("closed"))


async def test_the_first_success_decides_and_the_others_go_on():
    attempts = race()
    slow = attempts.start(attempt(0.02, "slow"))
    attempts.start(attempt(0.001, "quick"))
    assert await attempts.result() == "quick"
    assert attempts.decided
    assert not slow.done()
    await slow


async def test_a_failure_leaves_the_decision_to_the_others():
    attempts = race()
    attempts.start(attempt(0.001, OSError("lost")))
    attempts.start(attempt(0.01, "late"))
    assert await attempts.result() == "late"


async def test_the_last_failure_is_raised_when_all_have_failed():
    attempts = race()
    attempts.start(attempt(0.01, OSError("second")))
    attempts.start(attempt(0.001, OSError("first")))
    with pytest.raises(OSError, match="second"):
        await attempts.result()


async def test_an_error_that_is_an_answer_decides():
    attempts = race()
    slow = attempts.start(attempt(1.0, "never"))
    attempts.start(attempt(0.001, Refusal()))
    with pytest.raises(Refusal):
        await attempts.result()
    attempts.cancel()
    await asyncio.gather(*attempts.tasks, return_exceptions=True)
    assert slow.cancelled()


async def test_cancelling_the_waiter_cancels_the_attempts():
    attempts = race()
    slow = attempts.start(attempt(1.0, "never"))
    waiter = asyncio.ensure_future(attempts.result())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await asyncio.gather(slow, return_exceptions=True)
    assert slow.cancelled()


async def test_an_attempt_that_is_cancelled_from_outside_ends_the_race():
    attempts = race()
    attempts.start(attempt(1.0, "never")).cancel()
    with pytest.raises(OSError, match="closed"):
        await attempts.result()
