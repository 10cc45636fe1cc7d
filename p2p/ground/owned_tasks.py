"""Tasks of one owner, which ends them when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class OwnedTasks:
    """Background tasks: each is referenced until its end, and its error is logged if no caller awaits it.

    `log` and `expected` belong to the owner: an error of an `expected` type is part of normal work and not logged.
    """

    def __init__(self, log: logging.Logger, expected: tuple[type[BaseException], ...] = ()) -> None:
        self._log = log
        self._expected = expected
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run `work` in the running loop until it ends, or until `close`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what runs, and wait for its end. Tasks may be started afterwards."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            self._log.error("%s failed", task.get_name(), exc_info=error)
