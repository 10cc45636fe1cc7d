"""Broadcast tree (Plumtree), without I/O.

Plumtree: J. Leitão, J. Pereira, L. Rodrigues, "Epidemic Broadcast Trees", SRDS 2007. Every link starts
eager: payloads are pushed over it. A duplicate shows that the link is not needed: it is pruned and from
then on carries announcements (IHAVE) only. What was announced and did not come is pulled (GRAFT), which
makes that link eager again, so the tree mends itself when a node or link disappears.

Added to the paper:
- The ids still stored are announced to a link that comes up, so that broadcasts cross when a partition heals.
- Recent ids are announced again, a few times, to links that have not shown that they hold them (on a tree
  link nothing else would ever repeat a push that was lost).
- A second copy over the link of the first copy is no reason to prune: that link is the tree.
- Broadcasts under way at the same time take different trees, and pruning for each of them would leave none.
  Only one of them counts: the one with the smallest id, which is the same one everywhere, and which came when
  what was pruned before had taken effect.
- An origin whose broadcasts have to be pulled one after the other is cut off: the links over which they came are kept
  for a while, longer each time, and one more that announced them. Otherwise a peer that pushes its
  own broadcasts to all nodes would have all links pruned but its own, and then pass nothing on.
- A peer that keeps a link answers a prune with an empty pull: it is pushed to then, whatever this side prunes.
- How long an announced payload is waited for follows each link: a pull that the tree was about to answer itself
  makes the next wait longer, so that the tree settles where a round trip takes longer than the first wait.
- Everything that a peer can make this node remember or send is bounded, see `p2p.base.limits`.

Times are float seconds on any monotonic clock. Iteration is in insertion order throughout, so that equal
inputs give equal outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from p2p.base import limits
from p2p.base.bounded_map import BoundedMap
from p2p.base.seen_window import SeenWindow
from p2p.base.timers import Deadlines
from p2p.base.tokens import Tokens
from p2p.wire.messages import Graft, IHave, Prune

ID_LENGTH: Final = 16
ITEM_OVERHEAD: Final = 512  # bytes of bookkeeping that a stored item is taken to cost
PATIENCE_GROWTH: Final = 1.25  # times what would have been long enough
PATIENCE_DECAY: Final = 0.98  # for each pull that was needed
# An origin is cut off if some broadcast of it was pulled in this part of the last windows with any of it; each counts as
# much as all before it. One window is not enough: while the tree mends, several are pulled.
CUT_OFF: Final = 0.6
PULLED_WINDOW: Final = 1.0  # seconds
MAX_ORIGINS: Final = 1000
KEPT: Final = 30.0  # seconds for which a link to such an origin is not pruned
KEPT_GROWTH: Final = 4.0  # times as long the next time ...
KEPT_MAX: Final = 600.0  # ... up to this
KEPT_LINKS: Final = 4  # at a time, those needed last

Item = TypeVar("Item")


@dataclass(slots=True)
class _Stored(Generic[Item]):
    item: Item
    size: int
    at: float
    holders: int  # bit per link: it has shown that it holds the item
    pushed: int  # bit per link: it came from there or we sent it there


@dataclass(slots=True)
class _Missing:
    deadline: float  # of the first pull
    sources: dict[str, float] = field(default_factory=dict)  # announcer -> when; next in line first
    asked: str | None = None
    tries: int = 0
    waits: bool = False  # as much is being pulled from all its announcers as may be


@dataclass(slots=True)
class _Peer:
    bit: int
    allowance: Tokens  # bytes that may be sent in answer to pulls
    patience: float  # seconds to wait for its announced or requested messages
    eager: bool = True
    pruned_at: float | None = None  # time of the last PRUNE sent since the link was eager
    misses: int = 0  # pulls that it has not answered in time since the last that it has
    wanted: bool = False  # it has requested pushes with an empty pull, and not pruned since
    keep: float = KEPT  # seconds for which the link is kept when it is needed again
    announced: dict[bytes, None] = field(default_factory=dict)  # missing ids that it has announced
    asked: dict[bytes, None] = field(default_factory=dict)  # of these, pulled from it now
    waiting: dict[bytes, None] = field(default_factory=dict)  # of these, due when it is free

    @property
    def may_pull(self) -> bool:
        return len(self.asked) < limits.GRAFT_MAX_PER_LINK

    @property
    def most_missing(self) -> int:
        """Ids that may be awaited from it: few while it delivers nothing of what it announces."""
        if self.misses < limits.GRAFT_MAX_PER_LINK:
            return limits.MISSING_MAX_PER_LINK
        return limits.GRAFT_MAX_PER_LINK


class BroadcastTree(Generic[Item]):
    """Part of one node in the broadcast tree. Items are opaque; `emit` sends an item or a control message.

    `counters` counts duplicates, grafts, prunes and so on over the life of the object.
    """

    def __init__(
        self,
        emit: Callable[[tuple[str, ...], Item | IHave | Graft | Prune], None],
        *,
        seen_ttl: float = limits.SEEN_TTL,
        seen_max: int = limits.SEEN_MAX,
        store_ttl: float = limits.STORE_TTL,
        store_max_bytes: int = limits.STORE_MAX_BYTES,
        lazy_flush: float = limits.LAZY_FLUSH,
        graft_timeout: float = limits.GRAFT_TIMEOUT,
        graft_timeout_max: float = limits.GRAFT_TIMEOUT_MAX,
        repair_interval: float = limits.REPAIR_INTERVAL,
    ) -> None:
        self._emit = emit
        self.seen = SeenWindow(seen_ttl, seen_max)
        self._store: dict[bytes, _Stored[Item]] = {}  # oldest first
        self.stored_bytes = 0
        self._store_ttl = store_ttl
        self._store_max_bytes = store_max_bytes
        # What a peer still offers must be remembered as seen, or it would be delivered again.
        self._store_max_items = max(1, seen_max // 4)
        self._lazy_flush = lazy_flush
        self._graft_timeout = graft_timeout
        self._graft_timeout_max = max(graft_timeout, graft_timeout_max)
        self._repair_interval = repair_interval
        self._peers: dict[str, _Peer] = {}
        self._kept: dict[str, float] = {}  # links that are kept -> until when
        # Origin -> part of its last windows, see CUT_OFF; begin of the window under way; was any pulled in it.
        self._pulled: BoundedMap[str, tuple[float, float, bool]] = BoundedMap(MAX_ORIGINS)
        self._missing: dict[bytes, _Missing] = {}
        self._deadlines: Deadlines[bytes] = Deadlines()  # of the missing
        self._smallest: deque[tuple[bytes, float]] = (
            deque()
        )  # recent ids, each below the later ones
        self._reference = b""  # the broadcast whose copies prune links
        self._pruned = float("-inf")  # when a link was pruned last, by either side
        self._latest = float("-inf")  # when a payload came last
        self._unannounced: list[bytes] = []
        self._flush_at: float | None = None
        self._repair_at: float | None = None
        self.counters: dict[str, int] = {
            "duplicates": 0,
            "prunes": 0,
            "grafts": 0,
            "announced": 0,
            "pulled": 0,
            "pulls_refused": 0,
            "given_up": 0,
        }

    @property
    def eager(self) -> list[str]:
        """Peers that payloads are pushed to."""
        return [name for name, peer in self._peers.items() if peer.eager]

    @property
    def missing(self) -> int:
        """Number of broadcasts that were announced and have not arrived."""
        return len(self._missing)

    # Links

    def link_up(self, now: float, name: str) -> None:
        """Add a link: eager at first. The stored ids are announced to it."""
        self.link_down(now, name)
        taken = 0
        for peer in self._peers.values():
            taken |= peer.bit
        free = ~taken & (taken + 1)  # lowest bit that no link uses
        budget = Tokens(limits.GRAFT_BYTES_PER_SECOND, now)
        self._peers[name] = _Peer(free, budget, patience=self._graft_timeout)
        self._forget_old(now)
        recent = [
            key
            for key, _ in zip(reversed(self._store), range(limits.ANNOUNCE_MAX_IDS), strict=False)
        ]
        if recent:
            recent.reverse()
            self._announce((name,), recent)

    def link_down(self, now: float, name: str) -> None:
        """Remove a link; the ids that it announced are pulled from other links at once."""
        gone = self._peers.pop(name, None)
        self._kept.pop(name, None)
        if gone is None:
            return
        for key in gone.announced:
            entry = self._missing[key]
            del entry.sources[name]
            if not entry.sources:
                del self._missing[key]
                self._deadlines.discard(key)
            elif entry.asked == name:
                entry.asked = None
                self._deadlines.set(key, now)
        # The bit will be given to another link, which does not hold these.
        for stored in self._store.values():
            stored.holders &= ~gone.bit
            stored.pushed &= ~gone.bit

    # Payloads

    def add(
        self, now: float, key: bytes, item: Item, size: int, via: str = "", origin: str = ""
    ) -> None:
        """Store a new, valid broadcast and push it on. `via` is empty for an own one."""
        self._latest = now
        self.seen.add(now, key, via)
        self._learn(now, key, via, origin)
        self._settle(key)
        self._note_smallest(now, key)
        source = self._peers.get(via)
        bit = source.bit if source is not None else 0
        stored = _Stored(item, size + ITEM_OVERHEAD, now, holders=bit, pushed=bit)
        targets = []
        for name, peer in self._peers.items():
            if peer.eager and name != via:
                targets.append(name)
                stored.pushed |= peer.bit
        if targets:
            self._emit(tuple(targets), item)
        self._store[key] = stored
        self.stored_bytes += stored.size
        self._forget_old(now)
        self._unannounced.append(key)
        if self._flush_at is None:
            self._flush_at = now + self._lazy_flush
        if self._repair_at is None:
            self._repair_at = now + self._repair_interval

    def ignore(self, now: float, key: bytes, via: str) -> None:
        """Mark an id as seen without storing or relaying its payload (an invalid one, for example)."""
        self.seen.add(now, key, via)
        self._settle(key)

    def duplicate(self, now: float, key: bytes, via: str) -> None:
        """Record a payload with a known id that arrived over the link `via`, and prune the link if the tree
        does not need it.
        """
        self._latest = now
        self.counters["duplicates"] += 1
        peer = self._peers.get(via)
        if peer is None:
            return
        stored = self._store.get(key)
        if stored is not None:
            stored.holders |= peer.bit
        if self.seen.get(key) == via or now < self._kept.get(via, 0.0):
            return
        repeated = not peer.eager and peer.pruned_at is not None
        if not repeated and stored is not None and not self._may_prune(now, key, stored):
            return
        if peer.eager:
            peer.eager = peer.wanted
            self._pruned = now
        # Copies under way arrive for a while after a prune; it is repeated only if it seems lost.
        if peer.pruned_at is None or now - peer.pruned_at >= peer.patience:
            peer.pruned_at = now
            self.counters["prunes"] += 1
            self._emit((via,), Prune())

    def _may_prune(self, now: float, key: bytes, stored: _Stored[Item]) -> bool:
        """Return True if this is the broadcast whose copies decide which links the tree does not need."""
        if key == self._reference:
            return True
        calm = max((peer.patience for peer in self._peers.values()), default=self._graft_timeout)
        if stored.at <= self._pruned + calm / 3:
            return False  # it may have come over links that are gone from the tree
        while self._smallest and self._smallest[0][1] < now - calm:
            self._smallest.popleft()
        if self._smallest and self._smallest[0][0] < key:
            return False
        self._reference = key
        return True

    def _note_smallest(self, now: float, key: bytes) -> None:
        recent = self._smallest
        while recent and recent[-1][0] > key:
            recent.pop()
        recent.append((key, now))
        if recent[0][1] < now - self._graft_timeout_max or len(recent) > self._store_max_items:
            recent.popleft()

    # Control messages. Each returns False when the peer broke a bound.

    def on_announcement(self, now: float, via: str, keys: Sequence[bytes]) -> bool:
        """Process an IHAVE: the peer holds these ids."""
        peer = self._peers[via]
        for key in keys[: limits.ANNOUNCE_MAX_IDS]:
            if len(key) != ID_LENGTH:
                return False
            if key in self.seen:
                stored = self._store.get(key)
                if stored is not None:
                    stored.holders |= peer.bit
                continue
            if key in peer.announced:
                continue
            if len(peer.announced) >= peer.most_missing:
                break  # announced again later if it is still wanted then
            entry = self._missing.get(key)
            if entry is None:
                entry = self._missing[key] = _Missing(now + peer.patience)
                self._deadlines.set(key, entry.deadline)
            elif entry.tries == 0 and now + peer.patience < entry.deadline:
                entry.deadline = now + peer.patience
                self._deadlines.set(key, entry.deadline)
            entry.sources[via] = now
            peer.announced[key] = None
            if entry.waits:
                peer.waiting[key] = None
        return len(keys) <= limits.ANNOUNCE_MAX_IDS

    def on_pull(self, now: float, via: str, keys: Sequence[bytes]) -> bool:
        """Process a GRAFT: send these ids, and push from now on."""
        peer = self._peers[via]
        peer.eager = True
        peer.wanted = peer.wanted or not keys
        peer.pruned_at = None
        rate = float(limits.GRAFT_BYTES_PER_SECOND)
        for key in keys[: limits.ANNOUNCE_MAX_IDS]:
            stored = self._store.get(key)
            if stored is None or not peer.allowance.take(now, rate, rate, stored.size):
                self.counters["pulls_refused"] += 1
                continue
            stored.pushed |= peer.bit
            self.counters["pulled"] += 1
            self._emit((via,), stored.item)
        return len(keys) <= limits.ANNOUNCE_MAX_IDS

    def on_prune(self, via: str) -> None:
        """Process a PRUNE: the peer receives payloads over a better link."""
        peer = self._peers[via]
        peer.wanted = False
        if peer.eager:
            peer.eager = False
            self._pruned = max(self._pruned, self._latest)
        if via in self._kept and self._latest < self._kept[via]:
            self._emit(
                (via,), Graft([])
            )  # it prunes both ways, and this side still wants to be pushed to

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        times = [at for at in (self._flush_at, self._repair_at) if at is not None]
        pull_at = self._deadlines.next()
        if pull_at is not None:
            times.append(pull_at)
        if self._store:
            times.append(next(iter(self._store.values())).at + self._store_ttl)
        times += [
            self._missing[next(iter(peer.waiting))].deadline
            for peer in self._peers.values()
            if peer.waiting and peer.may_pull
        ]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Announce, pull and forget as far as due."""
        if self._flush_at is not None and now >= self._flush_at:
            self._flush()
        if self._repair_at is not None and now >= self._repair_at:
            self._repair(now)
        self._pull_due(now)
        self._forget_old(now)

    def _flush(self) -> None:
        """Announce new ids to every link except those that sent or received the payload."""
        fresh = [(key, self._store[key].pushed) for key in self._unannounced if key in self._store]
        self._unannounced.clear()
        self._flush_at = None
        self._announce_to_others(fresh)

    def _repair(self, now: float) -> None:
        """Announce recent ids again to every link that has not shown that it holds them."""
        since = now - limits.REPAIR_ROUNDS * self._repair_interval
        recent: list[tuple[bytes, int]] = []
        for key, stored in reversed(self._store.items()):
            if stored.at < since:
                break
            if now - stored.at >= self._repair_interval / 2:  # younger: may still be under way
                recent.append((key, stored.holders))
        recent.reverse()
        self._announce_to_others(recent)
        newest = next(reversed(self._store.values()), None)
        again = newest is not None and newest.at >= since + self._repair_interval
        self._repair_at = now + self._repair_interval if again else None

    def _announce_to_others(self, masked: list[tuple[bytes, int]]) -> None:
        """Announce each id to the links whose bit its mask lacks; one message for links with equal lists."""
        everyone = 0
        for peer in self._peers.values():
            everyone |= peer.bit
        masked = [(key, mask) for key, mask in masked if everyone & ~mask]
        groups: dict[tuple[bytes, ...], list[str]] = {}
        for name, peer in self._peers.items():
            keys = tuple(key for key, mask in masked if not mask & peer.bit)
            if keys:
                groups.setdefault(keys, []).append(name)
        for keys, names in groups.items():
            self._announce(tuple(names), keys)

    def _announce(self, names: tuple[str, ...], keys: Sequence[bytes]) -> None:
        for start in range(0, len(keys), limits.ANNOUNCE_MAX_IDS):
            part = list(keys[start : start + limits.ANNOUNCE_MAX_IDS])
            self.counters["announced"] += len(part) * len(names)
            self._emit(names, IHave(part))

    # What is missing

    def _learn(self, now: float, key: bytes, via: str, origin: str) -> None:
        """Adapt the patience of a link to the arrival of a payload that was pulled over it; keep links to an origin
        that is cut off."""
        entry = self._missing.get(key)
        pulled = entry is not None and via != "" and entry.asked == via
        if origin and (pulled or origin in self._pulled):
            part, since, before = self._pulled.renew(origin) or (0.0, now, False)
            if now >= since + PULLED_WINDOW:
                part, since, before = (part + before) / 2, now, False
            self._pulled[origin] = part, since, before or pulled
            if pulled and (part + 1.0) / 2 >= CUT_OFF and entry is not None:
                self._keep_links(now, via, entry)
        if entry is None or entry.asked is None:
            return
        peer = self._peers[entry.asked]
        if via == entry.asked:
            peer.misses = 0
            peer.patience = max(self._graft_timeout, PATIENCE_DECAY * peer.patience)
        else:  # the tree was faster than the answer
            enough = PATIENCE_GROWTH * (now - entry.sources[entry.asked])
            peer.patience = max(peer.patience, min(enough, self._graft_timeout_max))

    def _keep_links(self, now: float, via: str, entry: _Missing) -> None:
        """Keep the link over which a payload was pulled, and one more that announced it."""
        others = [name for name in entry.sources if name != via and name not in self._kept]
        for name in (via, *others[:1]):
            peer = self._peers[name]
            self._kept.pop(name, None)
            self._kept[name] = now + peer.keep
            peer.keep = min(KEPT_GROWTH * peer.keep, KEPT_MAX)
            peer.eager = True
            peer.pruned_at = None
            self._emit((name,), Graft([]))
        while len(self._kept) > KEPT_LINKS:
            del self._kept[next(iter(self._kept))]

    def _pull_due(self, now: float) -> None:
        """Pull ids that were announced and have not arrived in time, each from the next of its announcers."""
        pulls: dict[str, list[bytes]] = {}
        while (key := self._deadlines.pop(now)) is not None:
            entry = self._missing[key]
            if entry.asked is not None:
                asked = self._peers[entry.asked]
                asked.asked.pop(key, None)
                asked.misses += 1
                entry.asked = None
            if entry.tries >= limits.GRAFT_TRIES:
                self.counters["given_up"] += 1
                self._settle(key)
                continue
            name = self._free_source(entry, pulls)
            if name is None:
                # Without a deadline: what announces more than it delivers must not be gone through again and again.
                entry.waits = True
                for source in entry.sources:
                    self._peers[source].waiting[key] = None
            else:
                self._pull(now, key, name, pulls)
        for name, peer in self._peers.items():
            while peer.waiting and peer.may_pull:
                self._pull(now, next(iter(peer.waiting)), name, pulls)
        for name, keys in pulls.items():
            self._peers[name].eager = True
            self._peers[name].pruned_at = None
            self.counters["grafts"] += 1
            self._emit((name,), Graft(keys))

    def _pull(self, now: float, key: bytes, name: str, pulls: dict[str, list[bytes]]) -> None:
        entry = self._missing[key]
        self._end_wait(key, entry)
        entry.tries += 1
        entry.asked = name
        entry.sources[name] = entry.sources.pop(name)  # to the end: requested last next time
        peer = self._peers[name]
        peer.asked[key] = None
        self._deadlines.set(key, now + peer.patience)
        pulls.setdefault(name, []).append(key)

    def _end_wait(self, key: bytes, entry: _Missing) -> None:
        if entry.waits:
            entry.waits = False
            for source in entry.sources:
                self._peers[source].waiting.pop(key, None)

    def _free_source(self, entry: _Missing, pulls: dict[str, list[bytes]]) -> str | None:
        """Return the link to pull from: first a link that becomes eager anyway, so that one broken link is
        replaced by one link.
        """
        free = [name for name in entry.sources if self._peers[name].may_pull]
        # An announcer that did not deliver is requested last.
        if entry.tries:
            free.sort(key=lambda name: self._peers[name].misses)
        else:
            peers = self._peers
            free.sort(key=lambda n: (peers[n].misses, n not in pulls, not peers[n].eager))
        return free[0] if free else None

    def _settle(self, key: bytes) -> None:
        """Stop waiting for the id."""
        entry = self._missing.pop(key, None)
        if entry is not None:
            self._deadlines.discard(key)
            self._end_wait(key, entry)
            for name in entry.sources:
                peer = self._peers[name]
                peer.announced.pop(key, None)
                peer.asked.pop(key, None)

    def _forget_old(self, now: float) -> None:
        while self._store:
            key, oldest = next(iter(self._store.items()))
            if (
                now < oldest.at + self._store_ttl  # as in `next_deadline`, to the last bit
                and self.stored_bytes <= self._store_max_bytes
                and len(self._store) <= self._store_max_items
            ):
                return
            del self._store[key]
            self.stored_bytes -= oldest.size
