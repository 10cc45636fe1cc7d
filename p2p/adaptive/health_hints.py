"""Health hints about peers: received ones, with a bounded effect, and own ones, from own evidence only.

A received hint decays from its arrival, on the receiver's clock: its weight is `decay` to the power
of the number of sixths of `ttl_s` that have passed, and zero after `ttl_s`. Each origin has one
hint per peer, and their sum saturates: each further hint closes half of the remaining distance, so
a thousand origins weigh no more than a handful. All hints together multiply a peer's cost by at
most `MAX_FACTOR`, and each recent own success with the peer halves the effect. So hints decide only
where own experience is missing; false hints cost a bounded detour and never exclude a peer.
Suspecting the own link before publishing hints about others is the idea of Lifeguard (Dadgar et
al., 2018).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log

import msgspec

from p2p.ground.bounded_map import BoundedMap

MAX_FACTOR = 3.0
LEAST = 0.05  # a smaller excess is ignored
LN2 = log(2.0)
VOICE = 0.5  # weight of one fresh hint, of the most that hints can weigh
MAX_VOICES = 16  # origins remembered per peer and signal: more would not change the result (2^-16)
MAX_PEERS = 1024  # peers with hints; the least recently hinted is evicted first
MAX_PER_ORIGIN = 64  # peers that one origin can have hints about at once


class Signal(StrEnum):
    DEGRADED = "DEGRADED"
    HEALTHY = "HEALTHY"


DEGRADED, HEALTHY = Signal.DEGRADED, Signal.HEALTHY


class Hint(msgspec.Struct, frozen=True):
    """An own hint, to be signed and broadcast by the publisher."""

    peer: Hashable
    signal: Signal
    latency_s: float  # as measured here; 0 when never
    error_rate: float  # decayed share of failures
    reason: str


class HintSettings(msgspec.Struct, frozen=True):
    """`GOSSIP_HINT_TTL`, `GOSSIP_PUBLISH_INTERVAL` (seconds here) and `GOSSIP_DECAY_FACTOR`."""

    ttl_s: float = 60.0
    publish_interval_s: float = 5.0
    decay: float = 0.5  # share of a hint's weight that is left after each sixth of its lifetime

    def weight(self, age: float) -> float:
        if not 0.0 <= age < self.ttl_s:
            return 0.0
        return float(self.decay ** (6.0 * age / self.ttl_s))


class HintBook:
    """Received hints by peer. Bounded per peer, per origin and in all; nothing depends on a
    sender's clock."""

    def __init__(self, settings: HintSettings | None = None) -> None:
        self.settings = settings or HintSettings()
        self._hints: BoundedMap[Hashable, dict[Signal, dict[str, float]]] = BoundedMap(
            MAX_PEERS, on_evict=self._evicted
        )
        self._by_origin: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._hints)

    def __contains__(self, peer: Hashable) -> bool:
        return peer in self._hints

    def receive(self, now: float, origin: str, peer: Hashable, signal: Signal) -> bool:
        """Store a hint that arrived now. Returns False if its origin has too many hints already."""
        about = self._by_origin.get(origin)
        if about is not None and peer not in about and len(about) >= MAX_PER_ORIGIN:
            return False
        voices = self._hints.renew(peer)
        if voices is None:
            voices = self._hints[peer] = {DEGRADED: {}, HEALTHY: {}}
        other = HEALTHY if signal is DEGRADED else DEGRADED
        voices[other].pop(origin, None)  # its latest hint counts
        said = voices[signal]
        said.pop(origin, None)
        if len(said) >= MAX_VOICES:
            oldest = next(iter(said))
            del said[oldest]
            self._unlist(oldest, peer)
        said[origin] = now
        self._by_origin.setdefault(origin, set()).add(peer)
        return True

    def advice(self, now: float, peer: Hashable) -> float:
        """Return the advice about a peer, from -1 (all HEALTHY) to 1 (all DEGRADED), decayed by
        age; 0 without hints.
        """
        voices = self._hints.get(peer)
        if voices is None:
            return 0.0
        return self._published(now, voices[DEGRADED]) - self._published(now, voices[HEALTHY])

    def _published(self, now: float, said: dict[str, float]) -> float:
        silent: float = 1.0
        for arrived in said.values():
            silent *= 1.0 - VOICE * self.settings.weight(now - arrived)
        return 1.0 - silent

    def factor(self, now: float, peer: Hashable, good: float) -> float:
        """Return the factor for the cost of a peer, in [1, MAX_FACTOR]. `good`: own recent successes with
        it.
        """
        advice = self.advice(now, peer)
        if advice <= 0.0:
            return 1.0
        excess = (MAX_FACTOR - 1.0) * advice * exp(-LN2 * good)
        # Between equal peers the smallest difference would decide every pick, so a small rest is
        # ignored.
        return 1.0 + excess if excess >= LEAST else 1.0

    def sweep(self, now: float) -> list[Hashable]:
        """Drop hints without weight; return the peers that have no hint left."""
        gone = []
        for peer, voices in list(self._hints.items()):
            for said in voices.values():
                for origin in [o for o, t in said.items() if self.settings.weight(now - t) < 0.01]:
                    del said[origin]
                    self._unlist(origin, peer)
            if not any(voices.values()):
                del self._hints[peer]
                gone.append(peer)
        return gone

    def forget(self, peer: Hashable) -> None:
        voices = self._hints.pop(peer, None)
        if voices is not None:
            self._evicted(peer, voices)

    def _evicted(self, peer: Hashable, voices: dict[Signal, dict[str, float]]) -> None:
        for said in voices.values():
            for origin in said:
                self._unlist(origin, peer)

    def _unlist(self, origin: str, peer: Hashable) -> None:
        about = self._by_origin.get(origin)
        if about is not None:
            about.discard(peer)
            if not about:
                del self._by_origin[origin]

    def listed(self, now: float) -> list[tuple[Hashable, str, Signal, float]]:
        """Return (peer, origin, signal, weight) of every hint that has weight, for display."""
        return [
            (peer, origin, signal, self.settings.weight(now - arrived))
            for peer, voices in self._hints.items()
            for signal, said in voices.items()
            for origin, arrived in said.items()
            if self.settings.weight(now - arrived) > 0.0
        ]


@dataclass
class _Published:
    signal: Signal
    at: float


class HintPublisher:
    """Choose the own hints that are due: a pure function of first-hand evidence, rate-limited.

    A failing peer is published as DEGRADED, again once an interval while it lasts, and once as
    HEALTHY after it has recovered: an avoided peer without new answers has not. Nothing is
    published while more than half of the known peers fail: then the observer's own link is the
    likelier cause. One of two that works shows that it is not.
    """

    def __init__(self, settings: HintSettings | None = None) -> None:
        self.settings = settings or HintSettings()
        self._published: dict[Hashable, _Published] = {}

    def withheld(self, verdicts: dict[Hashable, Hint]) -> bool:
        bad = sum(hint.signal is DEGRADED for hint in verdicts.values())
        return 2 * bad > len(verdicts)

    def due(
        self, now: float, verdicts: dict[Hashable, Hint], unsure: Collection[Hashable] = ()
    ) -> list[Hint]:
        """Return the hints to publish now. `verdicts`: first-hand evidence about each peer. `unsure`:
        peers without a success since their last failure, whose earlier hints are not revoked."""
        for peer in [p for p in self._published if p not in verdicts]:
            del self._published[peer]
        if self.withheld(verdicts):
            return []
        hints = []
        for peer, hint in verdicts.items():
            said = self._published.get(peer)
            if hint.signal is HEALTHY and peer in unsure:
                continue
            if said is None:
                if hint.signal is HEALTHY:
                    continue  # never published as DEGRADED: nothing to revoke
            elif now - said.at < self.settings.publish_interval_s:
                continue
            elif hint.signal is HEALTHY and said.signal is HEALTHY:
                del self._published[peer]
                continue
            self._published[peer] = _Published(hint.signal, now)
            hints.append(hint)
        return hints
