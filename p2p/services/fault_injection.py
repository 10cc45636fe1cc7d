"""Fault injection for tests and demos: a worker that is slow, flaky, hangs, crashes or comes and goes."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, fields

from p2p.base.errors import RpcError

CRASHED = 70  # exit code of a crash on purpose (EX_SOFTWARE of sysexits.h)


@dataclass(frozen=True)
class Faults:
    """Faults added to every request served. Times in seconds, rates from 0 to 1."""

    latency_s: float = 0.0
    jitter_s: float = 0.0  # up to so much more, uniformly
    error_rate: float = 0.0  # fails as if the handler had raised
    hang_rate: float = 0.0  # never answers
    crash_rate: float = 0.0  # ends the process in the middle of the request
    flap_s: float = 0.0  # fails everything for so long, then works for so long, and again

    def __post_init__(self) -> None:
        rates = (self.error_rate, self.hang_rate, self.crash_rate)
        if min(self.latency_s, self.jitter_s, self.flap_s) < 0.0:
            raise ValueError("times are not negative")
        if not all(0.0 <= rate <= 1.0 for rate in rates):
            raise ValueError("rates are from 0 to 1")

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return ", ".join(
            f"{field.name.removesuffix('_s').replace('_', ' ')} {value:g}"
            + (" s" if field.name.endswith("_s") else "")
            for field in fields(self)
            if (value := getattr(self, field.name))
        )

    async def happen(self, now: float, rng: random.Random) -> None:
        """Wait, fail, hang or crash, at random.

        Raises:
            RpcError: "internal", as for a failure of the handler.
        """
        if self.latency_s or self.jitter_s:
            await asyncio.sleep(self.latency_s + rng.random() * self.jitter_s)
        if self.crash_rate and rng.random() < self.crash_rate:
            os._exit(CRASHED)
        if self.hang_rate and rng.random() < self.hang_rate:
            await asyncio.Event().wait()
        if rng.random() < self.error_rate or (
            self.flap_s and now % (2 * self.flap_s) < self.flap_s
        ):
            raise RpcError("internal", "a fault on purpose")
