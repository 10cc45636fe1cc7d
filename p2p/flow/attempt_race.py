"""Race of attempts: several attempts at the same call run concurrently; the first success decides.

    race = AttemptRace(loop.create_task, decides=lambda error: isinstance(error, Refusal))
    race.start(attempt(first))
    timer = loop.call_later(delay, lambda: race.start(attempt(second)))
    result = await race.result()

A failed attempt leaves the decision to the others, unless its error `decides`; the last failure is
raised when all have failed. The losers keep running: the owner of the race calls `cancel`, or lets
them finish to learn whether a slow peer still answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AttemptRace(Generic[T]):
    """Concurrent attempts of one call. `spawn` starts a task. `closed` makes the error to raise
    when an attempt was cancelled from outside, e.g. by a client that is closing; without it the
    waiter is cancelled too."""

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        decides: Callable[[Exception], bool] = lambda error: False,
        closed: Callable[[], Exception] | None = None,
    ) -> None:
        self._spawn = spawn
        self._decides = decides
        self._closed = closed
        self._winner: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._running = 0
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def decided(self) -> bool:
        return self._winner.done()

    def start(self, attempt: Coroutine[Any, Any, T]) -> asyncio.Task[None]:
        """Add an attempt."""
        self._running += 1
        task = self._spawn(self._run(attempt))
        task.add_done_callback(lambda task: self._ended(task, attempt))
        self.tasks.append(task)
        return task

    async def _run(self, attempt: Coroutine[Any, Any, T]) -> None:
        winner = self._winner
        try:
            result = await attempt
        except Exception as error:
            self._running -= 1
            if not winner.done() and (not self._running or self._decides(error)):
                winner.set_exception(error)
        else:
            if not winner.done():
                winner.set_result(result)

    def _ended(self, task: asyncio.Task[None], attempt: Coroutine[Any, Any, T]) -> None:
        attempt.close()  # of a task that was cancelled before its first step
        if task.cancelled() and not self._winner.done():
            if self._closed is None:
                self._winner.cancel()
            else:
                self._winner.set_exception(self._closed())

    async def result(self) -> T:
        """Wait for the decision. The attempts are cancelled with the waiter."""
        try:
            return await self._winner
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the attempts that still run."""
        winner = self._winner
        if not winner.done():
            winner.cancel()
        elif not winner.cancelled():
            winner.exception()  # mark the exception as retrieved: it may come together with a cancellation
        for task in self.tasks:
            task.cancel()
