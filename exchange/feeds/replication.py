"""Replication of feeds: digests between neighbours, ranges and snapshots on request.

Theory of operation. Broadcasts bring new batches; replication closes the gaps that they leave, after a
link was down or a node joined. A neighbour's digest shows the feeds of which it holds more; those are
requested (`missing_feeds`). Periodic digests carry a summary alone; a summary that differs is answered
with heads, and heads are answered with heads where ours go further.

Rules of this file:
- It never validates a batch: it decides which node to send which request, and answers requests.
- A digest costs the same however many feeds are held: summary and heads come from `FeedIndex`.
- Digests have a token bucket for each neighbour and a common one for all other nodes. A digest beyond it
  is counted and dropped. If it had heads, ours are sent when the bucket has filled again, so that a
  neighbour that is ahead can answer: the exchange is delayed and never starved.
- A node that is far behind answers a summary with heads once an interval only. Its heads are answered with the heads of
  the neighbour that is ahead, so with all neighbours they would be most of what a newcomer receives.
- Answers to requests have a budget of bytes for each neighbour, and a common one for all other nodes: a request
  of 100 bytes may be answered with 128 KiB. Requests beyond it wait.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, Raw, UnsetType

from exchange.feeds.checkpoint_pages import pages_hash
from exchange.feeds.exchange_messages import (
    FeedDigest,
    FeedHead,
    FeedName,
    FeedPart,
    FeedRequest,
    pack,
)
from exchange.feeds.feed import MAX_PAGES, Feed
from exchange.feeds.feed_index import FeedIndex
from exchange.feeds.feed_limits import GivenUpFeed
from exchange.feeds.missing_feeds import WHOLE_EVENTS, WHOLE_PAGE, MissingFeed, MissingFeeds
from exchange.model.events import Batch, Checkpoint
from exchange.model.ports import Send
from p2p.ground.tokens import TokenTable

GRACE = 0.3  # seconds: a broadcast may still arrive
DIGEST_INTERVAL = 5.0
FAR_BEHIND = 64  # missing feeds
DIGEST_BURST = 4  # digests that a neighbour may send at once ...
DIGEST_RATE = 1.0  # ... and a second
PART_BYTES = 128 * 1024  # some 5,000 events: decoded in one go by who asked
MAX_HEADS = 4096  # in one digest
MAX_SNAPSHOT_BYTES = 24 * 1024 * 1024  # of pages; 400,000 orders take 8 to 16
ANSWER_RATE = 8 * 1024 * 1024  # bytes a second of answers to one neighbour ...
ANSWER_BURST = 32 * 1024 * 1024  # ... and at once
ANSWER_COST = 4096  # bytes that an answer counts for beside its own
MAX_WAITING = (
    32  # requests of a neighbour that wait for its budget: as many as an honest one has under way
)
MAX_NAME = 80  # characters of a market's name


class Replicator:
    """Requests of missing ranges and answers to other nodes. `wanted` tells which feeds this node
    replicates."""

    def __init__(
        self,
        node_id: str,
        feeds: FeedIndex,
        wanted: Callable[[str, str], bool],
        rng: random.Random,
        given_up: Mapping[FeedName, GivenUpFeed] = MappingProxyType({}),
        present: Callable[[str], bool] = lambda owner: True,
        presences: Callable[[], int] = lambda: 0,
    ) -> None:
        """`given_up`: feeds not held any more, whose last batch is sent to their owner alone.
        `present`: a test for owners whose presence lease runs. `presences`: number of presences that can be
        handed on, stated in digests."""
        self._node_id = node_id
        self._feeds = feeds
        self._wanted = wanted
        self._rng = rng
        self._given_up = given_up
        self._neighbours: dict[str, None] = {}
        self._presences = presences
        self._missing = MissingFeeds(node_id, self._neighbours, present)
        self._digests = TokenTable(DIGEST_RATE, DIGEST_BURST)
        self._owed: dict[str, None] = {}  # neighbours whose heads were dropped
        # answer -> feed index version, presences, digest
        self._packed: dict[bool, tuple[int, int | UnsetType, bytes]] = {}
        self._next_digest = 0.0
        self._next_heads = 0.0  # in answer to a summary, while this node is far behind
        self._answers = TokenTable(ANSWER_RATE, ANSWER_BURST)
        self._waiting: dict[str, deque[tuple[str, FeedRequest]]] = {}  # by the charged announcer
        self._out: list[Send] = []
        self.digests_dropped = 0

    @property
    def neighbours(self) -> Container[str]:
        """Live view of the linked nodes."""
        return self._neighbours.keys()

    @property
    def behind(self) -> int:
        """Number of feeds of which more is known to exist than is held."""
        return len(self._missing)

    def loading(self, now: float) -> int:
        """Return the number of feeds of which another node is showing more."""
        return self._missing.loading(now)

    def newest_announced(self) -> dict[FeedName, int]:
        """Return the highest announced number of each feed that is behind."""
        return self._missing.announced()

    def take_outgoing(self) -> list[Send]:
        """Return the messages to send, and forget them."""
        out, self._out = self._out, []
        return out

    # Neighbours and digests

    def neighbour_up(self, now: float, node: str) -> None:
        """Send the heads to a new neighbour."""
        self._neighbours[node] = None
        self._send_heads(node, answer=False)

    def neighbour_down(self, node: str) -> None:
        """Forget a neighbour whose link is gone. Its buckets stay: a new link brings no new budget."""
        self._neighbours.pop(node, None)
        self._owed.pop(node, None)
        self._waiting.pop(node, None)
        self._missing.node_gone(node)

    def owner_gone(self, now: float, owner: str) -> None:
        """Note the end of an owner's presence lease: requests to it would time out."""
        self._missing.owner_gone(now, owner)

    def summary(self) -> bytes:
        """Return a short hash, equal on nodes that hold the same feeds."""
        return self._feeds.summary()

    def _send_heads(self, node: str, *, answer: bool) -> None:
        heads = self._feeds.heads()
        given_up = [
            FeedHead(node, feed.market, feed.batch.last, b"")
            for feed in self._given_up.values()
            if feed.owner == node and feed.batch is not None
        ]
        if given_up:
            heads = given_up + heads
        presences = self._presences() or UNSET
        if len(heads) <= MAX_HEADS and not given_up:
            version, stated, payload = self._packed.get(answer, (-1, 0, b""))
            if (version, stated) != (self._feeds.version, presences):
                payload = pack(FeedDigest(self.summary(), heads, answer, presences))
                self._packed[answer] = self._feeds.version, presences, payload
        else:
            # The neighbour's own heads, which it may be waiting for (exchange.feeds.startup_fence),
            # and a random part of the others each time.
            theirs = (given_up + self._feeds.heads_of(node))[:MAX_HEADS]
            others = self._rng.sample(heads, min(len(heads), MAX_HEADS - len(theirs)))
            chosen = theirs + [head for head in others if head.owner != node]
            payload = pack(FeedDigest(self.summary(), chosen, answer, presences))
        self._out.append(Send(node, "digest", payload))

    def on_digest(self, now: float, node: str, digest: FeedDigest) -> bool:
        """Process a digest. False if it exceeds the sender's budget and was dropped."""
        if not self._digests.take(now, self._missing.announcer(node)):
            self.digests_dropped += 1
            if digest.heads is not None and node in self._neighbours:
                self._owed[node] = None
            return False
        if digest.summary == self.summary():
            return True
        if digest.heads is None:
            if len(self._missing) < FAR_BEHIND or now >= self._next_heads:
                self._next_heads = now + DIGEST_INTERVAL
                self._send_heads(node, answer=False)
            return True
        ours_ahead = False
        shared: set[tuple[str, str]] = set()
        for head in digest.heads[:MAX_HEADS]:
            name = head.owner, head.market
            feed = self._feeds.get(name)
            number = feed.signed if feed else 0
            if number:
                shared.add(name)
            if head.number > number:
                self.announced(now, node, head.owner, head.market, head.number, grace=0.0)
            elif head.number < number:
                ours_ahead = True
            elif feed is not None and head.hash != feed.state.head[:8] and feed.fault is None:
                # Same number, another hash: fetch theirs; the feed itself judges it.
                self._request_proof(node, feed)
        if not digest.answer and (ours_ahead or len(shared) < len(self._feeds.heads())):
            self._send_heads(node, answer=True)
        return True

    def _request_proof(self, node: str, feed: Feed) -> None:
        last = next(reversed(feed.batches), None)
        if last is not None:
            request = FeedRequest(feed.owner, feed.market, last - 1)
            self._out.append(Send(node, "feed_request", pack(request)))

    # Missing feeds

    def announced(
        self, now: float, node: str, owner: str, market: str, number: int, *, grace: float = GRACE
    ) -> None:
        """Note that `node` holds, or must hold, a feed up to `number`."""
        if not self._wanted(owner, market):
            return
        feed = self._feeds.get((owner, market))
        if number <= (feed.signed if feed else 0) or (feed is not None and feed.fault):
            return
        self._missing.announce(now, node, (owner, market), number, grace)

    def advanced(self, now: float, owner: str, market: str, number: int) -> None:
        """Note that a feed is held up to `number`."""
        self._missing.advanced(now, (owner, market), number)

    def is_missing(self, owner: str) -> bool:
        """Report if any node announced more of one of an owner's feeds."""
        return self._missing.of_owner(owner)

    def forget(self, owner: str, market: str) -> None:
        """Stop requesting a feed."""
        self._missing.drop((owner, market))

    @property
    def busy(self) -> bool:
        """Report if feeds are missing, or answers wait for a budget."""
        return len(self._missing) > 0 or bool(self._owed) or bool(self._waiting)

    def tick(self, now: float) -> None:
        """Send the periodic digest, overdue heads and requests that are due."""
        if now >= self._next_digest:
            self._next_digest = now + DIGEST_INTERVAL * self._rng.uniform(0.8, 1.2)
            if self._neighbours:
                node = self._rng.choice(list(self._neighbours))
                digest = FeedDigest(self.summary(), presences=self._presences() or UNSET)
                self._out.append(Send(node, "digest", pack(digest)))
        for node in [n for n in self._owed if self._digests.tokens(now, n) >= 1.0]:
            del self._owed[node]
            self._send_heads(node, answer=False)
        self._answer_waiting(now)
        for missing in self._missing.next_requests(now):
            self._send_request(missing)

    def _send_request(self, missing: MissingFeed) -> None:
        owner, market = missing.name
        feed = self._feeds.get(missing.name)
        missing.after = feed.signed if feed else 0
        request = FeedRequest(owner, market, missing.after, missing.page)
        self._out.append(Send(missing.asked, "feed_request", pack(request)))

    def _continue(self, now: float, node: str, missing: MissingFeed) -> None:
        self._missing.ask(now, node, missing)
        self._send_request(missing)

    # Answers

    def on_request(self, now: float, node: str, request: FeedRequest) -> None:
        """Answer a request with batches or a page of a snapshot: at once while the requester's
        budget lasts, then as it fills again."""
        if request.after < 0 or request.page < 0 or len(request.market) > MAX_NAME:
            return
        asker = self._missing.announcer(node)
        if asker not in self._waiting and self._answers.tokens(now, asker) > 0.0:
            self._answer(now, node, request)
            return
        waiting = self._waiting.setdefault(asker, deque())
        if len(waiting) < MAX_WAITING:
            waiting.append((node, request))

    def _answer_waiting(self, now: float) -> None:
        """Answer requests that waited for their requester's budget."""
        for asker, waiting in list(self._waiting.items()):
            while waiting and self._answers.tokens(now, asker) > 0.0:
                self._answer(now, *waiting.popleft())
            if not waiting:
                del self._waiting[asker]

    def _answer(self, now: float, node: str, request: FeedRequest) -> None:
        before = len(self._out)
        self._find_answer(node, request)
        size = sum(len(message.payload) for message in self._out[before:])
        self._answers.overdraw(now, self._missing.announcer(node), ANSWER_COST + size)

    def _find_answer(self, node: str, request: FeedRequest) -> None:
        feed = self._feeds.get((request.owner, request.market))
        if feed is None:
            # This node relayed the presence, so the other node expects it to hold the feed. Silence
            # would cost the other node a timeout.
            if len(request.owner) == len(self._node_id):
                part = FeedPart(request.owner, request.market, 0)
                given_up = self._given_up.get((request.owner, request.market))
                if node == request.owner and given_up is not None and given_up.batch is not None:
                    part = FeedPart(node, request.market, given_up.batch.last, [given_up.batch])
                self._out.append(Send(node, "feed", pack(part)))
            return
        # Also the feed of an owner at fault: the batches held here are half of the proof.
        if request.after < feed.base and feed.snapshot is not None:
            pages = feed.snapshot.pages
            if request.page >= len(pages):
                return
            part = FeedPart(
                feed.owner,
                feed.market,
                feed.signed,
                checkpoint=feed.snapshot.batch,
                page=request.page,
                pages=feed.page_hashes(),
                orders=pages[request.page],
            )
        else:
            # Encoded as they are held: to decode thousands of events first would take some milliseconds.
            batches: list[Any] = [Raw(b.data) for b in feed.held_after(request.after, PART_BYTES)]
            part = FeedPart(feed.owner, feed.market, feed.signed, batches)
        self._out.append(Send(node, "feed", pack(part)))

    def on_part(self, now: float, node: str, part: FeedPart) -> tuple[Batch, list[bytes]] | None:
        """Process a part whose batches, if any, have been offered to the feed.

        Returns:
            A complete snapshot (checkpoint batch, pages), if this was its last page.
        """
        missing = self._missing.get((part.owner, part.market))
        if missing is None or missing.asked != node:
            return None
        if part.checkpoint is not None and part.checkpoint.last > missing.after:
            return self._on_page(now, node, part, part.checkpoint, missing)
        feed = self._feeds.get((part.owner, part.market))
        useful = feed is not None and missing.after < feed.signed
        if feed is not None and useful:
            whole = feed.signed - missing.after >= WHOLE_EVENTS
            self._missing.helped(now, missing, whole=whole)
        if feed is not None and missing.after < feed.signed < part.number:
            missing.tried = []
            self._continue(now, node, missing)
        else:
            if not useful:
                self._missing.budgets.answered(node, now - missing.asked_at)
            self._missing.stop(now, missing)
            missing.holders.pop(node, None)
            # A node that does not hold the feed at all has only relayed an announcement: request it
            # from the owner. A node that holds the feed has nothing new: no further request is
            # needed.
            if not missing.holders and part.number > 0:
                self._missing.drop(missing.name)
        return None

    def _on_page(
        self, now: float, node: str, part: FeedPart, checkpoint: Batch, missing: MissingFeed
    ) -> tuple[Batch, list[bytes]] | None:
        if missing.checkpoint is None or missing.checkpoint.signature != checkpoint.signature:
            self._missing.restart_snapshot(missing, checkpoint)
        last = checkpoint.events[-1] if checkpoint.events else None
        if (
            part.page != missing.page
            or not 1 <= len(part.pages) <= MAX_PAGES
            or part.page >= len(part.pages)
            or not isinstance(last, Checkpoint)
            or pages_hash(part.pages) != last.state
            or hashlib.sha256(part.orders).digest() != part.pages[part.page]
        ):
            # A snapshot that moved or a false page: requested again, from another node, after the timeout.
            self._missing.restart_snapshot(missing)
            return None
        self._missing.helped(now, missing, whole=len(part.orders) >= WHOLE_PAGE)
        self._missing.add_page(missing, part.orders)
        if missing.page_bytes > MAX_SNAPSHOT_BYTES:  # more orders than a feed may have
            self._missing.drop(missing.name)
            return None
        if missing.page < len(part.pages):
            self._continue(now, node, missing)
            return None
        pages = missing.pages
        self._missing.restart_snapshot(missing)
        # The batches after the snapshot are requested when the caller has adopted it.
        missing.tried = []
        self._missing.stop(now, missing)
        return checkpoint, pages
