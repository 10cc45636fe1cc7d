"""Concurrency queue: calls to one service that wait until a node can take one more, in order of arrival.

The governor of a node (`p2p.flow.governor`) decides how many calls it can take at once: as many as its
replies show no queue for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from p2p.base.errors import ServiceBusy
from p2p.flow.governor import FlowEvent, Governor, GovernorSettings

MAX_WAITING: Final = 2000  # queued calls to one service
LOOK_AGAIN: Final = 0.25  # seconds; while they wait, others may have begun to offer the service
GRAIN: Final = 0.001  # seconds; timers are no finer
MAX_GOVERNORS: Final = 256  # nodes of one service
# Generous at the start: the router spreads the load already, this is for when there is too much.
GOVERNOR: Final = GovernorSettings(
    first_window=16.0,
    first_round_trip_s=0.01,
    start_window=16.0,
    start_rate=1600.0,
    failures_in_a_row=1_000_000,  # excluding a node is the task of the router's breaker
)


Pick = Callable[[], tuple[str | None, float]]
"""The node to ask now; or none, and when to look again, in the loop's time."""


class ConcurrencyQueue:
    """Queue of one service. `on_rate` is called when the governor of a node changes its limit."""

    def __init__(self, rng: random.Random, on_rate: Callable[[str, FlowEvent], None]) -> None:
        self._rng = rng
        self._on_rate = on_rate
        self._governors: dict[str, Governor] = {}
        self._lock = asyncio.Lock()  # fair
        self._waiting = 0
        self._freed = asyncio.Event()

    def governor(self, node: str) -> Governor:
        """Return the limiter of calls under way to `node`."""
        governor = self._governors.get(node)
        if governor is None:
            if len(self._governors) >= MAX_GOVERNORS:
                idle = [n for n, g in self._governors.items() if not g.in_flight]
                for old in idle[: MAX_GOVERNORS // 16]:
                    del self._governors[old]
            governor = Governor(
                GOVERNOR, rng=self._rng, on_event=lambda event: self._on_rate(node, event)
            )
            self._governors[node] = governor
        return governor

    def known_governor(self, node: str) -> Governor | None:
        """Return the limiter of a node that was called before."""
        return self._governors.get(node)

    def freed(self) -> None:
        """Wake the first waiter: an attempt ended."""
        self._freed.set()

    async def wait_for_node(self, pick: Pick, deadline: float) -> str:
        """Return the node that `pick` chooses, at once or when one has room. Send to it before any other
        await.

        Raises:
            ServiceBusy: too many calls wait already, or there is no room by the `deadline`.
        """
        if not self._lock.locked():
            node, _ = pick()
            if node is not None:
                return node
        if self._waiting >= MAX_WAITING:
            raise ServiceBusy(f"{MAX_WAITING} calls to the service are queued already", 1.0)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline), self._lock:
                while True:
                    node, at = pick()
                    if node is not None:
                        return node
                    self._freed.clear()
                    now = loop.time()
                    at = min(max(at, now + GRAIN), now + LOOK_AGAIN)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(at):
                            await self._freed.wait()
        except TimeoutError:
            raise ServiceBusy("no node could take the call in time", 0.0) from None
        finally:
            self._waiting -= 1
