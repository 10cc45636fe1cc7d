"""Balanced call, without I/O: choice of the peer, retries, hedges, and their budgets.

A transport makes the attempts, reports each of them, and gets the next step from the call:

    call = BalancedCall(balance, candidates, deadline, idempotent=True)
    peer = call.pick(now)
    call.begin(now, peer)                     # before any await: the next choice depends on it
    ...                                       # the attempt
    call.failed.append(peer)                  # after a failure
    delay = call.next_delay(now, executed=True)  # seconds to the next attempt; None: give up

Rules of this file:

- An attempt that may have been executed is repeated only if the call is idempotent.
- A retry goes to a peer that has not failed yet, after a few ms with full jitter, while there is one;
  otherwise to the same peers, after the longer waits of `same`.
- Retries are paid from one budget for all calls of a service, hedges from another, so that an outage
  is not answered with a multiple of the usual load. An attempt that was never sent costs nothing.
- A hedge goes to a healthy peer only, and only for an idempotent call.

`p2p.flow.caller` makes such calls over any transport.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from p2p.adaptive.adaptive_router import AdaptiveRouter
from p2p.adaptive.circuit_breaker import BreakerState
from p2p.adaptive.hedging import HedgePolicy
from p2p.adaptive.retry_policy import RetryBudget, RetryPolicy, RetrySettings

P = TypeVar("P", bound=Hashable)

RETRY_RATIO: Final = 0.2  # of a retry that each call earns
RETRY_RESERVE: Final = 100.0  # a peer that dies fails all calls under way to it at once
RETRY_TRICKLE: Final = 1.0  # retries a second without any calls
LEAST_HEDGE: Final = (
    0.005  # seconds; below this, delays of the own event loop would look like a slow peer
)


class CallBalance(Generic[P]):
    """State shared by the calls of one service.

    Args:
        elsewhere: waits before another peer is tried.
        same: waits before the same peers are tried again; None: as `elsewhere`, and each round of all
            peers begins anew.
    """

    __slots__ = ("elsewhere", "hedge", "router", "same")

    def __init__(
        self,
        router: AdaptiveRouter[P],
        elsewhere: RetrySettings,
        same: RetrySettings | None = None,
        *,
        rng: random.Random,
    ) -> None:
        self.router = router
        budget = RetryBudget(ratio=RETRY_RATIO, reserve=RETRY_RESERVE, per_second=RETRY_TRICKLE)
        self.elsewhere = RetryPolicy(elsewhere, rng=rng, budget=budget)
        self.same = None if same is None else RetryPolicy(same, rng=rng, budget=budget)
        self.hedge = HedgePolicy()

    def on_call(self, now: float) -> None:
        """Record a call, which earns its share of a retry."""
        self.elsewhere.on_request(now)

    def hedge_delay(self, now: float, otherwise: float | None = None) -> float | None:
        """Record a call that may be hedged; return the seconds until then. `otherwise`: the delay
        before enough latencies are known."""
        self.hedge.on_request(now)
        usual = self.hedge.delay()
        return otherwise if usual is None else max(LEAST_HEDGE, usual)


class BalancedCall(Generic[P]):
    """State of one call. `candidates` returns the peers that can answer it now."""

    __slots__ = (
        "attempts",
        "balance",
        "candidates",
        "deadline",
        "failed",
        "hedged",
        "idempotent",
        "retries",
    )

    def __init__(
        self,
        balance: CallBalance[P],
        candidates: Callable[[], Sequence[P]],
        deadline: float,
        *,
        idempotent: bool,
    ) -> None:
        self.balance = balance
        self.candidates = candidates
        self.deadline = deadline
        self.idempotent = idempotent
        self.hedged = idempotent  # a second attempt may be made beside a slow one
        self.failed: list[P] = []  # peers, in this round
        self.attempts = 0  # attempts sent, hedges included
        self.retries = 0  # attempts paid from the budget

    def others(self, but: P | None = None) -> bool:
        """Return True if there is a peer that has not failed, other than `but`."""
        failed = self.failed
        for peer in self.candidates():  # noqa: SIM110 - a generator costs as much as the rest
            if peer != but and peer not in failed:
                return True
        return False

    def pick(self, now: float, among: Sequence[P] | None = None) -> P:
        """Choose the peer of the next attempt. `among`: some of the candidates only."""
        return self.balance.router.pick(
            now, self.candidates() if among is None else among, self.failed
        )

    def pick_second(
        self, now: float, first: P, has_room: Callable[[P], bool] | None = None
    ) -> P | None:
        """Choose a healthy peer for a hedge beside `first`, or None. Only those with room."""
        router = self.balance.router
        healthy = [
            peer
            for peer in self.candidates()
            if peer != first
            and peer not in self.failed
            and router.breaker_state(now, peer) is BreakerState.CLOSED
            and (has_room is None or has_room(peer))
        ]
        return router.pick(now, healthy) if healthy else None

    def begin(self, now: float, peer: P) -> None:
        """Record an attempt as sent."""
        self.attempts += 1
        self.balance.router.on_send(now, peer)

    def next_delay(
        self, now: float, *, executed: bool, free: bool = False, retry_after_s: float = 0.0
    ) -> float | None:
        """Return the seconds until the next attempt after a failed one, or None: give up.

        Args:
            executed: the peer may have executed the call. free: nothing was sent, so another peer
                is tried at once and at no cost. retry_after_s: least wait that the peer requested.
        """
        if executed and not self.idempotent:
            return None
        balance = self.balance
        others = self.others()
        if free and others:
            least = balance.elsewhere.settings.least_s
            return 0.0 if now + least < self.deadline else None
        self.retries += 1
        if others:
            return balance.elsewhere.next_delay(now, self.retries, self.deadline)
        if balance.same is not None:
            return balance.same.next_delay(now, self.retries, self.deadline, retry_after_s)
        self.failed.clear()
        return balance.elsewhere.next_delay(now, self.retries, self.deadline, retry_after_s)
