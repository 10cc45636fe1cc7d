"""Group commit: decisions of the engine become durable before any answer or message leaves.

One drain at a time: take the engine's records and messages, write the records in a worker thread,
then let the messages go and wake those who wait for durability. Whatever happens meanwhile is in
the next drain, so under load one disk flush serves many orders.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from exchange.engine.engine import Drained, Engine
from exchange.journal.journal import Journal, JournalError
from exchange.orders.engine_context import CommandRejected

# Upper bounds in seconds of the bins that the time of commits is counted in.
COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
RECORD_BOUNDS = (1, 3, 10, 30, 100, 300, 1000, 3000)  # of the bins of records in a commit


class Committer:
    """Owns the journal's writing side. `release` gets every drain once it is durable, in order."""

    def __init__(
        self, engine: Engine, journal: Journal, release: Callable[[Drained], None]
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._calls: list[Callable[[CommandRejected | None], None]] = []
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
        """Seconds that the write under way has taken so far; 0 without one."""
        return 0.0 if self._writing is None else self._loop.time() - self._writing_since

    def wake(self) -> None:
        """Something changed: drain soon."""
        self._wanted.set()

    async def durable(self) -> None:
        """Wait until everything done so far is durable and its messages have left.

        Raises:
            CommandRejected: storage_failed; the node is stopping.
        """
        if self._failed is not None:
            raise self._failed
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        self.wake()
        await waiter

    def when_durable(self, call: Callable[[CommandRejected | None], None]) -> None:
        """Call once everything done so far is durable and its messages have left, or with the error that
        prevents it. Cheaper than a task that waits for `durable`. `call` must not block or raise."""
        if self._failed is not None:
            self._loop.call_soon(call, self._failed)
            return
        self._calls.append(call)
        self.wake()

    async def durable_of(self, account: int) -> None:
        """Wait until all that was done so far to the orders and the money of an account is durable; not
        at all when it is.

        Raises:
            CommandRejected: storage_failed; the node is stopping.
        """
        writing = self._writing
        if self._engine.undrained(account) or (
            writing is not None
            and (
                any(order.account == account for order in writing.orders)
                or any(balance[0] == account for balance in writing.balances)
            )
        ):
            await self.durable()

    async def run(self) -> None:
        """Drain whenever woken, until `stop`; the last drain then is complete.

        Raises:
            JournalError: a commit failed. The node must stop: it cannot keep its promises.
        """
        try:
            stopping = False
            while not stopping:
                await self._wanted.wait()
                self._wanted.clear()
                stopping = self._stopping
                await self._step()
        finally:
            self._thread.shutdown(wait=True)
            for waiter in self._waiters:
                if self._failed is None:
                    waiter.cancel()
                elif not waiter.done():
                    waiter.set_exception(self._failed)
            if self._failed is not None:
                for call in self._calls:
                    call(self._failed)

    def stop(self) -> None:
        """Let `run` end after one more drain."""
        self._stopping = True
        self.wake()

    async def _step(self) -> None:
        waiters, self._waiters = self._waiters, []
        calls, self._calls = self._calls, []
        drained = self._engine.drain(self._loop.time())
        try:
            if drained.records:
                before = self._writing_since = self._loop.time()
                self._writing = drained
                await self._loop.run_in_executor(
                    self._thread, self._journal.commit, drained.records
                )
                took = self._loop.time() - before
                self.commits += 1
                self.commit_seconds += took
                self.commit_bins[bisect_left(COMMIT_BOUNDS, took)] += 1
                self.records += len(drained.records)
                self.record_bins[bisect_left(RECORD_BOUNDS, len(drained.records))] += 1
        except JournalError as error:
            self._failed = CommandRejected(
                "storage_failed",
                f"the node cannot write its journal and is stopping: {error}. Whether this took effect shows "
                "after its next start: look it up then, or repeat it with the same client_id",
            )
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(self._failed)
            for call in calls:
                call(self._failed)
            raise
        self._writing = None
        self._release(drained)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for call in calls:
            call(None)
