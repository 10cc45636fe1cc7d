"""The circuit breaker: the router's own, per peer, with its state-change callback, and an async form.

    breaker = CircuitBreaker(rng=random.Random(), on_change=lambda now, old, new, why: print(old, new, why))
    answer = await guarded(breaker, lambda: ask(peer))

An open breaker refuses at once with `BreakerOpen`; what was refused should be kept and sent later, which
is what `p2p.flow.gate.Gate` does. See `p2p.adaptive.circuit_breaker` for the states and the reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from p2p.adaptive.circuit_breaker import Breaker as CircuitBreaker
from p2p.adaptive.circuit_breaker import BreakerSettings, BreakerState
from p2p.base.errors import P2PError
from p2p.flow.load import outcome_of

__all__ = ["BreakerOpen", "BreakerSettings", "BreakerState", "CircuitBreaker", "guarded"]

R = TypeVar("R")


class BreakerOpen(P2PError):
    """Not sent: the breaker is open. `retry_after_s` seconds from now a probe may go."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the breaker is open; try again in {retry_after_s:.2f} s")
        self.retry_after_s = retry_after_s


async def guarded(breaker: CircuitBreaker, action: Callable[[], Awaitable[R]]) -> R:
    """Run `action` if `breaker` allows it, and report how it ended. What the far side refuses for
    reasons of its own is an answer, not a failure (`outcome_of`).

    Raises:
        BreakerOpen: it was not run.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    if not breaker.allows(now):
        raise BreakerOpen(max(0.0, breaker.until - now))
    tag = breaker.on_send(now)
    try:
        answer = await action()
    except asyncio.CancelledError:
        breaker.on_cancel(tag)
        raise
    except Exception as error:
        breaker.on_result(loop.time(), tag, outcome_of(error)[0] == "ok")
        raise
    breaker.on_result(loop.time(), tag, True)
    return answer
