"""Feed index: the feeds of a node by owner and market, with their heads in order and a summary.

Neighbours compare summaries every few seconds, and any node may send a digest. So the heads are
kept in order and brought up to date only for feeds that changed; a digest costs nothing per feed
where nothing changed, and one hash over prepared bytes where something did.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left

from exchange.feeds.exchange_messages import FeedHead, FeedName
from exchange.feeds.feed import Feed


class FeedIndex(dict[FeedName, Feed]):
    """Feeds by (owner, market). Add by assignment, remove by `del`."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0  # grows with every change of a head
        self._changed: dict[FeedName, None] = {}
        # Sorted by name, in parallel: a list of bytes is joined ten times as fast as a sorted dict.
        self._names: list[FeedName] = []
        self._heads: list[FeedHead] = []
        self._lines: list[bytes] = []
        self._summary: tuple[int, bytes] = (-1, b"")

    def __setitem__(self, name: FeedName, feed: Feed) -> None:
        super().__setitem__(name, feed)
        feed.changes = self._changed
        self._changed[name] = None

    def __delitem__(self, name: FeedName) -> None:
        self[name].changes = None
        super().__delitem__(name)
        self._changed[name] = None

    def move_to_end(self, name: FeedName) -> None:
        """Make a feed the last in the order of the dict."""
        feed = self.pop(name)
        super().__setitem__(name, feed)

    def heads(self) -> list[FeedHead]:
        """Heads of all feeds with events, by owner and market. Not to be changed."""
        if self._changed:
            self._update()
        return self._heads

    def heads_of(self, owner: str) -> list[FeedHead]:
        """Heads of an owner's feeds, by market."""
        heads = self.heads()
        first = start = bisect_left(self._names, (owner, ""))
        while start < len(heads) and heads[start].owner == owner:
            start += 1
        return heads[first:start]

    def summary(self) -> bytes:
        """Hash over all heads, 16 bytes: equal on nodes that hold the same feeds."""
        if self._changed:
            self._update()
        version, summary = self._summary
        if version != self.version:
            summary = hashlib.sha256(b"".join(self._lines)).digest()[:16]
            self._summary = self.version, summary
        return summary

    def _update(self) -> None:
        names, heads, lines = self._names, self._heads, self._lines
        for name in self._changed:
            feed = self.get(name)
            at = bisect_left(names, name)
            known = at < len(names) and names[at] == name
            if feed is None or not feed.signed:
                if known:
                    del names[at], heads[at], lines[at]
                continue
            owner, market = name
            head = FeedHead(owner, market, feed.signed, feed.state.head[:8])
            line = f"{owner} {market} {head.number} ".encode() + head.hash
            if known:
                heads[at], lines[at] = head, line
            else:
                names.insert(at, name)
                heads.insert(at, head)
                lines.insert(at, line)
        self._changed.clear()
        self.version += 1
