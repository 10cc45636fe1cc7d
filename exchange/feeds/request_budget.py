"""What others say that they hold: how much each of them may make this node ask for, and wait.

A claim costs its maker nothing and may be of a feed that does not exist. So everybody begins with a
small share of the requests under way; answers that help make it grow, silence halves it. Who claims the
most gives way when no more can be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SHARE = 8  # requests under way at once on one claimant's word
REQUEST_TIMEOUT = 2.0  # seconds, of a node that has not shown that it takes longer
REQUEST_TIMEOUT_MAX = 30.0
MAX_STANDINGS = 10_000  # claimants and nodes remembered that are not as everybody begins

FeedName = tuple[str, str]  # owner, market


@dataclass(slots=True)
class _Standing:
    share: int = FIRST_SHARE
    timeout: float = REQUEST_TIMEOUT
    lost_at: float = float("-inf")


class Standings:
    """How claimants and nodes that were asked have behaved so far. Seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: dict[str, _Standing] = {}

    def share(self, name: str) -> int:
        """Requests that may be under way at once on its word."""
        return self._all[name].share if name in self._all else FIRST_SHARE

    def timeout(self, name: str) -> float:
        """How long an answer of it is waited for."""
        return self._all[name].timeout if name in self._all else REQUEST_TIMEOUT

    def helped(self, name: str) -> None:
        standing = self._of(name)
        standing.share = min(standing.share + 1, self._most)

    def answered(self, name: str, took: float) -> None:
        """It answered after `took` seconds."""
        if name in self._all:
            self._all[name].timeout = min(max(2 * took, REQUEST_TIMEOUT), REQUEST_TIMEOUT_MAX)

    def failed(self, name: str, asked_at: float, now: float) -> None:
        """A request on its word, sent at `asked_at`, was not answered in time. Of requests that were
        under way together only the first counts."""
        standing = self._of(name)
        if asked_at >= standing.lost_at:
            standing.lost_at = now
            standing.share = max(1, standing.share // 2)

    def silent(self, name: str, waited: float) -> None:
        """It did not answer within `waited` seconds."""
        standing = self._of(name)
        if waited >= standing.timeout:  # otherwise it counts already
            standing.timeout = min(2 * waited, REQUEST_TIMEOUT_MAX)

    def _of(self, name: str) -> _Standing:
        standing = self._all.pop(name, None) or _Standing()
        self._all[name] = standing
        if len(self._all) > MAX_STANDINGS:
            del self._all[next(iter(self._all))]  # the one that was not heard of for longest
        return standing


class Bringers:
    """Who was the first to claim each feed that is wanted."""

    def __init__(self) -> None:
        self._feeds: dict[str, dict[FeedName, None]] = {}

    def add(self, name: str, feed: FeedName) -> None:
        self._feeds.setdefault(name, {})[feed] = None

    def remove(self, name: str, feed: FeedName) -> None:
        feeds = self._feeds[name]
        del feeds[feed]
        if not feeds:
            del self._feeds[name]

    def in_favour_of(self, name: str) -> FeedName | None:
        """The feed to forget so that `name` can claim one more: the newest of whoever brought most."""
        greatest = max(self._feeds.values(), key=len, default={})
        if len(greatest) <= len(self._feeds.get(name, ())) + 1:
            return None
        return next(reversed(greatest))
