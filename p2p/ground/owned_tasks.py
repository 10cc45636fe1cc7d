"""Tasks of one owner, which ends them when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
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

    def every(
        self, seconds: float, step: Callable[[], object | Awaitable[object]], *, name: str
    ) -> asyncio.Task[None]:
        """Call `step` now, and again `seconds` after each of its ends. An error of a step is logged, and ends no others."""

        async def steps() -> None:
            while True:
                try:
                    outcome = step()
                    if isinstance(outcome, Awaitable):
                        await outcome
                except Exception as error:
                    self._note(error, name)
                await asyncio.sleep(seconds)

        return self.start(steps(), name=name)

    async def close(self, grace: float = 0.0) -> None:
        """Wait `grace` seconds for the end of what runs, cancel the rest, and wait for its end. Tasks may be started
        afterwards.
        """
        if grace and self._running:
            await asyncio.wait(self._running, timeout=grace)
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._note(error, task.get_name())

    def _note(self, error: BaseException, name: str) -> None:
        if not isinstance(error, self._expected):
            self._log.error("%s failed", name, exc_info=error)
