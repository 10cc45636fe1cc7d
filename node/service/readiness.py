"""Readiness: the conditions under which this node can take orders, each with its reason when it cannot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from exchange.engine.engine import Engine
from node.service.committer import Committer
from node.views.node_views import ReadyCheck, ReadyView
from p2p.ground.tokens import Tokens
from p2p.mesh.clock_offsets import ClockOffsets

BEHIND_MAX: Final = 15.0  # seconds that feeds may be behind
# Seconds for which feeds beyond that keep the node from being ready, and how fast they come back. A stranger that goes on to show new
# feeds could keep it from that for ever.
BEHIND_PATIENCE: Final = 120.0
PATIENCE_RATE: Final = 1 / 30
WRITE_MAX: Final = 5.0  # seconds that a write to the journal may take
LEAST_DISK: Final = 64 << 20  # bytes
CLOCK_MAX: Final = 5.0  # seconds; orders of nodes further ahead do not move ours
# Networks of neighbours, more than half of all, that must disagree before this clock is blamed. Addresses of one network are
# cheap to multiply. All neighbours on this machine are one network, so they never blame its clock, which is theirs too.
CLOCK_WITNESSES: Final = 3


class Readiness:
    """See the module's docstring. `clock` is the engine's: monotonic seconds."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        data_dir: Path,
        offsets: ClockOffsets,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._committer = committer
        self._data_dir = data_dir
        self._offsets = offsets
        self._clock = clock
        self._wall = wall
        self._behind_since: float | None = None
        self._patience = Tokens(BEHIND_PATIENCE)
        self._looked = clock()
        self._started_at = wall() - clock()

    def note(self) -> None:
        """Look at the feeds of which others are showing more; claims of more count for nothing. Call now and then."""
        now = self._clock()
        if not self._loading():
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        else:
            late = now - max(self._looked, self._behind_since + BEHIND_MAX)
            if late > 0:
                left = self._patience.refill(now, PATIENCE_RATE, BEHIND_PATIENCE)
                self._patience.level = max(0.0, left - late)
        self._looked = now

    @property
    def clock_drift(self) -> float:
        """Seconds by which the wall clock was moved since the start, beyond the passing of time."""
        return self._wall() - self._clock() - self._started_at

    @property
    def clock_offset(self) -> tuple[float, int] | None:
        """Median of the offsets to the clocks of the neighbours' networks in seconds, and their number."""
        return self._offsets.median(self._clock())

    def clock_warnings(self) -> list[str]:
        """Describe how this clock differs from those of half of the networks of neighbours, if it does; which of them is
        wrong may be unknown."""
        offsets = self._offsets.offsets(self._clock())
        ahead, behind = _far(offsets)
        differs = len(ahead) + len(behind)
        return (
            [self._clock_fault() or self._clock_text()] if 2 * differs >= len(offsets) > 0 else []
        )

    def view(self, not_listening: str) -> ReadyView:
        """`not_listening`: reason why the node accepts no peers or clients, "" if it does."""
        checks = [
            self._check("listening", not_listening, "peers and clients can connect"),
            self._check("current", self._stale(), "the data directory is the node's newest"),
            self._check("feeds", self._feeds(), "no feed is behind"),
            self._check("disk", self._disk(), "the journal can be written"),
            self._check("clock", self._clock_fault(), self._clock_text()),
        ]
        return ReadyView(ready=all(check.ok for check in checks), checks=checks)

    @staticmethod
    def _check(name: str, fault: str, fine: str) -> ReadyCheck:
        return ReadyCheck(name=name, ok=not fault, reason=fault or fine)

    def _stale(self) -> str:
        if self._engine.stale is not None:
            return self._engine.stale
        if self._engine.fenced:
            return "the node has just started and compares its feeds with its neighbours"
        return ""

    def _feeds(self) -> str:
        self.note()
        if self._behind_since is None:
            return ""
        behind = self._clock() - self._behind_since
        if behind <= BEHIND_MAX or not self._patience.level:
            return ""
        return f"{self._loading()} feeds have been behind for {behind:.0f} s"

    def _loading(self) -> int:
        return self._engine.feeds_loading(self._clock())

    def _disk(self) -> str:
        failed = self._committer.failed
        if failed is not None:
            return failed
        if self._committer.write_age > WRITE_MAX:
            return f"a write to the journal has taken {self._committer.write_age:.0f} s so far"
        try:
            free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            return f"the data directory cannot be read: {error.strerror or error}"
        if free < LEAST_DISK:
            return f"{free >> 20} MiB are free on the disk of the data directory"
        return self._committer.journal.trouble or ""

    def _clock_fault(self) -> str:
        drift = self.clock_drift
        if abs(drift) > CLOCK_MAX:
            way = "forward" if drift > 0 else "back"
            return f"the clock was set {way} by {_span(drift)} since the start: restart the node"
        offsets = self._offsets.offsets(self._clock())
        ahead, behind = _far(offsets)
        most = ahead if len(ahead) >= len(behind) else behind
        if len(most) >= CLOCK_WITNESSES and len(most) * 2 > len(offsets):
            found = median(most)
            way = "ahead of" if found > 0 else "behind"
            of = f"{len(most)}" if len(most) == len(offsets) else f"{len(most)} of {len(offsets)}"
            return f"the clock is {_span(found)} {way} those of {of} networks: synchronise it"
        return ""

    def _clock_text(self) -> str:
        """The comparison of a clock that is not to blame, or not alone."""
        offsets = self._offsets.offsets(self._clock())
        ahead, behind = _far(offsets)
        if not offsets:
            return "no neighbour to compare the clock with"
        if not ahead and not behind:
            return f"the clock agrees with {_networks(len(offsets))}"
        texts = [
            f"is {_span(median(found))} {way} {'that' if len(found) == 1 else 'those'} of {_networks(len(found))}"
            for found, way in ((ahead, "ahead of"), (behind, "behind"))
            if found
        ]
        agrees = len(offsets) - len(ahead) - len(behind)
        if agrees:
            texts.append(f"agrees with {agrees}")
        whose = (
            ""
            if agrees > len(ahead) + len(behind)
            else "; it is unknown which clock is wrong: compare with a time server"
        )
        return f"the clock {' and '.join(texts)}{whose}"


def _far(offsets: list[float]) -> tuple[list[float], list[float]]:
    """Return the offsets to neighbours that this clock is too far ahead of, and behind."""
    return [each for each in offsets if each > CLOCK_MAX], [
        each for each in offsets if each < -CLOCK_MAX
    ]


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"


def _span(seconds: float) -> str:
    """Return a time in the unit that is read at a glance."""
    span = abs(seconds)
    for unit, size, least in (("d", 86_400, 172_800), ("h", 3600, 3540), ("min", 60, 120)):
        if span >= least:
            return f"{span / size:.3g} {unit}"
    return f"{span:.1f} s"
