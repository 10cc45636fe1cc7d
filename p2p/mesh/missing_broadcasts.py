"""Broadcasts that neighbours announced and that have not come: when to pull each, and from which neighbour. No I/O.

An announced payload is waited for as long as such payloads have taken to come (mean and three deviations, as RFC 6298 does
for round trips). Until that is known the wait follows each link: a pull that a push overtook makes the next wait longer. One
that is not answered goes to the next announcer; neighbours that do not deliver are requested last, and few of their ids are
awaited. What a neighbour can make this node remember, or request at once, is bounded.

Times are float seconds on any monotonic clock. Iteration is in insertion order throughout, so that equal inputs give
equal outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from p2p.base import limits
from p2p.ground.keyed_heap import KeyedHeap

PATIENCE_GROWTH: Final = 1.25  # times what would have been long enough
PATIENCE_DECAY: Final = 0.98  # for each pull that was needed
LEAST_WAIT: Final = 0.05  # seconds for an announced payload
LAG_SAMPLES: Final = 16  # payloads that came after their announcement, before their lag counts


@dataclass(slots=True)
class MissingBroadcast:
    """One that was announced. `held`: when a push by each announcer would have come."""

    deadline: float  # of the first pull
    sources: dict[str, float] = field(default_factory=dict)  # announcer -> when; next in line first
    since: float = 0.0  # first announcement
    held: dict[str, float] = field(default_factory=dict)
    asked: str | None = None
    tries: int = 0
    waits: bool = False  # as much is being pulled from all its announcers as may be


@dataclass(slots=True)
class _Source:
    patience: float  # seconds to wait for its announced or requested messages
    misses: int = 0  # pulls that it has not answered in time since the last that it has
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


class MissingBroadcasts:
    """Missing broadcasts of one node. `patience`: seconds of the first wait, and of the longest."""

    def __init__(self, patience: float, longest: float) -> None:
        self.given_up = 0
        self._patience = patience
        self._longest = max(patience, longest)
        self._sources: dict[str, _Source] = {}
        self._missing: dict[bytes, MissingBroadcast] = {}
        self._deadlines: KeyedHeap[bytes, float] = KeyedHeap()
        self._waits = 0  # missing broadcasts that wait for a free announcer
        # Lag of payloads behind their announcement: samples, mean and deviation.
        self._lags = 0
        self._lag = 0.0
        self._lag_deviation = 0.0

    def __len__(self) -> int:
        return len(self._missing)

    def get(self, key: bytes) -> MissingBroadcast | None:
        """Return a missing broadcast, None if the id is not missing."""
        return self._missing.get(key)

    def patience(self, name: str) -> float:
        """Return the seconds that an answer of the neighbour may take."""
        return self._sources[name].patience

    # Links

    def link_up(self, name: str) -> None:
        """Add a neighbour."""
        self._sources[name] = _Source(self._patience)

    def link_down(self, now: float, name: str) -> None:
        """Remove a neighbour; what is pulled from it is pulled from others at once."""
        for key in self._sources.pop(name).announced:
            entry = self._missing[key]
            del entry.sources[name]
            entry.held.pop(name, None)
            if not entry.sources:
                del self._missing[key]
                self._deadlines.discard(key)
                self._waits -= entry.waits
            elif entry.asked == name:
                entry.asked = None
                self._deadlines.set(key, now)

    # Ids

    def announced(self, now: float, via: str, key: bytes, age: float | None) -> bool:
        """Note that a neighbour holds a broadcast that has not come, for `age` seconds if that counts; returns False if it
        has announced as many as may be.
        """
        source = self._sources[via]
        if key in source.announced:
            return True
        if len(source.announced) >= source.most_missing:
            return False  # announced again later if it is still wanted then
        entry = self._missing.get(key)
        due = now + self._wait(source)
        if entry is None:
            entry = self._missing[key] = MissingBroadcast(due, since=now)
            self._deadlines.set(key, due)
        elif entry.tries == 0 and due < entry.deadline:
            entry.deadline = due
            self._deadlines.set(key, due)
        entry.sources[via] = now
        if age is not None:
            entry.held[via] = now - age
        source.announced[key] = None
        if entry.waits:
            source.waiting[key] = None
        return True

    def arrived(self, now: float, key: bytes, entry: MissingBroadcast, via: str) -> bool:
        """Stop waiting for a broadcast that came over `via`, and learn from it; returns True if that answers a pull."""
        answered = bool(via) and entry.asked == via
        if not answered:
            error = now - entry.since - self._lag
            weight = max(0.05, 1.0 / (self._lags + 1))
            self._lag += weight * error
            self._lag_deviation += weight * (abs(error) - self._lag_deviation)
            self._lags += 1
        if entry.asked is not None:
            source = self._sources[entry.asked]
            if answered:
                source.misses = 0
                source.patience = max(self._patience, PATIENCE_DECAY * source.patience)
            else:  # a push was faster than the answer
                enough = PATIENCE_GROWTH * (now - entry.sources[entry.asked])
                source.patience = max(source.patience, min(enough, self._longest))
        self.settle(key)
        return answered

    def settle(self, key: bytes) -> None:
        """Stop waiting for an id."""
        entry = self._missing.pop(key, None)
        if entry is not None:
            self._deadlines.discard(key)
            self._end_wait(key, entry)
            for name in entry.sources:
                source = self._sources[name]
                source.announced.pop(key, None)
                source.asked.pop(key, None)

    # Time

    def next_deadline(self) -> float | None:
        """Return the time of the next pull, None without one."""
        found = self._deadlines.least()
        if not self._waits:
            return found
        times = [] if found is None else [found]
        times += [
            self._missing[next(iter(source.waiting))].deadline
            for source in self._sources.values()
            if source.waiting and source.may_pull
        ]
        return min(times, default=None)

    def pulls(self, now: float) -> dict[str, list[bytes]]:
        """Return the ids to pull now from each neighbour: those that have not come in time, each from the next of its
        announcers.
        """
        found: dict[str, list[bytes]] = {}
        while (key := self._deadlines.pop(now)) is not None:
            entry = self._missing[key]
            if entry.asked is not None:
                asked = self._sources[entry.asked]
                asked.asked.pop(key, None)
                asked.misses += 1
                entry.asked = None
            if entry.tries >= limits.GRAFT_TRIES:
                self.given_up += 1
                self.settle(key)
                continue
            name = self._free_source(entry, found)
            if name is None:
                # Without a deadline: what announces more than it delivers must not be gone through again and again.
                self._waits += not entry.waits
                entry.waits = True
                for each in entry.sources:
                    self._sources[each].waiting[key] = None
            else:
                self._pull(now, key, name, found)
        for name, source in self._sources.items() if self._waits else ():
            while source.waiting and source.may_pull:
                self._pull(now, next(iter(source.waiting)), name, found)
        return found

    def _wait(self, source: _Source) -> float:
        """Return the seconds to wait for a payload that the neighbour announces."""
        if self._lags < LAG_SAMPLES:
            return source.patience
        return min(max(LEAST_WAIT, self._lag + 3.0 * self._lag_deviation), source.patience)

    def _pull(self, now: float, key: bytes, name: str, found: dict[str, list[bytes]]) -> None:
        entry = self._missing[key]
        self._end_wait(key, entry)
        entry.tries += 1
        entry.asked = name
        entry.sources[name] = entry.sources.pop(name)  # to the end: requested last next time
        source = self._sources[name]
        source.asked[key] = None
        self._deadlines.set(key, now + source.patience)
        found.setdefault(name, []).append(key)

    def _end_wait(self, key: bytes, entry: MissingBroadcast) -> None:
        if entry.waits:
            entry.waits = False
            self._waits -= 1
            for name in entry.sources:
                self._sources[name].waiting.pop(key, None)

    def _free_source(self, entry: MissingBroadcast, found: dict[str, list[bytes]]) -> str | None:
        """Return the link to pull from: first one that is pulled from anyway, so that there are few messages."""
        sources = self._sources
        free = [name for name in entry.sources if sources[name].may_pull]
        # An announcer that did not deliver is requested last.
        if entry.tries:
            free.sort(key=lambda name: sources[name].misses)
        else:
            free.sort(key=lambda name: (sources[name].misses, name not in found))
        return free[0] if free else None
