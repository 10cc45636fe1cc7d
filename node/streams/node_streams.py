"""Streams about the node itself: its state, read at intervals while the stream is open, and the router's
decisions as they happen.

A state is read once for all readers, and published when it differs from the last one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from node.streams.node_messages import (
    Decisions,
    DiagnosticsState,
    FeedsState,
    HaltsState,
    PeersState,
    RouterState,
    ServicesState,
    StatusState,
    TopologyState,
)
from node.streams.stream import FAILED, NumberedStream, encode
from node.streams.stream_messages import Reason
from node.views.account_views import HaltView
from node.views.node_views import (
    DiagnosticsView,
    FeedView,
    PeerView,
    RouterEventView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
)

INTERVAL: Final = 1.0  # seconds between two readings of a state
QUICK: Final = 0.25  # of states that readers act on
BATCH: Final = 0.1  # seconds in which decisions are collected
LATEST: Final = 100  # decisions in the first message, and at most in each

log = logging.getLogger(__name__)


class NodeViews(Protocol):
    """State of a running node."""

    def status(self) -> StatusView: ...

    def diagnostics(self) -> DiagnosticsView: ...

    def peers(self) -> list[PeerView]: ...

    async def topology(self) -> TopologyView: ...

    def feeds(self) -> list[FeedView]: ...

    def services(self) -> list[ServiceView]: ...

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView: ...

    def halts(self) -> list[HaltView]: ...

    def follow_decisions(self, listener: Callable[[RouterEventView], None]) -> Callable[[], None]:
        """Call at every decision of the router; returns what ends it."""
        ...


class StateStream(NumberedStream):
    """A state of the node. `read` returns it, `message` is its kind."""

    def __init__(
        self,
        name: str,
        epoch: str,
        read: Callable[[], Any | Awaitable[Any]],
        message: type[msgspec.Struct],
        interval: float,
    ) -> None:
        super().__init__(name, epoch)
        self._read = read
        self._message = message
        self._interval = interval
        self._state: Any = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._state = await self._now()
        self._task = asyncio.create_task(self._run(), name=f"stream {self.name}")

    def close(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _now(self) -> Any:
        found = self._read()
        return await found if inspect.isawaitable(found) else found

    async def _run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._interval)
                state = await self._now()
                if state != self._state:
                    self._state = state
                    self.publish({self.name: state})
        except Exception:
            log.exception("the stream %s failed", self.name)
            self.end(*FAILED)

    def since(self, told: int, *, singly: bool) -> list[bytes]:
        """Return the newest state alone: it supersedes all earlier ones."""
        self.check()
        return [self._encode(told)]

    def encode_snapshot(self, reason: Reason) -> bytes:
        return self._encode(None)

    def encode_changes(self, previous: int, changes: Mapping[object, Any]) -> bytes:
        return self._encode(previous)

    def _encode(self, previous: int | None) -> bytes:
        return encode(self._message(previous=previous, **{self.name: self._state}, **self.fields()))


class DecisionsStream(NumberedStream):
    """Decisions of the adaptive router, collected for a moment."""

    def __init__(
        self, name: str, epoch: str, views: NodeViews, later: Callable[[float, Any], Any]
    ) -> None:
        super().__init__(name, epoch)
        self._views = views
        self._later = later
        self._count = 0
        self._collected: list[RouterEventView] = []
        self._omitted = 0  # in this moment
        self._stop: Callable[[], None] | None = None

    async def open(self) -> None:
        self._stop = self._views.follow_decisions(self._add)

    def close(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _add(self, decision: RouterEventView) -> None:
        if not self._collected and not self._omitted:
            self._later(BATCH, self._tell)
        if len(self._collected) < LATEST:
            self._collected.append(decision)
        else:
            self._omitted += 1

    def _tell(self) -> None:
        collected, self._collected = self._collected, []
        omitted, self._omitted = self._omitted, 0
        if self._stop is None:
            return
        changes: dict[object, Any] = {}
        for decision in collected:
            self._count += 1
            changes[self._count] = decision
        changes["omitted", self._count] = omitted
        self.publish(changes)

    def encode_snapshot(self, reason: Reason) -> bytes:
        latest = self._views.routing(events=LATEST).events
        return encode(Decisions(previous=None, omitted=0, decisions=latest, **self.fields()))

    def encode_changes(self, previous: int, changes: Mapping[object, Any]) -> bytes:
        told = [value for value in changes.values() if isinstance(value, RouterEventView)]
        omitted = sum(value for value in changes.values() if isinstance(value, int))
        omitted += len(told[:-LATEST])
        return encode(
            Decisions(previous=previous, omitted=omitted, decisions=told[-LATEST:], **self.fields())
        )


def node_stream(
    channel: str, epoch: str, views: NodeViews, later: Callable[[float, Any], Any]
) -> NumberedStream:
    """Return the stream of a channel about the node."""
    if channel == "decisions":
        return DecisionsStream(channel, epoch, views, later)
    states: dict[str, tuple[Callable[[], Any], type[msgspec.Struct], float]] = {
        "status": (views.status, StatusState, INTERVAL),
        "diagnostics": (views.diagnostics, DiagnosticsState, INTERVAL),
        "peers": (views.peers, PeersState, INTERVAL),
        "topology": (views.topology, TopologyState, INTERVAL),
        "feeds": (views.feeds, FeedsState, QUICK),
        "services": (views.services, ServicesState, INTERVAL),
        "router": (lambda: views.routing(events=0), RouterState, QUICK),
        "halts": (views.halts, HaltsState, QUICK),
    }
    read, message, interval = states[channel]
    return StateStream(channel, epoch, read, message, interval)
