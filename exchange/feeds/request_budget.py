"""Budgets of other nodes: digests, requests under way, feeds that they announce.

An announcement costs its sender nothing and may name a feed that does not exist. So every node begins
with a small share of the requests under way. Useful answers make the share grow, lost requests halve it.
When no more feeds can be remembered, the node that announced the most of them gives way.
"""

from __future__ import annotations

from dataclasses import dataclass

from exchange.feeds.exchange_messages import FeedName
from p2p.ground.bounded_map import BoundedMap

FIRST_SHARE = 8  # requests under way at once because of one node's announcements
REQUEST_TIMEOUT = 2.0  # seconds, for a node without a measured response time
REQUEST_TIMEOUT_MAX = 30.0
MAX_RECORDS = 10_000  # nodes remembered that differ from a new one


@dataclass(slots=True)
class _Record:
    share: int = FIRST_SHARE
    timeout: float = REQUEST_TIMEOUT
    lost_at: float = float("-inf")
    silent_until: float = float("-inf")


class RequestBudgets:
    """Shares of the requests under way, and waits for answers, by the nodes' behaviour. Seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._records: BoundedMap[str, _Record] = BoundedMap(MAX_RECORDS)

    def share(self, node: str) -> int:
        """Return the requests that may be under way at once because of a node's announcements."""
        return self._records[node].share if node in self._records else FIRST_SHARE

    def timeout(self, node: str) -> float:
        """Return the wait for an answer of a node."""
        return self._records[node].timeout if node in self._records else REQUEST_TIMEOUT

    def announcement_true(self, node: str) -> None:
        """Raise the share of a node whose announcement led to new events."""
        record = self._record(node)
        record.share = min(record.share + 1, self._most)

    def answered(self, node: str, took: float) -> None:
        """Adapt the wait to an answer that took `took` seconds."""
        if node in self._records:
            record = self._records[node]
            record.timeout = min(max(2 * took, REQUEST_TIMEOUT), REQUEST_TIMEOUT_MAX)
            record.silent_until = float("-inf")

    def request_lost(self, node: str, asked_at: float, now: float) -> None:
        """Halve the share of a node: a request because of its announcement, sent at `asked_at`, timed
        out. Of requests that were under way together only the first counts."""
        record = self._record(node)
        if asked_at >= record.lost_at:
            record.lost_at = now
            record.share = max(1, record.share // 2)

    def silent(self, node: str, now: float) -> bool:
        """Report if a node rests because it did not answer its last request."""
        return node in self._records and now < self._records[node].silent_until

    def timed_out(self, node: str, waited: float, now: float) -> None:
        """Double the wait for a node that did not answer within `waited` seconds."""
        record = self._record(node)
        record.silent_until = now + waited
        if waited >= record.timeout:  # otherwise this timeout is counted already
            record.timeout = min(2 * waited, REQUEST_TIMEOUT_MAX)

    def _record(self, node: str) -> _Record:
        record = self._records.renew(node)
        if record is None:
            record = self._records[node] = _Record()
        return record


class FirstAnnouncers:
    """Missing feeds by the node that announced each of them first."""

    def __init__(self) -> None:
        self._feeds: dict[str, dict[FeedName, None]] = {}

    def add(self, node: str, feed: FeedName) -> None:
        self._feeds.setdefault(node, {})[feed] = None

    def remove(self, node: str, feed: FeedName) -> None:
        feeds = self._feeds[node]
        del feeds[feed]
        if not feeds:
            del self._feeds[node]

    def count(self, node: str) -> int:
        """Return the number of missing feeds that a node announced first."""
        return len(self._feeds.get(node, ()))

    def yields_to(self, node: str) -> FeedName | None:
        """Return the feed to forget so that `node` can announce another: the newest of the node with
        the most. None if that would not make the shares more equal."""
        greatest = max(self._feeds.values(), key=len, default={})
        if len(greatest) <= self.count(node) + 1:
            return None
        return next(reversed(greatest))
