"""Who lacks what, and getting it: digests between neighbours, ranges and snapshots on request.

Broadcasts bring new batches; this closes the gaps that they leave (a link that was down, a node
that just joined). It never judges a batch, it only decides what to ask of whom and what to answer.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from exchange.feeds.exchange_messages import FeedDigest, FeedHead, FeedPart, FeedRequest, pack
from exchange.feeds.feed import MAX_PAGES, Feed, pages_hash
from exchange.feeds.request_budget import Bringers, FeedName, Standings
from exchange.model.events import Batch, Checkpoint
from exchange.model.ports import Send

GRACE = 0.3  # seconds: a broadcast may still be on its way
DIGEST_INTERVAL = 5.0
PART_BYTES = 256 * 1024
MAX_HEADS = 4096  # in one digest
MAX_ACTIVE = 32  # requests under way at once
MAX_CLAIMS = 10_000  # feeds that others may make us think of
MAX_NAME = 80  # characters of a market's name

STRANGERS = ""  # all nodes that are no neighbours: keys are free to make, so they share one share


@dataclass(slots=True)
class _Want:
    """A feed of which somebody holds more than we do."""

    bringer: str  # who claimed it first, as `Replicator._claimant` has it
    ask_at: float
    claims: dict[str, int] = field(default_factory=dict)  # node -> number it claims to hold
    asked: str = ""
    asked_at: float = 0.0
    on_word_of: str = ""  # the claimant because of whom it was asked
    after: int = 0  # what was held when it was asked
    tried: list[str] = field(default_factory=list)
    page: int = 0  # next snapshot page to ask for
    checkpoint: Batch | None = None
    pages: list[bytes] = field(default_factory=list)


class Replicator:
    """Decides what to request and answers requests. `feed_of` finds a feed that this node holds."""

    def __init__(
        self,
        node_id: str,
        feeds: dict[FeedName, Feed],
        wanted: Callable[[str, str], bool],
        rng: random.Random,
    ) -> None:
        self._node_id = node_id
        self._feeds = feeds
        self._wanted = wanted
        self._rng = rng
        self._neighbours: dict[str, None] = {}
        self._wants: dict[FeedName, _Want] = {}
        self._bringers = Bringers()
        self._standings = Standings(MAX_ACTIVE)
        self._next_digest = 0.0
        self._out: list[Send] = []

    @property
    def behind(self) -> int:
        """Feeds of which more is known to exist than is held."""
        return len(self._wants)

    def take_outgoing(self) -> list[Send]:
        out, self._out = self._out, []
        return out

    # Neighbours and digests

    def neighbour_up(self, now: float, node: str) -> None:
        self._neighbours[node] = None
        self._send_heads(node, answer=False)

    def neighbour_down(self, node: str) -> None:
        self._neighbours.pop(node, None)
        for want in self._wants.values():
            want.claims.pop(node, None)

    def heads(self) -> list[FeedHead]:
        """The ends of all feeds held, in order of owner and market."""
        return [
            FeedHead(owner, market, feed.number, feed.state.head[:8])
            for (owner, market), feed in sorted(self._feeds.items())
            if feed.number
        ]

    def summary(self) -> bytes:
        """A short hash, equal on nodes that hold the same feeds."""
        digest = hashlib.sha256()
        for head in self.heads():
            digest.update(f"{head.owner} {head.market} {head.number} ".encode() + head.hash)
        return digest.digest()[:16]

    def _send_heads(self, node: str, *, answer: bool) -> None:
        # All heads that fit; where there are more, the neighbour's own, which it may be waiting for
        # (exchange.feeds.startup_fence), and a random part of the rest each time.
        heads = self.heads()
        if len(heads) > MAX_HEADS:
            theirs = [head for head in heads if head.owner == node][:MAX_HEADS]
            rest = [head for head in heads if head.owner != node]
            heads = theirs + self._rng.sample(rest, MAX_HEADS - len(theirs))
        self._out.append(Send(node, "digest", pack(FeedDigest(self.summary(), heads, answer))))

    def on_digest(self, now: float, node: str, digest: FeedDigest) -> None:
        if digest.summary == self.summary():
            return
        if digest.heads is None:
            self._send_heads(node, answer=False)
            return
        ours_ahead = False
        theirs = set()
        for head in digest.heads[:MAX_HEADS]:
            theirs.add((head.owner, head.market))
            feed = self._feeds.get((head.owner, head.market))
            number = feed.number if feed else 0
            if head.number > number:
                self.claimed(now, node, head.owner, head.market, head.number, grace=0.0)
            elif head.number < number:
                ours_ahead = True
            elif feed is not None and head.hash != feed.state.head[:8] and feed.fault is None:
                # Same number, another hash: fetch what they have; the feed itself judges it.
                self._ask_for_proof(now, node, feed)
        if not digest.answer and (ours_ahead or any(key not in theirs for key in self._feeds)):
            self._send_heads(node, answer=True)

    def _ask_for_proof(self, now: float, node: str, feed: Feed) -> None:
        last = next(reversed(feed.batches), None)
        if last is not None:
            request = FeedRequest(feed.owner, feed.market, last - 1)
            self._out.append(Send(node, "feed_request", pack(request)))

    # Wants

    def claimed(
        self, now: float, node: str, owner: str, market: str, number: int, *, grace: float = GRACE
    ) -> None:
        """`node` holds, or must hold, the feed up to `number`."""
        if not self._wanted(owner, market):
            return
        feed = self._feeds.get((owner, market))
        if number <= (feed.number if feed else 0) or (feed is not None and feed.fault):
            return
        want = self._wants.get((owner, market))
        if want is None:
            bringer = self._claimant(node)
            if len(self._wants) >= MAX_CLAIMS:
                other = self._bringers.in_favour_of(bringer)
                if other is None:
                    return
                self._drop(other)
            want = self._wants[owner, market] = _Want(bringer, now + grace)
            self._bringers.add(bringer, (owner, market))
        want.claims[node] = max(number, want.claims.get(node, 0))
        if not want.asked:
            want.ask_at = min(want.ask_at, now + grace)

    def advanced(self, now: float, owner: str, market: str, number: int) -> None:
        """The feed is held up to `number` now."""
        want = self._wants.get((owner, market))
        if want is None:
            return
        want.claims = {node: n for node, n in want.claims.items() if n > number}
        if not want.claims:
            if want.asked:
                self._helped(now, want)
            self._drop((owner, market))

    def wants_of(self, owner: str) -> bool:
        """Whether somebody claims to hold more of one of this owner's feeds."""
        return any(name[0] == owner for name in self._wants)

    def forget(self, owner: str, market: str) -> None:
        """Stop wanting more of a feed."""
        if (owner, market) in self._wants:
            self._drop((owner, market))

    def _drop(self, name: FeedName) -> None:
        self._bringers.remove(self._wants.pop(name).bringer, name)

    def _claimant(self, node: str) -> str:
        """Under what name a node's claims are judged."""
        return node if node in self._neighbours else STRANGERS

    def _helped(self, now: float, want: _Want) -> None:
        self._standings.answered(want.asked, now - want.asked_at)
        self._standings.helped(want.on_word_of)

    def tick(self, now: float) -> None:
        if now >= self._next_digest:
            self._next_digest = now + DIGEST_INTERVAL * self._rng.uniform(0.8, 1.2)
            if self._neighbours:
                node = self._rng.choice(list(self._neighbours))
                self._out.append(Send(node, "digest", pack(FeedDigest(self.summary()))))
        active = Counter(want.on_word_of for want in self._wants.values() if want.asked)
        full: set[str] = (
            set()
        )  # claimants whose share is used up: they may claim thousands of feeds
        for name, want in list(self._wants.items()):
            if now < want.ask_at or self._wants.get(name) is not want:
                continue
            if want.asked:  # no answer in time
                active[want.on_word_of] -= 1
                full.discard(want.on_word_of)
                self._standings.silent(want.asked, want.ask_at - want.asked_at)
                self._standings.failed(want.on_word_of, want.asked_at, now)
                want.asked = ""
            if active.total() >= MAX_ACTIVE or (want.bringer in full and len(want.claims) == 1):
                continue
            if self._ask(now, name, want, active):
                active[want.on_word_of] += 1
            elif active[want.bringer] >= self._standings.share(want.bringer):
                full.add(want.bringer)

    def _ask(self, now: float, name: FeedName, want: _Want, active: Counter[str]) -> bool:
        owner, market = name
        nodes = [n for n in (*want.claims, owner) if n not in want.tried and n != self._node_id]
        if not nodes:
            # Everybody was tried. Who really holds it says so again with the next digest or presence.
            self._drop(name)
            return False
        nodes.sort(key=lambda node: node not in self._neighbours)
        for node in nodes:
            word = self._claimant(node) if node in want.claims else want.on_word_of or want.bringer
            if active[word] < self._standings.share(word):
                want.tried.append(node)
                want.on_word_of = word
                self._request(now, node, owner, market, want)
                return True
        return False

    def _request(self, now: float, node: str, owner: str, market: str, want: _Want) -> None:
        if want.asked != node:
            want.checkpoint, want.page, want.pages = None, 0, []
        want.asked = node
        want.asked_at = now
        want.ask_at = now + self._standings.timeout(node)
        feed = self._feeds.get((owner, market))
        want.after = feed.number if feed else 0
        request = FeedRequest(owner, market, want.after, want.page)
        self._out.append(Send(node, "feed_request", pack(request)))

    # Answers

    def on_request(self, node: str, request: FeedRequest) -> None:
        feed = self._feeds.get((request.owner, request.market))
        if request.after < 0 or request.page < 0 or len(request.market) > MAX_NAME:
            return
        if feed is None:
            # Presence came through this node, so it is thought to hold the feed. Silence would cost
            # the other a timeout.
            if len(request.owner) == len(self._node_id):
                part = FeedPart(request.owner, request.market, 0)
                self._out.append(Send(node, "feed", pack(part)))
            return
        # Also of an owner at fault: what is held here is half of the proof.
        if request.after < feed.base and feed.snapshot is not None:
            pages = feed.snapshot.pages
            if request.page >= len(pages):
                return
            part = FeedPart(
                feed.owner,
                feed.market,
                feed.number,
                checkpoint=feed.snapshot.batch,
                page=request.page,
                pages=[hashlib.sha256(page).digest() for page in pages],
                orders=pages[request.page],
            )
        else:
            batches = feed.after(request.after, PART_BYTES)
            part = FeedPart(feed.owner, feed.market, feed.number, batches)
        self._out.append(Send(node, "feed", pack(part)))

    def on_part(self, now: float, node: str, part: FeedPart) -> tuple[Batch, list[bytes]] | None:
        """A part arrived and its batches, if any, have been offered to the feed.

        Returns:
            A complete snapshot (checkpoint batch, pages), when this was its last page.
        """
        want = self._wants.get((part.owner, part.market))
        if want is None or want.asked != node:
            return None
        if part.checkpoint is not None and part.checkpoint.last > want.after:
            return self._on_page(now, node, part, part.checkpoint, want)
        feed = self._feeds.get((part.owner, part.market))
        brought = feed is not None and want.after < feed.number
        if brought:
            self._helped(now, want)
        if feed is not None and want.after < feed.number < part.number:
            want.tried = []
            self._request(now, node, part.owner, part.market, want)
        else:
            want.asked = ""
            want.claims.pop(node, None)
            want.ask_at = now
            if not brought:
                self._standings.answered(node, now - want.asked_at)
            # Who does not hold the feed at all has only passed on that there is more: ask the owner.
            if not want.claims and part.number > 0:
                self._drop((part.owner, part.market))
        return None

    def _on_page(
        self, now: float, node: str, part: FeedPart, checkpoint: Batch, want: _Want
    ) -> tuple[Batch, list[bytes]] | None:
        if want.checkpoint is None or want.checkpoint.signature != checkpoint.signature:
            want.checkpoint, want.page, want.pages = checkpoint, 0, []
        last = checkpoint.events[-1] if checkpoint.events else None
        if (
            part.page != want.page
            or not 1 <= len(part.pages) <= MAX_PAGES
            or part.page >= len(part.pages)
            or not isinstance(last, Checkpoint)
            or pages_hash(part.pages) != last.state
            or hashlib.sha256(part.orders).digest() != part.pages[part.page]
        ):
            want.checkpoint, want.page, want.pages = None, 0, []
            return None  # a moved or a false snapshot: asked again, of another, after the timeout
        self._helped(now, want)
        want.pages.append(part.orders)
        want.page += 1
        if want.page < len(part.pages):
            self._request(now, node, part.owner, part.market, want)
            return None
        pages = want.pages
        want.checkpoint, want.page, want.pages = None, 0, []
        # What follows the snapshot is asked for when the caller has adopted it.
        want.asked = ""
        want.ask_at = now
        want.tried = []
        return checkpoint, pages
