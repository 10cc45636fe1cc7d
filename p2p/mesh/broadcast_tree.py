"""Broadcasts of all nodes to all nodes (after Plumtree), without I/O.

Plumtree: J. Leitão, J. Pereira, L. Rodrigues, "Epidemic Broadcast Trees", SRDS 2007. Payloads are pushed over a few
links; the others carry announcements (IHAVE). An announced payload that does not come is pulled (GRAFT). A link over
which nothing is to be pushed is pruned (PRUNE).

Differences from the paper:
- Links are directed: each node chooses the links that push to it (`p2p.mesh.push_choice`), and neither a duplicate nor
  a pull changes that. So broadcasts under way at the same time do not cut each other's tree.
- A link starts eager in both directions, until the choice has been made from the first broadcasts.
- An announcement has the age of each id, so that a link that only announces can be compared with one that pushes.
- An origin sends its own broadcasts over up to OWN_LINKS links, requested or not.
- The ids still stored are announced to a link that comes up, so that broadcasts cross when a partition heals.
- Recent ids are announced again, a few times, to peers with few links that they were pushed to and that have not
  shown that they hold them (nothing else would ever repeat a push that was lost).
- A node pushes to MAX_PUSHED links that ask for it and refuses others, so that a node with many links is not the parent
  of all. A peer with few links is not refused, and no network group keeps the slots of others (`displaced_by`).
- How long an announced payload is waited for is learned: `p2p.mesh.missing_broadcasts`.
- Everything that a peer can make this node remember or send is bounded, see `p2p.base.limits`.

A peer of an older version prunes both directions of a link at once, and pushes from a pull on. An empty pull makes it
push whatever it prunes; so each chosen link is asked with one, and a link that pushes after a pull is pruned again.

Times are float seconds on any monotonic clock. Iteration is in insertion order throughout, so that equal
inputs give equal outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Final, Generic, TypeVar

from p2p.base import limits
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.seen_window import SeenWindow
from p2p.ground.tokens import Tokens
from p2p.mesh.missing_broadcasts import MissingBroadcast, MissingBroadcasts
from p2p.mesh.push_choice import (
    MAX_PUSHED,
    BroadcastArrivals,
    PushChanges,
    PushChoice,
    displaced_by,
)
from p2p.wire.messages import Branch, Graft, IHave, Prune

ID_LENGTH: Final = 16
ITEM_OVERHEAD: Final = 512  # bytes of bookkeeping that a stored item is taken to cost
OWN_LINKS: Final = 16  # links over which an origin sends its own broadcasts
MAX_BRANCHES: Final = 64  # origins for which one peer may make a request of its own
REPEATED_PULLS: Final = (
    64  # answers for ids that a link has pulled before: at once, and a quarter of them each second
)
MAX_ORIGIN_LENGTH: Final = 64  # characters of a node id
MAX_AGE: Final = 10_000  # ms; of an id in an announcement

_REPEATS: Final = (REPEATED_PULLS / 4, float(REPEATED_PULLS))  # rate and burst

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """Seconds, numbers and bytes: see `p2p.base.limits`."""

    seen_ttl: float = limits.SEEN_TTL
    seen_max: int = limits.SEEN_MAX
    store_ttl: float = limits.STORE_TTL
    store_max_bytes: int = limits.STORE_MAX_BYTES
    lazy_flush: float = limits.LAZY_FLUSH
    graft_timeout: float = limits.GRAFT_TIMEOUT
    graft_timeout_max: float = limits.GRAFT_TIMEOUT_MAX
    repair_interval: float = limits.REPAIR_INTERVAL


@dataclass(slots=True)
class _Stored(Generic[Item]):
    item: Item
    size: int
    at: float
    holders: int  # bit per link: it has shown that it holds the item
    pushed: int  # bit per link: it came from there or we sent it there
    row: BroadcastArrivals | None  # None for an own one
    pulled: int = 0  # bit per link: it was sent there in answer to a pull


@dataclass(slots=True)
class _Arrival:
    holders: int  # bit per link: it has brought the item
    row: BroadcastArrivals | None


@dataclass(slots=True)
class _Peer:
    bit: int
    allowance: Tokens  # bytes that may be sent in answer to pulls
    repeats: Tokens  # pulls of ids that it has pulled before
    able: bool  # it understands requests by origin (BRANCH)
    group: str  # network group of its address; empty: of its own
    eager: bool = True  # payloads are pushed to it
    requested: bool = False  # it has asked for that
    few_links: bool = True  # it has no other links to be pushed to, or has not stated it
    pushes: bool = True  # it pushes, unless it follows a prune
    pruned_at: float | None = None  # time of the last PRUNE sent since the link was asked to push
    branches: BoundedMap[str, bool] = field(default_factory=lambda: BoundedMap(MAX_BRANCHES))


class BroadcastTree(Generic[Item]):
    """Part of one node in the broadcast tree. Items are opaque; `emit` sends an item or a control message.

    `counters` counts duplicates, grafts, prunes and so on over the life of the object.
    """

    def __init__(
        self,
        emit: Callable[[tuple[str, ...], Item | IHave | Graft | Prune | Branch], None],
        settings: TreeSettings = TreeSettings(),
    ) -> None:
        self._emit = emit
        self._settings = settings
        self.seen = SeenWindow(settings.seen_ttl, settings.seen_max)
        self._store: dict[bytes, _Stored[Item]] = {}  # oldest first
        self._held: dict[bytes, _Arrival] = {}  # arrived, not handled yet
        self.stored_bytes = 0
        # What a peer still offers must be remembered as seen, or it would be delivered again.
        self._store_max_items = max(1, settings.seen_max // 4)
        self._peers: dict[str, _Peer] = {}
        self._bits = 0  # of all links
        self.choice = PushChoice()
        self._missing = MissingBroadcasts(settings.graft_timeout, settings.graft_timeout_max)
        self._unannounced: list[bytes] = []
        self._flush_at: float | None = None
        self._repair_at: float | None = None
        self.counters: dict[str, int] = {
            "duplicates": 0,
            "prunes": 0,
            "grafts": 0,
            "asked": 0,
            "refusals": 0,
            "branches": 0,
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

    def link_up(self, now: float, name: str, *, able: bool = False, group: str = "") -> None:
        """Add a link: eager at first. The stored ids are announced to it. `able`: its peer understands BRANCH; `group`: the
        network group of its address, empty for a link that shares its group with no other.
        """
        self.link_down(now, name)
        free = ~self._bits & (self._bits + 1)  # lowest bit that no link uses
        self._bits |= free
        budget = Tokens(limits.GRAFT_BYTES_PER_SECOND, now)
        self._peers[name] = _Peer(free, budget, Tokens(REPEATED_PULLS, now), able, group)
        self._missing.link_up(name)
        self._apply(now, self.choice.link_up(now, name, able=able))
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
        if gone is None:
            return
        self._bits &= ~gone.bit
        self._apply(now, self.choice.link_down(now, name))
        self._missing.link_down(now, name)
        # The bit will be given to another link, which does not hold these.
        for stored in self._store.values():
            stored.holders &= ~gone.bit
            stored.pushed &= ~gone.bit
            stored.pulled &= ~gone.bit
        for arrival in self._held.values():
            arrival.holders &= ~gone.bit

    # Payloads

    def hold(self, now: float, key: bytes, via: str, origin: str) -> None:
        """Note the arrival of a new broadcast that is handled later: `add` or `ignore` has to follow."""
        self._held[key] = self._arrived(now, key, via, origin)

    def add(
        self, now: float, key: bytes, item: Item, size: int, via: str = "", origin: str = ""
    ) -> None:
        """Store a new, valid broadcast and push it on. `via` is empty for an own one."""
        arrival = self._held.pop(key, None) or self._arrived(now, key, via, origin)
        bit, row = arrival.holders, arrival.row
        if row is not None:
            self.choice.arrived(row)
        stored = _Stored(item, size + ITEM_OVERHEAD, now, holders=bit, pushed=bit, row=row)
        targets = self._targets(origin, own=not via, held=bit)
        for name in targets:
            stored.pushed |= self._peers[name].bit
        if targets:
            self._emit(tuple(targets), item)
        self._store[key] = stored
        self.stored_bytes += stored.size
        self._forget_old(now)
        self._unannounced.append(key)
        if self._flush_at is None:
            self._flush_at = now + self._settings.lazy_flush
        if self._repair_at is None:
            self._repair_at = now + self._settings.repair_interval

    def _targets(self, origin: str, *, own: bool, held: int) -> list[str]:
        """Return the links to push a broadcast to; `held`: bits of those that hold it."""
        targets = []
        for name, peer in self._peers.items():
            wanted = peer.branches.get(origin) if peer.branches else None
            if (peer.eager if wanted is None else wanted) and not peer.bit & held:
                targets.append(name)
        if own and len(targets) < OWN_LINKS:
            chosen = set(targets)
            others = (
                name
                for name, peer in self._peers.items()
                if peer.able and name not in chosen and peer.branches.get(origin) is None
            )
            targets += islice(others, OWN_LINKS - len(targets))
        return targets

    def _arrived(self, now: float, key: bytes, via: str, origin: str) -> _Arrival:
        self.seen.add(now, key, via)
        entry = self._missing.get(key)
        row = self._row(now, entry, via, origin) if via else None
        source = self._peers.get(via)
        bit = source.bit if source is not None else 0
        if entry is not None:
            for name in entry.sources:
                bit |= self._peers[name].bit
            if self._missing.arrived(now, key, entry, via):
                self.choice.pulled(now, origin)
        return _Arrival(bit, row)

    @staticmethod
    def _row(
        now: float, entry: MissingBroadcast | None, via: str, origin: str
    ) -> BroadcastArrivals:
        row = BroadcastArrivals(now, origin, direct=via == origin)
        if entry is not None:
            for name, held in entry.held.items():
                row.arrivals[name] = held
        if entry is None or entry.asked != via:  # a pulled copy says nothing about pushing
            row.arrivals[via] = now
        return row

    def ignore(self, now: float, key: bytes, via: str) -> None:
        """Mark an id as seen without storing or relaying its payload (an invalid one, for example)."""
        self._held.pop(key, None)
        self.seen.add(now, key, via)
        self._missing.settle(key)

    def duplicate(self, now: float, key: bytes, via: str) -> str:
        """Record a payload with a known id that arrived over the link `via`; returns its origin, empty for an own one and
        one that is not held any more.
        """
        self.counters["duplicates"] += 1
        peer = self._peers.get(via)
        if peer is None:
            return ""
        arrival = self._store.get(key) or self._held.get(key)
        if arrival is None:
            return ""
        arrival.holders |= peer.bit
        row = arrival.row
        if row is None:
            return ""
        row.arrivals.setdefault(via, now)
        # Copies under way arrive for a while after a prune; it is repeated only if it seems lost.
        if (
            peer.pruned_at is not None
            and now - peer.pruned_at >= self._missing.patience(via)
            and not self.choice.expects(via, row.origin)
        ):
            self._prune(now, via, peer)
        return row.origin

    def _prune(self, now: float, name: str, peer: _Peer) -> None:
        peer.pushes = False
        peer.pruned_at = now
        self.counters["prunes"] += 1
        self._emit((name,), Prune())

    def _apply(self, now: float, changes: PushChanges) -> None:
        """Send the requests that a new choice of links needs."""
        for name in changes.ask:
            peer = self._peers[name]
            peer.pushes = True
            peer.pruned_at = None
            self.counters["asked"] += 1
            self._emit((name,), Graft([], few_links=self.choice.few_links))
        for name in changes.release:
            peer = self._peers[name]
            if peer.pushes:
                self._prune(now, name, peer)
        for name, (push, leave, reset) in changes.origins.items():
            self.counters["branches"] += 1
            self._emit((name,), Branch(push, leave, reset))

    # Control messages. Each returns False when the peer broke a bound.

    def on_announcement(
        self, now: float, via: str, keys: Sequence[bytes], ages: Sequence[int] = ()
    ) -> bool:
        """Process an IHAVE: the peer has held each id for its age in milliseconds."""
        peer = self._peers[via]
        held_here, seen, bit = self._store.get, self.seen, peer.bit
        if not ages or len(ages) != len(keys) or min(ages) < 0 or max(ages) > MAX_AGE:
            within_bounds, ages = not ages, [0] * len(keys)
            aged = False
        else:
            within_bounds, aged = True, self.choice.counts_announcements(now, via)
        for key, age in islice(zip(keys, ages, strict=True), limits.ANNOUNCE_MAX_IDS):
            stored = held_here(key)
            if stored is not None:
                stored.holders |= bit
                if aged and (row := stored.row) is not None and via not in row.arrivals:
                    row.arrivals[via] = now - age / 1000
            elif len(key) != ID_LENGTH:
                return False
            elif key not in seen:
                held = age / 1000 if aged else None
                if not self._missing.announced(now, via, key, held):
                    break
        return within_bounds and len(keys) <= limits.ANNOUNCE_MAX_IDS

    def on_pull(
        self,
        now: float,
        via: str,
        keys: Sequence[bytes],
        *,
        push: bool = True,
        few_links: bool = False,
    ) -> bool:
        """Process a GRAFT: send these ids and, with `push`, all broadcasts from now on. `few_links`: the peer has no
        other links to be pushed to."""
        peer = self._peers[via]
        if push:
            peer.few_links = few_links or not peer.able
            self._push_or_refuse(via, peer)
        rate = float(limits.GRAFT_BYTES_PER_SECOND)
        for key in keys[: limits.ANNOUNCE_MAX_IDS]:
            stored = self._store.get(key)
            if (
                stored is None
                # Sending it costs more than asking for it.
                or (stored.pulled & peer.bit and not peer.repeats.take(now, *_REPEATS))
                or not peer.allowance.take(now, rate, rate, stored.size)
            ):
                self.counters["pulls_refused"] += 1
                continue
            stored.pushed |= peer.bit
            stored.pulled |= peer.bit
            self.counters["pulled"] += 1
            self._emit((via,), stored.item)
        return len(keys) <= limits.ANNOUNCE_MAX_IDS

    def _push_or_refuse(self, name: str, peer: _Peer) -> None:
        if not (peer.requested or peer.few_links):
            holders = {
                n: p.group for n, p in self._peers.items() if p.requested and not p.few_links
            }
            if len(holders) >= MAX_PUSHED:
                displaced = displaced_by(peer.group, holders)
                if displaced is None:
                    self._refuse(name, peer)
                    return
                self._refuse(displaced, self._peers[displaced])
        peer.eager = peer.requested = True

    def _refuse(self, name: str, peer: _Peer) -> None:
        peer.eager = peer.requested = False
        self.counters["refusals"] += 1
        self._emit((name,), Prune(refusal=True))

    def on_prune(self, now: float, via: str, *, refusal: bool = False) -> None:
        """Process a PRUNE: nothing is to be pushed to the peer, or it refuses to push."""
        peer = self._peers[via]
        if refusal:
            peer.pushes = False
            self._apply(now, self.choice.refused(now, via))
            return
        if peer.eager and not peer.able and via in self.choice.chosen:
            # An older version stops pushing, too, unless it is asked to go on.
            self._emit((via,), Graft([]))
        peer.eager = peer.requested = False

    def on_branch(self, via: str, message: Branch) -> bool:
        """Process a BRANCH: push the broadcasts of some origins to the peer, or leave them out."""
        peer = self._peers[via]
        lists = (message.push, message.leave, message.reset)
        if any(len(origins) > MAX_BRANCHES for origins in lists):
            return False
        if any(len(origin) > MAX_ORIGIN_LENGTH for origins in lists for origin in origins):
            return False
        for origin in message.reset:
            peer.branches.pop(origin, None)
        for wanted, origins in ((True, message.push), (False, message.leave)):
            for origin in origins:
                peer.branches[origin] = wanted
        return True

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next action of `tick`, None if there is none."""
        first = inf
        for at in (
            self._flush_at,
            self._repair_at,
            self.choice.review_at,
            self._missing.next_deadline(),
        ):
            if at is not None and at < first:
                first = at
        if self._store:
            at = next(iter(self._store.values())).at + self._settings.store_ttl
            if at < first:
                first = at
        return None if first == inf else first

    def tick(self, now: float) -> None:
        """Announce, pull and forget as far as due."""
        if self._flush_at is not None and now >= self._flush_at:
            self._flush(now)
        if self.choice.review_at is not None and now >= self.choice.review_at:
            self._apply(now, self.choice.review(now))
        if self._repair_at is not None and now >= self._repair_at:
            self._repair(now)
        self._pull_due(now)
        self._forget_old(now)

    def _flush(self, now: float) -> None:
        """Announce new ids to every link except those that sent or received the payload, or announced it."""
        fresh: list[tuple[bytes, int]] = []
        ages: dict[bytes, int] = {}
        for key in self._unannounced:
            stored = self._store.get(key)
            if stored is not None:
                fresh.append((key, stored.pushed | stored.holders))
                ages[key] = min(max(round((now - stored.at) * 1000), 0), MAX_AGE)
        self._unannounced.clear()
        self._flush_at = None
        self._announce_to_others(fresh, ages)

    def _repair(self, now: float) -> None:
        """Announce recent ids again to every peer with few links that they were pushed to."""
        since = now - limits.REPAIR_ROUNDS * self._settings.repair_interval
        safe = 0  # several links push to these peers, and others announce
        for peer in self._peers.values():
            if not peer.few_links:
                safe |= peer.bit
        recent: list[tuple[bytes, int]] = []
        for key, stored in reversed(self._store.items()):
            if stored.at < since:
                break
            if (
                now - stored.at >= self._settings.repair_interval / 2
            ):  # younger: may still be under way
                recent.append((key, stored.holders | safe | ~stored.pushed))
        recent.reverse()
        self._announce_to_others(recent)
        newest = next(reversed(self._store.values()), None)
        again = newest is not None and newest.at >= since + self._settings.repair_interval
        self._repair_at = now + self._settings.repair_interval if again else None

    def _announce_to_others(
        self, masked: list[tuple[bytes, int]], ages: dict[bytes, int] | None = None
    ) -> None:
        """Announce each id to the links whose bit its mask lacks; one message for links with equal lists. `ages` of
        the ids are in milliseconds.
        """
        everyone = self._bits
        masked = [(key, mask) for key, mask in masked if everyone & ~mask]
        groups: dict[tuple[bytes, ...], list[str]] = {}
        for name, peer in self._peers.items():
            bit = peer.bit
            keys = tuple([key for key, mask in masked if not mask & bit])
            if keys:
                groups.setdefault(keys, []).append(name)
        for keys, names in groups.items():
            self._announce(tuple(names), keys, ages)

    def _announce(
        self, names: tuple[str, ...], keys: Sequence[bytes], ages: dict[bytes, int] | None = None
    ) -> None:
        for start in range(0, len(keys), limits.ANNOUNCE_MAX_IDS):
            part = list(keys[start : start + limits.ANNOUNCE_MAX_IDS])
            self.counters["announced"] += len(part) * len(names)
            self._emit(names, IHave(part, [] if ages is None else [ages[key] for key in part]))

    def _pull_due(self, now: float) -> None:
        """Pull ids that were announced and have not arrived in time."""
        for name, keys in self._missing.pulls(now).items():
            peer = self._peers[name]
            peer.pushes = peer.pushes or not peer.able  # an older version pushes from now on
            self.counters["grafts"] += 1
            self._emit((name,), Graft(keys, push=False))
        self.counters["given_up"] = self._missing.given_up

    def _forget_old(self, now: float) -> None:
        while self._store:
            key, oldest = next(iter(self._store.items()))
            if (
                now < oldest.at + self._settings.store_ttl  # as in `next_deadline`, to the last bit
                and self.stored_bytes <= self._settings.store_max_bytes
                and len(self._store) <= self._store_max_items
            ):
                return
            del self._store[key]
            self.stored_bytes -= oldest.size
