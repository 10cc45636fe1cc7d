"""Retry strategy: full jitter, a budget, and a token of the rate limit for every attempt.

The delays and the budget are the router's own (`p2p.adaptive.retry_policy`). In addition every
attempt, not only the first, takes a token of the bucket that limits the sender. For many messages
to one peer use `p2p.flow.gate.Gate`, which has an adaptive window.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from p2p.adaptive.retry_policy import RetryBudget, RetryPolicy, RetrySettings
from p2p.flow.load import outcome_of
from p2p.flow.token_bucket import TokenBucket

__all__ = ["RetryBudget", "RetryPolicy", "RetrySettings", "RetryStrategy", "full_jitter"]

R = TypeVar("R")


def full_jitter(rng: random.Random, attempts: int, base_s: float, cap_s: float) -> float:
    """Return the wait after `attempts` (at least 1), in seconds: uniform below a bound that doubles
    (Brooker, 2015)."""
    bound: float = min(cap_s, base_s * 2.0 ** min(attempts - 1, 60))
    return rng.random() * bound


class RetryStrategy:
    """Run an action with retries after transport failures and "busy". Only for idempotent actions."""

    def __init__(self, policy: RetryPolicy, *, bucket: TokenBucket | None = None) -> None:
        self.policy = policy
        self.bucket = bucket
        self.attempts = 0  # made so far, of all actions

    async def execute(self, action: Callable[[], Awaitable[R]], *, timeout_s: float) -> R:
        """Run `action` with retries and return its result. `timeout_s` bounds everything, waits included.

        Raises:
            TimeoutError: the time was over.
            Exception: error of the last attempt, when a retry is useless or unsafe.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self.policy.on_request(loop.time())
        attempts = 0
        async with asyncio.timeout_at(deadline):
            while True:
                if self.bucket is not None:
                    await self.bucket.take()
                attempts += 1
                self.attempts += 1
                try:
                    return await action()
                except Exception as error:
                    outcome, after = outcome_of(error)
                    if outcome == "ok":
                        raise  # an answer
                    delay = self.policy.next_delay(loop.time(), attempts, deadline, after)
                    if delay is None:
                        raise
                await asyncio.sleep(delay)
