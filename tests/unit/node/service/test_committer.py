"""Group commit: nothing leaves and nobody is told before the disk has it; order is kept."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing

import pytest

from exchange.journal.journal import Journal, JournalError
from exchange.model.records import PutMeta
from exchange.orders.engine_context import CommandRejected, Drained
from node.service.committer import Committer


class FakeEngine:
    """Collects numbers and drains them as one record each."""

    def __init__(self):
        self.numbers = []

    def drain(self, now):
        numbers, self.numbers = self.numbers, []
        records = [PutMeta(str(number), number) for number in numbers]
        return Drained(records, list(numbers), [], [], [], [])


class GatedJournal:
    """Commits wait at a gate, so a test can look at what happens meanwhile."""

    def __init__(self):
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.committed = []
        self.error = None

    def commit(self, records):
        self.entered.set()
        assert self.gate.wait(5)
        if self.error:
            raise self.error
        self.committed.append([record.value for record in records])


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def journal():
    return GatedJournal()


async def entered(journal):
    await asyncio.to_thread(journal.entered.wait, 5)
    journal.entered.clear()


async def test_messages_and_acknowledgements_wait_for_the_commit(engine, journal):
    released = []
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    acknowledged = asyncio.create_task(committer.durable())
    await entered(journal)
    assert released == []
    assert not acknowledged.done()
    journal.gate.set()
    await acknowledged
    assert released == [1]
    assert journal.committed == [[1]]
    committer.stop()
    await running


async def test_what_happens_during_a_commit_goes_into_one_following_commit(engine, journal):
    released = []
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    first = asyncio.create_task(committer.durable())
    await entered(journal)
    waiters = []
    for number in (2, 3, 4):
        engine.numbers.append(number)
        waiters.append(asyncio.create_task(committer.durable()))
    journal.gate.set()
    await asyncio.gather(first, *waiters)
    assert journal.committed == [[1], [2, 3, 4]]
    assert released == [1, 2, 3, 4]
    committer.stop()
    await running


async def test_a_failed_commit_releases_nothing_and_ends_the_committer(engine, journal):
    released = []
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    acknowledged = asyncio.create_task(committer.durable())
    await entered(journal)
    meanwhile = asyncio.create_task(committer.durable())
    await asyncio.sleep(0)
    journal.error = JournalError("disk full")
    journal.gate.set()
    with pytest.raises(JournalError, match="disk full"):
        await running
    for waiting in (acknowledged, meanwhile, committer.durable()):  # the last one comes too late
        with pytest.raises(CommandRejected, match=r"disk full.*after its next start") as refused:
            await waiting
        assert refused.value.code == "storage_failed"
    assert released == []


async def test_stopping_writes_what_is_left(engine, journal):
    released = []
    journal.gate.set()
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    committer.stop()
    await running
    assert journal.committed == [[1]]
    assert released == [1]


async def test_on_a_full_disk_nothing_is_acknowledged_and_the_next_start_finds_what_was(
    engine, tmp_path, monkeypatch
):
    released = []
    with closing(Journal(tmp_path / "journal", background=False)) as real:
        committer = Committer(engine, real, lambda drained: released.extend(drained.messages))
        running = asyncio.create_task(committer.run())
        engine.numbers.append(1)
        await committer.durable()
        write = os.write

        def full(fd, data):
            write(fd, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        engine.numbers.append(2)
        with pytest.raises(CommandRejected, match=r"No space left.*Free at least 64 MiB"):
            await committer.durable()
        monkeypatch.undo()
        with pytest.raises(JournalError):
            await running
    assert released == [1]
    with closing(Journal(tmp_path / "journal", background=False)) as again:
        assert again.recover().meta == {"1": 1}
