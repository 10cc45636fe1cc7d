"""Choice of the relay towards a node among several, by the adaptive router. No I/O.

What counts is measured on the way itself: the time until a segment of an encrypted session is acknowledged, segments that are
not acknowledged in time, refusals. Relay and node together are what the adaptive router calls a peer, since one relay
may be near to one node and far from another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from p2p.adaptive.adaptive_router import AdaptiveRouter
from p2p.adaptive.peer_metrics import Outcome
from p2p.ground.bounded_map import BoundedMap

KEEP: Final = 2.0  # seconds that a choice is kept, so that segments seldom overtake each other
MAX_NODES: Final = 4096


class RelayChoice:
    """The relay in use towards each node."""

    def __init__(self, rng: random.Random) -> None:
        self._router: AdaptiveRouter[tuple[str, str]] = AdaptiveRouter(rng)
        self._used: BoundedMap[str, tuple[str, float]] = BoundedMap(MAX_NODES)

    def pick(self, now: float, node: str, relays: Sequence[str]) -> str:
        """Return the relay for the next segment to `node`; `relays` are the possible ones, not empty."""
        used, until = self._used.get(node, ("", 0.0))
        if used in relays and (now < until or len(relays) == 1):
            return used
        chosen = relays[0]
        if len(relays) > 1:
            chosen, _ = self._router.pick(now, [(relay, node) for relay in relays])
        self._used[node] = (chosen, now + KEEP)
        return chosen

    def used(self, node: str) -> str:
        """Return the relay of the last segment to `node`, empty before the first."""
        return self._used.get(node, ("", 0.0))[0]

    def result(
        self, now: float, node: str, outcome: Outcome, seconds: float, relay: str = ""
    ) -> None:
        """Record what came of a segment or message that went through `relay`, by default the one in use, `seconds` ago."""
        used, _ = self._used.get(node, ("", 0.0))
        relay = relay or used
        if not relay:
            return
        self._router.on_send(now - seconds, (relay, node))
        self._router.on_result(now, (relay, node), seconds, outcome)
        if outcome != "ok" and relay == used:
            self._used[node] = (used, now)  # chosen anew for the next segment
