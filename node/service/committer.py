"""Group commit: decisions of the engine become durable before any answer or message leaves.

One drain at a time: take the engine's records and messages, write the records, then let the messages go
and wake those who wait for durability. Whatever happens meanwhile is in the next drain, so under load one
disk flush serves many orders.

A write that only appends to a file (`JOURNAL_SYNC=normal`, no new segment) is done in the event loop: it
takes some 15 us, and the way to a thread and back takes 100. All others are done in a thread. A write in
the loop that takes longer than `SLOW_WRITE` sends the following ones to the thread, until `RECOVERED` of
those in a row were quick.

Rules of this file: nothing is released or answered before its write has returned; while the thread
writes, nothing is drained; an error ends `run`, whichever way the write was done.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from exchange.engine.engine import Drained, Engine
from exchange.journal.journal import Journal, JournalError
from exchange.model.records import PutSnapshot, Record
from exchange.orders.engine_context import CommandRejected

# Upper bounds in seconds of the bins that the time of commits is counted in.
COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
RECORD_BOUNDS = (1, 3, 10, 30, 100, 300, 1000, 3000)  # of the bins of records in a commit
SLOW_WRITE = 0.002  # seconds; links and clients wait for a write in the loop
RECOVERED = 16  # quick writes in a row after which the disk counts as recovered
FEW_RECORDS = 500  # in a write in the loop: to encode them takes 0.4 ms

STOP_WAIT = 2.0  # seconds that a standby gets to acknowledge the last things when the node stops

DurableCall = Callable[[CommandRejected | None], None]


class Gate(Protocol):
    """Holds what wants to leave the node until a standby has it."""

    def hold(self, position: int, call: Callable[[], None]) -> None:
        """Call when all frames up to `position` may leave, in the order of the calls of this."""


class Committer:
    """Owns the journal's writing side. `release` gets every drain once it is durable, in order."""

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        release: Callable[[Drained], None],
        gate: Gate | None = None,
    ) -> None:
        self._engine = engine
        self.journal = journal
        self._release = release
        self._gate = gate
        self._held: deque[tuple[Drained, list[DurableCall], float]] = deque()  # by the gate
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()  # the task of `run` has something to do
        self._planned = False  # a turn is planned in the loop
        self._running = False
        self._handed: tuple[Drained, list[DurableCall]] | None = None  # a write for the thread
        self._error: BaseException | None = None  # of a turn; it ends `run`
        self._quick = RECOVERED  # quick writes in a row since a slow one
        self._waiters: list[DurableCall] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._stopping = False
        self._failed: CommandRejected | None = None  # error for callers after a failure of the disk
        self._writing: Drained | None = None  # what is on its way to the disk
        self._writing_since = 0.0  # loop time
        self.commits = 0
        self.commit_seconds = 0.0
        self.commit_bins = [0] * (len(COMMIT_BOUNDS) + 1)
        self.records = 0
        self.record_bins = [0] * (len(RECORD_BOUNDS) + 1)

    @property
    def failed(self) -> str | None:
        """Reason why nothing can be made durable any more; None while it can."""
        return None if self._failed is None else self._failed.detail

    @property
    def write_age(self) -> float:
        """Seconds that the write under way, or the wait for a standby, has taken so far; 0 without one."""
        since = self._held[0][2] if self._held else self._writing_since
        return 0.0 if self._writing is None and not self._held else self._loop.time() - since

    def wake(self) -> None:
        """Something changed: drain soon."""
        if self._running and not self._planned and self._writing is None:
            self._planned = True
            self._loop.call_soon(self._turn)

    def when_durable(self, call: DurableCall) -> None:
        """Call once everything done so far is durable and its messages have left, with None; with the
        refusal if that fails, or when the node stops first. Cheaper than a task that waits for `durable`.
        `call` must not block or raise."""
        if self._failed is not None:
            self._loop.call_soon(call, self._failed)
            return
        self._waiters.append(call)
        self.wake()

    async def durable(self) -> None:
        """Wait until everything done so far is durable and its messages have left.

        Raises:
            CommandRejected: storage_failed; the node is stopping.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()

        def end(refused: CommandRejected | None) -> None:
            if waiter.done():
                return
            if refused is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(refused)

        self.when_durable(end)
        await waiter

    async def durable_of(self, account: int) -> None:
        """Wait until all that was done so far to the orders and the money of an account is durable; not
        at all when it is.

        Raises:
            CommandRejected: storage_failed; the node is stopping.
        """
        writing = [] if self._writing is None else [self._writing]
        if self._engine.undrained(account) or any(
            any(order.account == account for order in drained.orders)
            or any(balance[0] == account for balance in drained.balances)
            for drained in (*writing, *(held[0] for held in self._held))
        ):
            await self.durable()

    async def run(self) -> None:
        """Drain whenever woken, until `stop`; the last drain then is complete.

        Raises:
            JournalError: a commit failed. The node must stop: it cannot keep its promises.
        """
        self._running = True
        self.wake()
        try:
            while not self._stopping:
                await self._wanted.wait()
                self._wanted.clear()
                await self._hand_on()
            self._turn()
            await self._hand_on()
            until = self._loop.time() + STOP_WAIT
            while self._held and self._loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        finally:
            self._running = False
            self._thread.shutdown(wait=True)
            refused = self._failed or CommandRejected("storage_failed", "the node is stopping")
            waiters, self._waiters = self._waiters, []
            for held in self._held:
                waiters += held[1]
            self._held.clear()
            for call in waiters:
                call(refused)

    def fail(self, error: JournalError) -> None:
        """Stop: nothing more may leave. `run` raises the error."""
        self._failed = CommandRejected(
            "storage_failed",
            f"the node is stopping: {error}. Whether this took effect shows the machine that is the node now: look it "
            "up there, or repeat it with the same client_id",
        )
        self._error = error
        self._wanted.set()

    def stop(self) -> None:
        """Let `run` end after one more drain."""
        self._stopping = True
        self._wanted.set()

    async def _hand_on(self) -> None:
        """Write in the thread what a turn left for it, and raise what a turn raised."""
        if self._handed is not None:
            await self._write_in_thread(*self._handed)
        if self._error is not None:
            raise self._error

    def _turn(self) -> None:
        """Drain, and write here or hand the write to the thread."""
        self._planned = False
        if not self._running or self._error is not None or self._writing is not None:
            return
        try:
            if not self._stopping and self._engine.prepare():
                self.wake()
                return
            waiters, self._waiters = self._waiters, []
            drained = self._engine.drain(self._loop.time())
            if not drained.records:
                self._let_go(drained, waiters)
                return
            self._writing, self._writing_since = drained, self._loop.time()
            if (
                self._quick >= RECOVERED
                and self.journal.appends_only
                and len(drained.records) <= FEW_RECORDS
                and PutSnapshot not in map(type, drained.records)  # may have megabytes
            ):
                self._write_here(drained, waiters)
            else:
                self._handed = drained, waiters
                self._wanted.set()
        except BaseException as error:
            self._error = error
            self._wanted.set()

    def _write_here(self, drained: Drained, waiters: list[DurableCall]) -> None:
        began = time.perf_counter()
        try:
            self.journal.commit(drained.records)
        except JournalError as error:
            self._fail(error, waiters)
            raise
        took = time.perf_counter() - began
        if took > SLOW_WRITE:
            self._quick = 0
        self._note(drained, took)
        self._let_go(drained, waiters)

    async def _write_in_thread(self, drained: Drained, waiters: list[DurableCall]) -> None:
        self._handed = None
        began = time.perf_counter()
        try:
            took = await self._loop.run_in_executor(
                self._thread, _timed, self.journal, drained.records
            )
        except JournalError as error:
            self._fail(error, waiters)
            raise
        self._quick = self._quick + 1 if took <= SLOW_WRITE else 0
        self._note(drained, time.perf_counter() - began)
        self._let_go(drained, waiters)
        self.wake()  # for what happened meanwhile

    def _note(self, drained: Drained, took: float) -> None:
        """Count a commit with its duration in seconds."""
        self.commits += 1
        self.commit_seconds += took
        self.commit_bins[bisect_left(COMMIT_BOUNDS, took)] += 1
        self.records += len(drained.records)
        self.record_bins[bisect_left(RECORD_BOUNDS, len(drained.records))] += 1

    def _fail(self, error: JournalError, waiters: list[DurableCall]) -> None:
        self._failed = CommandRejected(
            "storage_failed",
            f"the node cannot write its journal and is stopping: {error}. Whether this took effect shows "
            "after its next start: look it up then, or repeat it with the same client_id",
        )
        for call in waiters:
            call(self._failed)

    def _let_go(self, drained: Drained, waiters: list[DurableCall]) -> None:
        self._writing = None
        wants = drained.records or drained.messages or waiters
        if self._gate is None or not (wants or self._held):
            self._leave(drained, waiters)
        else:
            self._held.append((drained, waiters, self._loop.time()))
            self._gate.hold(self.journal.committed, self._leave_next)

    def _leave_next(self) -> None:
        if self._held:  # not after a failure
            drained, waiters, _ = self._held.popleft()
            self._leave(drained, waiters)

    def _leave(self, drained: Drained, waiters: list[DurableCall]) -> None:
        self._release(drained)
        for call in waiters:
            call(None)


def _timed(journal: Journal, records: list[Record]) -> float:
    """Commit; the seconds that it took in its thread."""
    began = time.perf_counter()
    journal.commit(records)
    return time.perf_counter() - began
