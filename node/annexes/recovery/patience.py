"""Wait of a recovery: for which nodes, and how long.

It waits for nodes that this one traded with: only they can hold trades that its journal lacks. Any stranger can be in its
list of peers, have a feed, or be refused a take. What other nodes claim to hold extends the wait only while they show it, and never
beyond `MOST_WAITS` times the wait that was asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from exchange.ledger.balances import PEER
from exchange.model.records import Recovered

MOST_WAITS: Final = 10
TELL_EVERY: Final = 5.0  # seconds between lines about the progress
SHOWING: Final = 1.0  # seconds that a wait is extended while others are showing more


def traded_with(past: Recovered, own: str) -> set[str]:
    """Return the nodes with which the journal has trades, or takes that may have become trades."""
    known = {holder.removeprefix(PEER) for holder, _ in past.balances if holder.startswith(PEER)}
    known |= {decision.taker for decision in past.decisions if decision.quantity}
    known |= {take.maker for take in past.takes}
    return known - {own, ""}


class Patience:
    """The wait for answers. `now` is monotonic seconds."""

    def __init__(self, now: float, wait: float) -> None:
        self._until = now + wait
        self._last = now + MOST_WAITS * wait
        self._tell_at = now

    def is_over(self, now: float, *, complete: bool, loading: int) -> bool:
        """Report if the wait is over. `complete`: all known nodes answered and nothing new came; `loading`: feeds of
        which others are showing more."""
        if complete:
            return True
        if loading and now >= self._until:
            self._until = min(now + SHOWING, self._last)
        return now >= self._until

    def progress(
        self, now: float, heard: Collection[str], missing: Collection[str], loading: int
    ) -> str | None:
        """Return a line about the progress if it is time for one."""
        if now < self._tell_at:
            return None
        self._tell_at = now + TELL_EVERY
        return (
            f"heard {len(heard)} nodes, {len(missing)} that this one traded with are missing, {loading} feeds are "
            f"loading; {max(0.0, self._until - now):.0f} s left, {max(0.0, self._last - now):.0f} s at most"
        )
