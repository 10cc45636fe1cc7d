"""Missing feeds: feeds of which other nodes announced more than is held here, and requests for them.

Theory of operation. A feed becomes missing when a node announces a higher number than is held here. After
a grace period, in which a broadcast may still bring the events, it is ready to be requested: from the
nodes that announced it, neighbours first, at last from its owner. A request that times out makes the
feed ready again, for the next node. When every node has been tried the feed is dropped; its holders
announce it again with the next digest or presence.

Rules of this file:
- Each request is charged to an announcer, whose share of the requests under way is limited
  (`request_budget`). Nodes that are not neighbours share one share: keys cost nothing to make.
- A request to an owner that announced its feed itself is not charged to the neighbour that relayed the
  announcement. All such owners have a few requests at once together; an owner that is not present is not
  requested, and one that did not answer rests for as long as it was waited for.
- Nothing walks over all missing feeds: times are in a heap, and ready feeds wait in a queue for each
  announcer to be charged. A tick costs what is due, and one step for each announcer with a queue.
- Entries of the queues may be out of date; they are checked when they are reached.
- What others announce is a claim. A feed is `loading` only while whole answers bring events or pages of it and more is
  announced: the state that this node reports follows from what others show.
- A newcomer has one feed to request for each owner. So the number of requests under way grows with each answer while all
  places are taken, and is halved when one times out: a thousand feeds take seconds, and a narrow link is not overrun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from exchange.feeds.exchange_messages import FeedName
from exchange.feeds.request_budget import FirstAnnouncers, RequestBudgets
from exchange.model.events import Batch
from p2p.ground.keyed_heap import KeyedHeap

MAX_ACTIVE = 32  # requests under way at once for one announcer, and in all to begin with ...
MAX_ACTIVE_GROWN = 256  # ... and in all while answers come in time
MAX_MISSING = 10_000  # missing feeds remembered
MAX_MISSING_EACH = 4096  # of them announced first by the same node: as many as one digest names
MAX_ASSEMBLED_BYTES = 64 * 1024 * 1024  # of pages of snapshots that are not complete
MAX_HOLDERS = 16  # announcers remembered for one feed
WHOLE_EVENTS = 500  # events of a whole answer: 128 KiB of batches with one event each have 600 ...
WHOLE_PAGE = 32 * 1024  # ... and bytes of a page of a snapshot
SHOWN_FOR = 15.0  # seconds that a whole answer shows that there is more

STRANGERS = ""  # stands for all nodes that are not neighbours
OWNERS = "owners"  # stands for owners that are requested directly and are not neighbours
OWNERS_SHARE = 8  # requests to them under way at once


@dataclass(slots=True)
class MissingFeed:
    """A feed of which another node holds more."""

    name: FeedName
    first: str  # announcer that named it first
    due: float  # end of the grace period, or of the wait for an answer
    holders: dict[str, int] = field(default_factory=dict)  # node -> number announced
    ready: bool = False  # waits in queues for a free share
    asked: str = ""  # node of the request under way
    asked_at: float = 0.0
    charged: str = ""  # announcer charged for the last request
    after: int = 0  # number held at the time of the request
    tried: list[str] = field(default_factory=list)
    page: int = 0  # next snapshot page to request
    checkpoint: Batch | None = None
    pages: list[bytes] = field(default_factory=list)
    page_bytes: int = 0


class MissingFeeds:
    """Schedule of requests for missing feeds. `neighbours`: the nodes linked to this one; `present`:
    a test for owners whose presence lease runs."""

    def __init__(
        self,
        node_id: str,
        neighbours: Container[str],
        present: Callable[[str], bool] = lambda owner: True,
    ) -> None:
        self._node_id = node_id
        self._neighbours = neighbours
        self._present = present
        self._now = 0.0
        self._missing: dict[FeedName, MissingFeed] = {}
        self._owners: Counter[str] = Counter()
        self._first = FirstAnnouncers()
        self._due: KeyedHeap[FeedName, float] = KeyedHeap()  # ends of grace periods and waits
        self._ready: dict[str, dict[FeedName, None]] = {}  # by announcer to be charged
        self._active: Counter[str] = Counter()  # requests under way by announcer charged
        self._active_total = 0
        self._window = MAX_ACTIVE  # requests that may be under way in all
        self._shown: dict[FeedName, float] = {}  # time of the last whole answer, oldest first
        self._full = False  # the last requests left no place
        self._lost_at = float("-inf")  # when a time-out last halved it
        self.budgets = RequestBudgets(MAX_ACTIVE)
        self._assembled: KeyedHeap[FeedName, int] = KeyedHeap()  # negative bytes: most first
        self.assembled_bytes = 0

    def __len__(self) -> int:
        return len(self._missing)

    def loading(self, now: float) -> int:
        """Return the number of feeds of which another node is showing more."""
        while self._shown and now - next(iter(self._shown.values())) > SHOWN_FOR:
            del self._shown[next(iter(self._shown))]
        return len(self._shown)

    def get(self, name: FeedName) -> MissingFeed | None:
        return self._missing.get(name)

    def announced(self) -> dict[FeedName, int]:
        """Return the highest number that another node announced of each missing feed."""
        return {
            name: max(missing.holders.values(), default=0)
            for name, missing in self._missing.items()
        }

    def of_owner(self, owner: str) -> bool:
        """Report if any feed of an owner is missing."""
        return self._owners[owner] > 0

    def announcer(self, node: str) -> str:
        """Return the name under which a node's announcements are charged."""
        return node if node in self._neighbours else STRANGERS

    # Announcements

    def announce(self, now: float, node: str, name: FeedName, number: int, grace: float) -> None:
        """Note that `node` holds, or must hold, more of a feed than is held here."""
        missing = self._missing.get(name)
        announcer = self.announcer(node)
        if missing is None:
            if self._first.count(announcer) >= MAX_MISSING_EACH:
                return
            if len(self._missing) >= MAX_MISSING:
                other = self._first.yields_to(announcer)
                if other is None:
                    return
                self.drop(other)
            missing = self._missing[name] = MissingFeed(name, announcer, now + grace)
            self._owners[name[0]] += 1
            self._first.add(announcer, name)
            self._push(missing)
        if node in missing.holders:
            missing.holders[node] = max(number, missing.holders[node])
        elif len(missing.holders) < MAX_HOLDERS:
            missing.holders[node] = number
        if missing.ready:
            self._ready.setdefault(announcer, {})[name] = None
        elif not missing.asked and now + grace < missing.due:
            missing.due = now + grace
            self._push(missing)

    def node_gone(self, node: str) -> None:
        """Forget the announcements of a node whose link is gone, and feeds without another
        announcer: a holder announces them again."""
        for missing in list(self._missing.values()):
            if missing.holders.pop(node, None) is None:
                continue
            if not missing.holders and missing.asked in ("", node):
                self.drop(missing.name)
            elif missing.ready:
                self._make_ready(missing)

    def owner_gone(self, now: float, owner: str) -> None:
        """End the requests to an owner whose presence lease ended."""
        if owner in self._neighbours or not self.of_owner(owner):
            return
        for missing in list(self._missing.values()):
            if missing.name[0] == owner and (missing.ready or missing.asked == owner):
                self._finish(missing)
                self._now = now
                self._make_ready(missing)

    def advanced(self, now: float, name: FeedName, number: int) -> None:
        """Note that a feed is held up to `number`."""
        missing = self._missing.get(name)
        if missing is None:
            return
        missing.holders = {node: n for node, n in missing.holders.items() if n > number}
        if not missing.holders:
            if missing.asked:
                self.helped(now, missing, whole=False)
            self.drop(name)

    def drop(self, name: FeedName) -> None:
        """Stop requesting a feed."""
        self._shown.pop(name, None)
        missing = self._missing.pop(name, None)
        if missing is None:
            return
        self._due.discard(name)
        self._finish(missing)
        self.restart_snapshot(missing)
        self._first.remove(missing.first, name)
        self._owners[name[0]] -= 1
        if not self._owners[name[0]]:
            del self._owners[name[0]]
        if missing.ready:
            for announcer in self._announcers(missing):
                self._ready.get(announcer, {}).pop(name, None)

    # Requests

    def next_requests(self, now: float) -> list[MissingFeed]:
        """Return the feeds to request now, each from its node `asked`."""
        self._now = now
        for _, name in self._due.pop_through(now):
            missing = self._missing[name]
            if missing.ready:
                continue
            if missing.asked:
                self.budgets.timed_out(missing.asked, missing.due - missing.asked_at, now)
                self._narrow(now, missing.asked_at)
                if missing.charged != OWNERS:
                    self.budgets.request_lost(missing.charged, missing.asked_at, now)
                self._finish(missing)
            self._make_ready(missing)
        # One request for each announcer in turn, so that none of them takes all places.
        found: list[MissingFeed] = []
        announcers = list(self._ready)
        while announcers and self._active_total < self._window:
            announcers = [name for name in announcers if self._serve(now, name, found)]
        self._full = self._active_total >= self._window
        return found

    def _serve(self, now: float, announcer: str, found: list[MissingFeed]) -> bool:
        """Request one feed at an announcer's charge. False if it has no place or no feed left."""
        queue = self._ready[announcer]
        while queue:
            if self._active_total >= self._window or not self._has_share(announcer):
                return False
            name = next(iter(queue))
            del queue[name]
            missing = self._missing.get(name)
            if missing is not None and missing.ready and self._choose(now, missing):
                found.append(missing)
                # Last in the next round, even if nothing was served.
                self._ready[announcer] = self._ready.pop(announcer)
                return True
        del self._ready[announcer]
        return False

    def _choose(self, now: float, missing: MissingFeed) -> bool:
        """Choose the node to request from, neighbours first, among those whose announcer has a free
        share."""
        for node in self._untried(missing):
            charged = self._charged_for(node, missing)
            if self._has_share(charged):
                missing.tried.append(node)
                missing.ready = False
                missing.charged = charged
                self._active[charged] += 1
                self._active_total += 1
                self.ask(now, node, missing)
                return True
        self._make_ready(missing)
        return False

    def ask(self, now: float, node: str, missing: MissingFeed) -> None:
        """Start the wait for an answer, to a first request or to the next one of the same exchange."""
        if missing.asked != node:
            self.restart_snapshot(missing)
        missing.asked = node
        missing.asked_at = now
        missing.due = now + self.budgets.timeout(node)
        self._push(missing)

    # Snapshots

    def add_page(self, missing: MissingFeed, page: bytes) -> None:
        """Keep a page of a snapshot. When there are too many bytes in all, the snapshot with most of them is
        begun again."""
        missing.pages.append(page)
        missing.page += 1
        missing.page_bytes += len(page)
        self.assembled_bytes += len(page)
        self._assembled.set(missing.name, -missing.page_bytes)
        while self.assembled_bytes > MAX_ASSEMBLED_BYTES:
            first = self._assembled.first()
            if first is None:
                return
            self.restart_snapshot(self._missing[first[1]])

    def restart_snapshot(self, missing: MissingFeed, checkpoint: Batch | None = None) -> None:
        """Forget the pages received so far."""
        self.assembled_bytes -= missing.page_bytes
        self._assembled.discard(missing.name)
        missing.checkpoint, missing.page, missing.pages, missing.page_bytes = checkpoint, 0, [], 0

    def stop(self, now: float, missing: MissingFeed) -> None:
        """End the exchange with the node of the request; the feed may be requested again at
        once."""
        self._finish(missing)
        missing.due = now
        self._push(missing)

    def helped(self, now: float, missing: MissingFeed, *, whole: bool) -> None:
        """Note an answer with new events to the request under way. `whole`: as much as fits into one answer."""
        if whole:
            self._shown.pop(missing.name, None)
            self._shown[missing.name] = now
        self.budgets.answered(missing.asked, now - missing.asked_at)
        if self._full:
            self._window = min(self._window + 1, MAX_ACTIVE_GROWN)
        if missing.charged != OWNERS:
            self.budgets.announcement_true(missing.charged)

    # Internals

    def _narrow(self, now: float, asked_at: float) -> None:
        """Halve the requests under way after a time-out; of those sent together only the first counts."""
        if asked_at >= self._lost_at:
            self._lost_at = now
            self._window = max(MAX_ACTIVE, self._window // 2)

    def _has_share(self, announcer: str) -> bool:
        share = OWNERS_SHARE if announcer == OWNERS else self.budgets.share(announcer)
        return self._active[announcer] < share

    def _finish(self, missing: MissingFeed) -> None:
        if missing.asked:
            missing.asked = ""
            self._active_total -= 1
            self._active[missing.charged] -= 1
            if not self._active[missing.charged]:
                del self._active[missing.charged]

    def _untried(self, missing: MissingFeed) -> list[str]:
        """Return the nodes to request from: announcers, neighbours first; at last the owner."""
        passed = {*missing.tried, self._node_id}
        nodes = [node for node in missing.holders if node not in passed]
        owner = missing.name[0]
        if not nodes and owner not in passed and self._answers(owner):
            return [owner]
        nodes.sort(key=lambda node: node not in self._neighbours)
        return nodes

    def _answers(self, owner: str) -> bool:
        """Report if a request to an owner may be answered."""
        if owner in self._neighbours:
            return True
        return self._present(owner) and not self.budgets.silent(owner, self._now)

    def _charged_for(self, node: str, missing: MissingFeed) -> str:
        if node in missing.holders or node in self._neighbours:
            return self.announcer(node)
        return OWNERS

    def _announcers(self, missing: MissingFeed) -> list[str]:
        """Return the announcers to be charged, always in the same order."""
        nodes = self._untried(missing)
        return list(dict.fromkeys(self._charged_for(node, missing) for node in nodes))

    def _make_ready(self, missing: MissingFeed) -> None:
        announcers = self._announcers(missing)
        if not announcers:  # every node was tried
            self.drop(missing.name)
            return
        missing.ready = True
        for announcer in announcers:
            self._ready.setdefault(announcer, {})[missing.name] = None

    def _push(self, missing: MissingFeed) -> None:
        self._due.set(missing.name, missing.due)
