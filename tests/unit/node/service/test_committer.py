"""Group commit: nothing leaves and nobody is told before the disk has it; order is kept."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import closing

import pytest

from exchange.journal.journal import Journal, JournalError
from exchange.model.events import Batch, Snapshot
from exchange.model.records import PutMeta, PutSnapshot
from exchange.orders.engine_context import CommandRejected, Drained
from node.service.committer import Committer

MAIN = threading.main_thread()


class FakeEngine:
    """Collects numbers and drains them as one record each."""

    def __init__(self):
        self.numbers = []
        self.slices = 0  # to be done before a drain
        self.record = lambda number: PutMeta(str(number), number)

    def prepare(self):
        self.slices -= self.slices > 0
        return self.slices > 0

    def drain(self, now):
        numbers, self.numbers = self.numbers, []
        records = [self.record(number) for number in numbers]
        return Drained(records, list(numbers), [], [], [], [])


class GatedJournal:
    """Commits wait at a gate, so a test can look at what happens meanwhile."""

    appends_only = False  # each write may wait for the disk: it is done in the thread

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


class AppendingJournal:
    """Commits only append; each takes `seconds` and notes the thread that made it."""

    appends_only = True

    def __init__(self):
        self.seconds = 0.0
        self.error = None
        self.committed = []
        self.threads = []

    def commit(self, records):
        self.threads.append("loop" if threading.current_thread() is MAIN else "thread")
        if self.seconds:
            time.sleep(self.seconds)
        if self.error:
            raise self.error
        self.committed.append([getattr(record, "value", None) for record in records])


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def journal():
    return GatedJournal()


async def entered(journal):
    await asyncio.to_thread(journal.entered.wait, 5)
    journal.entered.clear()


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


async def test_slices_before_a_drain_leave_the_loop_to_others_and_nothing_is_acknowledged(engine):
    journal, released = AppendingJournal(), []
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    await asyncio.sleep(0)
    engine.slices = 4
    engine.numbers.append(1)
    acknowledged = asyncio.create_task(committer.durable())
    seen = []
    while not acknowledged.done():
        seen.append((engine.slices, len(journal.committed)))
        await asyncio.sleep(0)
    assert {(3, 0), (2, 0), (1, 0)} <= set(seen)
    assert (journal.committed, released) == ([[1]], [1])
    engine.slices = 9
    engine.numbers.append(2)
    committer.stop()
    await running
    assert journal.committed == [[1], [2]]  # the last drain waits for nothing


async def test_a_snapshot_of_a_feed_is_written_in_the_thread(engine):
    journal = AppendingJournal()
    committer = Committer(engine, journal, lambda drained: None)
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    await committer.durable()
    snapshot = Snapshot(Batch(b"", "", 1, b"", (), b""), b"", [])
    engine.record = lambda number: PutSnapshot("owner", "market", snapshot)
    engine.numbers.append(2)
    await committer.durable()
    committer.stop()
    await running
    assert journal.threads == ["loop", "thread"]


async def test_a_failed_write_in_the_loop_ends_the_committer_too(engine):
    journal, released = AppendingJournal(), []
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    journal.error = JournalError("disk full")
    engine.numbers.append(1)
    with pytest.raises(CommandRejected, match="disk full"):
        await committer.durable()
    with pytest.raises(JournalError, match="disk full"):
        await running
    answers = []
    committer.when_durable(answers.append)
    await asyncio.sleep(0)
    assert [refused.code for refused in answers] == ["storage_failed"]
    assert released == []


async def test_a_failing_release_in_the_loop_ends_the_committer(engine):
    def release(drained):
        if drained.messages:
            raise RuntimeError("no way out")

    committer = Committer(engine, AppendingJournal(), release)
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    committer.wake()
    with pytest.raises(RuntimeError, match="no way out"):
        await running


async def test_stopping_writes_the_remainder(engine, journal):
    released = []
    journal.gate.set()
    committer = Committer(engine, journal, lambda drained: released.extend(drained.messages))
    running = asyncio.create_task(committer.run())
    engine.numbers.append(1)
    committer.stop()
    await running
    assert journal.committed == [[1]]
    assert released == [1]


async def test_on_a_full_disk_nothing_is_acknowledged_and_the_next_start_has_all_acknowledged(
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


class FakeGate:
    """Holds everything until it is opened."""

    def __init__(self):
        self.held = []

    def hold(self, position, call):
        self.held.append((position, call))

    def open(self):
        held, self.held = self.held, []
        for _, call in held:
            call()


class CountingJournal(AppendingJournal):
    """Knows its position."""

    @property
    def committed(self):
        return len(self.committed_batches)

    @committed.setter
    def committed(self, batches):
        self.committed_batches = batches

    def commit(self, records):
        self.committed_batches.append([record.value for record in records])


async def test_a_gate_holds_messages_and_answers_of_durable_changes(engine):
    gate, released, answered = FakeGate(), [], []
    committer = Committer(engine, CountingJournal(), released.append, gate)
    running = asyncio.create_task(committer.run())
    await asyncio.sleep(0)
    for number in (1, 2):
        engine.numbers.append(number)
        committer.when_durable(lambda refused, number=number: answered.append((number, refused)))
        await asyncio.sleep(0.01)
    assert [position for position, _ in gate.held] == [1, 2]
    assert released == []
    assert answered == []
    assert committer.write_age > 0
    gate.open()
    assert [drained.messages for drained in released] == [[1], [2]]
    assert answered == [(1, None), (2, None)]
    committer.stop()
    await asyncio.wait_for(running, 5)


async def test_a_failed_gate_refuses_what_it_holds(engine):
    gate, released, answered = FakeGate(), [], []
    committer = Committer(engine, CountingJournal(), released.append, gate)
    running = asyncio.create_task(committer.run())
    await asyncio.sleep(0)
    engine.numbers.append(1)
    committer.when_durable(answered.append)
    await asyncio.sleep(0.01)
    committer.fail(JournalError("machine two has taken over"))
    with pytest.raises(JournalError, match="machine two"):
        await asyncio.wait_for(running, 5)
    assert [refused.code for refused in answered] == ["storage_failed"]
    gate.open()
    assert released == []
