"""Subscriptions to a market's events, each bounded: a reader that falls behind starts anew."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from node.views import BookReset, LevelChange, StreamEvent

MAX_WAITING = 1000  # events for one reader; then they are dropped and it gets the whole book again


class Subscription:
    """One reader of one market."""

    def __init__(self, market: str, snapshot: Callable[[], BookReset]) -> None:
        self.market = market
        self._snapshot = snapshot
        self._events: deque[StreamEvent] = deque()
        self._behind = True  # the first thing to send is the whole book
        self._ready = asyncio.Event()
        self._ready.set()
        self._closed = False

    def offer(self, event: StreamEvent) -> None:
        if self._behind and isinstance(event, LevelChange):
            return  # the snapshot will have it
        if len(self._events) >= MAX_WAITING:
            # Level changes are in the snapshot; trades and order changes can be queried.
            self._events.clear()
            self._behind = True
        else:
            self._events.append(event)
        self._ready.set()

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    async def events(self) -> AsyncIterator[StreamEvent]:
        while True:
            await self._ready.wait()
            if self._closed:
                return
            if self._behind:
                self._behind = False
                yield self._snapshot()
            elif self._events:
                yield self._events.popleft()
            else:
                self._ready.clear()


class Hub:
    """All subscriptions of a node."""

    def __init__(self) -> None:
        self._by_market: dict[str, dict[Subscription, None]] = {}

    async def subscribe(
        self, market: str, snapshot: Callable[[], BookReset]
    ) -> AsyncIterator[StreamEvent]:
        """Snapshot first, then every change until the hub closes or the reader stops."""
        subscription = Subscription(market, snapshot)
        self._by_market.setdefault(market, {})[subscription] = None
        try:
            async for event in subscription.events():
                yield event
        finally:
            del self._by_market[market][subscription]

    def wanted(self, market: str) -> bool:
        return bool(self._by_market.get(market))

    def publish(self, market: str, event: StreamEvent) -> None:
        for subscription in self._by_market.get(market, ()):
            subscription.offer(event)

    def close(self) -> None:
        """End every subscription."""
        for subscriptions in self._by_market.values():
            for subscription in subscriptions:
                subscription.close()
