"""Canary: a change for a share of the clients, always the same ones, with figures for both sides.

The sketch draws a number for every request; a client whose every hundredth request is throttled shows
nothing. Here a client is in or out by a hash of its name, so it is in for all its requests, and it stays
in when the share is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from p2p.flow.window import SlidingWindow, WindowFigures

Cohort = Literal["canary", "control"]


@dataclass(frozen=True, slots=True)
class CohortFigures:
    canary: WindowFigures
    control: WindowFigures


class Canary:
    """`percent` (0 to 100) of the clients. `name` of the change makes cohorts of changes independent."""

    def __init__(self, percent: float, *, name: str = "", window_s: float = 60.0) -> None:
        self._key = name.encode()[:64]
        self._windows: dict[Cohort, SlidingWindow] = {
            "canary": SlidingWindow(window_s),
            "control": SlidingWindow(window_s),
        }
        self.percent = 0.0
        self.set_percent(percent)

    def set_percent(self, percent: float) -> None:
        """Raising it adds clients, lowering it removes those that were added last."""
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
        """A result of `client`, for the figures of its cohort."""
        self._windows[self.cohort(client)].record(now, latency_s, ok)

    def figures(self, now: float) -> CohortFigures:
        return CohortFigures(
            self._windows["canary"].figures(now), self._windows["control"].figures(now)
        )
