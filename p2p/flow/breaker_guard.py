"""Circuit breaker for asyncio: the breaker of the adaptive router around an action.

    breaker = CircuitBreaker(rng=random.Random(), on_change=lambda now, old, new, why: print(old, new, why))
    answer = await guarded(breaker, lambda: ask(peer))

An open breaker refuses at once with `BreakerOpen`; refused actions should be queued and sent later,
as `p2p.flow.gate.Gate` does. See `p2p.adaptive.circuit_breaker` for the states and the reasons.
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
    """Action not started because the breaker is open. A probe is possible after `retry_after_s`
    seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the breaker is open; try again in {retry_after_s:.2f} s")
        self.retry_after_s = retry_after_s


async def guarded(breaker: CircuitBreaker, action: Callable[[], Awaitable[R]]) -> R:
    """Run `action` if `breaker` allows it, and report its outcome.

    A refusal by the application is an answer, not a failure (`outcome_of`).

    Raises:
        BreakerOpen: the action was not run.
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
