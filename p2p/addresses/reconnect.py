"""Reconnect delays: the wait before an address is dialled again. Pure: the random source is an argument.

A short ladder first (a restarted peer is back within seconds), then the configured interval,
doubling to a maximum. Every wait is jittered, so that nodes that lost a peer together do not come
back together. The ladder starts again only after a link has lasted: a peer that accepts and drops
links at once is treated like a peer that does not answer.
"""

from __future__ import annotations

import random
from enum import Enum

import msgspec

from p2p.base.errors import Code
from p2p.base.limits import HEALTHY_AFTER, RECONNECT_JITTER, RECONNECT_LADDER, RECONNECT_MAX


class Wait(Enum):
    """Consequence of an outcome for the next dial."""

    LADDER = "ladder"  # the usual wait of the rung
    INTERVAL = (
        "interval"  # the peer is healthy but does not accept this node now: at least the interval
    )
    LONG = "long"  # a lasting reason: the maximum


_WAITS = {
    Code.FULL: Wait.INTERVAL,
    Code.DUPLICATE: Wait.INTERVAL,
    Code.WRONG_NETWORK: Wait.LONG,
    Code.WRONG_VERSION: Wait.LONG,
    Code.WRONG_IDENTITY: Wait.LONG,
    Code.ABUSE: Wait.LONG,
    Code.SELF: Wait.LONG,
}


def wait_after(code: Code | None) -> Wait:
    """Return the kind of wait after a refusal or goodbye with `code`; None stands for a link that broke."""
    return Wait.LADDER if code is None else _WAITS.get(code, Wait.LADDER)


class Reconnect(msgspec.Struct, frozen=True):
    """Delays of the reconnect ladder. `interval` (seconds) is the setting PEER_RECONNECT_INTERVAL."""

    interval: float
    ladder: tuple[float, ...] = RECONNECT_LADDER
    maximum: float = RECONNECT_MAX
    jitter: float = RECONNECT_JITTER

    def base(self, rung: int, kind: Wait = Wait.LADDER) -> float:
        """Return the seconds before jitter. Rung 1 is the first wait; no rung is longer than a later one."""
        if kind is Wait.LONG:
            return self.maximum
        above = max(rung, 1) - 1 - len(self.ladder)
        if above >= 0:
            # 2**60 intervals are beyond any maximum; a larger power would overflow a float.
            return min(self.interval * 2.0 ** min(above, 60), self.maximum)
        step = min(self.ladder[max(rung, 1) - 1], self.interval, self.maximum)
        return max(step, min(self.interval, self.maximum)) if kind is Wait.INTERVAL else step

    def wait(self, rung: int, rng: random.Random, kind: Wait = Wait.LADDER) -> float:
        """Return the seconds to wait on `rung`, jittered."""
        return self.base(rung, kind) * (1.0 + self.jitter * rng.uniform(-1.0, 1.0))


def rung_after_link(rung: int, lasted: float) -> int:
    """Return the rung after a link of `lasted` seconds went down."""
    return 1 if lasted >= HEALTHY_AFTER else rung + 1
