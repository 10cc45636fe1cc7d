"""Tasks of one owner."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger("test")


async def test_closing_cancels_what_runs_and_waits_for_its_end() -> None:
    tasks, seen = OwnedTasks(log), []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    running = tasks.start(work())
    await asyncio.sleep(0)
    assert len(tasks) == 1
    await tasks.close()
    assert (running.cancelled(), seen, len(tasks)) == (True, ["ended"], 0)


async def test_a_task_without_other_references_runs_to_its_end() -> None:
    tasks, done = OwnedTasks(log), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    tasks.start(work())
    gc.collect(1)  # of what was made just now
    await asyncio.wait_for(done.wait(), 1)
    await asyncio.sleep(0)
    assert len(tasks) == 0


@pytest.mark.parametrize(("error", "logged"), [(RuntimeError("broken"), 1), (OSError("away"), 0)])
async def test_an_error_is_logged_unless_it_is_expected(
    caplog: pytest.LogCaptureFixture, error: Exception, logged: int
) -> None:
    tasks = OwnedTasks(log, expected=(OSError,))

    async def work() -> None:
        raise error

    task = tasks.start(work(), name="export")
    with pytest.raises(type(error)):
        await task
    await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == ["export failed"] * logged


@pytest.mark.looptime
async def test_a_step_is_repeated_after_its_pause_whatever_becomes_of_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, begun = OwnedTasks(log), []
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def step() -> None:
        begun.append(loop.time() - start)
        await asyncio.sleep(1)
        if len(begun) == 2:
            raise RuntimeError("broken")

    tasks.every(10, step, name="check")
    calls = []
    tasks.every(20, lambda: calls.append(1), name="count")
    await asyncio.sleep(34)
    assert begun == pytest.approx([0, 11, 22, 33])
    assert len(calls) == 2
    assert [record.getMessage() for record in caplog.records] == ["check failed"]
    await tasks.close()
    assert len(tasks) == 0


@pytest.mark.looptime
async def test_closing_with_grace_lets_short_work_end() -> None:
    tasks = OwnedTasks(log)
    short, long = tasks.start(asyncio.sleep(1)), tasks.start(asyncio.sleep(60))
    await tasks.close(2)
    assert (short.cancelled(), long.cancelled()) == (False, True)
