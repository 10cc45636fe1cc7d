"""Shared work: concurrent callers of the same work share one owned task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from p2p.grenache.errors import GrapeUnreachable, GrenacheError
from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger(__name__)

T = TypeVar("T")


class SharedWork:
    """Tasks by key, from the first call until `close`."""

    def __init__(self) -> None:
        self._tasks = OwnedTasks(log, expected=(GrenacheError,))  # waiters got it
        self._shared: dict[Hashable, asyncio.Task[Any]] = {}
        self._closed = False

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task; `close` cancels it if it still runs."""
        return self._tasks.start(work)

    async def share(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, or of the same work that is under way. That goes on when one who waits
        is cancelled: others may wait, too.

        Raises:
            GrapeUnreachable: closed meanwhile.
            Exception: what the work raised.
        """
        task: asyncio.Task[T] | None = self._shared.get(key)
        if task is None:
            task = self._shared[key] = self.own(work())
            task.add_done_callback(lambda done: self._unshare(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and self._closed:
                raise GrapeUnreachable("the Link was closed") from None
            raise

    async def settled(self, key: Hashable) -> None:
        """Wait for the end of the work that is under way under this key, if there is any. Later callers
        start it anew: what follows may undo it."""
        task = self._shared.pop(key, None)
        if task is not None:
            await asyncio.wait([task])

    def forget(self, key: Hashable) -> None:
        """Let later callers start the work anew. Present waiters get its result."""
        self._shared.pop(key, None)

    def is_current(self, key: Hashable) -> bool:
        """Return True if the task that asks is the one that later callers would join."""
        return self._shared.get(key) is asyncio.current_task()

    async def close(self) -> None:
        """Cancel everything and wait for its end."""
        self._closed = True
        await self._tasks.close()

    def _unshare(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if self._shared.get(key) is task:
            del self._shared[key]
