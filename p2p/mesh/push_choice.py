"""Choice of the links that push broadcasts to this node, and of those that it pushes to. No I/O, no clock, no randomness.

Theory of operation. One spanning tree for all origins is the shortest for one of them only, and with many broadcasts
under way it is cut and mended all the time. So each node chooses for itself, in one direction: PUSHERS links are asked
to push, the others announce. For each of the last broadcasts it is known when each link brought it, or would have: an
announcement carries the age of each id, so the time of arrival less the age is when a push would have come. Of all
sets of PUSHERS links the one is wanted whose sum of earliest arrivals is the smallest; one link is exchanged at a
time, and only for a clear gain.

An origin of a large part of all broadcasts is *busy*: for it one link is enough, the one that has its broadcasts
first. The other pushers are asked to leave it out. That is undone for a while when one of its broadcasts had to be
pulled.

Rules of this file:
- An announcement proves nothing. A link that was chosen for its announcements and then brings no copy is dropped and
  not chosen again for a while, longer each time.
- The copy that an origin itself sends says nothing about what its link relays: such broadcasts count only while there
  are no others.
- Iteration is in insertion order throughout, so that equal inputs give equal outputs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_PUSHED: Final = (
    8  # links that may ask to be pushed to; others are refused, unless they have no other
)
PUSHERS: Final = (
    3  # links that push to this node: two may fail or lose a broadcast at the same time
)
WINDOW: Final = 48  # broadcasts that count
REVIEW_INTERVAL: Final = 0.5  # seconds
FRESH: Final = 12  # broadcasts since the last review that make another one worth its time
NEW_LINK_ROWS: Final = (
    4  # broadcasts after which a new link is asked not to push, if it was not chosen
)
MIN_ROWS: Final = 6  # broadcasts before the first choice
SETTLED_AFTER: Final = 0.25  # seconds in which the other links bring or announce a broadcast, too
MAX_UNSETTLED: Final = 128  # of these; beyond that the arrival of a broadcast is not noted
UNKNOWN: Final = 0.15  # seconds after the first copy at which a link without a sign counts
EARLIEST: Final = -0.5  # no announcement counts as earlier than this
GAIN: Final = 0.08  # part of the sum that an exchange has to save ...
GAIN_SECONDS: Final = 0.001  # ... and seconds for each broadcast
GRACE: Final = 0.6  # seconds until a link that was asked to push has to
TRIAL: Final = 8  # broadcasts without a copy from a chosen link ...
TRIAL_SECONDS: Final = 2.0  # ... and seconds since it was asked, that show that it does not push
COOL_DOWN: Final = 10.0  # seconds for which such a link is not chosen ...
COOL_DOWN_GROWTH: Final = 4.0  # ... longer each time ...
COOL_DOWN_MAX: Final = 600.0  # ... up to this

REFUSED: Final = 10.0  # seconds for which a link that refused to push is not chosen

ORIGINS_WINDOW: Final = 64  # broadcasts in which busy origins are looked for
BUSY: Final = 16  # of these from one origin: it is busy ...
NOT_BUSY: Final = 6  # ... until fewer than this
BUSY_ROWS: Final = 16  # broadcasts of a busy origin that count
BUSY_MIN_ROWS: Final = 8  # of these before a link is chosen for it
LIFTED: Final = 5.0  # seconds after a pull without a link of its own, growing as COOL_DOWN


@dataclass(slots=True)
class BroadcastArrivals:
    """Arrival of one broadcast over each link: of its copy, or of a copy in place of the announcement."""

    at: float  # of the first copy
    origin: str
    direct: bool  # the origin itself brought the first copy
    arrivals: dict[str, float] = field(default_factory=dict)
    late: dict[str, float] = field(
        default_factory=dict
    )  # seconds after `at`, bounded, if less than UNKNOWN; once settled


@dataclass(slots=True)
class _Candidate:
    since: float  # link up
    able: bool  # it understands requests by origin
    asked_at: float = 0.0  # of the pushers
    not_before: float = float("-inf")
    cool_down: float = COOL_DOWN
    origins: dict[str, bool] = field(default_factory=dict)  # requests made to it: push or leave out


@dataclass(slots=True)
class _BusyOrigin:
    rows: deque[BroadcastArrivals]
    link: str = ""  # that pushes its broadcasts; empty: all pushers
    previous: str = ""  # pushes them, too, until the link has begun
    begins: bool = False  # chosen in the last review
    lifted_until: float = float("-inf")
    lifted: float = LIFTED


@dataclass(slots=True)
class PushChanges:
    """Outcome of a review. `origins`: for each link the origins to push, to leave out, and neither."""

    ask: list[str] = field(default_factory=list)
    release: list[str] = field(default_factory=list)
    origins: dict[str, tuple[list[str], list[str], list[str]]] = field(default_factory=dict)


class PushChoice:
    """The chosen links of one node, in `chosen`; empty before the first choice, when all links push."""

    def __init__(self) -> None:
        self.chosen: dict[str, None] = {}
        self._links: dict[str, _Candidate] = {}
        self._unsettled: deque[BroadcastArrivals] = deque()
        self._rows: deque[BroadcastArrivals] = deque(maxlen=WINDOW)
        self._origins: deque[str] = deque()
        self._counts: dict[str, int] = {}  # of `_origins`
        self._busy: dict[str, _BusyOrigin] = {}
        self._requests = False  # links may have requests by origin
        self._fresh = 0  # broadcasts since the last review
        self.review_at: float | None = None

    @property
    def few_links(self) -> bool:
        """Report if there are no other links to be pushed to than PUSHERS."""
        return len(self._links) <= PUSHERS

    def link_up(self, now: float, name: str, *, able: bool) -> PushChanges:
        """Add a link. `able`: its peer understands requests by origin."""
        before = self.few_links
        self._links[name] = _Candidate(now, able)
        return PushChanges(ask=list(self.chosen) if self.few_links is not before else [])

    def link_down(self, now: float, name: str) -> PushChanges:
        """Remove a link, and replace it if it pushed."""
        before = self.few_links
        self._links.pop(name, None)
        changes = PushChanges()
        for busy in self._busy.values():
            if busy.link == name:
                busy.link = ""
                busy.rows.clear()
        if name in self.chosen:
            del self.chosen[name]
            added = self._best_addition(now, self._counted(), self.chosen)
            if added:
                self._choose(now, added, changes)
        if self.few_links is not before:
            changes.ask = list(self.chosen)
        if self._busy:
            self._request_origins(changes)
        return changes

    def refused(self, now: float, name: str) -> PushChanges:
        """Choose another link in place of one that does not push any more."""
        changes = PushChanges()
        link = self._links.get(name)
        if link is not None and name in self.chosen:
            link.not_before = now + REFUSED
            del self.chosen[name]
            added = self._best_addition(now, self._counted(), self.chosen)
            if added and self._links[added].not_before <= now:
                self._choose(now, added, changes)
            self._request_origins(changes)
        return changes

    def has_chosen(self, name: str) -> bool:
        return not self.chosen or name in self.chosen

    def expects(self, name: str, origin: str) -> bool:
        """Return True if the link was asked to push broadcasts of the origin, or the first choice is still to come."""
        if not self.chosen or name == origin:
            return True
        link = self._links.get(name)
        asked = link.origins.get(origin) if link is not None else None
        return name in self.chosen if asked is None else asked

    def counts_announcements(self, now: float, name: str) -> bool:
        """Return False for a link that has to push: its announcements are no substitute."""
        link = self._links.get(name)
        return link is not None and (name not in self.chosen or now < link.asked_at + GRACE)

    # Broadcasts

    def arrived(self, row: BroadcastArrivals) -> None:
        """Note a new broadcast of another node; the caller goes on adding to its arrivals."""
        origin = row.origin
        self._fresh += 1
        if self.review_at is None:
            self.review_at = row.at + REVIEW_INTERVAL
        self._origins.append(origin)
        counts = self._counts
        count = counts[origin] = counts.get(origin, 0) + 1
        if len(self._origins) > ORIGINS_WINDOW:
            oldest = self._origins.popleft()
            if oldest == origin:
                count -= 1
            if counts[oldest] > 1:
                counts[oldest] -= 1
            else:
                del counts[oldest]
        if len(self._unsettled) < MAX_UNSETTLED:
            self._unsettled.append(row)
        if count >= BUSY and origin not in self._busy:
            self._busy[origin] = _BusyOrigin(deque(maxlen=BUSY_ROWS))

    def _settle(self, now: float) -> None:
        """Let the broadcasts count that have come over all links by now."""
        unsettled = self._unsettled
        while unsettled and unsettled[0].at <= now - SETTLED_AFTER:
            row = unsettled.popleft()
            at, late = row.at, row.late
            for name, arrival in row.arrivals.items():
                after = arrival - at
                if after < UNKNOWN:
                    late[name] = after if after > EARLIEST else EARLIEST
            busy = self._busy.get(row.origin)
            (self._rows if busy is None else busy.rows).append(row)

    def pulled(self, now: float, origin: str) -> None:
        """Note that a broadcast of the origin had to be pulled: one link was not enough."""
        busy = self._busy.get(origin)
        if busy is not None and busy.link:
            busy.link = ""
            busy.lifted_until = now + busy.lifted
            busy.lifted = min(busy.lifted * COOL_DOWN_GROWTH, COOL_DOWN_MAX)
            self.review_at = now

    # Reviews

    def review(self, now: float) -> PushChanges:
        """Choose again if enough has arrived since the last time."""
        changes = PushChanges()
        self.review_at = None
        self._settle(now)
        if self._fresh < FRESH and self.chosen:
            if self._fresh:
                self.review_at = now + REVIEW_INTERVAL
            self._review_origins(now, changes)
            return changes
        rows = self._counted()
        if not self.chosen and len(rows) < MIN_ROWS:
            self.review_at = now + REVIEW_INTERVAL if rows or self._fresh else None
            return changes
        self._fresh = 0
        self._drop_mute(now, rows, changes)
        while len(self.chosen) < min(PUSHERS, len(self._links)):
            added = self._best_addition(now, rows, self.chosen)
            if not added:
                break
            self._choose(now, added, changes)
        self._exchange(now, rows, changes)
        self._release_others(rows, changes)
        self._review_origins(now, changes)
        return changes

    def _choose(self, now: float, name: str, changes: PushChanges) -> None:
        self.chosen[name] = None
        self._links[name].asked_at = now
        changes.ask.append(name)

    def _counted(self) -> list[BroadcastArrivals]:
        """Return the broadcasts that count in the choice of pushers."""
        rows = [row for row in self._rows if not row.direct and row.origin not in self._busy]
        if len(rows) >= MIN_ROWS:
            return rows
        busy = [row for origin in self._busy.values() for row in origin.rows]
        return [*self._rows, *busy[-WINDOW:]]

    def _free(self, now: float) -> list[str]:
        return [
            name
            for name, link in self._links.items()
            if name not in self.chosen and link.not_before <= now
        ]

    def _best_addition(
        self, now: float, rows: Iterable[BroadcastArrivals], chosen: Iterable[str]
    ) -> str:
        """Return the link that brings the earliest arrivals forward most beside the chosen ones."""
        chosen = list(chosen)
        gains = dict.fromkeys(self._free(now) or [n for n in self._links if n not in chosen], 0.0)
        for row in rows:
            late = row.late
            best = min((late.get(name, UNKNOWN) for name in chosen), default=UNKNOWN)
            for name, value in late.items():
                if value < best and name in gains and name != row.origin:
                    gains[name] += best - value
        return max(gains, key=lambda name: gains[name], default="")

    def _exchange(self, now: float, rows: list[BroadcastArrivals], changes: PushChanges) -> None:
        """Exchange one chosen link for another one if that saves enough."""
        free = set(self._free(now))
        if not rows or not free or len(self.chosen) < PUSHERS:
            return
        loss = dict.fromkeys(self.chosen, 0.0)  # of the sum, without the link
        gain: dict[str, float] = {}  # by the other link, beside all chosen ones
        more: dict[tuple[str, str], float] = {}  # and in place of one
        total = 0.0
        for row in rows:
            late = row.late
            first, best, second = "", UNKNOWN, UNKNOWN
            for name in self.chosen:
                value = late.get(name, UNKNOWN)
                if value < best:
                    first, best, second = name, value, best
                elif value < second:
                    second = value
            if first:
                loss[first] += second - best
            earliest = best
            for name, value in late.items():
                if value >= second or name not in free or name == row.origin:
                    continue
                if value < best:
                    gain[name] = gain.get(name, 0.0) + best - value
                    earliest = min(earliest, value)
                if first:
                    pair = (first, name)
                    more[pair] = more.get(pair, 0.0) + second - max(value, best)
            total += best - earliest
        saved, out, into = 0.0, "", ""
        for leaving in self.chosen:
            for name in {**gain, **{new: 0.0 for old, new in more if old == leaving}}:
                value = gain.get(name, 0.0) + more.get((leaving, name), 0.0) - loss[leaving]
                if value > saved:
                    saved, out, into = value, leaving, name
        if saved > GAIN * total + GAIN_SECONDS * len(rows):
            del self.chosen[out]
            self._choose(now, into, changes)

    def _drop_mute(self, now: float, rows: list[BroadcastArrivals], changes: PushChanges) -> None:
        """Drop chosen links that bring no copies, of busy origins neither."""
        busy = [row for origin in self._busy.values() for row in origin.rows]
        others = [row for row in (*self._rows, *busy) if not row.direct]
        for name in list(self.chosen):
            link = self._links[name]
            since = [row for row in rows if row.at > link.asked_at + GRACE]
            if len(since) < TRIAL or now < link.asked_at + TRIAL_SECONDS:
                continue
            if any(name in row.arrivals for row in since) or not self._free(now):
                continue
            # The rows that count may all have come from one side of the network, and this link leads to the other.
            if not any(name in row.arrivals for row in others if row.at >= since[0].at):
                link.not_before = now + link.cool_down
                link.cool_down = min(link.cool_down * COOL_DOWN_GROWTH, COOL_DOWN_MAX)
                del self.chosen[name]

    def _release_others(self, rows: list[BroadcastArrivals], changes: PushChanges) -> None:
        if len(self.chosen) < min(PUSHERS, len(self._links)):
            return
        newest = rows[-NEW_LINK_ROWS].at if len(rows) >= NEW_LINK_ROWS else float("-inf")
        changes.release = [
            name
            for name, link in self._links.items()
            if name not in self.chosen and link.since <= newest
        ]

    # Busy origins

    def _review_origins(self, now: float, changes: PushChanges) -> None:
        for origin, busy in list(self._busy.items()):
            if self._counts.get(origin, 0) < NOT_BUSY:
                del self._busy[origin]
            elif now >= busy.lifted_until:
                self._review_origin(now, origin, busy)
        self._request_origins(changes)

    def _review_origin(self, now: float, origin: str, busy: _BusyOrigin) -> None:
        busy.previous, busy.begins = "", False
        rows = busy.rows
        if len(rows) < BUSY_MIN_ROWS:
            return
        sums = {
            name: sum(row.late.get(name, UNKNOWN) for row in rows)
            for name, link in self._links.items()
            if link.able and link.not_before <= now
        }
        best = min(sums, key=lambda name: sums[name], default="")
        if not best or sums[best] > len(rows) * UNKNOWN / 2:
            return
        present = sums.get(busy.link)
        if present is None or present - sums[best] > len(rows) * (
            GAIN_SECONDS + GAIN * (UNKNOWN if present > 0 else 0.0)
        ):
            busy.previous, busy.link, busy.begins = busy.link, best, True

    def _request_origins(self, changes: PushChanges) -> None:
        """Note the requests after which each busy origin is pushed by its own link alone."""
        if not (self._busy or self._requests):
            return
        self._requests = bool(self._busy)
        for name, link in self._links.items():
            if not link.able:
                continue
            wanted = {}
            for origin, busy in self._busy.items():
                if busy.link and name in (busy.link, busy.previous):
                    wanted[origin] = True
                elif self._leaves_out(name, origin, busy):
                    wanted[origin] = False
            if wanted == link.origins:
                continue
            push = [o for o, yes in wanted.items() if yes and link.origins.get(o) is not True]
            leave = [o for o, yes in wanted.items() if not yes and link.origins.get(o) is not False]
            reset = [o for o in link.origins if o not in wanted]
            link.origins = wanted
            changes.origins[name] = (push, leave, reset)

    def _leaves_out(self, name: str, origin: str, busy: _BusyOrigin) -> bool:
        """Return True if a link that pushes is to leave a busy origin out."""
        if not busy.link or (busy.begins and not busy.previous):
            return False  # or else nothing would push it until its own link does
        return name in self.chosen or name == origin


def displaced_by(group: str, holders: Mapping[str, str]) -> str | None:
    """Return the link that loses its slot to a request from `group`, None if the request is refused. Without shares, the
    identities of one operator that request first would keep the slots, and honest neighbours would get every broadcast an
    announcement and a pull later.

    `holders` has the network group of each link with a slot, earliest first; an empty group has one member. A
    slot moves only from a group that would still have as many as the one that asks, so that it never moves back.
    """
    counts = Counter(each for each in holders.values() if each)
    if not counts:
        return None
    largest, held = counts.most_common(1)[0]
    if held < (counts[group] if group else 0) + 2:
        return None
    return next(link for link in reversed(list(holders)) if holders[link] == largest)
