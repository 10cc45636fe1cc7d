"""Figures of a running node for its health view: durability, event loop, memory, disk.

The lag of the event loop is measured by a timer that the node has anyway: how much later than planned its
work ended. The commit's quantiles come from the bins that `/metrics` shows, so they are upper bounds of a bin.
"""

from __future__ import annotations

import resource
import shutil
import sys
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final

from node.service.committer import COMMIT_BOUNDS, Committer
from node.service.quantiles import quantile_ms
from node.views.node_views import DiagnosticsView

LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
LAG_WINDOW: Final = 60.0  # seconds that measurements of the lag are kept
LITTLE_DISK: Final = 1 << 30  # bytes free, below which the operator is warned
SLOW_COMMIT: Final = 250.0  # ms, of the 95th percentile
LONG_LAG: Final = 0.25  # seconds
LONG_WRITE: Final = 2.0  # seconds


class Diagnostics:
    """See the module's docstring."""

    def __init__(self, committer: Committer, data_dir: Path) -> None:
        self._journal = committer.journal
        self._committer = committer
        self._data_dir = data_dir
        # Arrays, not objects: each of those would keep alive a block of memory that orders left free.
        self._lags = array("d")
        self._lag_times = array("d")
        self.lag_seconds = 0.0
        self.lag_bins = [0] * (len(LAG_BOUNDS) + 1)

    def note_lag(self, lag: float, now: float) -> None:
        """Count a timer whose work ended `lag` seconds later than the timer was planned for."""
        self._lags.append(lag)
        self._lag_times.append(now)
        if self._lag_times[0] < now - 2 * LAG_WINDOW:
            old = bisect_left(self._lag_times, now - LAG_WINDOW)
            del self._lags[:old], self._lag_times[:old]
        self.lag_seconds += lag
        self.lag_bins[bisect_left(LAG_BOUNDS, lag)] += 1

    def view(self, *, orders: int, fills: int, uptime_s: float) -> DiagnosticsView:
        bins = self._committer.commit_bins
        free = shutil.disk_usage(self._data_dir).free
        times = self._lag_times
        recent = bisect_left(times, times[-1] - LAG_WINDOW) if times else 0
        lags = sorted(self._lags[recent:]) or [0.0]
        p95, lag = quantile_ms(COMMIT_BOUNDS, bins, 0.95), lags[-1]
        return DiagnosticsView(
            uptime_s=uptime_s,
            orders=orders,
            fills=fills,
            commits=self._committer.commits,
            commit_p50_ms=quantile_ms(COMMIT_BOUNDS, bins, 0.5),
            commit_p95_ms=p95,
            commit_p99_ms=quantile_ms(COMMIT_BOUNDS, bins, 0.99),
            loop_lag_p95_ms=round(lags[int((len(lags) - 1) * 0.95)] * 1000, 3),
            loop_lag_max_ms=round(lag * 1000, 3),
            memory_bytes=_memory(),
            disk_free_bytes=free,
            data_bytes=_size(self._data_dir),
            journal_lag_ms=round(self._committer.write_age * 1000, 3),
            archive_behind=self._journal.archive_behind,
            warnings=[
                *_warnings(free, p95, lag, self._journal.archive_behind),
                *_slow_write(self._committer.write_age),
            ],
        )


def _memory() -> int:
    """Return the resident bytes of this process, or their maximum where the present value is
    unavailable."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.stat().st_size
        except OSError:
            continue  # removed meanwhile: logs and drafts come and go
    return total


def _warnings(free: int, commit: float | None, lag: float, behind: int) -> list[str]:
    found = []
    if free < LITTLE_DISK:
        found.append(
            f"{free >> 20} MiB are free on the disk of the data directory: free some, or move it; a "
            "node that cannot write stops"
        )
    if commit is not None and commit >= SLOW_COMMIT:
        found.append(
            f"one in twenty commits takes {commit:g} ms or more: the disk is slow or busy; "
            "move the data directory to a faster one"
        )
    if lag >= LONG_LAG:
        found.append(
            f"the node was busy for {lag * 1000:.0f} ms at a time within the last minute: give it "
            "a processor of its own, or less to do"
        )
    if behind > 100_000:
        found.append(
            f"{behind} records wait for the archive: queries of old orders are slow until then"
        )
    return found


def _slow_write(age: float) -> list[str]:
    if age < LONG_WRITE:
        return []
    return [
        f"a write to the journal has taken {age:.0f} s so far: orders wait for it; look at the disk of "
        "the data directory"
    ]
