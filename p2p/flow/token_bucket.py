"""Token bucket: at most `rate * t + burst` tokens in any t seconds, first come first served.

`burst` is an independent, small number (1 by default), not a second's worth of tokens, and a new
bucket has one token. The throttling guide's sketch starts full and fills up while idle, which
allows a large burst.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf

from p2p.base.errors import P2PError
from p2p.ground.tokens import ROUNDING, Tokens


class RateOwned(P2PError):
    """The rate is owned by another controller."""


class TokenBucket:
    """Bucket of `rate` tokens a second, at most `burst` (at least 1) kept for later.

    Times are monotonic seconds. The plain forms take `now`. `take` is for asyncio and uses the
    running loop's clock: a bucket used both ways needs `now=loop.time()`.
    """

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        if rate < 0 or burst < 1:
            raise ValueError("rate is not negative, burst is at least 1")
        self._rate = rate
        self._burst = burst
        self._tokens = Tokens(1.0)
        self._owner: object = None
        self._turns = asyncio.Lock()  # asyncio's lock is fair: first come, first served
        self._changed = asyncio.Event()

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self._rate

    @property
    def burst(self) -> float:
        return self._burst

    def claim(self, owner: object) -> None:
        """Reserve the rate for `owner`: two controllers would undo each other.

        Raises:
            RateOwned: another owner has it.
        """
        if self._owner is not None and self._owner is not owner:
            raise RateOwned(f"the rate is set by {self._owner!r}")
        self._owner = owner

    def set_rate(self, now: float, rate: float, *, owner: object = None) -> None:
        """Change the rate. Tokens earned until `now` were earned at the old rate.

        Raises:
            RateOwned: the rate is claimed by another owner.
        """
        if rate < 0:
            raise ValueError("rate is not negative")
        if self._owner is not None and self._owner is not owner:
            raise RateOwned(f"the rate is set by {self._owner!r}")
        self._tokens.refill(now, self._rate, self._burst)
        self._rate = rate
        self._changed.set()

    def tokens(self, now: float) -> float:
        """Return the tokens available now. Changes nothing."""
        return self._tokens.available(now, self._rate, self._burst)

    def would_delay(self, now: float) -> float:
        """Return the seconds until the next token (inf at rate 0), ignoring waiters in `take`.
        Consumes nothing.
        """
        missing = 1.0 - self.tokens(now)
        if missing <= ROUNDING:
            return 0.0
        return missing / self._rate if self._rate else inf

    def try_take(self, now: float) -> bool:
        """Take a token if there is one and no task waits in `take`."""
        return not self._turns.locked() and self._tokens.take(now, self._rate, self._burst)

    async def take(self) -> None:
        """Wait for a token. Waiters are served in order; a cancelled one takes none."""
        loop = asyncio.get_running_loop()
        async with self._turns:
            while not self._tokens.take(loop.time(), self._rate, self._burst):
                self._changed.clear()
                delay = self.would_delay(loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if delay == inf else delay):
                        await self._changed.wait()
