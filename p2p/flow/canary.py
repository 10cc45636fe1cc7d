"""Canary: a change for a fixed share of the clients, with figures for both cohorts.

A client is enrolled by a hash of its name, so for all of its requests, and stays enrolled when the
share is raised. The throttling guide's sketch draws a random number for every request instead; one
request in a hundred of each client would show no effect.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import msgspec

from p2p.flow.window import SlidingWindow, WindowFigures

Cohort = Literal["canary", "control"]


class CohortFigures(msgspec.Struct, frozen=True):
    canary: WindowFigures
    control: WindowFigures


class Canary:
    """Enrolment of `percent` (0 to 100) of the clients. The `name` of the change makes cohorts of
    different changes independent."""

    def __init__(self, percent: float, *, name: str = "", window_s: float = 60.0) -> None:
        self._key = name.encode()[:64]
        self._windows: dict[Cohort, SlidingWindow] = {
            "canary": SlidingWindow(window_s),
            "control": SlidingWindow(window_s),
        }
        self.percent = 0.0
        self.set_percent(percent)

    def set_percent(self, percent: float) -> None:
        """Change the share: raising it adds clients, lowering it removes those added last."""
        if not 0.0 <= percent <= 100.0:
            raise ValueError("percent is from 0 to 100")
        self.percent = percent

    def cohort(self, client: str) -> Cohort:
        digest = blake2b(client.encode(), digest_size=8, key=self._key).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return "canary" if share * 100.0 < self.percent else "control"

    def enrolled(self, client: str) -> bool:
        """Return True if the change is on for this client."""
        return self.cohort(client) == "canary"

    def record(self, now: float, client: str, latency_s: float, ok: bool) -> None:
        """Record a result of `client` in the figures of its cohort."""
        self._windows[self.cohort(client)].record(now, latency_s, ok)

    def figures(self, now: float) -> CohortFigures:
        return CohortFigures(
            self._windows["canary"].figures(now), self._windows["control"].figures(now)
        )
