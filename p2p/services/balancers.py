"""Balancers: one `p2p.adaptive.AdaptiveRouter` for each service, and their shared hints and events.

A service that takes seconds and one that takes milliseconds have different ideas of a slow peer, so
each has a router of its own. Hints speak of peers, so all routers share one book of them.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from p2p.adaptive import (
    DEGRADED,
    AdaptiveRouter,
    BreakerSettings,
    Hint,
    HintBook,
    HintSettings,
    RoutingEvent,
    Signal,
    Weights,
)
from p2p.ground.bounded_map import BoundedMap

log = logging.getLogger(__name__)

MAX_CALLED: Final = 256  # nodes called lately that are remembered
MAX_ROUTERS: Final = 256  # services called; beyond it the one unused for longest is forgotten
PICKS_KEPT: Final = 500
OTHERS_KEPT: Final = 500  # breaker changes, hints, panics: rare, and not to be pushed out by picks

PolicyName = Literal["adaptive", "weighted"]
RoutingRecordKind = Literal["pick", "breaker", "hint", "panic", "rate"]


@dataclass(frozen=True)
class BalancerSettings:
    """Policy and parameters of the choice. `weights` are those of the policy "weighted"."""

    policy: PolicyName = "adaptive"
    weights: Weights = field(default_factory=Weights)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    hints: HintSettings = field(default_factory=HintSettings)


class RoutingRecord(msgspec.Struct, frozen=True):
    """A decision or observation with its reason. `at` is loop time; `service` is empty for hints."""

    at: float
    kind: RoutingRecordKind
    service: str
    node: str
    reason: str
    detail: dict[str, object]


class EventRing:
    """The latest events, bounded."""

    def __init__(self, picks: int = PICKS_KEPT, others: int = OTHERS_KEPT) -> None:
        self._picks: deque[RoutingRecord] = deque(maxlen=picks)
        self._others: deque[RoutingRecord] = deque(maxlen=others)
        self.listeners: dict[Callable[[RoutingRecord], None], None] = {}

    def add(self, noted: RoutingRecord) -> None:
        for listener in self.listeners:
            listener(noted)
        (self._picks if noted.kind == "pick" else self._others).append(noted)
        if log.isEnabledFor(logging.DEBUG):
            fields = {
                "event": noted.kind,
                "peer": noted.node,
                "service": noted.service,
                "reason": noted.reason,
                **noted.detail,
            }
            what = f"{noted.kind} {noted.service or 'any service'} {noted.node}"
            log.debug("%s: %s", what, noted.reason, extra={"fields": fields})

    def latest(self, limit: int, *, kind: str | None = None) -> list[RoutingRecord]:
        """Return at most `limit` of the newest events, oldest first."""
        found = [n for n in (*self._picks, *self._others) if kind is None or n.kind == kind]
        found.sort(key=lambda noted: noted.at)
        return found[-limit:] if limit else []


class Balancers:
    """The routers of all services that this node calls."""

    def __init__(self, settings: BalancerSettings | None = None, *, rng: random.Random) -> None:
        self.settings = settings or BalancerSettings()
        self.events = EventRing()
        self.book = HintBook(self.settings.hints)
        self.breaker_changes: dict[str, int] = {}  # by new state
        self._chosen: RoutingRecord | None = None  # the latest choice, not sent yet
        self._rng = rng
        self._routers: BoundedMap[str, AdaptiveRouter[str]] = BoundedMap(MAX_ROUTERS)
        self._called: BoundedMap[str, None] = BoundedMap(MAX_CALLED)

    def router(self, service: str) -> AdaptiveRouter[str]:
        """Return the router of a service, made on first use."""
        router = self._routers.renew(service)
        if router is None:
            router = self._routers[service] = AdaptiveRouter(
                rng=self._rng,
                policy=self.settings.policy,
                weights=self.settings.weights,
                breaker=self.settings.breaker,
                hints=self.settings.hints,
                on_event=self._listener(service),
            )
            router.hints = self.book
        return router

    def routers(self) -> dict[str, AdaptiveRouter[str]]:
        """Return the existing routers by service."""
        return dict(sorted(self._routers.items()))

    def _listener(self, service: str) -> Callable[[RoutingEvent], None]:
        add = self.events.add

        def listen(event: RoutingEvent) -> None:
            if event.kind == "hint":
                return  # reported once, in `on_hint`, not by every router
            if event.kind == "breaker":
                new = str(event.detail.get("new"))
                self.breaker_changes[new] = self.breaker_changes.get(new, 0) + 1
            node = "" if event.peer is None else str(event.peer)
            record = RoutingRecord(event.at, event.kind, service, node, event.reason, event.detail)
            if event.kind == "pick":
                self._chosen = record  # chosen anew when the node has no room yet
            else:
                add(record)

        return listen

    def on_send(self, service: str, node: str) -> None:
        """Record the choice of `node`: an attempt at it is sent. One event for each attempt."""
        self._called[node] = None
        chosen, self._chosen = self._chosen, None
        if chosen is not None and (chosen.service, chosen.node) == (service, node):
            self.events.add(chosen)

    def has_called(self, node: str) -> bool:
        """Return True for one of the latest nodes that were called, until it offers no service any more."""
        return node in self._called

    def on_hint(
        self,
        now: float,
        origin: str,
        peer: str,
        signal: Signal,
        latency_s: float,
        error_rate: float,
    ) -> None:
        """Take a hint from `origin`, whose signature was checked."""
        taken = self.book.receive(now, origin, peer, signal)
        if taken:
            for router in self._routers.values():
                router.on_hint(now, origin, peer, signal, latency_s, error_rate)
        detail: dict[str, object] = {"latency_s": latency_s, "error_rate": error_rate}
        reason = f"{signal} from {origin}" + ("" if taken else ", refused: it says too much")
        self.events.add(RoutingRecord(now, "hint", "", peer, reason, detail))

    def hints_due(self, now: float) -> list[Hint]:
        """Return own hints to publish now, one for each peer: the worst that any service has seen."""
        worst: dict[object, Hint] = {}
        for router in self._routers.values():
            for hint in router.hints_due(now):
                known = worst.get(hint.peer)
                if known is None or (hint.signal is DEGRADED and known.signal is not DEGRADED):
                    worst[hint.peer] = hint
        return list(worst.values())

    def forget(self, peer: str) -> None:
        """Drop a peer that offers no service any more."""
        self._called.pop(peer, None)
        for router in self._routers.values():
            router.forget(peer)
