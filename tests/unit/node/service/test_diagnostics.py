"""Figures of a running node: quantiles of bins, lag, warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from node.service.committer import COMMIT_BOUNDS
from node.service.diagnostics import Diagnostics
from node.service.quantiles import quantile


@dataclass
class Parts:
    """A journal and a committer, as far as they are read."""

    archive_behind: int = 0
    commits: int = 0
    write_age: float = 0.0
    commit_bins: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_BOUNDS) + 1))

    @property
    def journal(self) -> Parts:
        return self


def diagnostics(parts: Parts, folder: Path) -> Diagnostics:
    return Diagnostics(cast(Any, parts), folder)


@pytest.mark.parametrize(
    ("bins", "part", "wanted"),
    [
        ([0] * 13, 0.5, None),
        ([1] + [0] * 12, 0.99, COMMIT_BOUNDS[0]),
        ([50, 50] + [0] * 11, 0.5, COMMIT_BOUNDS[0]),
        ([50, 50] + [0] * 11, 0.51, COMMIT_BOUNDS[1]),
        ([99] + [0] * 11 + [1], 0.99, COMMIT_BOUNDS[0]),
        ([98] + [0] * 11 + [2], 0.99, float("inf")),
    ],
)
def test_a_quantile_is_the_upper_bound_of_its_bin(
    bins: list[int], part: float, wanted: float | None
) -> None:
    assert quantile(COMMIT_BOUNDS, bins, part) == wanted


def test_lag_is_that_of_the_newest_minute(tmp_path: Path) -> None:
    found = diagnostics(Parts(), tmp_path)
    for second, lag in enumerate((5.0, *[0.001] * 60)):
        found.note_lag(lag, float(second))
    assert found.view(orders=0, fills=0, uptime_s=61).loop_lag_max_ms == 5000.0
    found.note_lag(0.001, 60.5)
    view = found.view(orders=1, fills=2, uptime_s=3.0)
    assert (view.loop_lag_p95_ms, view.loop_lag_max_ms) == (1.0, 1.0)
    assert view.warnings == []


def test_errors_come_with_a_remedy(tmp_path: Path) -> None:
    parts = Parts(archive_behind=200_000, commits=10)
    parts.commit_bins[-1] = 10
    found = diagnostics(parts, tmp_path)
    found.note_lag(0.4, 1.0)
    view = found.view(orders=0, fills=0, uptime_s=0.0)
    assert view.commit_p50_ms == COMMIT_BOUNDS[-1] * 2000
    slow, busy, archive = view.warnings
    assert "faster" in slow
    assert "400 ms" in busy
    assert "200000 records" in archive


def test_sizes_are_of_the_data_directory_and_this_process(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"x" * 234)
    view = diagnostics(Parts(), tmp_path).view(orders=0, fills=0, uptime_s=0.0)
    assert view.data_bytes == 1234
    assert view.memory_bytes > 10_000_000
    assert view.disk_free_bytes > 0


def test_a_write_that_does_not_end_is_reported(tmp_path: Path) -> None:
    parts = Parts(write_age=3.5)
    view = diagnostics(parts, tmp_path).view(orders=0, fills=0, uptime_s=0.0)
    assert view.journal_lag_ms == 3500
    assert "has taken 4 s so far" in view.warnings[0]
